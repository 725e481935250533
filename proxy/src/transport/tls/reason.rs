//! Failures in the words of BoringSSL and Envoy, which logs and alerting rules know.
//!
//! Runs on: workers, when a handshake fails.

use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, CertificateError, Error, OtherError, PeerIncompatible};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// `ERR_LIB_SSL << 24`, in which BoringSSL packs its reasons.
const LIB_SSL: u32 = 16 << 24;
/// `ERR_LIB_SYS << 24`.
const LIB_SYS: u32 = 2 << 24;

/// `TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:detail:TLS_error_end`.
pub(super) fn ssl(reason: u32, name: &str, detail: &str) -> String {
    let colon = if detail.is_empty() { "" } else { ":" };
    format!("TLS_error:|{}:SSL routines:OPENSSL_internal:{name}{colon}{detail}:TLS_error_end", LIB_SSL | reason)
}

/// A socket's error.
pub(super) fn system(error: &std::io::Error) -> String {
    let Some(number) = error.raw_os_error() else { return String::new() };
    let text = nix::errno::Errno::from_raw(number).desc();
    let packed = LIB_SYS | u32::try_from(number).unwrap_or(0);
    format!("TLS_error:|{packed}:system library:OPENSSL_internal:{text}:TLS_error_end")
}

/// The reason a peer gave in an alert, or we gave it.
pub(super) fn protocol(error: &Error) -> String {
    let (reason, name) = match error {
        Error::AlertReceived(alert) => return alert_received(*alert),
        Error::NoCertificatesPresented => {
            let detail = "peer did not provide required client certificate";
            return ssl(192, "PEER_DID_NOT_RETURN_A_CERTIFICATE", detail);
        }
        Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon) => (184, "NO_SHARED_CIPHER"),
        Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon) => (266, "NO_SHARED_GROUP"),
        Error::PeerIncompatible(PeerIncompatible::NoSignatureSchemesInCommon) => {
            (253, "NO_COMMON_SIGNATURE_ALGORITHMS")
        }
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::SupportedVersionsExtensionRequired,
        ) => (240, "UNSUPPORTED_PROTOCOL"),
        Error::InvalidMessage(
            rustls::InvalidMessage::InvalidContentType | rustls::InvalidMessage::UnknownProtocolVersion,
        ) => (247, "WRONG_VERSION_NUMBER"),
        Error::InvalidMessage(_) => (137, "DECODE_ERROR"),
        Error::DecryptError => (139, "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"),
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => (225, "UNEXPECTED_MESSAGE"),
        Error::InvalidCertificate(_) => (125, "CERTIFICATE_VERIFY_FAILED"),
        other => return format!("TLS_error: {other}"),
    };
    ssl(reason, name, "")
}

/// BoringSSL counts alerts received from 1000 on.
fn alert_received(alert: AlertDescription) -> String {
    let number = u8::from(alert);
    let name = match number {
        0 => "SSLV3_ALERT_CLOSE_NOTIFY",
        10 => "SSLV3_ALERT_UNEXPECTED_MESSAGE",
        20 => "SSLV3_ALERT_BAD_RECORD_MAC",
        21 => "TLSV1_ALERT_DECRYPTION_FAILED",
        22 => "TLSV1_ALERT_RECORD_OVERFLOW",
        30 => "SSLV3_ALERT_DECOMPRESSION_FAILURE",
        40 => "SSLV3_ALERT_HANDSHAKE_FAILURE",
        41 => "SSLV3_ALERT_NO_CERTIFICATE",
        42 => "SSLV3_ALERT_BAD_CERTIFICATE",
        43 => "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        44 => "SSLV3_ALERT_CERTIFICATE_REVOKED",
        45 => "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        46 => "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        47 => "SSLV3_ALERT_ILLEGAL_PARAMETER",
        48 => "TLSV1_ALERT_UNKNOWN_CA",
        49 => "TLSV1_ALERT_ACCESS_DENIED",
        50 => "TLSV1_ALERT_DECODE_ERROR",
        51 => "TLSV1_ALERT_DECRYPT_ERROR",
        60 => "TLSV1_ALERT_EXPORT_RESTRICTION",
        70 => "TLSV1_ALERT_PROTOCOL_VERSION",
        71 => "TLSV1_ALERT_INSUFFICIENT_SECURITY",
        80 => "TLSV1_ALERT_INTERNAL_ERROR",
        86 => "TLSV1_ALERT_INAPPROPRIATE_FALLBACK",
        90 => "TLSV1_ALERT_USER_CANCELLED",
        100 => "TLSV1_ALERT_NO_RENEGOTIATION",
        110 => "TLSV1_ALERT_UNSUPPORTED_EXTENSION",
        111 => "TLSV1_ALERT_CERTIFICATE_UNOBTAINABLE",
        112 => "TLSV1_ALERT_UNRECOGNIZED_NAME",
        113 => "TLSV1_ALERT_BAD_CERTIFICATE_STATUS_RESPONSE",
        114 => "TLSV1_ALERT_BAD_CERTIFICATE_HASH_VALUE",
        115 => "TLSV1_ALERT_UNKNOWN_PSK_IDENTITY",
        116 => "TLSV1_ALERT_CERTIFICATE_REQUIRED",
        120 => "TLSV1_ALERT_NO_APPLICATION_PROTOCOL",
        _ => "TLSV1_ALERT_UNKNOWN",
    };
    ssl(1000 + u32::from(number), name, "")
}

