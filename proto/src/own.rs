//! Messages of our own and of Istio's: what `proto/` describes.
//!
//! Written by hand, as they are few; a test holds them to their `.proto` files.

/// `istio.v1.auth`: the certificate service.
pub mod istio_auth {
    use crate::pb::google::protobuf::Struct;

    /// Asks for a certificate. **Source**: `istio.v1.auth.IstioCertificateRequest`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct IstioCertificateRequest {
        /// A PKCS #10 request, as PEM.
        #[prost(string, tag = "1")]
        pub csr: String,
        /// For how long the certificate is to be good, in seconds.
        #[prost(int64, tag = "3")]
        pub validity_duration: i64,
        /// What else the caller says of itself.
        #[prost(message, optional, tag = "4")]
        pub metadata: Option<Struct>,
    }

    /// A certificate. **Source**: `istio.v1.auth.IstioCertificateResponse`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct IstioCertificateResponse {
        /// As PEM: the certificate, what lies between it and the roots, and last the roots.
        #[prost(string, repeated, tag = "1")]
        pub cert_chain: Vec<String>,
    }

    /// The path of the method.
    pub const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

    impl prost::Name for IstioCertificateRequest {
        const NAME: &'static str = "IstioCertificateRequest";
        const PACKAGE: &'static str = "istio.v1.auth";
    }

    impl prost::Name for IstioCertificateResponse {
        const NAME: &'static str = "IstioCertificateResponse";
        const PACKAGE: &'static str = "istio.v1.auth";
    }
}

/// `stats`: Istio's filter of standard metrics.
pub mod stats {
    use std::collections::BTreeMap;

    /// The filter. **Source**: `stats.PluginConfig`, where its fields are described.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct PluginConfig {
        /// The host that a request names is not taken for a service.
        #[prost(bool, tag = "6")]
        pub disable_host_header_fallback: bool,
        /// What differs from the standard metrics.
        #[prost(message, repeated, tag = "8")]
        pub metrics: Vec<MetricConfig>,
    }

    /// What differs from the standard metrics. **Source**: `stats.MetricConfig`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct MetricConfig {
        /// Labels that are added or replaced, with expressions.
        #[prost(btree_map = "string, string", tag = "1")]
        pub dimensions: BTreeMap<String, String>,
        /// The metric, without `istio_`; empty: all.
        #[prost(string, tag = "2")]
        pub name: String,
        /// Labels that are left out.
        #[prost(string, repeated, tag = "3")]
        pub tags_to_remove: Vec<String>,
        /// The metric is left out.
        #[prost(bool, tag = "5")]
        pub drop: bool,
    }

    /// What a label is made of: what is understood of CEL.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Expression<'t> {
        /// A text: `'blue'`.
        Text(&'t str),
        /// A header of the request: `request.headers['x-team']`.
        Header(&'t str),
        /// One of [`ATTRIBUTES`].
        Attribute(&'t str),
    }

    /// The attributes that are understood.
    pub const ATTRIBUTES: [&str; 7] = [
        "request.method",
        "request.host",
        "request.path",
        "request.url_path",
        "request.useragent",
        "response.code",
        "destination.port",
    ];

    /// Reads an expression, also within `string(…)`; `None`: it is not understood.
    pub fn expression(text: &str) -> Option<Expression<'_>> {
        let text = text.trim();
        let inner = text.strip_prefix("string(").and_then(|rest| rest.strip_suffix(')'));
        let text = inner.map_or(text, str::trim);
        if let Some(text) = quoted(text) {
            return Some(Expression::Text(text));
        }
        if let Some(name) = text.strip_prefix("request.headers[").and_then(|rest| rest.strip_suffix(']')) {
            let is_name = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            let name = quoted(name.trim()).filter(|name| !name.is_empty() && name.bytes().all(is_name));
            return name.map(Expression::Header);
        }
        ATTRIBUTES.contains(&text).then_some(Expression::Attribute(text))
    }

    /// What is between quotes, where there is nothing that would have to be read in another way.
    fn quoted(text: &str) -> Option<&str> {
        let inner = ['\'', '"'].into_iter().find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote))?;
        (!inner.contains(['\'', '"', '\\'])).then_some(inner)
    }

    impl prost::Name for PluginConfig {
        const NAME: &'static str = "PluginConfig";
        const PACKAGE: &'static str = "stats";
    }
}

