//! What a server negotiates.

use super::*;

#[tokio::test]
async fn facts_of_both_sides() {
    let ca = ca("root");
    let (server, client) = (ca.leaf(&["server.example.com"]), ca.leaf(&["spiffe://td/ns/a/sa/b"]));
    let mut down = downstream(&[&server], Some(ca.trust()));
    down.require_client_certificate = true;
    down.common.alpn = vec!["h2".into(), "http/1.1".into()];
    let mut up = upstream(Some(&client), Some(ca.trust()));
    up.sni = "Server.Example.com".into();
    up.common.alpn = vec!["http/1.1".into(), "h2".into()];
    let (served, connected) = between(&down, &up).await;
    let (served, connected) = (served.unwrap(), connected.unwrap());
    assert_eq!((served.version, connected.version), ("TLSv1.3", "TLSv1.3"));
    assert_eq!(served.cipher, "TLS_AES_128_GCM_SHA256");
    assert_eq!(&*served.alpn, "h2", "our order");
    assert_eq!(&*connected.alpn, "h2");
    assert_eq!(&*served.sni, "server.example.com");
    assert!(served.peer_validated && connected.peer_validated);
    assert_eq!(served.peer.as_ref().unwrap().uri_sans, ["spiffe://td/ns/a/sa/b"]);
    assert_eq!(served.local.as_ref().unwrap().dns_sans, ["server.example.com"]);
    assert_eq!(connected.peer.as_ref().unwrap().sha256, served.local.as_ref().unwrap().sha256);
    assert_eq!(connected.local.as_ref().unwrap().sha256, served.peer.as_ref().unwrap().sha256);
}

#[tokio::test]
async fn no_common_alpn_is_no_failure() {
    let leaf = ca("root").leaf(&["a"]);
    let mut down = downstream(&[&leaf], None);
    down.common.alpn = vec!["h2".into()];
    let fallback = [b"http/1.1".to_vec()];
    let options = ConnectOptions { alpn_fallback: &fallback, ..ConnectOptions::default() };
    let (served, connected) = with_options(&down, &upstream(None, None), options).await;
    assert_eq!(&*served.unwrap().alpn, "");
    assert_eq!(&*connected.unwrap().alpn, "");
    let other = [b"h2".to_vec()];
    let options = ConnectOptions { alpn_override: Some(&other), ..options };
    let (served, _) = with_options(&down, &upstream(None, None), options).await;
    assert_eq!(&*served.unwrap().alpn, "h2");
}

#[tokio::test]
async fn upstream_tops_at_tls_1_2_unless_told() {
    let leaf = ca("root").leaf(&["a"]);
    let mut up = upstream(None, None);
    up.common.params.max = None;
    let (served, _) = between(&downstream(&[&leaf], None), &up).await;
    let served = served.unwrap();
    assert_eq!(served.version, "TLSv1.2");
    assert_eq!(served.cipher, "ECDHE-ECDSA-AES128-GCM-SHA256");
    let mut down = downstream(&[&leaf], None);
    down.common.params.min = Some(TlsVersion::V1_3);
    let (served, connected) = between(&down, &up).await;
    assert!(served.unwrap_err().reason.contains("UNSUPPORTED_PROTOCOL"));
    assert!(connected.unwrap_err().reason.contains("TLSV1_ALERT_PROTOCOL_VERSION"));
}

#[tokio::test]
async fn certificates_are_chosen_by_name_and_key() {
    let ca = ca("root");
    let (first, exact, wild) = (ca.leaf(&["first"]), ca.leaf(&["a.example.com"]), ca.leaf(&["*.example.com"]));
    let server = server(&downstream(&[&first, &wild, &exact], None));
    let client = client(&upstream(None, None));
    for (sni, served) in [
        (None, "first"),
        (Some("A.example.com"), "a.example.com"),
        (Some("b.example.com"), "*.example.com"),
        (Some("a.b.example.com"), "first"),
        (Some("elsewhere.org"), "first"),
    ] {
        let options = ConnectOptions { server_name: sni, ..ConnectOptions::default() };
        let (info, _) = handshake(&server, &client, options).await;
        assert_eq!(info.unwrap().local.as_ref().unwrap().dns_sans, [served], "{sni:?}");
    }
}

#[tokio::test]
async fn addresses_are_not_sent_as_names() {
    let leaf = ca("root").leaf(&["a"]);
    let mut up = upstream(None, None);
    for (name, sent) in [("10.0.0.1", ""), ("not a name!", ""), ("a.example.com", "a.example.com")] {
        up.sni = name.into();
        let (served, _) = between(&downstream(&[&leaf], None), &up).await;
        assert_eq!(&*served.unwrap().sni, sent);
    }
    up.auto_host_sni = true;
    let options = ConnectOptions { host_name: Some("host.example.com"), ..ConnectOptions::default() };
    let (served, _) = with_options(&downstream(&[&leaf], None), &up, options).await;
    assert_eq!(&*served.unwrap().sni, "host.example.com");
}

