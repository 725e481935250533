//! Trusted authorities, and whether a chain leads to one of them.
//!
//! The path building is webpki's. Around it are the cases BoringSSL accepts and webpki does not, because configuration that
//! works with Envoy has them: a peer whose very certificate is trusted, certificates of X.509 version 1, and leaves that are
//! marked as authorities. Runs on: workers verify; the control thread builds.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime,
};
use webpki::{
    CertRevocationList, EndEntityCert, Error, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::{FromDer, X509Version};

use super::der::{Der, SEQUENCE};

/// A set of authorities with what goes with it.
pub(super) struct TrustStore {
    /// Every trusted certificate as it is: a peer may present one of them itself.
    certificates: Vec<CertificateDer<'static>>,
    /// Those that may issue others.
    anchors: Vec<TrustAnchor<'static>>,
    /// Validity of each anchor, in seconds since 1970.
    validity: Vec<(i64, i64)>,
    crls: Vec<CertRevocationList<'static>>,
}

/// How strictly a chain is checked.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rules {
    /// Times of certificates and revocation lists do not matter.
    pub(super) allow_expired: bool,
    /// Only the leaf is looked up in revocation lists.
    pub(super) only_leaf_crl: bool,
    /// Certificates allowed between leaf and anchor.
    pub(super) max_intermediates: Option<usize>,
}

/// Which side's certificate it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// We are the server.
    Client,
    /// We are the client.
    Server,
}

