//! Role-based access control: the judgement the RBAC filters of requests and of connections share.
//!
//! Compiled when a configuration is built. Judging allocates nothing: what it leaves in the dynamic metadata was made before, one
//! object for each policy. Knows nothing of what is done with a verdict. Runs on: workers.

mod condition;

use std::sync::Arc;

use serde_json::{Value, json};

use crate::config::{Policy, RbacAction, Rules};
use crate::http::stream::StreamCtx;
use crate::stats::{Counter, Scope};
use crate::stream_info::ConnInfo;

/// Namespace of the dynamic metadata of the HTTP filter.
pub const HTTP_NAMESPACE: &str = "envoy.filters.http.rbac";
/// Namespace of the dynamic metadata of the network filter.
pub const NETWORK_NAMESPACE: &str = "envoy.filters.network.rbac";

/// Rules, compiled.
pub struct Engine {
    action: RbacAction,
    policies: Vec<Compiled>,
    /// What is left in the dynamic metadata where no policy matches.
    unmatched: Arc<Value>,
}

struct Compiled {
    policy: Policy,
    metadata: Arc<Value>,
    stats: Option<PolicyStats>,
}

/// `policy.<name>.*`
struct PolicyStats {
    allowed: Counter,
    denied: Counter,
}

/// Whether rules are enforced, or only judged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `rules`
    Enforced,
    /// `shadow_rules`
    Shadow,
}

/// What is judged.
pub struct Facts<'a> {
    /// The connection.
    pub conn: &'a ConnInfo,
    /// The request on it; absent: it is the connection itself.
    pub stream: Option<&'a StreamCtx>,
}

/// What came of it.
pub struct Verdict<'a> {
    /// It may go on.
    pub allowed: bool,
    /// Name of the policy that matched.
    pub policy: Option<&'a str>,
    /// For the dynamic metadata: an object.
    pub metadata: &'a Arc<Value>,
    /// What `access_log_hint` is to say.
    pub log_hint: Option<bool>,
}

/// `allowed` and `denied` of one mode.
pub struct Counts {
    allowed: Counter,
    denied: Counter,
}

impl Mode {
    fn prefixed(self, name: &str) -> String {
        match self {
            Mode::Enforced => name.to_owned(),
            Mode::Shadow => format!("shadow_{name}"),
        }
    }
}

impl Counts {
    /// `scope` ends in `rbac`; `prefix` is what is configured to follow that.
    pub fn new(scope: &Scope, prefix: &str, mode: Mode) -> Self {
        let scope = scope.scope(prefix.trim_end_matches('.'));
        let counter = |name| scope.counter(&mode.prefixed(name));
        Counts { allowed: counter("allowed"), denied: counter("denied") }
    }

    /// Counts a verdict.
    pub fn count(&self, allowed: bool) {
        if allowed { self.allowed.inc() } else { self.denied.inc() }
    }
}

impl Engine {
    /// Compiles. `prefix`: in front of the keys of the dynamic metadata; `stats`: where each policy is counted, if it is.
    pub fn new(rules: &Rules, mode: Mode, prefix: &str, stats: Option<&Scope>) -> Self {
        let (id, result) = match mode {
            Mode::Enforced => ("enforced_effective_policy_id", "enforced_engine_result"),
            Mode::Shadow => ("shadow_effective_policy_id", "shadow_engine_result"),
        };
        let (id, result) = (format!("{prefix}{id}"), format!("{prefix}{result}"));
        let said = |matched| if allows(rules.action, matched) { "allowed" } else { "denied" };
        let compile = |policy: &Policy| Compiled {
            metadata: Arc::new(json!({ &id: policy.name, &result: said(true) })),
            stats: stats.map(|scope| {
                let counter = |name| scope.counter(&format!("policy.{}.{}", policy.name, mode.prefixed(name)));
                PolicyStats { allowed: counter("allowed"), denied: counter("denied") }
            }),
            policy: policy.clone(),
        };
        Engine {
            action: rules.action,
            policies: rules.policies.iter().map(compile).collect(),
            unmatched: Arc::new(json!({ &result: said(false) })),
        }
    }

    /// Judges, and counts the policy that matched.
    pub fn judge(&self, facts: &Facts<'_>) -> Verdict<'_> {
        let matched = self.policies.iter().find(|p| facts.fit(&p.policy));
        let allowed = allows(self.action, matched.is_some());
        if let Some(stats) = matched.and_then(|m| m.stats.as_ref()) {
            if allowed { stats.allowed.inc() } else { stats.denied.inc() }
        }
        Verdict {
            allowed,
            policy: matched.map(|m| m.policy.name.as_str()),
            metadata: matched.map_or(&self.unmatched, |m| &m.metadata),
            log_hint: (self.action == RbacAction::Log).then_some(matched.is_some()),
        }
    }
}

fn allows(action: RbacAction, matched: bool) -> bool {
    match action {
        RbacAction::Allow => matched,
        RbacAction::Deny => !matched,
        RbacAction::Log => true,
    }
}

impl Verdict<'_> {
    /// The policy's name as logs have it.
    pub fn policy_or_none(&self) -> &str {
        self.policy.unwrap_or("none")
    }

    /// Response code details and connection termination details of a refusal. White space would break the columns of a log.
    pub fn details(&self) -> String {
        let name = self.policy_or_none().replace([' ', '\t', '\x0c', '\x0b', '\n', '\r'], "_");
        format!("rbac_access_denied_matched_policy[{name}]")
    }
}

/// Adds to what is already there; where everything of that is replaced, nothing is copied.
pub fn merge(into: &mut Option<Arc<Value>>, more: &Arc<Value>) {
    let Some(Value::Object(before)) = into.as_deref() else {
        *into = Some(more.clone());
        return;
    };
    let Value::Object(new) = &**more else { return };
    if before.keys().all(|key| new.contains_key(key)) {
        *into = Some(more.clone());
        return;
    }
    let mut all = before.clone();
    all.extend(new.iter().map(|(key, value)| (key.clone(), value.clone())));
    *into = Some(Arc::new(Value::Object(all)));
}

/// The name a peer is known by, for logs: as policies see it first.
pub fn principal(conn: &ConnInfo) -> &str {
    let Some(peer) = conn.tls.as_ref().and_then(|tls| tls.peer.as_ref()) else { return "none" };
    peer.uri_sans.first().or(peer.dns_sans.first()).unwrap_or(&peer.subject)
}
