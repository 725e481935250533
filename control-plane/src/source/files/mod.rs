//! A watched directory of YAML and JSON.
//!
//! Owns the watching: a thread of its own reads what changed and hands batches over. Must not know: what an object means.
//! Every `.yaml`, `.yml` and `.json` below the directory counts, but for `weft.yaml` and names that begin with a dot; symbolic links are
//! followed, so that a mounted ConfigMap works.

mod directory;
mod documents;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::SystemTime;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use weft_proto::document::MAX_BYTES;

pub use self::directory::Directory;
use super::{Batch, Source};

/// How many batches may wait for the reader; then the watching thread waits, and what changes meanwhile is one batch.
const WAITING: usize = 4;
/// How deeply directories may be nested: symbolic links may form a circle.
const MAX_DEPTH: usize = 32;

/// Why a directory cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// It cannot be listed.
    #[error("{path}: cannot be read: {error}; give an existing directory that can be read")]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It cannot be watched.
    #[error("{path}: cannot be watched: {error}; see fs.inotify.max_user_watches")]
    Unwatchable {
        /// The directory.
        path: PathBuf,
        /// Why.
        error: notify::Error,
    },
}

/// A watched directory.
pub struct Files {
    batches: tokio::sync::mpsc::Receiver<Batch>,
    /// Dropping it ends the thread.
    _watcher: RecommendedWatcher,
}

impl Files {
    /// Reads a directory once.
    ///
    /// # Errors
    /// A directory that cannot be listed. Files that cannot be read are problems of the batch.
    pub fn read_once(path: &Path) -> Result<Batch, FilesError> {
        let mut scan = Scan::new(path.to_owned());
        scan.run(&[path.to_owned()].into()).map_err(|error| FilesError::Unreadable { path: path.to_owned(), error })?;
        Ok(scan.directory.take_batch())
    }

    /// Watches a directory. What is there now is the first batch.
    ///
    /// # Errors
    /// A directory that cannot be listed or watched.
    pub fn watch(path: &Path) -> Result<Self, FilesError> {
        Self::watch_all(&[path.to_owned()])
    }

    /// Watches several directories and files. What is there now is the first batch.
    ///
    /// # Errors
    /// One that cannot be listed or watched.
    pub fn watch_all(paths: &[PathBuf]) -> Result<Self, FilesError> {
        let unwatchable = |path: &Path, error| FilesError::Unwatchable { path: path.to_owned(), error };
        let first = paths.first().map_or(Path::new("."), |path| path);
        let (changed, changes) = mpsc::channel();
        let everything = paths.to_vec();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // The thread ends after the watcher only.
            if let Some(paths) = told(event, &everything) {
                let _ = changed.send(paths);
            }
        })
        .map_err(|error| unwatchable(first, error))?;
        // Watched first, read then: what changes in between is read twice, not missed.
        for path in paths {
            // A file is replaced by renaming, which its directory sees.
            let (watched, mode) = match path.parent().filter(|_| !path.is_dir()) {
                Some(parent) if parent.as_os_str().is_empty() => (Path::new("."), RecursiveMode::NonRecursive),
                Some(parent) => (parent, RecursiveMode::NonRecursive),
                None => (path.as_path(), RecursiveMode::Recursive),
            };
            watcher.watch(watched, mode).map_err(|error| unwatchable(path, error))?;
        }
        let mut scan = Scan { roots: paths.to_vec(), ..Scan::new(first.to_owned()) };
        let named = paths.iter().cloned().collect();
        scan.run(&named).map_err(|error| FilesError::Unreadable { path: first.to_owned(), error })?;
        let (sender, batches) = tokio::sync::mpsc::channel(WAITING);
        let follow = move || follow(scan, &changes, &sender);
        let spawned = std::thread::Builder::new().name("files".to_owned()).spawn(follow);
        spawned.map_err(|error| unwatchable(first, notify::Error::io(error)))?;
        Ok(Self { batches, _watcher: watcher })
    }
}

impl Source for Files {
    async fn next(&mut self) -> Option<Batch> {
        self.batches.recv().await
    }
}

/// The paths that an event is about; none: there is nothing to read. Reading a directory is an event of it, too.
fn told(event: notify::Result<notify::Event>, everything: &[PathBuf]) -> Option<Vec<PathBuf>> {
    let paths = match event {
        Ok(event) if event.need_rescan() => everything.to_vec(),
        Ok(event) => event.paths.into_iter().filter(|path| is_complete(&event.kind, path)).collect(),
        Err(_) => everything.to_vec(),
    };
    (!paths.is_empty()).then_some(paths)
}

