//! Certificate requests: what is taken from them, and what is refused.
//!
//! Only the public key counts, once the request's signature has proven that its owner asks. Names in it can only contradict.

use rcgen::SubjectPublicKeyInfo;
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;

use super::Identity;

/// RSA keys from here on are taken.
const MIN_RSA_BITS: usize = 2048;
/// Up to here: verifying costs with the length.
const MAX_RSA_BITS: usize = 8192;

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// It cannot be read, or is not signed by its key.
    #[error("the certificate request {0}")]
    Malformed(&'static str),
    /// Its key is of no use.
    #[error(
        "the key of the certificate request {0}; use ECDSA on P-256 or P-384, Ed25519, or RSA with at least 2048 bits"
    )]
    Key(&'static str),
    /// It asks for another name.
    #[error("the certificate request is for {asked:?}, but its caller is {caller}")]
    Names {
        /// What it asks for.
        asked: String,
        /// Who asks.
        caller: String,
    },
}

/// The key of a request that `caller` may have a certificate for.
///
/// # Errors
/// A request that cannot be read, that its key has not signed, or that is for somebody else.
pub(super) fn verified_key(pem: &str, caller: &Identity) -> Result<SubjectPublicKeyInfo, CsrError> {
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| CsrError::Malformed("is not PEM of a CERTIFICATE REQUEST"))?;
    let (rest, request) =
        X509CertificationRequest::from_der(&der).map_err(|_| CsrError::Malformed("is not PKCS #10"))?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed("has something after it"));
    }
    let spki = &request.certification_request_info.subject_pki;
    check_key(&spki.parsed().map_err(|_| CsrError::Key("cannot be read"))?)?;
    request.verify_signature().map_err(|_| CsrError::Malformed("is not signed by its key"))?;
    check_names(&request, caller)?;
    SubjectPublicKeyInfo::from_der(spki.raw).map_err(|_| CsrError::Key("is of a sort that is not taken"))
}

fn check_key(key: &PublicKey<'_>) -> Result<(), CsrError> {
    match key {
        PublicKey::RSA(key) if key.key_size() < MIN_RSA_BITS => Err(CsrError::Key("is too short")),
        PublicKey::RSA(key) if key.key_size() > MAX_RSA_BITS => Err(CsrError::Key("is too long")),
        PublicKey::DSA(_) | PublicKey::GostR3410(_) | PublicKey::GostR3410_2012(_) => {
            Err(CsrError::Key("is of a sort that is not taken"))
        }
        // Which curve decides what is known of signatures: others have none that verifies.
        _ => Ok(()),
    }
}

fn check_names(request: &X509CertificationRequest<'_>, caller: &Identity) -> Result<(), CsrError> {
    let own = caller.to_string();
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            if !matches!(name, GeneralName::URI(uri) if *uri == own) {
                let asked = match name {
                    GeneralName::URI(text) | GeneralName::DNSName(text) | GeneralName::RFC822Name(text) => {
                        text.chars().take(256).collect()
                    }
                    _ => "a name that is no URI".to_owned(),
                };
                return Err(CsrError::Names { asked, caller: own });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    /// A request of a key for these URIs.
    pub(in crate::ca) fn request(key: &KeyPair, uris: &[&str]) -> String {
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.serialize_request(key).unwrap().pem().unwrap()
    }

    fn caller() -> Identity {
        Identity::new("cluster.local", "default", "web").unwrap()
    }

    #[test]
    fn keys_of_the_usual_sorts_are_taken() {
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            for uris in [&[][..], &["spiffe://cluster.local/ns/default/sa/web"]] {
                let found = verified_key(&request(&key, uris), &caller()).unwrap();
                assert_eq!(rcgen::PublicKeyData::der_bytes(&found), key.public_key_raw());
            }
        }
        let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
        assert!(verified_key(&request(&rsa, &[]), &caller()).is_ok());
    }

    #[test]
    fn a_request_for_somebody_else_is_refused() {
        let key = KeyPair::generate().unwrap();
        for uris in [
            &["spiffe://cluster.local/ns/default/sa/admin"][..],
            &["spiffe://cluster.local/ns/default/sa/web", "spiffe://cluster.local/ns/default/sa/admin"],
        ] {
            let error = verified_key(&request(&key, uris), &caller()).unwrap_err();
            assert!(error.to_string().contains("sa/admin"), "{error}");
        }
    }

    #[test]
    fn a_request_that_its_key_has_not_signed_is_refused() {
        let pem = request(&KeyPair::generate().unwrap(), &[]);
        let mut der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec();
        let last = der.len() - 1;
        der[last] ^= 1;
        let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &der);
        let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n");
        assert_eq!(verified_key(&pem, &caller()).unwrap_err(), CsrError::Malformed("is not signed by its key"));
        assert!(verified_key("", &caller()).is_err());
        assert!(
            verified_key("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", &caller())
                .is_err()
        );
    }
}
