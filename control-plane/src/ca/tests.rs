use std::path::Path;

use super::*;

/// An authority in `dir`.
pub(crate) fn authority(dir: &Path) -> Arc<Ca> {
    Ca::open(Options { settle: Duration::ZERO, ..Options::new(dir.join("ca")) }).unwrap()
}

fn web() -> Identity {
    Identity::new("cluster.local", "default", "web").unwrap()
}

fn request(uris: &[&str]) -> String {
    csr::tests::request(&KeyPair::generate().unwrap(), uris)
}

fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
    authority::certificates("test", pem).unwrap()
}

/// Whether a verifier that trusts `roots` accepts a chain, as a client's at `at`.
fn trusted(roots: &str, given: &[String], at: SystemTime) -> bool {
    use rustls::pki_types::UnixTime;
    let mut store = rustls::RootCertStore::empty();
    chain(roots).into_iter().for_each(|root| store.add(root).unwrap());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider).build().unwrap();
    let leaf = chain(&given[0]);
    let between: Vec<_> = given[1..given.len() - 1].iter().flat_map(|pem| chain(pem)).collect();
    let now = UnixTime::since_unix_epoch(at.duration_since(std::time::UNIX_EPOCH).unwrap());
    verifier.verify_client_cert(&leaf[0], &between, now).is_ok()
}

#[test]
fn a_certificate_says_who_and_for_how_long() {
    let dir = tempfile::tempdir().unwrap();
    let ca = authority(dir.path());
    let given = ca.sign(&web(), &request(&[]), Duration::from_secs(60), None).unwrap();
    assert_eq!(given.len(), 2);
    let leaf = chain(&given[0]);
    assert_eq!(Identity::of_certificate(&leaf[0]).unwrap(), web());
    let now = SystemTime::now();
    let bundle = ca.bundle().borrow().to_string();
    assert_eq!(given[1], bundle);
    assert!(trusted(&bundle, &given, now));
    assert!(trusted(&bundle, &given, now - Duration::from_secs(100)), "clocks that are behind");
    assert!(!trusted(&bundle, &given, now + Duration::from_secs(70)));
    let (_, parsed) = x509_parser::parse_x509_certificate(&leaf[0]).unwrap();
    assert!(parsed.subject_alternative_name().unwrap().unwrap().critical, "there is no subject");
    let other = authority(tempfile::tempdir().unwrap().path()).bundle().borrow().to_string();
    assert!(!trusted(&other, &given, now));
}

#[test]
fn no_certificate_is_good_for_longer_than_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let ca = authority(dir.path());
    let given = ca.sign(&web(), &request(&[]), Duration::from_secs(1000 * 24 * 3600), None).unwrap();
    let bundle = ca.bundle().borrow().to_string();
    let at = |days: u64| SystemTime::now() + Duration::from_secs(days * 24 * 3600);
    assert!(trusted(&bundle, &given, at(89)) && !trusted(&bundle, &given, at(91)));
    let usual = ca.sign(&web(), &request(&[]), Duration::ZERO, None).unwrap();
    assert!(!trusted(&bundle, &usual, at(2)));
    assert!(matches!(
        ca.sign(&web(), &request(&["spiffe://cluster.local/ns/default/sa/x"]), Duration::ZERO, None),
        Err(CaError::Request(CsrError::Names { .. }))
    ));
}

#[test]
fn an_authority_is_the_same_after_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, again) = (authority(dir.path()), authority(dir.path()));
    assert_eq!(*ca.bundle().borrow(), *again.bundle().borrow());
    assert_eq!(std::fs::read_to_string(ca.bundle_path()).unwrap(), **ca.bundle().borrow());
    let token = ca.mint_token("default", "web", Duration::from_secs(60)).unwrap();
    assert_eq!(again.verify_token(&token).unwrap(), web());
    assert!(matches!(ca.mint_token("default", "a/b", Duration::ZERO), Err(CaError::Name(_))));
}

/// An operator's authority: an intermediate under a root.
fn plug(place: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyUsagePurpose};
    let params = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
    };
    let root = CertifiedIssuer::self_signed(params("Root"), KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let between = params("Between").signed_by(&key, &root).unwrap();
    std::fs::create_dir_all(place).unwrap();
    std::fs::write(place.join("ca-cert.pem"), between.pem()).unwrap();
    std::fs::write(place.join("ca-key.pem"), key.serialize_pem()).unwrap();
    std::fs::write(place.join("root-cert.pem"), root.pem()).unwrap();
    std::fs::write(place.join("cert-chain.pem"), between.pem()).unwrap();
}

