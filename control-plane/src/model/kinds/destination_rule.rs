//! Istio's DestinationRule: how a service is reached.

use std::time::Duration;

use super::meta::Labels;
use super::virtual_service::{Percent, PortSelector};
use crate::model::read::{choice, record};

record! {
    /// A DestinationRule. **Source**: `networking.istio.io/v1.DestinationRule`.
    pub struct DestinationRule (ignoring "status") {
        /// The rule.
        spec: DestinationRuleSpec,
    }
}

record! {
    /// How a host is reached. **Source**: `networking.istio.io/v1.DestinationRule`.
    pub struct DestinationRuleSpec {
        /// A short or full name, or `*.example.com`.
        host: String,
        /// For all of it.
        traffic_policy: Option<TrafficPolicy>,
        /// Named parts of it.
        subsets: Vec<Subset>,
        /// Namespaces that see it. Default: the mesh's `defaultDestinationRuleExportTo`.
        export_to: Vec<String>,
        /// Only for these callers, in its own namespace.
        workload_selector: Option<WorkloadSelector>,
    }
}

record! {
    /// Workloads by labels, in one of two spellings. **Source**: `type.istio.io/v1beta1.WorkloadSelector`,
    /// `networking.istio.io/v1.WorkloadSelector`.
    pub struct WorkloadSelector {
        /// Labels a workload must have.
        match_labels: Labels,
        /// The same.
        labels: Labels,
    }
}

impl WorkloadSelector {
    /// Whether it takes a workload with these labels.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        super::meta::contains_all(labels, &self.match_labels) && super::meta::contains_all(labels, &self.labels)
    }

    /// Whether it takes every workload.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.labels.is_empty()
    }
}

record! {
    /// A named part of a service. **Source**: `networking.istio.io/v1.Subset`.
    pub struct Subset {
        /// Its name.
        name: String,
        /// Labels its endpoints have.
        labels: Labels,
        /// What differs from the whole.
        traffic_policy: Option<TrafficPolicy>,
    }
}

record! {
    /// How traffic goes. **Source**: `networking.istio.io/v1.TrafficPolicy`.
    pub struct TrafficPolicy {
        /// Which endpoint.
        load_balancer: Option<LoadBalancer>,
        /// How many connections.
        connection_pool: Option<ConnectionPool>,
        /// When an endpoint is left out.
        outlier_detection: Option<OutlierDetection>,
        /// Encryption.
        tls: Option<ClientTls>,
        /// Other settings for single ports: they replace, and do not inherit.
        port_level_settings: Vec<PortTrafficPolicy>,
        /// The PROXY protocol.
        proxy_protocol: Option<ProxyProtocol>,
        /// How many retries at once, as a share of requests.
        retry_budget: Option<RetryBudget>,
        /// Connections of bytes and of TLS go through a request to the host.
        tunnel: Option<Tunnel>,
    }
}

record! {
    /// Connections inside of a request. **Source**: `networking.istio.io/v1.TrafficPolicy.TunnelSettings`.
    pub struct Tunnel {
        /// `CONNECT` (the default) or `POST`.
        protocol: Option<String>,
        /// Where the host is to connect to: a name or an address.
        target_host: String,
        /// Its port.
        target_port: u32,
    }
}

record! {
    /// Settings of one port. **Source**: `networking.istio.io/v1.TrafficPolicy.PortTrafficPolicy`.
    pub struct PortTrafficPolicy {
        /// Which port.
        port: Option<PortSelector>,
        /// Which endpoint.
        load_balancer: Option<LoadBalancer>,
        /// How many connections.
        connection_pool: Option<ConnectionPool>,
        /// When an endpoint is left out.
        outlier_detection: Option<OutlierDetection>,
        /// Encryption.
        tls: Option<ClientTls>,
    }
}

record! {
    /// Load balancing. **Source**: `networking.istio.io/v1.LoadBalancerSettings`.
    pub struct LoadBalancer {
        /// An algorithm.
        simple: Option<SimpleLb>,
        /// By a hash of the request.
        consistent_hash: Option<ConsistentHash>,
        /// Localities; overrides the mesh's.
        locality_lb_setting: Option<LocalityLb>,
        /// The caller's own zone first, as far as it suffices; goes before localities.
        zone_aware_lb_setting: Option<ZoneAwareLb>,
        /// How long a new endpoint takes to its full share.
        warmup: Option<Warmup>,
        /// Its former form.
        warmup_duration_secs: Option<Duration>,
    }
}

choice! {
    /// A load-balancing algorithm. **Source**: `networking.istio.io/v1.LoadBalancerSettings.SimpleLB`.
    pub enum SimpleLb {
        /// The mesh's choice: the less busy of two.
        #[default]
        Unspecified = "UNSPECIFIED",
        /// Any.
        Random = "RANDOM",
        /// Where the client wanted to go.
        Passthrough = "PASSTHROUGH",
        /// In turn.
        RoundRobin = "ROUND_ROBIN",
        /// The less busy of two.
        LeastRequest = "LEAST_REQUEST",
        /// Its former name.
        LeastConn = "LEAST_CONN",
    }
}

