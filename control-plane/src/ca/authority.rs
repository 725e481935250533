//! One signing certificate with its key: a root of our own, or what the operator gives.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{CaError, Identity};

/// How long before they are made certificates are good, for clocks that are behind (Istio's).
const SKEW: Duration = Duration::from_secs(120);
/// How long a root of our own is good (Istio's default).
const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Who signs.
pub(super) struct Authority {
    /// The beginning of the digest of its certificate.
    pub(super) name: String,
    issuer: Issuer<'static, KeyPair>,
    /// What is sent after a leaf: nothing for a root.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// Whom to trust to trust it.
    pub(super) roots: Vec<CertificateDer<'static>>,
    not_after: SystemTime,
}

/// A certificate that was made.
pub(super) struct Issued {
    pub(super) der: CertificateDer<'static>,
    pub(super) not_after: SystemTime,
}

/// Whom a certificate is for.
pub(super) enum Subject<'a> {
    Workload(&'a Identity),
    /// A server, by names and addresses.
    Server(&'a [String]),
}

impl Authority {
    /// A new root; its certificate and key as PEM.
    pub(super) fn self_signed(trust_domain: &str, now: SystemTime) -> Result<(String, String), CaError> {
        let failed = |error: rcgen::Error| CaError::Signing(error.to_string());
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::default();
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, trust_domain);
        // Two roots of one name but different keys make verifiers try one after the other.
        let serial = serial();
        name.push(DnType::CommonName, format!("Weft root {}", hex(&serial[..4])));
        params.distinguished_name = name;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        params.not_before = OffsetDateTime::from(now - SKEW);
        params.not_after = OffsetDateTime::from(now + ROOT_LIFE);
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// Reads an authority: its certificate and key, what lies between it and the roots, and the roots, all PEM. Without roots
    /// it is one itself.
    ///
    /// # Errors
    /// What cannot be read or does not fit together, by the name of its file.
    pub(super) fn from_pem(certificate: &str, key: &str, chain: &str, roots: &str) -> Result<Self, CaError> {
        let bad = |file: &'static str, reason: &str| CaError::Material { file, reason: reason.to_owned() };
        let all = certificates("ca-cert.pem", certificate)?;
        let der = all.first().cloned().ok_or_else(|| bad("ca-cert.pem", "holds no certificate"))?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| bad("ca-cert.pem", "cannot be read"))?;
        if !parsed.is_ca() {
            return Err(bad("ca-cert.pem", "is no authority: its basic constraints do not say CA"));
        }
        let key = KeyPair::from_pem(key).map_err(|_| bad("ca-key.pem", "holds no private key that can be used"))?;
        if key.public_key_raw() != &*parsed.public_key().subject_public_key.data {
            return Err(bad("ca-key.pem", "does not belong to ca-cert.pem"));
        }
        let not_after: SystemTime = parsed.validity().not_after.to_datetime().into();
        if not_after <= SystemTime::now() {
            return Err(bad("ca-cert.pem", "has expired"));
        }
        let roots = certificates("root-cert.pem", roots)?;
        let is_root = roots.is_empty() || roots.contains(&der);
        let mut between = certificates("cert-chain.pem", chain)?;
        if !is_root && !between.contains(&der) {
            between.insert(0, der.clone());
        }
        if !is_root && !leads_to(&der, &between, &roots) {
            return Err(bad("cert-chain.pem", "does not lead from ca-cert.pem to root-cert.pem"));
        }
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|error| bad("ca-cert.pem", &error.to_string()))?;
        let chain = if is_root { Vec::new() } else { between };
        let roots = if roots.is_empty() { vec![der.clone()] } else { roots };
        Ok(Self { name: fingerprint(&der), issuer, chain, roots, not_after })
    }

    /// Signs a certificate for a key, good for `life` from `now`, but never longer than this authority.
    pub(super) fn issue(
        &self,
        subject: &Subject<'_>,
        key: &impl PublicKeyData,
        life: Duration,
        now: SystemTime,
    ) -> Result<Issued, CaError> {
        let failed = |error: rcgen::Error| CaError::Signing(error.to_string());
        if self.not_after <= now {
            return Err(CaError::Signing("the authority's own certificate has expired; rotate the root".to_owned()));
        }
        let not_after = (now + life).min(self.not_after);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serial_number = Some(SerialNumber::from_slice(&serial()));
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = OffsetDateTime::from(now - SKEW);
        params.not_after = OffsetDateTime::from(not_after);
        params.subject_alt_names = match subject {
            Subject::Workload(identity) => {
                vec![SanType::URI(identity.to_string().try_into().map_err(failed)?)]
            }
            Subject::Server(names) => {
                let name = |name: &String| match name.parse::<IpAddr>() {
                    Ok(address) => Ok(SanType::IpAddress(address)),
                    Err(_) => name.as_str().try_into().map(SanType::DnsName),
                };
                names.iter().map(name).collect::<Result<_, _>>().map_err(failed)?
            }
        };
        let made = params.signed_by(key, &self.issuer).map_err(failed)?;
        Ok(Issued { der: made.der().clone(), not_after })
    }
}

/// Whether a certificate is signed by a root, by way of others. While files are replaced one by one it may not be.
fn leads_to(der: &[u8], between: &[CertificateDer<'_>], roots: &[CertificateDer<'_>]) -> bool {
    let signs = |issuer: &[u8], subject: &X509Certificate<'_>| {
        X509Certificate::from_der(issuer).is_ok_and(|(_, issuer)| {
            issuer.subject() == subject.issuer() && subject.verify_signature(Some(issuer.public_key())).is_ok()
        })
    };
    let mut current = der;
    // Each step takes another one of those between.
    for _ in 0..=between.len() {
        let Ok((_, parsed)) = X509Certificate::from_der(current) else { return false };
        if roots.iter().any(|root| signs(root, &parsed)) {
            return true;
        }
        match between.iter().find(|next| &***next != current && signs(next, &parsed)) {
            Some(next) => current = next,
            None => return false,
        }
    }
    false
}

/// The certificates of a PEM text.
pub(super) fn certificates(file: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, CaError> {
    let all = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|error| CaError::Material { file, reason: format!("is no PEM: {error}") })?;
    if all.iter().any(|der| X509Certificate::from_der(der).is_err()) {
        return Err(CaError::Material { file, reason: "holds what is no certificate".to_owned() });
    }
    Ok(all)
}

/// Certificates as PEM.
pub(super) fn to_pem(all: &[CertificateDer<'_>]) -> String {
    use base64::Engine as _;
    let mut text = String::new();
    for der in all {
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in body.as_bytes().chunks(64) {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

/// The beginning of the digest of a certificate, as people compare them.
pub(super) fn fingerprint(der: &[u8]) -> String {
    hex(&aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der).as_ref()[..8])
}

/// A serial number: positive, and nothing that can be guessed.
fn serial() -> [u8; 16] {
    let mut serial: [u8; 16] = rand::random();
    serial[0] = serial[0] & 0x7f | 0x40;
    serial
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
