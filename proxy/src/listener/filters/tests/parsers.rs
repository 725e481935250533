use proptest::collection::vec;
use proptest::prelude::*;

use super::super::client_hello::{self, ClientHello, NotTls};
use super::super::http_inspector::{self, HttpInspector, Version};
use super::super::proxy_protocol::{self, Header, HeaderError};
use super::*;
use crate::config::ProxyProtocolIn;

const MAX: usize = 16_384;

fn expected() -> ClientHello {
    ClientHello { sni: "a.example.com".into(), alpn: vec!["h2".into(), "http/1.1".into()] }
}

#[test]
fn a_hello_is_found_when_it_is_complete_and_not_before() {
    let hello = client_hello(Some("A.example.COM"), &["h2", "http/1.1"]);
    for bytes in [hello.clone(), fragmented(&hello, 20), fragmented(&hello, 1)] {
        let mut need = 0;
        for n in 0..bytes.len() {
            match client_hello::parse(&bytes[..n], MAX).unwrap() {
                client_hello::Step::NeedMore(more) => {
                    assert!(more > n && more <= bytes.len() && more >= need);
                    need = more;
                }
                done => panic!("{done:?} after {n} of {}", bytes.len()),
            }
        }
        let with_data = [&bytes[..], b"early data"].concat();
        assert_eq!(client_hello::parse(&with_data, MAX), Ok(client_hello::Step::Hello(expected())));
    }
    let bare = client_hello(None, &[]);
    assert_eq!(client_hello::parse(&bare, MAX), Ok(client_hello::Step::Hello(ClientHello::default())));
}

#[test]
fn other_things_are_told_apart_at_once() {
    for (bytes, what) in [
        (&b"hi"[..], NotTls::WrongVersion),
        (b"GET / ", NotTls::HttpRequest),
        (b"CONNECT", NotTls::ConnectRequest),
        (b"\x80\x2e\x01\x03\x01", NotTls::WrongVersion),
        (b"\x16\x02", NotTls::WrongVersion),
        (b"\x17\x03\x03", NotTls::UnexpectedRecord),
        (b"\x16\x03\x01\0\0", NotTls::Malformed),
        (b"\x16\x03\x01\xff\xff", NotTls::Malformed),
        (b"\x16\x03\x01\0\x10\x02", NotTls::Malformed),
        (b"\x16\x03\x01\0\x10\x01\0\xff\xff", NotTls::TooLarge),
        (b"\x16\x03\x01\0\x06\x01\0\0\x02\x03\x03", NotTls::Malformed),
    ] {
        assert_eq!(client_hello::parse(bytes, MAX), Err(what), "{bytes:?}");
    }
    for bytes in [&b""[..], b"G", b"POS", b"\x16", b"\x16\x03\x01\x02"] {
        assert!(matches!(client_hello::parse(bytes, MAX), Ok(client_hello::Step::NeedMore(_))), "{bytes:?}");
    }
    let hello = client_hello(Some("a.example.com"), &[]);
    assert_eq!(client_hello::parse(&hello[..9], 100), Err(NotTls::TooLarge));
    assert_eq!(
        NotTls::HttpRequest.reason(),
        "TLS_error|error:1000009c:SSL routines:OPENSSL_internal:HTTP_REQUEST:TLS_error_end"
    );
}

/// In one piece, and one octet at a time: the same, but for what is known early.
fn http(bytes: &[u8]) -> http_inspector::Step {
    let whole = HttpInspector::default().parse(bytes);
    let mut one_by_one = HttpInspector::default();
    let step = (1..=bytes.len()).map(|n| one_by_one.parse(&bytes[..n])).find(|s| *s != http_inspector::Step::NeedMore);
    assert_eq!(step.unwrap_or(http_inspector::Step::NeedMore), whole, "{:?}", String::from_utf8_lossy(bytes));
    whole
}

/// As measured on Envoy.
#[test]
fn http_as_envoy_sees_it() {
    use http_inspector::Step::{Http, NeedMore, NotHttp, TooLarge};
    for (bytes, step) in [
        (&b"GET / HTTP/1.1\r\n"[..], Http(Version::Http11)),
        (b"GET / HTTP/1.1\nHost: x", Http(Version::Http11)),
        (b"FOOBAR / HTTP/1.1\r\n", Http(Version::Http11)),
        (b"GET / HTTP/1.0\r\n", Http(Version::Http10)),
        (b"GET / HTTP/1.2\r\n", Http(Version::Http10)),
        (b"GET /\r\n", Http(Version::Http10)),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore", Http(Version::H2c)),
        (b"PRI * HTTP/2.0\r\n\r\nS", NeedMore),
        (b"PRI / HTTP/1.1\r\n", Http(Version::Http11)),
        (b"GET / HT", NeedMore),
        (b"\r\nGET / HTTP/1.1\r\n", NotHttp),
        (b"\n", NotHttp),
        (b"\x01\x02\x03\r\n", NotHttp),
        (b"\x16\x03\x01\x02\0\x01", NotHttp),
        (b"get / http/1.1\r\n", NotHttp),
        (b"GET / FOO/1.1\r\n", NotHttp),
        (b"GET\r\n", NotHttp),
        (b"GET / a HTTP/1.1\r\n", NotHttp),
        (b" GET / HTTP/1.1\r\n", NotHttp),
    ] {
        assert_eq!(http(bytes), step, "{:?}", String::from_utf8_lossy(bytes));
    }
    let endless = [&b"GET /"[..], &vec![b'a'; 70_000]].concat();
    assert_eq!(HttpInspector::default().parse(&endless), TooLarge);
}

