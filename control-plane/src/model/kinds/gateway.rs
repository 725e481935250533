//! Istio's Gateway.

use super::meta::Labels;
use crate::model::read::{choice, record};

record! {
    /// A Gateway. **Source**: `networking.istio.io/v1.Gateway`.
    pub struct IstioGateway (ignoring "status") {
        /// What it opens.
        spec: GatewaySpec,
    }
}

record! {
    /// What a gateway opens. **Source**: `networking.istio.io/v1.Gateway`.
    pub struct GatewaySpec {
        /// The proxies it is for, in any namespace.
        selector: Labels,
        /// Ports and hosts.
        servers: Vec<Server>,
    }
}

record! {
    /// A port and its hosts. **Source**: `networking.istio.io/v1.Server`.
    pub struct Server {
        /// The port.
        port: ServerPort,
        /// An address other than all.
        bind: Option<String>,
        /// `host`, `namespace/host`, with `*` for any namespace and `.` for its own.
        hosts: Vec<String>,
        /// Encryption.
        tls: Option<ServerTls>,
        /// Its name.
        name: Option<String>,
        /// No effect in Istio either: kept for compatibility.
        default_endpoint: Option<String>,
    }
}

record! {
    /// A port. **Source**: `networking.istio.io/v1.Port`.
    pub struct ServerPort {
        /// The number, of the gateway's Service if that has it.
        number: u32,
        /// `HTTP`, `HTTPS`, `GRPC`, `HTTP2`, `TCP`, `TLS`…
        protocol: String,
        /// Its name.
        name: Option<String>,
        /// Istio's own former field, without effect there, too.
        target_port: Option<u32>,
    }
}

record! {
    /// Encryption. **Source**: `networking.istio.io/v1.ServerTLSSettings`.
    pub struct ServerTls {
        /// Whether plaintext is redirected to HTTPS.
        https_redirect: bool,
        /// How.
        mode: ServerTlsMode,
        /// A certificate chain, a file.
        server_certificate: Option<String>,
        /// Its key, a file.
        private_key: Option<String>,
        /// Who may sign clients' certificates, a file.
        ca_certificates: Option<String>,
        /// Revoked certificates, a file.
        ca_crl: Option<String>,
        /// A Secret with all.
        credential_name: Option<String>,
        /// Several Secrets.
        credential_names: Vec<String>,
        /// A Secret, or a ConfigMap, with who may sign clients' certificates. Default: the one of `credentialName`.
        ca_cert_credential_name: Option<String>,
        /// Several certificates in files, of different kinds of keys.
        tls_certificates: Vec<CertificateFiles>,
        /// Names one of which a client's certificate must have.
        subject_alt_names: Vec<String>,
        /// SHA-256 of certificates that are accepted, in base64 of the key.
        verify_certificate_spki: Vec<String>,
        /// SHA-256 of certificates that are accepted, in hex.
        verify_certificate_hash: Vec<String>,
        /// The oldest version. Default: 1.2.
        min_protocol_version: TlsVersion,
        /// The newest version.
        max_protocol_version: TlsVersion,
        /// Cipher suites up to TLS 1.2.
        cipher_suites: Vec<String>,
    }
}

record! {
    /// A certificate in files. **Source**: `networking.istio.io/v1.ServerTLSSettings.TLSCertificate`.
    pub struct CertificateFiles {
        /// The chain.
        server_certificate: Option<String>,
        /// Its key.
        private_key: Option<String>,
        /// Who may sign clients' certificates.
        ca_certificates: Option<String>,
    }
}

choice! {
    /// How a gateway treats TLS. **Source**: `networking.istio.io/v1.ServerTLSSettings.TLSmode`.
    pub enum ServerTlsMode {
        /// Passed on as it is, by SNI.
        #[default]
        Passthrough = "PASSTHROUGH",
        /// Ended here.
        Simple = "SIMPLE",
        /// Ended here, clients need a certificate.
        Mutual = "MUTUAL",
        /// Passed on to the service that the SNI names in Istio's form.
        AutoPassthrough = "AUTO_PASSTHROUGH",
        /// Ended here with the mesh's identity.
        IstioMutual = "ISTIO_MUTUAL",
        /// Ended here, clients may have a certificate.
        OptionalMutual = "OPTIONAL_MUTUAL",
    }
}

choice! {
    /// Versions of TLS. **Source**: `networking.istio.io/v1.ServerTLSSettings.TLSProtocol`.
    pub enum TlsVersion {
        /// The default.
        #[default]
        Auto = "TLS_AUTO",
        /// 1.0
        V1_0 = "TLSV1_0",
        /// 1.1
        V1_1 = "TLSV1_1",
        /// 1.2
        V1_2 = "TLSV1_2",
        /// 1.3
        V1_3 = "TLSV1_3",
    }
}
