//! What is understood and converted, but does not act yet. Nothing configured is silently ignored: a bootstrap that sets one of
//! these is refused by its path. An entry goes when its feature comes.

use super::{
    Bootstrap, Cluster, ClusterSpecifier, ConfigError, Extension, FilterChain, HttpConnectionManager, HttpFilterKind,
    Listener, NetworkFilterKind, RouteAction, RouteConfig, RouteKind, TcpCluster, TcpProxy, VirtualHost,
};

/// Every setting of `bootstrap` that would have no effect.
pub fn check(bootstrap: &Bootstrap) -> Vec<ConfigError> {
    let mut found = Found::default();
    for (i, l) in bootstrap.listeners.iter().enumerate() {
        in_listener(&mut found, &format!("static_resources.listeners[{i}]."), l);
    }
    for (i, c) in bootstrap.clusters.iter().enumerate() {
        in_cluster(&mut found, &format!("static_resources.clusters[{i}]"), c);
    }
    found.0
}

/// Every setting of a discovered listener that would have no effect.
pub fn listener(l: &Listener) -> Vec<ConfigError> {
    let mut found = Found::default();
    in_listener(&mut found, "", l);
    found.0
}

/// Every setting of a discovered cluster that would have no effect.
pub fn cluster(c: &Cluster) -> Vec<ConfigError> {
    let mut found = Found::default();
    in_cluster(&mut found, "", c);
    found.0
}

/// Every setting of discovered routes that would have no effect.
pub fn routes(r: &RouteConfig) -> Vec<ConfigError> {
    let mut found = Found::default();
    in_routes(&mut found, "", r);
    found.0
}

/// Every setting of a discovered virtual host that would have no effect.
pub fn virtual_host(v: &VirtualHost) -> Vec<ConfigError> {
    let mut found = Found::default();
    in_virtual_host(&mut found, "", v);
    found.0
}

/// Every setting of a discovered filter that would have no effect.
pub fn filter(extension: &Extension) -> Vec<ConfigError> {
    let mut found = Found::default();
    http_filter(&mut found, "typed_config", &extension.kind);
    found.0
}

/// Every setting of a discovered network filter that would have no effect.
pub fn network_filter(extension: &Extension<NetworkFilterKind>) -> Vec<ConfigError> {
    let mut found = Found::default();
    in_network(&mut found, "typed_config", &extension.kind);
    found.0
}

#[derive(Default)]
struct Found(Vec<ConfigError>);

impl Found {
    fn flag(&mut self, set: bool, at: &str, field: &str) {
        if set {
            let dot = if at.is_empty() { "" } else { "." };
            self.0.push(ConfigError::at(format!("{at}{dot}{field}"), "is not supported by weft yet"));
        }
    }
}

fn in_listener(f: &mut Found, at: &str, l: &Listener) {
    for (i, c) in l.filter_chains.iter().enumerate() {
        chain(f, &format!("{at}filter_chains[{i}]"), c);
    }
    if let Some(c) = &l.default_filter_chain {
        chain(f, &format!("{at}default_filter_chain"), c);
    }
}

fn chain(f: &mut Found, at: &str, c: &FilterChain) {
    for (i, filter) in c.filters.iter().enumerate() {
        let at = format!("{at}.filters[{i}]");
        match &filter.kind {
            NetworkFilterKind::Discovered(d) => {
                let default = d.default.as_ref();
                default.into_iter().for_each(|k| in_network(f, &format!("{at}.config_discovery.default_config"), k));
            }
            kind => in_network(f, &format!("{at}.typed_config"), kind),
        }
    }
}

