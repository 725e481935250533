//! Network filters and listener filters by discovery: swapped inside the filter chains and listeners that want them.
//!
//! A new version is compiled for everybody who wants it before any of them uses it; connections that are open keep what they began
//! with. Runs on: workers read what is in force; the control thread registers and publishes.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::app::Parts;
use crate::config::{ConfigError, Extension, Source};
use crate::http::filter::ExtensionStats;

/// Something with discovered filters in it.
pub trait Wants {
    /// What is discovered.
    type Kind;
    /// Filters of another version, compiled.
    type Next;
    /// Envoy's word for such filters, in the names of stats.
    const STATS: &'static str;

    /// Its discovered filters: name and source.
    fn wants(&self) -> Vec<(String, Source)>;

    /// Its filters with this version of one; `None`: there is none.
    ///
    /// # Errors
    /// The version does not fit, or cannot be compiled.
    fn next(
        &self,
        from: &Source,
        name: &str,
        config: Option<&Extension<Self::Kind>>,
        parts: &Parts,
    ) -> Result<Self::Next, ConfigError>;

    /// Connections from now on get these.
    fn set(&self, next: Self::Next);
}

/// Who wants which filter.
pub struct Discovered<W: Wants>(Mutex<HashMap<(Source, String), Entry<W>>>);

struct Entry<W: Wants> {
    /// The version in force; absent: none came yet, or it was taken away.
    config: Option<Arc<Extension<W::Kind>>>,
    users: Vec<Weak<W>>,
    stats: Arc<ExtensionStats>,
}

impl<W: Wants> Default for Discovered<W> {
    fn default() -> Self {
        Discovered(Mutex::default())
    }
}

impl<W: Wants> Entry<W> {
    fn new(name: &str, parts: &Parts) -> Self {
        let stats = Arc::new(ExtensionStats::new(&parts.stats.root(), W::STATS, name));
        Entry { config: None, users: Vec::new(), stats }
    }
}

impl<W: Wants> Discovered<W> {
    /// From now on `user` gets its discovered filters, for as long as it lives; at once those that are there and fit.
    pub fn register(&self, user: &Arc<W>, parts: &Parts) {
        let wanted = user.wants();
        if wanted.is_empty() {
            return;
        }
        let mut all = self.0.lock();
        for (name, from) in wanted {
            let entry = all.entry((from.clone(), name.clone())).or_insert_with(|| Entry::new(&name, parts));
            entry.users.retain(|u| u.strong_count() > 0);
            if entry.users.iter().any(|u| u.as_ptr() == Arc::as_ptr(user)) {
                continue;
            }
            entry.users.push(Arc::downgrade(user));
            let Some(config) = &entry.config else { continue };
            match user.next(&from, &name, Some(config), parts) {
                Ok(next) => user.set(next),
                Err(error) => {
                    tracing::warn!(filter = name, %error, "what was discovered does not fit here");
                    entry.stats.conflict.inc();
                }
            }
        }
    }

    /// Counts of a name that somebody is about to want.
    pub fn stats(&self, from: &Source, name: &str, parts: &Parts) -> Arc<ExtensionStats> {
        let mut all = self.0.lock();
        let entry = all.entry((from.clone(), name.to_owned()));
        entry.or_insert_with(|| Entry::new(name, parts)).stats.clone()
    }

    /// Whether a configuration of this name is there.
    pub fn is_known(&self, from: &Source, name: &str) -> bool {
        self.0.lock().get(&(from.clone(), name.to_owned())).is_some_and(|e| e.config.is_some())
    }

    /// A new version, or none any more: everybody who wants it gets it.
    ///
    /// # Errors
    /// It does not fit one of them: all keep what they have.
    pub fn publish(
        &self,
        from: &Source,
        name: &str,
        config: Option<Extension<W::Kind>>,
        parts: &Parts,
    ) -> Result<(), ConfigError> {
        let mut all = self.0.lock();
        let Some(entry) = all.get_mut(&(from.clone(), name.to_owned())) else { return Ok(()) };
        let mut compiled = Vec::with_capacity(entry.users.len());
        for user in entry.users.iter().filter_map(Weak::upgrade) {
            compiled.push((user.next(from, name, config.as_ref(), parts)?, user));
        }
        for (next, user) in compiled {
            user.set(next);
        }
        entry.config = config.map(Arc::new);
        entry.stats.reload.inc();
        Ok(())
    }

    /// Takes out what nobody wants any more.
    pub fn take_unused(&self) -> Vec<(Source, String)> {
        let mut all = self.0.lock();
        let unused = all.extract_if(|_, e| e.users.iter().all(|u| u.strong_count() == 0));
        unused.map(|(key, _)| key).collect()
    }
}