/// `io.istio.http.peer_metadata`: Istio's filter that tells the two sides of a request about each other.
pub mod peer_metadata {
    /// The filter. **Source**: `io.istio.http.peer_metadata.Config`, where its fields are described.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Config {
        /// How it is found who calls.
        #[prost(message, repeated, tag = "1")]
        pub downstream_discovery: Vec<DiscoveryMethod>,
        /// How it is found who was called.
        #[prost(message, repeated, tag = "2")]
        pub upstream_discovery: Vec<DiscoveryMethod>,
        /// How callers are told who we are.
        #[prost(message, repeated, tag = "3")]
        pub downstream_propagation: Vec<PropagationMethod>,
        /// How who is called is told who we are.
        #[prost(message, repeated, tag = "4")]
        pub upstream_propagation: Vec<PropagationMethod>,
    }

    /// A way to find out; one that is not known here is passed over, as the others are looked at too.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct DiscoveryMethod {
        /// By what a control plane says of all workloads.
        #[prost(message, optional, tag = "2")]
        pub workload_discovery: Option<WorkloadDiscovery>,
        /// By headers.
        #[prost(message, optional, tag = "3")]
        pub istio_headers: Option<IstioHeaders>,
    }

    /// A way to tell.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct PropagationMethod {
        /// By headers.
        #[prost(message, optional, tag = "1")]
        pub istio_headers: Option<IstioHeaders>,
    }

    /// What a control plane says of all workloads.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct WorkloadDiscovery {}

    /// Headers.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct IstioHeaders {
        /// They are not sent to what is outside the mesh.
        #[prost(bool, tag = "1")]
        pub skip_external_clusters: bool,
    }

    impl prost::Name for Config {
        const NAME: &'static str = "Config";
        const PACKAGE: &'static str = "io.istio.http.peer_metadata";
    }
}

/// `weft.identity.v1`: the identity of a workload.
pub mod identity {
    use crate::pb::envoy::config::core::v3::GrpcService;
    use crate::pb::google::protobuf::Duration;

