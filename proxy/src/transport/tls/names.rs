//! Cipher suites, curves and signature algorithms by the names configuration and logs use: OpenSSL's.
//!
//! Runs on: the control thread builds; workers look names up.

use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::{CipherSuite, NamedGroup, SignatureScheme, SupportedCipherSuite};

use crate::config::{ConfigError, TlsParams, TlsVersion};

/// Suites we speak, in the order we prefer: those of TLS 1.3, then those of 1.2 as Envoy orders them.
static SUITES: [(&str, CipherSuite); 9] = [
    ("TLS_AES_128_GCM_SHA256", CipherSuite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", CipherSuite::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-AES128-GCM-SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-CHACHA20-POLY1305", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-AES256-GCM-SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
];

/// Suites BoringSSL has and we do not: no forward secrecy, or CBC.
static LEFT_OUT: [&str; 12] = [
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-RSA-AES256-SHA",
    "ECDHE-RSA-AES128-SHA256",
    "DES-CBC3-SHA",
    "ECDHE-PSK-AES128-CBC-SHA",
    "ECDHE-PSK-CHACHA20-POLY1305",
];

/// Groups we speak, with the names BoringSSL and OpenSSL have for them.
static GROUPS: [(&str, NamedGroup); 9] = [
    ("X25519MLKEM768", NamedGroup::X25519MLKEM768),
    ("X25519", NamedGroup::X25519),
    ("x25519", NamedGroup::X25519),
    ("P-256", NamedGroup::secp256r1),
    ("prime256v1", NamedGroup::secp256r1),
    ("secp256r1", NamedGroup::secp256r1),
    ("P-384", NamedGroup::secp384r1),
    ("secp384r1", NamedGroup::secp384r1),
    ("MLKEM1024", NamedGroup::MLKEM1024),
];

/// Groups BoringSSL has and we do not.
static GROUPS_LEFT_OUT: [&str; 4] = ["P-521", "secp521r1", "P-224", "X25519Kyber768Draft00"];

static SIGNATURES: [(&str, SignatureScheme); 11] = [
    ("rsa_pkcs1_sha1", SignatureScheme::RSA_PKCS1_SHA1),
    ("rsa_pkcs1_sha256", SignatureScheme::RSA_PKCS1_SHA256),
    ("rsa_pkcs1_sha384", SignatureScheme::RSA_PKCS1_SHA384),
    ("rsa_pkcs1_sha512", SignatureScheme::RSA_PKCS1_SHA512),
    ("ecdsa_secp256r1_sha256", SignatureScheme::ECDSA_NISTP256_SHA256),
    ("ecdsa_secp384r1_sha384", SignatureScheme::ECDSA_NISTP384_SHA384),
    ("ecdsa_secp521r1_sha512", SignatureScheme::ECDSA_NISTP521_SHA512),
    ("rsa_pss_rsae_sha256", SignatureScheme::RSA_PSS_SHA256),
    ("rsa_pss_rsae_sha384", SignatureScheme::RSA_PSS_SHA384),
    ("rsa_pss_rsae_sha512", SignatureScheme::RSA_PSS_SHA512),
    ("ed25519", SignatureScheme::ED25519),
];

/// OpenSSL's name of a suite.
pub(super) fn suite(suite: CipherSuite) -> &'static str {
    SUITES.iter().find(|(_, s)| *s == suite).map_or("unknown", |(name, _)| name)
}

/// BoringSSL's name of a group.
pub(super) fn group(group: NamedGroup) -> &'static str {
    GROUPS.iter().find(|(_, g)| *g == group).map_or("unknown", |(name, _)| name)
}

/// BoringSSL's name of a signature algorithm.
pub(super) fn signature(scheme: SignatureScheme) -> &'static str {
    SIGNATURES.iter().find(|(_, s)| *s == scheme).map_or("unknown", |(name, _)| name)
}

/// Algorithms as configured; what is not configured is the default.
///
/// # Errors
/// A name nobody knows, or one of an algorithm we do not have.
pub(super) fn provider(params: &TlsParams) -> Result<CryptoProvider, ConfigError> {
    let base = aws_lc_rs::default_provider();
    let cipher_suites = if params.cipher_suites.is_empty() {
        SUITES.iter().filter_map(|(_, s)| suite_of(*s)).collect()
    } else {
        suites(&params.cipher_suites)?
    };
    let kx_groups = if params.curves.is_empty() { default_groups() } else { groups(&params.curves)? };
    Ok(CryptoProvider { cipher_suites, kx_groups, ..base })
}

/// The configured signature algorithms, in order; empty: the default.
///
/// # Errors
/// As [`provider`].
pub(super) fn signature_schemes(params: &TlsParams) -> Result<Vec<SignatureScheme>, ConfigError> {
    let by_name = |name: &String| {
        SIGNATURES.iter().find(|(n, _)| *n == name).map(|(_, s)| *s).filter(|s| *s != SignatureScheme::RSA_PKCS1_SHA1)
    };
    let error = |name: &String| {
        ConfigError::at(
            "common_tls_context.tls_params.signature_algorithms",
            format!("signature algorithm {name} is unknown or not supported"),
        )
    };
    params.signature_algorithms.iter().map(|n| by_name(n).ok_or_else(|| error(n))).collect()
}

