//! TLS that ends at a gateway: `tls` of a Gateway's server.

use weft_proto::pb::envoy::extensions::transport_sockets::tls::v3 as tls;

use super::mutual_tls;
use super::upstream_tls::{authority_name, file, sds, secret_name, subject_matchers};
use super::view::View;
use super::wire::bool_value;
use crate::model::kinds::gateway::{CertificateFiles, ServerTls, ServerTlsMode, TlsVersion};

/// The context of a server; `None` if TLS does not end there, or needs what there is not.
pub(super) fn context(view: &View<'_>, of: &ServerTls, is_http: bool) -> Option<tls::DownstreamTlsContext> {
    let mutual = match of.mode {
        ServerTlsMode::Simple => None,
        ServerTlsMode::Mutual => Some(true),
        ServerTlsMode::OptionalMutual => Some(false),
        ServerTlsMode::IstioMutual => return view.has_identity().then(|| mutual_tls::downstream(view, is_http)),
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => return None,
    };
    let mut common = tls::CommonTlsContext {
        tls_params: Some(parameters(of)),
        alpn_protocols: if is_http { vec!["h2".to_owned(), "http/1.1".to_owned()] } else { Vec::new() },
        ..Default::default()
    };
    let names: Vec<&String> =
        of.credential_name.iter().chain(&of.credential_names).filter(|name| !name.is_empty()).collect();
    if names.is_empty() {
        let own = CertificateFiles {
            server_certificate: of.server_certificate.clone(),
            private_key: of.private_key.clone(),
            ..Default::default()
        };
        let all = if of.tls_certificates.is_empty() { std::slice::from_ref(&own) } else { &of.tls_certificates };
        common.tls_certificates = all.iter().map(certificate).collect();
    } else {
        common.tls_certificate_sds_secret_configs = names.iter().map(|name| sds(&secret_name(name))).collect();
    }
    if mutual.is_some() {
        common.validation_context_type = Some(validation(of, names.first().map(|name| name.as_str())));
    }
    Some(tls::DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: bool_value(mutual == Some(true)),
        ..Default::default()
    })
}

fn certificate(of: &CertificateFiles) -> tls::TlsCertificate {
    tls::TlsCertificate {
        certificate_chain: of.server_certificate.as_deref().map(file),
        private_key: of.private_key.as_deref().map(file),
        ..Default::default()
    }
}

fn parameters(of: &ServerTls) -> tls::TlsParameters {
    use tls::tls_parameters::TlsProtocol;
    let version = |of: TlsVersion, auto: TlsProtocol| match of {
        TlsVersion::Auto => auto,
        TlsVersion::V1_0 => TlsProtocol::TlSv10,
        TlsVersion::V1_1 => TlsProtocol::TlSv11,
        TlsVersion::V1_2 => TlsProtocol::TlSv12,
        TlsVersion::V1_3 => TlsProtocol::TlSv13,
    };
    tls::TlsParameters {
        tls_minimum_protocol_version: version(of.min_protocol_version, TlsProtocol::TlSv12) as i32,
        tls_maximum_protocol_version: version(of.max_protocol_version, TlsProtocol::TlSv13) as i32,
        cipher_suites: of.cipher_suites.clone(),
        ..Default::default()
    }
}

fn validation(of: &ServerTls, credential: Option<&str>) -> tls::common_tls_context::ValidationContextType {
    use tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
    let mut context = tls::CertificateValidationContext {
        match_typed_subject_alt_names: subject_matchers(&of.subject_alt_names),
        verify_certificate_spki: of.verify_certificate_spki.clone(),
        verify_certificate_hash: of.verify_certificate_hash.clone(),
        crl: of.ca_crl.as_deref().map(file),
        ..Default::default()
    };
    let files = of.ca_certificates.as_ref();
    let files = files.or_else(|| of.tls_certificates.iter().find_map(|of| of.ca_certificates.as_ref()));
    // One of its own goes before what else there is.
    let own = of.ca_cert_credential_name.as_deref().filter(|name| !name.is_empty());
    match (own.or(credential), files.filter(|_| own.is_none())) {
        (Some(name), None) => ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
            default_validation_context: Some(context),
            validation_context_sds_secret_config: Some(sds(&authority_name(name))),
            ..Default::default()
        }),
        (_, authority) => {
            context.trusted_ca = authority.map(String::as_str).map(file);
            ValidationContextType::ValidationContext(context)
        }
    }
}
