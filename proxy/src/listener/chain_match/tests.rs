use std::net::SocketAddr;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use crate::config::DownstreamTransport;

fn chain(name: &str, matches: FilterChainMatch) -> FilterChain {
    FilterChain {
        name: name.to_owned(),
        matches,
        filters: Vec::new(),
        transport: DownstreamTransport::Plaintext,
        handshake_timeout: None,
    }
}

fn own(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

fn cidr(text: &str) -> Cidr {
    let (ip, prefix) = text.split_once('/').unwrap();
    Cidr::new(ip.parse().unwrap(), prefix.parse().unwrap()).unwrap()
}

fn address(text: &str) -> PeerAddr {
    match text.parse::<SocketAddr>() {
        Ok(a) => PeerAddr::Ip(a),
        Err(_) => PeerAddr::Pipe(text.into()),
    }
}

/// A connection.
#[derive(Debug, Clone)]
struct Conn {
    destination: &'static str,
    name: &'static str,
    transport: &'static str,
    protocols: Vec<String>,
    direct_source: &'static str,
    source: &'static str,
}

const PLAIN: Conn = Conn {
    destination: "10.0.0.1:80",
    name: "",
    transport: "raw_buffer",
    protocols: Vec::new(),
    direct_source: "192.0.2.1:1000",
    source: "192.0.2.1:1000",
};

fn find(chains: &[FilterChain], c: &Conn) -> Option<usize> {
    let (destination, direct, source) = (address(c.destination), address(c.direct_source), address(c.source));
    let facts = ConnFacts {
        destination: &destination,
        server_name: c.name,
        transport_protocol: c.transport,
        application_protocols: &c.protocols,
        direct_source: &direct,
        source: &source,
    };
    FilterChainTable::build(chains).unwrap().find(&facts)
}

#[test]
fn there_is_no_way_back() {
    let m = FilterChainMatch::default;
    // The port is matched first: the chain for 443 wins the connection, and loses it over the name.
    let chains = [
        chain("any", m()),
        chain("443", FilterChainMatch { destination_port: Some(443), server_names: own(&["a.com"]), ..m() }),
    ];
    assert_eq!(find(&chains, &PLAIN), Some(0));
    assert_eq!(find(&chains, &Conn { destination: "10.0.0.1:443", name: "a.com", ..PLAIN }), Some(1));
    assert_eq!(find(&chains, &Conn { destination: "10.0.0.1:443", name: "b.com", ..PLAIN }), None);
    // A longer prefix does the same.
    let chains = [
        chain("8", FilterChainMatch { prefix_ranges: vec![cidr("10.0.0.0/8")], ..m() }),
        chain(
            "16",
            FilterChainMatch { prefix_ranges: vec![cidr("10.0.0.0/16")], transport_protocol: "tls".into(), ..m() },
        ),
    ];
    assert_eq!(find(&chains, &PLAIN), None);
    assert_eq!(find(&chains, &Conn { destination: "10.1.0.1:80", ..PLAIN }), Some(0));
}

#[test]
fn names_from_exact_to_none() {
    let names = |list: &[&str]| FilterChainMatch { server_names: own(list), ..FilterChainMatch::default() };
    let chains = [
        chain("exact", names(&["a.b.com"])),
        chain("near", names(&["*.b.com"])),
        chain("far", names(&["*.com", "x.org"])),
        chain("none", names(&[])),
    ];
    for (name, expected) in [
        ("a.b.com", 0),
        ("c.b.com", 1),
        ("d.c.b.com", 1),
        ("b.com", 2),
        ("x.org", 2),
        ("com", 3),
        ("y.org", 3),
        ("", 3),
        (".com", 2),
        ("a.com.", 3),
    ] {
        assert_eq!(find(&chains, &Conn { name, ..PLAIN }), Some(expected), "{name}");
    }
}

#[test]
fn the_clients_order_of_protocols_counts() {
    let alpn = |list: &[&str]| FilterChainMatch { application_protocols: own(list), ..FilterChainMatch::default() };
    let chains = [chain("http", alpn(&["http/1.1"])), chain("h2", alpn(&["h2", "h2c"])), chain("other", alpn(&[]))];
    for (offered, expected) in [(&["x", "h2", "http/1.1"][..], 1), (&["http/1.1", "h2"], 0), (&["x"], 2), (&[], 2)] {
        assert_eq!(find(&chains, &Conn { protocols: own(offered), ..PLAIN }), Some(expected));
    }
}

#[test]
fn who_is_local() {
    let of = |source_type| FilterChainMatch { source_type, ..FilterChainMatch::default() };
    let chains = [chain("local", of(SourceType::SameIpOrLoopback)), chain("external", of(SourceType::External))];
    for (source, expected) in [
        ("127.0.0.1:1", 0),
        ("[::1]:1", 0),
        ("10.0.0.1:9", 0),
        ("/tmp/socket", 0),
        ("127.0.0.2:1", 1),
        ("192.0.2.1:1", 1),
    ] {
        assert_eq!(find(&chains, &Conn { source, ..PLAIN }), Some(expected), "{source}");
    }
}

#[test]
fn unix_sockets_match_what_asks_for_no_address() {
    let m = FilterChainMatch::default;
    let chains = [
        chain("address", FilterChainMatch { prefix_ranges: vec![cidr("10.0.0.0/8")], ..m() }),
        chain("port", FilterChainMatch { destination_port: Some(80), ..m() }),
        chain("any", m()),
    ];
    let pipe = Conn { destination: "/tmp/s", direct_source: "", source: "", ..PLAIN };
    assert_eq!(find(&chains, &pipe), Some(2));
}

#[test]
fn what_cannot_be_told_apart_is_refused() {
    let m = FilterChainMatch::default;
    let error = |chains: &[FilterChain]| FilterChainTable::build(chains).unwrap_err().reason;
    assert_eq!(
        error(&[chain("a", m()), chain("b", m())]),
        "filter chain 'b' has the same matching rules defined as 'a'"
    );
    let names = |list: &[&str]| FilterChainMatch { server_names: own(list), ..m() };
    assert!(error(&[chain("a", names(&["x", "y"])), chain("b", names(&["y", "z"]))]).contains("overlapping"));
    assert!(error(&[chain("a", names(&["a*.com"]))]).contains("partial wildcards"));
    assert!(error(&[chain("a", names(&["*"]))]).contains("partial wildcards"));
}

/// The rules as written: at each step keep the chains that match best.
fn model(chains: &[FilterChain], c: &Conn) -> Option<usize> {
    let mut left: Vec<usize> = (0..chains.len()).collect();
    let best = |left: &mut Vec<usize>, score: &dyn Fn(&FilterChainMatch) -> Option<i64>| {
        let top = left.iter().filter_map(|i| score(&chains[*i].matches)).max();
        left.retain(|i| top.is_some() && score(&chains[*i].matches) == top);
    };
    let ip = |ranges: &[Cidr], address: &str| -> Option<i64> {
        let ip = self::address(address).ip().unwrap_or(IpAddr::V4(Ipv4Addr::BROADCAST));
        if ranges.is_empty() {
            return Some(-1);
        }
        ranges.iter().filter(|r| r.contains(ip)).map(|r| i64::from(r.prefix)).max()
    };
    let port = |text: &str| self::address(text).port().unwrap_or(0);
    // A chain for another port is out; one without a port is kept only if no chain names the port.
    best(&mut left, &|m| match m.destination_port {
        None => Some(0),
        Some(p) => (p == port(c.destination)).then_some(1),
    });
    best(&mut left, &|m| ip(&m.prefix_ranges, c.destination));
    best(&mut left, &|m| {
        if m.server_names.is_empty() {
            return Some(-1);
        }
        let score = |pattern: &String| match pattern.strip_prefix('*') {
            Some(suffix) => (c.name.ends_with(suffix) && c.name.len() > suffix.len()).then_some(suffix.len() as i64),
            None => (pattern == c.name).then_some(i64::MAX),
        };
        m.server_names.iter().filter_map(score).max()
    });
    best(&mut left, &|m| {
        if m.transport_protocol.is_empty() {
            return Some(0);
        }
        (m.transport_protocol == c.transport).then_some(1)
    });
    best(&mut left, &|m| {
        if m.application_protocols.is_empty() {
            return Some(-1000);
        }
        c.protocols.iter().position(|p| m.application_protocols.contains(p)).map(|at| -(at as i64))
    });
    best(&mut left, &|m| ip(&m.direct_source_prefix_ranges, c.direct_source));
    let source = self::address(c.source).ip();
    let local = source.is_none_or(|s| {
        ["127.0.0.1", "::1"].iter().any(|l| l.parse() == Ok(s)) || self::address(c.destination).ip() == Some(s)
    });
    best(&mut left, &|m| match m.source_type {
        SourceType::Any => Some(0),
        SourceType::SameIpOrLoopback => local.then_some(1),
        SourceType::External => (!local).then_some(1),
    });
    best(&mut left, &|m| ip(&m.source_prefix_ranges, c.source));
    best(&mut left, &|m| {
        if m.source_ports.is_empty() {
            return Some(0);
        }
        m.source_ports.contains(&port(c.source)).then_some(1)
    });
    left.first().copied()
}

fn ranges(all: &'static [&'static str]) -> impl Strategy<Value = Vec<Cidr>> {
    prop_oneof![3 => Just(Vec::new()), 2 => subsequence(all.to_vec(), 1..=2).prop_map(|l| l.into_iter().map(cidr).collect())]
}

