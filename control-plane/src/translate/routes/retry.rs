//! Retries and time limits.

use std::time::Duration;

use weft_proto::any::pack;
use weft_proto::pb::envoy::config::route::v3::{self as pb, retry_policy};
use weft_proto::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;

use super::super::wire::{duration, u32_value};
use crate::model::kinds::mesh_config::MeshConfig;
use crate::model::kinds::virtual_service::Retries;

/// What is tried again if nobody says: only what certainly did no harm (Istio's default).
const RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled";
/// How often, if nobody says (Istio's default).
const ATTEMPTS: u32 = 2;
/// How often another host is looked for that was not tried yet (Istio's default).
const HOST_SELECTION_ATTEMPTS: i64 = 5;

/// The retry policy of a route; `None`: nothing is tried again.
pub(super) fn policy(own: Option<&Retries>, mesh: &MeshConfig) -> Option<pb::RetryPolicy> {
    let Some(of) = own.or(mesh.default_http_retry_policy.as_ref()) else {
        return Some(with_defaults(RETRY_ON, ATTEMPTS, true));
    };
    if of.attempts == 0 {
        return None;
    }
    let (conditions, codes) = split(of.retry_on.as_deref().unwrap_or_default());
    let conditions = if conditions.is_empty() && codes.is_empty() { RETRY_ON.to_owned() } else { conditions };
    let conditions = match codes.is_empty() || conditions.contains("retriable-status-codes") {
        true => conditions,
        false if conditions.is_empty() => "retriable-status-codes".to_owned(),
        false => format!("{conditions},retriable-status-codes"),
    };
    let mut made = with_defaults(&conditions, of.attempts, of.retry_ignore_previous_hosts.unwrap_or(true));
    made.retriable_status_codes = codes;
    made.per_try_timeout = of.per_try_timeout.filter(|limit| *limit > Duration::ZERO).and_then(duration);
    if let Some(pause) = of.backoff.filter(|pause| *pause > Duration::ZERO) {
        made.retry_back_off = Some(retry_policy::RetryBackOff { base_interval: duration(pause), ..Default::default() });
    }
    if of.retry_remote_localities == Some(true) {
        let config =
            weft_proto::pb::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig {
                update_frequency: 2,
            };
        made.retry_priority = Some(retry_policy::RetryPriority {
            name: "envoy.retry_priorities.previous_priorities".to_owned(),
            config_type: Some(retry_policy::retry_priority::ConfigType::TypedConfig(pack(&config))),
        });
    }
    Some(made)
}

fn with_defaults(retry_on: &str, attempts: u32, other_hosts: bool) -> pb::RetryPolicy {
    let mut made =
        pb::RetryPolicy { retry_on: retry_on.to_owned(), num_retries: u32_value(attempts), ..Default::default() };
    if other_hosts {
        made.retry_host_predicate = vec![retry_policy::RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
            config_type: Some(retry_policy::retry_host_predicate::ConfigType::TypedConfig(pack(
                &PreviousHostsPredicate {},
            ))),
        }];
        made.host_selection_retry_max_attempts = HOST_SELECTION_ATTEMPTS;
    }
    made
}

/// Conditions and status codes, which Istio takes in one list.
fn split(retry_on: &str) -> (String, Vec<u32>) {
    let mut codes = Vec::new();
    let mut conditions = Vec::new();
    for entry in retry_on.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        match entry.parse() {
            Ok(code) => codes.push(code),
            Err(_) => conditions.push(entry),
        }
    }
    (conditions.join(","), codes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_conditions() {
        let of = Retries { attempts: 3, retry_on: Some("5xx, 429".into()), ..Retries::default() };
        let made = policy(Some(&of), &MeshConfig::default()).unwrap();
        assert_eq!(
            (made.retry_on.as_str(), &made.retriable_status_codes[..]),
            ("5xx,retriable-status-codes", &[429][..])
        );
        assert_eq!(policy(None, &MeshConfig::default()).unwrap().retry_on, RETRY_ON);
        assert_eq!(policy(Some(&Retries::default()), &MeshConfig::default()), None);
    }
}
