//! What stands between a command's parentheses.

use http::HeaderName;

use super::command::{
    AddressOf, Command, FilterStateForm, GrpcStatus, HeaderRef, Instant, Message, MetadataOf, ServerNameOrder, Source,
    invalid,
};

fn header_ref(name: &str) -> Result<HeaderRef, String> {
    let name = name.to_ascii_lowercase();
    if name.starts_with(':') || name == "host" {
        return Ok(HeaderRef::Pseudo(name));
    }
    let name = HeaderName::try_from(name);
    name.map(HeaderRef::Name)
        .map_err(|_| "Invalid header configuration. Format string contains invalid characters.".to_owned())
}

pub(super) fn header(from: Message, parameters: &str) -> Result<Command, String> {
    let (name, alternative) = header_names(parameters)?;
    Ok(Command::Header { from, name, alternative })
}

fn header_names(parameters: &str) -> Result<(HeaderRef, Option<HeaderRef>), String> {
    let mut names = parameters.split('?');
    let (name, alternative) = (names.next().unwrap_or_default(), names.next());
    if names.next().is_some() {
        return Err(format!("More than 1 alternative header specified in token: {parameters}"));
    }
    let alternative = alternative.filter(|a| !a.is_empty()).map(header_ref).transpose()?;
    match (name, alternative) {
        // `?b` is `b` to Envoy: it finds no header without a name.
        ("", Some(alternative)) => Ok((alternative, None)),
        (name, alternative) => Ok((header_ref(name)?, alternative)),
    }
}

pub(super) fn without_query(parameters: &str) -> Result<Command, String> {
    match header_names(parameters)? {
        (HeaderRef::Pseudo(name), None) if name == ":path" => {
            Ok(Command::Path { query: false, source: Source::Current })
        }
        (HeaderRef::Name(name), Some(HeaderRef::Pseudo(other)))
            if name == "x-envoy-original-path" && other == ":path" =>
        {
            Ok(Command::Path { query: false, source: Source::OriginalOrCurrent })
        }
        _ => Err("REQ_WITHOUT_QUERY supports :PATH and X-ENVOY-ORIGINAL-PATH?:PATH only; use PATH(NQ)".to_owned()),
    }
}

pub(super) fn duration(parameters: &str) -> Result<Command, String> {
    let parts: Vec<&str> = parameters.split(':').collect();
    let (from, to, precision) = match parts.as_slice() {
        [from, to] => (from, to, "ms"),
        [from, to, precision] => (from, to, *precision),
        _ => return Err(format!("Invalid common duration configuration: {parameters}.")),
    };
    let per_second = match precision {
        "ms" => 1_000,
        "us" => 1_000_000,
        "ns" => 1_000_000_000,
        other => return Err(format!("Invalid common duration precision: {other}.")),
    };
    Ok(Command::Duration { from: instant(from), to: instant(to), per_second })
}

fn instant(name: &str) -> Instant {
    match name {
        "DS_RX_BEG" => Instant::DownstreamRxBegin,
        "DS_RX_END" => Instant::DownstreamRxEnd,
        "US_CX_BEG" => Instant::UpstreamConnectBegin,
        "US_CX_END" => Instant::UpstreamConnectEnd,
        "US_HS_END" => Instant::UpstreamHandshakeEnd,
        "US_TX_BEG" => Instant::UpstreamTxBegin,
        "US_TX_END" => Instant::UpstreamTxEnd,
        "US_RX_BEG" => Instant::UpstreamRxBegin,
        "US_RX_END" => Instant::UpstreamRxEnd,
        "DS_TX_BEG" => Instant::DownstreamTxBegin,
        "DS_TX_END" => Instant::DownstreamTxEnd,
        "DS_CX_BEG" => Instant::ConnectionBegin,
        "DS_CX_END" => Instant::ConnectionEnd,
        _ => Instant::Unknown,
    }
}

pub(super) fn grpc_status(parameters: &str) -> Result<Command, String> {
    Ok(Command::GrpcStatus(match parameters {
        "" | "CAMEL_STRING" => GrpcStatus::Camel,
        "SNAKE_STRING" => GrpcStatus::Snake,
        "NUMBER" => GrpcStatus::Number,
        other => {
            let wanted = "GrpcStatusFormatter only supports CAMEL_STRING, SNAKE_STRING or NUMBER";
            return Err(format!("{wanted}. Got: {other}"));
        }
    }))
}

/// `namespace:key:key`, or the older `["namespace", "key"]` of header values.
pub(super) fn metadata(of: MetadataOf, parameters: &str) -> Command {
    let parts = match serde_json::from_str::<Vec<String>>(parameters) {
        Ok(parts) if !parts.is_empty() => parts,
        _ => parameters.split(':').map(str::to_owned).collect(),
    };
    let mut parts = parts.into_iter();
    Command::Metadata { of, namespace: parts.next().unwrap_or_default(), path: parts.collect() }
}

