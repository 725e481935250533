//! ORIGINAL_DST clusters: the connection, or the request, names the host; it is made when it is first asked for.
//!
//! Owns the hosts by address and which of them were asked for lately. Runs on: workers look up and add; the control thread
//! removes those that nobody uses.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderMap, HeaderName};
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use super::{Cluster, ClusterStats, Host};
use crate::config::{self, Address, ConfigError, Discovery};
use crate::stream_info::{ConnInfo, PeerAddr};

/// What an ORIGINAL_DST cluster has besides what every cluster has.
pub(super) struct OriginalDst {
    header: Option<HeaderName>,
    port: Option<u16>,
    hosts: RwLock<HashMap<SocketAddr, Entry>>,
    next_cleanup: Mutex<Instant>,
}

struct Entry {
    host: Arc<Host>,
    /// Asked for since the last cleanup.
    used: AtomicBool,
}

impl OriginalDst {
    /// `None`: the cluster is of another kind.
    ///
    /// # Errors
    /// The header is not one.
    pub(super) fn new(config: &config::Cluster) -> Result<Option<Self>, ConfigError> {
        let Discovery::OriginalDst { http_header, port } = &config.discovery else { return Ok(None) };
        let header = http_header.as_deref().map(HeaderName::try_from).transpose();
        Ok(Some(OriginalDst {
            header: header.map_err(|e| ConfigError::at("original_dst_lb_config.http_header_name", e.to_string()))?,
            port: *port,
            hosts: RwLock::default(),
            next_cleanup: Mutex::new(Instant::now() + config.cleanup_interval),
        }))
    }

    /// The header of a request, the destination that was restored; with the port that overrides it.
    fn destination(&self, headers: Option<&HeaderMap>, conn: &ConnInfo, stats: &ClusterStats) -> Option<SocketAddr> {
        let mut address = self.named(headers, stats).or(match conn.local {
            PeerAddr::Ip(local) if conn.local_restored => Some(local),
            _ => None,
        })?;
        if let Some(port) = self.port {
            address.set_port(port);
        }
        Some(address)
    }

    fn named(&self, headers: Option<&HeaderMap>, stats: &ClusterStats) -> Option<SocketAddr> {
        // The client wrote it: of several values only the first counts.
        let value = headers?.get(self.header.as_ref()?)?;
        let address = value.to_str().ok().and_then(|v| v.parse().ok());
        if address.is_none() {
            stats.original_dst_host_invalid.inc();
        }
        address
    }

    fn find(&self, address: &SocketAddr) -> Option<Arc<Host>> {
        let hosts = self.hosts.read();
        let entry = hosts.get(address)?;
        entry.used.store(true, Ordering::Relaxed);
        Some(entry.host.clone())
    }
}

impl Cluster {
    /// Where a request or connection goes, in an ORIGINAL_DST cluster; `None` in any other, or where nothing says.
    pub fn destination(&self, headers: Option<&HeaderMap>, conn: &ConnInfo) -> Option<SocketAddr> {
        self.original_dst.as_ref()?.destination(headers, conn, &self.stats)
    }

    /// The host of a destination.
    pub(super) fn host_at(&self, original: &OriginalDst, address: SocketAddr) -> Arc<Host> {
        if let Some(host) = original.find(&address) {
            return host;
        }
        let _one = self.publishing.lock();
        // Another worker may have been first.
        if let Some(host) = original.find(&address) {
            return host;
        }
        let endpoint = config::Endpoint {
            address: Address::Ip(address),
            additional_addresses: Vec::new(),
            hostname: String::new(),
            weight: 1,
            health: config::HealthStatus::Unknown,
            metadata: config::Metadata::default(),
        };
        let place = Arc::default();
        let host = Arc::new(Host::at_address(&endpoint, &place, self.lb.len()));
        let entry = Entry { host: host.clone(), used: AtomicBool::new(true) };
        original.hosts.write().insert(address, entry);
        let mut hosts: Vec<_> = self.hosts.load().all().cloned().collect();
        hosts.push(host.clone());
        self.publish_hosts(hosts);
        host
    }

