//! Resources from files: read when they are first wanted, and again when a file is moved into place.
//!
//! Only renames count, as in Envoy: a file written in place would be seen half-written. Runs on: the control thread, and blocks for
//! reading; the kernel's events come by a thread of the `notify` crate.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use notify::event::{EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use weft_proto::pb::envoy::service::discovery::v3::DiscoveryResponse;

use crate::config::{ConfigError, Source, from_file};

/// Watches directories.
pub(super) struct Files {
    watcher: Option<RecommendedWatcher>,
    watched: HashSet<PathBuf>,
    moved: mpsc::UnboundedReceiver<PathBuf>,
}

impl Files {
    /// Watches nothing yet.
    pub(super) fn new() -> Self {
        let (tell, moved) = mpsc::unbounded_channel();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if let Ok(notify::Event { kind: EventKind::Modify(ModifyKind::Name(RenameMode::To)), paths, .. }) = event {
                // Nobody listens once discovery has ended.
                paths.into_iter().for_each(|path| drop(tell.send(path)));
            }
        });
        let watcher = watcher.inspect_err(|error| tracing::error!(%error, "files cannot be watched")).ok();
        Files { watcher, watched: HashSet::new(), moved }
    }

    /// Reads a file that is watched from now on.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(super) fn read(&mut self, source: &Source) -> Result<DiscoveryResponse, String> {
        let Source::File { path, .. } = source else { return Ok(DiscoveryResponse::default()) };
        // First watched, then read: no change is missed between the two.
        if let Some(directory) = directory(source)
            && !self.watched.contains(&directory)
            && let Some(watcher) = &mut self.watcher
        {
            match watcher.watch(&directory, RecursiveMode::NonRecursive) {
                Ok(()) => drop(self.watched.insert(directory)),
                Err(error) => tracing::warn!(directory = %directory.display(), %error, "a directory cannot be watched"),
            }
        }
        from_file::resources(Path::new(path)).map_err(|problems| problems.to_string().replace('\n', "; "))
    }

    /// The next path that something was moved to.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn next(&mut self) -> PathBuf {
        match self.moved.recv().await {
            Some(path) => path,
            None => std::future::pending().await,
        }
    }
}

/// Where change is to be looked for.
fn directory(source: &Source) -> Option<PathBuf> {
    match source {
        Source::File { watched_directory: Some(directory), .. } => Some(directory.into()),
        Source::File { path, .. } => Some(Path::new(path).parent()?.to_owned()),
        Source::Ads | Source::Api(_) => None,
    }
}

/// Whether the arrival of `path` is a change of the source.
pub(super) fn covers(source: &Source, path: &Path) -> bool {
    let Source::File { path: own, watched_directory } = source else { return false };
    match watched_directory {
        Some(directory) => path.parent() == Some(Path::new(directory)),
        None => path == Path::new(own),
    }
}

/// Whether a source can be read at all.
///
/// # Errors
/// There is no such file. Envoy's words.
pub(super) fn check(source: &Source) -> Result<(), ConfigError> {
    match source {
        Source::File { path, .. } if !Path::new(path).exists() => {
            let reason = format!("paths must refer to an existing path in the system: '{path}' does not exist");
            Err(ConfigError::at("", reason))
        }
        Source::File { .. } | Source::Ads | Source::Api(_) => Ok(()),
    }
}
