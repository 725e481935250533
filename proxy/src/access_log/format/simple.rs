//! Commands without parameters that read a field of the stream.

use std::borrow::Cow;

use tokio::time::Instant;

use super::LogContext;
use super::value::{Value, display};
use crate::http::HeaderMap;
use crate::stream_info::{CloseType, PeerAddr, Protocol};

/// Reads a value.
pub(super) type Getter = for<'a> fn(&'a LogContext<'_>) -> Value<'a>;

/// The command of this name.
pub(super) fn getter(name: &str) -> Option<Getter> {
    stream(name)
        .or_else(|| bytes(name))
        .or_else(|| timing(name))
        .or_else(|| downstream(name))
        .or_else(|| upstream(name))
}

fn stream(name: &str) -> Option<Getter> {
    let getter: Getter = match name {
        "PROTOCOL" => |c| Value::optional(c.info.protocol.map(Protocol::as_str)),
        "RESPONSE_CODE" => |c| Value::Uint(c.info.response_code.into()),
        "RESPONSE_FLAGS" => |c| Value::Flags(c.info.flags, false),
        "RESPONSE_FLAGS_LONG" => |c| Value::Flags(c.info.flags, true),
        "CONNECTION_TERMINATION_DETAILS" => |c| locked(&c.info.conn.termination_details),
        "ROUTE_NAME" => |c| Value::non_empty(c.info.route.as_deref().unwrap_or_default()),
        "VIRTUAL_CLUSTER_NAME" => |c| Value::optional(c.virtual_cluster),
        "STREAM_ID" => stream_id,
        "UNIQUE_ID" => |_| Value::Owned(uuid(rand::random())),
        "FILTER_CHAIN_NAME" => |c| Value::non_empty(&c.info.conn.filter_chain),
        "LISTENER_NAME" => |c| Value::non_empty(&c.info.conn.listener.name),
        "ACCESS_LOG_TYPE" => |c| c.log_type.as_str().into(),
        "LOCAL_REPLY_BODY" => |c| c.local_reply_body.into(),
        "TRACE_ID" => |c| Value::optional(c.trace_id),
        "SPAN_ID" => |c| Value::optional(c.span_id),
        "CUSTOM_FLAGS" => |_| "".into(),
        "ROUTE_RESOLUTION_COUNT" => |c| Value::Uint(c.info.vhost.is_some().into()),
        // Measured by Envoy alone, and by its clients alone; no fingerprints are taken here.
        "ROUTE_RESOLUTION_TIME_US" | "TLS_JA3_FINGERPRINT" | "TLS_JA4_FINGERPRINT" => |_| Value::Missing,
        _ => return None,
    };
    Some(getter)
}

fn bytes(name: &str) -> Option<Getter> {
    let getter: Getter = match name {
        "BYTES_RECEIVED" => |c| Value::Uint(c.info.bytes.received),
        "BYTES_SENT" => |c| Value::Uint(c.info.bytes.sent),
        // HTTP/3 alone has them.
        "BYTES_RETRANSMITTED" | "PACKETS_RETRANSMITTED" => |_| Value::Uint(0),
        "DOWNSTREAM_WIRE_BYTES_RECEIVED" => |c| Value::Uint(c.info.bytes.wire_received),
        "DOWNSTREAM_WIRE_BYTES_SENT" => |c| Value::Uint(c.info.bytes.wire_sent),
        "DOWNSTREAM_HEADER_BYTES_RECEIVED" | "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED" => {
            |c| Value::Uint(c.info.bytes.headers_received)
        }
        "DOWNSTREAM_HEADER_BYTES_SENT" | "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT" => {
            |c| Value::Uint(c.info.bytes.headers_sent)
        }
        "UPSTREAM_WIRE_BYTES_RECEIVED" => |c| Value::Uint(c.info.bytes.upstream_wire_received),
        "UPSTREAM_WIRE_BYTES_SENT" => |c| Value::Uint(c.info.bytes.upstream_wire_sent),
        "UPSTREAM_HEADER_BYTES_RECEIVED" | "UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED" => {
            |c| Value::Uint(c.info.bytes.upstream_headers_received)
        }
        "UPSTREAM_HEADER_BYTES_SENT" | "UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT" => {
            |c| Value::Uint(c.info.bytes.upstream_headers_sent)
        }
        "REQUEST_HEADERS_BYTES" => request_headers_bytes,
        "RESPONSE_HEADERS_BYTES" => {
            // `:status` and its three digits count.
            |c| Value::Uint(c.response.map_or(0, |r| 10 + header_bytes(&r.headers)))
        }
        "RESPONSE_TRAILERS_BYTES" => |c| Value::Uint(c.trailers.map_or(0, header_bytes)),
        _ => return None,
    };
    Some(getter)
}

