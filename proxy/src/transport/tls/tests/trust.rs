//! Whom each side lets in.

use std::time::Duration;

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use time::OffsetDateTime;

use super::*;
use crate::config::{SanKind, SanMatcher, StringMatcher};

fn dns(name: &str) -> SanMatcher {
    SanMatcher { kind: SanKind::Dns, matcher: StringMatcher::exact(name) }
}

/// As Envoy does it, measured: who needs a certificate, and what is checked of it.
#[tokio::test]
async fn clients_are_let_in_as_envoy_does() {
    use TlsErrorKind::*;
    let (ours, theirs) = (ca("ours"), ca("theirs"));
    let server_leaf = ours.leaf(&["s"]);
    let (good, other) = (ours.leaf(&["client.example.com"]), theirs.leaf(&["other.example.com"]));
    let named = |name: &str| CertificateValidation { subject_alt_names: vec![dns(name)], ..ours.trust() };
    let pinned = CertificateValidation { certificate_hashes: vec![[0; 32]], ..CertificateValidation::default() };
    let untrusted = CertificateValidation { accept_untrusted: true, ..ours.trust() };
    let cases = [
        ("required", Some(ours.trust()), true, [Some(NoCertificate), None, Some(CertificateChain)]),
        ("optional", Some(ours.trust()), false, [None, None, Some(CertificateChain)]),
        ("named", Some(named("client.example.com")), false, [Some(NoCertificate), None, Some(CertificateChain)]),
        (
            "misnamed",
            Some(named("nobody")),
            false,
            [Some(NoCertificate), Some(CertificateName), Some(CertificateChain)],
        ),
        ("pinned", Some(pinned), false, [Some(NoCertificate), Some(CertificateHash), Some(CertificateHash)]),
        ("no authority", None, true, [None, None, None]),
        ("untrusted", Some(untrusted), false, [None, None, None]),
    ];
    for (case, validation, required, expected) in cases {
        for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
            for (leaf, expected) in [None, Some(&good), Some(&other)].into_iter().zip(expected) {
                let mut down = downstream(&[&server_leaf], validation.clone());
                down.require_client_certificate = required;
                let mut up = upstream(leaf, None);
                up.common.params.max = Some(version);
                let (served, _) = between(&down, &up).await;
                assert_eq!(kind(&served), expected, "{case} {version:?}");
                if let Ok(info) = served {
                    let validated = case != "no authority" && leaf.is_some_and(|l| l.chain == good.chain);
                    assert_eq!(info.peer_validated, validated, "{case}");
                }
            }
        }
    }
}

#[tokio::test]
async fn refusals_say_why() {
    let (ours, theirs) = (ca("ours"), ca("theirs"));
    let server_leaf = ours.leaf(&["s"]);
    let other = theirs.leaf(&["spiffe://td/a", "other.example.com"]);
    let mut down = downstream(&[&server_leaf], Some(ours.trust()));
    let (served, connected) = between(&down, &upstream(Some(&other), None)).await;
    let error = served.unwrap_err();
    assert_eq!(
        error.reason,
        "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify cert failed: \
         X509_verify_cert: certificate verification error at depth 0: unable to get local issuer \
         certificate:TLS_error_end"
    );
    assert_eq!(error.peer.unwrap().dns_sans, ["other.example.com"]);
    connected.unwrap();
    let validation = CertificateValidation { subject_alt_names: vec![dns("nobody")], ..theirs.trust() };
    down.common.validation = Some(ValidationSource::Inline(Box::new(validation)));
    let (served, _) = between(&down, &upstream(Some(&other), None)).await;
    let reason = served.unwrap_err().reason;
    assert!(reason.contains("SAN matcher, certificate SANs are [spiffe://td/a, other.example.com]"), "{reason}");
}

