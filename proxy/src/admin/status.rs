//! Plain data about clusters, hosts and listeners.

use std::net::SocketAddr;

use crate::config::Locality;
use crate::stream_info::PeerAddr;

/// A cluster as `/clusters` shows it.
#[derive(Debug, Clone, Default)]
pub struct ClusterStatus {
    /// Name.
    pub name: String,
    /// `alt_stat_name`, or the name.
    pub observability_name: String,
    /// Not from the bootstrap.
    pub added_via_api: bool,
    /// `eds_cluster_config.service_name`; empty: none.
    pub eds_service_name: String,
    /// Where outlier detection is configured: what success rates are compared with.
    pub outlier: Option<OutlierThresholds>,
    /// Circuit breakers of the default priority.
    pub default_priority: Thresholds,
    /// Circuit breakers of the high priority.
    pub high_priority: Thresholds,
    /// Hosts, by priority and then in the order of the endpoint's configuration.
    pub hosts: Vec<HostStatus>,
}

/// Averages and thresholds of success rate ejection; `None`: not computed (yet).
#[derive(Debug, Clone, Copy, Default)]
pub struct OutlierThresholds {
    /// Average success rate.
    pub average: Option<f64>,
    /// Below this rate hosts are ejected.
    pub threshold: Option<f64>,
    /// The same for errors that come from this side.
    pub local_origin_average: Option<f64>,
    /// The same for errors that come from this side.
    pub local_origin_threshold: Option<f64>,
}

/// Circuit breakers of a priority.
#[derive(Debug, Clone, Copy)]
pub struct Thresholds {
    /// Connections.
    pub max_connections: u32,
    /// Requests that wait for a connection.
    pub max_pending_requests: u32,
    /// Requests.
    pub max_requests: u32,
    /// Retries.
    pub max_retries: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds { max_connections: 1024, max_pending_requests: 1024, max_requests: 1024, max_retries: 3 }
    }
}

/// A host as `/clusters` shows it.
#[derive(Debug, Clone)]
pub struct HostStatus {
    /// Its address.
    pub address: PeerAddr,
    /// Its name; empty: none.
    pub hostname: String,
    /// Counters: `cx_connect_fail`, `cx_total`, `rq_error`, `rq_success`, `rq_timeout`, `rq_total`.
    pub counters: Vec<(&'static str, u64)>,
    /// Gauges: `cx_active`, `rq_active`, `rq_pending_active`.
    pub gauges: Vec<(&'static str, u64)>,
    /// Health.
    pub health: HealthFlags,
    /// Weight.
    pub weight: u32,
    /// Locality.
    pub locality: Locality,
    /// `envoy.lb` metadata has `canary`.
    pub canary: bool,
    /// Priority.
    pub priority: u32,
    /// Success rate of the last interval, in percent; `None`: too few requests.
    pub success_rate: Option<f64>,
    /// The same for errors that come from this side.
    pub local_origin_success_rate: Option<f64>,
}

impl HostStatus {
    /// A healthy host of which nothing else is known.
    pub fn new(address: PeerAddr) -> Self {
        HostStatus {
            address,
            hostname: String::new(),
            counters: Vec::new(),
            gauges: Vec::new(),
            health: HealthFlags::default(),
            weight: 1,
            locality: Locality::default(),
            canary: false,
            priority: 0,
            success_rate: None,
            local_origin_success_rate: None,
        }
    }
}

/// Why a host is not healthy. None set: it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HealthFlags {
    /// Active health checking failed.
    pub failed_active_hc: bool,
    /// Ejected as an outlier.
    pub failed_outlier_check: bool,
    /// Unhealthy as its endpoint's configuration has it.
    pub failed_eds_health: bool,
    /// Active health checking found it degraded.
    pub degraded_active_hc: bool,
    /// Degraded as its endpoint's configuration has it.
    pub degraded_eds_health: bool,
    /// Gone from discovery, kept because it is still healthy.
    pub pending_dynamic_removal: bool,
    /// Not checked yet.
    pub pending_active_hc: bool,
    /// Told to be excluded by an immediate failure header.
    pub excluded_via_immediate_hc_fail: bool,
    /// Active health checking timed out.
    pub active_hc_timeout: bool,
    /// Draining as its endpoint's configuration has it.
    pub eds_status_draining: bool,
}

impl HealthFlags {
    /// The flags as `/clusters` writes them.
    pub fn names(&self) -> String {
        let flags = [
            (self.failed_active_hc, "/failed_active_hc"),
            (self.failed_outlier_check, "/failed_outlier_check"),
            (self.failed_eds_health, "/failed_eds_health"),
            (self.degraded_active_hc, "/degraded_active_hc"),
            (self.degraded_eds_health, "/degraded_eds_health"),
            (self.pending_dynamic_removal, "/pending_dynamic_removal"),
            (self.pending_active_hc, "/pending_active_hc"),
            (self.excluded_via_immediate_hc_fail, "/excluded_via_immediate_hc_fail"),
            (self.active_hc_timeout, "/active_hc_timeout"),
            (self.eds_status_draining, "/eds_status_draining"),
        ];
        let names: String = flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
        if names.is_empty() { "healthy".to_owned() } else { names }
    }
}

/// A listener as `/listeners` shows it.
#[derive(Debug, Clone)]
pub struct ListenerStatus {
    /// Name.
    pub name: String,
    /// The addresses it is bound to, the port the system chose included.
    pub addresses: Vec<PeerAddr>,
}

impl ListenerStatus {
    /// A listener on one IP address.
    pub fn new(name: impl Into<String>, address: SocketAddr) -> Self {
        ListenerStatus { name: name.into(), addresses: vec![PeerAddr::Ip(address)] }
    }
}
