//! The PROXY protocol header that a cluster's connections begin with.
//!
//! Bytes out, no I/O. **Source**: `ProxyProtocolUpstreamTransport`; HAProxy's `proxy-protocol.txt`, sections 2.1 and 2.2. Runs
//! on: workers.

use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::cluster::Proxied;
use crate::stream_info::{ConnInfo, PeerAddr};

const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command LOCAL, nothing said: the connection is the proxy's own, such as a health check.
const V2_LOCAL: [u8; 4] = [0x20, 0, 0, 0];

/// A header for a connection made on behalf of `downstream`; without one, for the connection's own two ends.
pub(super) fn header(
    proxied: &Proxied,
    downstream: Option<&ConnInfo>,
    own: (Option<PeerAddr>, Option<PeerAddr>),
) -> Vec<u8> {
    let (source, destination) = match downstream {
        Some(conn) => (Some(&conn.remote), Some(&conn.local)),
        None => (own.0.as_ref(), own.1.as_ref()),
    };
    let addresses = match (source, destination) {
        (Some(PeerAddr::Ip(source)), Some(PeerAddr::Ip(destination))) => Some(same_family(*source, *destination)),
        // A Unix socket has no address that could be told.
        _ => None,
    };
    match (proxied.version, downstream) {
        (1, _) => v1(addresses),
        (_, Some(conn)) => v2(addresses, proxied, &conn.proxy_tlvs),
        (_, None) => [&V2_SIGNATURE[..], &V2_LOCAL].concat(),
    }
}

/// Both as IPv6 where one of them is: a header has one family.
fn same_family(a: SocketAddr, b: SocketAddr) -> (SocketAddr, SocketAddr) {
    let six = |a: SocketAddr| match a.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), a.port()),
        IpAddr::V6(_) => a,
    };
    if a.is_ipv4() == b.is_ipv4() { (a, b) } else { (six(a), six(b)) }
}

fn v1(addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let mut line = String::from("PROXY ");
    let _infallible = match addresses {
        Some((from, to)) => {
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            write!(line, "{family} {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port())
        }
        None => write!(line, "UNKNOWN\r\n"),
    };
    line.into_bytes()
}

fn v2(addresses: Option<(SocketAddr, SocketAddr)>, proxied: &Proxied, received: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut out = V2_SIGNATURE.to_vec();
    let Some((from, to)) = addresses else {
        out.extend_from_slice(&V2_LOCAL);
        return out;
    };
    let mut body = Vec::new();
    for address in [from, to] {
        match address.ip() {
            IpAddr::V4(ip) => body.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => body.extend_from_slice(&Ipv6Addr::octets(&ip)),
        }
    }
    body.extend_from_slice(&from.port().to_be_bytes());
    body.extend_from_slice(&to.port().to_be_bytes());
    let addresses_end = body.len();
    for (kind, value) in tlvs(proxied, received) {
        body.push(*kind);
        // Too long a value is too long for all of it, which is seen below.
        body.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        body.extend_from_slice(value);
    }
    let len = u16::try_from(body.len()).unwrap_or_else(|_| {
        proxied.tlvs_too_long.inc();
        body.truncate(addresses_end);
        addresses_end as u16
    });
    out.extend_from_slice(&[0x21, if from.is_ipv4() { 0x11 } else { 0x21 }]);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&body);
    out
}

/// Those that are configured, and of those received the ones that are to pass; the first of a type counts.
fn tlvs<'a>(proxied: &'a Proxied, received: &'a [(u8, Vec<u8>)]) -> impl Iterator<Item = &'a (u8, Vec<u8>)> {
    let passes = |kind: u8| proxied.pass_through.as_ref().is_some_and(|list| list.is_empty() || list.contains(&kind));
    let mut seen = [false; 256];
    let mut first = move |kind: u8| !std::mem::replace(&mut seen[usize::from(kind)], true);
    let passed = received.iter().filter(move |(kind, _)| passes(*kind));
    proxied.added.iter().chain(passed).filter(move |(kind, _)| first(*kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ProxyProtocolIn;
    use crate::listener::filters::proxy_protocol::{self, Step};
    use crate::stats::Counter;

    fn proxied(version: u8) -> Proxied {
        Proxied {
            version,
            pass_through: Some(vec![2, 3]),
            added: vec![(0xe0, b"added".to_vec()), (3, b"ours".to_vec())],
            inner: crate::cluster::Transport::Plain,
            tlvs_too_long: Counter::default(),
        }
    }

    fn conn(remote: &str, local: &str) -> ConnInfo {
        let ip = |text: &str| PeerAddr::Ip(text.parse().unwrap());
        ConnInfo {
            remote: ip(remote),
            local: ip(local),
            proxy_tlvs: vec![(2, b"a.example".to_vec()), (3, b"theirs".to_vec()), (4, b"stays".to_vec())],
            ..crate::access_log::fixture::conn()
        }
    }

    fn parsed(bytes: &[u8]) -> proxy_protocol::Header {
        match proxy_protocol::parse(bytes, &ProxyProtocolIn::default()).unwrap() {
            Step::Header(header) => header,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn version_1_says_who_and_where() {
        let told = header(&proxied(1), Some(&conn("192.0.2.1:1000", "10.0.0.1:80")), (None, None));
        assert_eq!(told, b"PROXY TCP4 192.0.2.1 10.0.0.1 1000 80\r\n");
        let mixed = header(&proxied(1), Some(&conn("[2001:db8::1]:1000", "10.0.0.1:80")), (None, None));
        assert_eq!(mixed, b"PROXY TCP6 2001:db8::1 ::ffff:10.0.0.1 1000 80\r\n");
        let own = |text: &str| Some(PeerAddr::Ip(text.parse().unwrap()));
        let check = header(&proxied(1), None, (own("10.0.0.2:5"), own("10.0.0.3:80")));
        assert_eq!(check, b"PROXY TCP4 10.0.0.2 10.0.0.3 5 80\r\n");
        assert_eq!(header(&proxied(1), None, (None, None)), b"PROXY UNKNOWN\r\n");
    }

    #[test]
    fn version_2_is_read_back_with_its_tlvs() {
        for (remote, local) in [("192.0.2.1:1000", "10.0.0.1:80"), ("[2001:db8::1]:1000", "[2001:db8::2]:80")] {
            let conn = conn(remote, local);
            let read = parsed(&header(&proxied(2), Some(&conn), (None, None)));
            assert_eq!(read.addresses, Some((remote.parse().unwrap(), local.parse().unwrap())));
            let expected = [(0xe0, b"added".to_vec()), (3, b"ours".to_vec()), (2, b"a.example".to_vec())];
            assert_eq!(read.tlvs, expected);
        }
        assert_eq!(parsed(&header(&proxied(2), None, (None, None))).addresses, None);
    }

    #[test]
    fn tlvs_that_do_not_fit_are_left_out() {
        let long = Proxied { added: vec![(9, vec![0; 65_535])], ..proxied(2) };
        let read = parsed(&header(&long, Some(&conn("192.0.2.1:1000", "10.0.0.1:80")), (None, None)));
        assert!(read.addresses.is_some() && read.tlvs.is_empty());
    }
}