#[tokio::test]
async fn servers_are_checked_only_where_asked() {
    let (ours, theirs) = (ca("ours"), ca("theirs"));
    let leaf = theirs.leaf(&["*.example.com"]);
    let down = downstream(&[&leaf], None);
    let (_, connected) = between(&down, &upstream(None, None)).await;
    assert!(!connected.unwrap().peer_validated, "no validation context: anyone");
    let (served, connected) = between(&down, &upstream(None, Some(ours.trust()))).await;
    assert_eq!(kind(&connected), Some(TlsErrorKind::CertificateChain));
    assert!(served.unwrap_err().reason.contains("TLSV1_ALERT_UNKNOWN_CA"));
    let mut up = upstream(None, Some(theirs.trust()));
    up.sni = "elsewhere.org".into();
    between(&down, &up).await.1.expect("no name is asked for");
    up.auto_sni_san_validation = true;
    assert_eq!(kind(&between(&down, &up).await.1), Some(TlsErrorKind::CertificateName));
    up.sni = "a.example.com".into();
    between(&down, &up).await.1.unwrap();
    up.common.validation = None;
    let error = ClientTls::build(&up, &no_secrets(), &scope()).unwrap_err();
    assert!(error.reason.contains("without configuring a trusted CA"));
}

#[tokio::test]
async fn names_asked_for_by_the_connection() {
    let ca = ca("root");
    let down = downstream(&[&ca.leaf(&["*.example.com"])], None);
    let validation = CertificateValidation { subject_alt_names: vec![dns("nobody")], ..ca.trust() };
    let up = upstream(None, Some(validation));
    let good = ["b.org".to_owned(), "a.example.com".to_owned()];
    let options = ConnectOptions { san_override: &good[..1], ..ConnectOptions::default() };
    let (_, connected) = with_options(&down, &up, options).await;
    let reason = connected.unwrap_err().reason;
    assert!(reason.contains("verify SAN list, expected SANs: [b.org], certificate SANs: [*.example.com]"), "{reason}");
    // In the place of the configured matchers these would still count, as they do in Envoy.
    let up = upstream(None, Some(ca.trust()));
    let options = ConnectOptions { san_override: &good, ..ConnectOptions::default() };
    with_options(&down, &up, options).await.1.unwrap();
}

fn at(days: i64) -> OffsetDateTime {
    OffsetDateTime::now_utc() + time::Duration::days(days)
}

#[tokio::test]
async fn time_matters_unless_told() {
    let ca = ca("root");
    let server_leaf = ca.leaf(&["s"]);
    for (from, to, text) in [(-2, -1, "certificate has expired"), (1, 2, "certificate is not yet valid")] {
        let mut params = leaf_params(&["c"]);
        (params.not_before, params.not_after) = (at(from), at(to));
        let client = ca.sign(&params, &KeyPair::generate().unwrap());
        let mut down = downstream(&[&server_leaf], Some(ca.trust()));
        let (served, _) = between(&down, &upstream(Some(&client), None)).await;
        assert!(served.unwrap_err().reason.contains(text));
        let lenient = CertificateValidation { allow_expired: true, ..ca.trust() };
        down.common.validation = Some(ValidationSource::Inline(Box::new(lenient)));
        let (served, _) = between(&down, &upstream(Some(&client), None)).await;
        assert!(served.unwrap().peer_validated);
    }
}

#[tokio::test]
async fn an_expired_authority_is_none() {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (params.not_before, params.not_after) = (at(-9), at(-1));
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    let old = Ca { issuer: Issuer::new(params, key), pem };
    let leaf = old.leaf(&["s"]);
    let (_, connected) = between(&downstream(&[&leaf], None), &upstream(None, Some(old.trust()))).await;
    let reason = connected.unwrap_err().reason;
    assert!(reason.contains("error at depth 1: certificate has expired"), "{reason}");
}

