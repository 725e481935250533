//! Whether a peer's certificate is acceptable, by Envoy's rules.
//!
//! Holds one validation context, resolved; knows nothing of handshakes. Runs on: workers verify; the control thread builds.

use std::collections::HashMap;

use aws_lc_rs::digest;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{CertificateError, DistinguishedName, OtherError};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::inputs::{Inputs, name_of};
use super::trust::{Purpose, Rules, TrustStore};
use super::{reason, san};
use crate::config::{CertificateValidation, ConfigError, SanKind, SanMatcher};
use crate::stream_info::PeerCertificate;

/// A validation context, ready for use.
#[derive(Debug, Default)]
pub(super) struct Validator {
    trusted: Option<TrustStore>,
    spiffe: Option<HashMap<String, TrustStore>>,
    sans: Vec<SanMatcher>,
    spki_hashes: Vec<[u8; 32]>,
    certificate_hashes: Vec<[u8; 32]>,
    rules: Rules,
    accept_untrusted: bool,
    /// The file of the trusted authorities, for `/certs`.
    pub(super) path: String,
}

/// Names a certificate must have besides what the validation context asks.
#[derive(Debug, Clone, Default)]
pub(super) struct NameRules {
    /// One of these must be among its names; they take precedence over `dns`.
    pub(super) any_of: Vec<String>,
    /// This DNS name, in place of the configured matchers.
    pub(super) dns: Option<String>,
}

/// A certificate that is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was checked and is good.
    Validated,
    /// There was nothing to check it by.
    Unchecked,
    /// It is bad, and accepted all the same (`ACCEPT_UNTRUSTED`).
    Tolerated(Stage),
}

/// Why a certificate was refused.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) stage: Stage,
    /// Envoy's words.
    pub(super) text: String,
    /// Decides the alert.
    pub(super) error: CertificateError,
}

/// What refused it; each has its counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The chain.
    Chain,
    /// The names.
    San,
    /// The pinned hashes.
    Hash,
}

impl Validator {
    /// Reads what the context refers to. `field` says where it is, in errors.
    ///
    /// # Errors
    /// A file that cannot be read or parsed.
    pub(super) fn build(config: &CertificateValidation, inputs: &mut Inputs, field: &str) -> Result<Self, ConfigError> {
        let at = |part: &str| format!("{field}.{part}");
        if let Some(dir) = &config.watched_directory {
            inputs.watch_directory(dir);
        }
        let mut out = Validator {
            sans: config.subject_alt_names.clone(),
            spki_hashes: config.spki_hashes.clone(),
            certificate_hashes: config.certificate_hashes.clone(),
            accept_untrusted: config.accept_untrusted,
            rules: Rules {
                allow_expired: config.allow_expired,
                only_leaf_crl: config.only_verify_leaf_crl,
                // Envoy's number counts the anchor.
                max_intermediates: config.max_verify_depth.map(|d| (d as usize).saturating_sub(1)),
            },
            ..Validator::default()
        };
        if let Some(ca) = &config.trusted_ca {
            let field = at("trusted_ca");
            let bad = |cause| {
                let text = format!("Failed to load trusted CA certificates from {}: {cause}", name_of(ca));
                ConfigError::at(&field, text)
            };
            let mut store = TrustStore::from_pem(&inputs.read(ca, &field)?, false).map_err(bad)?;
            name_of(ca).clone_into(&mut out.path);
            if let Some(crl) = &config.crl {
                let field = at("crl");
                let pem = inputs.read(crl, &field)?;
                store.add_crls(&pem).map_err(|cause| {
                    ConfigError::at(&field, format!("Failed to load CRL from {}: {cause}", name_of(crl)))
                })?;
            }
            out.trusted = Some(store);
        }
        if !config.spiffe_trust_domains.is_empty() {
            out.build_spiffe(config, inputs, field)?;
        }
        Ok(out)
    }

