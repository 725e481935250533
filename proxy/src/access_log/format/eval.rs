//! Evaluating commands with parameters.

use std::time::SystemTime;

use http::header::CONTENT_TYPE;
use percent_encoding::percent_decode;
use serde_json::Value as Json;

use super::LogContext;
use super::command::{
    AddressOf, Command, FilterStateForm, GrpcStatus, HeaderRef, Instant, Message, MetadataOf, ServerNameOrder, Source,
    TimePoint,
};
use super::simple::{upstream_remote, without_port};
use super::value::Value;
use crate::config::{Cidr, Metadata};
use crate::http::RequestHead;
use crate::stream_info::PeerAddr;

impl Command {
    /// The command's value for a request.
    pub(super) fn evaluate<'a>(&'a self, c: &'a LogContext<'_>) -> Value<'a> {
        match self {
            Command::Simple(getter) => getter(c),
            Command::Fixed(text) => text.as_str().into(),
            Command::Tls { field, upstream } => {
                let tls = if *upstream { &c.info.upstream.tls } else { &c.info.conn.tls };
                tls.as_deref().map_or(Value::Missing, field)
            }
            Command::Header { from, name, alternative } => header(c, *from, name, alternative.as_ref()),
            Command::Time(point, format) => time(c, *point).map_or(Value::Missing, |t| Value::Time(t, format)),
            Command::Duration { from, to, per_second } => duration(c, *from, *to, *per_second),
            Command::Masked(of, bits) => masked(c, *of, *bits),
            Command::Details { keep_spaces } => details(c, *keep_spaces),
            Command::GrpcStatus(form) => grpc_status(c).map_or(Value::Missing, |status| grpc_name(status, *form)),
            Command::Metadata { of, namespace, path } => metadata(c, *of, namespace, path),
            Command::FilterState { key, form } => filter_state(c, key, form),
            Command::Path { query, source } => path(c, *query, *source),
            Command::QueryParam(name) => query_param(c, name),
            Command::QueryParams { decoded } => query_params(c, *decoded),
            Command::ServerName { order, source } => server_name(c, *order, *source),
            Command::Coalesce(commands) => coalesce(c, commands),
        }
    }
}

fn header<'a>(
    c: &'a LogContext<'_>,
    from: Message,
    name: &'a HeaderRef,
    alternative: Option<&'a HeaderRef>,
) -> Value<'a> {
    let found = header_value(c, from, name).or_else(|| alternative.and_then(|name| header_value(c, from, name)));
    found.map_or(Value::Missing, Value::Bytes)
}

fn header_value<'a>(c: &'a LogContext<'_>, from: Message, name: &'a HeaderRef) -> Option<&'a [u8]> {
    match (from, name) {
        (Message::Request, HeaderRef::Name(name)) => Some(c.request?.headers.get(name)?.as_bytes()),
        (Message::Request, HeaderRef::Pseudo(name)) => c.request?.get(name).filter(|value| !value.is_empty()),
        (Message::Response, HeaderRef::Name(name)) => Some(c.response?.headers.get(name)?.as_bytes()),
        (Message::Response, HeaderRef::Pseudo(name)) => {
            (name == ":status").then_some(c.response?.status.as_str().as_bytes())
        }
        (Message::Trailers, HeaderRef::Name(name)) => Some(c.trailers?.get(name)?.as_bytes()),
        (Message::Trailers, HeaderRef::Pseudo(_)) => None,
    }
}

fn time(c: &LogContext<'_>, point: TimePoint) -> Option<SystemTime> {
    let peer = |tls: &Option<std::sync::Arc<crate::stream_info::TlsInfo>>| tls.as_ref().and_then(|t| t.peer.clone());
    match point {
        TimePoint::Start => Some(c.info.start_wall),
        TimePoint::Now => Some(SystemTime::now()),
        TimePoint::DownstreamCertificateStart => peer(&c.info.conn.tls)?.not_before,
        TimePoint::DownstreamCertificateEnd => peer(&c.info.conn.tls)?.not_after,
        TimePoint::UpstreamCertificateStart => peer(&c.info.upstream.tls)?.not_before,
        TimePoint::UpstreamCertificateEnd => peer(&c.info.upstream.tls)?.not_after,
    }
}

fn instant(c: &LogContext<'_>, name: Instant) -> Option<tokio::time::Instant> {
    let times = &c.info.times;
    match name {
        Instant::DownstreamRxBegin => Some(c.info.start),
        Instant::DownstreamRxEnd => times.last_downstream_rx,
        Instant::UpstreamConnectBegin => times.upstream_connect_start,
        Instant::UpstreamConnectEnd => times.upstream_connect_complete,
        Instant::UpstreamHandshakeEnd => times.upstream_handshake_complete,
        Instant::UpstreamTxBegin => times.first_upstream_tx,
        Instant::UpstreamTxEnd => times.last_upstream_tx,
        Instant::UpstreamRxBegin => times.first_upstream_rx,
        Instant::UpstreamRxEnd => times.last_upstream_rx,
        Instant::DownstreamTxBegin => times.first_downstream_tx,
        Instant::DownstreamTxEnd => times.last_downstream_tx,
        Instant::ConnectionBegin => Some(c.info.conn.start),
        Instant::ConnectionEnd => times.end,
        Instant::Unknown => None,
    }
}

