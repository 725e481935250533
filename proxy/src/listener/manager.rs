//! All listeners of the process: opening, replacing in place, removing.
//!
//! A listener that changes keeps its sockets unless what makes a socket changed: accept loops hold a [`Slot`] and look into it
//! for each connection. What no longer exists drains: the connections of a filter chain that is gone, or of a whole listener, are
//! asked to leave for `--drain-time-s`, and its idle ones are closed after it. Runs on: the control thread; workers accept.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use super::bind::{self, Bound};
use super::{Chain, Directory, Listener};
use crate::config::{self, Address, ConfigError};
use crate::stats::{Counter, Gauge, Scope};

/// A listener as its accept loops see it: what it is may be replaced, its sockets stay.
pub type Slot = ArcSwap<Listener>;

/// A socket for a worker to accept on.
pub type Assignment = (Bound, Arc<Slot>);

/// Who configured a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The bootstrap.
    Static,
    /// Listener discovery.
    Dynamic,
}

/// The sockets of a listener, bound and not listening yet: by worker.
pub struct Sockets(Vec<Vec<Bound>>);

/// The listeners.
pub struct ListenerManager {
    workers: Vec<UnboundedSender<Assignment>>,
    directory: Arc<Directory>,
    drain: DrainStyle,
    inner: Mutex<Inner>,
    stats: Stats,
}

/// How what is gone drains.
#[derive(Debug, Clone, Copy)]
pub struct DrainStyle {
    /// `--drain-time-s`.
    pub time: Duration,
    /// `--drain-strategy gradual`: an increasing share of answers asks clients to leave, else every one.
    pub gradual: bool,
}

#[derive(Default)]
struct Inner {
    live: Vec<Live>,
    draining: Vec<Draining>,
}

struct Live {
    slot: Arc<Slot>,
    origin: Origin,
}

/// Something that finishes its connections.
struct Draining {
    /// Of a whole listener; else some of its chains.
    listener: Option<Arc<Listener>>,
    chains: Vec<Arc<Chain>>,
    until: Instant,
}

/// `listener_manager.*`
struct Stats {
    added: Counter,
    modified: Counter,
    removed: Counter,
    in_place_updated: Counter,
    create_success: Counter,
    create_failure: Counter,
    active: Gauge,
    draining: Gauge,
    chains_draining: Gauge,
}

impl Stats {
    fn new(root: &Scope) -> Self {
        let scope = root.scope("listener_manager");
        let gauge = |name: &str| {
            let gauge = scope.gauge(name);
            gauge.set(0);
            gauge
        };
        Stats {
            added: scope.counter("listener_added"),
            modified: scope.counter("listener_modified"),
            removed: scope.counter("listener_removed"),
            in_place_updated: scope.counter("listener_in_place_updated"),
            create_success: scope.counter("listener_create_success"),
            create_failure: scope.counter("listener_create_failure"),
            active: gauge("total_listeners_active"),
            draining: gauge("total_listeners_draining"),
            chains_draining: gauge("total_filter_chains_draining"),
        }
    }
}

impl ListenerManager {
    /// No listeners yet. `workers`: where each of them takes its sockets.
    pub fn new(
        workers: Vec<UnboundedSender<Assignment>>,
        directory: Arc<Directory>,
        drain: DrainStyle,
        root: &Scope,
    ) -> Arc<Self> {
        let stats = Stats::new(root);
        Arc::new(ListenerManager { workers, directory, drain, inner: Mutex::default(), stats })
    }

    /// Binds a listener's sockets; nobody can connect to them yet.
    ///
    /// # Errors
    /// An address that cannot be bound, or that another listener has.
    pub fn bind(&self, config: &config::Listener) -> Result<Sockets, ConfigError> {
        let mut sockets: Vec<Vec<Bound>> = self.workers.iter().map(|_| Vec::new()).collect();
        if config.bind_to_port {
            if let Some(taken) = self.taken(config) {
                let reason = format!(
                    "error adding listener: '{}' has duplicate address '{taken}' as existing listener",
                    config.name
                );
                return Err(ConfigError::at("address", reason));
            }
            for address in &config.addresses {
                let bound = bind_address(config, address, &mut sockets);
                bound
                    .inspect_err(|_| self.stats.create_failure.inc())
                    .map_err(|e| ConfigError::at("address", format!("cannot bind '{}': {e}", address.address)))?;
            }
        }
        Ok(Sockets(sockets))
    }

    /// An address of `config` that a listener of another name is open on.
    fn taken(&self, config: &config::Listener) -> Option<Address> {
        let inner = self.inner.lock();
        let others = inner
            .live
            .iter()
            .map(|l| l.slot.load_full())
            .filter(|l| l.config.name != config.name && l.config.bind_to_port);
        let others: Vec<_> = others.collect();
        let fixed = |a: &Address| !matches!(a, Address::Ip(ip) if ip.port() == 0);
        let mine = config.addresses.iter().map(|a| &a.address).filter(|a| fixed(a));
        mine.into_iter().find(|a| others.iter().any(|o| o.config.addresses.iter().any(|b| b.address == **a))).cloned()
    }

