//! Global rate limits: what a service that counts is asked, and what its answer says, for the HTTP and the network filter.
//!
//! Owns no connection and knows no filter chain. Runs on: workers.

use bytes::Bytes;
use serde_json::{Map, Value};
use weft_proto::pb::envoy::config::core::v3::HeaderValue as PbHeader;
use weft_proto::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use weft_proto::pb::envoy::service::ratelimit::v3::rate_limit_response::{Code, DescriptorStatus, rate_limit::Unit};
use weft_proto::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use weft_proto::wkt;

use crate::stats::{LazyCounters, Scope};

/// The method that is called.
pub(crate) const SHOULD_RATE_LIMIT: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

/// The question.
pub(crate) fn request(domain: &str, descriptors: Vec<RateLimitDescriptor>) -> RateLimitRequest {
    RateLimitRequest { domain: domain.to_owned(), descriptors, hits_addend: 0 }
}

/// An answer.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// It is enough.
    pub(crate) over_limit: bool,
    /// What of each descriptor.
    pub(crate) statuses: Vec<DescriptorStatus>,
    /// Fields of the client's answer.
    pub(crate) response: Vec<(String, Bytes)>,
    /// Fields of the request.
    pub(crate) request: Vec<(String, Bytes)>,
    /// Body of a refusal.
    pub(crate) body: Bytes,
    /// Dynamic metadata.
    pub(crate) metadata: Map<String, Value>,
}

impl From<RateLimitResponse> for Answer {
    fn from(r: RateLimitResponse) -> Self {
        Answer {
            over_limit: r.overall_code == Code::OverLimit as i32,
            statuses: r.statuses,
            response: r.response_headers_to_add.into_iter().map(field).collect(),
            request: r.request_headers_to_add.into_iter().map(field).collect(),
            body: Bytes::from(r.raw_body),
            metadata: r.dynamic_metadata.as_ref().map(wkt::json_object).unwrap_or_default(),
        }
    }
}

fn field(h: PbHeader) -> (String, Bytes) {
    (h.key, if h.raw_value.is_empty() { Bytes::from(h.value) } else { Bytes::from(h.raw_value) })
}

impl Answer {
    /// `x-ratelimit-limit`, `-remaining` and `-reset` (draft-polli-ratelimit-headers-03), of the limit that is nearest; `None`: the
    /// service tells of none.
    pub(crate) fn limit_headers(&self) -> Option<[(&'static str, String); 3]> {
        let told = || self.statuses.iter().filter_map(|s| Some((s, s.current_limit.as_ref()?)));
        // The first of those that have least left.
        let (nearest, limit) = told().reduce(|a, b| if b.0.limit_remaining < a.0.limit_remaining { b } else { a })?;
        let mut text = limit.requests_per_unit.to_string();
        for (_, limit) in told() {
            let Some(window) = seconds(limit.unit) else { continue };
            text.push_str(&format!(", {};w={window}", limit.requests_per_unit));
            if !limit.name.is_empty() {
                text.push_str(&format!(";name=\"{}\"", limit.name));
            }
        }
        let reset = nearest.duration_until_reset.as_ref().map_or(0, |d| d.seconds);
        Some([
            ("x-ratelimit-limit", text),
            ("x-ratelimit-remaining", nearest.limit_remaining.to_string()),
            ("x-ratelimit-reset", reset.to_string()),
        ])
    }

    /// When it is worth trying again, in seconds: after the longest of the limits that were met.
    pub(crate) fn retry_after(&self) -> Option<i64> {
        let over = self.statuses.iter().filter(|s| s.code == Code::OverLimit as i32);
        let left = over.map(|s| s.duration_until_reset.as_ref().map_or(0, |d| d.seconds));
        left.max().map(|seconds| seconds.max(1))
    }
}

fn seconds(unit: i32) -> Option<u64> {
    const DAY: u64 = 86_400;
    Some(match Unit::try_from(unit).ok()? {
        Unit::Second => 1,
        Unit::Minute => 60,
        Unit::Hour => 3600,
        Unit::Day => DAY,
        Unit::Week => 7 * DAY,
        Unit::Month => 30 * DAY,
        Unit::Year => 365 * DAY,
        Unit::Unknown => return None,
    })
}

/// `cluster.<name>.ratelimit.<stat prefix>.*`, of the cluster that a route leads to.
pub struct ClusterCounts(LazyCounters<4>);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    Ok,
    OverLimit,
    Error,
    FailureModeAllowed,
}

impl ClusterCounts {
    /// Below the cluster's `scope`.
    pub(crate) fn new(scope: &Scope, stat_prefix: &str) -> Self {
        let names = ["ok", "over_limit", "error", "failure_mode_allowed"];
        ClusterCounts(LazyCounters::new(scope.scope("ratelimit").scope(stat_prefix), names))
    }

    pub(crate) fn count(&self, what: Count) {
        self.0.inc(what as usize);
    }
}

#[cfg(test)]
mod tests {
    use weft_proto::pb::envoy::service::ratelimit::v3::rate_limit_response::RateLimit;
    use weft_proto::pb::google::protobuf::Duration;

    use super::*;

    fn status(requests: u32, unit: Unit, name: &str, left: u32, reset: i64) -> DescriptorStatus {
        DescriptorStatus {
            code: Code::OverLimit as i32,
            current_limit: Some(RateLimit { name: name.into(), requests_per_unit: requests, unit: unit as i32 }),
            limit_remaining: left,
            duration_until_reset: Some(Duration { seconds: reset, nanos: 0 }),
            ..DescriptorStatus::default()
        }
    }

    #[test]
    fn the_nearest_limit_is_told() {
        let texts =
            |statuses| Answer { statuses, ..Answer::default() }.limit_headers().map(|all| all.map(|(_, text)| text));
        assert_eq!(texts(Vec::new()), None);
        assert_eq!(texts(vec![DescriptorStatus::default()]), None);
        let two = vec![status(1, Unit::Minute, "first", 2, 3), status(4, Unit::Hour, "", 1, 6)];
        let wanted = ["4, 1;w=60;name=\"first\", 4;w=3600", "1", "6"].map(str::to_owned);
        assert_eq!(texts(two.clone()), Some(wanted));
        assert_eq!(texts(vec![status(1, Unit::Unknown, "x", 2, 3)]), Some(["1", "2", "3"].map(str::to_owned)));
        assert_eq!(Answer { statuses: two, ..Answer::default() }.retry_after(), Some(6));
        assert_eq!(Answer::default().retry_after(), None);
    }
}
