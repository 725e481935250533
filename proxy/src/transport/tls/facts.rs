//! What a certificate says: the facts that logs, headers and policy use.
//!
//! Runs on: workers for peers' certificates, once per certificate (see [`FactsCache`]); the control thread for our own.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use super::dn;
use crate::stream_info::PeerCertificate;

/// Reads a chain, leaf first. `None`: there is no leaf, or it is not a certificate.
pub(super) fn read(chain: &[CertificateDer<'_>]) -> Option<PeerCertificate> {
    let leaf = chain.first()?;
    let (_, cert) = X509Certificate::from_der(leaf).ok()?;
    let mut facts = PeerCertificate {
        subject: dn::rfc2253(cert.subject()),
        issuer: dn::rfc2253(cert.issuer()),
        serial: serial(cert.raw_serial()),
        sha256: hex(digest::digest(&digest::SHA256, leaf).as_ref()),
        sha1: hex(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, leaf).as_ref()),
        not_before: system_time(cert.validity().not_before),
        not_after: system_time(cert.validity().not_after),
        chain_der: chain.iter().map(|c| c.to_vec()).collect(),
        ..PeerCertificate::default()
    };
    let names = cert.subject_alternative_name().ok().flatten().map(|e| &e.value.general_names);
    for name in names.into_iter().flatten() {
        match name {
            GeneralName::DNSName(n) => facts.dns_sans.push((*n).to_owned()),
            GeneralName::URI(n) => facts.uri_sans.push((*n).to_owned()),
            GeneralName::RFC822Name(n) => facts.email_sans.push((*n).to_owned()),
            GeneralName::IPAddress(octets) => facts.ip_sans.extend(ip(octets).map(|a| a.to_string())),
            _ => {}
        }
    }
    Some(facts)
}

/// The common name of the subject, where it is the only name a certificate has.
pub(super) fn common_name(leaf: &CertificateDer<'_>) -> Option<String> {
    let (_, cert) = X509Certificate::from_der(leaf).ok()?;
    if cert.subject_alternative_name().ok().flatten().is_some() {
        return None;
    }
    let name = cert.subject().iter_common_name().next()?.as_str().ok()?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// Lower-case hex.
pub(super) fn hex(octets: &[u8]) -> String {
    octets.iter().fold(String::with_capacity(octets.len() * 2), |mut out, b| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}

fn serial(raw: &[u8]) -> String {
    let first = raw.iter().position(|b| *b != 0).unwrap_or(raw.len());
    if first == raw.len() { "0".to_owned() } else { hex(&raw[first..]) }
}

fn ip(octets: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(octets).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

/// `None`: before 1970 or beyond what the clock can hold.
pub(super) fn system_time(t: ASN1Time) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(t.timestamp()).ok()?))
}

/// Facts of the peers' certificates seen lately: a mesh has few identities and many connections.
#[derive(Debug, Default)]
pub(super) struct FactsCache(Mutex<HashMap<[u8; 32], Arc<PeerCertificate>>>);

/// Chains kept; at some 4 KiB each, 2 MiB at the very most per TLS context.
const CACHED_CHAINS: usize = 512;

impl FactsCache {
    /// The facts of this chain. `None` as in [`read`].
    pub(super) fn facts(&self, chain: &[CertificateDer<'_>]) -> Option<Arc<PeerCertificate>> {
        let mut hash = digest::Context::new(&digest::SHA256);
        for cert in chain {
            hash.update(&cert.len().to_be_bytes());
            hash.update(cert);
        }
        let key = <[u8; 32]>::try_from(hash.finish().as_ref()).ok()?;
        if let Some(known) = self.0.lock().get(&key) {
            return Some(Arc::clone(known));
        }
        let facts = Arc::new(read(chain)?);
        let mut cache = self.0.lock();
        if cache.len() >= CACHED_CHAINS {
            // Rotation fills it with certificates nobody presents any more: starting over is cheap.
            cache.clear();
        }
        cache.insert(key, Arc::clone(&facts));
        Some(facts)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType, SerialNumber};

    use super::*;

    #[test]
    fn reads_what_is_asked_of_certificates() {
        let mut params = CertificateParams::new(vec!["a.example.com".into(), "10.0.0.1".into()]).unwrap();
        params.subject_alt_names.push(SanType::URI("spiffe://td/ns/a/sa/b".try_into().unwrap()));
        params.subject_alt_names.push(SanType::Rfc822Name("x@example.com".try_into().unwrap()));
        params.serial_number = Some(SerialNumber::from_slice(&[0, 0x0a, 0xbc]));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Acme, Inc");
        params.distinguished_name.push(DnType::CommonName, "a");
        let cert = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let cache = FactsCache::default();
        let facts = cache.facts(&[cert.der().clone()]).unwrap();
        assert_eq!(facts.subject, "CN=a,O=Acme\\, Inc");
        assert_eq!(facts.issuer, facts.subject);
        assert_eq!(facts.serial, "0abc");
        assert_eq!(facts.dns_sans, ["a.example.com"]);
        assert_eq!(facts.ip_sans, ["10.0.0.1"]);
        assert_eq!(facts.uri_sans, ["spiffe://td/ns/a/sa/b"]);
        assert_eq!(facts.email_sans, ["x@example.com"]);
        assert_eq!(facts.sha256.len(), 64);
        assert_eq!(facts.sha1.len(), 40);
        assert!(facts.not_before < facts.not_after);
        assert!(Arc::ptr_eq(&facts, &cache.facts(&[cert.der().clone()]).unwrap()));
        assert!(cache.facts(&[CertificateDer::from(vec![0x30, 0])]).is_none());
    }
}
