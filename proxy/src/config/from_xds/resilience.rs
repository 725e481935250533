//! Circuit breakers and outlier detection.

use std::time::Duration;

use weft_proto::pb::envoy::config::cluster::v3 as pb;
use weft_proto::pb::envoy::config::core::v3::RoutingPriority;
use weft_proto::pb::google::protobuf as wkt;

use super::ctx::{Ctx, Out};
use super::value;
use crate::config::{CircuitBreaker, OutlierDetection, RetryBudget};

/// The circuit breakers of a cluster.
#[derive(Default)]
pub(super) struct Breakers {
    pub(super) default: CircuitBreaker,
    pub(super) high: CircuitBreaker,
    pub(super) per_host_max_connections: Option<u32>,
}

/// Circuit breakers; the first of each priority counts.
pub(super) fn circuit_breakers(c: &Ctx<'_>, b: &pb::CircuitBreakers) -> Out<Breakers> {
    let thresholds = c.each("thresholds", &b.thresholds, |c, t| Ok((priority(c, t)?, breaker(c, t)?)));
    let per_host = c.each("per_host_thresholds", &b.per_host_thresholds, |c, t| {
        let others = t.max_pending_requests.is_some()
            || t.max_requests.is_some()
            || t.max_retries.is_some()
            || t.max_connection_pools.is_some()
            || t.retry_budget.is_some()
            || t.track_remaining;
        c.ensure(!others, || "Unsupported field in per_host_thresholds".into())?;
        Ok((priority(c, t)?, value::u32_opt(&t.max_connections)))
    });
    let (mut default, mut high) = (None, None);
    for (priority, breaker) in thresholds? {
        let of = if priority == RoutingPriority::High { &mut high } else { &mut default };
        of.get_or_insert(breaker);
    }
    let per_host = per_host?.into_iter().find(|(p, _)| *p == RoutingPriority::Default);
    Ok(Breakers {
        default: default.unwrap_or_default(),
        high: high.unwrap_or_default(),
        per_host_max_connections: per_host.and_then(|(_, n)| n),
    })
}

fn priority(c: &Ctx<'_>, t: &pb::circuit_breakers::Thresholds) -> Out<RoutingPriority> {
    c.enumeration("priority", t.priority)
}

fn breaker(c: &Ctx<'_>, t: &pb::circuit_breakers::Thresholds) -> Out<CircuitBreaker> {
    let default = CircuitBreaker::default();
    let retry_budget = c.opt("retry_budget", &t.retry_budget, |c, b| {
        if b.budget_interval.is_some() {
            c.field("budget_interval").warn("has no effect: the budget is of the requests under way");
        }
        Ok(RetryBudget {
            percent: c.opt("budget_percent", &b.budget_percent, value::percent)?.unwrap_or(20.0),
            min_concurrency: value::u32_or(&b.min_retry_concurrency, 3),
        })
    })?;
    Ok(CircuitBreaker {
        max_connections: value::u32_or(&t.max_connections, default.max_connections),
        max_pending_requests: value::u32_or(&t.max_pending_requests, default.max_pending_requests),
        max_requests: value::u32_or(&t.max_requests, default.max_requests),
        max_retries: value::u32_or(&t.max_retries, default.max_retries),
        retry_budget,
        track_remaining: t.track_remaining,
        max_connection_pools: value::u32_opt(&t.max_connection_pools),
    })
}

/// Outlier detection.
pub(super) fn outlier_detection(c: &Ctx<'_>, o: &pb::OutlierDetection) -> Out<OutlierDetection> {
    let percent = |name, n: &Option<wkt::UInt32Value>, default| c.bounded(name, value::u32_or(n, default), 0, 100);
    let positive = |name, d: &Option<wkt::Duration>| c.opt(name, d, value::positive_duration);
    let base = positive("base_ejection_time", &o.base_ejection_time)?.unwrap_or(Duration::from_secs(30));
    let max = positive("max_ejection_time", &o.max_ejection_time)?;
    if max.is_some_and(|max| max < base) {
        return c
            .field("max_ejection_time")
            .refuse("outlier detector's max_ejection_time cannot be smaller than base_ejection_time");
    }
    Ok(OutlierDetection {
        consecutive_5xx: value::u32_or(&o.consecutive_5xx, 5),
        consecutive_gateway_failure: value::u32_or(&o.consecutive_gateway_failure, 5),
        consecutive_local_origin_failure: value::u32_or(&o.consecutive_local_origin_failure, 5),
        split_errors: o.split_external_local_origin_errors,
        interval: positive("interval", &o.interval)?.unwrap_or(Duration::from_secs(10)),
        base_ejection_time: base,
        max_ejection_time: max.unwrap_or(base.max(Duration::from_secs(300))),
        max_ejection_jitter: c.duration("max_ejection_time_jitter", &o.max_ejection_time_jitter)?.unwrap_or_default(),
        max_ejection_percent: percent("max_ejection_percent", &o.max_ejection_percent, 10)?,
        always_eject_one: value::bool_or(&o.always_eject_one_host, false),
        enforcing_consecutive_5xx: percent("enforcing_consecutive_5xx", &o.enforcing_consecutive_5xx, 100)?,
        enforcing_consecutive_gateway_failure: percent(
            "enforcing_consecutive_gateway_failure",
            &o.enforcing_consecutive_gateway_failure,
            0,
        )?,
        enforcing_consecutive_local_origin_failure: percent(
            "enforcing_consecutive_local_origin_failure",
            &o.enforcing_consecutive_local_origin_failure,
            100,
        )?,
        success_rate_minimum_hosts: value::u32_or(&o.success_rate_minimum_hosts, 5),
        success_rate_request_volume: value::u32_or(&o.success_rate_request_volume, 100),
        success_rate_stdev_factor: value::u32_or(&o.success_rate_stdev_factor, 1900),
        enforcing_success_rate: percent("enforcing_success_rate", &o.enforcing_success_rate, 100)?,
        enforcing_local_origin_success_rate: percent(
            "enforcing_local_origin_success_rate",
            &o.enforcing_local_origin_success_rate,
            100,
        )?,
        failure_percentage_threshold: percent("failure_percentage_threshold", &o.failure_percentage_threshold, 85)?,
        failure_percentage_minimum_hosts: value::u32_or(&o.failure_percentage_minimum_hosts, 5),
        failure_percentage_request_volume: value::u32_or(&o.failure_percentage_request_volume, 50),
        enforcing_failure_percentage: percent("enforcing_failure_percentage", &o.enforcing_failure_percentage, 0)?,
        enforcing_failure_percentage_local_origin: percent(
            "enforcing_failure_percentage_local_origin",
            &o.enforcing_failure_percentage_local_origin,
            0,
        )?,
    })
}
