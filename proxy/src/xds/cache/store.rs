//! The cache on disk: one file, readable by its owner alone, replaced as a whole.
//!
//! It holds secrets. So the directory and the file must belong to this user and be closed to all others, and no link is followed to
//! either. A crash leaves the file before or the file after. Runs on: a blocking thread; the control thread at start.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use parking_lot::Mutex;

use super::file::{self, Decoded, MAX_BYTES, Owner, Section};

/// The file within the directory.
const NAME: &str = "last-good.xds";
/// Where its next version is written.
const NEXT: &str = "last-good.xds.next";

/// Where a cache is kept.
pub(super) struct Store {
    directory: PathBuf,
    owner: Owner,
    /// What was written last, and the number of the snapshot it is of. Held while writing.
    last: Mutex<(u64, Option<Bytes>)>,
}

/// What became of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// It is on disk.
    Yes,
    /// Nothing changed since the last one, or a later one is there.
    Unchanged,
    /// It is larger than a cache may be, by these many bytes in all.
    TooLarge(usize),
}

impl Store {
    /// Opens a directory, which is made if it is missing.
    ///
    /// # Errors
    /// It cannot be made, is no directory, belongs to somebody else, or others may look into it.
    pub(super) fn open(directory: &Path, owner: Owner) -> Result<Store, String> {
        let at = |e: &dyn std::fmt::Display| format!("{}: {e}", directory.display());
        match DirBuilder::new().mode(0o700).create(directory) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(at(&e)),
        }
        let meta = std::fs::symlink_metadata(directory).map_err(|e| at(&e))?;
        if !meta.is_dir() {
            return Err(at(&"it is no directory"));
        }
        private(&meta).map_err(|e| at(&e))?;
        Ok(Store { directory: directory.to_owned(), owner, last: Mutex::new((0, None)) })
    }

    /// What was kept; `None`: nothing was.
    ///
    /// # Errors
    /// Why it is not used.
    pub(super) fn read(&self) -> Result<Option<Decoded>, String> {
        let path = self.directory.join(NAME);
        let at = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(at(&e)),
        };
        let meta = file.metadata().map_err(|e| at(&e))?;
        if !meta.is_file() {
            return Err(at(&"it is no file"));
        }
        private(&meta).map_err(|e| at(&e))?;
        let mut bytes = Vec::new();
        file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(|e| at(&e))?;
        if bytes.len() > MAX_BYTES {
            return Err(at(&format!("it is larger than {MAX_BYTES} bytes")));
        }
        file::decode(&self.owner, &bytes).map(Some).map_err(|e| at(&e))
    }

    /// Replaces what is kept by a snapshot. `number` grows from one snapshot to the next.
    ///
    /// # Errors
    /// Why it could not be written; what was there stays.
    pub(super) fn write(&self, number: u64, sections: Vec<Section>) -> Result<Written, String> {
        let mut last = self.last.lock();
        if last.0 >= number {
            return Ok(Written::Unchanged);
        }
        last.0 = number;
        let content = file::content(sections);
        if last.1.as_ref() == Some(&digest(&content)) {
            return Ok(Written::Unchanged);
        }
        let fingerprint = digest(&content);
        let bytes = file::encode(&self.owner, super::milliseconds(SystemTime::now()), content);
        if bytes.len() > MAX_BYTES {
            return Ok(Written::TooLarge(bytes.len()));
        }
        self.replace(&bytes).map_err(|e| format!("{}: {e}", self.directory.join(NAME).display()))?;
        last.1 = Some(fingerprint);
        Ok(Written::Yes)
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let next = self.directory.join(NEXT);
        // Left by a crash.
        match std::fs::remove_file(&next) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let written = options.open(&next).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        if let Err(e) = written.and_then(|()| std::fs::rename(&next, self.directory.join(NAME))) {
            // Half a file is of no use, and the next attempt removes it if this cannot.
            let _ = std::fs::remove_file(&next);
            return Err(e);
        }
        // Without it the name may be lost in a crash, and the file before is there again.
        File::open(&self.directory)?.sync_all()
    }
}

fn digest(content: &[u8]) -> Bytes {
    Bytes::copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, content).as_ref())
}

/// # Errors
/// Others own it, or may look into it.
fn private(meta: &std::fs::Metadata) -> Result<(), String> {
    let user = nix::unistd::geteuid().as_raw();
    if meta.uid() != user {
        return Err(format!("it belongs to user {}, and this process runs as {user}", meta.uid()));
    }
    let mode = meta.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!("its mode is {mode:04o}: secrets are kept in it, so that others must have no access"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn owner() -> Owner {
        Owner { id: "n".into(), cluster: "c".into() }
    }

    fn section(version: &str) -> Vec<Section> {
        vec![Section { source: "ads".into(), version: version.into(), ..Section::default() }]
    }

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_file_is_replaced_and_nobody_elses() {
        let room = tempfile::tempdir().unwrap();
        let directory = room.path().join("cache");
        let store = Store::open(&directory, owner()).unwrap();
        assert_eq!(store.read(), Ok(None));
        std::fs::write(directory.join(NEXT), "left by a crash").unwrap();
        assert_eq!(store.write(1, section("1")), Ok(Written::Yes));
        assert_eq!(store.write(3, section("1")), Ok(Written::Unchanged));
        assert_eq!(store.write(2, section("0")), Ok(Written::Unchanged), "an older snapshot");
        assert_eq!(store.write(4, section("2")), Ok(Written::Yes));
        assert_eq!((mode(&directory), mode(&directory.join(NAME))), (0o700, 0o600));
        assert!(!directory.join(NEXT).exists());
        let again = Store::open(&directory, owner()).unwrap();
        assert_eq!(again.read().unwrap().unwrap().sections, section("2"));
    }

    #[test]
    fn what_others_may_read_is_refused() {
        let room = tempfile::tempdir().unwrap();
        let open = room.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, PermissionsExt::from_mode(0o755)).unwrap();
        let error = |path: &Path| Store::open(path, owner()).err().unwrap();
        assert!(error(&open).contains("0755"), "{}", error(&open));
        let link = room.path().join("link");
        std::os::unix::fs::symlink(room.path(), &link).unwrap();
        assert!(error(&link).contains("no directory"));
        assert!(error(&room.path().join("no/such")).contains("No such file"));

        let store = Store::open(&room.path().join("own"), owner()).unwrap();
        store.write(1, section("1")).unwrap();
        let file = room.path().join("own").join(NAME);
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
        assert!(store.read().unwrap_err().contains("0640"));
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &file).unwrap();
        assert!(store.read().is_err(), "no link is followed");
        std::fs::remove_file(&file).unwrap();
        nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(store.read().unwrap_err().contains("no file"), "and nobody waits for a pipe");
    }
}
