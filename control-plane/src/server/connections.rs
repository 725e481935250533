//! Who is connected, what each client has, and whether all have followed a change.
//!
//! Owns the list that `proxy-status`, `/debug` and CSDS show. Must not know: how streams work. Any thread. What is shown is looked up
//! when somebody asks: a stream that goes on says no more than how far it is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::session::{Ack, Nack, Session, Variant};
use crate::ca::Acknowledged;
use crate::metrics::Metrics;
use crate::node::Proxy;
use crate::resource::{ResourceType, Resources, Version};
use crate::translate::{TRUST_BUNDLE, trust_bundle};

/// For how long who has gone is remembered, and how many of them.
const LEFT: Duration = Duration::from_secs(3600);
const MAX_LEFT: usize = 10_000;

/// All open streams.
#[derive(Debug)]
pub struct Connections {
    open: Mutex<Open>,
    next_id: AtomicU64,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Open {
    connections: BTreeMap<u64, Arc<Connection>>,
    /// How many streams each proxy has.
    proxies: HashMap<String, usize>,
    /// Worlds that some stream connected at their time has not followed.
    following: BTreeMap<u64, Following>,
    /// Proxies that trust the mesh's roots and are not connected: since when, and which roots they had accepted.
    left: HashMap<String, (Instant, Option<Version>)>,
}

/// A world on its way.
#[derive(Debug)]
struct Following {
    seen_at: Instant,
    /// Streams that have not followed.
    waiting: BTreeSet<u64>,
}

/// One stream of one proxy.
#[derive(Debug)]
pub struct Connection {
    /// Counts streams.
    pub id: u64,
    /// Who.
    pub proxy: Arc<Proxy>,
    /// From where.
    pub peer: Option<SocketAddr>,
    /// The method it called: `ADS`, `EDS`, …
    pub service: &'static str,
    /// Its protocol.
    pub variant: Variant,
    /// Since when.
    pub connected_at: SystemTime,
    session: Mutex<Session>,
    /// The last world of which the client has accepted everything.
    synced: AtomicU64,
    /// The world of what it may have.
    current: AtomicU64,
}

/// What a stream has.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The last world of which the client has accepted everything.
    pub synced: u64,
    /// The world of what it may have.
    pub current: u64,
    /// What it may have.
    pub resources: Resources,
    /// What it has asked for.
    pub types: Vec<TypeState>,
}

/// What a stream has of one type.
#[derive(Clone, Debug)]
pub struct TypeState {
    /// The type.
    pub ty: ResourceType,
    /// It asks for all.
    pub wildcard: bool,
    /// How many names it asks for.
    pub names: usize,
    /// How it stands.
    pub status: Status,
    /// The state that was sent last.
    pub sent: Option<Version>,
    /// The last it has accepted.
    pub ack: Option<Ack>,
    /// What it has refused.
    pub nack: Option<Nack>,
}

/// How a client stands with a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It has accepted the newest.
    Synced,
    /// It was sent something and has not answered, or something waits to be sent.
    Stale,
    /// It has refused the last it was sent.
    Nacked,
    /// It has asked for nothing that exists.
    NotSent,
}

impl Status {
    /// As tables show it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Synced => "SYNCED",
            Self::Stale => "STALE",
            Self::Nacked => "NACKED",
            Self::NotSent => "NOT SENT",
        }
    }
}

