//! A TLS handshake that did not end well.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use super::observed::Observed;
use super::reason;
use super::validator::Stage;
use crate::stream_info::PeerCertificate;

/// Why there is no TLS session.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", if reason.is_empty() { kind.as_str() } else { reason })]
pub struct TlsError {
    /// What kind of failure.
    pub kind: TlsErrorKind,
    /// Envoy's transport failure reason; empty: there is none, as when the peer just closes.
    pub reason: Cow<'static, str>,
    /// The peer's certificate, if it came that far.
    pub peer: Option<Arc<PeerCertificate>>,
}

/// The kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsErrorKind {
    /// Closed, reset, or unreachable while the handshake was going on.
    Closed,
    /// The peer does not speak TLS as we do.
    Protocol,
    /// The peer should have presented a certificate and did not.
    NoCertificate,
    /// The chain of its certificate leads to no authority we trust.
    CertificateChain,
    /// Its certificate does not name it.
    CertificateName,
    /// Its certificate is not one of those pinned.
    CertificateHash,
    /// The certificates are still to be delivered by SDS.
    SecretNotReady,
}

impl TlsErrorKind {
    fn as_str(self) -> &'static str {
        match self {
            TlsErrorKind::Closed => "closed during the TLS handshake",
            TlsErrorKind::Protocol => "TLS protocol error",
            TlsErrorKind::NoCertificate => "no certificate presented",
            TlsErrorKind::CertificateChain => "certificate chain refused",
            TlsErrorKind::CertificateName => "certificate name refused",
            TlsErrorKind::CertificateHash => "certificate hash refused",
            TlsErrorKind::SecretNotReady => "secret not ready",
        }
    }
}

impl TlsError {
    /// Certificates are not there yet.
    pub(super) fn not_ready() -> Self {
        TlsError {
            kind: TlsErrorKind::SecretNotReady,
            reason: "TLS error: Secret is not supplied by SDS".into(),
            peer: None,
        }
    }

    /// Out of what the handshake returned and what the verifier saw meanwhile. `first`: what a client began with.
    pub(super) fn new(error: &io::Error, observed: &mut Observed, first: &[u8]) -> Self {
        let peer = observed.peer.take();
        if let Some(refusal) = observed.refusal.take() {
            let kind = match refusal.stage {
                Stage::Chain => TlsErrorKind::CertificateChain,
                Stage::San => TlsErrorKind::CertificateName,
                Stage::Hash => TlsErrorKind::CertificateHash,
            };
            return TlsError {
                kind,
                reason: reason::ssl(125, "CERTIFICATE_VERIFY_FAILED", &refusal.text).into(),
                peer,
            };
        }
        let Some(tls) = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) else {
            return TlsError { kind: TlsErrorKind::Closed, reason: reason::system(error).into(), peer };
        };
        let kind = match tls {
            rustls::Error::NoCertificatesPresented => TlsErrorKind::NoCertificate,
            rustls::Error::InvalidCertificate(_) => TlsErrorKind::CertificateChain,
            _ => TlsErrorKind::Protocol,
        };
        let reason = reason::not_tls(first).unwrap_or_else(|| reason::protocol(tls));
        TlsError { kind, reason: reason.into(), peer }
    }
}
