//! Listeners by address: where a connection that a redirect rule sent to one listener finds the one it was meant for.
//!
//! Runs on: workers look up; the control thread publishes.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;

use super::Listener;
use crate::config::{Address, ListenerAddress};
use crate::stream_info::PeerAddr;

/// The listeners of the process.
#[derive(Default)]
pub struct Directory(ArcSwap<HashMap<SocketAddr, Entry>>);

#[derive(Clone)]
struct Entry {
    listener: Weak<Listener>,
    /// An IPv6 wildcard that takes IPv4 as well.
    ipv4_compat: bool,
}

impl Directory {
    /// Replaces what is known.
    pub fn publish(&self, listeners: &[Arc<Listener>]) {
        let mut all = HashMap::new();
        for listener in listeners {
            for ListenerAddress { address, ipv4_compat } in &listener.config.addresses {
                if let Address::Ip(ip) = address {
                    let entry = Entry { listener: Arc::downgrade(listener), ipv4_compat: *ipv4_compat };
                    all.entry(*ip).or_insert(entry);
                }
            }
        }
        self.0.store(Arc::new(all));
    }

    /// The listener of an address: the very address, else the wildcard with its port. Those that stop accepting do not count.
    pub fn find(&self, address: &PeerAddr) -> Option<Arc<Listener>> {
        let PeerAddr::Ip(address) = address else { return None };
        let all = self.0.load();
        let live = |entry: &Entry| entry.listener.upgrade().filter(|l| !l.stop.is_draining());
        if let Some(found) = all.get(address).and_then(live) {
            return Some(found);
        }
        let any = |ip: IpAddr| all.get(&SocketAddr::new(ip, address.port()));
        let v6 = || any(Ipv6Addr::UNSPECIFIED.into());
        match address.ip() {
            IpAddr::V4(_) => any(Ipv4Addr::UNSPECIFIED.into())
                .and_then(live)
                .or_else(|| v6().filter(|e| e.ipv4_compat).and_then(live)),
            IpAddr::V6(_) => v6().and_then(live),
        }
    }
}
