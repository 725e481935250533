//! Facts of TLS connections and certificates.

use aws_lc_rs::digest;
use base64::Engine;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::value::Value;
use crate::stream_info::{PeerCertificate, TlsInfo};

/// Reads a fact.
pub(super) type Field = for<'a> fn(&'a TlsInfo) -> Value<'a>;

/// The fact of this name, and whether it is the upstream's.
pub(super) fn field(name: &str) -> Option<(Field, bool)> {
    if name == "UPSTREAM_SERVER_NAME" {
        return Some((|t| Value::non_empty(&t.sni), true));
    }
    if let Some(suffix) = name.strip_prefix("DOWNSTREAM_") {
        return common(suffix).or_else(|| downstream_only(suffix)).map(|field| (field, false));
    }
    common(name.strip_prefix("UPSTREAM_")?).map(|field| (field, true))
}

fn common(suffix: &str) -> Option<Field> {
    let field: Field = match suffix {
        "TLS_VERSION" => |t| Value::non_empty(t.version),
        "TLS_CIPHER" => |t| Value::non_empty(&t.cipher),
        // The key exchange is not told by the TLS library.
        "TLS_GROUP" => |_| Value::Missing,
        "TLS_SESSION_ID" => |t| Value::non_empty(&t.session_id),
        "PEER_SUBJECT" => |t| peer(t, |p| Value::non_empty(&p.subject)),
        "PEER_ISSUER" => |t| peer(t, |p| Value::non_empty(&p.issuer)),
        "PEER_CERT" => |t| peer(t, |p| p.chain_der.first().map_or(Value::Missing, |der| Value::Owned(pem(der)))),
        "PEER_URI_SAN" => |t| peer(t, |p| list(&p.uri_sans)),
        "PEER_DNS_SAN" => |t| peer(t, |p| list(&p.dns_sans)),
        "PEER_IP_SAN" => |t| peer(t, |p| list(&p.ip_sans)),
        "LOCAL_URI_SAN" => |t| local(t, |p| list(&p.uri_sans)),
        "LOCAL_DNS_SAN" => |t| local(t, |p| list(&p.dns_sans)),
        "LOCAL_IP_SAN" => |t| local(t, |p| list(&p.ip_sans)),
        _ => return None,
    };
    Some(field)
}

fn downstream_only(suffix: &str) -> Option<Field> {
    let field: Field = match suffix {
        "PEER_EMAIL_SAN" => |t| peer(t, |p| list(&p.email_sans)),
        "LOCAL_EMAIL_SAN" => |t| local(t, |p| list(&p.email_sans)),
        "PEER_OTHERNAME_SAN" => |t| peer(t, other_names),
        "LOCAL_OTHERNAME_SAN" => |t| local(t, other_names),
        "LOCAL_SUBJECT" => |t| local(t, |p| Value::non_empty(&p.subject)),
        "PEER_SERIAL" => |t| peer(t, |p| Value::non_empty(&p.serial)),
        "PEER_FINGERPRINT_256" => |t| peer(t, |p| Value::non_empty(&p.sha256)),
        "PEER_FINGERPRINT_1" => |t| peer(t, |p| Value::non_empty(&p.sha1)),
        "PEER_CHAIN_FINGERPRINTS_256" => |t| peer(t, |p| chain(p, |der| Some(sha256(der)))),
        "PEER_CHAIN_FINGERPRINTS_1" => |t| peer(t, |p| chain(p, |der| Some(sha1(der)))),
        "PEER_CHAIN_SERIALS" => |t| peer(t, |p| chain(p, serial)),
        "PEER_ISSUER_FINGERPRINT_256" => |t| issuer(t, |der| Some(sha256(der))),
        "PEER_ISSUER_SERIAL" => |t| issuer(t, serial),
        _ => return None,
    };
    Some(field)
}

fn peer<'a>(tls: &'a TlsInfo, read: impl FnOnce(&'a PeerCertificate) -> Value<'a>) -> Value<'a> {
    tls.peer.as_deref().map_or(Value::Missing, read)
}

fn local<'a>(tls: &'a TlsInfo, read: impl FnOnce(&'a PeerCertificate) -> Value<'a>) -> Value<'a> {
    tls.local.as_deref().map_or(Value::Missing, read)
}

fn list(names: &[String]) -> Value<'_> {
    if names.is_empty() { Value::Missing } else { Value::List(names) }
}

fn chain<'a>(certificate: &PeerCertificate, read: impl Fn(&[u8]) -> Option<String>) -> Value<'a> {
    let parts: Vec<String> = certificate.chain_der.iter().filter_map(|der| read(der)).collect();
    if parts.is_empty() { Value::Missing } else { Value::Owned(parts.join(",")) }
}

/// The certificate that follows the peer's in a validated chain.
fn issuer<'a>(tls: &TlsInfo, read: impl Fn(&[u8]) -> Option<String>) -> Value<'a> {
    let chain = tls.peer.as_deref().filter(|_| tls.peer_validated);
    chain.and_then(|p| read(p.chain_der.get(1)?)).map_or(Value::Missing, Value::Owned)
}

/// PEM, encoded for a URL as Envoy does it.
fn pem(der: &[u8]) -> String {
    let base64 = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = String::with_capacity(base64.len() * 5 / 4 + 80);
    out.push_str("-----BEGIN%20CERTIFICATE-----%0A");
    for (i, c) in base64.chars().enumerate() {
        if i > 0 && i % 64 == 0 {
            out.push_str("%0A");
        }
        match c {
            '+' => out.push_str("%2B"),
            '/' => out.push_str("%2F"),
            '=' => out.push_str("%3D"),
            c => out.push(c),
        }
    }
    out.push_str("%0A-----END%20CERTIFICATE-----%0A");
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| super::value::display(format_args!("{b:02x}"))).collect()
}

fn sha256(der: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, der).as_ref())
}

fn sha1(der: &[u8]) -> String {
    hex(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, der).as_ref())
}

fn serial(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let digits = hex(certificate.raw_serial());
    Some(digits.trim_start_matches("00").to_owned())
}

fn other_names(certificate: &PeerCertificate) -> Value<'_> {
    let names = || {
        let (_, certificate) = X509Certificate::from_der(certificate.chain_der.first()?).ok()?;
        let names = certificate.subject_alternative_name().ok()??;
        let other = |name: &x509_parser::extensions::GeneralName<'_>| match name {
            // The value is an explicitly tagged string: its bytes follow two headers of two bytes.
            x509_parser::extensions::GeneralName::OtherName(_, value) => {
                Some(String::from_utf8_lossy(value.get(4..)?).into_owned())
            }
            _ => None,
        };
        Some(names.value.general_names.iter().filter_map(other).collect::<Vec<_>>().join(","))
    };
    names().filter(|names| !names.is_empty()).map_or(Value::Missing, Value::Owned)
}