pub(super) fn typed_metadata(parameters: &str) -> Result<Command, String> {
    let (kind, rest) = parameters.split_once(':').unwrap_or((parameters, ""));
    let of = match kind {
        "DYNAMIC" => MetadataOf::Dynamic,
        "CLUSTER" => MetadataOf::Cluster,
        "ROUTE" => MetadataOf::Route,
        "UPSTREAM_HOST" => MetadataOf::UpstreamHost,
        "LISTENER" | "LISTENER_FILTER_CHAIN" => MetadataOf::Listener,
        "VIRTUAL_HOST" => MetadataOf::VirtualHost,
        other => return Err(format!("{other} is not supported type of metadata")),
    };
    Ok(metadata(of, rest))
}

pub(super) fn filter_state(parameters: &str) -> Result<Command, String> {
    let mut parts = parameters.split(':');
    let (key, form, field) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next());
    if key.is_empty() {
        return Err("Invalid filter state configuration, key cannot be empty.".to_owned());
    }
    let field = field.filter(|f| !f.is_empty());
    let form = match (form, field) {
        ("PLAIN", None) => FilterStateForm::Plain,
        ("" | "TYPED", None) => FilterStateForm::Typed,
        ("FIELD", Some(field)) => FilterStateForm::Field(field.to_owned()),
        ("" | "PLAIN" | "TYPED" | "FIELD", _) => {
            return Err("Invalid filter state serialize type, FIELD should be used with the field name.".to_owned());
        }
        _ => return Err("Invalid filter state serialize type, only support PLAIN/TYPED/FIELD.".to_owned()),
    };
    Ok(Command::FilterState { key: key.to_owned(), form })
}

pub(super) fn path(parameters: &str) -> Result<Command, String> {
    let (query, source) = parameters.split_once(':').unwrap_or((parameters, ""));
    let query = match query {
        "" | "WQ" => true,
        "NQ" => false,
        other => return Err(invalid("PATH", other, "'WQ'/'NQ'")),
    };
    let source = match source {
        "" | "ORIG_OR_PATH" => Source::OriginalOrCurrent,
        "ORIG" => Source::Original,
        "PATH" => Source::Current,
        other => return Err(invalid("PATH", other, "'ORIG'/'PATH'/'ORIG_OR_PATH'")),
    };
    Ok(Command::Path { query, source })
}

pub(super) fn server_name(parameters: &str) -> Result<Command, String> {
    let (order, source) = parameters.split_once(':').unwrap_or((parameters, ""));
    let order = match order {
        "" | "SNI_ONLY" => ServerNameOrder::SniOnly,
        "SNI_FIRST" => ServerNameOrder::SniFirst,
        "HOST_FIRST" => ServerNameOrder::HostFirst,
        other => return Err(invalid("REQUESTED_SERVER_NAME", other, "'SNI_ONLY'/'SNI_FIRST'/'HOST_FIRST'")),
    };
    let source = match source {
        "" | "ORIG_OR_HOST" => Source::OriginalOrCurrent,
        "HOST" => Source::Current,
        "ORIG" => Source::Original,
        other => return Err(invalid("REQUESTED_SERVER_NAME", other, "'ORIG_OR_HOST'/'HOST'/'ORIG'")),
    };
    Ok(Command::ServerName { order, source })
}

pub(super) fn masked(name: &str, parameters: &str) -> Option<Command> {
    let of = match name {
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => AddressOf::DownstreamRemote,
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => AddressOf::DownstreamDirectRemote,
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => AddressOf::DownstreamLocal,
        "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT" => AddressOf::DownstreamDirectLocal,
        "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => AddressOf::UpstreamLocal,
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => AddressOf::UpstreamRemote,
        _ => return None,
    };
    // Envoy takes what is no number for no mask.
    Some(Command::Masked(of, parameters.parse().ok()))
}

pub(super) fn coalesce(parameters: &str) -> Result<Command, String> {
    let config: serde_json::Value = serde_json::from_str(parameters)
        .map_err(|e| format!("COALESCE: failed to parse JSON configuration: JSON supplied is not valid. {e}"))?;
    let operators = config.get("operators").and_then(|o| o.as_array());
    let operators = operators.ok_or("COALESCE: 'operators' must be an array")?;
    if operators.is_empty() {
        return Err("COALESCE: 'operators' array must not be empty".to_owned());
    }
    let one = |(i, operator): (usize, &serde_json::Value)| {
        let text = |key| operator.get(key).and_then(|v| v.as_str()).unwrap_or_default();
        let name = operator.as_str().unwrap_or_else(|| text("command"));
        let limit = operator.get("max_length").and_then(|n| n.as_u64()).and_then(|n| usize::try_from(n).ok());
        let command = Command::new(name, text("param"), limit);
        let command = command.map_err(|e| format!("COALESCE: failed to parse operator at index {i}: {e}"));
        command.map(|command| (command, limit))
    };
    Ok(Command::Coalesce(operators.iter().enumerate().map(one).collect::<Result<_, _>>()?))
}
