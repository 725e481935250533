//! TLS contexts of both directions.

use std::time::Duration;

use weft_proto::pb::envoy::extensions::transport_sockets::tls::v3 as tls;

use super::ctx::{Ctx, Out};
use super::{SecretType, address, secret, source, tls_validation, value};
use crate::config::{
    CertificateSource, CertificateValidation, CommonTls, ConfigSource, DownstreamTls, KeyLog, SdsConfig, SdsSource,
    Source, TlsParams, TlsVersion, UpstreamTls, ValidationSource,
};

/// What differs between the sides.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Server,
    Client,
}

/// Server side.
pub(super) fn downstream(c: &Ctx<'_>, t: &tls::DownstreamTlsContext) -> Out<DownstreamTls> {
    use tls::downstream_tls_context::SessionTicketKeysType as K;
    let common = common(c, &t.common_tls_context, Side::Server);
    let (mut ticket_keys, mut no_tickets) = (Ok(Vec::new()), false);
    match &t.session_ticket_keys_type {
        None => {}
        Some(K::SessionTicketKeys(k)) => ticket_keys = secret::ticket_keys(&c.field("session_ticket_keys"), k),
        Some(K::SessionTicketKeysSdsSecretConfig(_)) => {
            ticket_keys = c.field("session_ticket_keys_sds_secret_config").unsupported("a ticket key secret");
        }
        Some(K::DisableStatelessSessionResumption(off)) => no_tickets = *off,
    }
    if value::bool_or(&t.require_sni, false) {
        return c.field("require_sni").unsupported("require_sni");
    }
    if t.ocsp_staple_policy != 0 {
        return c.field("ocsp_staple_policy").unsupported("any policy but LENIENT_STAPLING");
    }
    let session_timeout = c.duration("session_timeout", &t.session_timeout)?;
    if session_timeout.is_some_and(|d| d >= Duration::from_secs(1 << 32)) {
        return c.field("session_timeout").refuse("value must be inside range [0s, 4294967296s)");
    }
    Ok(DownstreamTls {
        common: common?,
        require_client_certificate: value::bool_or(&t.require_client_certificate, false),
        disable_stateless_resumption: no_tickets,
        disable_stateful_resumption: t.disable_stateful_session_resumption,
        session_timeout,
        session_ticket_keys: ticket_keys?,
        full_scan_certs_on_sni_mismatch: value::bool_or(&t.full_scan_certs_on_sni_mismatch, false),
        prefer_client_ciphers: t.prefer_client_ciphers,
    })
}

/// Client side.
pub(super) fn upstream(c: &Ctx<'_>, t: &tls::UpstreamTlsContext) -> Out<UpstreamTls> {
    let common = common(c, &t.common_tls_context, Side::Client);
    let sni = c.field("sni");
    sni.ensure(t.sni.len() <= 255, || "value length must be at most 255 bytes".into())?;
    sni.ensure(!t.sni.contains('\0'), || "SNI names containing NULL-byte are not allowed".into())?;
    if t.allow_renegotiation {
        return c
            .field("allow_renegotiation")
            .refuse("renegotiation is not supported: it is gone from TLS 1.3, and unsafe before");
    }
    let common = common?;
    if t.auto_sni_san_validation && common.validation.is_none() {
        return c
            .field("auto_sni_san_validation")
            .refuse("'auto_sni_san_validation' was configured without a validation context");
    }
    if t.auto_sni_san_validation && untrusted(&common) {
        return c
            .field("auto_sni_san_validation")
            .refuse("'auto_sni_san_validation' was configured without configuring a trusted CA");
    }
    Ok(UpstreamTls {
        common,
        sni: t.sni.clone(),
        auto_host_sni: t.auto_host_sni,
        auto_sni_san_validation: t.auto_sni_san_validation,
        max_session_keys: value::u32_or(&t.max_session_keys, 1),
        allow_renegotiation: false,
    })
}

fn untrusted(t: &CommonTls) -> bool {
    matches!(&t.validation, Some(ValidationSource::Inline(v)) if v.trusted_ca.is_none() && v.spiffe_trust_domains.is_empty())
}

