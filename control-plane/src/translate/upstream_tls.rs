//! TLS to upstreams: `tls` of a DestinationRule, and the PROXY protocol around it.

use weft_proto::pb::envoy::config::cluster::v3 as pb;
use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::extensions::transport_sockets::proxy_protocol::v3 as proxy_protocol;
use weft_proto::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use weft_proto::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use weft_proto::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use weft_proto::pb::envoy::extensions::upstreams::http::v3::http_protocol_options as http;
use weft_proto::pb::envoy::r#type::matcher::v3 as matcher;

use super::cluster::Target;
use super::wire;
use crate::model::kinds::destination_rule::{ClientTls, ClientTlsMode};

/// The name of TLS transport sockets.
pub(super) const TLS: &str = "envoy.transport_sockets.tls";
/// The certificates of the system (Debian's place, which Envoy's images share).
const SYSTEM_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Sets a cluster's transport socket.
pub(super) fn apply(cluster: &mut pb::Cluster, http: &mut Option<HttpProtocolOptions>, target: &Target<'_>) {
    let wanted = target.policy.tls.filter(|of| matches!(of.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual));
    let mut socket = None;
    if let Some(of) = wanted {
        let h2 = http.as_ref().is_some_and(is_http2);
        let context = context(of, target, http.is_some(), h2);
        socket = Some(wire::transport_socket(TLS, &context));
        if of.sni.as_ref().is_none_or(String::is_empty) {
            // The server name follows the request, and so does what the certificate must say. Requests may come to a port of
            // any protocol: a route may lead from a plain port to the one of HTTPS.
            http.get_or_insert_with(http1).upstream_http_protocol_options = Some(core::UpstreamHttpProtocolOptions {
                auto_sni: true,
                auto_san_validation: of.subject_alt_names.is_empty() && !is_unverified(of),
                ..Default::default()
            });
        }
    }
    if let Some(of) = target.policy.proxy_protocol {
        let v2 = of.version.as_deref() == Some("V2");
        let version =
            if v2 { core::proxy_protocol_config::Version::V2 } else { core::proxy_protocol_config::Version::V1 };
        let inner =
            socket.unwrap_or_else(|| wire::transport_socket("envoy.transport_sockets.raw_buffer", &RawBuffer {}));
        let outer = proxy_protocol::ProxyProtocolUpstreamTransport {
            config: Some(core::ProxyProtocolConfig { version: version as i32, ..Default::default() }),
            transport_socket: Some(inner),
            ..Default::default()
        };
        socket = Some(wire::transport_socket("envoy.transport_sockets.upstream_proxy_protocol", &outer));
    }
    cluster.transport_socket = socket;
}

fn http1() -> HttpProtocolOptions {
    let config = http::ExplicitHttpConfig {
        protocol_config: Some(http::explicit_http_config::ProtocolConfig::HttpProtocolOptions(Default::default())),
    };
    HttpProtocolOptions {
        upstream_protocol_options: Some(http::UpstreamProtocolOptions::ExplicitHttpConfig(config)),
        ..Default::default()
    }
}

fn is_http2(options: &HttpProtocolOptions) -> bool {
    use http::explicit_http_config::ProtocolConfig::Http2ProtocolOptions;
    match &options.upstream_protocol_options {
        Some(http::UpstreamProtocolOptions::ExplicitHttpConfig(config)) => {
            matches!(config.protocol_config, Some(Http2ProtocolOptions(_)))
        }
        _ => false,
    }
}

fn is_unverified(of: &ClientTls) -> bool {
    of.insecure_skip_verify == Some(true)
}

fn context(of: &ClientTls, target: &Target<'_>, is_http: bool, h2: bool) -> tls::UpstreamTlsContext {
    let mut common = tls::CommonTlsContext::default();
    if is_http {
        common.alpn_protocols = if h2 { vec!["h2".to_owned()] } else { vec!["http/1.1".to_owned()] };
    }
    let names = if of.subject_alt_names.is_empty() { &target.service.subject_alt_names } else { &of.subject_alt_names };
    let credential = of.credential_name.as_deref().filter(|name| !name.is_empty());
    if of.mode == ClientTlsMode::Mutual {
        match credential {
            Some(name) => common.tls_certificate_sds_secret_configs = vec![sds(&secret_name(name))],
            None => common.tls_certificates = vec![certificate(of)],
        }
    }
    common.validation_context_type = validation(of, names, credential);
    tls::UpstreamTlsContext {
        common_tls_context: Some(common),
        sni: of.sni.clone().unwrap_or_default(),
        ..Default::default()
    }
}

/// How a Secret is called in SDS.
pub(super) fn secret_name(credential: &str) -> String {
    if credential.contains("://") { credential.to_owned() } else { format!("kubernetes://{credential}") }
}

/// How the certificates a Secret trusts are called in SDS.
pub(super) fn authority_name(credential: &str) -> String {
    format!("{}-cacert", secret_name(credential))
}

/// A secret from the same stream.
pub(super) fn sds(name: &str) -> tls::SdsSecretConfig {
    tls::SdsSecretConfig { name: name.to_owned(), sds_config: wire::ads() }
}

fn certificate(of: &ClientTls) -> tls::TlsCertificate {
    tls::TlsCertificate {
        certificate_chain: of.client_certificate.as_deref().map(file),
        private_key: of.private_key.as_deref().map(file),
        ..Default::default()
    }
}

/// The content of a file at the proxy.
pub(super) fn file(path: &str) -> core::DataSource {
    core::DataSource { specifier: Some(core::data_source::Specifier::Filename(path.to_owned())), ..Default::default() }
}

/// Names a certificate must have one of: as a host or as a URI.
pub(super) fn subject_matchers(names: &[String]) -> Vec<tls::SubjectAltNameMatcher> {
    let mut matchers = Vec::new();
    for name in names {
        let pattern = matcher::string_matcher::MatchPattern::Exact(name.clone());
        let kind = if name.contains("://") {
            tls::subject_alt_name_matcher::SanType::Uri
        } else {
            tls::subject_alt_name_matcher::SanType::Dns
        };
        let matcher = Some(wire::string_matcher(pattern));
        matchers.push(tls::SubjectAltNameMatcher { san_type: kind as i32, matcher, ..Default::default() });
    }
    matchers
}

fn validation(
    of: &ClientTls,
    names: &[String],
    credential: Option<&str>,
) -> Option<tls::common_tls_context::ValidationContextType> {
    use tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
    if is_unverified(of) {
        return None;
    }
    let mut context = tls::CertificateValidationContext {
        match_typed_subject_alt_names: subject_matchers(names),
        crl: of.ca_crl.as_deref().map(file),
        ..Default::default()
    };
    if let (Some(name), None) = (credential, &of.ca_certificates) {
        return Some(ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
            default_validation_context: Some(context),
            validation_context_sds_secret_config: Some(sds(&authority_name(name))),
            ..Default::default()
        }));
    }
    context.trusted_ca = Some(file(of.ca_certificates.as_deref().unwrap_or(SYSTEM_CERTIFICATES)));
    Some(ValidationContextType::ValidationContext(context))
}