    fn build_spiffe(
        &mut self,
        config: &CertificateValidation,
        inputs: &mut Inputs,
        field: &str,
    ) -> Result<(), ConfigError> {
        // Only URIs say who a SPIFFE workload is.
        self.sans.retain(|m| m.kind == SanKind::Uri);
        let mut stores = HashMap::new();
        for (domain, bundle) in &config.spiffe_trust_domains {
            let field = format!("{field}.custom_validator_config.trust_domains[{domain}].trust_bundle");
            let bad =
                |cause| ConfigError::at(&field, format!("Failed to load trusted CA certificate for {domain}: {cause}"));
            let store = TrustStore::from_pem(&inputs.read(bundle, &field)?, true).map_err(bad)?;
            if self.path.is_empty() {
                self.path = format!("{domain}: {}", name_of(bundle));
            }
            if stores.insert(domain.clone(), store).is_some() {
                let text = format!("Multiple trust bundles are given for one trust domain for {domain}");
                return Err(ConfigError::at(field, text));
            }
        }
        self.spiffe = Some(stores);
        Ok(())
    }

    /// Whether a client is asked for a certificate at all.
    pub(super) fn wants_certificate(&self) -> bool {
        self.trusted.is_some() || self.spiffe.is_some() || self.pins() || self.accept_untrusted
    }

    /// Whether a client without a certificate is refused; `required`: `require_client_certificate`, which counts only
    /// where there are trusted authorities, as in Envoy.
    pub(super) fn needs_certificate(&self, required: bool) -> bool {
        self.spiffe.is_some() || (self.pins() && !self.accept_untrusted) || (required && self.trusted.is_some())
    }

    /// Whether authorities are there to lead a chain to.
    pub(super) fn has_authorities(&self) -> bool {
        self.trusted.is_some() || self.spiffe.is_some()
    }

    fn pins(&self) -> bool {
        !self.sans.is_empty() || !self.spki_hashes.is_empty() || !self.certificate_hashes.is_empty()
    }

