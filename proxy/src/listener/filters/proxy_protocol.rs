//! PROXY protocol headers, versions 1 and 2: the addresses a proxy in front of us saw.
//!
//! Bytes in, a header out; no I/O. What is accepted and refused follows Envoy, measured. Runs on: workers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use serde_json::Value;

use super::Detected;
use crate::config::ProxyProtocolIn;
use crate::stream_info::PeerAddr;

const V1_SIGNATURE: &[u8] = b"PROXY";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const V2_HEADER: usize = 16;
/// The longest line with its end: 107 by the specification, one more in Envoy.
const V1_MAX: usize = 108;
/// Where metadata goes for rules that name no other place.
const DEFAULT_NAMESPACE: &str = "envoy.filters.listener.proxy_protocol";

/// What is known so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// At least so many bytes in all are needed.
    NeedMore(usize),
    /// There is no header, and there need not be.
    Absent,
    /// The header.
    Header(Header),
}

/// A header.
#[derive(Debug, PartialEq, Eq)]
pub struct Header {
    /// 1 or 2.
    pub version: u8,
    /// Its bytes.
    pub len: usize,
    /// Source and destination; `None`: those of the connection itself hold.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// Types and values.
    pub tlvs: Vec<(u8, Vec<u8>)>,
}

/// Why a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderError {
    /// There is no header, and there should be.
    Missing,
    /// This version is not allowed.
    Disallowed(u8),
    /// A malformed header of this version.
    Malformed(u8),
}

/// Looks at all the bytes a client has sent.
///
/// # Errors
/// The connection is to be closed.
///
/// ```
/// use weft_proxy::config::ProxyProtocolIn;
/// use weft_proxy::listener::filters::proxy_protocol::{Step, parse};
///
/// let bytes = b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\nGET /";
/// let Ok(Step::Header(header)) = parse(bytes, &ProxyProtocolIn::default()) else { panic!() };
/// assert_eq!(header.addresses.unwrap().0, "192.0.2.1:1000".parse().unwrap());
/// assert_eq!(&bytes[header.len..], b"GET /");
/// ```
pub fn parse(bytes: &[u8], config: &ProxyProtocolIn) -> Result<Step, HeaderError> {
    let allowed = |version: u8| !config.disallowed_versions.contains(&version);
    if config.allow_requests_without_proxy_protocol {
        let begins = |signature: &[u8]| {
            let n = signature.len().min(bytes.len());
            bytes[..n] == signature[..n]
        };
        if bytes.is_empty() {
            return Ok(Step::NeedMore(1));
        }
        let may_be_header = (allowed(1) && begins(V1_SIGNATURE)) || (allowed(2) && begins(V2_SIGNATURE));
        if !may_be_header {
            return Ok(Step::Absent);
        }
    }
    if bytes.len() >= V2_HEADER {
        if bytes.starts_with(V2_SIGNATURE) {
            return if allowed(2) { v2(bytes) } else { Err(HeaderError::Disallowed(2)) };
        }
        if !bytes.starts_with(V1_SIGNATURE) {
            return Err(HeaderError::Missing);
        }
    }
    let end = memchr::memmem::find(&bytes[..bytes.len().min(V1_MAX + 2)], b"\r\n");
    match end {
        // May yet become the signature of version 2.
        Some(0) => Ok(Step::NeedMore(V2_HEADER)),
        Some(at) if at + 2 > V1_MAX => Err(HeaderError::Malformed(1)),
        Some(_) if !allowed(1) => Err(HeaderError::Disallowed(1)),
        Some(at) => v1(&bytes[..at]).map(Step::Header).ok_or(HeaderError::Malformed(1)),
        None if bytes.len() > V1_MAX => Err(HeaderError::Missing),
        None => Ok(Step::NeedMore(bytes.len() + 1)),
    }
}

/// A line without its end.
fn v1(line: &[u8]) -> Option<Header> {
    let text = std::str::from_utf8(line).ok()?;
    let words: Vec<&str> = text.trim_ascii_end().split(' ').collect();
    let header = |addresses| Header { version: 1, len: line.len() + 2, addresses, tlvs: Vec::new() };
    match words[..] {
        ["PROXY", "UNKNOWN", ..] => Some(header(None)),
        ["PROXY", family @ ("TCP4" | "TCP6"), source, destination, source_port, destination_port] => {
            let address = |ip: &str, port: &str| {
                let ip: IpAddr = ip.parse().ok()?;
                (ip.is_ipv4() == (family == "TCP4")).then(|| Some(SocketAddr::new(ip, self::port(port)?)))?
            };
            let pair = (address(source, source_port)?, address(destination, destination_port)?);
            both_unicast(&pair).then(|| header(Some(pair)))
        }
        _ => None,
    }
}