impl TrustStore {
    /// Out of PEM: certificates, and revocation lists among them. `self_issued_only`: others are no anchors.
    ///
    /// # Errors
    /// Malformed, or there is no certificate.
    pub(super) fn from_pem(pem: &[u8], self_issued_only: bool) -> Result<Self, &'static str> {
        let mut store =
            TrustStore { certificates: Vec::new(), anchors: Vec::new(), validity: Vec::new(), crls: Vec::new() };
        for cert in CertificateDer::pem_slice_iter(pem) {
            store.add(cert.map_err(|_| "malformed PEM")?, self_issued_only)?;
        }
        store.add_crls(pem)?;
        if store.certificates.is_empty() { Err("no certificate in it") } else { Ok(store) }
    }

    fn add(&mut self, cert: CertificateDer<'static>, self_issued_only: bool) -> Result<(), &'static str> {
        let (_, parsed) = X509Certificate::from_der(&cert).map_err(|_| "malformed certificate")?;
        let self_issued = parsed.issuer().as_raw() == parsed.subject().as_raw();
        if may_issue(&parsed, self_issued) && (self_issued || !self_issued_only) {
            let anchor = webpki::anchor_from_trusted_cert(&cert).map_err(|_| "malformed certificate")?;
            self.anchors.push(anchor.to_owned());
            let validity = parsed.validity();
            self.validity.push((validity.not_before.timestamp(), validity.not_after.timestamp()));
        }
        self.certificates.push(cert);
        Ok(())
    }

    /// Adds the revocation lists of a PEM file; from then on every chain must be covered by one.
    ///
    /// # Errors
    /// Malformed.
    pub(super) fn add_crls(&mut self, pem: &[u8]) -> Result<(), &'static str> {
        for crl in CertificateRevocationListDer::pem_slice_iter(pem) {
            let crl = crl.map_err(|_| "malformed PEM")?;
            let crl = OwnedCertRevocationList::from_der(&crl).map_err(|_| "malformed revocation list")?;
            self.crls.push(crl.into());
        }
        Ok(())
    }

    /// Every trusted certificate.
    pub(super) fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// Whether `chain`, leaf first, leads to an anchor.
    ///
    /// # Errors
    /// webpki's error for the best path there was.
    pub(super) fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        purpose: Purpose,
        rules: Rules,
        now: UnixTime,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
    ) -> Result<(), Error> {
        let (leaf, intermediates) = chain.split_first().ok_or(Error::UnknownIssuer)?;
        if self.crls.is_empty() && self.certificates.iter().any(|c| c == leaf) {
            return self.verify_trusted_leaf(leaf, purpose, rules, now);
        }
        let result = self.verify_path(leaf, intermediates, purpose, rules, now, algorithms);
        match result {
            Err(Error::CertExpired { .. } | Error::CertNotValidYet { .. }) if rules.allow_expired => self
                .times_within(chain)
                .map(|then| self.verify_path(leaf, intermediates, purpose, rules, then, algorithms))
                .find(Result::is_ok)
                .unwrap_or(result),
            Err(e @ (Error::UnsupportedCertVersion | Error::CaUsedAsEndEntity)) => {
                self.verify_direct(leaf, purpose, rules, now, algorithms).map_err(|direct| direct.unwrap_or(e))
            }
            result => result,
        }
    }

    fn verify_path(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        purpose: Purpose,
        rules: Rules,
        now: UnixTime,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
    ) -> Result<(), Error> {
        let usage = match purpose {
            Purpose::Client => KeyUsage::client_auth(),
            Purpose::Server => KeyUsage::server_auth(),
        };
        let crls: Vec<_> = self.crls.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&crls).ok().map(|options| {
            let depth = if rules.only_leaf_crl { RevocationCheckDepth::EndEntity } else { RevocationCheckDepth::Chain };
            let expiry = if rules.allow_expired { ExpirationPolicy::Ignore } else { ExpirationPolicy::Enforce };
            options
                .with_depth(depth)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(expiry)
                .build()
        });
        let check = |path: &VerifiedPath<'_>| self.check_path(path, rules, now);
        EndEntityCert::try_from(leaf)?
            .verify_for_usage(algorithms, &self.anchors, intermediates, now, usage, revocation, Some(&check))
            .map(|_| ())
    }

    /// What webpki leaves out: the anchor's own validity, and the length we allow.
    fn check_path(&self, path: &VerifiedPath<'_>, rules: Rules, now: UnixTime) -> Result<(), Error> {
        if rules.max_intermediates.is_some_and(|max| path.intermediate_certificates().count() > max) {
            return Err(Error::MaximumPathDepthExceeded);
        }
        let anchor = path.anchor();
        let same = |a: &TrustAnchor<'_>| {
            a.subject == anchor.subject && a.subject_public_key_info == anchor.subject_public_key_info
        };
        // The same authority may be there twice, renewed under the same key: any valid one will do.
        let validity = || self.anchors.iter().zip(&self.validity).filter(|(a, _)| same(a)).map(|(_, v)| *v);
        if rules.allow_expired || validity().any(|v| check_time(v, now).is_ok()) {
            return Ok(());
        }
        validity().next().map_or(Err(Error::UnknownIssuer), |v| check_time(v, now))
    }

    /// Moments at which the certificates of a chain are valid, to verify the rest of it where time does not matter.
    fn times_within<'a>(&self, chain: &'a [CertificateDer<'_>]) -> impl Iterator<Item = UnixTime> + 'a {
        let times = chain
            .iter()
            .filter_map(|c| X509Certificate::from_der(c).ok())
            .flat_map(|(_, c)| [c.validity().not_before.timestamp(), c.validity().not_after.timestamp()]);
        times
            .filter_map(|t| u64::try_from(t).ok())
            .map(|t| UnixTime::since_unix_epoch(std::time::Duration::from_secs(t)))
    }

    /// A peer that presents a trusted certificate itself.
    fn verify_trusted_leaf(
        &self,
        leaf: &CertificateDer<'_>,
        purpose: Purpose,
        rules: Rules,
        now: UnixTime,
    ) -> Result<(), Error> {
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| Error::BadDer)?;
        check_leaf(&parsed, purpose, rules, now)
    }

    /// A leaf webpki does not take for its form, signed by an anchor with nothing in between. `Err(None)`: no opinion.
    fn verify_direct(
        &self,
        leaf: &CertificateDer<'_>,
        purpose: Purpose,
        rules: Rules,
        now: UnixTime,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
    ) -> Result<(), Option<Error>> {
        if !self.crls.is_empty() {
            return Err(None);
        }
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| Some(Error::BadDer))?;
        let issuer = Der::new(parsed.issuer().as_raw()).expect(SEQUENCE).ok_or(Some(Error::BadDer))?;
        let issued_by = |a: &TrustAnchor<'_>| a.name_constraints.is_none() && a.subject.as_ref() == issuer;
        let signed = self
            .anchors
            .iter()
            .zip(&self.validity)
            .filter(|(a, v)| issued_by(a) && (rules.allow_expired || check_time(**v, now).is_ok()))
            .any(|(a, _)| signed_by(leaf, &a.subject_public_key_info, algorithms).is_some());
        if !signed {
            return Err(Some(Error::UnknownIssuer));
        }
        check_leaf(&parsed, purpose, rules, now).map_err(Some)
    }
}

