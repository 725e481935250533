//! Our own certificates with their keys.
//!
//! Runs on: the control thread; what it builds is used by workers.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::facts;
use super::inputs::{Inputs, name_of};
use crate::config::{ConfigError, TlsCertificate};
use crate::stream_info::PeerCertificate;

/// A certificate chain with its key, ready for handshakes.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) facts: Arc<PeerCertificate>,
    /// The chain's file, or `<inline>`.
    pub(super) path: String,
    /// Names it serves, lower case: DNS names, or else the common name.
    pub(super) names: Vec<String>,
    pub(super) kind: KeyKind,
}

/// What sort of key a certificate has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyKind {
    /// RSA, and anything else every client takes.
    Rsa,
    /// An elliptic curve key; the scheme names the curve.
    Ecdsa(SignatureScheme),
}

/// Reads a certificate and the key that belongs to it.
///
/// # Errors
/// Either cannot be read or parsed, or they do not belong together. The message names the file, never its contents.
pub(super) fn load(
    config: &TlsCertificate,
    provider: &CryptoProvider,
    schemes: &[SignatureScheme],
    inputs: &mut Inputs,
    field: &str,
) -> Result<Identity, ConfigError> {
    if let Some(dir) = &config.watched_directory {
        inputs.watch_directory(dir);
    }
    let chain_field = format!("{field}.certificate_chain");
    let chain_path = name_of(&config.chain);
    let pem = inputs.read(&config.chain, &chain_field)?;
    let bad_chain = || ConfigError::at(&chain_field, format!("Failed to load certificate chain from {chain_path}"));
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|_| bad_chain())?;
    let leaf = chain.first().ok_or_else(bad_chain)?;
    let facts = Arc::new(facts::read(&chain).ok_or_else(bad_chain)?);
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| bad_chain())?;

    let key = load_key(config, provider, inputs, field)?;
    let spki = key.public_key().map(|k| k.as_ref().to_vec());
    if spki.is_some_and(|spki| spki != parsed.public_key().raw) {
        return Err(ConfigError::at(
            format!("{field}.private_key"),
            format!(
                "Failed to load private key from {}: it does not belong to the certificate in {chain_path}",
                name_of(&config.private_key)
            ),
        ));
    }
    let names = match facts::common_name(leaf) {
        Some(name) => vec![name.to_ascii_lowercase()],
        None => facts.dns_sans.iter().map(|n| n.to_ascii_lowercase()).collect(),
    };
    let kind = kind_of(&*key);
    let key = if schemes.is_empty() { key } else { Arc::new(Restricted { key, schemes: schemes.to_vec() }) };
    let mut certified = CertifiedKey::new(chain, key);
    if let Some(staple) = &config.ocsp_staple {
        certified.ocsp = Some(inputs.read(staple, &format!("{field}.ocsp_staple"))?.to_vec());
    }
    Ok(Identity { key: Arc::new(certified), facts, path: chain_path.to_owned(), names, kind })
}

fn load_key(
    config: &TlsCertificate,
    provider: &CryptoProvider,
    inputs: &mut Inputs,
    field: &str,
) -> Result<Arc<dyn SigningKey>, ConfigError> {
    let field = format!("{field}.private_key");
    let error = |cause: &str| {
        ConfigError::at(
            &field,
            format!("Failed to load private key from {}, Cause: {cause}", name_of(&config.private_key)),
        )
    };
    let pem = inputs.read(&config.private_key, &field)?;
    let password = config.password.as_ref().map(|p| inputs.read(p, &format!("{field}.password"))).transpose()?;
    let key = parse_key(&pem, password.as_deref()).map_err(error)?;
    // The library's error may quote what it could not parse: only say that it could not.
    provider.key_provider.load_private_key(key).map_err(|_| error("unsupported or malformed key"))
}

fn parse_key(pem: &[u8], password: Option<&[u8]>) -> Result<PrivateKeyDer<'static>, &'static str> {
    for section in x509_parser::pem::Pem::iter_from_buffer(pem) {
        let section = section.map_err(|_| "malformed PEM")?;
        let der = section.contents;
        return Ok(match section.label.as_str() {
            "PRIVATE KEY" => PrivatePkcs8KeyDer::from(der).into(),
            "EC PRIVATE KEY" => PrivateSec1KeyDer::from(der).into(),
            "RSA PRIVATE KEY" if !legacy_encryption(pem) => PrivatePkcs1KeyDer::from(der).into(),
            "RSA PRIVATE KEY" => return Err("traditional PEM encryption is not supported: use PKCS#8"),
            "ENCRYPTED PRIVATE KEY" => {
                let password = password.ok_or("the key is encrypted and no password is given")?;
                // Files written with an editor end in a newline that is no part of the password.
                let password = password.strip_suffix(b"\n").unwrap_or(password);
                PrivatePkcs8KeyDer::from(super::pkcs8::decrypt(&der, password)?).into()
            }
            _ => continue,
        });
    }
    Err(if legacy_encryption(pem) { "traditional PEM encryption is not supported: use PKCS#8" } else { "no key in it" })
}

fn legacy_encryption(pem: &[u8]) -> bool {
    memchr::memmem::find(pem, b"Proc-Type: 4,ENCRYPTED").is_some()
}

fn kind_of(key: &dyn SigningKey) -> KeyKind {
    if key.algorithm() != SignatureAlgorithm::ECDSA {
        return KeyKind::Rsa;
    }
    let curves = [
        SignatureScheme::ECDSA_NISTP256_SHA256,
        SignatureScheme::ECDSA_NISTP384_SHA384,
        SignatureScheme::ECDSA_NISTP521_SHA512,
    ];
    curves.into_iter().find(|s| key.choose_scheme(&[*s]).is_some()).map_or(KeyKind::Rsa, KeyKind::Ecdsa)
}

/// A key that signs with configured algorithms only.
#[derive(Debug)]
struct Restricted {
    key: Arc<dyn SigningKey>,
    schemes: Vec<SignatureScheme>,
}

impl SigningKey for Restricted {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let both: Vec<_> = self.schemes.iter().copied().filter(|s| offered.contains(s)).collect();
        both.iter().find_map(|s| self.key.choose_scheme(&[*s]))
    }

    fn public_key(&self) -> Option<rustls::pki_types::SubjectPublicKeyInfoDer<'_>> {
        self.key.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm()
    }
}