fn port(text: &str) -> Option<u16> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// From the signature on, which is known to be there with the rest of the fixed part.
fn v2(bytes: &[u8]) -> Result<Step, HeaderError> {
    let malformed = HeaderError::Malformed(2);
    let Some([version_command, family, hi, lo]) = bytes.get(12..V2_HEADER) else { return Err(malformed) };
    let len = V2_HEADER + usize::from(u16::from_be_bytes([*hi, *lo]));
    let address_len = match (version_command, family >> 4) {
        // Of the proxy's own making, such as a health check: whatever it holds is skipped.
        (0x20, _) => 0,
        (0x21, 1) => 12,
        (0x21, 2) => 36,
        _ => return Err(malformed),
    };
    let local = *version_command == 0x20;
    // Streams and datagrams; datagrams make no sense here, and Envoy lets them pass.
    if (!local && !matches!(family & 0xf, 1 | 2)) || len < V2_HEADER + address_len {
        return Err(malformed);
    }
    let Some(body) = bytes.get(V2_HEADER..len) else { return Ok(Step::NeedMore(len)) };
    let mut header = Header { version: 2, len, addresses: None, tlvs: Vec::new() };
    if !local {
        let (address, extensions) = body.split_at_checked(address_len).ok_or(malformed)?;
        let pair = if address_len == 12 { addresses_v4(address) } else { addresses_v6(address) };
        header.tlvs = tlvs(extensions).ok_or(malformed)?;
        header.addresses = Some(pair.filter(both_unicast).ok_or(malformed)?);
    }
    Ok(Step::Header(header))
}

fn addresses_v4(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let ip = |at: Range<usize>| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at)?).ok()?));
    let port = |at: Range<usize>| Some(u16::from_be_bytes(bytes.get(at)?.try_into().ok()?));
    Some((SocketAddr::new(ip(0..4)?.into(), port(8..10)?), SocketAddr::new(ip(4..8)?.into(), port(10..12)?)))
}

fn addresses_v6(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let ip = |at: Range<usize>| Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(at)?).ok()?));
    let port = |at: Range<usize>| Some(u16::from_be_bytes(bytes.get(at)?.try_into().ok()?));
    Some((SocketAddr::new(ip(0..16)?.into(), port(32..34)?), SocketAddr::new(ip(16..32)?.into(), port(34..36)?)))
}

fn both_unicast(pair: &(SocketAddr, SocketAddr)) -> bool {
    let unicast = |a: &SocketAddr| {
        let broadcast = matches!(a.ip(), IpAddr::V4(ip) if ip.is_broadcast());
        !a.ip().is_unspecified() && !a.ip().is_multicast() && !broadcast
    };
    unicast(&pair.0) && unicast(&pair.1)
}

fn tlvs(mut bytes: &[u8]) -> Option<Vec<(u8, Vec<u8>)>> {
    let mut out = Vec::new();
    while let [kind, rest @ ..] = bytes {
        let (len, rest) = rest.split_first_chunk::<2>()?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
        out.push((*kind, value.to_vec()));
        bytes = rest;
    }
    Some(out)
}

/// Takes what a header says over into what is known of the connection.
pub(super) fn apply(header: &Header, config: &ProxyProtocolIn, detected: &mut Detected) {
    detected.proxy_protocol = true;
    if let Some((source, destination)) = header.addresses {
        // As given: an IPv4 address written as an IPv6 one stays that, as in Envoy.
        detected.remote = Some(PeerAddr::Ip(source));
        detected.local = Some(PeerAddr::Ip(destination));
    }
    for (kind, value) in &header.tlvs {
        if let Some(rule) = config.rules.iter().find(|r| r.tlv_type == *kind) {
            let namespace = if rule.namespace.is_empty() { DEFAULT_NAMESPACE } else { &rule.namespace };
            let entry = detected.metadata.entry(namespace.to_owned()).or_insert_with(|| serde_json::json!({}));
            if let Value::Object(fields) = entry {
                // The first of several holds.
                fields.entry(rule.key.clone()).or_insert_with(|| Value::String(text(value)));
            }
        }
        if config.pass_through_tlvs.as_ref().is_some_and(|list| list.is_empty() || list.contains(kind)) {
            detected.proxy_tlvs.push((*kind, value.clone()));
        }
    }
}

/// Metadata is text: what is not UTF-8 becomes an exclamation mark each, as in Envoy.
fn text(value: &[u8]) -> String {
    value.utf8_chunks().fold(String::with_capacity(value.len()), |mut out, chunk| {
        out.push_str(chunk.valid());
        out.extend(chunk.invalid().iter().map(|_| '!'));
        out
    })
}
