use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};

use super::super::*;
use super::*;
use crate::config::{Listener, ListenerFilter, ProxyProtocolRule, StatsConfig, TrafficDirection};
use crate::stats::Store;

fn listener(kinds: Vec<ListenerFilterKind>, go_on: bool) -> Listener {
    Listener {
        name: "l".into(),
        addresses: Vec::new(),
        stat_prefix: None,
        reuse_port: true,
        bind_to_port: true,
        backlog: 1,
        transparent: false,
        freebind: false,
        tcp_fast_open: None,
        mptcp: false,
        tcp_keepalive: None,
        socket_options: Vec::new(),
        per_connection_buffer_limit: 1 << 20,
        listener_filters: kinds
            .into_iter()
            .map(|kind| ListenerFilter { name: String::new(), kind, disabled: None })
            .collect(),
        listener_filters_timeout: Some(Duration::from_secs(15)),
        continue_on_listener_filters_timeout: go_on,
        filter_chains: Vec::new(),
        default_filter_chain: None,
        access_log: Vec::new(),
        direction: TrafficDirection::Unspecified,
        drain_modify_only: false,
        use_original_dst: false,
        exact_balance: false,
        max_accepts_per_event: None,
        ignore_global_conn_limit: false,
    }
}

struct Fixture {
    filters: ListenerFilters,
    scope: Scope,
}

fn fixture(kinds: Vec<ListenerFilterKind>, go_on: bool) -> Fixture {
    let scope = Store::new(1, &StatsConfig::default()).root();
    Fixture { filters: ListenerFilters::new(&listener(kinds, go_on), &scope.scope("listener"), &scope), scope }
}

impl Fixture {
    fn count(&self, name: &str) -> u64 {
        let (scope, name) = name.rsplit_once('.').unwrap();
        self.scope.scope(scope).counter(name).value()
    }
}

fn tls() -> ListenerFilterKind {
    ListenerFilterKind::TlsInspector { max_client_hello_size: 16_384, close_on_error: false }
}

fn proxy() -> ListenerFilterKind {
    ListenerFilterKind::ProxyProtocol(ProxyProtocolIn {
        rules: vec![
            ProxyProtocolRule { tlv_type: 2, namespace: String::new(), key: "authority".into() },
            ProxyProtocolRule { tlv_type: 0xea, namespace: "cloud".into(), key: "vpce".into() },
        ],
        pass_through_tlvs: Some(vec![0xea]),
        ..ProxyProtocolIn::default()
    })
}