/// The first bytes of a client that does not speak TLS, where BoringSSL knows them.
pub(super) fn not_tls(first: &[u8]) -> Option<String> {
    const METHODS: [&[u8]; 4] = [b"GET ", b"POST ", b"HEAD ", b"PUT "];
    if METHODS.iter().any(|m| first.starts_with(m)) {
        Some(ssl(156, "HTTP_REQUEST", ""))
    } else if first.starts_with(b"CONNE") {
        Some(ssl(155, "HTTPS_PROXY_REQUEST", ""))
    } else {
        None
    }
}

/// What `X509_verify_cert` would have said of a chain webpki refuses, and the error that decides our alert.
pub(super) fn x509(error: webpki::Error, chain: &[CertificateDer<'_>]) -> (String, CertificateError) {
    use webpki::Error as E;
    #[allow(deprecated, reason = "both forms of an error mean the same")]
    let (depth, text, error) = match error {
        E::UnknownIssuer => {
            let (depth, text) = missing_issuer(chain);
            (depth, text, CertificateError::UnknownIssuer)
        }
        E::CertExpired { time, .. } => {
            (outside_validity(chain, time), "certificate has expired", CertificateError::Expired)
        }
        E::CertNotValidYet { time, .. } => {
            (outside_validity(chain, time), "certificate is not yet valid", CertificateError::NotValidYet)
        }
        E::CertRevoked => (0, "certificate revoked", CertificateError::Revoked),
        E::UnknownRevocationStatus => (0, "unable to get certificate CRL", CertificateError::UnknownRevocationStatus),
        E::CrlExpired { .. } => (0, "CRL has expired", CertificateError::ExpiredRevocationList),
        E::IssuerNotCrlSigner | E::InvalidCrlSignatureForPublicKey => {
            (0, "CRL signature failure", CertificateError::UnknownRevocationStatus)
        }
        E::RequiredEkuNotFound | E::RequiredEkuNotFoundContext(_) | E::CaUsedAsEndEntity => {
            (0, "unsupported certificate purpose", CertificateError::InvalidPurpose)
        }
        E::InvalidSignatureForPublicKey | E::SignatureAlgorithmMismatch => {
            (0, "certificate signature failure", CertificateError::BadSignature)
        }
        E::EndEntityUsedAsCa => (1, "invalid CA certificate", CertificateError::UnknownIssuer),
        E::MaximumPathDepthExceeded | E::MaximumPathBuildCallsExceeded => {
            (chain.len(), "certificate chain too long", CertificateError::UnknownIssuer)
        }
        E::PathLenConstraintViolated => (1, "path length constraint exceeded", CertificateError::UnknownIssuer),
        E::NameConstraintViolation => (0, "permitted subtree violation", other(&error)),
        E::UnsupportedCriticalExtension => {
            (0, "unhandled critical extension", CertificateError::UnhandledCriticalExtension)
        }
        ref e => {
            let text = format!("certificate verification error at depth 0: {e}");
            return (text, CertificateError::BadEncoding);
        }
    };
    (format!("certificate verification error at depth {depth}: {text}"), error)
}

fn other(error: &webpki::Error) -> CertificateError {
    CertificateError::Other(OtherError(std::sync::Arc::from(Box::<dyn std::error::Error + Send + Sync>::from(
        error.to_string(),
    ))))
}

/// How far a chain goes before its next issuer is missing.
fn missing_issuer(chain: &[CertificateDer<'_>]) -> (usize, &'static str) {
    let names: Vec<(Vec<u8>, Vec<u8>)> = chain
        .iter()
        .filter_map(|c| X509Certificate::from_der(c).ok())
        .map(|(_, c)| (c.subject().as_raw().to_vec(), c.issuer().as_raw().to_vec()))
        .collect();
    let mut depth = 0;
    let mut at = 0;
    while let Some((subject, issuer)) = names.get(at) {
        if subject == issuer {
            let text =
                if depth == 0 { "self signed certificate" } else { "self signed certificate in certificate chain" };
            return (depth, text);
        }
        match names.iter().skip(1).position(|(s, _)| s == issuer) {
            // Never further than the chain is long: names can form a circle.
            Some(next) if depth + 1 < names.len() => (depth, at) = (depth + 1, next + 1),
            _ => break,
        }
    }
    (depth, "unable to get local issuer certificate")
}

/// Which certificate of the chain is outside its validity; past its end: the anchor.
fn outside_validity(chain: &[CertificateDer<'_>], time: rustls::pki_types::UnixTime) -> usize {
    let now = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let valid = |cert: &CertificateDer<'_>| {
        X509Certificate::from_der(cert).is_ok_and(|(_, c)| {
            (c.validity().not_before.timestamp()..=c.validity().not_after.timestamp()).contains(&now)
        })
    };
    chain.iter().position(|c| !valid(c)).unwrap_or(chain.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_envoy_prints_them() {
        assert_eq!(
            protocol(&Error::AlertReceived(AlertDescription::UnknownCA)),
            "TLS_error:|268436504:SSL routines:OPENSSL_internal:TLSV1_ALERT_UNKNOWN_CA:TLS_error_end"
        );
        assert_eq!(
            protocol(&Error::NoCertificatesPresented),
            "TLS_error:|268435648:SSL routines:OPENSSL_internal:PEER_DID_NOT_RETURN_A_CERTIFICATE:peer did not provide \
             required client certificate:TLS_error_end"
        );
        assert!(not_tls(b"GET / HTTP/1.1").unwrap().contains("268435612"));
        assert!(not_tls(b"\x16\x03\x01").is_none());
        assert_eq!(
            system(&std::io::Error::from_raw_os_error(104)),
            "TLS_error:|33554536:system library:OPENSSL_internal:Connection reset by peer:TLS_error_end"
        );
    }
}