    /// Names of the trusted authorities, for the certificate request.
    pub(super) fn subjects(&self) -> Vec<DistinguishedName> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        for cert in self.certificates() {
            let parsed = X509Certificate::from_der(cert);
            let name = parsed.map(|(_, c)| c.subject().as_raw().to_vec()).unwrap_or_default();
            if !name.is_empty() && !names.contains(&name) {
                names.push(name);
            }
        }
        names.into_iter().map(DistinguishedName::from).collect()
    }

    /// The trusted certificates.
    pub(super) fn certificates(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        let spiffe = self.spiffe.iter().flat_map(HashMap::values);
        self.trusted.iter().chain(spiffe).flat_map(TrustStore::certificates)
    }

    /// Verifies a chain, leaf first, whose leaf says `facts`.
    ///
    /// # Errors
    /// Why it is refused.
    pub(super) fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        facts: &PeerCertificate,
        purpose: Purpose,
        names: &NameRules,
        now: UnixTime,
    ) -> Result<Verdict, Refusal> {
        let result = match (&self.spiffe, &self.trusted) {
            (Some(domains), _) => self.verify_spiffe(domains, chain, facts, purpose, now).map(|()| true),
            (None, Some(store)) => store
                .verify(chain, purpose, self.rules, now, algorithms())
                .map_err(|e| chain_refusal(e, chain))
                .and_then(|()| self.verify_pins(chain, facts, names))
                .map(|_| true),
            (None, None) => self.verify_pins(chain, facts, names),
        };
        match result {
            Ok(true) => Ok(Verdict::Validated),
            // As Envoy, which does not even look at the certificate then.
            Ok(false) => Ok(Verdict::Unchecked),
            Err(refusal) if self.accept_untrusted && self.spiffe.is_none() => Ok(Verdict::Tolerated(refusal.stage)),
            Err(refusal) => Err(refusal),
        }
    }

    /// Names and hashes; whether there was any to check.
    fn verify_pins(
        &self,
        chain: &[CertificateDer<'_>],
        facts: &PeerCertificate,
        names: &NameRules,
    ) -> Result<bool, Refusal> {
        let refuse = |stage, text| Refusal { stage, text, error: CertificateError::Other(OtherError(no_detail())) };
        let mut checked = false;
        if !names.any_of.is_empty() {
            if !san::any_named(&names.any_of, facts) {
                let text = format!(
                    "verify cert failed: verify SAN list, expected SANs: [{}], certificate SANs: [{}]",
                    names.any_of.join(", "),
                    san::listed(facts)
                );
                return Err(refuse(Stage::San, text));
            }
            checked = true;
        }
        let by_name = names.dns.as_deref().filter(|_| names.any_of.is_empty());
        let san_matches = match by_name {
            Some(dns) => Some(san::names_dns(dns, facts)),
            None if !self.sans.is_empty() => Some(san::any_matches(&self.sans, facts)),
            None => None,
        };
        match san_matches {
            Some(false) => {
                let text = format!("verify cert failed: SAN matcher, certificate SANs are [{}]", san::listed(facts));
                return Err(refuse(Stage::San, text));
            }
            Some(true) => checked = true,
            None => {}
        }
        if !self.certificate_hashes.is_empty() || !self.spki_hashes.is_empty() {
            if !self.hash_matches(chain) {
                return Err(refuse(Stage::Hash, "verify cert failed: cert hash and spki".to_owned()));
            }
            checked = true;
        }
        Ok(checked)
    }

    fn hash_matches(&self, chain: &[CertificateDer<'_>]) -> bool {
        let Some(leaf) = chain.first() else { return false };
        let is_in = |list: &[[u8; 32]], octets: &[u8]| {
            let hash = digest::digest(&digest::SHA256, octets);
            list.iter().any(|h| h == hash.as_ref())
        };
        is_in(&self.certificate_hashes, leaf)
            || (!self.spki_hashes.is_empty()
                && X509Certificate::from_der(leaf)
                    .is_ok_and(|(_, cert)| is_in(&self.spki_hashes, cert.public_key().raw)))
    }

    fn verify_spiffe(
        &self,
        domains: &HashMap<String, TrustStore>,
        chain: &[CertificateDer<'_>],
        facts: &PeerCertificate,
        purpose: Purpose,
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let refuse = |text: &str| Refusal {
            stage: Stage::Chain,
            text: format!("verify cert failed: {text}"),
            error: CertificateError::Other(OtherError(no_detail())),
        };
        if !chain.first().is_some_and(|leaf| is_svid_leaf(leaf)) {
            return Err(refuse("cert precheck"));
        }
        let domain = facts.uri_sans.first().and_then(|uri| uri.strip_prefix("spiffe://")?.split_once('/'));
        let store = domain.and_then(|(domain, _)| domains.get(domain));
        let store = store.ok_or_else(|| refuse("no trust bundle store"))?;
        store.verify(chain, purpose, self.rules, now, algorithms()).map_err(|e| chain_refusal(e, chain))?;
        if !self.sans.is_empty() && !san::any_matches(&self.sans, facts) {
            return Err(Refusal { stage: Stage::San, ..refuse("SAN match") });
        }
        Ok(())
    }
}

/// A SPIFFE leaf is no authority, and says so in a key usage it must have.
fn is_svid_leaf(leaf: &CertificateDer<'_>) -> bool {
    let Ok((_, cert)) = X509Certificate::from_der(leaf) else { return false };
    let usage = cert.key_usage().ok().flatten();
    !cert.is_ca() && usage.is_some_and(|u| !u.value.key_cert_sign() && !u.value.crl_sign())
}

fn chain_refusal(error: webpki::Error, chain: &[CertificateDer<'_>]) -> Refusal {
    let (text, error) = reason::x509(error, chain);
    Refusal { stage: Stage::Chain, text: format!("verify cert failed: X509_verify_cert: {text}"), error }
}

fn algorithms() -> &'static [&'static dyn rustls::pki_types::SignatureVerificationAlgorithm] {
    super::verify::supported().all
}

/// The text travels beside the error, which only decides the alert.
fn no_detail() -> std::sync::Arc<dyn std::error::Error + Send + Sync> {
    std::sync::Arc::from(Box::<dyn std::error::Error + Send + Sync>::from("see the transport failure reason"))
}
