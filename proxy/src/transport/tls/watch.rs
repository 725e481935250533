//! Watching directories for files moved into them.
//!
//! Only renames count, as in Envoy: a file written in place is seen half-written. Kubernetes swaps a `..data` link, which is a
//! rename too. Runs on: the control thread; the kernel's events come by a thread of the `notify` crate.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::event::{EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tracing::warn;

use super::secrets::SecretProvider;

/// Watches all that the contexts of `secrets` are built from, until dropped.
///
/// # Errors
/// The system gives no watcher.
pub async fn watch_secrets(secrets: Arc<SecretProvider>) -> notify::Result<()> {
    let (tx, mut moved) = mpsc::unbounded_channel();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        for path in event.map(arrivals).unwrap_or_default() {
            let _ = tx.send(path);
        }
    })?;
    let mut directories = secrets.directories();
    let mut watched = HashSet::new();
    loop {
        tokio::select! {
            // Directories first: a file may already have been moved into one that is about to be watched.
            biased;
            Some(dir) = directories.recv() => {
                if !watched.contains(&dir) && add(&mut watcher, &dir) {
                    // What came between the build and the watch has left no event.
                    secrets.look_again(&dir);
                    watched.insert(dir);
                }
            }
            Some(path) = moved.recv() => {
                if let (Some(dir), Some(name)) = (path.parent(), path.file_name()) {
                    secrets.moved(dir, name);
                }
            }
            // Another watcher has taken over.
            else => return Ok(()),
        }
    }
}

fn add(watcher: &mut RecommendedWatcher, dir: &Path) -> bool {
    match watcher.watch(dir, RecursiveMode::NonRecursive) {
        Ok(()) => true,
        Err(error) => {
            warn!(directory = %dir.display(), %error, "directory cannot be watched");
            false
        }
    }
}

fn arrivals(event: notify::Event) -> Vec<PathBuf> {
    match event.kind {
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => event.paths,
        _ => Vec::new(),
    }
}
