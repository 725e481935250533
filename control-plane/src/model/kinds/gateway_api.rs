//! The Gateway API: GatewayClass, Gateway, ReferenceGrant, BackendTLSPolicy, and what its routes share.

use super::meta::LabelSelector;
use crate::model::read::record;

record! {
    /// A GatewayClass. **Source**: `gateway.networking.k8s.io/v1.GatewayClass`.
    pub struct GatewayClass (ignoring "status") {
        /// Who serves it.
        spec: GatewayClassSpec,
    }
}

record! {
    /// Who serves a class. **Source**: `gateway.networking.k8s.io/v1.GatewayClassSpec`.
    pub struct GatewayClassSpec (ignoring "description") {
        /// `istio.io/gateway-controller` or `weft.dev/gateway-controller` is us.
        controller_name: String,
    }
}

record! {
    /// A Gateway. **Source**: `gateway.networking.k8s.io/v1.Gateway`.
    pub struct Gateway (ignoring "status") {
        /// What it opens.
        spec: GatewaySpec,
    }
}

record! {
    /// What a gateway opens. Addresses and infrastructure are for whoever deploys it.
    /// **Source**: `gateway.networking.k8s.io/v1.GatewaySpec`.
    pub struct GatewaySpec (ignoring "addresses", "infrastructure") {
        /// Its class; `istio` and `weft` are ours without a GatewayClass.
        gateway_class_name: String,
        /// Ports and hosts.
        listeners: Vec<Listener>,
    }
}

record! {
    /// A port and its host. **Source**: `gateway.networking.k8s.io/v1.Listener`.
    pub struct Listener {
        /// Its name, what `sectionName` refers to.
        name: String,
        /// The host, exact or `*.example.com`. Default: all.
        hostname: Option<String>,
        /// The port.
        port: u32,
        /// `HTTP`, `HTTPS`, `TLS` or `TCP`.
        protocol: String,
        /// Encryption.
        tls: Option<ListenerTls>,
        /// Which routes may attach.
        allowed_routes: Option<AllowedRoutes>,
    }
}

record! {
    /// Encryption. **Source**: `gateway.networking.k8s.io/v1.ListenerTLSConfig`.
    pub struct ListenerTls {
        /// `Terminate` (the default) or `Passthrough`.
        mode: Option<String>,
        /// Secrets with certificates.
        certificate_refs: Vec<ObjectRef>,
    }
}

record! {
    /// An object. **Source**: `gateway.networking.k8s.io/v1.SecretObjectReference` and its like.
    pub struct ObjectRef {
        /// Its API group.
        group: Option<String>,
        /// Its kind.
        kind: Option<String>,
        /// Its name.
        name: String,
        /// Its namespace. Default: that of who refers to it.
        namespace: Option<String>,
    }
}

record! {
    /// Which routes may attach. **Source**: `gateway.networking.k8s.io/v1.AllowedRoutes`.
    pub struct AllowedRoutes {
        /// From which namespaces.
        namespaces: Option<RouteNamespaces>,
        /// Of which kinds. Default: those of the protocol.
        kinds: Vec<RouteGroupKind>,
    }
}

record! {
    /// From which namespaces routes may attach. **Source**: `gateway.networking.k8s.io/v1.RouteNamespaces`.
    pub struct RouteNamespaces {
        /// `Same` (the default), `All`, `Selector` or `None`.
        from: Option<String>,
        /// Which, by label.
        selector: Option<LabelSelector>,
    }
}

record! {
    /// A kind of route. **Source**: `gateway.networking.k8s.io/v1.RouteGroupKind`.
    pub struct RouteGroupKind {
        /// Its API group.
        group: Option<String>,
        /// Its name.
        kind: String,
    }
}

record! {
    /// What a route attaches to. **Source**: `gateway.networking.k8s.io/v1.ParentReference`.
    pub struct ParentRef {
        /// `gateway.networking.k8s.io` (the default) or empty, for a Service.
        group: Option<String>,
        /// `Gateway` (the default) or `Service`.
        kind: Option<String>,
        /// Its namespace. Default: the route's.
        namespace: Option<String>,
        /// Its name.
        name: String,
        /// One listener of it.
        section_name: Option<String>,
        /// One port of it.
        port: Option<u32>,
    }
}

impl ParentRef {
    /// Whether it is a Service: the route is for the mesh.
    #[must_use]
    pub fn is_service(&self) -> bool {
        self.kind.as_deref() == Some("Service") && self.group.as_deref().is_some_and(|g| g.is_empty() || g == "core")
    }