/// A chain of `depth` intermediates between `root` and the leaf.
fn chain(root: &Ca, depth: usize) -> Leaf {
    let mut above: Option<Ca> = None;
    let mut pems = Vec::new();
    for i in 0..depth {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("intermediate {i}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &above.as_ref().unwrap_or(root).issuer).unwrap().pem();
        pems.insert(0, pem.clone());
        above = Some(Ca { issuer: Issuer::new(params, key), pem });
    }
    let leaf = above.as_ref().unwrap_or(root).leaf(&["s"]);
    Leaf { chain: leaf.chain + &pems.concat(), key: leaf.key }
}

#[tokio::test]
async fn depth_counts_the_anchor() {
    let root = ca("root");
    for (intermediates, depth, accepted) in [(0, 1, true), (1, 1, false), (1, 2, true), (2, 2, false), (2, 3, true)] {
        let down = downstream(&[&chain(&root, intermediates)], None);
        let validation = CertificateValidation { max_verify_depth: Some(depth), ..root.trust() };
        let (_, connected) = between(&down, &upstream(None, Some(validation))).await;
        assert_eq!(connected.is_ok(), accepted, "{intermediates} {depth}");
    }
}

#[tokio::test]
async fn an_intermediate_can_be_the_anchor_and_a_leaf_can_not() {
    let root = ca("root");
    let leaf = chain(&root, 1);
    let certs: Vec<&str> = leaf.chain.split_inclusive("-----END CERTIFICATE-----\n").collect();
    let trust = |pem: &str| CertificateValidation { trusted_ca: Some(inline(pem)), ..CertificateValidation::default() };
    let down = downstream(&[&leaf], None);
    between(&down, &upstream(None, Some(trust(certs[1])))).await.1.expect("partial chain");
    between(&down, &upstream(None, Some(trust(certs[0])))).await.1.expect("the certificate itself");
    // Who holds a pinned leaf's key must not be able to issue certificates for others.
    let rogue =
        Ca { issuer: Issuer::new(leaf_params(&["s"]), KeyPair::from_pem(&leaf.key).unwrap()), pem: String::new() };
    let down = downstream(&[&rogue.leaf(&["victim"])], None);
    let (_, connected) = between(&down, &upstream(None, Some(trust(certs[0])))).await;
    assert_eq!(kind(&connected), Some(TlsErrorKind::CertificateChain));
}

#[tokio::test]
async fn self_signed_authorities_as_leaves() {
    // `openssl req -x509` marks what it makes as an authority.
    let mut params = leaf_params(&["s"]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    let leaf = Leaf { chain: pem.clone(), key: key.serialize_pem() };
    let trust = CertificateValidation { trusted_ca: Some(inline(&pem)), ..CertificateValidation::default() };
    let (_, connected) = between(&downstream(&[&leaf], None), &upstream(None, Some(trust))).await;
    assert!(connected.unwrap().peer_validated);
    let (_, connected) = between(&downstream(&[&leaf], None), &upstream(None, Some(ca("other").trust()))).await;
    assert_eq!(kind(&connected), Some(TlsErrorKind::CertificateChain));
}

#[tokio::test]
async fn revocation_lists() {
    let ca = ca("root");
    let mut params = leaf_params(&["s"]);
    params.serial_number = Some(SerialNumber::from(77));
    let leaf = ca.sign(&params, &KeyPair::generate().unwrap());
    let list = |serial: u64, next_update: i64| {
        let params = CertificateRevocationListParams {
            this_update: at(-2),
            next_update: at(next_update),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: at(-1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Some(inline(&params.signed_by(&ca.issuer).unwrap().pem().unwrap()))
    };
    for (crl, text) in
        [(list(1, 9), None), (list(77, 9), Some("certificate revoked")), (list(1, -1), Some("CRL has expired"))]
    {
        let validation = CertificateValidation { crl, ..ca.trust() };
        let (_, connected) = between(&downstream(&[&leaf], None), &upstream(None, Some(validation))).await;
        match text {
            None => assert!(connected.unwrap().peer_validated),
            Some(text) => assert!(connected.unwrap_err().reason.contains(text)),
        }
    }
    let other = super::trust::crl_of_another();
    let validation = CertificateValidation { crl: Some(inline(&other)), ..ca.trust() };
    let (_, connected) = between(&downstream(&[&leaf], None), &upstream(None, Some(validation))).await;
    assert!(connected.unwrap_err().reason.contains("unable to get certificate CRL"));
}

fn crl_of_another() -> String {
    let params = CertificateRevocationListParams {
        this_update: at(-2),
        next_update: at(2),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(&ca("another").issuer).unwrap().pem().unwrap()
}

#[tokio::test]
async fn spiffe_bundles() {
    let (a, b) = (ca("a"), ca("b"));
    let validation = |uris: &[&str]| CertificateValidation {
        spiffe_trust_domains: vec![("a.org".into(), inline(&a.pem)), ("b.org".into(), inline(&b.pem))],
        subject_alt_names: uris
            .iter()
            .map(|u| SanMatcher { kind: SanKind::Uri, matcher: StringMatcher::exact(*u) })
            .collect(),
        ..CertificateValidation::default()
    };
    let no_usage = {
        let mut params = leaf_params(&["spiffe://a.org/x"]);
        params.key_usages.clear();
        a.sign(&params, &KeyPair::generate().unwrap())
    };
    for (leaf, uris, refused) in [
        (a.leaf(&["spiffe://a.org/x"]), &[][..], None),
        (b.leaf(&["spiffe://b.org/x"]), &[], None),
        (a.leaf(&["spiffe://b.org/x"]), &[], Some("unable to get local issuer certificate")),
        (a.leaf(&["spiffe://c.org/x"]), &[], Some("no trust bundle store")),
        (a.leaf(&["a.org"]), &[], Some("no trust bundle store")),
        (no_usage, &[], Some("cert precheck")),
        (a.leaf(&["spiffe://a.org/x"]), &["spiffe://a.org/x"], None),
        (a.leaf(&["spiffe://a.org/x"]), &["spiffe://a.org/y"], Some("SAN match")),
    ] {
        let down = downstream(&[&a.leaf(&["s"])], Some(validation(uris)));
        let (served, _) = between(&down, &upstream(Some(&leaf), None)).await;
        match refused {
            None => assert!(served.unwrap().peer_validated),
            Some(text) => {
                let reason = served.unwrap_err().reason;
                assert!(reason.contains(text), "{reason}");
            }
        }
    }
    let down = downstream(&[&a.leaf(&["s"])], Some(validation(&[])));
    let (served, _) = between(&down, &upstream(None, None)).await;
    assert_eq!(kind(&served), Some(TlsErrorKind::NoCertificate));
}

#[tokio::test]
async fn pinned_keys() {
    let root = ca("root");
    let key = KeyPair::generate().unwrap();
    let leaf = root.sign(&leaf_params(&["s"]), &key);
    let spki = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &key.subject_public_key_info());
    let validation = CertificateValidation {
        spki_hashes: vec![spki.as_ref().try_into().unwrap()],
        ..CertificateValidation::default()
    };
    let (_, connected) = between(&downstream(&[&leaf], None), &upstream(None, Some(validation.clone()))).await;
    assert!(connected.unwrap().peer_validated);
    let (_, connected) = between(&downstream(&[&root.leaf(&["s"])], None), &upstream(None, Some(validation))).await;
    assert_eq!(kind(&connected), Some(TlsErrorKind::CertificateHash));
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_the_callers_to_give_up_on() {
    let leaf = ca("root").leaf(&["s"]);
    let server = server(&downstream(&[&leaf], None));
    let (_peer, ours) = tokio::io::duplex(64);
    tokio::time::timeout(Duration::from_secs(15), server.accept(ours.into())).await.unwrap_err();
}

trait SubjectPublicKeyInfo {
    fn subject_public_key_info(&self) -> Vec<u8>;
}

impl SubjectPublicKeyInfo for KeyPair {
    fn subject_public_key_info(&self) -> Vec<u8> {
        rcgen::PublicKeyData::subject_public_key_info(self)
    }
}
