//! Virtual hosts and routes, compiled.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use super::action::{Forward, Redirect};
use super::domains::Domains;
use super::stats::{RouteStats, VirtualCluster, VirtualClusters};
use super::{Matched, matcher};
use crate::app::Parts;
use crate::config::{self, ConfigError, RequireTls, RouteKind};
use crate::http::filter::{Chain, Overrides, Policy};
use crate::http::headers::Mutations;
use crate::http::limit_rules::LimitRules;
use crate::http::manager::split_port;
use crate::http::stream::StreamCtx;
use crate::runtime::Fraction;

/// Header mutations of one level.
pub struct Level {
    /// Requests.
    pub request: Mutations,
    /// Answers.
    pub response: Mutations,
}

impl Level {
    /// Compiles.
    ///
    /// # Errors
    /// A bad name or format.
    pub fn new(level: &config::HeaderMutationLevel) -> Result<Self, ConfigError> {
        Ok(Level { request: Mutations::new(&level.request)?, response: Mutations::new(&level.response)? })
    }
}

/// What routes of a virtual host share.
pub struct VirtualHost {
    /// Name.
    pub name: Arc<str>,
    /// Validated settings, routes excepted.
    pub config: config::VirtualHost,
    /// Its header mutations.
    pub level: Level,
    /// Those of the whole table.
    pub root: Arc<Level>,
    /// Order of levels.
    pub most_specific_wins: bool,
    /// What requests are counted under.
    pub limits: LimitRules,
    virtual_clusters: Option<VirtualClusters>,
    /// The deprecated `cors` field, compiled.
    pub cors: Option<Arc<Policy>>,
}

impl VirtualHost {
    /// The virtual cluster of a request; `None`: this host has none.
    pub fn virtual_cluster(&self, ctx: &StreamCtx) -> Option<Arc<VirtualCluster>> {
        self.virtual_clusters.as_ref().map(|v| v.of(ctx))
    }
}

/// A compiled route.
pub struct Entry {
    /// Name; absent: none.
    pub name: Option<Arc<str>>,
    /// Which requests.
    pub matches: config::RouteMatch,
    /// What it does.
    pub kind: Kind,
    /// Its header mutations.
    pub level: Level,
    /// Its virtual host.
    pub vhost: Arc<VirtualHost>,
    /// Filters that differ here.
    pub overrides: Overrides,
    /// Replay buffer bound.
    pub body_limit: Option<u64>,
    /// Metadata.
    pub metadata: config::Metadata,
    /// `stat_prefix`.
    pub stats: Option<RouteStats>,
    /// `runtime_fraction`.
    fraction: Option<Fraction>,
}

/// What a route does.
pub enum Kind {
    /// Forwards.
    Forward(Box<Forward>),
    /// Redirects.
    Redirect(Box<Redirect>),
    /// Answers by itself.
    Direct {
        /// Status.
        status: http::StatusCode,
        /// Body.
        body: bytes::Bytes,
    },
    /// Never forwarded.
    NonForwarding,
}

struct Host {
    shared: Arc<VirtualHost>,
    routes: Vec<Arc<Entry>>,
    /// What a discovered host was compiled from.
    discovered: Option<Arc<config::VirtualHost>>,
}

/// A discovered virtual host that changes: what it was, and what it is from now on.
pub(super) type HostChange = (Option<Arc<config::VirtualHost>>, Option<Arc<config::VirtualHost>>);

/// A route table.
#[derive(Clone)]
pub struct RouteTable {
    domains: Domains<Arc<Host>>,
    root: Arc<Level>,
    ignore_port: bool,
    ignore_parameters: bool,
    vhost_header: String,
    /// Further virtual hosts come on demand: how long a request waits for its own (none: no limit of its own); absent: they do
    /// not.
    pub on_demand: Option<Option<Duration>>,
    /// Headers that no client may set.
    pub internal_only_headers: Vec<String>,
}

/// What a look-up found.
pub enum Found {
    /// A route.
    Route(Matched),
    /// No virtual host or no route.
    None,
    /// The virtual host takes only TLS.
    TlsWanted,
}

