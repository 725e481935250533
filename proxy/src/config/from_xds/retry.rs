//! Retry policies.

use std::time::Duration;

use weft_proto::pb::envoy::config::route::v3 as pb;
use weft_proto::pb::envoy::extensions::retry::host::omit_host_metadata::v3 as omit_metadata;
use weft_proto::pb::envoy::extensions::retry::priority::previous_priorities::v3 as previous_priorities;

use super::ctx::{Ctx, Out, type_name};
use super::{headers, matcher, value};
use crate::config::{BackOff, RateLimitedBackOff, RetryHostPredicate, RetryOn, RetryPolicy};

/// **Source**: `RetryPolicy.retry_back_off`.
const DEFAULT_BACK_OFF: BackOff = BackOff { base: Duration::from_millis(25), max: Duration::from_millis(250) };
/// **Source**: `RetryPolicy.RateLimitedRetryBackOff.max_interval`.
const DEFAULT_RATE_LIMITED_MAX: Duration = Duration::from_secs(300);

/// A retry policy.
pub(super) fn retry_policy(c: &Ctx<'_>, p: &pb::RetryPolicy) -> Out<RetryPolicy> {
    let (on, unknown) = RetryOn::parse(&p.retry_on);
    if !unknown.is_empty() {
        c.field("retry_on").warn(format!("unknown conditions are ignored: {}", unknown.join(", ")));
    }
    let codes = c.each("retriable_status_codes", &p.retriable_status_codes, |c, n| {
        let code = u16::try_from(*n).ok().filter(|code| (100..=999).contains(code));
        if code.is_none() {
            c.warn(format!("{n} is no status code and never matches"));
        }
        Ok(code)
    });
    let response_headers = c.each("retriable_headers", &p.retriable_headers, matcher::header);
    let request_headers = c.each("retriable_request_headers", &p.retriable_request_headers, matcher::header);
    let host_predicates = c.each("retry_host_predicate", &p.retry_host_predicate, host_predicate);
    let previous_priorities = c.opt("retry_priority", &p.retry_priority, priority);
    let rate_limited = c.opt("rate_limited_retry_back_off", &p.rate_limited_retry_back_off, rate_limited);
    let back_off =
        c.opt("retry_back_off", &p.retry_back_off, |c, b| value::back_off(c, &b.base_interval, &b.max_interval));
    if !p.retry_options_predicates.is_empty() {
        return c.field("retry_options_predicates").unsupported("a retry options predicate");
    }
    Ok(RetryPolicy {
        on,
        num_retries: value::u32_or(&p.num_retries, 1),
        per_try_timeout: c.timeout("per_try_timeout", &p.per_try_timeout, None)?,
        per_try_idle_timeout: c.timeout("per_try_idle_timeout", &p.per_try_idle_timeout, None)?,
        back_off: back_off?.unwrap_or(DEFAULT_BACK_OFF),
        retriable_status_codes: codes?.into_iter().flatten().collect(),
        retriable_headers: response_headers?,
        retriable_request_headers: request_headers?,
        host_predicates: host_predicates?,
        host_selection_max_attempts: match u32::try_from(p.host_selection_retry_max_attempts) {
            Ok(0) => 1,
            Ok(n) => n,
            Err(_) => return c.field("host_selection_retry_max_attempts").refuse("value must fit 32 bits, unsigned"),
        },
        rate_limited_back_off: rate_limited?,
        previous_priorities: previous_priorities?,
    })
}

fn host_predicate(c: &Ctx<'_>, p: &pb::retry_policy::RetryHostPredicate) -> Out<RetryHostPredicate> {
    use pb::retry_policy::retry_host_predicate::ConfigType::TypedConfig;
    let Some(TypedConfig(any)) = &p.config_type else {
        return c.unknown_extension(&p.name, None);
    };
    let c = c.field("typed_config");
    match &*type_name(any) {
        "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate" => Ok(RetryHostPredicate::PreviousHosts),
        "envoy.extensions.retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate" => {
            Ok(RetryHostPredicate::OmitCanaryHosts)
        }
        "envoy.extensions.retry.host.omit_host_metadata.v3.OmitHostMetadataConfig" => {
            let config: omit_metadata::OmitHostMetadataConfig = c.unpack(any)?;
            let labels = value::metadata_or_empty(&config.metadata_match).remove("envoy.lb");
            let none = || serde_json::Value::Object(serde_json::Map::new());
            Ok(RetryHostPredicate::OmitHostMetadata(labels.unwrap_or_else(none)))
        }
        _ => c.unknown_extension(&p.name, Some(any)),
    }
}

fn priority(c: &Ctx<'_>, p: &pb::retry_policy::RetryPriority) -> Out<u32> {
    use pb::retry_policy::retry_priority::ConfigType::TypedConfig;
    match &p.config_type {
        Some(TypedConfig(any))
            if type_name(any) == "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig" =>
        {
            let c = c.field("typed_config");
            let config: previous_priorities::PreviousPrioritiesConfig = c.unpack(any)?;
            match u32::try_from(config.update_frequency) {
                Ok(n) if n > 0 => Ok(n),
                _ => c.field("update_frequency").refuse("value must be greater than 0"),
            }
        }
        Some(TypedConfig(any)) => c.unknown_extension(&p.name, Some(any)),
        None => c.unknown_extension(&p.name, None),
    }
}

fn rate_limited(c: &Ctx<'_>, r: &pb::retry_policy::RateLimitedRetryBackOff) -> Out<RateLimitedBackOff> {
    use pb::retry_policy::ResetHeaderFormat as F;
    c.field("reset_headers").ensure(!r.reset_headers.is_empty(), || "value must contain at least 1 item(s)".into())?;
    let reset_headers = c.each("reset_headers", &r.reset_headers, |c, h| {
        let unix_time = c.enumeration::<F>("format", h.format)? == F::UnixTimestamp;
        Ok((headers::name(c, "name", &h.name)?, unix_time))
    })?;
    let max = c.opt("max_interval", &r.max_interval, value::positive_duration)?;
    Ok(RateLimitedBackOff { reset_headers, max_interval: max.unwrap_or(DEFAULT_RATE_LIMITED_MAX) })
}
