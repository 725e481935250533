//! Series: the counters of requests and connections that have the same labels.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::edge::{Edge, Outcome, Reporter, Security, Service};
use super::overrides::Plan;
use super::{MAX_SERIES, Workload, labels};
use crate::config::Metric;
use crate::stats::{Counter, Histogram, Scope, Store, Tags, Unit};

/// What a series counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Requests.
    Requests,
    /// Messages of gRPC.
    Messages,
    /// Connections.
    Connections,
}

/// What tells a series from others.
#[derive(Debug, Clone, Copy)]
pub struct Key<'a> {
    /// What it counts.
    pub kind: Kind,
    /// Between whom.
    pub edge: Edge<'a>,
    /// How that went.
    pub outcome: Outcome,
    /// Values of attributes that configuration makes labels of.
    pub values: &'a [String],
}

/// Counters of what has the same labels; those that are of another kind count nothing.
pub struct Series {
    owned: Owned,
    plan: u64,
    /// `istio_requests_total`
    pub requests: Counter,
    /// `istio_request_duration_milliseconds`
    pub duration: Histogram,
    /// `istio_request_bytes`
    pub request_bytes: Histogram,
    /// `istio_response_bytes`
    pub response_bytes: Histogram,
    /// `istio_request_messages_total`
    pub request_messages: Counter,
    /// `istio_response_messages_total`
    pub response_messages: Counter,
    /// `istio_tcp_connections_opened_total`
    pub opened: Counter,
    /// `istio_tcp_connections_closed_total`
    pub closed: Counter,
    /// `istio_tcp_sent_bytes_total`
    pub sent: Counter,
    /// `istio_tcp_received_bytes_total`
    pub received: Counter,
}

/// A key that is kept.
struct Owned {
    kind: Kind,
    reporter: Reporter,
    security: Security,
    outcome: Outcome,
    peer: Option<Workload>,
    /// Identities of the peer and of this side; the service's host, name, and namespace.
    texts: [Box<str>; 5],
    values: Box<[String]>,
}

impl Owned {
    fn of(key: &Key<'_>) -> Self {
        Owned {
            kind: key.kind,
            reporter: key.edge.reporter,
            security: key.edge.security,
            outcome: key.outcome,
            peer: key.edge.peer.cloned(),
            texts: key.texts().map(Into::into),
            values: key.values.into(),
        }
    }

    fn is(&self, key: &Key<'_>) -> bool {
        let peer = match (&self.peer, key.edge.peer) {
            (Some(own), Some(peer)) => own.is_same(peer),
            (None, None) => true,
            _ => false,
        };
        peer && self.kind == key.kind
            && self.outcome == key.outcome
            && self.reporter == key.edge.reporter
            && self.security == key.edge.security
            && self.texts.iter().map(|text| &**text).eq(key.texts())
            && *self.values == *key.values
    }
}

impl<'a> Key<'a> {
    fn texts(&self) -> [&'a str; 5] {
        let Service { host, name, namespace } = self.edge.service;
        [self.edge.peer_principal, self.edge.own_principal, host, name, namespace]
    }

    fn hash(&self, plan: u64, state: &RandomState) -> u64 {
        let mut hasher = state.build_hasher();
        plan.hash(&mut hasher);
        (self.kind, self.outcome, self.edge.reporter, self.edge.security).hash(&mut hasher);
        self.edge.peer.hash(&mut hasher);
        self.texts().hash(&mut hasher);
        self.values.hash(&mut hasher);
        hasher.finish()
    }

    /// The same without what a caller may choose freely.
    fn without_peer(&self) -> Key<'static> {
        let Edge { reporter, security, .. } = self.edge;
        let (service, peer) = (Service::default(), None);
        let edge = Edge { reporter, peer, peer_principal: "", own_principal: "", service, security };
        Key { kind: self.kind, edge, outcome: self.outcome, values: &[] }
    }
}

/// Series by the hash of their keys, which is one already.
type ByHash = HashMap<u64, Vec<Arc<Series>>, BuildHasherDefault<AsIs>>;

#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

fn look(all: &ByHash, hash: u64, plan: u64, key: &Key<'_>) -> Option<Arc<Series>> {
    all.get(&hash)?.iter().find(|series| series.plan == plan && series.owned.is(key)).cloned()
}

/// All series of a process.
pub(super) struct Table {
    /// Tells tables of a thread apart.
    id: u64,
    hasher: RandomState,
    common: Mutex<Common>,
    scopes: [Scope; Metric::ALL.len()],
    overflow: Counter,
}

#[derive(Default)]
struct Common {
    all: ByHash,
    count: usize,
}

thread_local! {
    /// The series that a worker has met, and whose they are. They are some of the common ones, so no more.
    static OWN: RefCell<(u64, ByHash)> = RefCell::default();
}