fn strict() -> ProxyProtocolIn {
    ProxyProtocolIn::default()
}

/// The addresses of an accepted header, `-`, for none; or what else came of it.
fn outcome(bytes: &[u8], config: &ProxyProtocolIn) -> String {
    match proxy_protocol::parse(bytes, config) {
        Ok(proxy_protocol::Step::Header(Header { addresses: Some((s, d)), len, .. })) => {
            format!("{s} {d} {}", String::from_utf8_lossy(&bytes[len..]))
        }
        Ok(proxy_protocol::Step::Header(Header { len, .. })) => {
            format!("- {}", String::from_utf8_lossy(&bytes[len..]))
        }
        Ok(proxy_protocol::Step::NeedMore(_)) => "more".into(),
        Ok(proxy_protocol::Step::Absent) => "absent".into(),
        Err(HeaderError::Missing) => "missing".into(),
        Err(HeaderError::Malformed(v)) => format!("malformed {v}"),
        Err(HeaderError::Disallowed(v)) => format!("disallowed {v}"),
    }
}

/// As measured on Envoy.
#[test]
fn version_1_as_envoy_sees_it() {
    let long = |n: usize| format!("PROXY UNKNOWN {}\r\nhi", "x".repeat(n)).into_bytes();
    for (bytes, expected) in [
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 2000\r\nhi".to_vec(), "1.2.3.4:1000 5.6.7.8:2000 hi"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 2000 \r\nhi".to_vec(), "1.2.3.4:1000 5.6.7.8:2000 hi"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 0010 2000\r\nhi".to_vec(), "1.2.3.4:10 5.6.7.8:2000 hi"),
        (b"PROXY TCP6 1::2 5::3 65535 1234\r\nhi".to_vec(), "[1::2]:65535 [5::3]:1234 hi"),
        (b"PROXY TCP6 ::ffff:1.2.3.4 ::1 10 2000\r\nhi".to_vec(), "[::ffff:1.2.3.4]:10 [::1]:2000 hi"),
        (b"PROXY UNKNOWN\r\nhi".to_vec(), "- hi"),
        (b"PROXY UNKNOWN ff ff 1 2\r\nhi".to_vec(), "- hi"),
        (long(91), "- hi"),
        (long(92), "- hi"),
        (long(93), "malformed 1"),
        (b"PROXY TCP4 1.2.3 5.6.7.8 1 2\r\nhi".to_vec(), "malformed 1"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 70000\r\nhi".to_vec(), "malformed 1"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 +2\r\nhi".to_vec(), "malformed 1"),
        (b"PROXY TCP4 224.0.0.1 5.6.7.8 1000 2000\r\nhi".to_vec(), "malformed 1"),
        (b"PROXY TCP4 0.0.0.0 5.6.7.8 0 2000\r\nhi".to_vec(), "malformed 1"),
        (b"PROXY TCP4  1.2.3.4 5.6.7.8 1000 2000\r\nhi".to_vec(), "malformed 1"),
        (b"PROXY TCP4 1::2 5::3 1 2\r\nhi".to_vec(), "malformed 1"),
        ([&b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 2000\nhi"[..], &[b'x'; 100]].concat(), "missing"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "missing"),
        (b"hi".to_vec(), "more"),
        (b"\r\n".to_vec(), "more"),
        (b"\r\nhello world, long enough".to_vec(), "missing"),
    ] {
        assert_eq!(outcome(&bytes, &strict()), expected, "{:?}", String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn version_2_as_envoy_sees_it() {
    let six = [&[0; 15][..], &[1], &[0; 15], &[2], &1u16.to_be_bytes(), &2u16.to_be_bytes()].concat();
    let hi = |mut header: Vec<u8>| {
        header.extend(b"hi");
        header
    };
    let other_version = {
        let mut header = v2_ip4(&[]);
        header[12] = 0x31;
        header
    };
    let truncated = |tail: &[u8]| v2(1, 0x11, &[&v2_ip4(&[])[16..], tail].concat());
    for (case, bytes, expected) in [
        ("ip4", v2_ip4(&[]), "10.1.2.3:1111 10.4.5.6:2222 hi"),
        ("ip6", v2(1, 0x21, &six), "[::1]:1 [::2]:2 hi"),
        ("datagram", v2(1, 0x12, &v2_ip4(&[])[16..]), "10.1.2.3:1111 10.4.5.6:2222 hi"),
        ("local", v2(0, 0x11, &v2_ip4(&[])[16..]), "- hi"),
        ("local, nothing in it", v2(0, 0, &[]), "- hi"),
        ("extensions", v2_ip4(&[(2, b"host"), (0xea, b"")]), "10.1.2.3:1111 10.4.5.6:2222 hi"),
        ("wrong checksum", v2_ip4(&[(3, b"abcd")]), "10.1.2.3:1111 10.4.5.6:2222 hi"),
        ("large", v2_ip4(&[(4, &[0; 60_000])]), "10.1.2.3:1111 10.4.5.6:2222 hi"),
        ("unix", v2(1, 0x31, &[0; 216]), "malformed 2"),
        ("unspecified", v2(1, 0, &[]), "malformed 2"),
        ("short", v2(1, 0x11, b"1234"), "malformed 2"),
        ("other version", other_version, "malformed 2"),
        ("other command", v2(2, 0x11, &v2_ip4(&[])[16..]), "malformed 2"),
        ("extension too long", truncated(b"\x02\0\x09ab"), "malformed 2"),
        ("extension cut off", truncated(b"\x02\0"), "malformed 2"),
        ("unspecified address", v2(1, 0x11, &[0; 12]), "malformed 2"),
    ] {
        assert_eq!(outcome(&hi(bytes), &strict()), expected, "{case}");
    }
    let whole = v2_ip4(&[(2, b"host")]);
    for n in 0..whole.len() {
        assert_eq!(outcome(&whole[..n], &strict()), "more");
    }
}

#[test]
fn headers_that_need_not_be_or_must_not_be() {
    let allow = ProxyProtocolIn { allow_requests_without_proxy_protocol: true, ..strict() };
    let no_v1 = ProxyProtocolIn { disallowed_versions: vec![1], ..strict() };
    let no_v1_allow = ProxyProtocolIn { disallowed_versions: vec![1], ..allow.clone() };
    let no_v2 = ProxyProtocolIn { disallowed_versions: vec![2], ..strict() };
    let v1 = b"PROXY UNKNOWN\r\nhi";
    for (bytes, config, expected) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], &allow, "absent"),
        (b"hi", &allow, "absent"),
        (b"P", &allow, "more"),
        (b"", &allow, "more"),
        (b"\r\n", &allow, "more"),
        (v1, &allow, "- hi"),
        (v1, &no_v1, "disallowed 1"),
        (v1, &no_v1_allow, "absent"),
        (b"P", &no_v1_allow, "absent"),
        (&v2_ip4(&[]), &no_v2, "disallowed 2"),
        (v1, &no_v2, "- hi"),
    ] {
        assert_eq!(outcome(bytes, config), expected, "{:?}", String::from_utf8_lossy(bytes));
    }
}

/// Something near a valid input: a few octets changed, and cut somewhere.
fn mutated(base: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let len = base.len();
    (vec((0..len, any::<u8>()), 0..6), 0..=len).prop_map(move |(changes, cut)| {
        let mut bytes = base.clone();
        for (at, value) in changes {
            bytes[at] = value;
        }
        bytes.truncate(cut);
        bytes
    })
}

fn check_all(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(client_hello::Step::NeedMore(n)) = client_hello::parse(bytes, MAX) {
        prop_assert!(n > bytes.len() && n <= MAX);
    }
    for config in [strict(), ProxyProtocolIn { allow_requests_without_proxy_protocol: true, ..strict() }] {
        match proxy_protocol::parse(bytes, &config) {
            Ok(proxy_protocol::Step::NeedMore(n)) => prop_assert!(n > bytes.len() && n <= 16 + 0xffff),
            Ok(proxy_protocol::Step::Header(h)) => prop_assert!(h.len <= bytes.len()),
            _ => {}
        }
    }
    if !bytes.is_empty() {
        http(bytes);
    }
    Ok(())
}

proptest! {
    #[test]
    fn nonsense_does_no_harm(bytes in vec(any::<u8>(), 0..300)) {
        check_all(&bytes)?;
    }

    #[test]
    fn near_misses_do_no_harm(
        hello in mutated(client_hello(Some("a.example.com"), &["h2"])),
        pieces in mutated(fragmented(&client_hello(Some("a.example.com"), &["h2"]), 7)),
        header in mutated(v2_ip4(&[(2, b"host"), (0xea, b"xyz")])),
        line in mutated(b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 2000\r\nhi".to_vec()),
        request in mutated(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
    ) {
        for bytes in [&hello, &pieces, &header, &line, &request] {
            check_all(bytes)?;
        }
    }

    #[test]
    fn however_a_hello_is_cut_into_records(size in 1usize..600) {
        let hello = client_hello(Some("a.example.com"), &["h2", "http/1.1"]);
        prop_assert_eq!(client_hello::parse(&fragmented(&hello, size), MAX), Ok(client_hello::Step::Hello(expected())));
    }
}
