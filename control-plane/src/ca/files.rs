//! What the authority keeps: files that only their owner may read.
//!
//! Each is written beside its place and moved there, so that none is ever seen half-written.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::CaError;

/// The largest file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// The state directory of an authority.
#[derive(Clone, Debug)]
pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Opens it, or makes it.
    ///
    /// # Errors
    /// One that others may look into, or that is not ours.
    pub(super) fn open(path: &Path) -> Result<Self, CaError> {
        let failed = |reason: String| CaError::Directory { path: path.to_owned(), reason };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| failed(error.to_string()))?;
        let found = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?;
        check_owner(&found).map_err(failed)?;
        Ok(Self { path: path.to_owned() })
    }

    /// The path of a file in it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// What a file says that nobody else may have read; `None`: there is none, or nothing in it.
    ///
    /// # Errors
    /// One that cannot be read, or that others can.
    pub(super) fn read(&self, name: &str) -> Result<Option<String>, CaError> {
        let path = self.path(name);
        let failed = |reason: String| CaError::Directory { path: path.clone(), reason };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error.to_string())),
        };
        let found = file.metadata().map_err(|error| failed(error.to_string()))?;
        check_owner(&found).map_err(failed)?;
        let mut text = String::new();
        file.take(MAX_BYTES).read_to_string(&mut text).map_err(|error| failed(error.to_string()))?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    /// Writes a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<(), CaError> {
        self.put(name, text, 0o600, true)
    }

    /// Writes a file that everybody may read who gets there, and that is made anew at each start.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn write_public(&self, name: &str, text: &str) -> Result<(), CaError> {
        self.put(name, text, 0o644, false)
    }

    /// `kept`: a thread of its own sees to it that it is on the disk. Others may have much to write before it, for many
    /// seconds, and nobody here is to wait for them: a machine that fails meanwhile leaves an empty file, which counts as none.
    fn put(&self, name: &str, text: &str, mode: u32, kept: bool) -> Result<(), CaError> {
        let path = self.path(name);
        let failed = |error: std::io::Error| CaError::Directory { path: path.clone(), reason: error.to_string() };
        let fresh = self.path(&format!(".{name}.{:08x}", rand::random::<u32>()));
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(&fresh).map_err(failed)?;
        let written = file.write_all(text.as_bytes());
        if let Err(error) = written.and_then(|()| std::fs::rename(&fresh, &path)) {
            // What is left of it would never be used.
            let _ = std::fs::remove_file(&fresh);
            return Err(failed(error));
        }
        if kept {
            let sync = move || {
                if let Err(error) = file.sync_all() {
                    tracing::warn!(file = %path.display(), "it may be lost if the machine fails: {error}");
                }
            };
            if let Err(error) = std::thread::Builder::new().name("ca-sync".to_owned()).spawn(sync) {
                tracing::warn!("what the authority keeps may be lost if the machine fails: no thread: {error}");
            }
        }
        Ok(())
    }

    /// Takes a file away; whether there was one.
    ///
    /// # Errors
    /// When it cannot be taken away.
    pub(super) fn remove(&self, name: &str) -> Result<bool, CaError> {
        let path = self.path(name);
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(CaError::Directory { path, reason: error.to_string() }),
        }
    }
}

fn check_owner(found: &std::fs::Metadata) -> Result<(), String> {
    let mode = found.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "its mode is {mode:o}, so others may read the keys of the mesh; run chmod go= on it, or choose another place"
        ));
    }
    let own = nix::unistd::geteuid().as_raw();
    if found.uid() != own {
        return Err(format!("it belongs to user {}, this is user {own}; choose another place", found.uid()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("ca");
        let directory = Directory::open(&place).unwrap();
        assert_eq!(directory.read("key").unwrap(), None);
        directory.write("key", "secret").unwrap();
        directory.write("key", "secret 2").unwrap();
        assert_eq!(directory.read("key").unwrap().as_deref(), Some("secret 2"));
        assert_eq!(std::fs::metadata(place.join("key")).unwrap().mode() & 0o777, 0o600);
        std::fs::set_permissions(place.join("key"), std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = directory.read("key").unwrap_err().to_string();
        assert!(error.contains("mode is 640") && !error.contains("secret"), "{error}");
        std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Directory::open(&place).unwrap_err().to_string().contains("mode is 755"));
    }
}
