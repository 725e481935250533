//! ORIGINAL_DST clusters: the connection, or the request, names the host; it is made when it is first asked for.
//!
//! Owns the hosts by address and which of them were asked for lately. Runs on: workers look up and add; the control thread
//! removes those that nobody uses.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderName;

use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use tokio::time::Instant;

use super::{Cluster, ClusterStats, Host};
use crate::config::{self, Address, ConfigError, Discovery, MetadataKey};
use crate::http::HeaderMap;
use crate::stream_info::{PeerAddr, StreamInfo};

/// Hosts of a cluster, until a cleanup makes room: clients choose them, and each costs memory and a pass over all of them.
const MAX_HOSTS: usize = 16_384;

/// What an ORIGINAL_DST cluster has besides what every cluster has.
pub(super) struct OriginalDst {
    header: Option<HeaderName>,
    metadata: Option<MetadataKey>,
    port: Option<u16>,
    hosts: RwLock<HashMap<SocketAddr, Entry>>,
    next_cleanup: Mutex<Instant>,
    max_hosts: usize,
    /// Somebody was refused since the last cleanup, and the log says so.
    full: AtomicBool,
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
        let Discovery::OriginalDst { http_header, metadata, port } = &config.discovery else { return Ok(None) };
        let header = http_header.as_deref().map(HeaderName::try_from).transpose();
        Ok(Some(OriginalDst {
            header: header.map_err(|e| ConfigError::at("original_dst_lb_config.http_header_name", e.to_string()))?,
            metadata: metadata.clone(),
            port: *port,
            hosts: RwLock::default(),
            next_cleanup: Mutex::new(Instant::now() + config.cleanup_interval),
            max_hosts: MAX_HOSTS,
            full: AtomicBool::new(false),
        }))
    }

    /// Metadata, the header of a request, the destination that was restored, in this order; with the port that overrides it.
    fn destination(&self, headers: Option<&HeaderMap>, info: &StreamInfo, stats: &ClusterStats) -> Option<SocketAddr> {
        let restored = || match info.conn.local {
            PeerAddr::Ip(local) if info.conn.local_restored => Some(local),
            _ => None,
        };
        let mut address = self.stored(info, stats).or_else(|| self.named(headers, stats)).or_else(restored)?;
        if let Some(port) = self.port {
            address.set_port(port);
        }
        Some(address)
    }

    /// What a filter left for the request, or a listener filter for the connection.
    fn stored(&self, info: &StreamInfo, stats: &ClusterStats) -> Option<SocketAddr> {
        let key = self.metadata.as_ref()?;
        let find = |all: &BTreeMap<String, Value>| {
            let mut value = all.get(&key.namespace)?;
            for step in &key.path {
                value = value.get(step)?;
            }
            // Of a list the first counts.
            let value = value.as_array().map_or(Some(value), |list| list.first())?;
            value.as_str().map(str::to_owned)
        };
        let text = info.metadata.as_deref().and_then(find).or_else(|| find(&info.conn.metadata))?;
        let address = text.parse().ok();
        if address.is_none() {
            stats.original_dst_host_invalid.inc();
        }
        address
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
    pub fn destination(&self, headers: Option<&HeaderMap>, info: &StreamInfo) -> Option<SocketAddr> {
        self.original_dst.as_ref()?.destination(headers, info, &self.stats)
    }

    /// The host of a destination; `None`: there are as many as may be.
    pub(super) fn host_at(&self, original: &OriginalDst, address: SocketAddr) -> Option<Arc<Host>> {
        if let Some(host) = original.find(&address) {
            return Some(host);
        }
        let _one = self.publishing.lock();
        // Another worker may have been first.
        if let Some(host) = original.find(&address) {
            return Some(host);
        }
        if original.hosts.read().len() >= original.max_hosts {
            if !original.full.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    cluster = %self.name,
                    "{} destinations are in use: {address} and further ones are refused until the next cleanup; a shorter \
                     cleanup_interval frees them sooner",
                    original.max_hosts
                );
            }
            return None;
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
        Some(host)
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
        original.full.store(false, Ordering::Relaxed);
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

    fn conn(local: &str, restored: bool) -> StreamInfo {
        let local = PeerAddr::Ip(local.parse().unwrap());
        let metadata =
            BTreeMap::from([("m".to_owned(), serde_json::json!({ "to": { "host": "10.0.0.7:1" }, "bad": "x" }))]);
        let conn = crate::stream_info::ConnInfo {
            local,
            local_restored: restored,
            metadata,
            ..crate::access_log::fixture::conn()
        };
        StreamInfo::new(Arc::new(conn), 0, None)
    }

    fn pick(cluster: &Cluster, destination: Option<SocketAddr>) -> Option<String> {
        let host = cluster.pick(0, &lb::Request { destination, ..lb::Request::default() })?;
        Some(host.address.to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn the_restored_destination_is_the_host() {
        let cluster = cluster("");
        let restored = conn("10.0.0.1:80", true);
        let at = |conn: &StreamInfo| cluster.destination(None, conn);
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
    async fn metadata_comes_before_all() {
        let by = |path: &str| {
            cluster(&format!(
                ", original_dst_lb_config: {{use_http_header: true, metadata_key: {{key: m, path: [{path}]}}}}"
            ))
        };
        let mut headers = HeaderMap::new();
        headers.insert("x-envoy-original-dst-host", "10.0.0.2:81".parse().unwrap());
        let mut info = conn("10.0.0.1:80", true);
        let nested = by("{key: to}, {key: host}");
        let to = |cluster: &Cluster, info: &StreamInfo| cluster.destination(Some(&headers), info).unwrap().to_string();
        assert_eq!(to(&nested, &info), "10.0.0.7:1");
        let own = serde_json::json!({ "to": { "host": ["[::1]:2", "10.0.0.9:1"] } });
        info.metadata = Some(Box::new(BTreeMap::from([("m".to_owned(), own)])));
        assert_eq!(to(&nested, &info), "[::1]:2", "the request's own, and of a list the first");
        let bad = by("{key: bad}");
        assert_eq!(to(&bad, &info), "10.0.0.2:81");
        assert_eq!(bad.stats.original_dst_host_invalid.value(), 1);
        assert_eq!(to(&by("{key: absent}"), &info), "10.0.0.2:81");
    }

    #[tokio::test(start_paused = true)]
    async fn hosts_that_nobody_uses_go() {
        use std::time::Duration;
        let cluster = cluster("");
        let address = |n: u8| Some(SocketAddr::from(([10, 0, 0, n], 80)));
        for n in 1..=3 {
            pick(&cluster, address(n)).unwrap();
        }
        let busy = cluster.host_at(cluster.original_dst.as_ref().unwrap(), address(1).unwrap()).unwrap();
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

    #[tokio::test(start_paused = true)]
    async fn beyond_the_bound_only_a_cleanup_makes_room() {
        use std::time::Duration;
        let mut cluster = cluster("");
        Arc::get_mut(&mut cluster).unwrap().original_dst.as_mut().unwrap().max_hosts = 2;
        let address = |n: u8| Some(SocketAddr::from(([10, 0, 0, n], 80)));
        assert!(pick(&cluster, address(1)).is_some());
        assert!(pick(&cluster, address(2)).is_some());
        assert!(pick(&cluster, address(3)).is_none(), "the bound");
        assert!(pick(&cluster, address(2)).is_some(), "known ones are served");
        for _ in 0..2 {
            tokio::time::advance(Duration::from_secs(2)).await;
            cluster.sweep_original_dst();
        }
        assert!(pick(&cluster, address(3)).is_some());
    }
}