#[tokio::test]
async fn sessions_resume_with_their_identity() {
    let ca = ca("root");
    let (server_leaf, client_leaf) = (ca.leaf(&["s"]), ca.leaf(&["c"]));
    let mut down = downstream(&[&server_leaf], Some(ca.trust()));
    down.require_client_certificate = true;
    for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
        for (stateless, stateful) in [(true, true), (false, true), (true, false), (false, false)] {
            down.disable_stateless_resumption = !stateless;
            down.disable_stateful_resumption = !stateful;
            let scope = scope();
            let server = ServerTls::build(&down, &no_secrets(), &scope).unwrap();
            let mut up = upstream(Some(&client_leaf), Some(ca.trust()));
            up.common.params.max = Some(version);
            let client = client(&up);
            for _ in 0..2 {
                let (served, connected) = handshake(&server, &client, ConnectOptions::default()).await;
                let served = served.unwrap();
                assert_eq!(served.peer.as_ref().unwrap().dns_sans, ["c"]);
                assert!(served.peer_validated && connected.unwrap().peer_validated);
            }
            let reused = scope.scope("ssl").counter("session_reused").value();
            // Without tickets TLS 1.3 has no resumption; TLS 1.2 falls back on session ids.
            let expected = stateless || (stateful && version == TlsVersion::V1_2);
            assert_eq!(reused, u64::from(expected), "{version:?} {stateless} {stateful}");
        }
    }
}

#[tokio::test]
async fn resumption_can_be_switched_off_by_the_client() {
    let leaf = ca("root").leaf(&["s"]);
    let scope = scope();
    let server = ServerTls::build(&downstream(&[&leaf], None), &no_secrets(), &scope).unwrap();
    let mut up = upstream(None, None);
    up.max_session_keys = 0;
    let client = client(&up);
    for _ in 0..2 {
        handshake(&server, &client, ConnectOptions::default()).await.0.unwrap();
    }
    assert_eq!(scope.scope("ssl").counter("session_reused").value(), 0);
    assert_eq!(scope.scope("ssl").counter("handshake").value(), 2);
    assert_eq!(scope.scope("ssl").counter("no_certificate").value(), 2);
    assert_eq!(scope.scope("ssl").counter("versions.TLSv1.3").value(), 2);
    assert_eq!(scope.scope("ssl").counter("curves.X25519MLKEM768").value(), 2);
}

#[tokio::test]
async fn what_is_not_tls_is_told_apart() {
    let leaf = ca("root").leaf(&["s"]);
    let scope = scope();
    let server = ServerTls::build(&downstream(&[&leaf], None), &no_secrets(), &scope).unwrap();
    for (sent, reason, answered) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "HTTP_REQUEST", false),
        (b"\0\x01\x02garbage garbage", "WRONG_VERSION_NUMBER", true),
        (b"\x16\x03", "", false),
        (b"", "", false),
    ] {
        let (mut peer, ours) = tokio::io::duplex(1024);
        peer.write_all(sent).await.unwrap();
        peer.shutdown().await.unwrap();
        let error = server.accept(ours.into()).await.unwrap_err();
        assert!(error.reason.contains(reason) && error.reason.is_empty() == reason.is_empty(), "{error:?}");
        let mut answer = Vec::new();
        peer.read_to_end(&mut answer).await.unwrap();
        assert_eq!(!answer.is_empty(), answered);
    }
    assert_eq!(scope.scope("ssl").counter("connection_error").value(), 2);
}

#[tokio::test]
async fn key_log_covers_address_ranges() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    let leaf = ca("root").leaf(&["s"]);
    let mut down = downstream(&[&leaf], None);
    let any = crate::config::KeyLog {
        path: path.to_str().unwrap().to_owned(),
        local_ranges: Vec::new(),
        remote_ranges: Vec::new(),
    };
    // A connection in memory has no address, and so is in no range.
    let range = crate::config::Cidr::new("10.0.0.0".parse().unwrap(), 8).unwrap();
    down.common.key_log = Some(crate::config::KeyLog { remote_ranges: vec![range], ..any.clone() });
    between(&down, &upstream(None, None)).await.0.unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    down.common.key_log = Some(any);
    between(&down, &upstream(None, None)).await.0.unwrap();
    assert!(std::fs::read_to_string(&path).unwrap().contains("CLIENT_TRAFFIC_SECRET_0 "));
}

#[test]
fn wrong_configuration_is_named() {
    let ca = ca("root");
    let (a, b) = (ca.leaf(&["a"]), ca.leaf(&["b"]));
    let build = |c: &DownstreamTls| ServerTls::build(c, &no_secrets(), &scope()).unwrap_err();
    let mixed = Leaf { chain: a.chain.clone(), key: b.key };
    let error = build(&downstream(&[&a, &mixed], None));
    assert_eq!(error.field_path, "common_tls_context.tls_certificates[1].private_key");
    assert!(error.reason.contains("does not belong"));
    let error = build(&downstream(&[], None));
    assert!(error.reason.contains("No TLS certificates"));
    let mut missing = downstream(&[], None);
    let source = certificate(file(Path::new("/nonexistent/cert.pem")), inline(&a.key));
    missing.common.certificates = vec![CertificateSource::Inline(source)];
    assert!(build(&missing).reason.contains("/nonexistent/cert.pem"));
    let garbage =
        Leaf { chain: a.chain, key: "-----BEGIN PRIVATE KEY-----\nsecret!\n-----END PRIVATE KEY-----".into() };
    let error = build(&downstream(&[&garbage], None));
    assert!(error.reason.contains("Failed to load private key from <inline>"));
    assert!(!error.reason.contains("secret!"));
}