    /// Removes hosts that have no connection and were not asked for since the last time, if an interval has passed. Called by
    /// the control thread, which is told when to call again; `None`: the cluster is of another kind.
    pub fn sweep_original_dst(&self) -> Option<Instant> {
        let original = self.original_dst.as_ref()?;
        let mut next = original.next_cleanup.lock();
        let now = Instant::now();
        if now < *next {
            return Some(*next);
        }
        *next = now + self.config.cleanup_interval.max(super::MIN_SWEEP);
        let _one = self.publishing.lock();
        let mut gone = Vec::new();
        let stay: Vec<_> = {
            let mut hosts = original.hosts.write();
            hosts.retain(|_, entry| {
                let keep =
                    entry.used.swap(false, Ordering::Relaxed) || entry.host.cx_active.load(Ordering::Relaxed) > 0;
                if !keep {
                    gone.push(entry.host.clone());
                }
                keep
            });
            hosts.values().map(|e| e.host.clone()).collect()
        };
        if !gone.is_empty() {
            self.publish_hosts(stay);
            self.let_go(gone.iter());
        }
        Some(*next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixture::parts;
    use crate::cluster::lb;

    fn cluster(fields: &str) -> Arc<Cluster> {
        let text = format!(
            "static_resources: {{clusters: [{{name: o, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, cleanup_interval: 2s{fields}}}]}}"
        );
        let loaded = config::from_file::load(None, Some(&text), &config::from_file::LoadOptions::default()).unwrap();
        Cluster::new(loaded.bootstrap.clusters[0].clone(), &parts(1)).unwrap()
    }

    fn conn(local: &str, restored: bool) -> ConnInfo {
        let local = PeerAddr::Ip(local.parse().unwrap());
        ConnInfo { local, local_restored: restored, ..crate::access_log::fixture::conn() }
    }

    fn pick(cluster: &Cluster, destination: Option<SocketAddr>) -> Option<String> {
        let host = cluster.pick(0, &lb::Request { destination, ..lb::Request::default() })?;
        Some(host.address.to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn the_restored_destination_is_the_host() {
        let cluster = cluster("");
        let restored = conn("10.0.0.1:80", true);
        let at = |conn: &ConnInfo| cluster.destination(None, conn);
        assert_eq!(pick(&cluster, at(&restored)).unwrap(), "10.0.0.1:80");
        assert_eq!(pick(&cluster, at(&restored)).unwrap(), "10.0.0.1:80");
        assert_eq!(pick(&cluster, at(&conn("10.0.0.1:80", false))), None, "it is the listener's own address");
        assert_eq!(cluster.hosts().counts(), (1, 1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_comes_first_and_a_port_replaces_any() {
        let cluster = cluster(
            ", original_dst_lb_config: {use_http_header: true, http_header_name: x-to, upstream_port_override: 99}",
        );
        let mut headers = HeaderMap::new();
        let restored = conn("10.0.0.1:80", true);
        headers.insert("x-to", "10.0.0.2:81".parse().unwrap());
        headers.append("x-to", "10.0.0.3:81".parse().unwrap());
        let to = |headers: &HeaderMap| cluster.destination(Some(headers), &restored).unwrap().to_string();
        assert_eq!(to(&headers), "10.0.0.2:99");
        headers.insert("x-to", "[::1]:5".parse().unwrap());
        assert_eq!(to(&headers), "[::1]:99");
        headers.insert("x-to", "nonsense".parse().unwrap());
        assert_eq!(to(&headers), "10.0.0.1:99");
        assert_eq!(cluster.stats.original_dst_host_invalid.value(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn hosts_that_nobody_uses_go() {
        use std::time::Duration;
        let cluster = cluster("");
        let address = |n: u8| Some(SocketAddr::from(([10, 0, 0, n], 80)));
        for n in 1..=3 {
            pick(&cluster, address(n)).unwrap();
        }
        let busy = cluster.host_at(cluster.original_dst.as_ref().unwrap(), address(1).unwrap());
        busy.cx_active.store(1, Ordering::Relaxed);
        tokio::time::advance(Duration::from_secs(2)).await;
        cluster.sweep_original_dst();
        assert_eq!(cluster.hosts().counts().0, 3, "all were asked for");
        pick(&cluster, address(2)).unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        cluster.sweep_original_dst();
        assert_eq!(cluster.hosts().counts().0, 3, "not yet");
        tokio::time::advance(Duration::from_secs(1)).await;
        cluster.sweep_original_dst();
        let mut left: Vec<_> = cluster.hosts().all().map(|h| h.address.to_string()).collect();
        left.sort();
        assert_eq!(left, ["10.0.0.1:80", "10.0.0.2:80"]);
    }
}
