//! The last good configuration, kept on disk, so that a start without a management server serves at once (`--xds-cache`).
//!
//! | | |
//! |---|---|
//! | `file` | the cache as bytes; no input or output |
//! | `store` | the file: whose it is, reading, replacing |
//! | `snapshot` | what is to be kept of the [`State`] |
//! | this file | what is answered out of it, and when; no input or output |
//!
//! A stream that is lost, or on which nothing comes for a while, is answered for out of the cache, in the order in which things
//! are asked for, by the same way as a server's answers. The server's first answer of a kind ends that for the kind: from then on it is
//! as after a reconnect, so that what went meanwhile goes when nothing names it any more ([`super::stale`]). To a server of the
//! delta protocol the versions held are named; one of the state of the world is asked as by a new client, since a version there
//! stands for a whole kind and a cache holds one resource after the other. Runs on: the control thread.

mod file;
mod snapshot;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use weft_proto::pb::google::protobuf::Any;

use super::kind::Kind;
use super::mux::{Resource, Update};
use super::sources::Key;
use super::state::{Phase, State};
use crate::config::{self, ApiConfigSource, ConfigError, GrpcTarget, Source};
use crate::stats::{Counter, Gauge, Scope};
use file::{Entry, Owner};
use store::{Store, Written};

/// How long a server may say nothing before it is answered for: long enough for a first push, short enough for a start.
const GRACE: Duration = Duration::from_secs(2);
/// Changes within this time are written together.
const QUIET: Duration = Duration::from_secs(1);
/// Time from one write to the next, so that endpoints that come and go do not keep a disk busy.
const BETWEEN: Duration = Duration::from_secs(10);

/// See the module. Without a directory it holds nothing and does nothing.
#[derive(Default)]
pub(super) struct Cache {
    store: Option<Arc<Store>>,
    /// What was read and not used yet.
    held: BTreeMap<(String, Kind), Held>,
    /// When that was written.
    saved: Option<SystemTime>,
    /// Until when streams may be silent.
    grace: BTreeMap<Key, Instant>,
    /// Streams that are answered for.
    absent: BTreeSet<Key>,
    /// A server has said something.
    heard: bool,
    /// Kinds that were answered, by whomever.
    answered: BTreeSet<(Source, Kind)>,
    /// Kinds that were answered from here and by no server since, with how many resources.
    serving: BTreeMap<(Source, Kind), u64>,
    /// Streams to be opened anew: a server that comes late is told what is held.
    pub(super) reopen: Vec<Key>,
    warned_of_secrets: bool,
    /// Something may have changed since the last snapshot.
    touched: bool,
    /// Number of the last snapshot.
    snapshots: u64,
    /// When the next is to be taken.
    due: Option<Instant>,
    /// Before when none is to be taken.
    not_before: Option<Instant>,
    stats: Option<CacheStats>,
}

/// What is held of a kind of a source.
#[derive(Default)]
struct Held {
    version: String,
    entries: BTreeMap<String, Entry>,
    /// The first answer was given.
    told: bool,
    /// Names that were asked for and are not here.
    missing: BTreeSet<String>,
}

/// `xds_cache.*`
struct CacheStats {
    /// Resources answered from here.
    used: Counter,
    /// Of those, how many no server has answered since.
    serving: Gauge,
    /// When what was read was written, in milliseconds since 1970; 0: nothing was.
    saved_time: Gauge,
    written: Counter,
    write_failed: Counter,
    read_failed: Counter,
}

impl CacheStats {
    fn new(root: &Scope) -> Self {
        let scope = root.scope("xds_cache");
        CacheStats {
            used: scope.counter("used"),
            serving: scope.gauge("serving"),
            saved_time: scope.gauge("saved_time"),
            written: scope.counter("written"),
            write_failed: scope.counter("write_failed"),
            read_failed: scope.counter("read_failed"),
        }
    }
}

/// A snapshot that is to be written, on a thread that may wait for a disk.
pub(super) struct Save {
    store: Arc<Store>,
    number: u64,
    sections: Vec<file::Section>,
    written: Counter,
    failed: Counter,
}

impl Save {
    /// Writes it. What goes wrong is logged and counted.
    pub(super) fn write(self) {
        match self.store.write(self.number, self.sections) {
            Ok(Written::Yes) => self.written.inc(),
            Ok(Written::Unchanged) => {}
            Ok(Written::TooLarge(bytes)) => {
                self.failed.inc();
                tracing::warn!(
                    bytes,
                    limit = file::MAX_BYTES,
                    "the configuration is too large for its cache: an older one stays"
                );
            }
            Err(reason) => {
                self.failed.inc();
                tracing::warn!(reason, "the configuration cannot be cached");
            }
        }
    }
}

