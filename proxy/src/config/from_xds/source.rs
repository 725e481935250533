//! Config sources: who delivers what the bootstrap does not hold.

use std::time::Duration;

use weft_proto::pb::envoy::config::bootstrap::v3 as bootstrap;
use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::config::core::v3::grpc_service::{self, google_grpc};

use super::ctx::{Ctx, Out};
use super::value;
use crate::config::{ApiConfigSource, ConfigSource, DynamicResources, GrpcTarget, RateLimit, Source, SslCredentials};

/// **Source**: `ConfigSource.initial_fetch_timeout`.
const DEFAULT_FETCH_TIMEOUT: Duration = Duration::from_secs(15);
/// **Source**: `EnvoyGrpc.retry_policy`.
const DEFAULT_BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// A config source.
pub(super) fn config_source(c: &Ctx<'_>, s: &core::ConfigSource) -> Out<ConfigSource> {
    use core::config_source::ConfigSourceSpecifier as S;
    let timeout = c.timeout("initial_fetch_timeout", &s.initial_fetch_timeout, Some(DEFAULT_FETCH_TIMEOUT));
    let from = match &s.config_source_specifier {
        None => c.refuse("Missing config source specifier in envoy::config::core::v3::ConfigSource"),
        Some(S::Ads(_)) => Ok(Source::Ads),
        Some(S::Path(path)) => file(c, "path", path, None),
        Some(S::PathConfigSource(p)) => {
            let c = c.field("path_config_source");
            let dir = c.opt("watched_directory", &p.watched_directory, value::watched_directory)?;
            file(&c, "path", &p.path, dir)
        }
        Some(S::ApiConfigSource(a)) => {
            api(&c.field("api_config_source"), a, Stream::Separate).map(|a| Source::Api(Box::new(a)))
        }
        // As in Envoy.
        Some(S::Self_(_)) => {
            c.field("self").refuse("Missing config source specifier in envoy::config::core::v3::ConfigSource")
        }
    };
    if !s.authorities.is_empty() {
        return c.field("authorities").unsupported("a federated config source");
    }
    Ok(ConfigSource { from: from?, initial_fetch_timeout: timeout? })
}

/// A source of what is asked for by name when it is needed: delta only. Whether the aggregated stream is delta is known elsewhere.
pub(super) fn delta(c: &Ctx<'_>, s: &core::ConfigSource) -> Out<ConfigSource> {
    let source = config_source(c, s)?;
    let delta = match &source.from {
        Source::Ads => true,
        Source::Api(api) => api.delta,
        Source::File { .. } => false,
    };
    c.ensure(delta, || {
        "only 'DELTA_GRPC' or 'ADS' (which uses Delta xDS) is supported as a config source of what is asked for on demand".into()
    })?;
    Ok(source)
}

fn file(c: &Ctx<'_>, field: &'static str, path: &str, watched_directory: Option<String>) -> Out<Source> {
    Ok(Source::File { path: c.non_empty(field, path)?, watched_directory })
}

/// Which stream a source is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stream {
    Aggregated,
    Separate,
}

/// `dynamic_resources`.
pub(super) fn dynamic(c: &Ctx<'_>, d: &bootstrap::bootstrap::DynamicResources) -> Out<DynamicResources> {
    let listeners = c.opt("lds_config", &d.lds_config, config_source);
    let clusters = c.opt("cds_config", &d.cds_config, config_source);
    let ads = c.opt("ads_config", &d.ads_config, |c, a| api(c, a, Stream::Aggregated));
    if !d.lds_resources_locator.is_empty() {
        return c.field("lds_resources_locator").unsupported("a resource locator");
    }
    if !d.cds_resources_locator.is_empty() {
        return c.field("cds_resources_locator").unsupported("a resource locator");
    }
    Ok(DynamicResources { listeners: listeners?, clusters: clusters?, ads: ads? })
}

fn api(c: &Ctx<'_>, a: &core::ApiConfigSource, stream: Stream) -> Out<ApiConfigSource> {
    use core::api_config_source::ApiType as T;
    let delta = match c.enumeration::<T>("api_type", a.api_type)? {
        T::Grpc => false,
        T::DeltaGrpc => true,
        T::Rest | T::DeprecatedAndUnavailableDoNotUse => return c.field("api_type").unsupported("REST"),
        T::AggregatedGrpc | T::AggregatedDeltaGrpc => {
            let reason = if stream == Stream::Aggregated {
                "the aggregated stream itself is GRPC or DELTA_GRPC"
            } else {
                "say `ads: {}`"
            };
            return c.field("api_type").refuse(format!("Unsupported config source AGGREGATED_GRPC: {reason}"));
        }
    };
    if a.transport_api_version != core::ApiVersion::V3 as i32 {
        return c
            .field("transport_api_version")
            .refuse("V2 .xDS transport protocol version is not supported: set it to V3");
    }
    if !a.cluster_names.is_empty() {
        return c.field("cluster_names").refuse("a gRPC config source must not have cluster_names");
    }
    if !a.config_validators.is_empty() {
        return c.field("config_validators").unsupported("a configuration validator");
    }
    let [service] = a.grpc_services.as_slice() else {
        return c.field("grpc_services").refuse(format!(
            "{}::(DELTA_)GRPC must have a single gRPC service specified",
            "envoy::config::core::v3::ApiConfigSource"
        ));
    };
    let here = c.index("grpc_services", 0);
    without_effect(&here, service);
    let (target, back_off) = target(&here, service)?;
    Ok(ApiConfigSource {
        delta,
        target,
        set_node_on_first_message_only: a.set_node_on_first_message_only,
        back_off_base: back_off.0,
        back_off_max: back_off.1,
        rate_limit: c.opt("rate_limit_settings", &a.rate_limit_settings, rate_limit)?,
        metadata: metadata(&here, service)?,
    })
}