fn timing(name: &str) -> Option<Getter> {
    let getter: Getter = match name {
        "DURATION" => |c| since_start(c, Some(c.info.times.end.unwrap_or_else(Instant::now))),
        "REQUEST_DURATION" => |c| since_start(c, c.info.times.last_downstream_rx),
        "REQUEST_TX_DURATION" => |c| since_start(c, c.info.times.last_upstream_tx),
        "RESPONSE_DURATION" => |c| since_start(c, c.info.times.first_upstream_rx),
        "RESPONSE_TX_DURATION" => |c| {
            let times = &c.info.times;
            Value::optional(times.first_upstream_rx.zip(times.last_downstream_tx).map(|(from, to)| millis(from, to)))
        },
        "DOWNSTREAM_HANDSHAKE_DURATION" => |c| Value::optional(c.info.conn.handshake.map(|d| Millis(d.as_millis()))),
        "UPSTREAM_CONNECTION_POOL_READY_DURATION" => {
            |c| Value::optional(c.info.upstream.pool_ready.map(|d| Millis(d.as_millis())))
        }
        // HTTP/3 alone has acknowledgements.
        "ROUNDTRIP_DURATION" => |_| Value::Missing,
        // Without HTTP/3 Envoy has nothing here but 0.
        "DOWNSTREAM_CX_RTT" => |_| Value::Uint(0),
        _ => return None,
    };
    Some(getter)
}

fn downstream(name: &str) -> Option<Getter> {
    let getter: Getter = match name {
        "DOWNSTREAM_REMOTE_ADDRESS" => |c| Value::Address(&c.info.remote),
        "DOWNSTREAM_REMOTE_PORT" => |c| port(Some(&c.info.remote)),
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => |c| Value::Address(&c.info.conn.direct_remote),
        "DOWNSTREAM_DIRECT_REMOTE_PORT" => |c| port(Some(&c.info.conn.direct_remote)),
        "DOWNSTREAM_LOCAL_ADDRESS" => |c| Value::Address(&c.info.conn.local),
        "DOWNSTREAM_LOCAL_PORT" => |c| port(Some(&c.info.conn.local)),
        "DOWNSTREAM_DIRECT_LOCAL_ADDRESS" => |c| Value::Address(&c.info.conn.direct_local),
        "DOWNSTREAM_DIRECT_LOCAL_PORT" => |c| port(Some(&c.info.conn.direct_local)),
        // Addresses of internal listeners have endpoint ids; there are none here.
        "DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID" | "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID" => |_| "".into(),
        "CONNECTION_ID" => |c| Value::Uint(c.info.conn.id),
        "DOWNSTREAM_TRANSPORT_FAILURE_REASON" => |c| match locked(&c.info.conn.transport_failure) {
            Value::Owned(reason) => Value::Owned(reason.replace(' ', "_")),
            missing => missing,
        },
        "DOWNSTREAM_DETECTED_CLOSE_TYPE" => |c| c.info.downstream_close.as_str().into(),
        "UPSTREAM_DETECTED_CLOSE_TYPE" => |c| {
            let close = c.info.upstream_close.or(c.info.upstream.host.as_ref().map(|_| CloseType::Normal));
            Value::optional(close.map(CloseType::as_str))
        },
        "DOWNSTREAM_LOCAL_CLOSE_REASON" => |c| locked(&c.info.conn.local_close),
        _ => return None,
    };
    Some(getter)
}

fn upstream(name: &str) -> Option<Getter> {
    let getter: Getter = match name {
        "UPSTREAM_HOST" | "UPSTREAM_HOSTS_ATTEMPTED" => |c| Value::optional(c.info.upstream.host.as_ref()),
        "UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT" => |c| without_port(c.info.upstream.host.as_ref()),
        "UPSTREAM_HOST_NAME" | "UPSTREAM_HOST_NAMES_ATTEMPTED" => |c| match &*c.info.upstream.hostname {
            "" => Value::optional(c.info.upstream.host.as_ref()),
            name => name.into(),
        },
        "UPSTREAM_HOST_NAME_WITHOUT_PORT" | "UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT" => {
            |c| match &*c.info.upstream.hostname {
                "" => without_port(c.info.upstream.host.as_ref()),
                name => strip_port(name).into(),
            }
        }
        "UPSTREAM_CLUSTER" => |c| match c.cluster_stat_name {
            Some(name) if !name.is_empty() => name.into(),
            _ => Value::optional(c.info.upstream.cluster.as_deref()),
        },
        "UPSTREAM_CLUSTER_RAW" => |c| Value::optional(c.info.upstream.cluster.as_deref()),
        "UPSTREAM_LOCAL_ADDRESS" => |c| Value::optional(c.info.upstream.local.as_ref()),
        "UPSTREAM_LOCAL_PORT" => |c| port(c.info.upstream.local.as_ref()),
        "UPSTREAM_REMOTE_ADDRESS" => |c| Value::optional(upstream_remote(c)),
        "UPSTREAM_REMOTE_PORT" => |c| port(upstream_remote(c)),
        "UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID" => |c| Value::optional(upstream_remote(c).map(|_| "")),
        "UPSTREAM_PROTOCOL" => |c| Value::optional(c.info.upstream.protocol.map(Protocol::as_str)),
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => |c| Value::Uint(c.info.upstream.attempts.into()),
        "UPSTREAM_CONNECTION_ID" => |c| Value::Uint(c.info.upstream.connection_id),
        "UPSTREAM_CONNECTION_IDS_ATTEMPTED" => |c| match c.info.upstream.connection_id {
            0 => Value::Missing,
            id => Value::Owned(id.to_string()),
        },
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => |c| match c.info.upstream.transport_failure.as_deref() {
            Some(reason) if reason.contains(' ') => Value::Owned(reason.replace(' ', "_")),
            reason => Value::non_empty(reason.unwrap_or_default()),
        },
        "UPSTREAM_LOCAL_CLOSE_REASON" => |_| Value::Missing,
        _ => return None,
    };
    Some(getter)
}

