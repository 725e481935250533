//! Secrets by name: static ones, and those that files deliver and replace.
//!
//! Keeps the latest good version of each secret, and knows which TLS contexts are built from what: when a file is moved into
//! place, the contexts concerned are built anew and swapped. A version that cannot be used leaves the one before in service.
//! Runs on: the control thread; reads files. Secrets never appear in messages.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::context::ContextCertificates;
use super::inputs::Watch;
use crate::config::{ConfigError, SdsConfig, SdsSource, Secret, Source};
use crate::stats::{Counter, Scope};

/// Reads the secrets of a file: a `DiscoveryResponse` or a list of resources.
pub type SecretLoader = Box<dyn Fn(&Path) -> Result<Vec<Secret>, ConfigError> + Send + Sync>;

/// A context that is built of secrets and files.
pub(super) trait Rotate: Send + Sync {
    /// Builds it anew; whether it changed.
    ///
    /// # Errors
    /// What was read is unusable. The context is as before.
    fn rotate(&self, secrets: &SecretProvider) -> Result<bool, ConfigError>;

    /// Where its material may change.
    fn watches(&self) -> Vec<Watch>;

    /// Whether it is built of this secret of a management server.
    fn uses(&self, from: &Source, name: &str) -> bool;

    /// What `/certs` shows of it.
    fn certificates(&self, now: SystemTime) -> ContextCertificates;
}

/// All secrets of the process.
pub struct SecretProvider {
    statics: HashMap<String, Arc<Secret>>,
    load: SecretLoader,
    scope: Scope,
    files: Mutex<HashMap<PathBuf, File>>,
    /// Those that management servers deliver.
    discovered: Mutex<HashMap<(Source, String), Arc<Secret>>>,
    contexts: Mutex<Vec<Weak<dyn Rotate>>>,
    /// Tells the watcher of further directories, once there is one.
    directories: Mutex<Option<mpsc::UnboundedSender<PathBuf>>>,
}

/// A file that delivers secrets, as it was last read.
struct File {
    watch: Option<Watch>,
    secrets: HashMap<String, Arc<Secret>>,
    /// By secret name, for those that were asked for.
    stats: HashMap<String, SdsStats>,
}

/// `sds.<name>.*`
struct SdsStats {
    attempt: Counter,
    success: Counter,
    failure: Counter,
    rejected: Counter,
    rotation_failed: Counter,
}

impl SdsStats {
    fn new(scope: &Scope, name: &str) -> Self {
        let scope = scope.scope("sds").scope(name);
        SdsStats {
            attempt: scope.counter("update_attempt"),
            success: scope.counter("update_success"),
            failure: scope.counter("update_failure"),
            rejected: scope.counter("update_rejected"),
            rotation_failed: scope.counter("key_rotation_failed"),
        }
    }
}

impl SecretProvider {
    /// A provider of the static secrets and, by `load`, of files. `scope` is the root of stat names.
    pub fn new(statics: Vec<Secret>, load: SecretLoader, scope: Scope) -> Arc<Self> {
        Arc::new(SecretProvider {
            statics: statics.into_iter().map(|s| (s.name.clone(), Arc::new(s))).collect(),
            load,
            scope,
            files: Mutex::default(),
            discovered: Mutex::default(),
            contexts: Mutex::default(),
            directories: Mutex::default(),
        })
    }

    /// The present version of a secret; `None`: its file has not delivered it yet.
    ///
    /// # Errors
    /// There is no static secret of that name, or no such file.
    pub fn secret(&self, source: &SdsSource) -> Result<Option<Arc<Secret>>, ConfigError> {
        match &source.config {
            SdsConfig::Static => self
                .statics
                .get(&source.name)
                .cloned()
                .map(Some)
                .ok_or_else(|| ConfigError::at("", format!("Unknown static secret: {}", source.name))),
            SdsConfig::Discovered(from) => Ok(self.discovered(&from.from, &source.name)),
            SdsConfig::File { path, .. } => {
                if !Path::new(path).exists() {
                    let reason = format!("paths must refer to an existing path in the system: '{path}' does not exist");
                    return Err(ConfigError::at("", reason));
                }
                Ok(self.delivered(Path::new(path), source))
            }
        }
    }

    /// A secret that a management server has delivered.
    pub fn discovered(&self, from: &Source, name: &str) -> Option<Arc<Secret>> {
        self.discovered.lock().get(&(from.clone(), name.to_owned())).cloned()
    }

    /// A management server has delivered a secret: what is built of it is built anew.
    ///
    /// # Errors
    /// A context cannot be built of it. Everything is as before.
    pub fn deliver(&self, from: &Source, secret: Secret) -> Result<(), ConfigError> {
        let key = (from.clone(), secret.name.clone());
        let before = self.discovered.lock().insert(key.clone(), Arc::new(secret));
        let concerned: Vec<_> = self.live().into_iter().filter(|c| c.uses(from, &key.1)).collect();
        let mut failed = None;
        for context in &concerned {
            match context.rotate(self) {
                Ok(true) => self.announce(&context.watches()),
                Ok(false) => {}
                Err(e) => failed = Some(e),
            }
        }
        let Some(error) = failed else { return Ok(()) };
        match before {
            Some(before) => self.discovered.lock().insert(key, before),
            None => self.discovered.lock().remove(&key),
        };
        // Those that could use it go back; they were good with what was there before.
        concerned.iter().for_each(|context| drop(context.rotate(self)));
        Err(error)
    }

