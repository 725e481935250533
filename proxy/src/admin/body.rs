//! Requests and responses as handlers see them, and JSON as Envoy lays it out.

use http::{HeaderValue, StatusCode};
use serde::Serialize;

/// The parameters of a request, from its query and from the form in its body.
#[derive(Debug, Default)]
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    /// Parses `a=b&c`; escapes are decoded.
    pub(super) fn parse(query: &str) -> Self {
        let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        };
        Params(pairs.map(pair).collect())
    }

    /// Adds those of a form. There, unlike in Envoy's queries, `+` is a space.
    pub(super) fn add_form(&mut self, body: &str) {
        self.0.extend(Params::parse(&body.replace('+', " ")).0);
    }

    /// The first value of a parameter.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The first value of a parameter, if it has one.
    pub(super) fn non_empty(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// Whether a parameter is there, with or without a value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(super) fn all(&self) -> &[(String, String)] {
        &self.0
    }
}

/// What a handler answers.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) content_type: HeaderValue,
    pub(super) body: String,
}

impl Reply {
    pub(super) fn new(status: StatusCode, content_type: &'static str, body: impl Into<String>) -> Self {
        Reply { status, content_type: HeaderValue::from_static(content_type), body: body.into() }
    }

    /// Plain text.
    pub(super) fn text(body: impl Into<String>) -> Self {
        Self::new(StatusCode::OK, "text/plain; charset=UTF-8", body)
    }

    /// `OK` and a newline: what most endpoints that do something say.
    pub(super) fn ok() -> Self {
        Self::text("OK\n")
    }

    /// Plain text with another status.
    pub(super) fn error(status: StatusCode, body: impl Into<String>) -> Self {
        Self::new(status, "text/plain; charset=UTF-8", body)
    }

    /// JSON, laid out.
    pub(super) fn json(value: &impl Serialize) -> Self {
        let mut body = pretty(value);
        body.push('\n');
        Self::new(StatusCode::OK, "application/json", body)
    }
}

/// JSON with one space for each level.
fn pretty(value: &impl Serialize) -> String {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    match value.serialize(&mut serializer) {
        Ok(()) => String::from_utf8_lossy(&out).into_owned(),
        // Only maps with odd keys and failing writers do; there are none here.
        Err(error) => format!("{{\"error\": {:?}}}", error.to_string()),
    }
}

/// A time as protobuf's JSON has it, with milliseconds.
pub(super) fn timestamp(time: std::time::SystemTime) -> String {
    let time = ::time::OffsetDateTime::from(time);
    let (date, clock) = (time.date(), time.time());
    let millis = match time.millisecond() {
        0 => String::new(),
        millis => format!(".{millis:03}"),
    };
    let (hour, minute, second) = (clock.hour(), clock.minute(), clock.second());
    format!("{date}T{hour:02}:{minute:02}:{second:02}{millis}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn parameters() {
        let mut params = Params::parse("a=1&b&c=%7B%22x%22%7D&a=2&d=x+y");
        assert_eq!((params.get("a"), params.get("b"), params.get("c")), (Some("1"), Some(""), Some("{\"x\"}")));
        assert!(params.has("b") && params.non_empty("b").is_none() && !params.has("e"));
        assert_eq!(params.get("d"), Some("x+y"));
        params.add_form("e=x+y%2B");
        assert_eq!(params.get("e"), Some("x y+"));
    }

    #[test]
    fn layout() {
        let value = serde_json::json!({"a": [1, {"b": []}], "c": {}});
        assert_eq!(pretty(&value), "{\n \"a\": [\n  1,\n  {\n   \"b\": []\n  }\n ],\n \"c\": {}\n}");
        assert_eq!(timestamp(UNIX_EPOCH + Duration::from_millis(1_795_212_261_065)), "2026-11-20T22:04:21.065Z");
        assert_eq!(timestamp(UNIX_EPOCH), "1970-01-01T00:00:00Z");
    }
}
