//! What a mesh is extended by: servers that are asked.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::read::record;

record! {
    /// Something to extend the mesh by. **Source**: `mesh.istio.io/v1alpha1.MeshConfig.ExtensionProvider`.
    pub struct ExtensionProvider {
        /// What policies call it.
        name: String,
        /// An authorization server that speaks gRPC.
        envoy_ext_authz_grpc: Option<ExtAuthzGrpc>,
        /// An authorization server that speaks HTTP.
        envoy_ext_authz_http: Option<ExtAuthzHttp>,
    }
}

impl ExtensionProvider {
    /// The service of an authorization server, as it is named.
    #[must_use]
    pub fn service(&self) -> Option<&str> {
        let grpc = self.envoy_ext_authz_grpc.as_ref().map(|of| &of.service);
        grpc.or(self.envoy_ext_authz_http.as_ref().map(|of| &of.service)).map(String::as_str)
    }
}

record! {
    /// An authorization server that speaks Envoy's gRPC API.
    /// **Source**: `mesh.istio.io/v1alpha1.MeshConfig.ExtensionProvider.EnvoyExternalAuthorizationGrpcProvider`.
    pub struct ExtAuthzGrpc {
        /// Its host, or `namespace/host` where several namespaces have it.
        service: String,
        /// Its port.
        port: u32,
        /// How long it may take. Default: 600 s.
        timeout: Option<Duration>,
        /// Requests go through if it does not answer.
        fail_open: bool,
        /// The route is looked for again after it answered.
        clear_route_cache: bool,
        /// What requests get if it does not answer. Default: 403.
        status_on_error: Option<String>,
        /// Whether it gets bodies.
        include_request_body_in_check: Option<RequestBody>,
    }
}

record! {
    /// An authorization server that gets requests as they are, with another path.
    /// **Source**: `mesh.istio.io/v1alpha1.MeshConfig.ExtensionProvider.EnvoyExternalAuthorizationHttpProvider`.
    pub struct ExtAuthzHttp {
        /// Its host, or `namespace/host` where several namespaces have it.
        service: String,
        /// Its port.
        port: u32,
        /// How long it may take. Default: 600 s.
        timeout: Option<Duration>,
        /// In front of the path it is asked by.
        path_prefix: String,
        /// Requests go through if it does not answer.
        fail_open: bool,
        /// The route is looked for again after it answered.
        clear_route_cache: bool,
        /// What requests get if it does not answer. Default: 403.
        status_on_error: Option<String>,
        /// Headers it gets, `*` at an end; it always gets `Host`, the method, the path, `Content-Length` and `Authorization`.
        include_request_headers_in_check: Vec<String>,
        /// The same, as it was called.
        include_headers_in_check: Vec<String>,
        /// Headers it gets besides.
        include_additional_headers_in_check: BTreeMap<String, String>,
        /// Whether it gets bodies.
        include_request_body_in_check: Option<RequestBody>,
        /// Headers of its answer that the workload gets, `*` at an end.
        headers_to_upstream_on_allow: Vec<String>,
        /// Headers of its answer that a refused client gets; none: all.
        headers_to_downstream_on_deny: Vec<String>,
        /// Headers of its answer that a client gets that is let through.
        headers_to_downstream_on_allow: Vec<String>,
    }
}

record! {
    /// What an authorization server gets of bodies.
    /// **Source**: `…ExtensionProvider.EnvoyExternalAuthorizationRequestBody`.
    pub struct RequestBody {
        /// At most so much of one.
        max_request_bytes: u32,
        /// The beginning of a larger one. Default: a larger one is refused with 413.
        allow_partial_message: bool,
        /// As bytes and not as UTF-8; only by gRPC.
        pack_as_bytes: bool,
    }
}