/// What says nothing about a stream of discovery.
pub(super) fn without_effect(c: &Ctx<'_>, g: &core::GrpcService) {
    let warn = |c: &Ctx<'_>, set: bool, why: &str| {
        if set {
            c.warn(format!("has no effect: {why}"));
        }
    };
    warn(&c.field("timeout"), g.timeout.is_some(), "a stream of discovery has no end");
    warn(&c.field("retry_policy"), g.retry_policy.is_some(), "envoy_grpc.retry_policy says when a stream begins anew");
    if let Some(grpc_service::TargetSpecifier::EnvoyGrpc(e)) = &g.target_specifier {
        let c = c.field("envoy_grpc");
        warn(&c.field("skip_envoy_headers"), e.skip_envoy_headers, "none are sent");
        let limit = &c.field("max_receive_message_length");
        warn(limit, e.max_receive_message_length.is_some(), "messages of up to 256 MiB are taken");
        let again = e.retry_policy.as_ref().is_some_and(|r| r.num_retries.is_some() || !r.retry_on.is_empty());
        warn(&c.field("retry_policy"), again, "a stream always begins anew; only retry_back_off counts");
    }
}

/// The headers of calls to a gRPC service.
pub(super) fn metadata(c: &Ctx<'_>, g: &core::GrpcService) -> Out<Vec<(String, String)>> {
    c.each("initial_metadata", &g.initial_metadata, |_, h| Ok((h.key.to_ascii_lowercase(), h.value.clone())))
}

fn rate_limit(c: &Ctx<'_>, r: &core::RateLimitSettings) -> Out<RateLimit> {
    let fill = r.fill_rate.as_ref().map_or(10.0, |f| f.value);
    c.field("fill_rate").ensure(fill.is_finite() && fill > 0.0, || "value must be greater than 0".into())?;
    let max_tokens = c.bounded("max_tokens", value::u32_or(&r.max_tokens, 100), 1, u32::MAX)?;
    Ok(RateLimit { max_tokens, fill_per_mille: ((fill * 1000.0) as u64).max(1) })
}

/// The server of a gRPC service, and the pauses before it is called again.
pub(super) fn target(c: &Ctx<'_>, g: &core::GrpcService) -> Out<(GrpcTarget, (Duration, Duration))> {
    use grpc_service::TargetSpecifier as T;
    match &g.target_specifier {
        None => c.refuse("a target is required: envoy_grpc or google_grpc"),
        Some(T::EnvoyGrpc(e)) => {
            let c = c.field("envoy_grpc");
            let cluster = c.non_empty("cluster_name", &e.cluster_name)?;
            let back_off = c.opt("retry_policy", &e.retry_policy, back_off)?.unwrap_or(DEFAULT_BACK_OFF);
            let authority = Some(e.authority.clone()).filter(|a| !a.is_empty());
            Ok((GrpcTarget::Envoy { cluster, authority }, back_off))
        }
        Some(T::GoogleGrpc(g)) => {
            let c = c.field("google_grpc");
            Ok((google(&c, g)?, DEFAULT_BACK_OFF))
        }
    }
}

fn back_off(c: &Ctx<'_>, r: &core::RetryPolicy) -> Out<(Duration, Duration)> {
    let Some(b) = &r.retry_back_off else { return Ok(DEFAULT_BACK_OFF) };
    let c = c.field("retry_back_off");
    let base = c.required("base_interval", &b.base_interval, value::positive_duration)?;
    let max = c.duration("max_interval", &b.max_interval)?.unwrap_or(base.saturating_mul(10));
    c.field("max_interval")
        .ensure(max >= base, || "max_interval must be greater than or equal to the base_interval".into())?;
    Ok((base, max))
}

fn google(c: &Ctx<'_>, g: &grpc_service::GoogleGrpc) -> Out<GrpcTarget> {
    use google_grpc::channel_credentials::CredentialSpecifier as S;
    let uri = c.non_empty("target_uri", &g.target_uri)?;
    if !g.call_credentials.is_empty() {
        return c.field("call_credentials").unsupported("call credentials");
    }
    let here = c.field("channel_credentials");
    let ssl = match g.channel_credentials.as_ref().and_then(|c| c.credential_specifier.as_ref()) {
        None => None,
        Some(S::LocalCredentials(_)) => return here.field("local_credentials").unsupported("a local credential"),
        Some(S::GoogleDefault(_)) => return here.field("google_default").unsupported("Google's default credential"),
        Some(S::SslCredentials(s)) => {
            let c = here.field("ssl_credentials");
            Some(SslCredentials {
                root_certs: c.opt("root_certs", &s.root_certs, value::data_source)?,
                private_key: c.opt("private_key", &s.private_key, value::data_source)?,
                cert_chain: c.opt("cert_chain", &s.cert_chain, value::data_source)?,
            })
        }
    };
    Ok(GrpcTarget::Google { uri, ssl, stat_prefix: g.stat_prefix.clone() })
}
