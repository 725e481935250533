//! Mutual TLS between workloads: the contexts of both sides, and when a caller uses it.
//!
//! The certificate comes from whoever keeps it beside the workload (`default` of the cluster `sds-grpc`, as in Istio), the roots
//! from here (`ROOTCA`), so that it is known who trusts what while a root is replaced.

use std::collections::BTreeSet;
use std::time::Duration;

use weft_proto::pb::envoy::config::cluster::v3::{self as pb, cluster};
use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use weft_proto::pb::envoy::extensions::transport_sockets::tls::v3::{self as tls, common_tls_context};
use weft_proto::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use weft_proto::pb::envoy::extensions::upstreams::http::v3::http_protocol_options as http;
use weft_proto::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

use super::cluster::{Discovery, Target};
use super::names;
use super::secrets::TRUST_BUNDLE;
use super::upstream_tls::{TLS, sds, subject_matchers};
use super::view::View;
use super::wire::{self, bool_value};
use crate::model::endpoint::Endpoint;
use crate::model::kinds::destination_rule::{ClientTlsMode, H2Upgrade};
use crate::model::kinds::meta::contains_all;
use crate::model::peer_authentication::{Mode, has_identity};
use crate::model::service::Service;

/// What the mesh's own connections show first among their application protocols.
const IN_MESH: &str = "istio";
/// All that tells them (Istio's callers say what they speak inside).
pub(super) const MESH_PROTOCOLS: [&str; 5] =
    [IN_MESH, "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"];
/// Those of them that say that it is HTTP.
pub(super) const MESH_HTTP_PROTOCOLS: [&str; 3] = ["istio-http/1.0", "istio-http/1.1", "istio-h2"];
/// Where the workload's certificate is.
const SDS_CLUSTER: &str = "sds-grpc";
/// Its name there.
const CERTIFICATE: &str = "default";
/// What tells the endpoints in the mesh from others.
const TLS_MODE: &str = "tlsMode";

/// The context of the side that is called: who calls must have a certificate of the mesh.
pub(super) fn downstream(view: &View<'_>, is_http: bool) -> tls::DownstreamTlsContext {
    let mesh = &view.world.config().mesh;
    let domains = std::iter::once(mesh.trust_domain()).chain(mesh.trust_domain_aliases.iter().map(String::as_str));
    let in_domain = |domain: &str| {
        let pattern = MatchPattern::Prefix(format!("spiffe://{domain}/"));
        tls::SubjectAltNameMatcher {
            san_type: tls::subject_alt_name_matcher::SanType::Uri as i32,
            matcher: Some(wire::string_matcher(pattern)),
            ..Default::default()
        }
    };
    let alpn = if is_http { vec!["h2".to_owned(), "http/1.1".to_owned()] } else { Vec::new() };
    tls::DownstreamTlsContext {
        common_tls_context: Some(common(alpn, domains.map(in_domain).collect())),
        require_client_certificate: bool_value(true),
        ..Default::default()
    }
}

fn common(alpn_protocols: Vec<String>, names: Vec<tls::SubjectAltNameMatcher>) -> tls::CommonTlsContext {
    use tls::tls_parameters::TlsProtocol;
    let validation = common_tls_context::CombinedCertificateValidationContext {
        default_validation_context: Some(tls::CertificateValidationContext {
            match_typed_subject_alt_names: names,
            ..Default::default()
        }),
        validation_context_sds_secret_config: Some(sds(TRUST_BUNDLE)),
        ..Default::default()
    };
    tls::CommonTlsContext {
        tls_params: Some(tls::TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv12 as i32,
            // Callers stop at 1.2 if nobody says more.
            tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
            ..Default::default()
        }),
        alpn_protocols,
        tls_certificate_sds_secret_configs: vec![certificate()],
        validation_context_type: Some(common_tls_context::ValidationContextType::CombinedValidationContext(validation)),
        ..Default::default()
    }
}

