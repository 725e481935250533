//! Where a request says it came from: X-Forwarded-For as `original_ip_detection_extensions` (or nothing but
//! `xff_num_trusted_hops`) would have it read, or a header of one's own.
//!
//! Runs on: workers.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::OnceLock;

use crate::config::{Cidr, OriginalIpDetection};
use crate::http::HeaderMap;

const XFF: &str = "x-forwarded-for";

/// What one way of detection came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Detected {
    /// The client's address, where there is one to be found.
    pub ip: Option<IpAddr>,
    /// The address may make the request an internal one.
    pub trusted: bool,
    /// The peer's address is appended to X-Forwarded-For.
    pub append: bool,
    /// The request is answered with this status.
    pub reject: Option<u16>,
}

/// This machine's address as others may know it: that of the first interface that is no loopback, as Envoy has it.
pub fn local_address() -> IpAddr {
    static ADDRESS: OnceLock<IpAddr> = OnceLock::new();
    *ADDRESS.get_or_init(|| {
        let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten();
        let own = addresses.filter_map(|i| i.address?.as_sockaddr_in().map(|a| a.ip())).find(|ip| !ip.is_loopback());
        own.unwrap_or(Ipv4Addr::LOCALHOST).into()
    })
}

/// Asks one extension about a request whose immediate peer is `peer`.
pub fn detect(extension: &OriginalIpDetection, headers: &HeaderMap, peer: Option<IpAddr>) -> Detected {
    match extension {
        OriginalIpDetection::Xff { num_trusted_hops, trusted_cidrs, skip_xff_append } => {
            let append = !skip_xff_append;
            if trusted_cidrs.is_empty() {
                return Detected { append, ..by_hops(headers, *num_trusted_hops as usize) };
            }
            if !peer.is_some_and(|p| is_in(trusted_cidrs, p)) {
                // A peer that is no proxy of ours is itself the client.
                return Detected { append: true, ..Detected::default() };
            }
            Detected { append, ..by_ranges(headers, trusted_cidrs) }
        }
        OriginalIpDetection::CustomHeader { name, allow_extension_to_set_address_as_trusted, reject_with_status } => {
            let ip = headers.get(name).and_then(|v| v.to_str().ok()).and_then(parse);
            Detected {
                ip,
                trusted: ip.is_some() && *allow_extension_to_set_address_as_trusted,
                append: false,
                reject: reject_with_status.filter(|_| ip.is_none()),
            }
        }
    }
}

/// The address `hops` before the last of X-Forwarded-For; trusted where it is the only one.
pub fn by_hops(headers: &HeaderMap, hops: usize) -> Detected {
    let ip = entries(headers).nth(hops).and_then(parse);
    Detected { ip, trusted: ip.is_some() && hops == 0 && entries(headers).nth(1).is_none(), ..Detected::default() }
}

/// The last address of X-Forwarded-For that is not one of our proxies; the first where all are, and then it is trusted.
fn by_ranges(headers: &HeaderMap, ranges: &[Cidr]) -> Detected {
    let mut last = None;
    for entry in entries(headers) {
        let Some(ip) = parse(entry) else { return Detected::default() };
        last = Some(ip);
        if !is_in(ranges, ip) {
            return Detected { ip: last, ..Detected::default() };
        }
    }
    Detected { ip: last, trusted: last.is_some(), ..Detected::default() }
}

fn is_in(ranges: &[Cidr], ip: IpAddr) -> bool {
    ranges.iter().any(|r| r.contains(ip))
}

/// The entries of X-Forwarded-For, last first.
fn entries(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers.get_all(XFF).rev().flat_map(|v| v.to_str().unwrap_or("").rsplit(',')).map(str::trim)
}

fn parse(text: &str) -> Option<IpAddr> {
    text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, values: &[&'static str]) -> HeaderMap {
        let mut h = HeaderMap::new();
        for v in values {
            h.append(name, http::HeaderValue::from_static(v));
        }
        h
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn hops_count_from_the_right_over_all_fields() {
        let h = headers(XFF, &["1.1.1.1, 2.2.2.2", "[::1]"]);
        for (hops, want) in [(0, ip("::1")), (1, ip("2.2.2.2")), (2, ip("1.1.1.1")), (3, None)] {
            let found = by_hops(&h, hops);
            assert_eq!((found.ip, found.trusted), (want, false));
        }
        assert!(by_hops(&headers(XFF, &["1.1.1.1"]), 0).trusted);
        assert_eq!(by_hops(&headers(XFF, &["x"]), 0), Detected::default());
    }

    #[test]
    fn ranges_are_skipped() {
        let ext = OriginalIpDetection::Xff {
            num_trusted_hops: 0,
            trusted_cidrs: vec![Cidr::new(ip("10.0.0.0").unwrap(), 8).unwrap()],
            skip_xff_append: true,
        };
        let proxy = ip("10.0.0.1");
        let h = headers(XFF, &["9.9.9.9, 1.1.1.1, 10.0.0.2"]);
        assert_eq!(detect(&ext, &h, proxy), Detected { ip: ip("1.1.1.1"), ..Detected::default() });
        let ours = headers(XFF, &["10.0.0.9,10.0.0.2"]);
        assert_eq!(detect(&ext, &ours, proxy), Detected { ip: ip("10.0.0.9"), trusted: true, ..Detected::default() });
        assert_eq!(detect(&ext, &headers(XFF, &["1.1.1.1,x"]), proxy), Detected::default());
        assert_eq!(detect(&ext, &h, ip("8.8.8.8")), Detected { append: true, ..Detected::default() });
    }

    #[test]
    fn a_header_of_ones_own() {
        let ext = OriginalIpDetection::CustomHeader {
            name: "x-client".into(),
            allow_extension_to_set_address_as_trusted: true,
            reject_with_status: Some(401),
        };
        let found = detect(&ext, &headers("x-client", &["1.2.3.4"]), None);
        assert_eq!(found, Detected { ip: ip("1.2.3.4"), trusted: true, append: false, reject: None });
        for bad in [HeaderMap::new(), headers("x-client", &["nobody"])] {
            assert_eq!(detect(&ext, &bad, None), Detected { reject: Some(401), ..Detected::default() });
        }
    }
}
