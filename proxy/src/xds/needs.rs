//! What a piece of configuration refers to that is discovered elsewhere.

use std::collections::BTreeSet;

use super::files;
use super::filters::Layer;
use crate::config::{
    Cluster, ClusterSpecifier, ConfigError, ConfigSource, Discovery, DownstreamTransport, ExtensionDiscovery,
    HttpFilterKind, Listener, ListenerFilterKind, Mirror, NetworkFilterKind, PerFilterConfig, Rds, RouteConfig,
    RouteKind, SdsConfig, SdsSource, TcpCluster, UpstreamTransport, VirtualHost,
};

/// Discovered secrets of a cluster.
pub(super) fn cluster_secrets(c: &Cluster) -> Vec<(&str, &ConfigSource)> {
    let all = c.transport_matches.iter().map(|m| &m.transport).chain([&c.transport]);
    all.flat_map(upstream).filter_map(discovered).collect()
}

fn upstream(t: &UpstreamTransport) -> Vec<&SdsSource> {
    match t {
        UpstreamTransport::Plaintext => Vec::new(),
        UpstreamTransport::Tls(tls) => tls.common.secrets().collect(),
        UpstreamTransport::ProxyProtocol { inner, .. } => upstream(inner),
    }
}

/// Whether what a cluster refers to can be asked for.
///
/// # Errors
/// A file is missing.
pub(super) fn check_cluster(c: &Cluster) -> Result<(), ConfigError> {
    match &c.discovery {
        Discovery::Eds { source, .. } => {
            files::check(&source.from).map_err(|e| ConfigError::at("eds_cluster_config.eds_config", e.reason))
        }
        _ => Ok(()),
    }
}

/// Whether what a listener refers to can be asked for.
///
/// # Errors
/// A file is missing.
pub(super) fn check_listener(l: &Listener) -> Result<(), ConfigError> {
    let check =
        |source: &ConfigSource, field: &str| files::check(&source.from).map_err(|e| ConfigError::at(field, e.reason));
    listener_routes(l).into_iter().try_for_each(|rds| check(&rds.source, "rds.config_source"))?;
    listener_filters(l).try_for_each(|wanted| check(wanted.source, "config_discovery.config_source"))
}

/// Discovered secrets of a listener.
pub(super) fn listener_secrets(l: &Listener) -> Vec<(&str, &ConfigSource)> {
    let all = l.filter_chains.iter().chain(&l.default_filter_chain);
    let contexts = all.filter_map(|c| match &c.transport {
        DownstreamTransport::Plaintext => None,
        DownstreamTransport::Tls(tls) => Some(&tls.common),
    });
    contexts.flat_map(|c| c.secrets()).filter_map(discovered).collect()
}

fn discovered(s: &SdsSource) -> Option<(&str, &ConfigSource)> {
    match &s.config {
        SdsConfig::Discovered(source) => Some((&s.name, source)),
        SdsConfig::Static | SdsConfig::File { .. } => None,
    }
}

/// Discovered routes of a listener.
pub(super) fn listener_routes(l: &Listener) -> Vec<&Rds> {
    let filters = l.filter_chains.iter().chain(&l.default_filter_chain).flat_map(|c| &c.filters);
    filters
        .filter_map(|f| match &f.kind {
            NetworkFilterKind::Http(h) => h.rds.as_ref(),
            _ => None,
        })
        .collect()
}

/// A discovered filter of a listener.
pub(super) struct WantedFilter<'a> {
    pub(super) layer: Layer,
    pub(super) name: &'a str,
    pub(super) source: &'a ConfigSource,
    /// The listener waits for it.
    pub(super) warm: bool,
}

impl<'a> WantedFilter<'a> {
    fn new<K>(layer: Layer, name: &'a str, d: &'a ExtensionDiscovery<K>) -> Self {
        WantedFilter { layer, name, source: &d.source, warm: d.warm }
    }
}

