//! How a cluster finds its endpoints.

use std::net::SocketAddr;
use std::time::Duration;

use weft_proto::pb::envoy::config::cluster::v3 as pb;
use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily;
use weft_proto::pb::envoy::extensions::clusters::{dns::v3 as dns, original_dst::v3 as original_dst};
use weft_proto::pb::envoy::extensions::network::dns_resolver::cares::v3 as cares;
use weft_proto::pb::envoy::r#type::metadata::v3 as metadata;
use weft_proto::pb::google::protobuf as wkt;

use super::ctx::{Ctx, Out, type_name};
use super::{address, headers, source, value};
use crate::config::{BackOffRange, Discovery, DnsFamily, DnsOptions, MetadataKey};

/// **Source**: `Cluster.dns_refresh_rate`.
const DEFAULT_REFRESH: Duration = Duration::from_secs(5);
/// The header that names the destination where none else is said.
const ORIGINAL_DST_HEADER: &str = "x-envoy-original-dst-host";

/// `type` or `cluster_type`.
pub(super) fn discovery(c: &Ctx<'_>, p: &pb::Cluster) -> Out<Discovery> {
    use pb::cluster::{ClusterDiscoveryType as D, DiscoveryType as T};
    let kind = match &p.cluster_discovery_type {
        None => T::Static,
        Some(D::Type(t)) => c.enumeration::<T>("type", *t)?,
        Some(D::ClusterType(t)) => match &t.typed_config {
            Some(any) if type_name(any) != "google.protobuf.Empty" => return custom(&c.field("cluster_type"), t, any),
            any => match t.name.as_str() {
                "envoy.cluster.static" => T::Static,
                "envoy.cluster.strict_dns" => T::StrictDns,
                "envoy.cluster.logical_dns" => T::LogicalDns,
                "envoy.cluster.eds" => T::Eds,
                "envoy.cluster.original_dst" => T::OriginalDst,
                name => return c.field("cluster_type").unknown_extension(name, any.as_ref()),
            },
        },
    };
    match kind {
        T::Static => Ok(Discovery::Static),
        T::StrictDns => cluster_dns(c, p).map(Discovery::StrictDns),
        T::LogicalDns => cluster_dns(c, p).map(Discovery::LogicalDns),
        T::OriginalDst => cluster_original_dst(c, p),
        T::Eds => eds(c, p),
    }
}

fn custom(c: &Ctx<'_>, t: &pb::cluster::CustomClusterType, any: &wkt::Any) -> Out<Discovery> {
    let here = c.field("typed_config");
    match &*type_name(any) {
        "envoy.extensions.clusters.dns.v3.DnsCluster" => {
            let d: dns::DnsCluster = here.unpack(any)?;
            let one = d.all_addresses_in_single_endpoint;
            let options = extension_dns(&here, &d)?;
            Ok(if one { Discovery::LogicalDns(options) } else { Discovery::StrictDns(options) })
        }
        "envoy.extensions.clusters.original_dst.v3.OriginalDstCluster" => {
            let o: original_dst::OriginalDstCluster = here.unpack(any)?;
            let metadata = here.opt("metadata_key", &o.metadata_key, metadata_key)?;
            by_original_dst(&here, o.use_http_header, &o.http_header_name, metadata, &o.upstream_port_override)
        }
        _ => here.unknown_extension(&t.name, Some(any)),
    }
}

fn eds(c: &Ctx<'_>, p: &pb::Cluster) -> Out<Discovery> {
    let Some(eds) = &p.eds_cluster_config else {
        return c.field("eds_cluster_config").refuse("cannot create an EDS cluster without an EDS config");
    };
    let c = c.field("eds_cluster_config");
    let source = c.required("eds_config", &eds.eds_config, source::config_source)?;
    let service_name = if eds.service_name.is_empty() { p.name.clone() } else { eds.service_name.clone() };
    Ok(Discovery::Eds { service_name, source })
}

fn cluster_original_dst(c: &Ctx<'_>, p: &pb::Cluster) -> Out<Discovery> {
    use pb::cluster::LbConfig::OriginalDstLbConfig;
    let Some(OriginalDstLbConfig(o)) = &p.lb_config else {
        return Ok(Discovery::OriginalDst { http_header: None, metadata: None, port: None });
    };
    let c = c.field("original_dst_lb_config");
    let metadata = c.opt("metadata_key", &o.metadata_key, metadata_key)?;
    by_original_dst(&c, o.use_http_header, &o.http_header_name, metadata, &o.upstream_port_override)
}

fn metadata_key(c: &Ctx<'_>, k: &metadata::MetadataKey) -> Out<MetadataKey> {
    use metadata::metadata_key::path_segment::Segment;
    let namespace = c.non_empty("key", &k.key);
    c.field("path").ensure(!k.path.is_empty(), || "value must contain at least 1 item(s)".into())?;
    let path = c.each("path", &k.path, |c, s| match &s.segment {
        Some(Segment::Key(key)) => c.non_empty("key", key),
        Some(Segment::Index(_)) => c.field("index").unsupported("a place in a list"),
        None => c.refuse("a segment is required"),
    });
    Ok(MetadataKey { namespace: namespace?, path: path? })
}