fn in_network(f: &mut Found, at: &str, kind: &NetworkFilterKind) {
    match kind {
        NetworkFilterKind::Http(h) => http(f, at, h),
        NetworkFilterKind::TcpProxy(t) => tcp(f, at, t),
        // None stands for another.
        NetworkFilterKind::Discovered(_)
        | NetworkFilterKind::SniCluster
        | NetworkFilterKind::IstioStats(_)
        | NetworkFilterKind::ConnectionLimit(_)
        | NetworkFilterKind::Rbac(_)
        | NetworkFilterKind::ExtAuthz(_)
        | NetworkFilterKind::RateLimit(_)
        | NetworkFilterKind::DirectResponse(_)
        | NetworkFilterKind::Echo => {}
    }
}

fn tcp(f: &mut Found, at: &str, t: &TcpProxy) {
    f.flag(t.metadata_match.is_some(), at, "metadata_match");
    if let TcpCluster::Weighted(list) = &t.cluster {
        for (i, w) in list.iter().enumerate() {
            f.flag(w.metadata_match.is_some(), at, &format!("weighted_clusters.clusters[{i}].metadata_match"));
        }
    }
    f.flag(!t.hash_policy.is_empty(), at, "hash_policy");
}

fn http(f: &mut Found, at: &str, h: &HttpConnectionManager) {
    f.flag(h.access_log_flush_interval.is_some(), at, "access_log_options.access_log_flush_interval");
    let idle = h.http2.keepalive.as_ref().is_some_and(|k| k.idle_interval.is_some());
    f.flag(idle, at, "http2_protocol_options.connection_keepalive.connection_idle_interval");
    for (i, u) in h.upgrades.iter().enumerate() {
        f.flag(!u.filters.is_empty(), at, &format!("upgrade_configs[{i}].filters"));
    }
    for (i, filter) in h.filters.iter().enumerate() {
        let at = format!("{at}.http_filters[{i}]");
        match &filter.kind {
            HttpFilterKind::Discovered(d) => {
                let default = d.default.as_ref();
                default.into_iter().for_each(|k| http_filter(f, &format!("{at}.config_discovery.default_config"), k));
            }
            kind => http_filter(f, &format!("{at}.typed_config"), kind),
        }
    }
    in_routes(f, &format!("{at}.route_config."), &h.routes);
}

fn http_filter(f: &mut Found, at: &str, kind: &HttpFilterKind) {
    match kind {
        HttpFilterKind::GrpcStats(g) => f.flag(g.emit_filter_state, at, "emit_filter_state"),
        HttpFilterKind::Router(r) => f.flag(!r.upstream_log.is_empty(), at, "upstream_log"),
        _ => {}
    }
}

fn in_routes(f: &mut Found, at: &str, routes: &RouteConfig) {
    for (v, vhost) in routes.virtual_hosts.iter().enumerate() {
        in_virtual_host(f, &format!("{at}virtual_hosts[{v}]."), vhost);
    }
}

fn in_virtual_host(f: &mut Found, at: &str, vhost: &VirtualHost) {
    for (r, route) in vhost.routes.iter().enumerate() {
        if let RouteKind::Forward(a) = &route.action {
            forward(f, &format!("{at}routes[{r}].route"), a);
        }
    }
}

fn forward(f: &mut Found, at: &str, a: &RouteAction) {
    f.flag(a.metadata_match.is_some(), at, "metadata_match");
    f.flag(!a.hash_policy.is_empty(), at, "hash_policy");
    let hashed = matches!(&a.cluster, ClusterSpecifier::Weighted(w) if w.use_hash_policy);
    f.flag(hashed, at, "weighted_clusters.use_hash_policy");
    for (i, u) in a.upgrades.iter().enumerate() {
        f.flag(u.proxy_protocol.is_some(), at, &format!("upgrade_configs[{i}].connect_config.proxy_protocol_config"));
    }
}

fn in_cluster(f: &mut Found, at: &str, c: &Cluster) {
    f.flag(c.close_connections_on_host_health_failure, at, "close_connections_on_host_health_failure");
    f.flag(!c.hash_policy.is_empty(), at, "typed_extension_protocol_options.hash_policy");
}