impl RouteTable {
    /// Compiles a table.
    ///
    /// # Errors
    /// What cannot be compiled, with its path.
    pub fn new(config: &config::RouteConfig, chain: &Chain, parts: &Parts) -> Result<Self, ConfigError> {
        let mut table = RouteTable {
            domains: Domains::default(),
            root: Arc::new(Level::new(&config.headers)?),
            ignore_port: config.ignore_port_in_host_matching,
            ignore_parameters: config.ignore_path_parameters,
            vhost_header: config.vhost_header.clone(),
            on_demand: config.vhds.as_ref().map(|source| source.initial_fetch_timeout),
            internal_only_headers: config.internal_only_headers.clone(),
        };
        for (i, vhost) in config.virtual_hosts.iter().enumerate() {
            let host = compile_host(config, vhost, &table.root, chain, parts).map_err(|e| ConfigError {
                field_path: format!("route_config.virtual_hosts[{i}].{}", e.field_path),
                ..e
            })?;
            table.insert(&vhost.domains, &Arc::new(host));
        }
        Ok(table)
    }

    /// The same table with other discovered hosts; it shares with this one all that does not change. `config`: what it was made of.
    ///
    /// # Errors
    /// What cannot be compiled, with its path below the host.
    pub(super) fn with_hosts<'a>(
        &self,
        config: &config::RouteConfig,
        changes: impl Iterator<Item = &'a HostChange> + Clone,
        chain: &Chain,
        parts: &Parts,
    ) -> Result<Self, ConfigError> {
        let mut table = self.clone();
        for before in changes.clone().filter_map(|(before, _)| before.as_ref()) {
            for domain in &before.domains {
                let of = table.domains.at(domain).and_then(|host| host.discovered.as_ref());
                // Another host may have taken it meanwhile.
                if of.is_some_and(|of| Arc::ptr_eq(of, before)) {
                    table.domains.remove(domain);
                }
            }
        }
        for now in changes.filter_map(|(_, now)| now.as_ref()) {
            let mut host = compile_host(config, now, &self.root, chain, parts)?;
            host.discovered = Some(now.clone());
            table.insert(&now.domains, &Arc::new(host));
        }
        Ok(table)
    }

    /// Where the host of each domain lies in memory.
    #[cfg(test)]
    pub fn compiled(&self) -> std::collections::BTreeMap<String, usize> {
        let mut out = std::collections::BTreeMap::new();
        self.domains.each(|domain, host| {
            out.insert(domain.to_owned(), Arc::as_ptr(host) as usize);
        });
        out
    }

    fn insert(&mut self, domains: &[String], host: &Arc<Host>) {
        domains.iter().for_each(|domain| self.domains.insert(domain, host.clone()));
    }

    fn host(&self, name: &str) -> Option<&Arc<Host>> {
        if self.domains.is_any() {
            return self.domains.any();
        }
        let lower = name.to_ascii_lowercase();
        self.domains.find(if self.ignore_port { split_port(&lower).0 } else { &lower })
    }

    fn host_of(&self, ctx: &StreamCtx) -> Option<&Arc<Host>> {
        let name = if self.vhost_header.is_empty() {
            ctx.request.authority.as_ref().and_then(|a| a.to_str().ok())
        } else {
            ctx.request.get(&self.vhost_header).and_then(|v| std::str::from_utf8(v).ok())
        };
        self.host(name.unwrap_or_default())
    }

    /// Whether a request has a virtual host, though perhaps no route.
    pub fn has_host(&self, ctx: &StreamCtx) -> bool {
        self.host_of(ctx).is_some()
    }

    /// Finds the route of a request.
    pub fn find(&self, ctx: &StreamCtx) -> Found {
        let Some(host) = self.host_of(ctx) else { return Found::None };
        let secure = ctx.request.scheme == crate::http::Scheme::Https;
        match host.shared.config.require_tls {
            RequireTls::All if !secure => return Found::TlsWanted,
            RequireTls::ExternalOnly if !secure && !ctx.internal => return Found::TlsWanted,
            _ => {}
        }
        let path = ctx.request.path_only();
        let path = if self.ignore_parameters { path.split(';').next().unwrap_or(path) } else { path };
        match host.routes.iter().find(|r| {
            matcher::matches(&r.matches, ctx, path) && r.fraction.as_ref().is_none_or(|f| f.admits(ctx.random))
        }) {
            Some(entry) => {
                let choice = match &entry.kind {
                    Kind::Forward(f) => f.choose(ctx),
                    _ => None,
                };
                Found::Route(Matched { entry: entry.clone(), choice })
            }
            None => Found::None,
        }
    }
}