#[test]
fn the_operators_authority_signs() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("cacerts");
    plug(&place);
    let options = Options { plugged: Some(place.clone()), ..Options::new(dir.path().join("ca")) };
    let ca = Ca::open(options.clone()).unwrap();
    let given = ca.sign(&web(), &request(&[]), Duration::ZERO, None).unwrap();
    assert_eq!(given.len(), 3, "the certificate, its issuer, the root");
    let roots = std::fs::read_to_string(place.join("root-cert.pem")).unwrap();
    assert!(trusted(&roots, &given, SystemTime::now()));
    // Another one, while nobody looked: both are trusted.
    plug(&place);
    let ca = Ca::open(options.clone()).unwrap();
    assert_eq!(chain(&ca.bundle().borrow()).len(), 2);
    assert_eq!(ca.phase().0, Phase::Retiring);
    assert_eq!(chain(&Ca::open(options.clone()).unwrap().bundle().borrow()).len(), 2);
    let key = std::fs::read_to_string(place.join("ca-key.pem")).unwrap();
    std::fs::write(place.join("ca-key.pem"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let error = Ca::open(options).unwrap_err().to_string();
    assert!(error.contains("ca-key.pem does not belong to ca-cert.pem"), "{error}");
    assert!(!error.contains(key.lines().nth(1).unwrap()));
}

/// The operator replaces the authority under a control plane that runs, and adds a root.
#[tokio::test]
async fn the_operators_files_are_followed() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("cacerts");
    plug(&place);
    let settle = Duration::ZERO;
    let ca = Ca::open(Options { plugged: Some(place.clone()), settle, ..Options::new(dir.path().join("ca")) }).unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let task = tokio::spawn(ca.clone().tend(Proxies(Arc::new(Mutex::new(true))), stop.clone()));
    let before = ca.sign(&web(), &request(&[]), Duration::from_secs(60), None).unwrap();
    plug(&place);
    let roots = std::fs::read_to_string(place.join("root-cert.pem")).unwrap();
    let mut bundle = ca.bundle();
    let patience = Duration::from_secs(20);
    let trusted_by_new = |given: &[String]| trusted(&roots, given, SystemTime::now());
    tokio::time::timeout(patience, async {
        while !trusted_by_new(&ca.sign(&web(), &request(&[]), Duration::from_secs(60), None).unwrap()) {
            bundle.changed().await.unwrap();
        }
    })
    .await
    .expect("the new authority signs");
    assert!(trusted(&ca.bundle().borrow(), &before, SystemTime::now()), "what the old one has signed is good");
    // Another root beside the first: whoever is signed by either is trusted.
    let more = rcgen_root();
    std::fs::write(place.join("root-cert.pem"), format!("{roots}{more}")).unwrap();
    let added = async {
        while !ca.bundle().borrow().contains(more.trim()) {
            bundle.changed().await.unwrap()
        }
    };
    tokio::time::timeout(patience, added).await.expect("the added root is trusted");
    stop.cancel();
    task.await.unwrap();
}

fn rcgen_root() -> String {
    authority::Authority::self_signed("other", SystemTime::now()).unwrap().0.replace("\r\n", "\n")
}

/// Proxies that have accepted, or not.
struct Proxies(Arc<Mutex<bool>>);

impl Acknowledged for Proxies {
    fn for_how_long(&self, _: &str) -> Option<Duration> {
        self.0.lock().then_some(Duration::MAX)
    }
}

#[tokio::test]
async fn a_root_is_replaced_when_all_proxies_trust_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let ca = authority(dir.path());
    let (accepted, stop) = (Arc::new(Mutex::new(false)), tokio_util::sync::CancellationToken::new());
    let task = tokio::spawn(ca.clone().tend(Proxies(accepted.clone()), stop.clone()));
    let mut bundle = ca.bundle();
    let mut next = async || {
        tokio::time::timeout(Duration::from_secs(20), bundle.changed()).await.expect("a change").unwrap();
        chain(&bundle.borrow_and_update()).len()
    };
    let before = ca.sign(&web(), &request(&[]), Duration::from_secs(3), Some("1")).unwrap();
    Ca::request_rotation(&dir.path().join("ca")).unwrap();
    assert_eq!(next().await, 2);
    assert!(Ca::request_rotation(&dir.path().join("ca")).is_err(), "one at a time");
    let during = ca.sign(&web(), &request(&[]), Duration::from_secs(3), Some("1")).unwrap();
    let old = before.last().unwrap();
    assert!(trusted(old, &during, SystemTime::now()), "not everybody trusts the new one");
    *accepted.lock() = true;
    // The order in the bundle changes with who signs.
    assert_eq!(next().await, 2);
    let after = ca.sign(&web(), &request(&[]), Duration::from_secs(60), Some("1")).unwrap();
    assert!(!trusted(old, &after, SystemTime::now()));
    assert!(trusted(after.last().unwrap(), &before, SystemTime::now()), "the old one is trusted for a while");
    assert_eq!(next().await, 1);
    assert_eq!(ca.phase(), (Phase::Steady, 1));
    let again = authority(dir.path());
    assert_eq!(*again.bundle().borrow(), *ca.bundle().borrow());
    stop.cancel();
    task.await.unwrap();
}