impl std::fmt::Debug for TrustStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TrustStore({} certificates, {} lists)", self.certificates.len(), self.crls.len())
    }
}

/// Whether a trusted certificate may issue others: one that is pinned as a leaf must not.
fn may_issue(cert: &X509Certificate<'_>, self_issued: bool) -> bool {
    if cert.version() == X509Version::V1 {
        return self_issued;
    }
    let signs = cert.key_usage().ok().flatten().is_none_or(|usage| usage.value.key_cert_sign());
    signs && cert.is_ca()
}

fn check_leaf(leaf: &X509Certificate<'_>, purpose: Purpose, rules: Rules, now: UnixTime) -> Result<(), Error> {
    let validity = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
    if !rules.allow_expired {
        check_time(validity, now)?;
    }
    let usage = leaf.extended_key_usage().map_err(|_| Error::MalformedExtensions)?;
    let fits = usage.is_none_or(|u| match purpose {
        Purpose::Client => u.value.client_auth || u.value.any,
        Purpose::Server => u.value.server_auth || u.value.any,
    });
    #[allow(deprecated, reason = "the variant with context can only be made by webpki")]
    if fits { Ok(()) } else { Err(Error::RequiredEkuNotFound) }
}

fn check_time((not_before, not_after): (i64, i64), now: UnixTime) -> Result<(), Error> {
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let time = |t: i64| UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(t).unwrap_or(0)));
    if seconds < not_before {
        Err(Error::CertNotValidYet { time: now, not_before: time(not_before) })
    } else if seconds > not_after {
        Err(Error::CertExpired { time: now, not_after: time(not_after) })
    } else {
        Ok(())
    }
}

/// Whether `cert` is signed with the key of `spki` (without its outer sequence), by any of the algorithms.
fn signed_by(cert: &[u8], spki: &[u8], algorithms: &[&dyn SignatureVerificationAlgorithm]) -> Option<()> {
    let mut outer = Der::new(cert).enter(SEQUENCE)?;
    let signed = outer.any().filter(|e| e.tag == SEQUENCE)?.raw;
    let signature_algorithm = outer.expect(SEQUENCE)?;
    let signature = outer.octet_bits()?;
    let mut spki = Der::new(spki);
    let key_algorithm = spki.expect(SEQUENCE)?;
    let key = spki.octet_bits()?;
    let fits = |a: &&&dyn SignatureVerificationAlgorithm| {
        a.signature_alg_id().as_ref() == signature_algorithm && a.public_key_alg_id().as_ref() == key_algorithm
    };
    algorithms.iter().filter(fits).any(|a| a.verify_signature(key, signed, signature).is_ok()).then_some(())
}

/// Verifies a handshake signature made with the key of a certificate that webpki does not parse.
pub(super) fn handshake_signature(
    cert: &[u8],
    message: &[u8],
    signature: &[u8],
    algorithms: &[&dyn SignatureVerificationAlgorithm],
) -> Option<()> {
    let (_, parsed) = X509Certificate::from_der(cert).ok()?;
    let mut spki = Der::new(parsed.public_key().raw).enter(SEQUENCE)?;
    let key_algorithm = spki.expect(SEQUENCE)?;
    let key = spki.octet_bits()?;
    let fits = |a: &&&dyn SignatureVerificationAlgorithm| a.public_key_alg_id().as_ref() == key_algorithm;
    algorithms.iter().filter(fits).any(|a| a.verify_signature(key, message, signature).is_ok()).then_some(())
}
