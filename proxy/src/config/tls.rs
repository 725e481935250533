//! TLS contexts and secrets.

use std::time::Duration;

use super::{Cidr, ConfigSource, DataSource, Source, StringMatcher};

/// How bytes are carried on a connection. **Source**: `envoy.config.core.v3.TransportSocket`.
#[derive(Debug, Clone, PartialEq)]
pub enum DownstreamTransport {
    /// Plain bytes.
    Plaintext,
    /// TLS server side.
    Tls(Box<DownstreamTls>),
}

/// How bytes are carried to an upstream. **Source**: `envoy.config.core.v3.TransportSocket`.
#[derive(Debug, Clone, PartialEq)]
pub enum UpstreamTransport {
    /// Plain bytes.
    Plaintext,
    /// TLS client side.
    Tls(Box<UpstreamTls>),
    /// A PROXY protocol header first, then the inner transport.
    /// **Source**: `envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport`.
    ProxyProtocol {
        /// 1 or 2.
        version: u8,
        /// TLV types taken over from the downstream connection's header; `None`: none, `Some(empty)`: all.
        pass_through_tlvs: Option<Vec<u8>>,
        /// TLVs always added (version 2).
        added_tlvs: Vec<(u8, Vec<u8>)>,
        /// What follows the header.
        inner: Box<UpstreamTransport>,
    },
}

/// **Source**: `envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext`.
#[derive(Debug, Clone, PartialEq)]
pub struct DownstreamTls {
    /// Shared part.
    pub common: CommonTls,
    /// `require_client_certificate`.
    pub require_client_certificate: bool,
    /// `disable_stateless_session_resumption`: no tickets.
    pub disable_stateless_resumption: bool,
    /// `disable_stateful_session_resumption`: no session ids.
    pub disable_stateful_resumption: bool,
    /// `session_timeout`.
    pub session_timeout: Option<Duration>,
    /// `session_ticket_keys`: 80 bytes each, the first encrypts.
    pub session_ticket_keys: Vec<DataSource>,
    /// `full_scan_certs_on_sni_mismatch`.
    pub full_scan_certs_on_sni_mismatch: bool,
    /// `prefer_client_ciphers`.
    pub prefer_client_ciphers: bool,
}

/// **Source**: `envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext`.
#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamTls {
    /// Shared part.
    pub common: CommonTls,
    /// Name sent; empty: none (the address is never sent).
    pub sni: String,
    /// `auto_host_sni`: the endpoint's host name.
    pub auto_host_sni: bool,
    /// `auto_sni_san_validation`: the certificate must name the SNI sent.
    pub auto_sni_san_validation: bool,
    /// `max_session_keys`: sessions kept for resumption; 0: none.
    pub max_session_keys: u32,
    /// `allow_renegotiation`: rustls never renegotiates; true is refused at load.
    pub allow_renegotiation: bool,
}

/// **Source**: `envoy.extensions.transport_sockets.tls.v3.CommonTlsContext`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CommonTls {
    /// Versions, ciphers and curves.
    pub params: TlsParams,
    /// Certificates given in place, or names of secrets.
    pub certificates: Vec<CertificateSource>,
    /// How the peer is checked.
    pub validation: Option<ValidationSource>,
    /// ALPN, in order of preference.
    pub alpn: Vec<String>,
    /// `key_log`.
    pub key_log: Option<KeyLog>,
}

impl CommonTls {
    /// The secrets it is made of.
    pub fn secrets(&self) -> impl Iterator<Item = &SdsSource> {
        let own = self.certificates.iter().filter_map(|c| match c {
            CertificateSource::Sds(sds) => Some(sds),
            CertificateSource::Inline(_) => None,
        });
        let trust = match &self.validation {
            Some(ValidationSource::Sds(sds) | ValidationSource::Combined(_, sds)) => Some(sds),
            Some(ValidationSource::Inline(_)) | None => None,
        };
        own.chain(trust)
    }
}

impl SdsSource {
    /// Whether it is this secret of a management server.
    pub fn is(&self, from: &Source, name: &str) -> bool {
        self.name == name && matches!(&self.config, SdsConfig::Discovered(source) if source.from == *from)
    }
}

/// Where a certificate with its key comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum CertificateSource {
    /// In the context.
    Inline(TlsCertificate),
    /// By SDS.
    Sds(SdsSource),
}

/// Where the validation context comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum ValidationSource {
    /// In the context.
    Inline(Box<CertificateValidation>),
    /// By SDS.
    Sds(SdsSource),
    /// `combined_validation_context`: the default, over which the secret is merged.
    Combined(Box<CertificateValidation>, SdsSource),
}

/// **Source**: `envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct SdsSource {
    /// Secret name.
    pub name: String,
    /// Where it is fetched.
    pub config: SdsConfig,
}