fn names(all: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    prop_oneof![2 => Just(Vec::new()), 3 => subsequence(all.to_vec(), 1..=2).prop_map(|l| own(&l))]
}

fn any_match() -> impl Strategy<Value = FilterChainMatch> {
    const NETS: &[&str] = &["10.0.0.0/8", "10.0.0.0/16", "10.0.0.1/32", "127.0.0.0/8", "192.0.2.0/24", "::/1"];
    (
        select(vec![None, None, Some(80), Some(443)]),
        ranges(NETS),
        names(&["a.com", "*.a.com", "*.com", "b.a.com"]),
        select(vec!["", "tls", "raw_buffer"]),
        names(&["h2", "http/1.1"]),
        ranges(NETS),
        select(vec![SourceType::Any, SourceType::SameIpOrLoopback, SourceType::External]),
        ranges(NETS),
        select(vec![vec![], vec![], vec![1000], vec![1000, 2000]]),
    )
        .prop_map(|(port, to, names, transport, alpn, direct, kind, from, ports)| FilterChainMatch {
            destination_port: port,
            prefix_ranges: to,
            server_names: names,
            transport_protocol: transport.to_owned(),
            application_protocols: alpn,
            direct_source_prefix_ranges: direct,
            source_type: kind,
            source_prefix_ranges: from,
            source_ports: ports,
        })
}