impl Cache {
    /// Opens the directory and reads what is there. What cannot be used is reported and ignored.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub(super) fn open(directory: &Path, node: &config::Node, root: &Scope) -> Result<Cache, ConfigError> {
        let owner = Owner { id: node.id.clone(), cluster: node.cluster.clone() };
        let store = Store::open(directory, owner).map_err(|reason| ConfigError::at("--xds-cache", reason))?;
        let stats = CacheStats::new(root);
        stats.serving.set(0);
        stats.saved_time.set(0);
        let mut cache = Cache::default();
        match store.read() {
            Ok(None) => {}
            Ok(Some(decoded)) => {
                stats.saved_time.set(decoded.written);
                cache.saved = Some(time(decoded.written));
                cache.hold(decoded.sections);
            }
            Err(reason) => {
                stats.read_failed.inc();
                tracing::warn!(reason, "the cached configuration is not used");
            }
        }
        cache.store = Some(Arc::new(store));
        cache.stats = Some(stats);
        Ok(cache)
    }

    fn hold(&mut self, sections: Vec<file::Section>) {
        for section in sections {
            // A kind that a later version knew.
            let Some(kind) = Kind::of(&section.type_url) else { continue };
            let held = self.held.entry((section.source, kind)).or_default();
            held.version = section.version;
            held.entries.extend(section.resources.into_iter().map(|r| (r.name.clone(), r)));
        }
    }

    /// When time has to be looked at.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.grace.values().min().copied()
    }

    /// When a snapshot is to be taken.
    pub(super) fn save_at(&self) -> Option<Instant> {
        self.due
    }

    /// When what serves of a kind was written, if it comes from here and no server has answered since.
    pub(super) fn serves(&self, kind: Kind) -> Option<SystemTime> {
        self.serving.keys().any(|(_, serving)| *serving == kind).then_some(self.saved)?
    }

    /// What serves from here, in words, and since when.
    pub(super) fn describe(&self) -> Option<(String, Vec<String>)> {
        if self.serving.is_empty() {
            return None;
        }
        let age = self.saved?.elapsed().unwrap_or_default().as_secs();
        let kinds = self.serving.iter().map(|((_, kind), n)| format!("target {kind:?}: {n} served from the cache"));
        Some((format!("xds cache, {age} s old"), kinds.collect()))
    }

    fn count(&self) {
        if let Some(stats) = &self.stats {
            stats.serving.set(self.serving.values().sum());
        }
    }
}

impl State {
    /// A stream is being opened.
    pub(super) fn cache_opening(&mut self, key: &Key, now: Instant) {
        if !self.cache.held.is_empty() {
            self.cache.grace.insert(key.clone(), now + GRACE);
        }
    }

    /// A stream is lost: what was asked for on it and never answered is answered from here.
    pub(super) fn cache_lost(&mut self, key: &Key) {
        self.cache.grace.remove(key);
        if !self.cache.held.is_empty() {
            self.cache.absent.insert(key.clone());
        }
    }

    /// Silence has lasted for too long.
    pub(super) fn cache_elapsed(&mut self, now: Instant) {
        let late: Vec<_> = self.cache.grace.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        for key in late {
            self.cache_lost(&key);
            self.cache.reopen.push(key);
        }
    }

    /// A server has answered.
    pub(super) fn cache_heard(&mut self, key: &Key, kind: Kind, accepted: bool, now: Instant) {
        if self.cache.store.is_none() {
            return;
        }
        let source = key.source();
        self.cache.heard = true;
        self.cache.grace.remove(key);
        self.cache.absent.remove(key);
        self.cache.serving.remove(&(source.clone(), kind));
        if accepted {
            if let Some(label) = label(&source, self.sources.ads()) {
                self.cache.held.remove(&(label, kind));
            }
            self.cache.answered.insert((source.clone(), kind));
        }
        if self.sources.streams.get(key).is_some_and(super::mux::Mux::is_delta) {
            // What is named one by one and has not changed is not spoken of by the server that was told so.
            self.cache.serving.retain(|(from, kind), _| *from != source || kind.is_whole());
        }
        self.cache.count();
        self.cache_touched(now);
    }

    /// Answers what is asked for on streams that are answered for; what comes of it may ask for more.
    pub(super) fn serve_cached(&mut self, now: Instant) {
        while let Some((source, update)) = self.next_cached() {
            let key = (source, update.kind);
            let n = update.resources.len() as u64;
            if let Some(stats) = &self.cache.stats {
                stats.used.add(n);
            }
            *self.cache.serving.entry(key.clone()).or_default() += n;
            self.cache.answered.insert(key.clone());
            self.cache.count();
            let held: Vec<_> =
                update.resources.iter().filter(|r| r.held).map(|r| (r.name.clone(), r.version.clone())).collect();
            let (_, verdict) = self.update(&key.0, update, now);
            // A server is not told of what another version of this program could use and this one cannot.
            if verdict.is_ok()
                && let Some(mux) = self.sources.stream(&key.0, key.1)
            {
                mux.holds(key.1, held);
            }
        }
        self.warn_of_secrets();
    }

