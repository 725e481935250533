//! The gRPC services that proxies ask: external authorization and rate limits.
//!
//! A request is recorded as JSON, without what differs from run to run. What is answered the request says itself, in the language of
//! [`script`](super::script): to `Check` in the request field `x-authz` (or the destination's label `script`), to `ShouldRateLimit` in the descriptor entry `script`;
//! by default that all is well.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use weft_proto::to_json;

use super::script::{Answer, hex};

/// A service's method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// `envoy.service.auth.v3.Authorization/Check`.
    Check,
    /// `envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit`.
    ShouldRateLimit,
}

/// An `OK` of either service: a status without a code and `overall_code: OK`.
const CHECK_OK: &[u8] = &[0x0a, 0x00];
const LIMIT_OK: &[u8] = &[0x08, 0x01];

impl Method {
    /// The method at a path.
    pub(super) fn at(path: &str) -> Option<Self> {
        match path {
            "/envoy.service.auth.v3.Authorization/Check" => Some(Method::Check),
            "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit" => Some(Method::ShouldRateLimit),
            _ => None,
        }
    }

    fn request(self) -> &'static str {
        match self {
            Method::Check => "envoy.service.auth.v3.CheckRequest",
            Method::ShouldRateLimit => "envoy.service.ratelimit.v3.RateLimitRequest",
        }
    }

    /// A request as text, and what it is to be answered with. `body`: with gRPC's framing.
    pub(super) fn read(self, body: &[u8]) -> (String, Answer) {
        let options = to_json::Options { secrets: true, ..to_json::Options::default() };
        let message = body.get(5..).unwrap_or_default();
        let mut json = match to_json::encoded(self.request(), message, options) {
            Ok(json) => json,
            Err(error) => return (format!("no message: {error}"), Answer::of("", 0)),
        };
        let script = self.script(&json);
        let default = format!("grpc={}", hex(if self == Method::Check { CHECK_OK } else { LIMIT_OK }));
        let answer = Answer::of(script.as_deref().unwrap_or(&default), 0);
        same(&mut json);
        (serde_json::to_string_pretty(&json).unwrap_or_default().replace('\n', "\n    "), answer)
    }

    fn script(self, json: &Value) -> Option<String> {
        if self == Method::Check {
            // A connection says nothing by itself; the proxy in front of it may have labels.
            let label = json.pointer("/attributes/destination/labels/script").and_then(Value::as_str);
            if let Some(label) = label {
                return Some(label.to_owned());
            }
            let http = json.pointer("/attributes/request/http")?;
            let plain = http.pointer("/headers/x-authz").and_then(Value::as_str);
            return plain.map(str::to_owned).or_else(|| {
                let raw = http.pointer("/header_map/headers")?.as_array()?;
                text(raw.iter().find(|h| h["key"] == "x-authz")?.get("raw_value")?)
            });
        }
        let entries = json["descriptors"].as_array()?.iter().filter_map(|d| d["entries"].as_array()).flatten();
        entries.filter(|e| e["key"] == "script").find_map(|e| e["value"].as_str().map(str::to_owned))
    }
}

fn text(base64: &Value) -> Option<String> {
    let bytes = STANDARD.decode(base64.as_str()?).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Puts names in place of what no two runs have in common, and text in place of base64.
fn same(json: &mut Value) {
    let mut put = |at: &str, name: &str| {
        if let Some(value) = json.pointer_mut(at) {
            *value = name.into();
        }
    };
    put("/attributes/source/address/socket_address/port_value", "<port>");
    put("/attributes/request/time", "<time>");
    put("/attributes/request/http/id", "<id>");
    let raw = json.pointer_mut("/attributes/request/http/header_map/headers").and_then(Value::as_array_mut);
    for header in raw.into_iter().flatten() {
        if let Some(value) = header.get_mut("raw_value")
            && let Some(text) = text(value)
        {
            *value = text.into();
        }
    }
    // The tests' answers are long, and say nothing about the proxy.
    if let Some(script) = json.pointer_mut("/attributes/request/http/headers/x-authz") {
        *script = "<script>".into();
    }
}