fn any_conn() -> impl Strategy<Value = Conn> {
    let address = || {
        select(vec![
            "10.0.0.1:80",
            "10.0.0.2:443",
            "10.1.0.1:1000",
            "127.0.0.1:2000",
            "192.0.2.1:1000",
            "[::1]:443",
            "/tmp/socket",
        ])
    };
    (
        address(),
        select(vec!["", "a.com", "b.a.com", "c.a.com", "x.com", "x.org"]),
        select(vec!["tls", "raw_buffer"]),
        select(vec![vec![], vec!["h2"], vec!["http/1.1", "h2"], vec!["x", "h2"]]),
        address(),
        address(),
    )
        .prop_map(|(destination, name, transport, protocols, direct_source, source)| Conn {
            destination,
            name,
            transport,
            protocols: own(&protocols),
            direct_source,
            source,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn agrees_with_the_rules_as_written(
        matches in proptest::collection::vec(any_match(), 1..6),
        conns in proptest::collection::vec(any_conn(), 1..12),
    ) {
        let chains: Vec<_> = matches.into_iter().map(|m| chain("", m)).collect();
        if FilterChainTable::build(&chains).is_ok() {
            for c in &conns {
                prop_assert_eq!(find(&chains, c), model(&chains, c), "{:?}", c);
            }
        }
    }
}
