//! The way of rules into the kernel: by the system's own tools, which take a whole set of rules at once.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use super::iptables::{self, Family};
use super::{Mode, Rules, nft};

/// The routing table of what TPROXY hands over (Istio's).
const ROUTES: &str = "133";

/// Which tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// `nft`
    Nft,
    /// `iptables-restore`
    Iptables,
}

impl Backend {
    /// The tool that is there.
    ///
    /// # Errors
    /// When there is none.
    pub fn find() -> Result<Self> {
        let is_there = |program: &str| {
            let path = std::env::var_os("PATH").unwrap_or_default();
            // Not everybody's path has what is for the administrator.
            let more = ["/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
            std::env::split_paths(&path).chain(more).any(|directory| directory.join(program).is_file())
        };
        if is_there("nft") {
            Ok(Self::Nft)
        } else if is_there("iptables-restore") {
            Ok(Self::Iptables)
        } else {
            bail!("neither nft nor iptables-restore is installed; install the package nftables or iptables")
        }
    }
}

/// Puts the rules in place of those that were there. In the network namespace of the calling thread.
///
/// # Errors
/// When the tool fails, with what it said.
pub fn apply(rules: &Rules, backend: Backend) -> Result<()> {
    remove(backend)?;
    match backend {
        Backend::Nft => feed("nft", &["-f", "-"], &nft::script(rules))?,
        Backend::Iptables => {
            feed("iptables-restore", &["--noflush", "-w"], &iptables::script(rules, Family::V4))?;
            if has_v6() {
                feed("ip6tables-restore", &["--noflush", "-w"], &iptables::script(rules, Family::V6))?;
            }
        }
    }
    if rules.mode == Mode::Tproxy {
        for (family, _) in families() {
            let mark = nft::MARK.to_string();
            run("ip", &[family, "rule", "add", "fwmark", &mark, "lookup", ROUTES])?;
            run("ip", &[family, "route", "add", "local", "default", "dev", "lo", "table", ROUTES])?;
        }
    }
    Ok(())
}

/// Removes the rules; none were there: nothing happens.
///
/// # Errors
/// When the tool fails.
pub fn remove(backend: Backend) -> Result<()> {
    match backend {
        Backend::Nft => feed("nft", &["-f", "-"], &nft::removal())?,
        Backend::Iptables => {
            for (_, tool) in families() {
                for (table, from, chain) in iptables::CHAINS {
                    // What is not there cannot be removed, which is fine. PREROUTING's jumps are for TCP only.
                    let protocol: &[&str] = if from == "PREROUTING" { &["-p", "tcp"] } else { &[] };
                    while quietly(tool, &[&["-w", "-t", table, "-D", from], protocol, &["-j", chain]].concat()) {}
                    quietly(tool, &["-w", "-t", table, "-F", chain]);
                    quietly(tool, &["-w", "-t", table, "-X", chain]);
                }
            }
        }
    }
    for (family, _) in families() {
        let mark = nft::MARK.to_string();
        while quietly("ip", &[family, "rule", "del", "fwmark", &mark, "lookup", ROUTES]) {}
        quietly("ip", &[family, "route", "flush", "table", ROUTES]);
    }
    Ok(())
}

fn families() -> Vec<(&'static str, &'static str)> {
    let mut families = vec![("-4", "iptables")];
    if has_v6() {
        families.push(("-6", "ip6tables"));
    }
    families
}

fn has_v6() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6").exists()
}

fn command(program: &str, args: &[&str]) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command.args(args).env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let done = command(program, args).stdin(Stdio::null()).output().with_context(|| program.to_owned())?;
    ensure!(done.status.success(), "{program} {}: {}", args.join(" "), said(&done.stderr));
    Ok(())
}

/// Whether it succeeds.
fn quietly(program: &str, args: &[&str]) -> bool {
    let done = command(program, args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    done.is_ok_and(|status| status.success())
}

fn feed(program: &str, args: &[&str], text: &str) -> Result<()> {
    let mut child = command(program, args);
    let child = child.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = child.spawn().with_context(|| program.to_owned())?;
    if let Some(mut input) = child.stdin.take() {
        // It may end before it has read everything; what it says then is the reason.
        let _ = input.write_all(text.as_bytes());
    }
    let done = child.wait_with_output().with_context(|| program.to_owned())?;
    ensure!(
        done.status.success(),
        "{program}: {}; is this the root of the network namespace (CAP_NET_ADMIN)?",
        said(&done.stderr)
    );
    Ok(())
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}