record! {
    /// Slow start. **Source**: `networking.istio.io/v1.WarmupConfiguration`.
    pub struct Warmup {
        /// How long.
        duration: Option<Duration>,
        /// The share at the start, in percent. Default: 10.
        minimum_percent: Option<f64>,
        /// The shape of the rise. Default: 1.0, a line.
        aggression: Option<f64>,
    }
}

record! {
    /// A hash of the request chooses the endpoint. **Source**: `networking.istio.io/v1.LoadBalancerSettings.ConsistentHashLB`.
    pub struct ConsistentHash {
        /// Of a header.
        http_header_name: Option<String>,
        /// Of a cookie, which is made if it is missing.
        http_cookie: Option<HttpCookie>,
        /// Of the caller's address.
        use_source_ip: Option<bool>,
        /// Of a query parameter.
        http_query_parameter_name: Option<String>,
        /// By a ring (the default).
        ring_hash: Option<RingHash>,
        /// By Maglev's table.
        maglev: Option<Maglev>,
        /// The former place of the ring's size.
        minimum_ring_size: Option<u64>,
    }
}

record! {
    /// A cookie. **Source**: `networking.istio.io/v1.LoadBalancerSettings.ConsistentHashLB.HTTPCookie`.
    pub struct HttpCookie {
        /// Its name.
        name: String,
        /// Its path.
        path: Option<String>,
        /// How long it lives; 0: the session. Without, none is made.
        ttl: Option<Duration>,
        /// What else is said of one that is made.
        attributes: Vec<CookieAttribute>,
    }
}

record! {
    /// An attribute. **Source**: `networking.istio.io/v1.LoadBalancerSettings.ConsistentHashLB.HTTPCookie.Attribute`.
    pub struct CookieAttribute {
        /// Its name, such as `SameSite`.
        name: String,
        /// Its value, if it has one.
        value: Option<String>,
    }
}

record! {
    /// A ring. **Source**: `networking.istio.io/v1.LoadBalancerSettings.ConsistentHashLB.RingHash`.
    pub struct RingHash {
        /// Its least size. Default: 1024.
        minimum_ring_size: Option<u64>,
    }
}

record! {
    /// Maglev's table. **Source**: `networking.istio.io/v1.LoadBalancerSettings.ConsistentHashLB.MagLev`.
    pub struct Maglev {
        /// Its size, a prime. Default: 65537.
        table_size: Option<u64>,
    }
}

record! {
    /// Localities. **Source**: `networking.istio.io/v1.LocalityLoadBalancerSetting`.
    pub struct LocalityLb {
        /// Shares by the caller's locality.
        distribute: Vec<Distribute>,
        /// Which region takes over.
        failover: Vec<Failover>,
        /// Labels that must be equal, from the most to the least important.
        failover_priority: Vec<String>,
        /// Whether localities count. Default: true.
        enabled: Option<bool>,
    }
}

record! {
    /// The caller's own zone first. **Source**: `networking.istio.io/v1.ZoneAwareLoadBalancerSetting`.
    pub struct ZoneAwareLb {
        /// Default: true.
        enabled: Option<bool>,
        /// Which region takes over.
        failover: Vec<Failover>,
        /// Labels that must be equal, from the most to the least important.
        failover_priority: Vec<String>,
        /// With fewer endpoints zones do not count. Default: Envoy's, 6.
        min_cluster_size: Option<u64>,
    }
}

record! {
    /// Shares. **Source**: `networking.istio.io/v1.LocalityLoadBalancerSetting.Distribute`.
    pub struct Distribute {
        /// The caller's locality: `region/zone/sub-zone`, `*` at the end for any.
        from: String,
        /// Percentages by locality, 100 in all.
        to: std::collections::BTreeMap<String, u32>,
    }
}

record! {
    /// Which region takes over. **Source**: `networking.istio.io/v1.LocalityLoadBalancerSetting.Failover`.
    pub struct Failover {
        /// The caller's region.
        from: String,
        /// The region that takes over.
        to: String,
    }
}

record! {
    /// Limits. **Source**: `networking.istio.io/v1.ConnectionPoolSettings`.
    pub struct ConnectionPool {
        /// Of connections.
        tcp: Option<TcpPool>,
        /// Of requests.
        http: Option<HttpPool>,
    }
}

record! {
    /// Limits of connections. **Source**: `networking.istio.io/v1.ConnectionPoolSettings.TCPSettings`.
    pub struct TcpPool {
        /// How many. Default: no limit.
        max_connections: Option<u32>,
        /// How long connecting may take. Default: the mesh's.
        connect_timeout: Option<Duration>,
        /// Keepalive.
        tcp_keepalive: Option<TcpKeepalive>,
        /// How long a connection lives.
        max_connection_duration: Option<Duration>,
        /// How long without data a TCP connection lives.
        idle_timeout: Option<Duration>,
    }
}

record! {
    /// TCP keepalive. **Source**: `networking.istio.io/v1.ConnectionPoolSettings.TCPSettings.TcpKeepalive`.
    pub struct TcpKeepalive {
        /// How many probes.
        probes: Option<u32>,
        /// The idle time before the first.
        time: Option<Duration>,
        /// Between probes.
        interval: Option<Duration>,
    }
}

