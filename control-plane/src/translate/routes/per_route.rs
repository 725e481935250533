//! What filters do on single routes: faults, cross-origin rules.

use std::collections::HashMap;

use weft_proto::any::pack;
use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::extensions::filters::common::fault::v3 as common;
use weft_proto::pb::envoy::extensions::filters::http::cors::v3 as cors;
use weft_proto::pb::envoy::extensions::filters::http::fault::v3 as fault;
use weft_proto::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use weft_proto::pb::google::protobuf::Any;

use super::super::http::{CORS, FAULT};
use super::super::wire::{self, bool_value, duration};
use crate::model::kinds::virtual_service::{Abort, CorsPolicy, Delay, Fault, HttpRoute, Percent, StringMatch};

/// The settings of filters on this route.
pub(super) fn configs(route: &HttpRoute) -> HashMap<String, Any> {
    let mut configs = HashMap::new();
    if let Some(of) = &route.fault {
        configs.insert(FAULT.to_owned(), pack(&http_fault(of)));
    }
    if let Some(of) = &route.cors_policy {
        configs.insert(CORS.to_owned(), pack(&cors_policy(of)));
    }
    configs
}

fn share(of: Option<&Percent>) -> weft_proto::pb::envoy::r#type::v3::FractionalPercent {
    wire::percent(of.map_or(100.0, |percent| percent.value))
}

fn http_fault(of: &Fault) -> fault::HttpFault {
    fault::HttpFault {
        delay: of.delay.as_ref().and_then(delay),
        abort: of.abort.as_ref().and_then(abort),
        ..Default::default()
    }
}

fn delay(of: &Delay) -> Option<common::FaultDelay> {
    let former = of.percent.map(|value| wire::percent(value.into()));
    Some(common::FaultDelay {
        percentage: Some(match (&of.percentage, former) {
            (None, Some(former)) => former,
            (percentage, _) => share(percentage.as_ref()),
        }),
        fault_delay_secifier: Some(common::fault_delay::FaultDelaySecifier::FixedDelay(duration(of.fixed_delay?)?)),
    })
}

fn abort(of: &Abort) -> Option<fault::FaultAbort> {
    let error_type = match (of.http_status, &of.grpc_status) {
        (Some(status), _) => fault::fault_abort::ErrorType::HttpStatus(status),
        (None, Some(name)) => fault::fault_abort::ErrorType::GrpcStatus(grpc_status(name)?),
        (None, None) => return None,
    };
    Some(fault::FaultAbort {
        percentage: Some(share(of.percentage.as_ref())),
        error_type: Some(error_type),
        ..Default::default()
    })
}

/// A gRPC status by name or number.
pub(crate) fn grpc_status(text: &str) -> Option<u32> {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let by_name = NAMES.iter().zip(0..).find(|(name, _)| **name == text).map(|(_, number)| number);
    by_name.or_else(|| text.parse().ok().filter(|number| *number <= 16))
}

fn cors_policy(of: &CorsPolicy) -> cors::CorsPolicy {
    let listed = of.allow_origin.iter().map(|origin| match origin.as_str() {
        "*" => MatchPattern::SafeRegex(wire::regex(".*")),
        origin => MatchPattern::Exact(origin.to_owned()),
    });
    let matched = of.allow_origins.iter().map(|origin| match origin {
        StringMatch::Exact(text) if text == "*" => MatchPattern::SafeRegex(wire::regex(".*")),
        StringMatch::Exact(text) => MatchPattern::Exact(text.clone()),
        StringMatch::Prefix(text) | StringMatch::PathPrefix(text) => MatchPattern::Prefix(text.clone()),
        StringMatch::Regex(text) => MatchPattern::SafeRegex(wire::regex(text)),
        StringMatch::Present => MatchPattern::SafeRegex(wire::regex(".*")),
    });
    cors::CorsPolicy {
        allow_origin_string_match: matched.chain(listed).map(wire::string_matcher).collect(),
        allow_methods: of.allow_methods.join(","),
        allow_headers: of.allow_headers.join(","),
        expose_headers: of.expose_headers.join(","),
        max_age: of.max_age.map(|age| age.as_secs().to_string()).unwrap_or_default(),
        allow_credentials: of.allow_credentials.and_then(bool_value),
        filter_enabled: Some(core::RuntimeFractionalPercent {
            default_value: Some(weft_proto::pb::envoy::r#type::v3::FractionalPercent {
                numerator: 100,
                denominator: 0,
            }),
            ..Default::default()
        }),
        forward_not_matching_preflights: bool_value(of.unmatched_preflights.as_deref() != Some("IGNORE")),
        ..Default::default()
    }
}
