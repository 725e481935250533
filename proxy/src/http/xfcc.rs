//! `x-forwarded-client-cert`: what a request says, and is made to say, about the certificate its client presented.
//!
//! **Source**: `HttpConnectionManager.forward_client_cert_details`, `set_current_client_cert_details`. Runs on: workers.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue};

use crate::config::{ClientCertDetails, ForwardClientCert};
use crate::http::HeaderMap;
use crate::stream_info::{PeerCertificate, TlsInfo};

const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Removes, keeps, replaces or extends the header of a request that came over `tls`.
pub fn apply(headers: &mut HeaderMap, mode: ForwardClientCert, details: &ClientCertDetails, tls: Option<&TlsInfo>) {
    if mode == ForwardClientCert::AlwaysForwardOnly {
        return;
    }
    // A certificate presented is enough, as in Envoy: whether it must be valid is the listener's business.
    let certified = tls.and_then(|t| Some((t, t.peer.as_deref()?)));
    let Some((tls, peer)) = certified.filter(|_| mode != ForwardClientCert::Sanitize) else {
        headers.remove(XFCC);
        return;
    };
    if mode == ForwardClientCert::ForwardOnly {
        return;
    }
    let mut text = Vec::new();
    if mode == ForwardClientCert::AppendForward {
        for old in headers.get_all(XFCC) {
            text.extend_from_slice(old.as_bytes());
            text.push(b',');
        }
    }
    text.extend_from_slice(element(details, tls.local.as_deref(), peer).as_bytes());
    match HeaderValue::from_bytes(&text) {
        Ok(value) => headers.insert(XFCC, value),
        // A name that no header can hold must not leave the client's own claim standing.
        Err(_) => headers.remove(XFCC),
    };
}

/// This hop's element, keys in Envoy's order.
fn element(details: &ClientCertDetails, local: Option<&PeerCertificate>, peer: &PeerCertificate) -> String {
    let mut parts = Vec::new();
    parts.extend(local.iter().flat_map(|l| &l.uri_sans).map(|uri| format!("By={uri}")));
    if !peer.sha256.is_empty() {
        parts.push(format!("Hash={}", peer.sha256));
    }
    if details.subject {
        parts.push(format!("Subject=\"{}\"", peer.subject));
    }
    if details.cert
        && let Some(leaf) = peer.chain_der.first()
    {
        parts.push(format!("Cert=\"{}\"", url_pem(leaf)));
    }
    if details.chain && !peer.chain_der.is_empty() {
        let chain: String = peer.chain_der.iter().map(|der| url_pem(der)).collect();
        parts.push(format!("Chain=\"{chain}\""));
    }
    if details.uri {
        parts.extend(peer.uri_sans.iter().map(|uri| format!("URI={uri}")));
        if peer.uri_sans.is_empty() {
            parts.push("URI=".to_owned());
        }
    }
    if details.dns {
        parts.extend(peer.dns_sans.iter().map(|dns| format!("DNS={dns}")));
    }
    parts.join(";")
}

/// PEM, URL-encoded with the few escapes that Envoy uses.
pub(crate) fn url_pem(der: &[u8]) -> String {
    /// Characters of a PEM line (RFC 7468).
    const LINE: usize = 64;
    let base64 = STANDARD.encode(der);
    let mut out = String::with_capacity(base64.len() * 5 / 4 + 96);
    out.push_str("-----BEGIN%20CERTIFICATE-----%0A");
    for (i, c) in base64.chars().enumerate() {
        if i > 0 && i % LINE == 0 {
            out.push_str("%0A");
        }
        match c {
            '+' => out.push_str("%2B"),
            '/' => out.push_str("%2F"),
            '=' => out.push_str("%3D"),
            c => out.push(c),
        }
    }
    out.push_str("%0A-----END%20CERTIFICATE-----%0A");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use ForwardClientCert as F;

    const ALL: ClientCertDetails = ClientCertDetails { subject: true, cert: true, chain: true, dns: true, uri: true };

    fn tls() -> TlsInfo {
        let peer = PeerCertificate {
            subject: "CN=a,O=b".into(),
            sha256: "ab12".into(),
            uri_sans: vec!["spiffe://td/a".into(), "spiffe://td/b".into()],
            dns_sans: vec!["a.test".into(), "b.test".into()],
            chain_der: vec![vec![0xfb; 49], vec![1]],
            ..PeerCertificate::default()
        };
        let local = PeerCertificate { uri_sans: vec!["spiffe://td/me".into()], ..PeerCertificate::default() };
        TlsInfo { peer: Some(Arc::new(peer)), local: Some(Arc::new(local)), ..TlsInfo::default() }
    }

    fn result(mode: F, details: &ClientCertDetails, tls: Option<&TlsInfo>) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(XFCC, HeaderValue::from_static("By=x"));
        apply(&mut headers, mode, details, tls);
        headers.get(XFCC).map(|v| v.to_str().unwrap().to_owned())
    }

    #[test]
    fn modes() {
        let (with, without, plain) = (tls(), TlsInfo { peer: None, ..tls() }, ClientCertDetails::default());
        let ours = "By=spiffe://td/me;Hash=ab12";
        for (mode, certified, other) in [
            (F::Sanitize, None, None),
            (F::ForwardOnly, Some("By=x".to_owned()), None),
            (F::AppendForward, Some(format!("By=x,{ours}")), None),
            (F::SanitizeSet, Some(ours.to_owned()), None),
            (F::AlwaysForwardOnly, Some("By=x".to_owned()), Some("By=x".to_owned())),
        ] {
            assert_eq!(result(mode, &plain, Some(&with)), certified, "{mode:?}");
            assert_eq!(result(mode, &plain, Some(&without)), other, "{mode:?}");
            assert_eq!(result(mode, &plain, None), other, "{mode:?}");
        }
    }

    #[test]
    fn every_detail_in_order() {
        let text = result(F::SanitizeSet, &ALL, Some(&tls())).unwrap();
        let leaf = url_pem(&[0xfb; 49]);
        assert_eq!(
            text,
            format!(
                "By=spiffe://td/me;Hash=ab12;Subject=\"CN=a,O=b\";Cert=\"{leaf}\";Chain=\"{leaf}{}\";\
                 URI=spiffe://td/a;URI=spiffe://td/b;DNS=a.test;DNS=b.test",
                url_pem(&[1])
            )
        );
    }

    #[test]
    fn a_uri_is_named_even_where_there_is_none() {
        let peer = PeerCertificate { sha256: "ab".into(), ..PeerCertificate::default() };
        assert_eq!(element(&ALL, None, &peer), "Hash=ab;Subject=\"\";URI=");
    }

    #[test]
    fn pem_is_escaped_and_wrapped() {
        assert_eq!(url_pem(&[1]), "-----BEGIN%20CERTIFICATE-----%0AAQ%3D%3D%0A-----END%20CERTIFICATE-----%0A");
        assert_eq!(url_pem(&[0xfb, 0xff]).split("%0A").nth(1), Some("%2B%2F8%3D"));
        let lines = url_pem(&[0; 49]);
        assert_eq!(lines.split("%0A").nth(1).map(str::len), Some(64));
    }
}
