//! Services that filters ask.

use std::time::Duration;

use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::config::core::v3::grpc_service::TargetSpecifier;

use super::ctx::{Ctx, Out};
use super::{headers, value};
use crate::config::{BackOff, GrpcService, HeaderMutations, HttpUri, RetryOn, RetryPolicy};

/// What a call may answer where nothing says otherwise: gRPC's own default.
const MAX_MESSAGE: u32 = 4 << 20;
/// **Source**: `RetryPolicy.retry_back_off`.
const DEFAULT_BACK_OFF: BackOff = BackOff { base: Duration::from_millis(25), max: Duration::from_millis(250) };

/// A gRPC service; without a timeout of its own calls have `timeout`.
pub(super) fn grpc(c: &Ctx<'_>, g: &core::GrpcService, timeout: Option<Duration>) -> Out<GrpcService> {
    let metadata = c.each("initial_metadata", &g.initial_metadata, headers::set);
    let timeout = c.timeout("timeout", &g.timeout, timeout);
    let retry = c.opt("retry_policy", &g.retry_policy, |c, r| retry(c, r, ""));
    let envoy = match &g.target_specifier {
        Some(TargetSpecifier::EnvoyGrpc(e)) => e,
        Some(TargetSpecifier::GoogleGrpc(_)) => {
            return c
                .field("google_grpc")
                .unsupported("a gRPC client beside this proxy's clusters (envoy_grpc names one)");
        }
        None => return c.refuse("a target is required: envoy_grpc or google_grpc"),
    };
    let c = c.field("envoy_grpc");
    headers::plain_value(&c.field("authority"), &envoy.authority)?;
    let own = c.opt("retry_policy", &envoy.retry_policy, |c, r| self::retry(c, r, ""))?;
    Ok(GrpcService {
        cluster: c.non_empty("cluster_name", &envoy.cluster_name)?,
        authority: Some(envoy.authority.clone()).filter(|a| !a.is_empty()),
        timeout: timeout?,
        metadata: HeaderMutations(metadata?),
        retry: own.or(retry?),
        max_message: value::u32_or(&envoy.max_receive_message_length, MAX_MESSAGE) as usize,
        envoy_headers: !envoy.skip_envoy_headers,
    })
}

/// A server by URI.
pub(super) fn http_uri(c: &Ctx<'_>, u: &core::HttpUri) -> Out<HttpUri> {
    let uri = c.non_empty("uri", &u.uri)?;
    let timeout = c.required("timeout", &u.timeout, value::duration_or_off)?;
    match &u.http_upstream_type {
        Some(core::http_uri::HttpUpstreamType::Cluster(name)) => {
            Ok(HttpUri { uri, cluster: c.non_empty("cluster", name)?, timeout })
        }
        None => c.field("cluster").refuse("value is required"),
    }
}

/// A retry policy of core's kind; `on`: the conditions where it names none.
pub(super) fn retry(c: &Ctx<'_>, r: &core::RetryPolicy, on: &str) -> Out<RetryPolicy> {
    for (field, set) in
        [("retry_priority", r.retry_priority.is_some()), ("retry_host_predicate", !r.retry_host_predicate.is_empty())]
    {
        if set {
            return c.field(field).unsupported("a choice of hosts for retries of the proxy's own calls");
        }
    }
    let back_off =
        c.opt("retry_back_off", &r.retry_back_off, |c, b| value::back_off(c, &b.base_interval, &b.max_interval))?;
    let (on, unknown) = RetryOn::parse(if r.retry_on.is_empty() { on } else { &r.retry_on });
    if !unknown.is_empty() {
        c.field("retry_on").warn(format!("unknown conditions are ignored: {}", unknown.join(", ")));
    }
    Ok(RetryPolicy {
        on,
        num_retries: value::u32_or(&r.num_retries, 1),
        per_try_timeout: None,
        per_try_idle_timeout: None,
        back_off: back_off.unwrap_or(DEFAULT_BACK_OFF),
        retriable_status_codes: Vec::new(),
        retriable_headers: Vec::new(),
        retriable_request_headers: Vec::new(),
        host_predicates: Vec::new(),
        host_selection_max_attempts: 1,
        rate_limited_back_off: None,
        previous_priorities: None,
    })
}

/// Only version 3 is spoken; `AUTO` is taken for it.
pub(super) fn version(c: &Ctx<'_>, version: i32) -> Out<()> {
    use core::ApiVersion as V;
    let c_version = c.field("transport_api_version");
    match c.enumeration::<V>("transport_api_version", version)? {
        V::V3 => Ok(()),
        V::Auto => {
            c_version.warn("is not set: V3 is spoken (Envoy refuses it)");
            Ok(())
        }
        V::V2 => c_version.refuse("V2 transport protocol version is not supported: set it to V3"),
    }
}