/// The workload's certificate, from whoever keeps it.
fn certificate() -> tls::SdsSecretConfig {
    let service = core::GrpcService {
        target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(core::grpc_service::EnvoyGrpc {
            cluster_name: SDS_CLUSTER.to_owned(),
            ..Default::default()
        })),
        ..Default::default()
    };
    let api = core::ApiConfigSource {
        api_type: core::api_config_source::ApiType::Grpc as i32,
        transport_api_version: core::ApiVersion::V3 as i32,
        grpc_services: vec![service],
        set_node_on_first_message_only: true,
        ..Default::default()
    };
    let source = core::ConfigSource {
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::ApiConfigSource(api)),
        resource_api_version: core::ApiVersion::V3 as i32,
        // As in Istio: without it nobody can be served.
        initial_fetch_timeout: wire::duration(Duration::ZERO),
        ..Default::default()
    };
    tls::SdsSecretConfig { name: CERTIFICATE.to_owned(), sds_config: Some(source) }
}

/// How a caller reaches a target.
enum Way {
    /// By mutual TLS where the endpoint has an identity.
    ByEndpoint,
    /// By mutual TLS alone.
    Always,
}

fn way(view: &View<'_>, target: &Target<'_>, discovery: Discovery) -> Option<Way> {
    if !view.has_identity() {
        return None;
    }
    match target.policy.tls.map(|of| of.mode) {
        Some(ClientTlsMode::IstioMutual) => Some(Way::Always),
        Some(_) => None,
        // Of what is found elsewhere nobody knows who has an identity.
        None if discovery != Discovery::Endpoints || target.service.external => None,
        None => (view.world.config().mesh.enable_auto_mtls != Some(false)).then_some(Way::ByEndpoint),
    }
}

/// Sets a cluster's transport sockets, and HTTP/2 where both sides are sidecars.
pub(super) fn apply(
    view: &View<'_>,
    cluster: &mut pb::Cluster,
    http: &mut Option<HttpProtocolOptions>,
    target: &Target<'_>,
    discovery: Discovery,
) {
    let Some(way) = way(view, target, discovery) else { return };
    let all = match way {
        Way::Always => true,
        Way::ByEndpoint => all_in_mesh(view, target),
    };
    let alpn = protocols(http, target, all);
    let context = upstream(view, target, alpn);
    let secure = wire::transport_socket(TLS, &context);
    if all {
        // Only without any plaintext beside it may the handshake decide between HTTP/1.1 and HTTP/2.
        cluster.transport_socket = Some(secure);
        return;
    }
    let plain = wire::transport_socket("envoy.transport_sockets.raw_buffer", &RawBuffer {});
    let of = |name: &str, fields, socket| cluster::TransportSocketMatch {
        name: format!("{TLS_MODE}-{name}"),
        r#match: Some(fields),
        transport_socket: Some(socket),
    };
    cluster.transport_socket_matches = vec![
        of("istio", wire::object([(TLS_MODE, wire::text("istio"))]), secure),
        of("disabled", wire::object([]), plain),
    ];
}

/// What is offered; HTTP/1.1 becomes what both sides have.
fn protocols(http: &mut Option<HttpProtocolOptions>, target: &Target<'_>, all: bool) -> Vec<String> {
    use http::UpstreamProtocolOptions::{AutoConfig, ExplicitHttpConfig};
    use http::explicit_http_config::ProtocolConfig;
    let pool = target.policy.connection_pool.and_then(|pool| pool.http.as_ref());
    let offered: &[&str] = match http.as_mut().map(|http| (http.upstream_protocol_options.clone(), http)) {
        Some((Some(ExplicitHttpConfig(config)), options)) => match config.protocol_config {
            Some(ProtocolConfig::Http2ProtocolOptions(_)) => &[IN_MESH, "h2"],
            Some(ProtocolConfig::HttpProtocolOptions(http1))
                if all && pool.is_none_or(|pool| pool.h2_upgrade_policy != H2Upgrade::DoNotUpgrade) =>
            {
                let auto = http::AutoHttpConfig {
                    http_protocol_options: Some(http1),
                    http2_protocol_options: Some(super::cluster::http2_options(pool)),
                    ..Default::default()
                };
                options.upstream_protocol_options = Some(AutoConfig(auto));
                &[IN_MESH, "h2", "http/1.1"]
            }
            _ => &[IN_MESH, "http/1.1"],
        },
        // What the client speaks decides, and the handshake must not: nothing else is offered.
        _ => &[IN_MESH],
    };
    offered.iter().map(|name| (*name).to_owned()).collect()
}

