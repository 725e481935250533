//! HTTP protocol options, shared by connection managers and clusters.

use std::time::Duration;

use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::google::protobuf as wkt;

use super::ctx::{Ctx, Out, type_name};
use super::tcp_proxy::at_least_1_ms;
use super::{matcher, value};
use crate::config::{
    HeaderKeyFormat, Http1Options, Http2Keepalive, Http2Options, HttpCommonOptions, UnderscoresAction,
};

/// Common options. A zero duration is off.
pub(super) fn common(c: &Ctx<'_>, o: &core::HttpProtocolOptions) -> Out<HttpCommonOptions> {
    use core::http_protocol_options::HeadersWithUnderscoresAction as U;
    let default = HttpCommonOptions::default();
    let max_headers = value::u32_or(&o.max_headers_count, default.max_headers_count);
    let max_response_kb = value::u32_or(&o.max_response_headers_kb, 60);
    Ok(HttpCommonOptions {
        idle_timeout: c.timeout("idle_timeout", &o.idle_timeout, default.idle_timeout)?,
        max_connection_duration: c.timeout("max_connection_duration", &o.max_connection_duration, None)?,
        max_stream_duration: c.timeout("max_stream_duration", &o.max_stream_duration, None)?,
        max_requests_per_connection: value::u32_opt(&o.max_requests_per_connection).filter(|n| *n > 0),
        max_headers_count: c.bounded("max_headers_count", max_headers, 1, u32::MAX)?,
        max_response_headers_bytes: (c.bounded("max_response_headers_kb", max_response_kb, 1, 8192)? as usize) << 10,
        underscores: match c.enumeration::<U>("headers_with_underscores_action", o.headers_with_underscores_action)? {
            U::Allow => UnderscoresAction::Allow,
            U::RejectRequest => UnderscoresAction::Reject,
            U::DropHeader => UnderscoresAction::Drop,
        },
    })
}

/// HTTP/1 options.
pub(super) fn http1(c: &Ctx<'_>, o: &core::Http1ProtocolOptions) -> Out<Http1Options> {
    let format = c.opt("header_key_format", &o.header_key_format, header_key_format);
    let ignore_upgrade = c.each("ignore_http_11_upgrade", &o.ignore_http_11_upgrade, matcher::string);
    Ok(Http1Options {
        allow_absolute_url: value::bool_or(&o.allow_absolute_url, true),
        accept_http_10: o.accept_http_10,
        default_host_for_http_10: o.default_host_for_http_10.clone(),
        header_key_format: format?.unwrap_or(HeaderKeyFormat::Lower),
        enable_trailers: o.enable_trailers,
        allow_chunked_length: o.allow_chunked_length,
        override_stream_error: o.override_stream_error_on_invalid_http_message.as_ref().map(|b| b.value),
        send_fully_qualified_url: o.send_fully_qualified_url,
        allow_custom_methods: o.allow_custom_methods,
        ignore_upgrade: ignore_upgrade?,
    })
}

fn header_key_format(c: &Ctx<'_>, f: &core::http1_protocol_options::HeaderKeyFormat) -> Out<HeaderKeyFormat> {
    use core::http1_protocol_options::header_key_format::HeaderFormat as F;
    match &f.header_format {
        None => c.refuse("a header format is required: proper_case_words or stateful_formatter"),
        Some(F::ProperCaseWords(_)) => Ok(HeaderKeyFormat::Proper),
        Some(F::StatefulFormatter(ext)) => {
            let preserve = "envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig";
            match &ext.typed_config {
                Some(any) if type_name(any) == preserve => Ok(HeaderKeyFormat::Preserve),
                any => c.field("stateful_formatter").unknown_extension(&ext.name, any.as_ref()),
            }
        }
    }
}

/// HTTP/2 options.
pub(super) fn http2(c: &Ctx<'_>, o: &core::Http2ProtocolOptions) -> Out<Http2Options> {
    const MAX: u32 = (1 << 31) - 1;
    let default = Http2Options::default();
    let limit = |name, n: &Option<wkt::UInt32Value>, default| c.bounded(name, value::u32_or(n, default), 1, u32::MAX);
    let window = |name, n: &Option<wkt::UInt32Value>, default| c.bounded(name, value::u32_or(n, default), 65_535, MAX);
    let streams = value::u32_or(&o.max_concurrent_streams, default.max_concurrent_streams);
    let keepalive = c.opt("connection_keepalive", &o.connection_keepalive, keepalive);
    if o.allow_metadata {
        return c.field("allow_metadata").unsupported("HTTP/2 METADATA");
    }
    let stream_error = o.override_stream_error_on_invalid_http_message.as_ref().map(|b| b.value);
    Ok(Http2Options {
        hpack_table_size: value::u32_or(&o.hpack_table_size, default.hpack_table_size),
        max_concurrent_streams: c.bounded("max_concurrent_streams", streams, 1, MAX)?,
        initial_stream_window: window(
            "initial_stream_window_size",
            &o.initial_stream_window_size,
            default.initial_stream_window,
        )?,
        initial_connection_window: window(
            "initial_connection_window_size",
            &o.initial_connection_window_size,
            default.initial_connection_window,
        )?,
        allow_connect: o.allow_connect,
        max_outbound_frames: limit("max_outbound_frames", &o.max_outbound_frames, default.max_outbound_frames)?,
        max_outbound_control_frames: limit(
            "max_outbound_control_frames",
            &o.max_outbound_control_frames,
            default.max_outbound_control_frames,
        )?,
        max_empty_frames: value::u32_or(&o.max_consecutive_inbound_frames_with_empty_payload, default.max_empty_frames),
        max_priority_frames_per_stream: value::u32_or(
            &o.max_inbound_priority_frames_per_stream,
            default.max_priority_frames_per_stream,
        ),
        max_window_updates_per_data: limit(
            "max_inbound_window_update_frames_per_data_frame_sent",
            &o.max_inbound_window_update_frames_per_data_frame_sent,
            default.max_window_updates_per_data,
        )?,
        #[allow(clippy::cast_precision_loss, reason = "a rate per second: far below 2^53")]
        stream_reset_rate: o.stream_reset_rate.as_ref().map(|n| n.value as f64),
        stream_reset_burst: o.stream_reset_burst.as_ref().map_or(0, |n| n.value),
        // The deprecated spelling counts only where it says yes.
        override_stream_error: stream_error.or(o.stream_error_on_invalid_http_messaging.then_some(true)),
        keepalive: keepalive?,
    })
}

fn keepalive(c: &Ctx<'_>, k: &core::KeepaliveSettings) -> Out<Http2Keepalive> {
    /// Percent. **Source**: `KeepaliveSettings.interval_jitter`.
    const DEFAULT_JITTER: f64 = 15.0;
    let timeout: Duration = c.required("timeout", &k.timeout, at_least_1_ms)?;
    Ok(Http2Keepalive {
        interval: c.opt("interval", &k.interval, at_least_1_ms)?,
        timeout,
        jitter: c.opt("interval_jitter", &k.interval_jitter, value::percent)?.unwrap_or(DEFAULT_JITTER) / 100.0,
        idle_interval: c.opt("connection_idle_interval", &k.connection_idle_interval, at_least_1_ms)?,
    })
}