impl Connections {
    /// None yet.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), next_id: AtomicU64::new(1), metrics })
    }

    /// All open streams, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Connection>> {
        self.open.lock().connections.values().cloned().collect()
    }

    /// Whether every client that is connected has accepted all of a world.
    #[must_use]
    pub fn have_followed(&self, sequence: u64) -> bool {
        self.open.lock().connections.values().all(|connection| connection.synced() >= sequence)
    }

    /// The metrics that follow them.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// A stream that has said who it is.
    pub(super) fn open(
        self: &Arc<Self>,
        proxy: Arc<Proxy>,
        peer: Option<SocketAddr>,
        service: &'static str,
        session: Session,
    ) -> Guard {
        let connection = Arc::new(Connection {
            id: self.next_id.fetch_add(1, Relaxed),
            proxy,
            peer,
            service,
            variant: session.variant(),
            connected_at: SystemTime::now(),
            session: Mutex::new(session),
            synced: AtomicU64::new(0),
            current: AtomicU64::new(0),
        });
        let id = connection.id;
        let mut open = self.open.lock();
        open.connections.insert(id, connection.clone());
        let streams = open.proxies.entry(connection.proxy.id.clone()).or_default();
        *streams += 1;
        self.metrics.streams.add(1);
        self.metrics.unsynced_streams.add(1);
        if *streams == 1 {
            self.metrics.connected_proxies.add(1);
        }
        open.left.remove(&connection.proxy.id);
        drop(open);
        Guard { connections: self.clone(), connection, synced: false }
    }

    /// A world was published; all that are connected now are to follow. Call it before they can.
    pub fn published(&self, sequence: u64, seen_at: Instant) {
        let mut open = self.open.lock();
        let waiting: BTreeSet<u64> = open.connections.keys().copied().collect();
        if !waiting.is_empty() {
            open.following.insert(sequence, Following { seen_at, waiting });
        }
    }

    /// How long nobody has gone who had not accepted these roots and has not come back.
    fn complete_for(&self, roots: Version) -> Duration {
        let open = self.open.lock();
        let without = open.left.values().filter(|(_, accepted)| *accepted != Some(roots));
        without.map(|(at, _)| at.elapsed()).min().unwrap_or(Duration::MAX)
    }

    /// Whether all that ask for a resource have this version of it, and have accepted it.
    #[must_use]
    pub fn all_have(&self, ty: ResourceType, name: &str, version: Version) -> bool {
        self.list().iter().all(|connection| {
            let session = connection.session();
            let asks = session.subscription(ty).is_some_and(|subscription| subscription.wants(name));
            let current = session.resources().get(ty).get(name).is_some_and(|held| held.version() == version);
            !asks || (current && session.is_settled(ty))
        })
    }

    fn followed(&self, id: u64, sequence: u64) {
        let mut open = self.open.lock();
        let mut done = Vec::new();
        for (number, following) in open.following.range_mut(..=sequence) {
            if following.waiting.remove(&id) && following.waiting.is_empty() {
                self.metrics.convergence_seconds.observe(following.seen_at.elapsed().as_secs_f64());
                done.push(*number);
            }
        }
        done.iter().for_each(|number| drop(open.following.remove(number)));
    }

    fn close(&self, connection: &Connection) {
        let trusts = accepted_roots(&connection.session());
        let mut open = self.open.lock();
        open.connections.remove(&connection.id);
        self.metrics.streams.add(-1);
        if let Some(streams) = open.proxies.get_mut(&connection.proxy.id) {
            *streams -= 1;
            if *streams == 0 {
                open.proxies.remove(&connection.proxy.id);
                self.metrics.connected_proxies.add(-1);
                if let Some(accepted) = trusts {
                    open.left.retain(|_, (at, _)| at.elapsed() < LEFT);
                    if open.left.len() < MAX_LEFT {
                        open.left.insert(connection.proxy.id.clone(), (Instant::now(), accepted));
                    }
                }
            }
        }
        open.following.retain(|_, following| {
            following.waiting.remove(&connection.id);
            !following.waiting.is_empty()
        });
    }
}

/// Whether proxies have followed a replacement of roots, by what they have accepted.
pub struct TrustFollowers {
    connections: Arc<Connections>,
    since: Instant,
}

impl TrustFollowers {
    /// Those of `connections`; who was connected before this moment is not known.
    #[must_use]
    pub fn new(connections: Arc<Connections>) -> Self {
        Self { connections, since: Instant::now() }
    }
}

impl Acknowledged for TrustFollowers {
    fn for_how_long(&self, bundle: &str) -> Option<Duration> {
        let version = trust_bundle(bundle).version();
        let followed = self.connections.all_have(ResourceType::Secret, TRUST_BUNDLE, version);
        followed.then(|| self.connections.complete_for(version).min(self.since.elapsed()))
    }
}

/// The roots that a client has accepted last; `None`: it does not ask for them.
fn accepted_roots(session: &Session) -> Option<Option<Version>> {
    let subscription = session.subscription(ResourceType::Secret)?;
    subscription.wants(TRUST_BUNDLE).then(|| {
        let held = session.resources().get(ResourceType::Secret).get(TRUST_BUNDLE);
        held.filter(|_| session.is_settled(ResourceType::Secret)).map(|held| held.version())
    })
}

impl Connection {
    /// What the client has.
    #[must_use]
    pub fn state(&self) -> State {
        let session = self.session.lock();
        State {
            synced: self.synced(),
            current: self.current(),
            resources: session.resources().clone(),
            types: ResourceType::ALL.into_iter().filter_map(|ty| type_state(&session, ty)).collect(),
        }
    }

