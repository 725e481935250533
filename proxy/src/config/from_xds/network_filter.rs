//! Network filters and the order they must stand in.

use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::config::listener::v3 as pb;
use weft_proto::pb::envoy::extensions::filters::network::{
    connection_limit::v3 as connection_limit, direct_response::v3 as direct_response,
};
use weft_proto::pb::google::protobuf::Any;

use super::ctx::{Ctx, Out, type_name};
use super::extension::{self, Family};
use super::{ext_authz, hcm, rate_limit, rbac, tcp_proxy, telemetry, value};
use crate::config::{
    ConfigError, ConnectionLimit, Extension, ExtensionDiscovery, HttpConnectionManager, HttpFilterKind, NetworkFilter,
    NetworkFilterKind, RuntimeFlag,
};

/// The filters of a chain: the last one ends it, and no other does. None at all is fine: the connection is closed.
pub(super) fn chain(c: &Ctx<'_>, filters: &[pb::Filter]) -> Out<Vec<NetworkFilter>> {
    let mut filters = c.each("filters", filters, filter)?;
    let count = filters.len();
    for (i, f) in filters.iter_mut().enumerate() {
        let last = i + 1 == count;
        let fixed = match &mut f.kind {
            NetworkFilterKind::Discovered(d) => {
                d.last = last;
                d.default.as_ref()
            }
            kind => Some(&*kind),
        };
        // What is discovered is checked when it comes.
        let (kind, terminal) = fixed.map_or(("", last), extension);
        terminal_last(&c.index("filters", i), &f.name, kind, "network", terminal, last)?;
    }
    Ok(filters)
}

/// Envoy's rule for the end of a chain.
pub(super) fn terminal_last(c: &Ctx<'_>, name: &str, kind: &str, chain: &str, terminal: bool, last: bool) -> Out<()> {
    c.ensure(!terminal || last, || {
        format!("Error: terminal filter named {name} of type {kind} must be the last filter in a {chain} filter chain.")
    })?;
    c.ensure(terminal || !last, || {
        format!("Error: non-terminal filter named {name} of type {kind} is the last filter in a {chain} filter chain.")
    })
}

/// The name Envoy registers a filter by, and whether it ends a chain.
fn extension(kind: &NetworkFilterKind) -> (&'static str, bool) {
    match kind {
        NetworkFilterKind::Http(_) => ("envoy.filters.network.http_connection_manager", true),
        NetworkFilterKind::TcpProxy(_) => ("envoy.filters.network.tcp_proxy", true),
        NetworkFilterKind::IstioStats(_) => ("istio.stats", false),
        NetworkFilterKind::SniCluster => ("envoy.filters.network.sni_cluster", false),
        NetworkFilterKind::ConnectionLimit(_) => ("envoy.filters.network.connection_limit", false),
        NetworkFilterKind::Rbac(_) => ("envoy.filters.network.rbac", false),
        NetworkFilterKind::ExtAuthz(_) => ("envoy.filters.network.ext_authz", false),
        NetworkFilterKind::RateLimit(_) => ("envoy.filters.network.ratelimit", false),
        NetworkFilterKind::DirectResponse(_) => ("envoy.filters.network.direct_response", true),
        NetworkFilterKind::Echo => ("envoy.filters.network.echo", true),
        // None stands for another.
        NetworkFilterKind::Discovered(_) => ("", false),
    }
}

fn filter(c: &Ctx<'_>, f: &pb::Filter) -> Out<NetworkFilter> {
    use pb::filter::ConfigType as T;
    let name = c.non_empty("name", &f.name)?;
    let any = match &f.config_type {
        None => return c.unknown_extension(&f.name, None),
        Some(T::ConfigDiscovery(d)) => {
            let d = extension::discovery(&c.field("config_discovery"), &name, d, &FAMILY)?;
            return Ok(NetworkFilter { name, kind: NetworkFilterKind::Discovered(Box::new(d)) });
        }
        Some(T::TypedConfig(any)) => any,
    };
    let c = c.field("typed_config");
    let kind = convert(&c, any).unwrap_or_else(|| c.unknown_extension(&f.name, Some(any)))?;
    Ok(NetworkFilter { name, kind })
}

/// Network filters, for what is discovered.
const FAMILY: Family<NetworkFilterKind> = Family { known: &KNOWN, convert: alone };

/// Filters that there are, by the full name of their message.
const KNOWN: [&str; 10] =
    [ISTIO_STATS, HCM, TCP_PROXY, SNI_CLUSTER, CONNECTION_LIMIT, RBAC, EXT_AUTHZ, RATE_LIMIT, DIRECT_RESPONSE, ECHO];
const ISTIO_STATS: &str = "stats.PluginConfig";
const HCM: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const SNI_CLUSTER: &str = "envoy.extensions.filters.network.sni_cluster.v3.SniCluster";
const CONNECTION_LIMIT: &str = "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit";
const RBAC: &str = "envoy.extensions.filters.network.rbac.v3.RBAC";
const EXT_AUTHZ: &str = "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz";
const RATE_LIMIT: &str = "envoy.extensions.filters.network.ratelimit.v3.RateLimit";
const DIRECT_RESPONSE: &str = "envoy.extensions.filters.network.direct_response.v3.Config";
const ECHO: &str = "envoy.extensions.filters.network.echo.v3.Echo";

