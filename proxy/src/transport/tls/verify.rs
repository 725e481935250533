//! The library's verifier traits over our [`Validator`].
//!
//! Runs on: workers, within a handshake; see [`super::observed`].

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::facts::FactsCache;
use super::observed::with_current;
use super::trust::{self, Purpose};
use super::validator::Validator;

/// Signature algorithms of certificates and handshakes.
pub(super) fn supported() -> WebPkiSupportedAlgorithms {
    aws_lc_rs::default_provider().signature_verification_algorithms
}

/// Checks the peer of one side.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    validator: Arc<Validator>,
    facts: Arc<FactsCache>,
    purpose: Purpose,
    /// A client without a certificate is refused.
    mandatory: bool,
    subjects: Vec<DistinguishedName>,
    schemes: Vec<SignatureScheme>,
}

impl PeerVerifier {
    /// A verifier of clients. `required`: `require_client_certificate`.
    pub(super) fn of_clients(
        validator: Arc<Validator>,
        facts: Arc<FactsCache>,
        required: bool,
        schemes: Vec<SignatureScheme>,
    ) -> Self {
        let mandatory = validator.needs_certificate(required);
        let subjects = validator.subjects();
        PeerVerifier { validator, facts, purpose: Purpose::Client, mandatory, subjects, schemes: or_default(schemes) }
    }

    /// A verifier of servers.
    pub(super) fn of_servers(validator: Arc<Validator>, facts: Arc<FactsCache>, schemes: Vec<SignatureScheme>) -> Self {
        PeerVerifier {
            validator,
            facts,
            purpose: Purpose::Server,
            mandatory: true,
            subjects: Vec::new(),
            schemes: or_default(schemes),
        }
    }

    /// Checks a chain, and leaves in the handshake's exchange what came of it.
    pub(super) fn check(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        let facts = self.facts.facts(chain);
        with_current(|observed| {
            observed.peer = facts.clone();
            if !self.validator.wants_certificate() {
                return Ok(());
            }
            let facts = facts.ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
            match self.validator.verify(chain, &facts, self.purpose, &observed.names, now) {
                Ok(verdict) => {
                    observed.verdict = Some(verdict);
                    Ok(())
                }
                Err(refusal) => {
                    let error = Error::InvalidCertificate(refusal.error.clone());
                    observed.refusal = Some(refusal);
                    Err(error)
                }
            }
        })
    }

    fn check_scheme(&self, dss: &DigitallySignedStruct) -> Result<(), Error> {
        if !self.schemes.contains(&dss.scheme) {
            return Err(rustls::PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        with_current(|observed| observed.signature = Some(dss.scheme));
        Ok(())
    }

    fn tls12(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_scheme(dss)?;
        let result = verify_tls12_signature(message, cert, dss, &supported());
        old_certificate(result, message, cert, dss, usize::MAX)
    }

    fn tls13(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_scheme(dss)?;
        let result = verify_tls13_signature(message, cert, dss, &supported());
        // A scheme of TLS 1.3 means one algorithm, the first.
        old_certificate(result, message, cert, dss, 1)
    }
}

/// The library cannot parse certificates of X.509 version 1, and so not take their keys out of them.
fn old_certificate(
    result: Result<HandshakeSignatureValid, Error>,
    message: &[u8],
    cert: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
    tried: usize,
) -> Result<HandshakeSignatureValid, Error> {
    let Err(Error::InvalidCertificate(CertificateError::Other(_) | CertificateError::BadEncoding)) = &result else {
        return result;
    };
    let algorithms = supported();
    let fits = algorithms.mapping.iter().find(|(s, _)| *s == dss.scheme).map_or(&[][..], |(_, a)| *a);
    match trust::handshake_signature(cert, message, dss.signature(), &fits[..fits.len().min(tried)]) {
        Some(()) => Ok(HandshakeSignatureValid::assertion()),
        None => result,
    }
}

fn or_default(schemes: Vec<SignatureScheme>) -> Vec<SignatureScheme> {
    if schemes.is_empty() { supported().supported_schemes() } else { schemes }
}

fn joined(end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Vec<CertificateDer<'static>> {
    std::iter::once(end_entity).chain(intermediates).map(|c| c.clone().into_owned()).collect()
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(&joined(end_entity, intermediates), now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls12(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

impl ServerCertVerifier for PeerVerifier {
    /// The name is not looked at: what must be in the certificate is in the handshake's exchange.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(&joined(end_entity, intermediates), now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls12(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}