fn compile_host(
    config: &config::RouteConfig,
    vhost: &config::VirtualHost,
    root: &Arc<Level>,
    chain: &Chain,
    parts: &Parts,
) -> Result<Host, ConfigError> {
    let scope = parts.stats.root().tagged("vhost", "envoy.virtual_host", &vhost.name);
    let shared = Arc::new(VirtualHost {
        limits: LimitRules::new(&vhost.rate_limits, &parts.runtime)?,
        virtual_clusters: VirtualClusters::new(&vhost.virtual_clusters, &scope),
        cors: vhost.cors.as_ref().map(|c| Arc::new(Policy::new(c, &parts.runtime))),
        name: vhost.name.as_str().into(),
        level: Level::new(&vhost.headers)?,
        root: root.clone(),
        most_specific_wins: config.most_specific_header_mutations_wins,
        config: config::VirtualHost { routes: Vec::new(), ..vhost.clone() },
    });
    let mut routes = Vec::with_capacity(vhost.routes.len());
    for (i, route) in vhost.routes.iter().enumerate() {
        let at = |e: ConfigError| ConfigError { field_path: format!("routes[{i}].{}", e.field_path), ..e };
        let kind = match &route.action {
            RouteKind::Forward(a) => Kind::Forward(Box::new(Forward::new(a, vhost, config, chain, parts).map_err(at)?)),
            RouteKind::Redirect(r) => Kind::Redirect(Box::new(Redirect::new(r))),
            RouteKind::Direct(d) => direct(d, config.max_direct_response_body).map_err(at)?,
            RouteKind::NonForwarding => Kind::NonForwarding,
        };
        routes.push(Arc::new(Entry {
            name: (!route.name.is_empty()).then(|| route.name.as_str().into()),
            matches: route.matches.clone(),
            kind,
            level: Level::new(&route.headers).map_err(at)?,
            vhost: shared.clone(),
            overrides: chain.overrides(&[&config.per_filter, &vhost.per_filter, &route.per_filter]).map_err(at)?,
            body_limit: route.request_body_buffer_limit.or(vhost.request_body_buffer_limit),
            metadata: route.metadata.clone(),
            stats: (!route.stat_prefix.is_empty())
                .then(|| RouteStats::new(&scope.tagged("route", "envoy.route", &route.stat_prefix))),
            fraction: route.matches.runtime_fraction.as_ref().map(|f| parts.runtime.fraction(f)),
        }));
    }
    Ok(Host { shared, routes, discovered: None })
}

fn direct(d: &config::DirectResponse, max: usize) -> Result<Kind, ConfigError> {
    let body = match &d.body {
        None => bytes::Bytes::new(),
        Some(config::DataSource::Inline(b)) => b.clone(),
        Some(config::DataSource::File { path, .. }) => std::fs::read(path)
            .map_err(|e| ConfigError::at("direct_response.body", format!("cannot read {path}: {e}")))?
            .into(),
    };
    let max = if max == 0 { 4096 } else { max };
    if body.len() > max {
        return Err(ConfigError::at(
            "direct_response.body",
            format!("response body size is {} bytes; maximum is {max}", body.len()),
        ));
    }
    let status = http::StatusCode::from_u16(d.status)
        .map_err(|_| ConfigError::at("direct_response.status", format!("{} is no HTTP status", d.status)))?;
    Ok(Kind::Direct { status, body })
}

/// A header value of a text that came from configuration.
pub(crate) fn value(text: &str, field: &str) -> Result<HeaderValue, ConfigError> {
    HeaderValue::from_str(text).map_err(|_| ConfigError::at(field, format!("{text:?} is not a valid header value")))
}
