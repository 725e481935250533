//! Kubernetes Ingress.

use super::service::PortRef;
use crate::model::read::record;

record! {
    /// An Ingress. **Source**: `networking.k8s.io/v1.Ingress`.
    pub struct Ingress (ignoring "status") {
        /// What it routes.
        spec: IngressSpec,
    }
}

record! {
    /// What an Ingress routes. **Source**: `networking.k8s.io/v1.IngressSpec`.
    pub struct IngressSpec {
        /// Which controller serves it: `istio` is ours, so is none with no annotation `kubernetes.io/ingress.class`.
        ingress_class_name: Option<String>,
        /// Where to what no rule matches goes.
        default_backend: Option<IngressBackend>,
        /// Certificates by host.
        tls: Vec<IngressTls>,
        /// Hosts and paths.
        rules: Vec<IngressRule>,
    }
}

record! {
    /// A certificate. **Source**: `networking.k8s.io/v1.IngressTLS`.
    pub struct IngressTls {
        /// The hosts it is for; none: all.
        hosts: Vec<String>,
        /// The Secret with the certificate.
        secret_name: Option<String>,
    }
}

record! {
    /// A host and its paths. **Source**: `networking.k8s.io/v1.IngressRule`.
    pub struct IngressRule {
        /// The host, exact or `*.example.com`; none: all.
        host: Option<String>,
        /// Its paths.
        http: Option<IngressPaths>,
    }
}

record! {
    /// Paths of a host. **Source**: `networking.k8s.io/v1.HTTPIngressRuleValue`.
    pub struct IngressPaths {
        /// The paths.
        paths: Vec<IngressPath>,
    }
}

record! {
    /// A path. **Source**: `networking.k8s.io/v1.HTTPIngressPath`.
    pub struct IngressPath {
        /// The path. Default: `/`.
        path: Option<String>,
        /// `Exact`, `Prefix` or `ImplementationSpecific` (as Istio has it: a prefix if it ends in `*`, else exact).
        path_type: Option<String>,
        /// Where it goes.
        backend: IngressBackend,
    }
}

record! {
    /// Where requests go. **Source**: `networking.k8s.io/v1.IngressBackend`.
    pub struct IngressBackend {
        /// A Service.
        service: Option<IngressService>,
    }
}

record! {
    /// A Service and its port. **Source**: `networking.k8s.io/v1.IngressServiceBackend`.
    pub struct IngressService {
        /// The Service's name, in the Ingress's namespace.
        name: String,
        /// Its port.
        port: IngressPort,
    }
}

record! {
    /// A port of a Service. **Source**: `networking.k8s.io/v1.ServiceBackendPort`.
    pub struct IngressPort {
        /// By name.
        name: Option<String>,
        /// By number.
        number: Option<u16>,
    }
}

impl IngressPort {
    /// The port, if it names one.
    #[must_use]
    pub fn reference(&self) -> Option<PortRef> {
        self.number.map(PortRef::Number).or_else(|| self.name.clone().map(PortRef::Name))
    }
}