fn common(c: &Ctx<'_>, t: &Option<tls::CommonTlsContext>, side: Side) -> Out<CommonTls> {
    let here = c.field("common_tls_context");
    let empty = tls::CommonTlsContext::default();
    let (c, t) = (&here, t.as_ref().unwrap_or(&empty));
    refuse_plugins(c, t)?;
    let params = c.opt("tls_params", &t.tls_params, |c, p| params(c, p, side));
    let inline = c.each("tls_certificates", &t.tls_certificates, secret::certificate);
    let sds = c.each("tls_certificate_sds_secret_configs", &t.tls_certificate_sds_secret_configs, |c, s| {
        sds_source(c, s, SecretType::Certificate)
    });
    let validation = validation(c, t);
    let key_log = c.opt("key_log", &t.key_log, key_log);

    let mut certificates: Vec<_> = inline?.into_iter().map(CertificateSource::Inline).collect();
    let sds = sds?;
    match side {
        Side::Server => {
            c.ensure(certificates.is_empty() || sds.is_empty(), || {
                "SDS and non-SDS TLS certificates may not be mixed in server contexts".into()
            })?;
            c.ensure(!certificates.is_empty() || !sds.is_empty(), || {
                "No TLS certificates found for server context".into()
            })?;
        }
        Side::Client => c.ensure(certificates.len() + sds.len() <= 1, || {
            "Multiple TLS certificates are not supported for client contexts".into()
        })?,
    }
    certificates.extend(sds.into_iter().map(CertificateSource::Sds));
    Ok(CommonTls {
        params: params?.unwrap_or_default(),
        certificates,
        validation: validation?,
        alpn: alpn(c, &t.alpn_protocols)?,
        key_log: key_log?,
    })
}

/// What would weaken or replace the handshake is refused here too, not only by the table of supported fields.
fn refuse_plugins(c: &Ctx<'_>, t: &tls::CommonTlsContext) -> Out<()> {
    if t.tls_certificate_provider_instance.is_some() {
        return c.field("tls_certificate_provider_instance").unsupported("a certificate provider");
    }
    if t.tls_certificate_certificate_provider.is_some() {
        return c.field("tls_certificate_certificate_provider").unsupported("a certificate provider");
    }
    if t.tls_certificate_certificate_provider_instance.is_some() {
        return c.field("tls_certificate_certificate_provider_instance").unsupported("a certificate provider");
    }
    if t.custom_tls_certificate_selector.is_some() {
        return c.field("custom_tls_certificate_selector").unsupported("a certificate selector");
    }
    if t.custom_handshaker.is_some() {
        return c.field("custom_handshaker").unsupported("a handshaker");
    }
    Ok(())
}

/// Envoy joins the list with commas and splits it again: one item may hold several protocols.
fn alpn(c: &Ctx<'_>, list: &[String]) -> Out<Vec<String>> {
    let joined = list.join(",");
    if joined.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<_> = joined.split(',').map(str::to_owned).collect();
    for name in &names {
        c.field("alpn_protocols")
            .ensure((1..=255).contains(&name.len()), || format!("'{name}' is not a protocol name of 1 to 255 bytes"))?;
    }
    Ok(names)
}

fn params(c: &Ctx<'_>, p: &tls::TlsParameters, side: Side) -> Out<TlsParams> {
    let version = |field| {
        use tls::tls_parameters::TlsProtocol as P;
        let value = if field == MIN { p.tls_minimum_protocol_version } else { p.tls_maximum_protocol_version };
        match c.enumeration::<P>(field, value)? {
            P::TlsAuto => Ok(None),
            P::TlSv12 => Ok(Some(TlsVersion::V1_2)),
            P::TlSv13 => Ok(Some(TlsVersion::V1_3)),
            P::TlSv10 | P::TlSv11 => c
                .field(field)
                .refuse("TLS below 1.2 is not supported: it is broken, and formally deprecated (RFC 8996)"),
        }
    };
    const MIN: &str = "tls_minimum_protocol_version";
    const MAX: &str = "tls_maximum_protocol_version";
    let (min, max) = (version(MIN), version(MAX));
    let (min, max) = (min?, max?);
    let highest = max.unwrap_or(if side == Side::Server { TlsVersion::V1_3 } else { TlsVersion::V1_2 });
    if min.unwrap_or(TlsVersion::V1_2) > highest {
        return c.field(MIN).refuse(match max {
            Some(_) => "the lowest version is above the highest",
            None => "the lowest version is above the highest: tls_maximum_protocol_version is TLSv1_2 for clients unless set",
        });
    }
    if !p.compliance_policies.is_empty() {
        return c.field("compliance_policies").unsupported("a compliance policy");
    }
    Ok(TlsParams {
        min,
        max,
        cipher_suites: p.cipher_suites.clone(),
        curves: p.ecdh_curves.clone(),
        signature_algorithms: p.signature_algorithms.clone(),
    })
}