    /// The last world of which the client has accepted everything.
    #[must_use]
    pub fn synced(&self) -> u64 {
        self.synced.load(Relaxed)
    }

    /// The world of what it may have.
    #[must_use]
    pub fn current(&self) -> u64 {
        self.current.load(Relaxed)
    }

    /// The state of its stream. While it is held the stream stands still.
    pub(super) fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock()
    }
}

/// A place in the list; it ends with the stream.
pub(super) struct Guard {
    connections: Arc<Connections>,
    connection: Arc<Connection>,
    synced: bool,
}

impl Guard {
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn session(&self) -> MutexGuard<'_, Session> {
        self.connection.session()
    }

    /// Says how far the stream has come; `current` is the world its resources are of.
    pub(super) fn report(&mut self, current: u64) {
        let connection = &self.connection;
        let synced = connection.session().is_synced();
        connection.current.store(current, Relaxed);
        let followed = synced && connection.synced.fetch_max(current, Relaxed) < current;
        if synced != self.synced {
            self.synced = synced;
            self.connections.metrics.unsynced_streams.add(if synced { -1 } else { 1 });
        }
        if followed {
            self.connections.followed(connection.id, current);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.synced {
            self.connections.metrics.unsynced_streams.add(-1);
        }
        self.connections.close(&self.connection);
    }
}

/// A moment of the clock that is measured with, on the one that is shown.
pub(super) fn wall(at: Instant) -> SystemTime {
    SystemTime::now() - at.elapsed()
}

fn type_state(session: &Session, ty: ResourceType) -> Option<TypeState> {
    let subscription = session.subscription(ty)?;
    let status = if subscription.is_refused(session.resources().get(ty)) {
        Status::Nacked
    } else if !session.is_settled(ty) {
        Status::Stale
    } else if subscription.ack().is_none() {
        Status::NotSent
    } else {
        Status::Synced
    };
    Some(TypeState {
        ty,
        wildcard: subscription.is_wildcard(),
        names: subscription.names().len(),
        status,
        sent: subscription.sent_version(),
        ack: subscription.ack(),
        nack: subscription.nack().cloned(),
    })
}

#[cfg(test)]
mod tests {
    use weft_proto::pb::envoy::config::core::v3::Node;
    use weft_proto::pb::envoy::service::discovery::v3::DiscoveryRequest;

    use super::*;

    /// A stream of `id` that asks for the roots, and has accepted them or not.
    fn stream(connections: &Arc<Connections>, id: &str, accepts: bool) -> Guard {
        let now = Instant::now();
        let mut resources = Resources::default();
        resources.set_mut(ResourceType::Secret).insert(trust_bundle("roots"));
        let mut session = Session::new(Variant::Sotw, resources);
        let mut request =
            DiscoveryRequest { resource_names: vec![TRUST_BUNDLE.to_owned()], ..DiscoveryRequest::default() };
        session.sotw_request(ResourceType::Secret, &request, now).unwrap();
        let push = session.next_push(now).unwrap();
        if accepts {
            request.response_nonce = push.nonce.to_string();
            request.version_info = push.version.to_string();
            session.sotw_request(ResourceType::Secret, &request, now).unwrap();
        }
        let proxy = Proxy::from_node(&Node { id: id.to_owned(), ..Node::default() }).unwrap();
        connections.open(Arc::new(proxy), None, "ADS", session)
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_gone_without_the_roots_is_waited_for() {
        let connections = Connections::new(Arc::default());
        let followers = TrustFollowers::new(connections.clone());
        let before = Duration::from_secs(600);
        tokio::time::advance(before).await;
        let (a, b) = (stream(&connections, "a", true), stream(&connections, "b", false));
        assert_eq!(followers.for_how_long("roots"), None, "b has not answered");
        assert_eq!(followers.for_how_long("others"), None);
        drop(a);
        drop(b);
        // The first has accepted them, the other one may come back without.
        assert_eq!(followers.for_how_long("roots"), Some(Duration::ZERO));
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(followers.for_how_long("roots"), Some(Duration::from_secs(7)));
        let back = stream(&connections, "b", true);
        assert_eq!(followers.for_how_long("roots"), Some(before + Duration::from_secs(7)));
        drop(back);
        assert_eq!(followers.for_how_long("roots"), Some(before + Duration::from_secs(7)));
    }
}
