//! What a running mesh leaves for other commands: a directory with a lock, a socket, logs.
//!
//! Owns the directory, which only its user may list. It goes with the mesh; what a crash left is cleared by the next start.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};

/// A mesh's directory, held by this process.
pub struct State {
    directory: PathBuf,
    _lock: Flock<File>,
}

impl State {
    /// Takes the directory of the mesh of this name.
    ///
    /// # Errors
    /// When a mesh of this name runs, or the directory cannot be made.
    pub fn take(name: &str) -> Result<Self> {
        let directory = directory(name)?;
        // Pods' processes are other users, and find their own files in it.
        let made = fs::DirBuilder::new().recursive(true).mode(0o711).create(&directory);
        made.with_context(|| format!("{}: cannot be made", directory.display()))?;
        // Whatever the umask is, and whoever made them before.
        for of in [directory.parent(), Some(&*directory)].into_iter().flatten() {
            fs::set_permissions(of, fs::Permissions::from_mode(0o711)).with_context(|| of.display().to_string())?;
        }
        let lock =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(directory.join("lock"))?;
        let Ok(lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else {
            bail!(
                "a mesh called {name} runs already; end it with `weft down`, or give this one another name with --mesh"
            );
        };
        let state = Self { directory, _lock: lock };
        state.clear()?;
        fs::DirBuilder::new().mode(0o700).create(state.logs())?;
        for (directory, mode) in [(state.etc(""), 0o755), (state.tokens(), 0o711)] {
            fs::create_dir(&directory)?;
            fs::set_permissions(&directory, fs::Permissions::from_mode(mode))?;
        }
        Ok(state)
    }

    fn clear(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if entry.file_name() == "lock" {
                continue;
            }
            if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
        }
        Ok(())
    }

    /// Where logs are.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        logs(&self.directory)
    }

    /// Where the authority keeps its keys.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.directory.join("ca")
    }

    /// Where pods' tokens are, each for its own proxy to read.
    #[must_use]
    pub fn tokens(&self) -> PathBuf {
        self.directory.join("tokens")
    }

    /// Where the socket is.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        socket(&self.directory)
    }

    /// A file that pods see in the place of one of `/etc`.
    #[must_use]
    pub fn etc(&self, name: &str) -> PathBuf {
        self.directory.join("etc").join(name)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // The lock goes last: who waits for it finds nothing.
        let _ = self.clear();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Writes a file that every process of a pod may read.
///
/// # Errors
/// When it cannot be written.
pub fn write_for_all(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}

/// The directory of the mesh of this name.
///
/// # Errors
/// A name that is none.
pub fn directory(name: &str) -> Result<PathBuf> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || !name.chars().all(is_name) {
        bail!("--mesh {name:?}: use letters, digits, - and _");
    }
    let base = if nix::unistd::geteuid().is_root() {
        PathBuf::from("/run/weft")
    } else if let Some(own) = std::env::var_os("XDG_RUNTIME_DIR") {
        PathBuf::from(own).join("weft")
    } else {
        std::env::temp_dir().join(format!("weft-{}", nix::unistd::getuid()))
    };
    Ok(base.join(name))
}

/// Where the socket of a mesh is.
#[must_use]
pub fn socket(directory: &Path) -> PathBuf {
    directory.join("socket")
}

/// Where the logs of a mesh are.
#[must_use]
pub fn logs(directory: &Path) -> PathBuf {
    directory.join("logs")
}
