//! Istio's MeshConfig.

use std::time::Duration;

use super::destination_rule::{LocalityLb, TcpKeepalive, ZoneAwareLb};
use super::extension_provider::ExtensionProvider;
use super::service_entry::OutboundTrafficPolicy;
use super::virtual_service::Retries;
use crate::model::read::record;

record! {
    /// Settings of the whole mesh, from ConfigMap `istio`, key `mesh`. **Source**: `mesh.istio.io/v1alpha1.MeshConfig`.
    pub struct MeshConfig {
        /// What happens to traffic to hosts that are not known. Default: it goes where it wants.
        outbound_traffic_policy: Option<OutboundTrafficPolicy>,
        /// Where requests are logged: a path. Default: nowhere.
        access_log_file: Option<String>,
        /// `TEXT` (the default) or `JSON`.
        access_log_encoding: Option<String>,
        /// The format of a line, or the JSON object.
        access_log_format: Option<String>,
        /// How long connecting may take. Default: 10 s.
        connect_timeout: Option<Duration>,
        /// Keepalive of upstream connections.
        tcp_keepalive: Option<TcpKeepalive>,
        /// How long the protocol is looked for. Default: 0, as long as it takes.
        protocol_detection_timeout: Option<Duration>,
        /// Where objects are for all namespaces. Default: `istio-system`.
        root_namespace: Option<String>,
        /// Retries of routes that say nothing. Default: 2, on what is safe.
        default_http_retry_policy: Option<Retries>,
        /// Localities, where a DestinationRule says nothing.
        locality_lb_setting: Option<LocalityLb>,
        /// The caller's own zone first; goes before localities.
        zone_aware_lb_setting: Option<ZoneAwareLb>,
        /// Who sees a Service that does not say so. Default: all.
        default_service_export_to: Vec<String>,
        /// Who sees a VirtualService that does not say so. Default: all.
        default_virtual_service_export_to: Vec<String>,
        /// Who sees a DestinationRule that does not say so. Default: all.
        default_destination_rule_export_to: Vec<String>,
        /// The Ingress class that is ours. Default: `istio`.
        ingress_class: Option<String>,
        /// The label `istio` of the proxies that serve Ingresses. Default: `ingressgateway`.
        ingress_selector: Option<String>,
        /// The trust domain of all workloads. Default: `cluster.local`.
        trust_domain: Option<String>,
        /// Former trust domains: certificates of workloads in them are taken as well.
        trust_domain_aliases: Vec<String>,
        /// Whether callers use mutual TLS where the other side can, if no DestinationRule says. Default: yes.
        enable_auto_mtls: Option<bool>,
        /// How paths are normalised.
        path_normalization: Option<PathNormalization>,
        /// Servers that policies may name.
        extension_providers: Vec<ExtensionProvider>,
    }
}

record! {
    /// Normalisation. **Source**: `mesh.istio.io/v1alpha1.MeshConfig.ProxyPathNormalization`.
    pub struct PathNormalization {
        /// `DEFAULT`, `NONE`, `BASE`, `MERGE_SLASHES` or `DECODE_AND_MERGE_SLASHES`.
        normalization: Option<String>,
    }
}

impl MeshConfig {
    /// The trust domain of all workloads.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        self.trust_domain.as_deref().filter(|name| !name.is_empty()).unwrap_or(crate::ca::TRUST_DOMAIN)
    }

    /// The namespace whose objects are for all.
    #[must_use]
    pub fn root_namespace(&self) -> &str {
        self.root_namespace.as_deref().filter(|name| !name.is_empty()).unwrap_or("istio-system")
    }
}