/// The upstream's address once there is a connection to it.
pub(super) fn upstream_remote<'a>(c: &'a LogContext<'_>) -> Option<&'a PeerAddr> {
    let upstream = &c.info.upstream;
    upstream.host.as_ref().filter(|_| upstream.local.is_some() || upstream.connection_id != 0)
}

pub(super) fn without_port(address: Option<&PeerAddr>) -> Value<'_> {
    match address {
        Some(PeerAddr::Ip(address)) => Value::Ip(address.ip()),
        other => Value::optional(other),
    }
}

/// A host name without `:port`; an IPv6 address keeps its brackets, as Envoy has it.
fn strip_port(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((host, port))
            if !port.is_empty()
                && port.bytes().all(|b| b.is_ascii_digit())
                && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        _ => name,
    }
}

fn port(address: Option<&PeerAddr>) -> Value<'_> {
    Value::optional(address.and_then(PeerAddr::port).map(Port))
}

fn locked<'a>(text: &parking_lot::Mutex<Option<Cow<'static, str>>>) -> Value<'a> {
    text.lock().as_deref().filter(|t| !t.is_empty()).map_or(Value::Missing, |t| Value::Owned(t.to_owned()))
}

fn since_start<'a>(c: &LogContext<'_>, at: Option<Instant>) -> Value<'a> {
    Value::optional(at.map(|at| millis(c.info.start, at)))
}

fn millis(from: Instant, to: Instant) -> Millis {
    Millis(to.saturating_duration_since(from).as_millis())
}

struct Millis(u128);

impl From<Millis> for Value<'_> {
    fn from(millis: Millis) -> Self {
        Value::Uint(u64::try_from(millis.0).unwrap_or(u64::MAX))
    }
}

struct Port(u16);

impl From<Port> for Value<'_> {
    fn from(port: Port) -> Self {
        Value::Uint(port.0.into())
    }
}

impl<'a> From<&'a PeerAddr> for Value<'a> {
    fn from(address: &'a PeerAddr) -> Self {
        Value::Address(address)
    }
}

fn header_bytes(headers: &HeaderMap) -> u64 {
    headers.iter().map(|(name, value)| (name.as_str().len() + value.len()) as u64).sum()
}

fn request_headers_bytes<'a>(c: &'a LogContext<'_>) -> Value<'a> {
    let Some(request) = c.request else { return Value::Uint(0) };
    let pseudo = [":method", ":path", ":authority", ":scheme", ":protocol"];
    let pseudo = pseudo.iter().filter_map(|name| request.get(name).map(|value| (name.len() + value.len()) as u64));
    Value::Uint(pseudo.sum::<u64>() + header_bytes(&request.headers))
}

/// The request id; a connection's own id where there is no request.
fn stream_id<'a>(c: &'a LogContext<'_>) -> Value<'a> {
    match (&c.info.request_id, c.info.protocol) {
        (Some(id), _) => Value::Bytes(id.as_bytes()),
        (None, Some(_)) => Value::Missing,
        (None, None) => {
            let start = c.info.start_wall.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
            Value::Owned(uuid(start << 64 | u128::from(c.info.stream_id)))
        }
    }
}

/// A version 4 UUID of these bits.
fn uuid(bits: u128) -> String {
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = display(format_args!("{bits:032x}"));
    let part = |range| hex.get(range).unwrap_or_default();
    [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_go_and_names_stay() {
        for (name, stripped) in
            [("a:80", "a"), ("a", "a"), ("[::1]:80", "[::1]"), ("::1", "::1"), ("a:b", "a:b"), ("a:", "a:")]
        {
            assert_eq!(strip_port(name), stripped);
        }
    }

    #[test]
    fn uuids_have_their_version() {
        assert_eq!(uuid(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid(1), "00000000-0000-4000-8000-000000000001");
    }
}
