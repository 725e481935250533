//! Network namespaces without names.
//!
//! Owns a namespace by a descriptor of it: it is gone with the last descriptor and the last process in it, so that nothing is left
//! behind however this process ends.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use nix::sched::{CloneFlags, setns, unshare};

/// The namespace of the thread that looks.
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    /// A new one, with nothing in it but a loopback device that is down.
    ///
    /// # Errors
    /// Without the right to make one (`CAP_SYS_ADMIN` in the user namespace).
    pub fn new() -> io::Result<Self> {
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open(OWN).map(Self)
        })?
    }

    /// Does something in it, on a thread of its own; sockets that are made there stay in it.
    ///
    /// # Errors
    /// When no thread can be started, or it may not enter.
    pub fn run<T: Send>(&self, what: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_thread(|| {
            setns(&self.0, CloneFlags::CLONE_NEWNET)?;
            Ok(what())
        })?
    }

    /// A path to it, for other processes of the same user while this one lives.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// The descriptor, for the kernel to move a device here.
    #[must_use]
    pub fn fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

fn on_thread<T: Send>(what: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let spawned = std::thread::Builder::new().name("namespace".to_owned()).spawn_scoped(scope, what)?;
        spawned.join().map_err(|_| io::Error::other("the thread in the namespace panicked"))
    })
}