/// `None`: nobody here implements it.
fn convert(c: &Ctx<'_>, any: &Any) -> Option<Out<NetworkFilterKind>> {
    Some(match &*type_name(any) {
        HCM => c.unpack(any).and_then(|h| hcm::hcm(c, &h)).map(|h| NetworkFilterKind::Http(Box::new(h))),
        TCP_PROXY => {
            c.unpack(any).and_then(|t| tcp_proxy::tcp_proxy(c, &t)).map(|t| NetworkFilterKind::TcpProxy(Box::new(t)))
        }
        ISTIO_STATS => c.unpack(any).and_then(|s| telemetry::stats(c, &s)).map(NetworkFilterKind::IstioStats),
        SNI_CLUSTER => Ok(NetworkFilterKind::SniCluster),
        CONNECTION_LIMIT => c.unpack(any).and_then(|l| connection_limit(c, &l)).map(NetworkFilterKind::ConnectionLimit),
        RBAC => c.unpack(any).and_then(|r| rbac::network(c, &r)).map(|r| NetworkFilterKind::Rbac(Box::new(r))),
        EXT_AUTHZ => {
            c.unpack(any).and_then(|a| ext_authz::network(c, &a)).map(|a| NetworkFilterKind::ExtAuthz(Box::new(a)))
        }
        RATE_LIMIT => {
            c.unpack(any).and_then(|r| rate_limit::network(c, &r)).map(|r| NetworkFilterKind::RateLimit(Box::new(r)))
        }
        DIRECT_RESPONSE => c.unpack(any).and_then(|d: direct_response::Config| {
            let response = c.opt("response", &d.response, value::data_source)?;
            let empty = || crate::config::DataSource::Inline(bytes::Bytes::new());
            Ok(NetworkFilterKind::DirectResponse(response.unwrap_or_else(empty)))
        }),
        ECHO => Ok(NetworkFilterKind::Echo),
        _ => return None,
    })
}

/// A filter that is discovered: what it discovers in turn would have to be waited for by a listener that does not know of it.
fn alone(c: &Ctx<'_>, any: &Any) -> Option<Out<NetworkFilterKind>> {
    let kind = convert(c, any)?;
    Some(kind.and_then(|kind| {
        let nested = match &kind {
            NetworkFilterKind::Http(h) => http_discovers(h),
            NetworkFilterKind::TcpProxy(t) => t.on_demand.is_some().then_some("on_demand"),
            _ => None,
        };
        match nested {
            Some(field) => c.field(field).unsupported("discovery within a discovered network filter"),
            None => Ok(kind),
        }
    }))
}

/// The field by which a connection manager discovers something.
fn http_discovers(h: &HttpConnectionManager) -> Option<&'static str> {
    let filters =
        h.filters.iter().any(|f| matches!(f.kind, HttpFilterKind::Discovered(_) | HttpFilterKind::OnDemand(_)));
    [("rds", h.rds.is_some()), ("http_filters", filters), ("route_config.vhds", h.routes.vhds.is_some())]
        .into_iter()
        .find_map(|(field, discovers)| discovers.then_some(field))
}

/// A discovered configuration.
pub(super) fn discovered(c: &Ctx<'_>, t: &core::TypedExtensionConfig) -> Out<Extension<NetworkFilterKind>> {
    extension::discovered(c, t, &FAMILY)
}

/// Whether a filter may stand where its configuration is discovered for, in Envoy's words.
///
/// # Errors
/// Why it may not.
pub fn fits(
    d: &ExtensionDiscovery<NetworkFilterKind>,
    name: &str,
    found: &Extension<NetworkFilterKind>,
) -> Result<(), ConfigError> {
    let (kind, terminal) = self::extension(&found.kind);
    extension::fits(d, name, found, Some((kind, terminal, "network")))
}

fn connection_limit(c: &Ctx<'_>, l: &connection_limit::ConnectionLimit) -> Out<ConnectionLimit> {
    Ok(ConnectionLimit {
        stat_prefix: c.non_empty("stat_prefix", &l.stat_prefix)?,
        max_connections: c.required("max_connections", &l.max_connections, |c, n| {
            c.ensure(n.value >= 1, || "value must be greater than or equal to 1".into())?;
            Ok(n.value)
        })?,
        delay: c.timeout("delay", &l.delay, None)?,
        enabled: c
            .opt("runtime_enabled", &l.runtime_enabled, value::runtime_flag)?
            .unwrap_or(RuntimeFlag { default: true, key: String::new() }),
    })
}

#[cfg(test)]
mod tests {
    use weft_proto::any::pack;
    use weft_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
        self as hcm, http_connection_manager::RouteSpecifier,
    };

    use super::*;
    use crate::config::from_xds::Environment;
    use crate::config::from_xds::ctx::Shared;

    #[test]
    fn every_known_filter_is_converted() {
        let environment = Environment::default();
        let shared = Shared::new(&environment);
        let c = Ctx::root(&shared);
        for name in KNOWN {
            let any = Any { type_url: format!("type.googleapis.com/{name}"), value: Vec::new() };
            assert!(convert(&c, &any).is_some(), "{name}");
        }
    }

    #[test]
    fn what_is_discovered_discovers_nothing() {
        let environment = Environment::default();
        let rds = hcm::Rds { route_config_name: "r".into(), ..Default::default() };
        let manager = hcm::HttpConnectionManager {
            stat_prefix: "h".into(),
            route_specifier: Some(RouteSpecifier::Rds(rds)),
            ..Default::default()
        };
        let extension = core::TypedExtensionConfig { name: "f".into(), typed_config: Some(pack(&manager)) };
        let shared = Shared::new(&environment);
        assert!(discovered(&Ctx::root(&shared), &extension).is_err());
        let errors = shared.into_findings().errors;
        assert!(errors.iter().any(|e| e.field_path.starts_with("typed_config.rds")), "{errors:?}");
    }
}
