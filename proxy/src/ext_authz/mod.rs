//! External authorization: what a service is asked and what its answer says, for the HTTP and the network filter.
//!
//! Owns no connection and knows no filter chain. Runs on: workers.

pub(crate) mod attributes;
pub(crate) mod grpc;
pub(crate) mod http;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::config::AppendAction;
use crate::stats::{LazyCounters, Scope};

/// Namespace of the HTTP filter's dynamic metadata.
pub const HTTP_NAMESPACE: &str = "envoy.filters.http.ext_authz";

/// Namespace of the network filter's.
pub const NETWORK_NAMESPACE: &str = "envoy.filters.network.ext_authz";

/// The method that is called.
pub const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// What a service says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Verdict {
    /// Go on.
    Ok,
    /// No.
    Denied,
    /// It says nothing, or that it cannot say.
    #[default]
    Error,
}

/// A header field of an answer, not looked at yet: it may be none at all.
pub(crate) type Field = (String, Bytes);

/// An answer.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) verdict: Verdict,
    /// Status of a refusal or error; 0: as configured.
    pub(crate) status: u16,
    /// Body of a refusal or error.
    pub(crate) body: Bytes,
    /// Request fields, in place of those of their name.
    pub(crate) set: Vec<Field>,
    /// Request fields, beside those of their name.
    pub(crate) add: Vec<Field>,
    /// Request values, behind the value of a field that is there.
    pub(crate) append: Vec<Field>,
    /// Request fields to be taken away.
    pub(crate) remove: Vec<String>,
    /// Fields of the upstream's answer.
    pub(crate) response: Vec<(Field, AppendAction)>,
    /// Fields of the refusal or error.
    pub(crate) local: Vec<Field>,
    /// Query parameters, in place of those of their name.
    pub(crate) query: Vec<(String, String)>,
    /// Query parameters to be taken away.
    pub(crate) query_remove: Vec<String>,
    /// Dynamic metadata.
    pub(crate) metadata: Map<String, Value>,
    /// It asks for an action that there is not.
    pub(crate) bad_action: bool,
}

/// `cluster.<name>.ext_authz.<stat prefix>.*`, of the cluster that a route leads to.
pub struct ClusterCounts(LazyCounters<5>);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    Ok,
    Denied,
    Error,
    Invalid,
    FailureModeAllowed,
}

impl ClusterCounts {
    /// Below the cluster's `scope`.
    pub(crate) fn new(scope: &Scope, stat_prefix: &str) -> Self {
        let names = ["ok", "denied", "error", "invalid", "failure_mode_allowed"];
        ClusterCounts(LazyCounters::new(scope.scope("ext_authz").scope(stat_prefix), names))
    }

    pub(crate) fn count(&self, what: Count) {
        self.0.inc(what as usize);
    }
}
