//! Network filters and the order they must stand in.

use weft_proto::pb::envoy::config::listener::v3 as pb;
use weft_proto::pb::envoy::extensions::filters::network::{
    connection_limit::v3 as connection_limit, direct_response::v3 as direct_response,
};

use super::ctx::{Ctx, Out, type_name};
use super::{hcm, tcp_proxy, value};
use crate::config::{ConnectionLimit, NetworkFilter, NetworkFilterKind, RuntimeFlag};

/// The filters of a chain: the last one ends it, and no other does. None at all is fine: the connection is closed.
pub(super) fn chain(c: &Ctx<'_>, filters: &[pb::Filter]) -> Out<Vec<NetworkFilter>> {
    let filters = c.each("filters", filters, filter)?;
    for (i, f) in filters.iter().enumerate() {
        let (kind, terminal) = extension(&f.kind);
        terminal_last(&c.index("filters", i), &f.name, kind, "network", terminal, i + 1 == filters.len())?;
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
        NetworkFilterKind::SniCluster => ("envoy.filters.network.sni_cluster", false),
        NetworkFilterKind::ConnectionLimit(_) => ("envoy.filters.network.connection_limit", false),
        NetworkFilterKind::DirectResponse(_) => ("envoy.filters.network.direct_response", true),
        NetworkFilterKind::Echo => ("envoy.filters.network.echo", true),
    }
}

fn filter(c: &Ctx<'_>, f: &pb::Filter) -> Out<NetworkFilter> {
    use pb::filter::ConfigType as T;
    let name = c.non_empty("name", &f.name)?;
    let any = match &f.config_type {
        None => return c.unknown_extension(&f.name, None),
        Some(T::ConfigDiscovery(_)) => return c.field("config_discovery").unsupported("extension discovery"),
        Some(T::TypedConfig(any)) => any,
    };
    let c = c.field("typed_config");
    let kind = match &*type_name(any) {
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager" => {
            NetworkFilterKind::Http(Box::new(hcm::hcm(&c, &c.unpack(any)?)?))
        }
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy" => {
            NetworkFilterKind::TcpProxy(Box::new(tcp_proxy::tcp_proxy(&c, &c.unpack(any)?)?))
        }
        "envoy.extensions.filters.network.sni_cluster.v3.SniCluster" => NetworkFilterKind::SniCluster,
        "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit" => {
            NetworkFilterKind::ConnectionLimit(connection_limit(&c, &c.unpack(any)?)?)
        }
        "envoy.extensions.filters.network.direct_response.v3.Config" => {
            let config: direct_response::Config = c.unpack(any)?;
            let response = c.opt("response", &config.response, value::data_source)?;
            NetworkFilterKind::DirectResponse(
                response.unwrap_or(crate::config::DataSource::Inline(bytes::Bytes::new())),
            )
        }
        "envoy.extensions.filters.network.echo.v3.Echo" => NetworkFilterKind::Echo,
        _ => return c.unknown_extension(&f.name, Some(any)),
    };
    Ok(NetworkFilter { name, kind })
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
