//! Keys, requests for certificates (PKCS #10, RFC 2986) and what comes back.

use std::time::SystemTime;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use super::Held;
use crate::config::KeyType;

/// `ecdsa-with-SHA256`, `ecdsa-with-SHA384` (RFC 5758), as encoded object identifiers.
const ECDSA_SHA256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const ECDSA_SHA384: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
/// `extensionRequest` (RFC 2985), `subjectAltName` (RFC 5280).
const EXTENSION_REQUEST: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];
const SUBJECT_ALT_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x11];

/// A fresh key.
pub(super) struct KeyPair {
    pair: EcdsaKeyPair,
    /// PKCS #8.
    private: Zeroizing<Vec<u8>>,
    signature: &'static [u8],
}

impl KeyPair {
    pub(super) fn generate(of: KeyType) -> Result<Self, String> {
        let failed = |_| "a key cannot be made".to_owned();
        let (algorithm, signature) = match of {
            KeyType::P256 => (&ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_SHA256),
            KeyType::P384 => (&ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_SHA384),
        };
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).map_err(failed)?;
        let private = Zeroizing::new(document.as_ref().to_vec());
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, &private).map_err(|_| "a key cannot be read".to_owned())?;
        Ok(KeyPair { pair, private, signature })
    }

    /// Its SubjectPublicKeyInfo.
    fn public(&self) -> Result<Vec<u8>, String> {
        let der: PublicKeyX509Der<'_> =
            self.pair.public_key().as_der().map_err(|_| "a public key cannot be written".to_owned())?;
        Ok(der.as_ref().to_vec())
    }

    /// A request for a certificate with this URI, as PEM.
    pub(super) fn request(&self, uri: &str) -> Result<String, String> {
        // GeneralName: uniformResourceIdentifier [6].
        let names = tagged(0x30, &[&tagged(0x86, &[uri.as_bytes()])]);
        let extension = tagged(0x30, &[SUBJECT_ALT_NAME, &[0x01, 0x01, 0xff], &tagged(0x04, &[&names])]);
        let attribute = tagged(0x30, &[EXTENSION_REQUEST, &tagged(0x31, &[&tagged(0x30, &[&extension])])]);
        let version = [0x02, 0x01, 0x00];
        let no_subject = [0x30, 0x00];
        let info = tagged(0x30, &[&version, &no_subject, &self.public()?, &tagged(0xa0, &[&attribute])]);
        let signature = self.pair.sign(&SystemRandom::new(), &info).map_err(|_| "signing failed".to_owned())?;
        let algorithm = tagged(0x30, &[self.signature]);
        let request = tagged(0x30, &[&info, &algorithm, &tagged(0x03, &[&[0], signature.as_ref()])]);
        Ok(String::from_utf8_lossy(&pem("CERTIFICATE REQUEST", &request)).into_owned())
    }
}

/// An element of DER.
fn tagged(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = vec![tag];
    if length < 0x80 {
        out.extend(u8::try_from(length));
    } else {
        let bytes = length.to_be_bytes();
        let first = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len() - 1);
        out.extend(u8::try_from(bytes.len() - first).map(|count| 0x80 | count));
        out.extend_from_slice(&bytes[first..]);
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// PEM; wiped when it is dropped.
fn pem(label: &str, der: &[u8]) -> Zeroizing<Vec<u8>> {
    let body = Zeroizing::new(STANDARD.encode(der));
    // Large enough that it is not moved, which would leave a copy behind.
    let mut text = Zeroizing::new(Vec::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 40));
    text.extend_from_slice(format!("-----BEGIN {label}-----\n").as_bytes());
    for line in body.as_bytes().chunks(64) {
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    text.extend_from_slice(format!("-----END {label}-----\n").as_bytes());
    text
}

/// What an authority has answered: the certificate, what lies between, and last the roots, each PEM.
pub(super) fn accept(given: &[String], key: KeyPair, uri: &str, version: u64) -> Result<Held, String> {
    let [chain @ .., roots] = given else { return Err("the authority has answered with no certificate".to_owned()) };
    if chain.is_empty() {
        return Err("the authority has given no roots along".to_owned());
    }
    let chain = chain.concat();
    let leaf = CertificateDer::from_pem_slice(chain.as_bytes()).map_err(|_| "the certificate is no PEM".to_owned())?;
    let (_, parsed) = X509Certificate::from_der(&leaf).map_err(|_| "the certificate cannot be read".to_owned())?;
    if parsed.public_key().raw != key.public()? {
        return Err("the certificate is for another key".to_owned());
    }
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    if !matches!(names, [GeneralName::URI(found)] if *found == uri) {
        return Err(format!("the certificate is not for {uri} alone"));
    }
    let not_after: SystemTime = parsed.validity().not_after.to_datetime().into();
    if CertificateDer::from_pem_slice(roots.as_bytes()).is_err() {
        return Err("the roots are no PEM".to_owned());
    }
    Ok(Held {
        chain: chain.into(),
        key: Bytes::from_owner(pem("PRIVATE KEY", &key.private)),
        roots: roots.clone().into(),
        not_after,
        version,
    })
}