/// The protocol versions between `min` and `max`.
///
/// # Errors
/// An empty range.
pub(super) fn versions(
    min: Option<TlsVersion>,
    max: TlsVersion,
) -> Result<&'static [&'static rustls::SupportedProtocolVersion], ConfigError> {
    static BOTH: [&rustls::SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
    match (min.unwrap_or(TlsVersion::V1_2), max) {
        (TlsVersion::V1_2, TlsVersion::V1_3) => Ok(&BOTH),
        (TlsVersion::V1_3, TlsVersion::V1_3) => Ok(&BOTH[..1]),
        (TlsVersion::V1_2, TlsVersion::V1_2) => Ok(&BOTH[1..]),
        (TlsVersion::V1_3, TlsVersion::V1_2) => Err(ConfigError::at(
            "common_tls_context.tls_params",
            "tls_minimum_protocol_version is above tls_maximum_protocol_version",
        )),
    }
}

/// The TLS 1.2 suites of an OpenSSL list, after those of TLS 1.3, which configuration cannot choose.
fn suites(list: &[String]) -> Result<Vec<SupportedCipherSuite>, ConfigError> {
    let at = |reason| ConfigError::at("common_tls_context.tls_params.cipher_suites", reason);
    let mut out: Vec<SupportedCipherSuite> = SUITES[..3].iter().filter_map(|(_, s)| suite_of(*s)).collect();
    // Each item may itself be a list; brackets make a group of equal preference, which here keeps the order written.
    let names = list.iter().flat_map(|item| item.split([':', '[', ']', '|'])).map(str::trim).filter(|n| !n.is_empty());
    for name in names {
        if let Some(suite) = SUITES.iter().find(|(n, _)| *n == name).and_then(|(_, s)| suite_of(*s)) {
            if !out.contains(&suite) {
                out.push(suite);
            }
        } else if LEFT_OUT.contains(&name) {
            return Err(at(format!("cipher suite {name} is not supported: only forward secret AEAD suites are")));
        } else {
            return Err(at(format!("Failed to initialize cipher suites {}. unknown cipher {name}", list.join(":"))));
        }
    }
    Ok(out)
}

fn suite_of(id: CipherSuite) -> Option<SupportedCipherSuite> {
    aws_lc_rs::ALL_CIPHER_SUITES.iter().find(|s| s.suite() == id).copied()
}

fn groups(list: &[String]) -> Result<Vec<&'static dyn SupportedKxGroup>, ConfigError> {
    let at = |reason| ConfigError::at("common_tls_context.tls_params.ecdh_curves", reason);
    let mut out: Vec<&'static dyn SupportedKxGroup> = Vec::new();
    for name in list.iter().flat_map(|item| item.split(':')).map(str::trim).filter(|n| !n.is_empty()) {
        match GROUPS.iter().find(|(n, _)| *n == name).and_then(|(_, g)| group_of(*g)) {
            Some(group) => out.push(group),
            None if GROUPS_LEFT_OUT.contains(&name) => return Err(at(format!("ECDH curve {name} is not supported"))),
            None => {
                return Err(at(format!("Failed to initialize ECDH curves {}: {name} is unknown", list.join(":"))));
            }
        }
    }
    Ok(out)
}

/// Hybrid post-quantum first, then what everyone speaks.
fn default_groups() -> Vec<&'static dyn SupportedKxGroup> {
    let order = [NamedGroup::X25519MLKEM768, NamedGroup::X25519, NamedGroup::secp256r1, NamedGroup::secp384r1];
    order.into_iter().filter_map(group_of).collect()
}

fn group_of(group: NamedGroup) -> Option<&'static dyn SupportedKxGroup> {
    aws_lc_rs::ALL_KX_GROUPS.iter().find(|g| g.name() == group).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(ciphers: &[&str], curves: &[&str]) -> TlsParams {
        let own = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
        TlsParams { cipher_suites: own(ciphers), curves: own(curves), ..TlsParams::default() }
    }

    #[test]
    fn defaults_prefer_the_hybrid_group() {
        let p = provider(&TlsParams::default()).unwrap();
        assert_eq!(p.cipher_suites.len(), SUITES.len());
        assert_eq!(p.kx_groups[0].name(), NamedGroup::X25519MLKEM768);
    }

    #[test]
    fn openssl_lists() {
        let list = "[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]:ECDHE-RSA-AES256-GCM-SHA384";
        let p = provider(&params(&[list], &["P-384:X25519"])).unwrap();
        let names: Vec<_> = p.cipher_suites[3..].iter().map(|s| suite(s.suite())).collect();
        assert_eq!(
            names,
            ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-AES256-GCM-SHA384"]
        );
        assert_eq!(p.kx_groups.iter().map(|g| group(g.name())).collect::<Vec<_>>(), ["P-384", "X25519"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let reason = |p: &TlsParams| provider(p).err().unwrap().reason;
        assert!(reason(&params(&["AES128-SHA"], &[])).contains("AES128-SHA is not supported"));
        assert!(reason(&params(&["nonsense"], &[])).contains("unknown cipher nonsense"));
        assert!(reason(&params(&[], &["P-521"])).contains("P-521 is not supported"));
        assert!(reason(&params(&[], &["nope"])).contains("nope is unknown"));
    }
}
