//! What server and client contexts have in common: certificates and trust, resolved from configuration and secrets.
//!
//! Runs on: the control thread.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::SignatureScheme;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;

use super::identity::{self, Identity};
use super::inputs::{Inputs, Watch};
use super::secrets::SecretProvider;
use super::stats::TlsStats;
use super::validator::Validator;
use super::{facts, names};
use crate::config::{
    CertificateSource, CertificateValidation, CommonTls, ConfigError, SdsConfig, SecretKind, TlsCertificate,
    ValidationSource,
};
use tracing::warn;

use crate::stats::Gauge;
use crate::stream_info::PeerCertificate;

/// One build of a context's material.
pub(super) struct Material {
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) schemes: Vec<SignatureScheme>,
    pub(super) identities: Arc<[Identity]>,
    pub(super) validator: Arc<Validator>,
    /// Of everything read: equal digests mean an equal context.
    pub(super) digest: [u8; 32],
    /// Of what decides who is let in.
    pub(super) trust_digest: [u8; 32],
    pub(super) watches: Vec<Watch>,
    /// Keeps the expiry gauges shown.
    pub(super) gauges: Vec<Gauge>,
}

/// Why there is no material.
pub(super) enum Missing {
    /// A secret has not been delivered yet. Its arrival is to be watched for here.
    Secret(Vec<Watch>),
    /// Configuration, or what it refers to, is wrong.
    Wrong(ConfigError, Vec<Watch>),
}

/// Resolves and reads everything a context is made of.
///
/// # Errors
/// See [`Missing`].
pub(super) fn read(common: &CommonTls, secrets: &SecretProvider, stats: &TlsStats) -> Result<Material, Missing> {
    let (mut inputs, mut trust) = (Inputs::new(), Inputs::new());
    match read_all(common, secrets, &mut inputs, &mut trust) {
        Ok(Some((provider, schemes, identities, validator))) => {
            let (own_digest, mut watches) = inputs.finish();
            let (trust_digest, more) = trust.finish();
            watches.extend(more);
            let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
            digest.update(&own_digest);
            digest.update(&trust_digest);
            let mut both = [0; 32];
            both.copy_from_slice(digest.finish().as_ref());
            let gauges = gauges(&identities, &validator, stats);
            Ok(Material {
                provider: Arc::new(provider),
                schemes,
                identities: identities.into_iter().map(|(_, i)| i).collect(),
                validator: Arc::new(validator),
                digest: both,
                trust_digest,
                watches,
                gauges,
            })
        }
        Ok(None) => Err(Missing::Secret(all_watches(inputs, trust))),
        Err(e) => Err(Missing::Wrong(e, all_watches(inputs, trust))),
    }
}

fn all_watches(inputs: Inputs, trust: Inputs) -> Vec<Watch> {
    [inputs.finish().1, trust.finish().1].concat()
}

type Parts = (CryptoProvider, Vec<SignatureScheme>, Vec<(String, Identity)>, Validator);

/// `None`: a secret is not there yet.
fn read_all(
    common: &CommonTls,
    secrets: &SecretProvider,
    inputs: &mut Inputs,
    trust: &mut Inputs,
) -> Result<Option<Parts>, ConfigError> {
    let provider = names::provider(&common.params)?;
    let schemes = names::signature_schemes(&common.params)?;
    let mut identities = Vec::new();
    let mut complete = true;
    for (i, source) in common.certificates.iter().enumerate() {
        let Some((name, certificate)) = certificate(source, secrets, inputs)? else {
            complete = false;
            continue;
        };
        let field = match source {
            CertificateSource::Inline(_) => format!("common_tls_context.tls_certificates[{i}]"),
            CertificateSource::Sds(sds) => format!("secret {}", sds.name),
        };
        identities.push((name, identity::load(&certificate, &provider, &schemes, inputs, &field)?));
        inputs.follow_files = false;
    }
    let Some(validation) = validation(common.validation.as_ref(), secrets, trust)? else { return Ok(None) };
    let field = match &common.validation {
        Some(ValidationSource::Sds(sds) | ValidationSource::Combined(_, sds)) => format!("secret {}", sds.name),
        _ => "common_tls_context.validation_context".to_owned(),
    };
    let validator = Validator::build(&validation, trust, &field)?;
    // The rest of the rules is not read from anywhere, but decides who is let in all the same.
    trust.note(&format!("{validation:?}"));
    Ok(complete.then_some((provider, schemes, identities, validator)))
}

/// `None`: not delivered yet.
fn certificate(
    source: &CertificateSource,
    secrets: &SecretProvider,
    inputs: &mut Inputs,
) -> Result<Option<(String, TlsCertificate)>, ConfigError> {
    match source {
        CertificateSource::Inline(certificate) => Ok(Some((String::new(), certificate.clone()))),
        CertificateSource::Sds(sds) => {
            inputs.watches.extend(super::secrets::watch_of(sds));
            inputs.follow_files = true;
            let Some(secret) = secrets.secret(sds)? else { return Ok(None) };
            match &secret.kind {
                SecretKind::Certificate(certificate) => Ok(Some((sds.name.clone(), certificate.clone()))),
                _ => Err(ConfigError::at(
                    format!("secret {}", sds.name),
                    format!("secret {} is not a TLS certificate", sds.name),
                )),
            }
        }
    }
}