/// Discovered filters of a listener.
pub(super) fn listener_filters(l: &Listener) -> impl Iterator<Item = WantedFilter<'_>> {
    let own = l.listener_filters.iter().filter_map(|f| match &f.kind {
        ListenerFilterKind::Discovered(d) => Some(WantedFilter::new(Layer::Listener, &f.name, d)),
        _ => None,
    });
    let filters = || l.filter_chains.iter().chain(&l.default_filter_chain).flat_map(|c| &c.filters);
    let network = filters().filter_map(|f| match &f.kind {
        NetworkFilterKind::Discovered(d) => Some(WantedFilter::new(Layer::Network, &f.name, d)),
        _ => None,
    });
    let http = filters().filter_map(|f| if let NetworkFilterKind::Http(h) = &f.kind { Some(h) } else { None });
    let http = http.flat_map(|h| &h.filters).filter_map(|f| match &f.kind {
        HttpFilterKind::Discovered(d) => Some(WantedFilter::new(Layer::Http, &f.name, d)),
        _ => None,
    });
    own.chain(network).chain(http)
}

/// Who delivers on demand what requests of a listener need.
pub(super) fn listener_demands(l: &Listener) -> Vec<&ConfigSource> {
    let filters = l.filter_chains.iter().chain(&l.default_filter_chain).flat_map(|c| &c.filters);
    let mut out = Vec::new();
    for filter in filters {
        let h = match &filter.kind {
            NetworkFilterKind::Http(h) => h,
            NetworkFilterKind::TcpProxy(t) => {
                out.extend(t.on_demand.as_ref().map(|clusters| &clusters.source));
                continue;
            }
            _ => continue,
        };
        out.extend(route_demands(&h.routes));
        for f in &h.filters {
            let kind = if let HttpFilterKind::Discovered(d) = &f.kind { d.default.as_ref() } else { Some(&f.kind) };
            if let Some(HttpFilterKind::OnDemand(Some(clusters))) = kind {
                out.push(&clusters.source);
            }
        }
    }
    out
}

/// Who delivers on demand what requests of these routes need.
pub(super) fn route_demands(r: &RouteConfig) -> Vec<&ConfigSource> {
    let mut levels = vec![&r.per_filter];
    for vhost in &r.virtual_hosts {
        levels.push(&vhost.per_filter);
        for route in &vhost.routes {
            levels.push(&route.per_filter);
            if let RouteKind::Forward(action) = &route.action
                && let ClusterSpecifier::Weighted(w) = &action.cluster
            {
                levels.extend(w.clusters.iter().map(|c| &c.per_filter));
            }
        }
    }
    let clusters = levels.into_iter().flat_map(|l| l.values()).filter_map(|p| match &p.config {
        Some(PerFilterConfig::OnDemand(Some(clusters))) => Some(&clusters.source),
        _ => None,
    });
    r.vhds.iter().chain(clusters).collect()
}

/// Clusters that a listener names by itself.
pub(super) fn listener_clusters(l: &Listener) -> BTreeSet<&str> {
    let mut out = BTreeSet::new();
    for filter in l.filter_chains.iter().chain(&l.default_filter_chain).flat_map(|c| &c.filters) {
        match &filter.kind {
            NetworkFilterKind::Http(h) => out.append(&mut route_clusters(&h.routes)),
            NetworkFilterKind::TcpProxy(t) => match &t.cluster {
                TcpCluster::Single(name) => drop(out.insert(name)),
                TcpCluster::Weighted(list) => out.extend(list.iter().map(|w| w.name.as_str())),
            },
            _ => {}
        }
    }
    out
}

/// Clusters that routes name.
pub(super) fn route_clusters(r: &RouteConfig) -> BTreeSet<&str> {
    let mut out = BTreeSet::new();
    mirrors(&r.mirrors, &mut out);
    r.virtual_hosts.iter().for_each(|vhost| out.append(&mut host_clusters(vhost)));
    out
}

/// Clusters that a virtual host names.
pub(super) fn host_clusters(vhost: &VirtualHost) -> BTreeSet<&str> {
    let mut out = BTreeSet::new();
    mirrors(&vhost.mirrors, &mut out);
    for route in &vhost.routes {
        if let RouteKind::Forward(action) = &route.action {
            specifier(&action.cluster, &mut out);
            mirrors(&action.mirrors, &mut out);
        }
    }
    out
}

fn mirrors<'a>(list: &'a [Mirror], out: &mut BTreeSet<&'a str>) {
    list.iter().for_each(|m| specifier(&m.cluster, out));
}

fn specifier<'a>(s: &'a ClusterSpecifier, out: &mut BTreeSet<&'a str>) {
    match s {
        ClusterSpecifier::Name(name) => {
            out.insert(name);
        }
        ClusterSpecifier::Header(_) => {}
        ClusterSpecifier::Weighted(w) => w.clusters.iter().for_each(|c| specifier(&c.cluster, out)),
    }
}