    /// The identity of the workload that a proxy is beside. **Source**: `weft.identity.v1.WorkloadIdentity`, where its fields
    /// are described.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct WorkloadIdentity {
        /// The authority.
        #[prost(message, optional, tag = "1")]
        pub ca: Option<GrpcService>,
        /// A file with a token.
        #[prost(string, tag = "2")]
        pub token_path: String,
        /// The trust domain; empty: `cluster.local`.
        #[prost(string, tag = "3")]
        pub trust_domain: String,
        /// The namespace.
        #[prost(string, tag = "4")]
        pub namespace: String,
        /// The service account; empty: `default`.
        #[prost(string, tag = "5")]
        pub service_account: String,
        /// For how long; absent: 24 h.
        #[prost(message, optional, tag = "6")]
        pub ttl: Option<Duration>,
        /// The sort of key.
        #[prost(enumeration = "KeyType", tag = "7")]
        pub key_type: i32,
        /// The cluster that secrets are asked for from; empty: `sds-grpc`.
        #[prost(string, tag = "8")]
        pub sds_cluster_name: String,
    }

    /// A sort of key.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
    #[repr(i32)]
    pub enum KeyType {
        /// On the curve P-256.
        EcdsaP256 = 0,
        /// On the curve P-384.
        EcdsaP384 = 1,
    }

    impl prost::Name for WorkloadIdentity {
        const NAME: &'static str = "WorkloadIdentity";
        const PACKAGE: &'static str = "weft.identity.v1";
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::identity::WorkloadIdentity;
    use super::istio_auth::{IstioCertificateRequest, IstioCertificateResponse};
    use super::peer_metadata::Config;
    use super::stats::{Expression, PluginConfig, expression};
    use crate::convert::convert;
    use crate::document::{Document, Format};
    use crate::schema::MessageType;

    #[test]
    fn expressions() {
        assert_eq!(expression("'a b'"), Some(Expression::Text("a b")));
        assert_eq!(expression("request.headers['x-team']"), Some(Expression::Header("x-team")));
        assert_eq!(expression("string(destination.port)"), Some(Expression::Attribute("destination.port")));
        for other in ["'a' + 'b'", "request.headers[x]", "has(request.host)", "", "'a\\'b'", "request.headers['a b']"] {
            assert_eq!(expression(other), None, "{other}");
        }
    }

    /// A document of a type, by the table, as bytes.
    fn encoded(name: &str, text: &str) -> Vec<u8> {
        let document = Document::parse("test", &format!("{{{text}}}"), Format::Yaml).unwrap();
        let converted = convert(&document, MessageType::find(name).unwrap());
        assert!(converted.problems.is_empty(), "{:?}", converted.problems);
        converted.message.encode()
    }

    #[test]
    fn the_types_are_those_of_the_proto_files() {
        let text = "csr: c, validity_duration: 3, metadata: {a: b}";
        let request =
            IstioCertificateRequest::decode(&*encoded("istio.v1.auth.IstioCertificateRequest", text)).unwrap();
        assert_eq!((request.csr.as_str(), request.validity_duration), ("c", 3));
        assert!(request.metadata.unwrap().fields.contains_key("a"));
        let text = "cert_chain: [a, b]";
        let response =
            IstioCertificateResponse::decode(&*encoded("istio.v1.auth.IstioCertificateResponse", text)).unwrap();
        assert_eq!(response.cert_chain, ["a", "b"]);
        let text = "disable_host_header_fallback: true, metrics: [{name: m, dimensions: {a: b}, tags_to_remove: [c], drop: true}]";
        let stats = PluginConfig::decode(&*encoded("stats.PluginConfig", text)).unwrap();
        let metric = &stats.metrics[0];
        assert!(stats.disable_host_header_fallback && metric.drop && metric.dimensions["a"] == "b");
        assert_eq!((metric.name.as_str(), &*metric.tags_to_remove), ("m", &["c".to_owned()][..]));
        let text = "downstream_discovery: [{istio_headers: {}}, {workload_discovery: {}}], upstream_discovery: [{}], \
                    downstream_propagation: [{istio_headers: {}}], \
                    upstream_propagation: [{istio_headers: {skip_external_clusters: true}}]";
        let peers = Config::decode(&*encoded("io.istio.http.peer_metadata.Config", text)).unwrap();
        assert!(peers.downstream_discovery[0].istio_headers.is_some());
        assert!(peers.downstream_discovery[1].workload_discovery.is_some() && peers.upstream_discovery.len() == 1);
        assert!(peers.downstream_propagation[0].istio_headers.is_some());
        assert!(peers.upstream_propagation[0].istio_headers.as_ref().unwrap().skip_external_clusters);
        let text = "ca: {envoy_grpc: {cluster_name: ca}}, token_path: /t, trust_domain: d, namespace: ns, \
                    service_account: s, ttl: 60s, key_type: ECDSA_P384, sds_cluster_name: c";
        let identity = WorkloadIdentity::decode(&*encoded("weft.identity.v1.WorkloadIdentity", text)).unwrap();
        assert!(identity.ca.is_some());
        assert_eq!(identity.ttl.unwrap().seconds, 60);
        assert_eq!(
            [identity.token_path, identity.trust_domain, identity.namespace, identity.service_account],
            ["/t", "d", "ns", "s"]
        );
        assert_eq!((identity.key_type, identity.sds_cluster_name.as_str()), (1, "c"));
    }
}