/// `None`: not delivered yet.
fn validation(
    source: Option<&ValidationSource>,
    secrets: &SecretProvider,
    inputs: &mut Inputs,
) -> Result<Option<CertificateValidation>, ConfigError> {
    let (default, sds) = match source {
        None => return Ok(Some(CertificateValidation::default())),
        Some(ValidationSource::Inline(validation)) => return Ok(Some((**validation).clone())),
        Some(ValidationSource::Sds(sds)) => (None, sds),
        Some(ValidationSource::Combined(default, sds)) => (Some(default), sds),
    };
    inputs.watches.extend(super::secrets::watch_of(sds));
    inputs.follow_files = true;
    let Some(secret) = secrets.secret(sds)? else { return Ok(None) };
    let SecretKind::Validation(delivered) = &secret.kind else {
        return Err(ConfigError::at(
            format!("secret {}", sds.name),
            format!("secret {} is not a validation context", sds.name),
        ));
    };
    Ok(Some(match default {
        None => (**delivered).clone(),
        Some(default) => merged(default, delivered),
    }))
}

/// As protobuf merges: what is set replaces, lists are joined.
fn merged(default: &CertificateValidation, over: &CertificateValidation) -> CertificateValidation {
    let mut out = default.clone();
    out.trusted_ca = over.trusted_ca.clone().or(out.trusted_ca);
    out.watched_directory = over.watched_directory.clone().or(out.watched_directory);
    out.subject_alt_names.extend(over.subject_alt_names.iter().cloned());
    out.spki_hashes.extend(&over.spki_hashes);
    out.certificate_hashes.extend(&over.certificate_hashes);
    out.crl = over.crl.clone().or(out.crl);
    out.only_verify_leaf_crl |= over.only_verify_leaf_crl;
    out.allow_expired |= over.allow_expired;
    out.accept_untrusted |= over.accept_untrusted;
    out.max_verify_depth = over.max_verify_depth.or(out.max_verify_depth);
    if !over.spiffe_trust_domains.is_empty() {
        out.spiffe_trust_domains.clone_from(&over.spiffe_trust_domains);
    }
    out
}

/// `certificate.<name>.expiration_unix_time_seconds`. Names of certificates without one are Envoy's: a hash of nothing.
fn gauges(identities: &[(String, Identity)], validator: &Validator, stats: &TlsStats) -> Vec<Gauge> {
    let seconds = |facts: &PeerCertificate| {
        facts.not_after.and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_secs())
    };
    let named = |name: &str| if name.is_empty() { "unnamed_cert_e3b0c442".to_owned() } else { name.to_owned() };
    let mut out: Vec<Gauge> =
        identities.iter().map(|(name, i)| stats.expiration(&named(name), seconds(&i.facts))).collect();
    let ca = validator.certificates().next().and_then(|ca| facts::read(std::slice::from_ref(ca)));
    out.extend(ca.map(|ca| stats.expiration("unnamed_ca_cert_e3b0c442", seconds(&ca))));
    out
}

/// A certificate in use, for `/certs`. **Source**: `envoy.admin.v3.CertificateDetails`.
#[derive(Debug, Clone, PartialEq)]
pub struct CertificateDetails {
    /// The file, or `<inline>`.
    pub path: String,
    /// Serial number, lower-case hex.
    pub serial: String,
    /// Names: kind (`dns`, `uri`, `ip_address`) and value.
    pub names: Vec<(&'static str, String)>,
    /// Whole days until it ends; 0 once it has.
    pub days_until_expiration: u64,
    /// Start of validity.
    pub valid_from: Option<SystemTime>,
    /// End of validity.
    pub expires: Option<SystemTime>,
}

/// The certificates of one TLS context. **Source**: `envoy.admin.v3.Certificate`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ContextCertificates {
    /// Trusted authorities (Envoy shows the first only).
    pub ca: Vec<CertificateDetails>,
    /// Our own.
    pub own: Vec<CertificateDetails>,
}

/// What `/certs` shows of a context at `now`.
pub(super) fn certificates(identities: &[Identity], validator: &Validator, now: SystemTime) -> ContextCertificates {
    let read = |der: &CertificateDer<'_>| facts::read(std::slice::from_ref(der));
    ContextCertificates {
        ca: validator.certificates().filter_map(read).map(|f| details(&validator.path, &f, now)).collect(),
        own: identities.iter().map(|i| details(&i.path, &i.facts, now)).collect(),
    }
}

fn details(path: &str, facts: &PeerCertificate, now: SystemTime) -> CertificateDetails {
    let left = facts.not_after.and_then(|end| end.duration_since(now).ok()).unwrap_or(Duration::ZERO);
    let named = |kind, list: &[String]| list.iter().map(move |n| (kind, n.clone())).collect::<Vec<_>>();
    CertificateDetails {
        path: path.to_owned(),
        serial: facts.serial.clone(),
        names: [named("dns", &facts.dns_sans), named("uri", &facts.uri_sans), named("ip_address", &facts.ip_sans)]
            .concat(),
        days_until_expiration: left.as_secs() / 86_400,
        valid_from: facts.not_before,
        expires: facts.not_after,
    }
}

/// What the first build of a context means for its configuration: a secret delivered by SDS that is no good keeps the context
/// waiting for a better one, anything else is refused.
///
/// # Errors
/// The configuration is to be refused.
pub(super) fn first_build(common: &CommonTls, built: Result<bool, ConfigError>) -> Result<(), ConfigError> {
    let delivered = |config: &SdsConfig| matches!(config, SdsConfig::File { .. });
    let by_sds = common.certificates.iter().any(|c| matches!(c, CertificateSource::Sds(s) if delivered(&s.config)))
        || matches!(&common.validation, Some(ValidationSource::Sds(s) | ValidationSource::Combined(_, s)) if delivered(&s.config));
    match built {
        Err(e) if by_sds && e.field_path.starts_with("secret ") => {
            warn!(error = %e, "TLS secret not usable");
            Ok(())
        }
        built => built.map(|_| ()),
    }
}
