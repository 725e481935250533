//! Handshakes with the installed openssl: another implementation, and certificates of its making.

use std::process::{Command, Stdio};

use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Runs openssl in `dir`; `false`: it is not installed, or failed.
fn openssl(dir: &Path, args: &[&str]) -> bool {
    let status =
        Command::new("openssl").current_dir(dir).args(args).stdin(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|s| s.success())
}

/// An authority, and a leaf of X.509 version 1 as so many tutorials make it.
fn old_certificates(dir: &Path) -> bool {
    let new = ["-nodes", "-newkey", "rsa:2048"];
    let root = ["req", "-x509", "-subj", "/O=example Inc./CN=root", "-keyout", "root.key", "-out", "root.pem"];
    let request = ["req", "-subj", "/CN=old/O=example Inc.", "-keyout", "old.key", "-out", "old.csr"];
    let sign = [
        "x509",
        "-req",
        "-days",
        "9",
        "-set_serial",
        "1",
        "-CA",
        "root.pem",
        "-CAkey",
        "root.key",
        "-in",
        "old.csr",
        "-out",
        "old.pem",
    ];
    openssl(dir, &[&root[..], &new].concat())
        && openssl(dir, &[&request[..], &new].concat())
        && openssl(dir, &sign)
        && !String::from_utf8_lossy(&std::fs::read(dir.join("old.pem")).unwrap_or_default()).is_empty()
}

#[tokio::test]
async fn version_1_certificates_are_good_enough() {
    let dir = tempfile::tempdir().unwrap();
    if !old_certificates(dir.path()) {
        println!("SKIPPED: no openssl here");
        return;
    }
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    let leaf = Leaf { chain: read("old.pem"), key: read("old.key") };
    let trust =
        CertificateValidation { trusted_ca: Some(inline(&read("root.pem"))), ..CertificateValidation::default() };
    let mut down = downstream(&[&leaf], Some(trust.clone()));
    down.require_client_certificate = true;
    for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
        let mut up = upstream(Some(&leaf), Some(trust.clone()));
        up.common.params.max = Some(version);
        let (served, connected) = between(&down, &up).await;
        let served = served.unwrap();
        assert!(served.peer_validated && connected.unwrap().peer_validated);
        assert_eq!(served.peer.as_ref().unwrap().subject, "O=example Inc.,CN=old");
        up.common.validation = Some(ValidationSource::Inline(Box::new(ca("other").trust())));
        assert_eq!(kind(&between(&down, &up).await.1), Some(TlsErrorKind::CertificateChain));
    }
}

#[tokio::test]
async fn openssl_as_a_client() {
    let ca = ca("root");
    let mut down = downstream(&[&ca.leaf(&["s.example.com"])], None);
    down.common.alpn = vec!["h2".into(), "http/1.1".into()];
    let server = server(&down);
    for (args, version, cipher, alpn) in [
        (&["-alpn", "http/1.1,h2"][..], "TLSv1.3", "TLS_AES_256_GCM_SHA384", "h2"),
        (&["-tls1_2"], "TLSv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256", ""),
        (&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"], "TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384", ""),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let child = Command::new("openssl")
            .args(["s_client", "-connect", &address, "-servername", "s.example.com", "-ign_eof"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = child else {
            println!("SKIPPED: no openssl here");
            return;
        };
        let (stream, _) = listener.accept().await.unwrap();
        let (mut stream, info) = server.accept(stream.into()).await.unwrap();
        assert_eq!((info.version, &*info.cipher, &*info.alpn), (version, cipher, alpn));
        assert_eq!(&*info.sni, "s.example.com");
        stream.write_all(b"hello from here\n").await.unwrap();
        stream.shutdown().await.unwrap();
        let output = tokio::task::spawn_blocking(|| child.wait_with_output()).await.unwrap().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains("hello from here"));
    }
}

#[tokio::test]
async fn openssl_as_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ca("root");
    let leaf = ca.leaf(&["s.example.com"]);
    std::fs::write(dir.path().join("cert.pem"), &leaf.chain).unwrap();
    std::fs::write(dir.path().join("key.pem"), &leaf.key).unwrap();
    std::fs::write(dir.path().join("ca.pem"), &ca.pem).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let child = Command::new("openssl")
        .current_dir(dir.path())
        .args(["s_server", "-accept", &format!("127.0.0.1:{port}"), "-cert", "cert.pem", "-key", "key.pem"])
        .args(["-CAfile", "ca.pem", "-Verify", "1", "-verify_return_error", "-rev", "-alpn", "h2"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else {
        println!("SKIPPED: no openssl here");
        return;
    };
    let mut up = upstream(Some(&ca.leaf(&["c"])), Some(ca.trust()));
    up.sni = "s.example.com".into();
    up.auto_sni_san_validation = true;
    let client = client(&up);
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    let stream = loop {
        match TcpStream::connect(("127.0.0.1", port)).await {
            Ok(stream) => break stream,
            Err(_) => assert!(tokio::time::Instant::now() < deadline, "openssl does not listen"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    let alpn = [b"h2".to_vec()];
    let options = ConnectOptions { alpn_fallback: &alpn, ..ConnectOptions::default() };
    let (mut stream, info) = client.connect(stream.into(), options).await.unwrap();
    assert_eq!((info.version, &*info.alpn), ("TLSv1.3", "h2"));
    assert!(info.peer_validated);
    stream.write_all(b"olleh\n").await.unwrap();
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"hello\n");
    child.kill().unwrap();
    child.wait().unwrap();
}