fn upstream(view: &View<'_>, target: &Target<'_>, alpn: Vec<String>) -> tls::UpstreamTlsContext {
    let rule = target.policy.tls;
    let told = rule.map(|of| of.subject_alt_names.as_slice()).filter(|names| !names.is_empty());
    let names = match told {
        Some(names) => names.to_vec(),
        None => identities(view, target.service),
    };
    let sni = rule.and_then(|of| of.sni.clone()).filter(|sni| !sni.is_empty());
    let subset = target.subset.map_or("", |subset| &subset.name);
    tls::UpstreamTlsContext {
        common_tls_context: Some(common(alpn, subject_matchers(&names))),
        // Istio's form, which an east-west gateway forwards by.
        sni: sni.unwrap_or_else(|| names::server_name(target.port.number.into(), subset, &target.service.key.host)),
        ..Default::default()
    }
}

/// Who may serve a service: the identities of its endpoints, and those it names.
fn identities(view: &View<'_>, service: &Service) -> Vec<String> {
    let domain = view.world.config().mesh.trust_domain();
    let of = |endpoint: &Endpoint| {
        let account = &endpoint.service_account;
        let namespace = namespace(endpoint, service);
        (!account.is_empty()).then(|| format!("spiffe://{domain}/ns/{namespace}/sa/{account}"))
    };
    let mut all: BTreeSet<String> = view.world.endpoints(&service.key).iter().filter_map(of).collect();
    all.extend(service.subject_alt_names.iter().cloned());
    all.into_iter().collect()
}

fn namespace<'a>(endpoint: &'a Endpoint, service: &'a Service) -> &'a str {
    endpoint.workload.as_ref().map_or(&service.key.namespace, |workload| &workload.namespace)
}

/// Whether an endpoint takes mutual TLS at a port of its own.
pub(super) fn is_in_mesh(view: &View<'_>, service: &Service, endpoint: &Endpoint, port: u32) -> bool {
    let policies = &view.world.config().peer_authentications;
    has_identity(&endpoint.labels)
        && policies.mode(namespace(endpoint, service), &endpoint.labels, Some(port)) != Mode::Disable
}

/// Whether no endpoint of a target is outside the mesh.
fn all_in_mesh(view: &View<'_>, target: &Target<'_>) -> bool {
    let labels = target.subset.map(|subset| &subset.labels);
    view.world
        .endpoints(&target.service.key)
        .iter()
        .filter(|endpoint| labels.is_none_or(|labels| contains_all(&endpoint.labels, labels)))
        .filter_map(|endpoint| Some((endpoint, u32::from(*endpoint.ports.get(&target.port.number)?))))
        .all(|(endpoint, port)| is_in_mesh(view, target.service, endpoint, port))
}

/// What tells callers that an endpoint takes mutual TLS.
pub(super) fn metadata(view: &View<'_>, service: &Service, endpoint: &Endpoint, port: u32) -> Option<core::Metadata> {
    if !view.has_identity() || !is_in_mesh(view, service, endpoint, port) {
        return None;
    }
    let fields = wire::object([(TLS_MODE, wire::text("istio"))]);
    let filter_metadata = [("envoy.transport_socket_match".to_owned(), fields)].into();
    Some(core::Metadata { filter_metadata, ..Default::default() })
}
