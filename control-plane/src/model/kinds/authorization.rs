//! Istio's AuthorizationPolicy.
//!
//! A field that is not listed makes the whole object invalid: a rule without one of its conditions would allow more.

use super::destination_rule::WorkloadSelector;
use super::policy_target::PolicyTarget;
use crate::model::read::{choice, record};

record! {
    /// An AuthorizationPolicy. **Source**: `security.istio.io/v1.AuthorizationPolicy`.
    pub struct AuthorizationPolicy (ignoring "status") {
        /// The policy.
        spec: AuthorizationSpec,
    }
}

record! {
    /// Who may do what. **Source**: `security.istio.io/v1.AuthorizationPolicy`.
    pub struct AuthorizationSpec {
        /// Which workloads. None: all of the namespace; in the root namespace: all.
        selector: Option<WorkloadSelector>,
        /// Which gateways, instead of a selector.
        target_refs: Vec<PolicyTarget>,
        /// The older spelling for one.
        target_ref: Option<PolicyTarget>,
        /// What is done with requests that a rule matches.
        action: Action,
        /// Who is asked; only with CUSTOM.
        provider: Option<Provider>,
        /// Any of these; none: nothing matches.
        rules: Vec<Rule>,
    }
}

choice! {
    /// What is done. **Source**: `security.istio.io/v1.AuthorizationPolicy.Action`.
    pub enum Action {
        /// Allowed; as soon as one policy allows something, what none allows is refused.
        #[default]
        Allow = "ALLOW",
        /// Refused, whatever others allow.
        Deny = "DENY",
        /// Marked for logs, and let through.
        Audit = "AUDIT",
        /// Somebody else is asked, before anything else is looked at.
        Custom = "CUSTOM",
    }
}

record! {
    /// Who is asked. **Source**: `security.istio.io/v1.AuthorizationPolicy.ExtensionProvider`.
    pub struct Provider {
        /// Its name in `extensionProviders` of the MeshConfig.
        name: String,
    }
}

impl AuthorizationSpec {
    /// The gateways it names.
    pub fn targets(&self) -> impl Iterator<Item = &PolicyTarget> {
        PolicyTarget::named(&self.target_refs, self.target_ref.as_ref())
    }

    /// The name of who is asked; empty: nobody is named.
    #[must_use]
    pub fn provider(&self) -> &str {
        self.provider.as_ref().map_or("", |provider| &provider.name)
    }
}

record! {
    /// A rule: what is set must all hold. **Source**: `security.istio.io/v1.Rule`.
    pub struct Rule {
        /// From any of these.
        from: Vec<From>,
        /// To any of these.
        to: Vec<To>,
        /// With all of these.
        when: Vec<Condition>,
    }
}

record! {
    /// Where a request is from. **Source**: `security.istio.io/v1.Rule.From`.
    pub struct From {
        /// The caller.
        source: Source,
    }
}

record! {
    /// A caller; what is set must all hold. Identities are those of mutual TLS: without it they do not match.
    /// **Source**: `security.istio.io/v1.Source`.
    pub struct Source {
        /// Identities: `cluster.local/ns/default/sa/name`, `*` at an end.
        principals: Vec<String>,
        /// None of these.
        not_principals: Vec<String>,
        /// Principals of tokens: `issuer/subject`, `*` at an end.
        request_principals: Vec<String>,
        /// None of these.
        not_request_principals: Vec<String>,
        /// Service accounts of identities: `name` or `namespace/name`.
        service_accounts: Vec<String>,
        /// None of these.
        not_service_accounts: Vec<String>,
        /// Trust domains of identities, `*` at an end.
        trust_domains: Vec<String>,
        /// None of these.
        not_trust_domains: Vec<String>,
        /// Namespaces of identities.
        namespaces: Vec<String>,
        /// None of these.
        not_namespaces: Vec<String>,
        /// Addresses and networks of the connection.
        ip_blocks: Vec<String>,
        /// None of these.
        not_ip_blocks: Vec<String>,
        /// Addresses and networks of the client, by `X-Forwarded-For`.
        remote_ip_blocks: Vec<String>,
        /// None of these.
        not_remote_ip_blocks: Vec<String>,
    }
}

record! {
    /// Where a request goes. **Source**: `security.istio.io/v1.Rule.To`.
    pub struct To {
        /// The operation.
        operation: RequestOperation,
    }
}

record! {
    /// What a request does; what is set must all hold. **Source**: `security.istio.io/v1.Operation`.
    pub struct RequestOperation {
        /// Hosts, `*` at an end.
        hosts: Vec<String>,
        /// None of these.
        not_hosts: Vec<String>,
        /// Ports of the workload.
        ports: Vec<String>,
        /// None of these.
        not_ports: Vec<String>,
        /// Methods.
        methods: Vec<String>,
        /// None of these.
        not_methods: Vec<String>,
        /// Paths: `*` at an end, `{*}` for a segment, `{**}` for any number of them.
        paths: Vec<String>,
        /// None of these.
        not_paths: Vec<String>,
    }
}

record! {
    /// A condition. **Source**: `security.istio.io/v1.Condition`.
    pub struct Condition {
        /// What is looked at; the documentation of Istio lists the keys.
        key: String,
        /// Any of these.
        values: Vec<String>,
        /// None of these.
        not_values: Vec<String>,
    }
}
