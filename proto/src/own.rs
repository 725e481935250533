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
    use crate::convert::convert;
    use crate::document::{Document, Format};
    use crate::schema::MessageType;

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