    /// Whether it is a Gateway.
    #[must_use]
    pub fn is_gateway(&self) -> bool {
        self.kind.as_deref().is_none_or(|kind| kind == "Gateway")
            && self.group.as_deref().is_none_or(|group| group == "gateway.networking.k8s.io")
    }
}

record! {
    /// A backend without weight or filters. **Source**: `gateway.networking.k8s.io/v1.BackendObjectReference`.
    pub struct BackendObject {
        /// Empty, for a Service.
        group: Option<String>,
        /// `Service` (the default).
        kind: Option<String>,
        /// Its name.
        name: String,
        /// Its namespace. Default: the route's; another one needs a ReferenceGrant there.
        namespace: Option<String>,
        /// Its port.
        port: Option<u32>,
    }
}

record! {
    /// A weighted backend of a TCPRoute or TLSRoute. **Source**: `gateway.networking.k8s.io/v1.BackendRef`.
    pub struct BackendRef {
        /// Empty, for a Service.
        group: Option<String>,
        /// `Service` (the default).
        kind: Option<String>,
        /// Its name.
        name: String,
        /// Its namespace.
        namespace: Option<String>,
        /// Its port.
        port: Option<u32>,
        /// Its share. Default: 1.
        weight: Option<u32>,
    }
}

record! {
    /// Who may refer to what is here. **Source**: `gateway.networking.k8s.io/v1beta1.ReferenceGrant`.
    pub struct ReferenceGrant {
        /// The grant.
        spec: ReferenceGrantSpec,
    }
}

record! {
    /// A grant. **Source**: `gateway.networking.k8s.io/v1beta1.ReferenceGrantSpec`.
    pub struct ReferenceGrantSpec {
        /// Who may.
        from: Vec<GrantFrom>,
        /// To what.
        to: Vec<GrantTo>,
    }
}

record! {
    /// Who may refer. **Source**: `gateway.networking.k8s.io/v1beta1.ReferenceGrantFrom`.
    pub struct GrantFrom {
        /// Its API group.
        group: String,
        /// Its kind.
        kind: String,
        /// Its namespace.
        namespace: String,
    }
}

record! {
    /// What may be referred to. **Source**: `gateway.networking.k8s.io/v1beta1.ReferenceGrantTo`.
    pub struct GrantTo {
        /// Its API group.
        group: String,
        /// Its kind.
        kind: String,
        /// Its name. Default: all.
        name: Option<String>,
    }
}

record! {
    /// TLS to a Service's endpoints. **Source**: `gateway.networking.k8s.io/v1.BackendTLSPolicy`.
    pub struct BackendTlsPolicy (ignoring "status") {
        /// The policy.
        spec: BackendTlsPolicySpec,
    }
}

record! {
    /// TLS to endpoints. **Source**: `gateway.networking.k8s.io/v1.BackendTLSPolicySpec`.
    pub struct BackendTlsPolicySpec {
        /// The Services, in its namespace.
        target_refs: Vec<PolicyTarget>,
        /// How.
        validation: BackendTlsValidation,
    }
}

record! {
    /// What a policy is for. **Source**: `gateway.networking.k8s.io/v1.LocalPolicyTargetReferenceWithSectionName`.
    pub struct PolicyTarget {
        /// Empty, for a Service.
        group: Option<String>,
        /// `Service`.
        kind: Option<String>,
        /// Its name.
        name: String,
        /// A port's name.
        section_name: Option<String>,
    }
}

record! {
    /// What a certificate must be. **Source**: `gateway.networking.k8s.io/v1.BackendTLSPolicyValidation`.
    pub struct BackendTlsValidation {
        /// ConfigMaps with `ca.crt`.
        ca_certificate_refs: Vec<ObjectRef> = "caCertificateRefs",
        /// `System`: the system's certificates.
        well_known_ca_certificates: Option<String> = "wellKnownCACertificates",
        /// The server name we ask for, and the certificate's if no other is given.
        hostname: String,
        /// Names one of which the certificate must have.
        subject_alt_names: Vec<SubjectAltName>,
    }
}

record! {
    /// A name of a certificate. **Source**: `gateway.networking.k8s.io/v1.SubjectAltName`.
    pub struct SubjectAltName {
        /// `Hostname` or `URI`.
        r#type: String,
        /// A host.
        hostname: Option<String>,
        /// A URI.
        uri: Option<String>,
    }
}
