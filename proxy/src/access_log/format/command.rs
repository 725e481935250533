//! Commands: what they are compiled to, and their parameters.

use http::HeaderName;

use super::time::TimeFormat;
use super::{parameters, parse, simple, tls};

/// A compiled command.
#[derive(Debug, Clone)]
pub(super) enum Command {
    /// A command without parameters.
    Simple(simple::Getter),
    /// A fact of a TLS connection.
    Tls {
        field: tls::Field,
        upstream: bool,
    },
    /// A value that does not depend on the request.
    Fixed(String),
    Header {
        from: Message,
        name: HeaderRef,
        alternative: Option<HeaderRef>,
    },
    Time(TimePoint, TimeFormat),
    Duration {
        from: Instant,
        to: Instant,
        per_second: u64,
    },
    /// An address without port, masked to so many bits.
    Masked(AddressOf, Option<u8>),
    /// Response code details, with white space turned into underscores unless asked otherwise.
    Details {
        keep_spaces: bool,
    },
    GrpcStatus(GrpcStatus),
    Metadata {
        of: MetadataOf,
        namespace: String,
        path: Vec<String>,
    },
    FilterState {
        key: String,
        form: FilterStateForm,
    },
    Path {
        query: bool,
        source: Source,
    },
    QueryParam(String),
    QueryParams {
        decoded: bool,
    },
    ServerName {
        order: ServerNameOrder,
        source: Source,
    },
    /// The first command that has a value, with limits of their own.
    Coalesce(Vec<(Command, Option<usize>)>),
}

/// Where a header is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    Request,
    Response,
    Trailers,
}

/// A header's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HeaderRef {
    /// `:method` and so on, and `host`.
    Pseudo(String),
    Name(HeaderName),
}

/// Times that have a calendar date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimePoint {
    Start,
    Now,
    DownstreamCertificateStart,
    DownstreamCertificateEnd,
    UpstreamCertificateStart,
    UpstreamCertificateEnd,
}

/// Instants durations are measured between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Instant {
    DownstreamRxBegin,
    DownstreamRxEnd,
    UpstreamConnectBegin,
    UpstreamConnectEnd,
    UpstreamHandshakeEnd,
    UpstreamTxBegin,
    UpstreamTxEnd,
    UpstreamRxBegin,
    UpstreamRxEnd,
    DownstreamTxBegin,
    DownstreamTxEnd,
    ConnectionBegin,
    ConnectionEnd,
    /// Envoy takes any other name for one that a filter may set; ours set none.
    Unknown,
}

/// Addresses that may be masked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AddressOf {
    DownstreamRemote,
    DownstreamDirectRemote,
    DownstreamLocal,
    DownstreamDirectLocal,
    UpstreamLocal,
    UpstreamRemote,
}

/// Forms of a gRPC status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GrpcStatus {
    Camel,
    Snake,
    Number,
}

/// Whose metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MetadataOf {
    Dynamic,
    Cluster,
    Route,
    UpstreamHost,
    Listener,
    VirtualHost,
}

/// How a filter state object is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FilterStateForm {
    Plain,
    Typed,
    Field(String),
}

/// The current path or host, or the one before a rewrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Original,
    Current,
    OriginalOrCurrent,
}

/// SNI, host, or one where the other is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerNameOrder {
    SniOnly,
    SniFirst,
    HostFirst,
}

/// What a command may be followed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Syntax {
    Bare,
    Optional,
    Required,
    OptionalWithLength,
    RequiredWithLength,
}