/// Whether a file may be read after this: not while it is being written, which ends with closing it.
fn is_complete(kind: &EventKind, path: &Path) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Remove(_) => true,
        EventKind::Modify(ModifyKind::Name(_) | ModifyKind::Metadata(_)) => true,
        // A new file is closed later; a directory or a link is not.
        EventKind::Create(_) => !std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file()),
        _ => false,
    }
}

/// Reads again after every change, until nobody listens or watches.
fn follow(mut scan: Scan, changes: &mpsc::Receiver<Vec<PathBuf>>, batches: &tokio::sync::mpsc::Sender<Batch>) {
    let mut batch = scan.directory.take_batch();
    let mut problems = batch.problems.clone();
    loop {
        if batches.blocking_send(batch).is_err() {
            return;
        }
        loop {
            let Ok(paths) = changes.recv() else { return };
            let mut named: BTreeSet<PathBuf> = paths.into_iter().collect();
            changes.try_iter().for_each(|paths| named.extend(paths));
            if let Err(error) = scan.run(&named) {
                // The directory itself is away, for the moment or for good: the last good state stays.
                tracing::warn!(paths = ?scan.roots, %error, "the directory cannot be read, what it held before stays");
            }
            batch = scan.directory.take_batch();
            if !batch.changes.is_empty() || batch.problems != problems {
                break;
            }
        }
        problems = batch.problems.clone();
    }
}

/// What tells whether a file has changed: its inode, size and time. Two files of one size may be of the same time.
type Stamp = (u64, u64, Option<SystemTime>);

/// A directory, and what has been read of it.
struct Scan {
    roots: Vec<PathBuf>,
    seen: BTreeMap<PathBuf, Stamp>,
    directory: Directory,
}

impl Scan {
    fn new(root: PathBuf) -> Self {
        Self { roots: vec![root], seen: BTreeMap::new(), directory: Directory::default() }
    }

    /// Reads the files that are `named`, and those in named directories that are new or changed.
    fn run(&mut self, named: &BTreeSet<PathBuf>) -> io::Result<()> {
        let mut found = BTreeMap::new();
        for root in &self.roots {
            if root.is_dir() {
                list(root, 0, &mut found)?;
            } else {
                add(root.clone(), &std::fs::metadata(root)?, &mut found);
            }
        }
        let directories: Vec<&Path> = named.iter().filter_map(|path| changed_directory(path)).collect();
        let mut seen = BTreeMap::new();
        for (path, stamp) in found {
            let before = self.seen.remove(&path);
            let in_changed = || directories.iter().any(|directory| path.starts_with(directory));
            if named.contains(&path) || (before != Some(stamp) && in_changed()) {
                self.read(&path);
            } else if before != Some(stamp) {
                // It is being written, and will be named when that is done.
                seen.extend(before.map(|before| (path, before)));
                continue;
            }
            seen.insert(path, stamp);
        }
        for path in std::mem::replace(&mut self.seen, seen).into_keys() {
            self.directory.remove(&path);
        }
        Ok(())
    }

    fn read(&mut self, path: &Path) {
        match read(path) {
            Ok(text) => self.directory.put(path, &text),
            // It went away since it was listed; the next event tells.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.directory.unreadable(path, &error.to_string()),
        }
    }
}

/// The directory below which anything may have changed, if this path changed. That of a ConfigMap's link `..data` is its
/// parent: all files there are links through it.
fn changed_directory(path: &Path) -> Option<&Path> {
    let is_link_to_all = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".."));
    if is_link_to_all {
        return path.parent();
    }
    (!std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file())).then_some(path)
}

fn list(directory: &Path, depth: usize, found: &mut BTreeMap<PathBuf, Stamp>) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Ok(());
    }
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
            continue;
        }
        // Follows links; what is gone by now is not there.
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        if metadata.is_dir() {
            match list(&path, depth + 1, found) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        } else if metadata.is_file() && is_ours(&path) {
            add(path, &metadata, found);
        }
    }
    Ok(())
}

fn add(path: PathBuf, metadata: &std::fs::Metadata, found: &mut BTreeMap<PathBuf, Stamp>) {
    found.insert(path, (metadata.ino(), metadata.len(), metadata.modified().ok()));
}

/// The file that says what runs for images: no objects are in it.
const COMMANDS: &str = "weft.yaml";

fn is_ours(path: &Path) -> bool {
    if path.file_name().is_some_and(|name| name == COMMANDS) {
        return false;
    }
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    matches!(extension.as_deref(), Some("yaml" | "yml" | "json"))
}

/// Reads a text, and no more than one byte past the limit.
fn read(path: &Path) -> io::Result<String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_BYTES {
        return Err(io::Error::other(format!("it is larger than {MAX_BYTES} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8"))
}
