//! Certificates made for one test run, and rustls configurations for both sides of a proxy.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, anyhow};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rcgen::{KeyUsagePurpose, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};

/// A certificate with its key, both PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

/// All certificates of a test run.
#[derive(Debug)]
pub struct Material {
    /// The authority that signed `identities`.
    pub ca: String,
    /// By file name: `server` (for `localhost` and `127.0.0.1`), `other` (for `other.example`), `googleapis` (for
    /// `www.googleapis.com`), `client` (SPIFFE
    /// `spiffe://example/client`), `nameless` (nothing but a subject), `web` (the workload `web` of namespace `default`),
    /// `expired`, `stranger` (a client of another authority).
    pub identities: Vec<(&'static str, Identity)>,
}

/// The material, made on first use.
///
/// # Errors
/// When key generation fails.
pub fn material() -> Result<&'static Material> {
    static MATERIAL: OnceLock<Result<Material, String>> = OnceLock::new();
    let made = MATERIAL.get_or_init(|| make().map_err(|error| format!("{error:#}")));
    made.as_ref().map_err(|error| anyhow!("certificates: {error}"))
}

fn authority(name: &str) -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate()?).context("authority")
}

/// One that was good until 2001.
fn expired(ca: &CertifiedIssuer<'static, KeyPair>) -> Result<Identity> {
    let mut params = CertificateParams::new(vec!["expired.example".to_owned()])?;
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, ca)?;
    Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn leaf(ca: &CertifiedIssuer<'static, KeyPair>, name: &str, dns: &[&str], uri: Option<&str>) -> Result<Identity> {
    let names: Vec<String> = dns.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names)?;
    if let Some(uri) = uri {
        params.subject_alt_names.push(SanType::URI(uri.try_into()?));
    }
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, ca)?;
    Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn make() -> Result<Material> {
    let ca = authority("Weft tests")?;
    let stranger = authority("Strangers")?;
    let identities = vec![
        ("server", leaf(&ca, "server", &["localhost", "127.0.0.1"], None)?),
        ("other", leaf(&ca, "other", &["other.example", "*.wild.example"], None)?),
        ("googleapis", leaf(&ca, "googleapis", &["www.googleapis.com"], None)?),
        ("client", leaf(&ca, "client", &["client.example"], Some("spiffe://example/client"))?),
        ("nameless", leaf(&ca, "nameless", &[], None)?),
        ("expired", expired(&ca)?),
        ("web", leaf(&ca, "web", &[], Some("spiffe://cluster.local/ns/default/sa/web"))?),
        ("stranger", leaf(&stranger, "stranger", &["client.example"], Some("spiffe://example/client"))?),
    ];
    Ok(Material { ca: ca.pem(), identities })
}

impl Material {
    /// Writes `ca.pem`, `<name>.pem` and `<name>.key` into a directory.
    ///
    /// # Errors
    /// When writing fails.
    pub fn write(&self, dir: &Path) -> Result<()> {
        std::fs::write(dir.join("ca.pem"), &self.ca)?;
        for (name, identity) in &self.identities {
            std::fs::write(dir.join(format!("{name}.pem")), &identity.certificate)?;
            std::fs::write(dir.join(format!("{name}.key")), &identity.key)?;
        }
        Ok(())
    }

    /// An identity's certificate and key as PEM.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn pem(&self, name: &str) -> Result<&Identity> {
        self.identities.iter().find(|(key, _)| *key == name).map(|(_, found)| found).context("no such identity")
    }

    fn identity(&self, name: &str) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let found = self.pem(name)?;
        let chain = CertificateDer::pem_slice_iter(found.certificate.as_bytes()).collect::<Result<_, _>>()?;
        Ok((chain, PrivateKeyDer::from_pem_slice(found.key.as_bytes())?))
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A server that shows the `server` certificate and asks for none.
///
/// # Errors
/// When the material is unusable.
pub fn server(alpn: &[&str]) -> Result<Arc<ServerConfig>> {
    server_as("server", alpn)
}

/// A server that shows this certificate and asks for none.
///
/// # Errors
/// When there is no such identity.
pub fn server_as(identity: &str, alpn: &[&str]) -> Result<Arc<ServerConfig>> {
    let (chain, key) = material()?.identity(identity)?;
    let versions = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let mut config = versions.with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

/// A client that looks at no certificate, so that the test can: it may show one of the identities.
///
/// # Errors
/// When the material is unusable.
pub fn client(identity: Option<&str>, alpn: &[&str]) -> Result<Arc<ClientConfig>> {
    let identity = identity.map(|name| material()?.identity(name)).transpose()?;
    connecting(identity, alpn)
}

/// The same, which shows this certificate.
///
/// # Errors
/// When the key is of no use.
pub fn client_with(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    alpn: &[&str],
) -> Result<Arc<ClientConfig>> {
    connecting(Some((chain, key)), alpn)
}

fn connecting(
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    alpn: &[&str],
) -> Result<Arc<ClientConfig>> {
    let versions = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let trusting = versions.dangerous().with_custom_certificate_verifier(Arc::new(Trusting));
    let mut config = match identity {
        None => trusting.with_no_client_auth(),
        Some((chain, key)) => trusting.with_client_auth_cert(chain, key)?,
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// The common name a certificate was made with.
#[must_use]
pub fn common_name(certificate: &CertificateDer<'_>) -> &'static str {
    let Ok(material) = material() else { return "?" };
    let same = |name: &str| material.identity(name).is_ok_and(|(chain, _)| chain.first() == Some(certificate));
    material.identities.iter().map(|(name, _)| *name).find(|name| same(name)).unwrap_or("unknown")
}

#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _end: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