/// 0 is nobody's.
static NEXT: AtomicU64 = AtomicU64::new(1);

impl Table {
    pub(super) fn new(stats: &Arc<Store>) -> Self {
        let root = stats.root().scope("istiocustom");
        Table {
            id: NEXT.fetch_add(1, Relaxed),
            hasher: RandomState::new(),
            common: Mutex::default(),
            scopes: Metric::ALL.map(|metric| root.scope(&["istio_", metric.name()].concat())),
            overflow: stats.root().counter("istio_stats.overflow"),
        }
    }

    pub(super) fn find(&self, key: &Key<'_>, plan: &Plan, own: &Workload) -> Arc<Series> {
        let hash = key.hash(plan.id, &self.hasher);
        OWN.with_borrow_mut(|(whose, met)| {
            if *whose != self.id {
                (*whose, *met) = (self.id, ByHash::default());
            }
            if let Some(series) = look(met, hash, plan.id, key) {
                return series;
            }
            let (series, is_whole) = self.common(hash, key, plan, own);
            if is_whole {
                met.entry(hash).or_default().push(series.clone());
            }
            series
        })
    }

    /// The series of a key, and whether it is its own.
    fn common(&self, hash: u64, key: &Key<'_>, plan: &Plan, own: &Workload) -> (Arc<Series>, bool) {
        let mut common = self.common.lock();
        if let Some(series) = look(&common.all, hash, plan.id, key) {
            return (series, true);
        }
        if common.count < MAX_SERIES {
            let series = Arc::new(self.make(key, plan, own));
            common.all.entry(hash).or_default().push(series.clone());
            common.count += 1;
            return (series, true);
        }
        self.overflow.inc();
        // There are few of these: codes and flags are the only things that tell them apart.
        let rest = Key { outcome: Outcome { code: class(key.outcome.code), ..key.outcome }, ..key.without_peer() };
        let hash = rest.hash(plan.id, &self.hasher);
        if let Some(series) = look(&common.all, hash, plan.id, &rest) {
            return (series, false);
        }
        let series = Arc::new(self.make(&rest, plan, own));
        common.all.entry(hash).or_default().push(series.clone());
        (series, false)
    }

    fn make(&self, key: &Key<'_>, plan: &Plan, own: &Workload) -> Series {
        let standard = labels::of(key.kind, &key.edge, &key.outcome, own);
        let mut shared: Option<(String, Tags)> = None;
        let mut of = |metric: Metric| -> Option<(&Scope, String, Tags)> {
            let scope = self.scopes.get(metric as usize)?;
            if let (Some((name, tags)), true) = (&shared, plan.is_standard()) {
                return Some((scope, name.clone(), tags.clone()));
            }
            let labels = plan.labels(metric, &standard, key.values)?;
            let name = text(&labels);
            let tags: Tags = labels.into_iter().map(|(name, value)| (name, value.into())).collect();
            shared = Some((name.clone(), tags.clone()));
            Some((scope, name, tags))
        };
        let mut counter = |kind: Kind, metric| {
            let found = (key.kind == kind).then(|| of(metric)).flatten();
            found.map_or_else(Counter::noop, |(scope, name, tags)| scope.labelled_counter(&name, &tags))
        };
        let requests = counter(Kind::Requests, Metric::Requests);
        let request_messages = counter(Kind::Messages, Metric::RequestMessages);
        let response_messages = counter(Kind::Messages, Metric::ResponseMessages);
        let opened = counter(Kind::Connections, Metric::TcpOpened);
        let closed = counter(Kind::Connections, Metric::TcpClosed);
        let sent = counter(Kind::Connections, Metric::TcpSent);
        let received = counter(Kind::Connections, Metric::TcpReceived);
        let mut histogram = |metric, unit| {
            let found = (key.kind == Kind::Requests).then(|| of(metric)).flatten();
            found.map_or_else(Histogram::noop, |(scope, name, tags)| scope.labelled_histogram(&name, &tags, unit))
        };
        Series {
            owned: Owned::of(key),
            plan: plan.id,
            duration: histogram(Metric::Duration, Unit::Milliseconds),
            request_bytes: histogram(Metric::RequestBytes, Unit::Bytes),
            response_bytes: histogram(Metric::ResponseBytes, Unit::Bytes),
            requests,
            request_messages,
            response_messages,
            opened,
            closed,
            sent,
            received,
        }
    }
}

/// A code that stands for its like: who answers may choose any.
fn class(code: u16) -> u16 {
    code / 100 * 100
}

/// Labels as a part of a name, as `/stats` shows it.
fn text<N: AsRef<str>, V: AsRef<str>>(labels: &[(N, V)]) -> String {
    let mut text = String::with_capacity(labels.len() * 40);
    for (name, value) in labels {
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(name.as_ref());
        text.push('.');
        text.push_str(value.as_ref());
    }
    text
}
