//! Who talks to whom: the attributes of a connection.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::service::auth::v3::AttributeContext;
use weft_proto::pb::envoy::service::auth::v3::attribute_context::{Peer, TlsSession};
use weft_proto::wkt;

use crate::config::AuthzPeers;
use crate::http::xfcc::url_pem;
use crate::stream_info::{ConnInfo, PeerAddr, PeerCertificate};

/// What is known of a connection before anything is said on it. `service`: the client's, as it says itself; `destination`: ours.
pub(crate) fn of_connection(
    conn: &ConnInfo,
    config: &AuthzPeers,
    service: String,
    destination: String,
) -> AttributeContext {
    let tls = conn.tls.as_deref();
    let certificate = |peer: &Option<Arc<PeerCertificate>>| peer.as_deref().map(principal).unwrap_or_default();
    let pem = |peer: &PeerCertificate| peer.chain_der.first().map(|der| url_pem(der)).unwrap_or_default();
    let theirs = tls.and_then(|t| t.peer.as_deref()).filter(|_| config.certificate);
    AttributeContext {
        source: Some(Peer {
            address: Some(address(&conn.remote)),
            service,
            principal: tls.map(|t| certificate(&t.peer)).unwrap_or_default(),
            certificate: theirs.map(pem).unwrap_or_default(),
            labels: HashMap::new(),
        }),
        destination: Some(Peer {
            address: Some(address(&conn.local)),
            service: destination,
            principal: tls.map(|t| certificate(&t.local)).unwrap_or_default(),
            certificate: String::new(),
            labels: config.labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        }),
        tls_session: config.tls_session.then(|| TlsSession { sni: sni(conn).to_owned() }),
        ..AttributeContext::default()
    }
}

fn sni(conn: &ConnInfo) -> &str {
    let of_tls = conn.tls.as_deref().map(|t| &*t.sni).filter(|sni| !sni.is_empty());
    of_tls.unwrap_or(&conn.sni)
}

/// The first URI name, else the first DNS name, else the subject.
fn principal(certificate: &PeerCertificate) -> String {
    let names = certificate.uri_sans.first().or(certificate.dns_sans.first());
    names.unwrap_or(&certificate.subject).clone()
}

fn address(of: &PeerAddr) -> core::Address {
    use core::address::Address as A;
    use core::socket_address::PortSpecifier;
    let address = match of {
        PeerAddr::Ip(ip) => A::SocketAddress(core::SocketAddress {
            address: ip.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(u32::from(ip.port()))),
            ..core::SocketAddress::default()
        }),
        PeerAddr::Pipe(path) => A::Pipe(core::Pipe { path: path.to_string(), mode: 0 }),
    };
    core::Address { address: Some(address) }
}

/// The metadata of these namespaces; `find` knows where they are.
pub(crate) fn metadata<'a>(namespaces: &[String], find: impl Fn(&str) -> Option<&'a Value>) -> core::Metadata {
    let of = |name: &String| Some((name.clone(), wkt::to_struct(find(name)?.as_object()?)));
    core::Metadata { filter_metadata: namespaces.iter().filter_map(of).collect(), ..core::Metadata::default() }
}

/// Bytes as text: each byte that is none becomes `!`, as in Envoy.
pub(crate) fn text(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        out.extend(std::iter::repeat_n('!', chunk.invalid().len()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_marked() {
        assert_eq!(text(b"a\xff\xfeb\xc3"), "a!!b!");
        assert_eq!(text("äb".as_bytes()), "äb");
    }

    #[test]
    fn a_certificate_has_one_name() {
        let mut certificate = PeerCertificate { subject: "CN=c".into(), ..PeerCertificate::default() };
        assert_eq!(principal(&certificate), "CN=c");
        certificate.dns_sans = vec!["c.example".into(), "d.example".into()];
        assert_eq!(principal(&certificate), "c.example");
        certificate.uri_sans = vec!["spiffe://c".into()];
        assert_eq!(principal(&certificate), "spiffe://c");
    }
}