/// Sends `pieces` one after the other, each in a read of its own.
async fn send(peer: &mut DuplexStream, pieces: &[&[u8]]) {
    for piece in pieces {
        peer.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
}

async fn rest(stream: &mut Stream, n: usize) -> Vec<u8> {
    let mut rest = vec![0; n];
    stream.read_exact(&mut rest).await.unwrap();
    rest
}

#[tokio::test]
async fn filters_in_a_row_share_what_was_read() {
    let f = fixture(vec![proxy(), tls(), ListenerFilterKind::HttpInspector], false);
    let hello = client_hello(Some("a.example.com"), &["h2"]);
    let all = [&v2_ip4(&[(2, b"host"), (0xea, b"\x01vpce\xff")])[..], &hello].concat();
    for size in [all.len(), 100, 1] {
        let (mut peer, ours) = tokio::io::duplex(1 << 16);
        let pieces: Vec<&[u8]> = all.chunks(size).collect();
        let ((), result) = tokio::join!(send(&mut peer, &pieces), f.filters.run(ours.into()));
        let (mut stream, detected) = result.unwrap();
        assert_eq!(detected.remote.as_ref().unwrap().to_string(), "10.1.2.3:1111");
        assert_eq!(detected.local.as_ref().unwrap().to_string(), "10.4.5.6:2222");
        assert_eq!((detected.transport_protocol, &*detected.sni), ("tls", "a.example.com"));
        assert_eq!(detected.application_protocols, ["h2"]);
        assert_eq!(detected.proxy_tlvs, [(0xea, b"\x01vpce\xff".to_vec())]);
        assert_eq!(detected.metadata["envoy.filters.listener.proxy_protocol"]["authority"], "host");
        assert_eq!(detected.metadata["cloud"]["vpce"], "\u{1}vpce!");
        assert!(detected.proxy_protocol && !detected.timed_out);
        assert_eq!(rest(&mut stream, hello.len()).await, hello);
    }
    assert_eq!(f.count("tls_inspector.tls_found"), 3);
    assert_eq!(f.count("proxy_proto.versions.v2.found"), 3);
    assert_eq!(f.count("http_inspector.http_not_found"), 0, "not asked about TLS");
}

#[tokio::test]
async fn plaintext_is_no_failure() {
    let f = fixture(vec![tls(), ListenerFilterKind::HttpInspector], false);
    let (mut peer, ours) = tokio::io::duplex(1 << 16);
    send(&mut peer, &[b"GET / HTTP/1.1\r\n\r\n"]).await;
    let (mut stream, detected) = f.filters.run(ours.into()).await.unwrap();
    assert_eq!(detected.transport_protocol, "raw_buffer");
    assert_eq!(detected.application_protocols, ["http/1.1"]);
    assert!(detected.transport_failure.unwrap().contains("HTTP_REQUEST"));
    assert_eq!(detected.metadata["envoy.filters.listener.tls_inspector"]["failure_reason"], "ClientHelloNotDetected");
    assert_eq!(rest(&mut stream, 18).await, b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!((f.count("tls_inspector.tls_not_found"), f.count("http_inspector.http11_found")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_speaks_first_is_waited_for_no_longer_than_allowed() {
    for go_on in [false, true] {
        let f = fixture(vec![tls()], go_on);
        let (mut peer, ours) = tokio::io::duplex(1 << 16);
        send(&mut peer, &[b"\x16\x03"]).await;
        let result = f.filters.run(ours.into()).await;
        assert_eq!(f.count("listener.downstream_pre_cx_timeout"), 1);
        if go_on {
            let (mut stream, detected) = result.unwrap();
            assert!(detected.timed_out && detected.transport_protocol == "raw_buffer");
            assert_eq!(rest(&mut stream, 2).await, b"\x16\x03", "nothing is lost");
        } else {
            assert!(matches!(result, Err(ListenerFilterError::Timeout)));
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_counted() {
    let f = fixture(vec![tls()], true);
    let (mut peer, ours) = tokio::io::duplex(64);
    peer.write_all(b"\x16").await.unwrap();
    peer.shutdown().await.unwrap();
    assert!(matches!(f.filters.run(ours.into()).await, Err(ListenerFilterError::RemoteClosed)));
    assert_eq!(f.count("listener.downstream_listener_filter_remote_close"), 1);
}

#[tokio::test]
async fn refusal_is_a_reset() {
    let f = fixture(vec![proxy()], true);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    peer.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let (ours, _) = listener.accept().await.unwrap();
    assert!(matches!(f.filters.run(ours.into()).await, Err(ListenerFilterError::Refused(_))));
    assert_eq!(peer.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(f.count("proxy_proto.not_found_disallowed"), 1);
    assert_eq!(f.scope.counter("downstream_cx_proxy_proto_error").value(), 1);
}

#[tokio::test]
async fn a_hello_beyond_the_limit_is_refused() {
    let f = fixture(vec![ListenerFilterKind::TlsInspector { max_client_hello_size: 64, close_on_error: false }], true);
    let (mut peer, ours) = tokio::io::duplex(1 << 16);
    send(&mut peer, &[&client_hello(Some("a.example.com"), &[])]).await;
    assert!(matches!(f.filters.run(ours.into()).await, Err(ListenerFilterError::Refused(_))));
    assert_eq!(f.count("tls_inspector.client_hello_too_large"), 1);
}

#[tokio::test]
async fn filters_can_be_disabled_by_port() {
    use FilterChainPredicate::{And, Any, DestinationPort, Not, Or};
    // The port is the restored one: the header before says 2222.
    for (predicate, skipped) in [
        (DestinationPort(2222, 2223), true),
        (DestinationPort(2221, 2222), false),
        (Not(Box::new(DestinationPort(2222, 2223))), false),
        (And(vec![Any, DestinationPort(1, 65_535)]), true),
        (Or(vec![DestinationPort(1, 2), DestinationPort(2, 3)]), false),
    ] {
        let mut config = listener(vec![proxy(), tls()], false);
        config.listener_filters[1].disabled = Some(predicate.clone());
        let scope = Store::new(1, &StatsConfig::default()).root();
        let f = Fixture { filters: ListenerFilters::new(&config, &scope.scope("listener"), &scope), scope };
        let (mut peer, ours) = tokio::io::duplex(1 << 16);
        let all = [&v2_ip4(&[])[..], &client_hello(None, &[])].concat();
        send(&mut peer, &[&all]).await;
        let (_, detected) = f.filters.run(ours.into()).await.unwrap();
        assert_eq!(detected.transport_protocol == "raw_buffer", skipped, "{predicate:?}");
    }
}

#[tokio::test]
async fn without_filters_nothing_is_read() {
    let f = fixture(vec![ListenerFilterKind::OriginalDst], false);
    assert!(fixture(Vec::new(), false).filters.is_empty());
    let (_peer, ours) = tokio::io::duplex(1);
    let (stream, detected) = f.filters.run(ours.into()).await.unwrap();
    assert!(matches!(stream, Stream::Memory(_)));
    assert_eq!(detected.transport_protocol, "raw_buffer");
}
