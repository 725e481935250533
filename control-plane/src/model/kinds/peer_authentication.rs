//! Istio's PeerAuthentication.
//!
//! A field that is not listed makes the whole object invalid: what it asks for would not be enforced.

use std::collections::BTreeMap;

use super::destination_rule::WorkloadSelector;
use crate::model::read::{choice, record};

record! {
    /// A PeerAuthentication. **Source**: `security.istio.io/v1.PeerAuthentication`.
    pub struct PeerAuthentication (ignoring "status") {
        /// What connections must be.
        spec: PeerAuthenticationSpec,
    }
}

record! {
    /// What connections must be. **Source**: `security.istio.io/v1.PeerAuthentication`.
    pub struct PeerAuthenticationSpec {
        /// Which workloads. None: all of the namespace; in the root namespace: all.
        selector: Option<WorkloadSelector>,
        /// Whether they must be mutual TLS.
        mtls: Option<MutualTls>,
        /// The same for single ports of the workload; only with a selector.
        port_level_mtls: BTreeMap<String, MutualTls>,
    }
}

record! {
    /// Whether a connection must be mutual TLS. **Source**: `security.istio.io/v1.PeerAuthentication.MutualTLS`.
    pub struct MutualTls {
        /// Whether.
        mode: MutualTlsMode,
    }
}

choice! {
    /// Whether a connection must be mutual TLS. **Source**: `security.istio.io/v1.PeerAuthentication.MutualTLS.Mode`.
    pub enum MutualTlsMode {
        /// As the wider policy says; if none does, permissive.
        #[default]
        Unset = "UNSET",
        /// It is not.
        Disable = "DISABLE",
        /// It may be.
        Permissive = "PERMISSIVE",
        /// It must be.
        Strict = "STRICT",
    }
}