record! {
    /// Limits of requests. **Source**: `networking.istio.io/v1.ConnectionPoolSettings.HTTPSettings`.
    pub struct HttpPool {
        /// Requests waiting for a connection. Default: no limit.
        http1_max_pending_requests: Option<u32>,
        /// Requests at once. Default: no limit.
        http2_max_requests: Option<u32>,
        /// Requests per connection; 0: no limit.
        max_requests_per_connection: Option<u32>,
        /// Retries at once. Default: no limit.
        max_retries: Option<u32>,
        /// How long an unused connection is kept.
        idle_timeout: Option<Duration>,
        /// Whether HTTP/2 is used to the upstream.
        h2_upgrade_policy: H2Upgrade,
        /// Use what the client speaks.
        use_client_protocol: Option<bool>,
        /// Streams at once per HTTP/2 connection.
        max_concurrent_streams: Option<u32>,
        /// PINGs on HTTP/2 connections.
        http2_keep_alive: Option<ConnectionKeepalive> = "http2KeepAlive",
    }
}

record! {
    /// PINGs. **Source**: `networking.istio.io/v1.ConnectionPoolSettings.HTTPSettings.ConnectionKeepalive`.
    pub struct ConnectionKeepalive {
        /// Between two.
        interval: Option<Duration>,
        /// How long the answer may take.
        timeout: Option<Duration>,
    }
}

choice! {
    /// Whether HTTP/1.1 becomes HTTP/2. **Source**: `networking.istio.io/v1.ConnectionPoolSettings.HTTPSettings.H2UpgradePolicy`.
    pub enum H2Upgrade {
        /// As the port says.
        #[default]
        Default = "DEFAULT",
        /// Never.
        DoNotUpgrade = "DO_NOT_UPGRADE",
        /// Always.
        Upgrade = "UPGRADE",
    }
}

record! {
    /// When an endpoint is left out. **Source**: `networking.istio.io/v1.OutlierDetection`.
    pub struct OutlierDetection {
        /// Former form of [`consecutive_5xx_errors`](Self::consecutive_5xx_errors).
        consecutive_errors: Option<u32>,
        /// Errors of any kind in a row. Default: 5; 0: never.
        consecutive_5xx_errors: Option<u32> = "consecutive5xxErrors",
        /// 502, 503, 504 in a row. Default: never.
        consecutive_gateway_errors: Option<u32>,
        /// Failures to connect in a row, if counted apart. Default: 5.
        consecutive_local_origin_failures: Option<u32>,
        /// Whether failures to connect are counted apart.
        split_external_local_origin_errors: bool,
        /// Between looks. Default: 10 s.
        interval: Option<Duration>,
        /// For how long, times how often. Default: 30 s.
        base_ejection_time: Option<Duration>,
        /// How many at most, in percent. Default: 10.
        max_ejection_percent: Option<u32>,
        /// Below this percentage of healthy ones all are used. Default: 0, never.
        min_health_percent: Option<u32>,
    }
}

record! {
    /// Encryption to the upstream. **Source**: `networking.istio.io/v1.ClientTLSSettings`.
    pub struct ClientTls {
        /// Which.
        mode: ClientTlsMode,
        /// Our certificate chain, a file.
        client_certificate: Option<String>,
        /// Our key, a file.
        private_key: Option<String>,
        /// Who may sign the other's certificate, a file. Default: the system's.
        ca_certificates: Option<String>,
        /// A Secret with all three.
        credential_name: Option<String>,
        /// Names one of which the other's certificate must have.
        subject_alt_names: Vec<String>,
        /// The server name we ask for. Default: the host of the request.
        sni: Option<String>,
        /// Whether anything is accepted.
        insecure_skip_verify: Option<bool>,
        /// Revoked certificates, a file.
        ca_crl: Option<String>,
    }
}

choice! {
    /// Modes of encryption. **Source**: `networking.istio.io/v1.ClientTLSSettings.TLSmode`.
    pub enum ClientTlsMode {
        /// None.
        #[default]
        Disable = "DISABLE",
        /// TLS.
        Simple = "SIMPLE",
        /// TLS with a certificate of ours.
        Mutual = "MUTUAL",
        /// Mutual TLS with the mesh's identities.
        IstioMutual = "ISTIO_MUTUAL",
    }
}

record! {
    /// The PROXY protocol. **Source**: `networking.istio.io/v1.TrafficPolicy.ProxyProtocol`.
    pub struct ProxyProtocol {
        /// `V1` (the default) or `V2`.
        version: Option<String>,
    }
}

record! {
    /// Retries at once. **Source**: `networking.istio.io/v1.TrafficPolicy.RetryBudget`.
    pub struct RetryBudget {
        /// In percent of the requests under way. Default: 20.
        percent: Option<Percent>,
        /// That are always allowed. Default: 3.
        min_retry_concurrency: Option<u32>,
        /// For how long a request counts. Default: while it is under way.
        budget_interval: Option<Duration>,
    }
}