/// Commands with parameters, and whether they must have them and may have a length.
const PARAMETRIC: &[(&str, Syntax)] = &[
    ("REQ", Syntax::RequiredWithLength),
    ("REQUEST_HEADER", Syntax::RequiredWithLength),
    ("RESP", Syntax::RequiredWithLength),
    ("RESPONSE_HEADER", Syntax::RequiredWithLength),
    ("TRAILER", Syntax::RequiredWithLength),
    ("RESPONSE_TRAILER", Syntax::RequiredWithLength),
    // An extension that Istio and others load always; its name says what it does.
    ("REQ_WITHOUT_QUERY", Syntax::RequiredWithLength),
    ("START_TIME", Syntax::Optional),
    ("START_TIME_LOCAL", Syntax::Optional),
    ("EMIT_TIME", Syntax::Optional),
    ("EMIT_TIME_LOCAL", Syntax::Optional),
    ("DOWNSTREAM_PEER_CERT_V_START", Syntax::Optional),
    ("DOWNSTREAM_PEER_CERT_V_END", Syntax::Optional),
    ("UPSTREAM_PEER_CERT_V_START", Syntax::Optional),
    ("UPSTREAM_PEER_CERT_V_END", Syntax::Optional),
    ("RESPONSE_CODE_DETAILS", Syntax::Optional),
    ("COMMON_DURATION", Syntax::Required),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Syntax::Optional),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", Syntax::Optional),
    ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Syntax::Optional),
    ("DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT", Syntax::Optional),
    ("UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Syntax::Optional),
    ("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Syntax::Optional),
    ("GRPC_STATUS", Syntax::Optional),
    ("DYNAMIC_METADATA", Syntax::RequiredWithLength),
    // Envoy refuses a length for these two; theirs is an oversight, and its manual has one.
    ("CLUSTER_METADATA", Syntax::RequiredWithLength),
    ("UPSTREAM_METADATA", Syntax::RequiredWithLength),
    ("METADATA", Syntax::OptionalWithLength),
    ("FILTER_STATE", Syntax::OptionalWithLength),
    ("UPSTREAM_FILTER_STATE", Syntax::OptionalWithLength),
    ("PER_REQUEST_STATE", Syntax::Required),
    ("PATH", Syntax::OptionalWithLength),
    ("QUERY_PARAM", Syntax::RequiredWithLength),
    ("QUERY_PARAMS", Syntax::OptionalWithLength),
    ("REQUESTED_SERVER_NAME", Syntax::Optional),
    ("ENVIRONMENT", Syntax::RequiredWithLength),
    ("COALESCE", Syntax::RequiredWithLength),
];

impl Command {
    /// Looks a command up and reads its parameters.
    ///
    /// # Errors
    /// Envoy's message: an unknown command, or what is wrong with its parameters.
    pub(super) fn new(name: &str, parameters: &str, limit: Option<usize>) -> Result<Command, String> {
        if let Some(command) = bare(name) {
            check(Syntax::Bare, name, parameters, limit)?;
            return Ok(command);
        }
        let Some((_, syntax)) = PARAMETRIC.iter().find(|(known, _)| *known == name) else {
            return Err(unknown(name));
        };
        check(*syntax, name, parameters, limit)?;
        Self::parametric(name, parameters)
    }

    /// Whether it says something of the response.
    pub(super) fn reads_response(&self) -> bool {
        match self {
            Command::Header { from, .. } => *from != Message::Request,
            Command::GrpcStatus(_) => true,
            Command::Coalesce(commands) => commands.iter().any(|(command, _)| command.reads_response()),
            _ => false,
        }
    }

    fn parametric(name: &str, parameters: &str) -> Result<Command, String> {
        let time = |point, local| TimeFormat::new(parameters, local).map(|format| Command::Time(point, format));
        match name {
            "REQ" | "REQUEST_HEADER" => parameters::header(Message::Request, parameters),
            "RESP" | "RESPONSE_HEADER" => parameters::header(Message::Response, parameters),
            "TRAILER" | "RESPONSE_TRAILER" => parameters::header(Message::Trailers, parameters),
            "REQ_WITHOUT_QUERY" => parameters::without_query(parameters),
            "START_TIME" => time(TimePoint::Start, false),
            "START_TIME_LOCAL" => time(TimePoint::Start, true),
            "EMIT_TIME" => time(TimePoint::Now, false),
            "EMIT_TIME_LOCAL" => time(TimePoint::Now, true),
            "DOWNSTREAM_PEER_CERT_V_START" => time(TimePoint::DownstreamCertificateStart, false),
            "DOWNSTREAM_PEER_CERT_V_END" => time(TimePoint::DownstreamCertificateEnd, false),
            "UPSTREAM_PEER_CERT_V_START" => time(TimePoint::UpstreamCertificateStart, false),
            "UPSTREAM_PEER_CERT_V_END" => time(TimePoint::UpstreamCertificateEnd, false),
            "RESPONSE_CODE_DETAILS" => Ok(Command::Details { keep_spaces: parameters == "ALLOW_WHITESPACES" }),
            "COMMON_DURATION" => parameters::duration(parameters),
            "GRPC_STATUS" => parameters::grpc_status(parameters),
            "DYNAMIC_METADATA" => Ok(parameters::metadata(MetadataOf::Dynamic, parameters)),
            "CLUSTER_METADATA" => Ok(parameters::metadata(MetadataOf::Cluster, parameters)),
            "UPSTREAM_METADATA" => Ok(parameters::metadata(MetadataOf::UpstreamHost, parameters)),
            "METADATA" => parameters::typed_metadata(parameters),
            "FILTER_STATE" | "UPSTREAM_FILTER_STATE" => parameters::filter_state(parameters),
            "PER_REQUEST_STATE" => {
                Ok(Command::FilterState { key: parameters.to_owned(), form: FilterStateForm::Plain })
            }
            "PATH" => parameters::path(parameters),
            "QUERY_PARAM" => Ok(Command::QueryParam(parameters.to_owned())),
            "QUERY_PARAMS" => match parameters {
                "" | "ORIG" => Ok(Command::QueryParams { decoded: false }),
                "DECODED" => Ok(Command::QueryParams { decoded: true }),
                other => Err(invalid("QUERY_PARAMS", other, "'ORIG'/'DECODED'")),
            },
            "REQUESTED_SERVER_NAME" => parameters::server_name(parameters),
            "ENVIRONMENT" => Ok(Command::Fixed(std::env::var(parameters).unwrap_or_else(|_| "-".to_owned()))),
            "COALESCE" => parameters::coalesce(parameters),
            _ => parameters::masked(name, parameters).ok_or_else(|| unknown(name)),
        }
    }
}

/// A command without parameters.
fn bare(name: &str) -> Option<Command> {
    if let Some((field, upstream)) = tls::field(name) {
        return Some(Command::Tls { field, upstream });
    }
    Some(match name {
        "GRPC_STATUS_NUMBER" => Command::GrpcStatus(GrpcStatus::Number),
        "HOSTNAME" => Command::Fixed(hostname()),
        _ => Command::Simple(simple::getter(name)?),
    })
}

fn hostname() -> String {
    // Empty if it cannot be read, as Envoy's is then.
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim_end().to_owned()
}

fn unknown(name: &str) -> String {
    format!("Not supported field in StreamInfo: {name}")
}

fn check(syntax: Syntax, name: &str, parameters: &str, limit: Option<usize>) -> Result<(), String> {
    use Syntax::{Bare, OptionalWithLength, Required, RequiredWithLength};
    if syntax == Bare && (!parameters.is_empty() || limit.is_some()) {
        return Err(format!("{name} does not take any parameters or length"));
    }
    if matches!(syntax, Required | RequiredWithLength) && parameters.is_empty() {
        return Err(format!("{name} requires parameters"));
    }
    if limit.is_some() && !matches!(syntax, OptionalWithLength | RequiredWithLength) {
        return Err(format!("{name} does not allow length to be specified."));
    }
    Ok(())
}

pub(super) fn invalid(name: &str, option: &str, allowed: &str) -> String {
    format!("Invalid {name} option: '{option}', only {allowed} are allowed")
}

/// Compiles every command of a format.
pub(super) fn pieces(format: &str) -> Result<Vec<super::Piece>, String> {
    let piece = |token| match token {
        parse::Token::Literal(text) => Ok(super::Piece::Literal(text.into_bytes())),
        parse::Token::Command { name, parameters, limit } => {
            Command::new(name, parameters, limit).map(|command| super::Piece::Operator { command, limit })
        }
    };
    parse::tokens(format)?.into_iter().map(piece).collect()
}
