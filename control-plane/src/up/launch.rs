//! `weft launch`: enters a pod and becomes its process.
//!
//! Owns the steps between fork and exec that need no more than system calls. It is a command of its own, so that nothing has to
//! happen between fork and exec in a process with threads.

use std::ffi::CString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Pid, Uid, execvp, fexecve, getppid, setgid, setgroups, setuid};

/// What a process of a pod starts with.
#[derive(Debug, Args)]
pub struct Launch {
    /// The network namespace, as a path
    #[arg(long)]
    netns: PathBuf,
    /// The process whose end ends this one
    #[arg(long)]
    parent: i32,
    /// Files to see in the place of others: `FILE=PLACE`
    #[arg(long = "over", value_name = "FILE=PLACE", value_parser = pair)]
    over: Vec<(PathBuf, String)>,
    /// The user to be
    #[arg(long)]
    uid: Option<u32>,
    /// Program and arguments; `weft` is this program
    #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Launch {
    /// Becomes the program; returns only what keeps it from that.
    ///
    /// # Errors
    /// A namespace that cannot be entered, a program that cannot be started.
    pub fn run(&self) -> Result<std::convert::Infallible> {
        let Some(name) = self.command.first() else { bail!("no program") };
        // Opened before this becomes somebody who perhaps may not reach it.
        let own = (name == "weft").then(|| File::open("/proc/self/exe")).transpose().context("this program")?;
        go_in(&self.netns, &self.over)?;
        if let Some(uid) = self.uid {
            setgroups(&[]).context("no further groups")?;
            setgid(Gid::from_raw(uid)).context("the group")?;
            setuid(Uid::from_raw(uid)).context("the user")?;
        }
        // After the change of user, which takes it back.
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("to end with its parent")?;
        if getppid() != Pid::from_raw(self.parent) {
            bail!("its parent has ended");
        }
        let argv = words(&self.command)?;
        match own {
            Some(file) => {
                let variable = |(key, value): (std::ffi::OsString, std::ffi::OsString)| {
                    CString::new([key.as_bytes(), b"=", value.as_bytes()].concat())
                };
                let env = std::env::vars_os().map(variable).collect::<Result<Vec<_>, _>>()?;
                Ok(fexecve(&file, &argv, &env).context("this program")?)
            }
            None => Ok(execvp(&argv[0], &argv).with_context(|| name.clone())?),
        }
    }

    /// Becomes a command in a pod, as the user who asks.
    ///
    /// # Errors
    /// As those of [`Launch::run`].
    pub fn enter(netns: &Path, over: &[(PathBuf, String)], command: &[String]) -> Result<std::convert::Infallible> {
        go_in(netns, over)?;
        let argv = words(command)?;
        let name = argv.first().context("no program")?;
        execvp(name, &argv).with_context(|| command[0].clone())
    }
}

/// The parts of `FILE=PLACE`.
fn pair(text: &str) -> Result<(PathBuf, String), String> {
    let (file, place) = text.split_once('=').ok_or_else(|| format!("{text:?} is not of the form FILE=PLACE"))?;
    Ok((file.into(), place.to_owned()))
}

fn words(all: &[String]) -> Result<Vec<CString>> {
    all.iter().map(|word| CString::new(word.as_str()).context("a command with a zero byte")).collect()
}

/// Enters a network namespace, and sees files in the place of others.
fn go_in(netns: &Path, over: &[(PathBuf, String)]) -> Result<()> {
    let namespace = File::open(netns).with_context(|| netns.display().to_string())?;
    setns(namespace, CloneFlags::CLONE_NEWNET).context("entering the pod's network")?;
    if !over.is_empty() {
        unshare(CloneFlags::CLONE_NEWNS).context("a view of files of its own")?;
        let none = None::<&Path>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("a view of files of its own")?;
        for (file, place) in over {
            let what = || format!("{} in the place of {place}", file.display());
            mount(Some(file), Path::new(place), none, MsFlags::MS_BIND, none).with_context(what)?;
        }
    }
    Ok(())
}