    /// What can be answered now.
    fn next_cached(&mut self) -> Option<(Source, Update)> {
        let State { cache, sources, .. } = self;
        for key in &cache.absent {
            let Some(mux) = sources.streams.get(key) else { continue };
            let source = key.source();
            let Some(label) = label(&source, sources.ads()) else { continue };
            for kind in Kind::ALL.into_iter().filter(|kind| mux.watches(*kind)) {
                let Some(held) = cache.held.get_mut(&(label.clone(), kind)) else { continue };
                if let Some(update) = held.answer(kind, mux) {
                    return Some((source, update));
                }
            }
        }
        None
    }

    /// Certificates that have expired meanwhile serve all the same: a proxy without a listener would be no safer.
    fn warn_of_secrets(&mut self) {
        if self.phase < Phase::Live || self.cache.serving.is_empty() || self.cache.warned_of_secrets {
            return;
        }
        self.cache.warned_of_secrets = true;
        let now = SystemTime::now();
        for certificate in self.parts.secrets.certificates(now).iter().flat_map(|c| c.own.iter().chain(&c.ca)) {
            if certificate.expires.is_some_and(|end| end < now) {
                let serial = &certificate.serial;
                tracing::warn!(
                    serial,
                    "a certificate of the cached configuration has expired; it is used until the server sends another"
                );
            }
        }
    }

    /// Something may be to be kept that was not before.
    pub(super) fn cache_touched(&mut self, now: Instant) {
        let cache = &mut self.cache;
        if cache.store.is_some() && self.phase == Phase::Live && cache.heard {
            cache.touched = true;
            let soon = now + QUIET;
            cache.due.get_or_insert(cache.not_before.map_or(soon, |at| at.max(soon)));
        }
    }

    /// A snapshot, if there is anything to keep.
    pub(super) fn save(&mut self, now: Instant) -> Option<Save> {
        let ready = self.phase == Phase::Live && self.cache.heard && std::mem::take(&mut self.cache.touched);
        self.cache.due = None;
        if !ready {
            return None;
        }
        let sections = self.snapshot();
        let cache = &mut self.cache;
        cache.snapshots += 1;
        let (store, stats) = cache.store.clone().zip(cache.stats.as_ref())?;
        let (written, failed) = (stats.written.clone(), stats.write_failed.clone());
        cache.not_before = Some(now + BETWEEN);
        Some(Save { store, number: cache.snapshots, sections, written, failed })
    }
}

impl Held {
    /// The answer to what a stream asks for and was not given yet.
    fn answer(&mut self, kind: Kind, mux: &super::mux::Mux) -> Option<Update> {
        let wanted = |e: &Entry| mux.wants(kind, &e.name, &e.aliases, e.on_demand);
        let given: Vec<_> = self.entries.extract_if(.., |_, e| wanted(e)).map(|(_, e)| e).collect();
        let mut update = Update {
            kind,
            version: self.version.clone(),
            nonce: String::new(),
            resources: given.into_iter().map(|e| resource(kind, e)).collect(),
            removed: Vec::new(),
            absent: Vec::new(),
            complete: false,
            problems: Vec::new(),
        };
        if kind == Kind::Endpoints {
            // Who had none before goes on without.
            let got: BTreeSet<_> = update.resources.iter().map(|r| r.name.as_str()).collect();
            let new = mux.names(kind).filter(|name| !got.contains(name) && !self.missing.contains(*name));
            update.removed = new.map(str::to_owned).collect();
        }
        // Neither these nor those that were given are missing when they are asked for again.
        self.missing.extend(update.removed.iter().chain(update.resources.iter().map(|r| &r.name)).cloned());
        let first = mux.watches_all(kind) && !std::mem::replace(&mut self.told, true);
        (first || !update.resources.is_empty() || !update.removed.is_empty()).then_some(update)
    }
}

fn resource(kind: Kind, e: Entry) -> Resource {
    Resource {
        name: e.name,
        version: e.version,
        aliases: e.aliases,
        body: Any { type_url: kind.type_url().to_owned(), value: e.body.to_vec() },
        said: Some(time(e.at)),
        held: e.held,
    }
}

/// A source as the cache knows it; `None`: it is not cached. Another server, or another protocol, is another source: its
/// versions mean something else.
fn label(source: &Source, ads: Option<&ApiConfigSource>) -> Option<String> {
    let (what, api) = match source {
        Source::Ads => ("ads", ads?),
        Source::Api(api) => ("api", &**api),
        // It is on a disk already.
        Source::File { .. } => return None,
    };
    let protocol = if api.delta { "delta" } else { "sotw" };
    Some(match &api.target {
        GrpcTarget::Envoy { cluster, authority } => {
            format!("{what} {protocol} cluster {cluster} {}", authority.as_deref().unwrap_or_default())
        }
        GrpcTarget::Google { uri, .. } => format!("{what} {protocol} uri {uri}"),
    })
}

fn milliseconds(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn time(milliseconds: u64) -> SystemTime {
    // What is too far off to be a time is as good as none.
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(milliseconds)).unwrap_or(SystemTime::UNIX_EPOCH)
}