/// Negative where the end came first.
fn duration<'a>(c: &LogContext<'_>, from: Instant, to: Instant, per_second: u64) -> Value<'a> {
    let Some((from, to)) = instant(c, from).zip(instant(c, to)) else { return Value::Missing };
    let units = |d: std::time::Duration| {
        i64::try_from(d.as_nanos() * u128::from(per_second) / 1_000_000_000).unwrap_or(i64::MAX)
    };
    Value::Int(match to.checked_duration_since(from) {
        Some(d) => units(d),
        None => -units(from.saturating_duration_since(to)),
    })
}

fn masked<'a>(c: &'a LogContext<'_>, of: AddressOf, bits: Option<u8>) -> Value<'a> {
    let address = match of {
        AddressOf::DownstreamRemote => Some(&c.info.remote),
        AddressOf::DownstreamDirectRemote => Some(&c.info.conn.direct_remote),
        AddressOf::DownstreamLocal => Some(&c.info.conn.local),
        AddressOf::DownstreamDirectLocal => Some(&c.info.conn.direct_local),
        AddressOf::UpstreamLocal => c.info.upstream.local.as_ref(),
        AddressOf::UpstreamRemote => upstream_remote(c),
    };
    match address.and_then(PeerAddr::ip).zip(bits).and_then(|(ip, bits)| Cidr::new(ip, bits)) {
        Some(network) => Value::Network(network.address, network.prefix),
        // A mask that is too long for the address is none.
        None => without_port(address),
    }
}

fn details<'a>(c: &'a LogContext<'_>, keep_spaces: bool) -> Value<'a> {
    let details = c.info.details.as_deref().unwrap_or_default();
    if !keep_spaces && details.bytes().any(|b| b.is_ascii_whitespace()) {
        return Value::Owned(details.replace(|c: char| c.is_ascii_whitespace(), "_"));
    }
    Value::non_empty(details)
}

/// The status of a gRPC request.
fn grpc_status(c: &LogContext<'_>) -> Option<u32> {
    let content_type = c.request?.headers.get(CONTENT_TYPE)?.as_bytes();
    let rest = content_type.strip_prefix(b"application/grpc")?;
    if !matches!(rest.first(), None | Some(b'+')) {
        return None;
    }
    known_status(c)
}

/// The gRPC status of any request, gRPC or not; 2 (unknown) where nothing tells it.
pub(in crate::access_log) fn status_of(c: &LogContext<'_>) -> u32 {
    known_status(c).unwrap_or(2)
}

/// A status from the trailers, the headers, the stream, or else the HTTP status.
fn known_status(c: &LogContext<'_>) -> Option<u32> {
    let header = |headers: &crate::http::HeaderMap| headers.get("grpc-status")?.to_str().ok()?.parse().ok();
    let trailer = c.trailers.and_then(header);
    trailer.or_else(|| c.response.and_then(|r| header(&r.headers))).or(c.info.grpc_status).or_else(|| from_http(c))
}

/// Envoy's table for responses that have no status of their own.
fn from_http(c: &LogContext<'_>) -> Option<u32> {
    Some(match c.info.response_code {
        0 => return None,
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    })
}

const GRPC_NAMES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

fn grpc_name<'a>(status: u32, form: GrpcStatus) -> Value<'a> {
    let names = GRPC_NAMES.get(status as usize);
    match (form, names) {
        (GrpcStatus::Number, _) => Value::Uint(status.into()),
        (GrpcStatus::Camel, Some((camel, _))) => (*camel).into(),
        (GrpcStatus::Snake, Some((_, snake))) => (*snake).into(),
        (_, None) => Value::Owned(status.to_string()),
    }
}

fn metadata<'a>(c: &'a LogContext<'_>, of_whom: MetadataOf, namespace: &str, path: &[String]) -> Value<'a> {
    let of = |all: Option<&'a Metadata>| all?.get(namespace);
    let found = match of_whom {
        MetadataOf::Dynamic => c.info.dynamic_metadata(namespace),
        MetadataOf::Cluster => of(c.cluster_metadata),
        MetadataOf::Route => of(c.route_metadata),
        MetadataOf::UpstreamHost => of(c.info.upstream.metadata.as_deref()),
        MetadataOf::Listener => of(c.listener_metadata),
        MetadataOf::VirtualHost => of(c.vhost_metadata),
    };
    let value = found.and_then(|value| path.iter().try_fold(value, |value, key| value.get(key)));
    value.filter(|value| !value.is_null()).map_or(Value::Missing, Value::Json)
}

