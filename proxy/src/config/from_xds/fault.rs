//! `envoy.filters.http.fault`, in a chain or for some routes.

use std::num::NonZeroU64;

use bytes::Bytes;
use weft_proto::pb::envoy::extensions::filters::common::fault::v3 as common;
use weft_proto::pb::envoy::extensions::filters::http::fault::v3 as pb;
use weft_proto::pb::envoy::r#type::v3 as types;

use super::ctx::{Ctx, Out};
use super::{matcher, value};
use crate::config::{AbortStatus, Fault, FaultAbort, FaultDelay, FaultRateLimit, PerMillion, RuntimeFraction};

/// The settings of a fault filter.
pub(super) fn fault(c: &Ctx<'_>, f: &pb::HttpFault) -> Out<Fault> {
    let delay = c.opt("delay", &f.delay, |c, d| delay(c, d, f));
    let abort = c.opt("abort", &f.abort, |c, a| abort(c, a, f));
    let rate_limit = c.opt("response_rate_limit", &f.response_rate_limit, |c, r| {
        let key = key(&f.response_rate_limit_percent_runtime, "fault.http.rate_limit.response_percent");
        rate_limit(c, r, key)
    });
    let headers = c.each("headers", &f.headers, matcher::header);
    Ok(Fault {
        delay: delay?,
        abort: abort?,
        rate_limit: rate_limit?,
        upstream_cluster: f.upstream_cluster.clone(),
        headers: headers?,
        downstream_nodes: f.downstream_nodes.clone(),
        max_active: value::u32_opt(&f.max_active_faults),
        max_active_key: key(&f.max_active_faults_runtime, "fault.http.max_active_faults"),
        disable_downstream_cluster_stats: f.disable_downstream_cluster_stats,
        metadata: f.filter_metadata.as_ref().map(value::object).unwrap_or_default().into(),
    })
}

/// The runtime key that is configured, or else Envoy's.
fn key(configured: &str, default: &str) -> String {
    if configured.is_empty() { default } else { configured }.to_owned()
}

/// A share of requests; without one no request has the fault.
fn share(c: &Ctx<'_>, percentage: &Option<types::FractionalPercent>, key: String) -> Out<RuntimeFraction> {
    let percentage = c.opt("percentage", percentage, value::fractional_percent)?;
    let (default, denominator) = percentage.unwrap_or((PerMillion(0), 100));
    Ok(RuntimeFraction { default, key, denominator })
}

fn delay(c: &Ctx<'_>, d: &common::FaultDelay, f: &pb::HttpFault) -> Out<FaultDelay> {
    use common::fault_delay::FaultDelaySecifier as S;
    let share = share(c, &d.percentage, key(&f.delay_percent_runtime, "fault.http.delay.fixed_delay_percent"));
    let fixed = match &d.fault_delay_secifier {
        None => return c.refuse("a delay is required: fixed_delay or header_delay"),
        Some(S::FixedDelay(d)) => Some(value::positive_duration(&c.field("fixed_delay"), d)?),
        Some(S::HeaderDelay(_)) => None,
    };
    let duration_key = key(&f.delay_duration_runtime, "fault.http.delay.fixed_duration_ms");
    Ok(FaultDelay { fixed, share: share?, duration_key })
}

fn abort(c: &Ctx<'_>, a: &pb::FaultAbort, f: &pb::HttpFault) -> Out<FaultAbort> {
    use pb::fault_abort::ErrorType as E;
    let share = share(c, &a.percentage, key(&f.abort_percent_runtime, "fault.http.abort.abort_percent"));
    let status = match a.error_type {
        None => return c.refuse("an answer is required: http_status, grpc_status or header_abort"),
        Some(E::HttpStatus(status)) => match u16::try_from(status) {
            Ok(status @ 200..600) => AbortStatus::Http(status),
            _ => return c.field("http_status").refuse("value must be inside range [200, 600)"),
        },
        Some(E::GrpcStatus(status)) => AbortStatus::Grpc(status),
        Some(E::HeaderAbort(_)) => AbortStatus::Header,
    };
    let body = match a.response_body.as_str() {
        "" => Bytes::from_static(b"fault filter abort"),
        body => Bytes::copy_from_slice(body.as_bytes()),
    };
    Ok(FaultAbort {
        status,
        share: share?,
        http_status_key: key(&f.abort_http_status_runtime, "fault.http.abort.http_status"),
        grpc_status_key: key(&f.abort_grpc_status_runtime, "fault.http.abort.grpc_status"),
        body,
    })
}

fn rate_limit(c: &Ctx<'_>, r: &common::FaultRateLimit, key: String) -> Out<FaultRateLimit> {
    use common::fault_rate_limit::LimitType as L;
    let share = share(c, &r.percentage, key);
    let fixed = match &r.limit_type {
        None => return c.refuse("a limit is required: fixed_limit or header_limit"),
        Some(L::FixedLimit(limit)) => match NonZeroU64::new(limit.limit_kbps) {
            Some(limit) => Some(limit),
            None => {
                return c.field("fixed_limit").field("limit_kbps").refuse("value must be greater than or equal to 1");
            }
        },
        Some(L::HeaderLimit(_)) => None,
    };
    Ok(FaultRateLimit { fixed, share: share? })
}