    fn delivered(&self, path: &Path, source: &SdsSource) -> Option<Arc<Secret>> {
        let mut files = self.files.lock();
        let known = files.contains_key(path);
        let file = files.entry(path.to_owned()).or_insert_with(|| File {
            watch: watch_of(source),
            secrets: HashMap::new(),
            stats: HashMap::new(),
        });
        file.stats.entry(source.name.clone()).or_insert_with(|| SdsStats::new(&self.scope, &source.name));
        if !known {
            self.read(path, file);
        }
        file.secrets.get(&source.name).cloned()
    }

    /// Reads a file of secrets; whether it could be. What cannot be read leaves all as it was.
    fn read(&self, path: &Path, file: &mut File) -> bool {
        file.stats.values().for_each(|s| s.attempt.inc());
        let result = (self.load)(path);
        let read = result.is_ok();
        match result {
            Ok(list) => {
                for (name, stats) in &file.stats {
                    // Envoy refuses a file without the secret asked for; what was there stays.
                    let found = list.iter().any(|s| s.name == *name);
                    if found { stats.success.inc() } else { stats.rejected.inc() }
                }
                file.secrets.extend(list.into_iter().map(|s| (s.name.clone(), Arc::new(s))));
            }
            Err(e) => {
                warn!(path = %path.display(), error = %e, "secrets not updated");
                file.stats.values().for_each(|s| s.failure.inc());
            }
        }
        read
    }

    /// From now on `context` is built anew when its material changes, for as long as it lives.
    pub(super) fn register(&self, context: Weak<dyn Rotate>, watches: &[Watch]) {
        let mut contexts = self.contexts.lock();
        contexts.retain(|c| c.strong_count() > 0);
        contexts.push(context);
        drop(contexts);
        self.announce(watches);
    }

    /// Makes the watcher look at these directories too.
    pub(super) fn announce(&self, watches: &[Watch]) {
        if let Some(directories) = &*self.directories.lock() {
            for watch in watches {
                // The watcher is gone when the process ends.
                let _ = directories.send(watch.dir.clone());
            }
        }
    }

    /// The directories to watch, and a channel of those that come later. There is one watcher: a second call cuts off the
    /// first.
    pub(super) fn directories(&self) -> mpsc::UnboundedReceiver<PathBuf> {
        let (tx, rx) = mpsc::unbounded_channel();
        for watch in self.live().iter().flat_map(|c| c.watches()) {
            let _ = tx.send(watch.dir);
        }
        *self.directories.lock() = Some(tx);
        rx
    }

    fn live(&self) -> Vec<Arc<dyn Rotate>> {
        self.contexts.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// A file `name` was moved into `dir`: reads what depends on it and swaps the contexts that changed.
    pub fn moved(&self, dir: &Path, name: &OsStr) {
        self.reload(dir, |watch| watch.covers(dir, name));
    }

    /// Anything may have been moved into `dir` while nobody looked.
    pub(super) fn look_again(&self, dir: &Path) {
        self.reload(dir, |watch| watch.dir == dir);
    }

    fn reload(&self, dir: &Path, concerns: impl Fn(&Watch) -> bool) {
        let mut unread = Vec::new();
        for (path, file) in self.files.lock().iter_mut() {
            let Some(watch) = file.watch.clone().filter(&concerns) else { continue };
            if !self.read(path, file) {
                unread.push(watch);
            }
        }
        for context in self.live() {
            let watches = context.watches();
            if !watches.iter().any(|w| concerns(w) && !unread.contains(w)) {
                continue;
            }
            match context.rotate(self) {
                Ok(true) => {
                    info!(directory = %dir.display(), "TLS context updated");
                    self.announce(&context.watches());
                }
                Ok(false) => {}
                Err(e) => {
                    warn!(directory = %dir.display(), error = %e, "TLS context not updated");
                    self.rotation_failed(&watches);
                }
            }
        }
    }

    fn rotation_failed(&self, watches: &[Watch]) {
        for file in self.files.lock().values() {
            if file.watch.as_ref().is_some_and(|w| watches.contains(w)) {
                file.stats.values().for_each(|s| s.rotation_failed.inc());
            }
        }
    }

    /// The certificates of every live context, for `/certs`.
    pub fn certificates(&self, now: SystemTime) -> Vec<ContextCertificates> {
        self.live().iter().map(|c| c.certificates(now)).collect()
    }

    /// Days until the first of all certificates ends, for `server.days_until_first_cert_expiring`; `None`: there is none.
    pub fn days_until_first_expiry(&self, now: SystemTime) -> Option<u64> {
        let all = self.certificates(now);
        all.iter().flat_map(|c| c.ca.iter().chain(&c.own)).map(|c| c.days_until_expiration).min()
    }
}

impl std::fmt::Debug for SecretProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SecretProvider({} static)", self.statics.len())
    }
}

/// What means that a secret's file has changed.
pub(super) fn watch_of(source: &SdsSource) -> Option<Watch> {
    match &source.config {
        SdsConfig::Static | SdsConfig::Discovered(_) => None,
        SdsConfig::File { watched_directory: Some(dir), .. } => Some(Watch::directory(Path::new(dir))),
        SdsConfig::File { path, .. } => Watch::file(Path::new(path)),
    }
}
