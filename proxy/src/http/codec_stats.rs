//! `http1.*` and `http2.*`: what the downstream codecs of the whole process refused.

use crate::stats::{Counter, Scope};

/// Stats of one codec. Those that cannot happen in it stay zero, as in Envoy.
pub struct CodecStats {
    /// Headers dropped for an underscore in their names.
    pub dropped_headers_with_underscores: Counter,
    /// Requests refused for one.
    pub requests_rejected_with_underscores_in_headers: Counter,
}

/// Stats of the HTTP/2 codec alone.
pub struct Http2Stats {
    /// Those of both codecs.
    pub common: CodecStats,
    /// PINGs of `connection_keepalive` that were not answered.
    pub keepalive_timeout: Counter,
    /// Streams ended since their answers were not taken in time.
    pub tx_flush_timeout: Counter,
    /// Malformed requests.
    pub rx_messaging_error: Counter,
    /// Requests with more headers than allowed.
    pub header_overflow: Counter,
    /// Connections ended for empty frames.
    pub inbound_empty_frames_flood: Counter,
    /// Connections ended for PRIORITY frames.
    pub inbound_priority_frames_flood: Counter,
    /// Connections ended for WINDOW_UPDATE frames.
    pub inbound_window_update_frames_flood: Counter,
    /// Connections ended for SETTINGS and PING frames, each of which costs an answer.
    pub outbound_control_flood: Counter,
}

impl CodecStats {
    /// Stats below `scope`.
    pub fn new(scope: &Scope) -> Self {
        CodecStats {
            dropped_headers_with_underscores: scope.counter("dropped_headers_with_underscores"),
            requests_rejected_with_underscores_in_headers: scope
                .counter("requests_rejected_with_underscores_in_headers"),
        }
    }
}

impl Http2Stats {
    /// Stats below `scope`.
    pub fn new(scope: &Scope) -> Self {
        Http2Stats {
            common: CodecStats::new(scope),
            keepalive_timeout: scope.counter("keepalive_timeout"),
            tx_flush_timeout: scope.counter("tx_flush_timeout"),
            rx_messaging_error: scope.counter("rx_messaging_error"),
            header_overflow: scope.counter("header_overflow"),
            inbound_empty_frames_flood: scope.counter("inbound_empty_frames_flood"),
            inbound_priority_frames_flood: scope.counter("inbound_priority_frames_flood"),
            inbound_window_update_frames_flood: scope.counter("inbound_window_update_frames_flood"),
            outbound_control_flood: scope.counter("outbound_control_flood"),
        }
    }
}
