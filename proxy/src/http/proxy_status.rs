//! `proxy_status_config`: answers say in `Proxy-Status` (RFC 9209) what went wrong here.
//!
//! **Source**: `envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.ProxyStatusConfig`. Runs on: workers.

use http::{HeaderName, HeaderValue, StatusCode};

use super::head::ResponseHead;
use super::stream::StreamCtx;
use crate::config::ProxyStatus;
use crate::stream_info::ResponseFlags as F;

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Error types by response flag, the first that is set counts; and the status RFC 9209 recommends.
const ERRORS: &[(F, &str, u16)] = &[
    (F::FAILED_LOCAL_HEALTH_CHECK, "destination_unavailable", 503),
    (F::NO_HEALTHY_UPSTREAM, "destination_unavailable", 503),
    (F::UPSTREAM_REQUEST_TIMEOUT, "http_response_timeout", 504),
    (F::UPSTREAM_REMOTE_RESET, "connection_terminated", 502),
    (F::UPSTREAM_CONNECTION_FAILURE, "connection_refused", 502),
    (F::UPSTREAM_CONNECTION_TERMINATION, "connection_terminated", 502),
    (F::UPSTREAM_OVERFLOW, "connection_limit_reached", 503),
    (F::NO_ROUTE_FOUND, "destination_not_found", 500),
    (F::UPSTREAM_RETRY_LIMIT_EXCEEDED, "destination_unavailable", 503),
    (F::STREAM_IDLE_TIMEOUT, "http_response_timeout", 504),
    (F::INVALID_ENVOY_REQUEST_HEADERS, "http_request_error", 400),
    (F::DOWNSTREAM_PROTOCOL_ERROR, "http_request_error", 400),
    (F::UPSTREAM_MAX_STREAM_DURATION_REACHED, "http_response_timeout", 504),
    (F::UPSTREAM_PROTOCOL_ERROR, "http_protocol_error", 502),
    (F::NO_CLUSTER_FOUND, "destination_unavailable", 503),
];

/// Adds the field where something went wrong; may change the status.
pub(super) fn apply(config: &ProxyStatus, ctx: &StreamCtx, head: &mut ResponseHead) {
    let flags = ctx.info.flags;
    let Some((_, error, recommended)) = ERRORS.iter().find(|(flag, ..)| flags.any_of(*flag)) else { return };
    if config.set_recommended_response_code
        && let Ok(status) = StatusCode::from_u16(*recommended)
    {
        head.status = status;
    }
    let mut text = format!("{}; error={error}", config.proxy_name);
    if !config.remove_details {
        let mut details: Vec<String> = ctx.info.details.iter().map(|d| d.to_string()).collect();
        if !config.remove_connection_termination_details
            && let Some(why) = ctx.conn.info.termination_details.lock().as_ref()
        {
            details.push(why.to_string());
        }
        if !config.remove_response_flags {
            details.push(flags.names().map(|(short, _)| short).collect::<Vec<_>>().join(","));
        }
        text.push_str(&format!("; details=\"{}\"", details.join("; ").replace('\\', "\\\\").replace('"', "\\\"")));
    }
    if let Ok(value) = HeaderValue::from_str(&text) {
        head.headers.append(PROXY_STATUS, value);
    }
}
