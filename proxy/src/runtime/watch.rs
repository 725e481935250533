//! Reading disk layers again when their link is swapped.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::Runtime;
use crate::config::RuntimeLayerKind;

/// Watches disk layers for as long as it lives.
pub struct Watch {
    _watcher: RecommendedWatcher,
}

impl Runtime {
    /// Starts watching the disk layers' `symlink_root`s: each is replaced as a whole, by a rename. `None`: there are no disk
    /// layers. Reloading happens on the watcher's own thread.
    ///
    /// # Errors
    /// The watcher's own: as a rule the limit of inotify instances.
    pub fn watch(self: &Arc<Self>) -> notify::Result<Option<Watch>> {
        let roots: Vec<PathBuf> = self.layers.iter().filter_map(|layer| root(&layer.kind)).collect();
        if roots.is_empty() {
            return Ok(None);
        }
        let (runtime, watched) = (Arc::downgrade(self), roots.clone());
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else { return };
            let replaced = event.kind.is_create() || event.kind.is_modify();
            if replaced
                && event.paths.iter().any(|path| watched.contains(path))
                && let Some(runtime) = runtime.upgrade()
            {
                runtime.reload();
            }
        })?;
        for root in roots {
            // The link's own directory: what the link points at does not see it go.
            match watcher.watch(root.parent().unwrap_or(Path::new("/")), RecursiveMode::NonRecursive) {
                Ok(()) => {}
                Err(error) => tracing::warn!("runtime directory {} is not watched: {error}", root.display()),
            }
        }
        Ok(Some(Watch { _watcher: watcher }))
    }
}

fn root(kind: &RuntimeLayerKind) -> Option<PathBuf> {
    match kind {
        RuntimeLayerKind::Disk { symlink_root, .. } => Some(PathBuf::from(symlink_root)),
        _ => None,
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}