/// Where secrets are fetched.
#[derive(Debug, Clone, PartialEq)]
pub enum SdsConfig {
    /// `static_resources.secrets`.
    Static,
    /// A file holding a `DiscoveryResponse` (or a list of resources), read again when it or its directory is swapped.
    File {
        /// Path.
        path: String,
        /// Directory whose swap is the signal.
        watched_directory: Option<String>,
    },
    /// A management server.
    Discovered(ConfigSource),
}

/// A named secret. **Source**: `envoy.extensions.transport_sockets.tls.v3.Secret`.
#[derive(Debug, Clone, PartialEq)]
pub struct Secret {
    /// Name.
    pub name: String,
    /// What it is.
    pub kind: SecretKind,
}

/// What a secret is.
#[derive(Debug, Clone, PartialEq)]
pub enum SecretKind {
    /// Certificate and key.
    Certificate(TlsCertificate),
    /// Trust.
    Validation(Box<CertificateValidation>),
    /// Ticket keys.
    TicketKeys(Vec<DataSource>),
    /// Any other secret text.
    Generic(DataSource),
}

/// **Source**: `envoy.extensions.transport_sockets.tls.v3.TlsCertificate`.
#[derive(Debug, Clone, PartialEq)]
pub struct TlsCertificate {
    /// PEM chain, leaf first.
    pub chain: DataSource,
    /// PEM key; must fit the leaf.
    pub private_key: DataSource,
    /// Password of an encrypted key.
    pub password: Option<DataSource>,
    /// DER OCSP response to staple.
    pub ocsp_staple: Option<DataSource>,
    /// Directory whose swap makes chain and key be read again, together.
    pub watched_directory: Option<String>,
}

/// **Source**: `envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CertificateValidation {
    /// PEM of trusted authorities.
    pub trusted_ca: Option<DataSource>,
    /// Directory whose swap makes `trusted_ca` be read again.
    pub watched_directory: Option<String>,
    /// `match_typed_subject_alt_names`: any must match; empty: no check.
    pub subject_alt_names: Vec<SanMatcher>,
    /// `verify_certificate_spki`: base64 SHA-256 of the public key info.
    pub spki_hashes: Vec<[u8; 32]>,
    /// `verify_certificate_hash`: SHA-256 of the DER certificate.
    pub certificate_hashes: Vec<[u8; 32]>,
    /// PEM revocation lists.
    pub crl: Option<DataSource>,
    /// `only_verify_leaf_cert_crl`.
    pub only_verify_leaf_crl: bool,
    /// `allow_expired_certificate`.
    pub allow_expired: bool,
    /// `trust_chain_verification: ACCEPT_UNTRUSTED`.
    pub accept_untrusted: bool,
    /// `max_verify_depth`.
    pub max_verify_depth: Option<u32>,
    /// `custom_validator_config` of `envoy.tls.cert_validator.spiffe`: trust domain to its bundle.
    pub spiffe_trust_domains: Vec<(String, DataSource)>,
}

/// **Source**: `envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher`.
#[derive(Debug, Clone, PartialEq)]
pub struct SanMatcher {
    /// Kind of name.
    pub kind: SanKind,
    /// Its value. An exact DNS matcher also matches a certificate's wildcard.
    pub matcher: StringMatcher,
}

/// Kinds of subject alternative names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SanKind {
    /// E-mail.
    Email,
    /// DNS.
    Dns,
    /// URI, so SPIFFE.
    Uri,
    /// IP address, in text.
    Ip,
    /// The deprecated untyped matcher: any of the others.
    Any,
}

/// **Source**: `envoy.extensions.transport_sockets.tls.v3.TlsParameters`. Empty lists: the library's default.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TlsParams {
    /// Lowest version; absent: 1.2.
    pub min: Option<TlsVersion>,
    /// Highest version; absent: 1.3 downstream, 1.2 upstream, as Envoy has it.
    pub max: Option<TlsVersion>,
    /// OpenSSL names, in order (TLS 1.2).
    pub cipher_suites: Vec<String>,
    /// `P-256`, `X25519`, `X25519MLKEM768` and so on, in order.
    pub curves: Vec<String>,
    /// `signature_algorithms`.
    pub signature_algorithms: Vec<String>,
}

/// TLS versions that rustls speaks; older ones are refused at load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// 1.2.
    V1_2,
    /// 1.3.
    V1_3,
}

/// **Source**: `envoy.extensions.transport_sockets.tls.v3.TlsKeyLog`.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyLog {
    /// File in NSS key log format.
    pub path: String,
    /// Only connections whose local address lies in one of these; empty: any.
    pub local_ranges: Vec<Cidr>,
    /// Only connections whose remote address lies in one of these; empty: any.
    pub remote_ranges: Vec<Cidr>,
}