fn by_original_dst(
    c: &Ctx<'_>,
    use_header: bool,
    header: &str,
    metadata: Option<MetadataKey>,
    port: &Option<wkt::UInt32Value>,
) -> Out<Discovery> {
    c.ensure(use_header || header.is_empty(), || {
        format!(
            "ORIGINAL_DST cluster: invalid config http_header_name={header} and use_http_header is false. Set use_http_header to true if http_header_name is desired."
        )
    })?;
    let http_header = match (use_header, header) {
        (false, _) => None,
        (true, "") => Some(ORIGINAL_DST_HEADER.to_owned()),
        (true, name) => Some(headers::name(c, "http_header_name", name)?),
    };
    let port = match value::u32_opt(port) {
        None => None,
        Some(n) => Some(c.port("upstream_port_override", n)?),
    };
    Ok(Discovery::OriginalDst { http_header, metadata, port })
}

/// The deprecated fields of the cluster itself.
fn cluster_dns(c: &Ctx<'_>, p: &pb::Cluster) -> Out<DnsOptions> {
    use pb::cluster::DnsLookupFamily as F;
    let family = match c.enumeration::<F>("dns_lookup_family", p.dns_lookup_family)? {
        F::Auto => DnsFamily::Auto,
        F::V4Only => DnsFamily::V4Only,
        F::V6Only => DnsFamily::V6Only,
        F::V4Preferred => DnsFamily::V4Preferred,
        F::All => DnsFamily::All,
    };
    let refresh = c.opt("dns_refresh_rate", &p.dns_refresh_rate, above_1_ms);
    let failure_refresh = c.opt("dns_failure_refresh_rate", &p.dns_failure_refresh_rate, |c, r| {
        failure_refresh(c, &r.base_interval, &r.max_interval)
    });
    // The newest of three spellings that is there wins.
    let resolvers = if let Some(ext) = &p.typed_dns_resolver_config {
        typed_resolvers(&c.field("typed_dns_resolver_config"), ext)
    } else if let Some(config) = &p.dns_resolution_config {
        c.field("dns_resolution_config").each("resolvers", &config.resolvers, address::ip_address)
    } else {
        c.each("dns_resolvers", &p.dns_resolvers, address::ip_address)
    };
    Ok(DnsOptions {
        refresh: refresh?.unwrap_or(DEFAULT_REFRESH),
        jitter: c.duration("dns_jitter", &p.dns_jitter)?.unwrap_or_default(),
        failure_refresh: failure_refresh?,
        respect_ttl: p.respect_dns_ttl,
        family,
        resolvers: resolvers?,
    })
}

fn extension_dns(c: &Ctx<'_>, d: &dns::DnsCluster) -> Out<DnsOptions> {
    use DnsLookupFamily as F;
    let family = match c.enumeration::<F>("dns_lookup_family", d.dns_lookup_family)? {
        F::Unspecified | F::Auto => DnsFamily::Auto,
        F::V4Only => DnsFamily::V4Only,
        F::V6Only => DnsFamily::V6Only,
        F::V4Preferred => DnsFamily::V4Preferred,
        F::All => DnsFamily::All,
    };
    let refresh = c.opt("dns_refresh_rate", &d.dns_refresh_rate, above_1_ms);
    let failure_refresh = c.opt("dns_failure_refresh_rate", &d.dns_failure_refresh_rate, |c, r| {
        failure_refresh(c, &r.base_interval, &r.max_interval)
    });
    let resolvers = match &d.typed_dns_resolver_config {
        Some(ext) => typed_resolvers(&c.field("typed_dns_resolver_config"), ext),
        None => Ok(Vec::new()),
    };
    Ok(DnsOptions {
        refresh: refresh?.unwrap_or(DEFAULT_REFRESH),
        jitter: c.duration("dns_jitter", &d.dns_jitter)?.unwrap_or_default(),
        failure_refresh: failure_refresh?,
        respect_ttl: d.respect_dns_ttl,
        family,
        resolvers: resolvers?,
    })
}

fn above_1_ms(c: &Ctx<'_>, d: &wkt::Duration) -> Out<Duration> {
    let d = value::duration(c, d)?;
    c.ensure(d > Duration::from_millis(1), || "value must be greater than 0.001s".into())?;
    Ok(d)
}

fn failure_refresh(c: &Ctx<'_>, base: &Option<wkt::Duration>, max: &Option<wkt::Duration>) -> Out<BackOffRange> {
    let base = c.required("base_interval", base, above_1_ms)?;
    let max = c.opt("max_interval", max, above_1_ms)?.unwrap_or(base.saturating_mul(10));
    c.ensure(max >= base, || {
        "dns_failure_refresh_rate must have max_interval greater than or equal to the base_interval".into()
    })?;
    Ok(BackOffRange { base, max })
}

fn typed_resolvers(c: &Ctx<'_>, ext: &core::TypedExtensionConfig) -> Out<Vec<SocketAddr>> {
    let Some(any) = &ext.typed_config else {
        return c.unknown_extension(&ext.name, None);
    };
    let c = c.field("typed_config");
    match &*type_name(any) {
        "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig" => {
            let config: cares::CaresDnsResolverConfig = c.unpack(any)?;
            c.each("resolvers", &config.resolvers, address::ip_address)
        }
        // Both ask whom the system asks.
        "envoy.extensions.network.dns_resolver.getaddrinfo.v3.GetAddrInfoDnsResolverConfig"
        | "envoy.extensions.network.dns_resolver.hickory.v3.HickoryDnsResolverConfig" => Ok(Vec::new()),
        _ => c.unknown_extension(&ext.name, Some(any)),
    }
}
