//! Istio's filters: `stats.PluginConfig` and `io.istio.http.peer_metadata.Config`.

use weft_proto::own::{peer_metadata as peers, stats};

use super::ctx::{Ctx, Out};
use crate::config::{Attribute, IstioStats, Metric, MetricOverride, PeerMetadata};

/// The filter of metrics.
pub(super) fn stats(c: &Ctx<'_>, p: &stats::PluginConfig) -> Out<IstioStats> {
    let overrides = c.each("metrics", &p.metrics, metric_override)?;
    Ok(IstioStats { host_fallback: !p.disable_host_header_fallback, overrides })
}

fn metric_override(c: &Ctx<'_>, m: &stats::MetricConfig) -> Out<MetricOverride> {
    let metric = match m.name.as_str() {
        "" => None,
        name => match Metric::ALL.into_iter().find(|metric| metric.name() == name) {
            Some(metric) => Some(metric),
            None => return c.field("name").refuse(format!("'{name}' is no standard metric")),
        },
    };
    let set = c.each_key("dimensions", &m.dimensions.clone().into_iter().collect(), |c, name, text| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        c.ensure(!name.is_empty() && name.bytes().all(plain), || format!("'{name}' cannot be the name of a label"))?;
        match attribute(text) {
            Some(attribute) => Ok(attribute),
            None => c.unsupported("an expression other than a text and request.{method,host,path,url_path,headers['name']}, response.code, destination.port"),
        }
    })?;
    Ok(MetricOverride { metric, drop: m.drop, remove: m.tags_to_remove.clone(), set })
}

/// An expression; `None`: it is not understood.
fn attribute(text: &str) -> Option<Attribute> {
    use stats::Expression as E;
    Some(match stats::expression(text)? {
        E::Text(text) => Attribute::Text(text.to_owned()),
        E::Header(name) => Attribute::Header(name.parse().ok()?),
        E::Attribute("request.method") => Attribute::Method,
        E::Attribute("request.host") => Attribute::Host,
        E::Attribute("request.path") => Attribute::Path,
        E::Attribute("request.url_path") => Attribute::UrlPath,
        E::Attribute("request.useragent") => Attribute::Header(http::header::USER_AGENT),
        E::Attribute("response.code") => Attribute::Code,
        E::Attribute("destination.port") => Attribute::Port,
        E::Attribute(_) => return None,
    })
}

/// The filter of peers.
pub(super) fn peers(c: &Ctx<'_>, p: &peers::Config) -> Out<PeerMetadata> {
    let discovers = |all: &[peers::DiscoveryMethod]| all.iter().any(|method| method.istio_headers.is_some());
    let tells = |all: &[peers::PropagationMethod]| all.iter().find_map(|method| method.istio_headers.clone());
    // What a control plane says of all workloads is not asked for. As in Istio, headers are looked at beside it.
    for (field, all) in
        [("downstream_discovery", &p.downstream_discovery), ("upstream_discovery", &p.upstream_discovery)]
    {
        if !all.is_empty() && !discovers(all) {
            return c.field(field).unsupported("a peer that is not found by headers");
        }
    }
    let upstream = tells(&p.upstream_propagation);
    Ok(PeerMetadata {
        from_downstream: discovers(&p.downstream_discovery),
        from_upstream: discovers(&p.upstream_discovery),
        to_downstream: tells(&p.downstream_propagation).is_some(),
        skip_external: upstream.as_ref().is_some_and(|headers| headers.skip_external_clusters),
        to_upstream: upstream.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attribute_is_known() {
        for name in stats::ATTRIBUTES {
            assert!(attribute(name).is_some(), "{name}");
        }
        assert_eq!(attribute("request.headers['X-Team']"), Some(Attribute::Header("x-team".parse().unwrap())));
    }
}
