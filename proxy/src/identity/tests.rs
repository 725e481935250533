use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, IsCa};

use super::request::{KeyPair, accept};
use crate::config::KeyType;

const WEB: &str = "spiffe://cluster.local/ns/default/sa/web";

#[test]
fn a_request_is_what_an_authority_reads() {
    for of in [KeyType::P256, KeyType::P384] {
        let key = KeyPair::generate(of).unwrap();
        // It is signed by its key, and names the workload: rcgen checks the first.
        let request = CertificateSigningRequestParams::from_pem(&key.request(WEB).unwrap()).unwrap();
        let names = &request.params.subject_alt_names;
        assert!(matches!(&names[..], [rcgen::SanType::URI(uri)] if uri.as_str() == WEB), "{names:?}");

        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
        let chain = [request.signed_by(&ca).unwrap().pem(), ca.pem()];
        let other = KeyPair::generate(of).unwrap();
        assert!(accept(&chain, other, WEB, 1).unwrap_err().contains("another key"));
        let key_pem = accept(&chain, key, WEB, 1).unwrap().key;
        assert!(rcgen::KeyPair::from_pem(std::str::from_utf8(&key_pem).unwrap()).is_ok());
    }
}

#[test]
fn a_certificate_for_somebody_else_is_not_taken() {
    let key = KeyPair::generate(KeyType::P256).unwrap();
    let request = CertificateSigningRequestParams::from_pem(&key.request("spiffe://cluster.local/ns/a/sa/b").unwrap());
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
    let chain = [request.unwrap().signed_by(&ca).unwrap().pem(), ca.pem()];
    assert!(accept(&chain, key, WEB, 1).unwrap_err().contains("not for spiffe://cluster.local/ns/default/sa/web"));
    for bad in [&[][..], &chain[..1], &["a".to_owned(), "b".to_owned()]] {
        assert!(accept(bad, KeyPair::generate(KeyType::P256).unwrap(), WEB, 1).is_err());
    }
}
