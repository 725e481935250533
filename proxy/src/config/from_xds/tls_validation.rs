//! How a peer's certificate is checked.

use std::collections::BTreeSet;

use base64::Engine as _;
use weft_proto::pb::envoy::extensions::transport_sockets::tls::v3 as tls;

use super::ctx::{Ctx, Out, type_name};
use super::{matcher, value};
use crate::config::{CertificateValidation, DataSource, SanKind, SanMatcher};

/// A validation context.
pub(super) fn validation(c: &Ctx<'_>, v: &tls::CertificateValidationContext) -> Out<CertificateValidation> {
    use tls::certificate_validation_context::TrustChainVerification as T;
    // Each of these narrows or replaces what is trusted: dropped in silence they would widen it.
    if v.ca_certificate_provider_instance.is_some() {
        return c.field("ca_certificate_provider_instance").unsupported("a certificate provider");
    }
    if v.system_root_certs.is_some() {
        return c.field("system_root_certs").unsupported("the system's trust store");
    }
    if value::bool_or(&v.require_signed_certificate_timestamp, false) {
        return c.field("require_signed_certificate_timestamp").unsupported("a certificate timestamp");
    }
    let names = c.each("match_typed_subject_alt_names", &v.match_typed_subject_alt_names, typed_name);
    let any_names = c.each("match_subject_alt_names", &v.match_subject_alt_names, |c, m| {
        Ok(SanMatcher { kind: SanKind::Any, matcher: matcher::string(c, m)? })
    });
    let spki_hashes = c.each("verify_certificate_spki", &v.verify_certificate_spki, |c, s| spki_hash(c, s));
    let certificate_hashes = c.each("verify_certificate_hash", &v.verify_certificate_hash, |c, s| hex_hash(c, s));
    let spiffe = match &v.custom_validator_config {
        Some(ext) => {
            let here = c.field("custom_validator_config");
            match &ext.typed_config {
                Some(any)
                    if type_name(any) == "envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig" =>
                {
                    let here = here.field("typed_config");
                    spiffe(&here, &here.unpack(any)?)
                }
                any => here.unknown_extension(&ext.name, any.as_ref()),
            }
        }
        None => Ok(Vec::new()),
    };
    let max_verify_depth = value::u32_opt(&v.max_verify_depth);
    c.field("max_verify_depth")
        .ensure(max_verify_depth.is_none_or(|n| n <= 100), || "value must be less than or equal to 100".into())?;
    let mut subject_alt_names = names?;
    subject_alt_names.extend(any_names?);
    Ok(CertificateValidation {
        trusted_ca: c.opt("trusted_ca", &v.trusted_ca, value::data_source)?,
        watched_directory: c.opt("watched_directory", &v.watched_directory, value::watched_directory)?,
        subject_alt_names,
        spki_hashes: spki_hashes?,
        certificate_hashes: certificate_hashes?,
        crl: c.opt("crl", &v.crl, value::data_source)?,
        only_verify_leaf_crl: v.only_verify_leaf_cert_crl,
        allow_expired: v.allow_expired_certificate,
        accept_untrusted: c.enumeration::<T>("trust_chain_verification", v.trust_chain_verification)?
            == T::AcceptUntrusted,
        max_verify_depth,
        spiffe_trust_domains: spiffe?,
    })
}

fn typed_name(c: &Ctx<'_>, m: &tls::SubjectAltNameMatcher) -> Out<SanMatcher> {
    use tls::subject_alt_name_matcher::SanType as T;
    let kind = match c.enumeration::<T>("san_type", m.san_type)? {
        T::Unspecified => return c.field("san_type").refuse("value must not be SAN_TYPE_UNSPECIFIED"),
        T::Email => SanKind::Email,
        T::Dns => SanKind::Dns,
        T::Uri => SanKind::Uri,
        T::IpAddress => SanKind::Ip,
        T::OtherName => return c.field("san_type").unsupported("OTHER_NAME"),
    };
    Ok(SanMatcher { kind, matcher: c.required("matcher", &m.matcher, matcher::string)? })
}

fn spki_hash(c: &Ctx<'_>, text: &str) -> Out<[u8; 32]> {
    match base64::engine::general_purpose::STANDARD.decode(text).map(<[u8; 32]>::try_from) {
        Ok(Ok(hash)) => Ok(hash),
        _ => c.refuse(format!("Invalid base64-encoded SHA-256 {text}")),
    }
}

/// Hexadecimal digits, either all together or in pairs with colons between them.
fn hex_hash(c: &Ctx<'_>, text: &str) -> Out<[u8; 32]> {
    let digits: Option<Vec<u8>> = match text.len() {
        64 => Some(text.bytes().collect()),
        95 => text.split(':').all(|pair| pair.len() == 2).then(|| text.bytes().filter(|b| *b != b':').collect()),
        _ => None,
    };
    let nibble = |b: u8| char::from(b).to_digit(16).and_then(|n| u8::try_from(n).ok());
    let bytes: Option<Vec<u8>> = digits
        .and_then(|d| d.chunks(2).map(|pair| Some(nibble(*pair.first()?)? << 4 | nibble(*pair.get(1)?)?)).collect());
    match bytes.map(<[u8; 32]>::try_from) {
        Some(Ok(hash)) => Ok(hash),
        _ => c.refuse(format!("Invalid hex-encoded SHA-256 {text}")),
    }
}

fn spiffe(c: &Ctx<'_>, s: &tls::SpiffeCertValidatorConfig) -> Out<Vec<(String, DataSource)>> {
    if s.trust_bundles.is_some() {
        return c.field("trust_bundles").unsupported("a SPIFFE bundle map");
    }
    c.field("trust_domains").ensure(!s.trust_domains.is_empty(), || "value must contain at least 1 item(s)".into())?;
    let domains = c.each("trust_domains", &s.trust_domains, |c, d| {
        let name = c.non_empty("name", &d.name)?;
        if !d.workload_trust_domain.is_empty() {
            return c.field("workload_trust_domain").unsupported("workload_trust_domain");
        }
        Ok((name, c.required("trust_bundle", &d.trust_bundle, value::data_source)?))
    })?;
    let mut seen = BTreeSet::new();
    for (i, (name, _)) in domains.iter().enumerate() {
        c.index("trust_domains", i).field("name").ensure(seen.insert(name), || {
            format!("Multiple trust bundles are given for one trust domain for {name}")
        })?;
    }
    Ok(domains)
}
