//! A token: three parts, and what they say.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// Why a token is not taken, in Envoy's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each says what it is")]
pub enum Status {
    #[error("Jwt is missing")]
    Missing,
    #[error("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections")]
    BadFormat,
    #[error("Jwt header is an invalid Base64url encoded")]
    HeaderBase64,
    #[error("Jwt header is an invalid JSON")]
    HeaderJson,
    #[error("Jwt header [alg] field is required and must be a string")]
    HeaderAlgorithm,
    #[error("Jwt header [alg] is not supported")]
    UnknownAlgorithm,
    #[error("Jwt header [kid] field is not a string")]
    HeaderKeyId,
    #[error("Jwt payload is an invalid Base64url encoded")]
    PayloadBase64,
    #[error("Jwt payload is an invalid JSON")]
    PayloadJson,
    #[error("Jwt payload [iss] field is not a string")]
    Issuer,
    #[error("Jwt payload [sub] field is not a string")]
    Subject,
    #[error("Jwt payload [iat] field is not an integer")]
    IssuedAt,
    #[error("Jwt payload [nbf] field is not an integer")]
    NotBefore,
    #[error("Jwt payload [exp] field is not an integer")]
    Expiration,
    #[error("Jwt payload [jti] field is not a string")]
    Id,
    #[error("Jwt payload [aud] field is not a string or string list")]
    Audience,
    #[error("Jwt signature is an invalid Base64url encoded")]
    SignatureBase64,
    #[error("Jwt issuer is not configured")]
    UnknownIssuer,
    #[error("Jwt not yet valid")]
    NotYetValid,
    #[error("Jwt is expired")]
    Expired,
    #[error("Audiences in Jwt are not allowed")]
    AudienceNotAllowed,
    #[error("Jwks doesn't have key to match kid or alg from Jwt")]
    NoKey,
    #[error("Jwt verification fails")]
    VerificationFailed,
}

/// Signature algorithms (RFC 7518, section 3.1; RFC 8037).
const ALGORITHMS: [&str; 13] = [
    "ES256", "ES384", "ES512", "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA",
];

/// A token, read and not yet believed.
pub struct Token<'a> {
    text: &'a str,
    signed: usize,
    header: Value,
    payload: Value,
    signature: Vec<u8>,
}

impl<'a> Token<'a> {
    /// Reads a token.
    ///
    /// # Errors
    /// What is wrong with its form.
    pub fn read(text: &'a str) -> Result<Self, Status> {
        let mut parts = text.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Status::BadFormat);
        };
        if [header, payload, signature].contains(&"") {
            return Err(Status::BadFormat);
        }
        let header = object(header, Status::HeaderBase64, Status::HeaderJson)?;
        let algorithm = header.get("alg").and_then(Value::as_str).ok_or(Status::HeaderAlgorithm)?;
        if !ALGORITHMS.contains(&algorithm) {
            return Err(Status::UnknownAlgorithm);
        }
        typed(&header, "kid", Value::is_string, Status::HeaderKeyId)?;
        let payload = object(payload, Status::PayloadBase64, Status::PayloadJson)?;
        typed(&payload, "iss", Value::is_string, Status::Issuer)?;
        typed(&payload, "sub", Value::is_string, Status::Subject)?;
        typed(&payload, "iat", Value::is_number, Status::IssuedAt)?;
        typed(&payload, "nbf", Value::is_number, Status::NotBefore)?;
        typed(&payload, "exp", Value::is_number, Status::Expiration)?;
        typed(&payload, "jti", Value::is_string, Status::Id)?;
        let texts = |v: &Value| v.is_string() || v.as_array().is_some_and(|list| list.iter().all(Value::is_string));
        typed(&payload, "aud", texts, Status::Audience)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Status::SignatureBase64)?;
        Ok(Token { text, signed: text.rfind('.').unwrap_or(0), header, payload, signature })
    }

    /// What the signature is of.
    pub fn signed(&self) -> &'a str {
        &self.text[..self.signed]
    }

    /// The signature.
    pub fn signature(&self) -> &[u8] {
        &self.signature
    }

    /// `alg`
    pub fn algorithm(&self) -> &str {
        self.header.get("alg").and_then(Value::as_str).unwrap_or_default()
    }

    /// `kid`; empty: none.
    pub fn key_id(&self) -> &str {
        self.header.get("kid").and_then(Value::as_str).unwrap_or_default()
    }

    /// Its header.
    pub fn header(&self) -> &Value {
        &self.header
    }

    /// Its claims.
    pub fn payload(&self) -> &Value {
        &self.payload
    }

    /// Its claims as they were sent.
    pub fn raw_payload(&self) -> &'a str {
        self.signed().split_once('.').map_or("", |(_, payload)| payload)
    }

    /// A claim that is text; empty: there is none.
    pub fn claim(&self, name: &str) -> &str {
        self.payload.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether it is good at this time since 1970.
    ///
    /// # Errors
    /// It is not yet, or no more.
    pub fn check_time(&self, now: Duration, skew: Duration) -> Result<(), Status> {
        let at = |name| self.payload.get(name).and_then(Value::as_f64).filter(|at| *at != 0.0);
        let (now, skew) = (now.as_secs_f64().floor(), skew.as_secs_f64());
        if at("nbf").is_some_and(|from| from > now + skew) {
            return Err(Status::NotYetValid);
        }
        if at("exp").is_some_and(|until| until + skew < now) {
            return Err(Status::Expired);
        }
        Ok(())
    }

    /// Whether it is for one of these; none: for anybody.
    pub fn is_for(&self, audiences: &[String]) -> bool {
        let one = |aud: &str| audiences.iter().any(|own| trimmed(own) == trimmed(aud));
        audiences.is_empty()
            || match self.payload.get("aud") {
                Some(Value::String(aud)) => one(aud),
                Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).any(one),
                _ => false,
            }
    }
}

/// Audiences are compared without their scheme and without a slash at the end, as in Envoy.
fn trimmed(audience: &str) -> &str {
    let rest = audience.strip_prefix("https://").or_else(|| audience.strip_prefix("http://")).unwrap_or(audience);
    rest.strip_suffix('/').unwrap_or(rest)
}

fn object(part: &str, base64: Status, json: Status) -> Result<Value, Status> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| base64)?;
    serde_json::from_slice(&bytes).ok().filter(Value::is_object).ok_or(json)
}

fn typed(of: &Value, name: &str, is: impl Fn(&Value) -> bool, otherwise: Status) -> Result<(), Status> {
    if of.get(name).is_none_or(is) { Ok(()) } else { Err(otherwise) }
}