    /// Opens a listener: a new one, or one that takes the place of another with its name.
    ///
    /// # Errors
    /// The system refuses to listen.
    pub fn open(&self, listener: Arc<Listener>, sockets: Sockets, origin: Origin) -> Result<(), ConfigError> {
        let slot = Arc::new(Slot::new(listener.clone()));
        for bound in sockets.0.iter().flatten() {
            bound.listen(&listener.config).map_err(|e| ConfigError::at("address", format!("cannot listen: {e}")))?;
        }
        // All workers have the same addresses.
        for bound in sockets.0.first().into_iter().flatten() {
            listener.opened(bound.local_addr());
        }
        for (worker, own) in self.workers.iter().zip(sockets.0) {
            self.stats.create_success.inc();
            for bound in own {
                // A worker that is gone has ended with the process.
                let _ = worker.send((bound, slot.clone()));
            }
        }
        let mut inner = self.inner.lock();
        match inner.live.iter_mut().find(|l| l.slot.load().config.name == listener.config.name) {
            Some(before) => {
                let old = std::mem::replace(before, Live { slot, origin }).slot.load_full();
                self.stats.modified.inc();
                self.finish(&mut inner, old);
            }
            None => {
                self.stats.added.inc();
                inner.live.push(Live { slot, origin });
            }
        }
        self.publish(&inner);
        Ok(())
    }

    /// Puts a new version into the sockets of the one before; see [`Listener::keeps_sockets_of`].
    pub fn replace(&self, listener: Arc<Listener>) {
        let mut inner = self.inner.lock();
        let Some(live) = inner.live.iter().find(|l| l.slot.load().config.name == listener.config.name) else { return };
        let old = live.slot.swap(listener.clone());
        self.stats.modified.inc();
        let gone: Vec<_> =
            old.chains().filter(|c| !listener.chains().any(|new| Arc::ptr_eq(new, c))).cloned().collect();
        if gone.len() < old.chains().count() || listener.differs_in_chains_only(&old.config) {
            self.stats.in_place_updated.inc();
        }
        if !gone.is_empty() {
            self.drain_chains(&gone);
            inner.draining.push(Draining { listener: None, chains: gone, until: Instant::now() + self.drain.time });
        }
        self.publish(&inner);
    }

    /// Removes a listener; whether there was one. New connections are refused at once, open ones drain.
    pub fn remove(&self, name: &str) -> bool {
        let mut inner = self.inner.lock();
        let Some(at) = inner.live.iter().position(|l| l.slot.load().config.name == name) else { return false };
        let old = inner.live.remove(at).slot.load_full();
        self.stats.removed.inc();
        self.finish(&mut inner, old);
        self.publish(&inner);
        true
    }

    fn finish(&self, inner: &mut Inner, old: Arc<Listener>) {
        old.stop.begin(false);
        let chains: Vec<_> = old.chains().cloned().collect();
        self.drain_chains(&chains);
        let until = Instant::now() + self.drain.time;
        inner.draining.push(Draining { listener: Some(old), chains, until });
    }

    fn drain_chains(&self, chains: &[Arc<Chain>]) {
        for chain in chains {
            if self.drain.gradual { chain.drain.begin(true) } else { chain.drain.ask() }
        }
    }

    fn publish(&self, inner: &Inner) {
        let all: Vec<_> = inner.live.iter().map(|l| l.slot.load_full()).collect();
        self.directory.publish(&all);
        self.count(inner);
    }

    fn count(&self, inner: &Inner) {
        self.stats.active.set(inner.live.len() as u64);
        let (listeners, chains): (Vec<_>, Vec<_>) = inner.draining.iter().partition(|d| d.listener.is_some());
        self.stats.draining.set(listeners.len() as u64);
        self.stats.chains_draining.set(chains.iter().map(|d| d.chains.len() as u64).sum());
    }

    /// Ends what has drained for long enough, and lets go of what nobody uses any more. To be called now and then; whether
    /// anything was let go.
    pub fn sweep(&self) -> bool {
        let mut inner = self.inner.lock();
        let before = inner.draining.len();
        let now = Instant::now();
        inner.draining.retain_mut(|d| {
            if now >= d.until {
                d.chains.iter().for_each(|c| c.end());
                return false;
            }
            // Connections hold their chain.
            d.chains.retain(|c| Arc::strong_count(c) > if d.listener.is_some() { 2 } else { 1 });
            !d.chains.is_empty()
        });
        let gone = inner.draining.len() < before;
        if gone {
            self.count(&inner);
        }
        gone
    }

    /// Those that are open, in the order they were opened.
    pub fn all(&self) -> Vec<Arc<Listener>> {
        self.inner.lock().live.iter().map(|l| l.slot.load_full()).collect()
    }

    /// The listener of a name, and who configured it.
    pub fn find(&self, name: &str) -> Option<(Arc<Listener>, Origin)> {
        let inner = self.inner.lock();
        inner.live.iter().map(|l| (l.slot.load_full(), l.origin)).find(|(l, _)| l.config.name == name)
    }

    /// Listeners that drain, by name.
    pub fn draining(&self) -> Vec<Arc<Listener>> {
        self.inner.lock().draining.iter().filter_map(|d| d.listener.clone()).collect()
    }
}

/// A socket per worker, or one for all.
fn bind_address(
    config: &config::Listener,
    address: &config::ListenerAddress,
    sockets: &mut [Vec<Bound>],
) -> std::io::Result<()> {
    let mut first: Option<Bound> = None;
    for own in sockets {
        let bound = match &first {
            Some(f) if !config.reuse_port || matches!(address.address, Address::Pipe { .. }) => f.try_clone()?,
            Some(f) => {
                // A port the system chose is shared by all workers.
                let mut address = address.clone();
                if let Some(a) = f.local_addr() {
                    address.address = Address::Ip(a);
                }
                bind::bind(config, &address)?
            }
            None => bind::bind(config, address)?,
        };
        if first.is_none() {
            first = Some(bound.try_clone()?);
        }
        own.push(bound);
    }
    Ok(())
}