fn validation(c: &Ctx<'_>, t: &tls::CommonTlsContext) -> Out<Option<ValidationSource>> {
    use tls::common_tls_context::ValidationContextType as V;
    Ok(Some(match &t.validation_context_type {
        None => return Ok(None),
        Some(V::ValidationContext(v)) => {
            let c = c.field("validation_context");
            let v = tls_validation::validation(&c, v)?;
            trust_for_names(&c, &v)?;
            ValidationSource::Inline(Box::new(v))
        }
        Some(V::ValidationContextSdsSecretConfig(s)) => ValidationSource::Sds(sds_source(
            &c.field("validation_context_sds_secret_config"),
            s,
            SecretType::Validation,
        )?),
        Some(V::CombinedValidationContext(v)) => {
            let c = c.field("combined_validation_context");
            if v.validation_context_certificate_provider.is_some()
                || v.validation_context_certificate_provider_instance.is_some()
            {
                return c.unsupported("a certificate provider");
            }
            let default =
                c.required("default_validation_context", &v.default_validation_context, tls_validation::validation);
            let sds =
                c.required("validation_context_sds_secret_config", &v.validation_context_sds_secret_config, |c, s| {
                    sds_source(c, s, SecretType::Validation)
                });
            ValidationSource::Combined(Box::new(default?), sds?)
        }
        Some(V::ValidationContextCertificateProvider(_)) => {
            return c.field("validation_context_certificate_provider").unsupported("a certificate provider");
        }
        Some(V::ValidationContextCertificateProviderInstance(_)) => {
            return c.field("validation_context_certificate_provider_instance").unsupported("a certificate provider");
        }
    }))
}

/// A name proves nothing in a certificate that anyone could have signed.
fn trust_for_names(c: &Ctx<'_>, v: &CertificateValidation) -> Out<()> {
    let trusted = v.trusted_ca.is_some() || !v.spiffe_trust_domains.is_empty();
    c.ensure(trusted || v.subject_alt_names.is_empty(), || {
        "SAN-based verification of peer certificates without trusted CA is insecure and not allowed".into()
    })
}

/// Where a secret comes from: the bootstrap if nothing else is said.
fn sds_source(c: &Ctx<'_>, s: &tls::SdsSecretConfig, kind: SecretType) -> Out<SdsSource> {
    let name = c.non_empty("name", &s.name)?;
    let config = match s.sds_config.as_ref() {
        None => {
            let known = c.env().secrets.as_ref().is_none_or(|known| known.contains(&(kind, name.clone())));
            c.field("name").ensure(known, || match kind {
                SecretType::Validation => format!("Unknown static certificate validation context: {name}"),
                _ => format!("Unknown static secret: {name}"),
            })?;
            SdsConfig::Static
        }
        Some(s) => match source::config_source(&c.field("sds_config"), s)? {
            ConfigSource { from: Source::File { path, watched_directory }, .. } => {
                SdsConfig::File { path, watched_directory }
            }
            discovered => SdsConfig::Discovered(discovered),
        },
    };
    Ok(SdsSource { name, config })
}

fn key_log(c: &Ctx<'_>, k: &tls::TlsKeyLog) -> Out<KeyLog> {
    Ok(KeyLog {
        path: c.non_empty("path", &k.path)?,
        local_ranges: c.each("local_address_range", &k.local_address_range, address::cidr)?,
        remote_ranges: c.each("remote_address_range", &k.remote_address_range, address::cidr)?,
    })
}
