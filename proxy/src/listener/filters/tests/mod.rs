//! The parsers against Envoy's measured behaviour, against each other, and against nonsense.

mod driver;
mod parsers;

use std::sync::Arc;

use rustls::pki_types::ServerName;

/// A ClientHello as rustls sends it.
fn client_hello(name: Option<&str>, alpn: &[&str]) -> Vec<u8> {
    let mut config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    config.enable_sni = name.is_some();
    let name = ServerName::try_from(name.unwrap_or("unused").to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut out = Vec::new();
    client.write_tls(&mut out).unwrap();
    out
}

/// The same message in records of at most `size` octets.
fn fragmented(hello: &[u8], size: usize) -> Vec<u8> {
    let records = hello[5..].chunks(size);
    records.flat_map(|r| [&[22, 3, 1][..], &(r.len() as u16).to_be_bytes(), r].concat()).collect()
}

/// A header of version 2.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[0x20 | command, family], &(body.len() as u16).to_be_bytes(), body].concat()
}

/// 10.1.2.3:1111 to 10.4.5.6:2222, and extensions.
fn v2_ip4(tlvs: &[(u8, &[u8])]) -> Vec<u8> {
    let mut body = vec![10, 1, 2, 3, 10, 4, 5, 6];
    body.extend([1111u16.to_be_bytes(), 2222u16.to_be_bytes()].concat());
    for (kind, value) in tlvs {
        body.push(*kind);
        body.extend((value.len() as u16).to_be_bytes());
        body.extend(*value);
    }
    v2(1, 0x11, &body)
}