fn filter_state<'a>(c: &'a LogContext<'_>, key: &str, form: &FilterStateForm) -> Value<'a> {
    let Some(object) = c.info.filter_state.as_ref().and_then(|state| state.get(key)) else { return Value::Missing };
    match (form, object) {
        (_, Json::Null) => Value::Missing,
        (FilterStateForm::Plain, object) => Value::Json(object),
        (FilterStateForm::Typed, Json::String(_)) => Value::QuotedJson(object),
        (FilterStateForm::Typed, object) => Value::Json(object),
        (FilterStateForm::Field(field), object) => object.get(field).map_or(Value::Missing, Value::Json),
    }
}

/// `current`, or the header that holds what it was before it was rewritten.
fn sourced<'a>(
    request: &'a RequestHead,
    source: Source,
    original: &'static str,
    current: Option<&'a [u8]>,
) -> Option<&'a [u8]> {
    let original = || request.headers.get(original).map(http::HeaderValue::as_bytes);
    let found = match source {
        Source::Original => original(),
        Source::Current => current,
        Source::OriginalOrCurrent => original().or(current),
    };
    found.filter(|value| !value.is_empty())
}

fn path<'a>(c: &'a LogContext<'_>, query: bool, source: Source) -> Value<'a> {
    let path = c.request.and_then(|r| sourced(r, source, "x-envoy-original-path", Some(r.path.as_bytes())));
    let Some(path) = path else { return Value::Missing };
    let end = if query { None } else { path.iter().position(|b| matches!(b, b'?' | b'#')) };
    Value::Bytes(&path[..end.unwrap_or(path.len())])
}

fn query<'a>(c: &'a LogContext<'_>) -> Option<&'a str> {
    let query = c.request?.query()?;
    Some(query.split('#').next().unwrap_or(query))
}

fn query_param<'a>(c: &'a LogContext<'_>, name: &str) -> Value<'a> {
    let Some(query) = query(c) else { return Value::Missing };
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let wanted = |(key, _): &(&str, &str)| percent_decode(key.as_bytes()).eq(name.bytes());
    match pairs.into_iter().find(wanted) {
        Some((_, value)) if value.contains('%') => decoded(value),
        Some((_, value)) => value.into(),
        None => Value::Missing,
    }
}

fn decoded<'a>(text: &str) -> Value<'a> {
    Value::Owned(percent_decode(text.as_bytes()).decode_utf8_lossy().into_owned())
}

fn query_params<'a>(c: &'a LogContext<'_>, decode: bool) -> Value<'a> {
    match query(c) {
        Some(query) if decode && query.contains('%') => decoded_query(query),
        Some(query) => Value::non_empty(query),
        None => Value::Missing,
    }
}

/// Envoy leaves alone what is no visible character when decoded: `%20` stays.
fn decoded_query<'a>(query: &str) -> Value<'a> {
    let mut out = Vec::with_capacity(query.len());
    let mut rest = query.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let byte = match rest {
            [b'%', _, _, ..] => percent_decode(&rest[..3]).next().filter(|b| *first != *b && b.is_ascii_graphic()),
            _ => None,
        };
        out.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &rest[3..] } else { after };
    }
    Value::Owned(String::from_utf8_lossy(&out).into_owned())
}

fn server_name<'a>(c: &'a LogContext<'_>, order: ServerNameOrder, source: Source) -> Value<'a> {
    let sni = || {
        let sni = &*c.info.conn.sni;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
        if sni.chars().all(plain) { Value::non_empty(sni) } else { Value::Owned(sni.replace(|c| !plain(c), "_")) }
    };
    let host = || {
        let host = c.request.and_then(|r| sourced(r, source, "x-envoy-original-host", r.get(":authority")));
        host.map_or(Value::Missing, Value::Bytes)
    };
    let first_of = |first: Value<'a>, second: &dyn Fn() -> Value<'a>| if first.is_empty() { second() } else { first };
    match order {
        ServerNameOrder::SniOnly => sni(),
        ServerNameOrder::SniFirst => first_of(sni(), &host),
        ServerNameOrder::HostFirst => first_of(host(), &sni),
    }
}

fn coalesce<'a>(c: &'a LogContext<'_>, commands: &'a [(Command, Option<usize>)]) -> Value<'a> {
    let values = commands.iter().map(|(command, limit)| (command.evaluate(c), limit));
    match values.into_iter().find(|(value, _)| !value.is_empty()) {
        Some((value, None)) => value,
        Some((value, limit)) => {
            let mut text = Vec::new();
            value.write_text(*limit, &mut text);
            Value::Owned(String::from_utf8_lossy(&text).into_owned())
        }
        None => Value::Missing,
    }
}
