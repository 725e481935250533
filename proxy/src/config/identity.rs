//! The identity of the workload.

use std::time::Duration;

use super::ApiConfigSource;

/// Who the workload is, and who makes its certificate. **Source**: `weft.identity.v1.WorkloadIdentity`, an entry of
/// `bootstrap_extensions`. Envoy has nothing like it: there an agent beside it does this, and serves secrets.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkloadIdentity {
    /// `ca`: the authority, in a cluster of the bootstrap.
    pub ca: ApiConfigSource,
    /// `token_path`: a file with the token that proves who asks.
    pub token_path: Option<String>,
    /// The SPIFFE ID: of `trust_domain` (default `cluster.local`), `namespace` and `service_account` (default `default`).
    pub spiffe_id: String,
    /// `ttl`: for how long a certificate is asked for (default 24 h, as Istio's agent does).
    pub ttl: Duration,
    /// `key_type`.
    pub key: KeyType,
    /// `sds_cluster_name`: secrets that are asked for there are answered here (default `sds-grpc`, Istio's).
    pub sds_cluster: String,
}

/// A sort of key. **Source**: `weft.identity.v1.WorkloadIdentity.KeyType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
}
