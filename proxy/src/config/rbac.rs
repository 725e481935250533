//! Who may do what: the policies of the RBAC filters, of requests and of connections.

use std::time::Duration;

use super::{Cidr, HeaderMatcher, MetadataMatcher, Pattern, StringMatcher};

/// **Source**: `envoy.extensions.filters.http.rbac.v3.RBAC`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HttpRbac {
    /// `rules`: what is enforced; absent: everything is allowed, and nothing is counted.
    pub rules: Option<Rules>,
    /// `shadow_rules`: what is judged and counted, and that is all.
    pub shadow: Option<Rules>,
    /// `rules_stat_prefix`: in front of the stats and of the dynamic metadata of `rules`.
    pub rules_prefix: String,
    /// `shadow_rules_stat_prefix`: the same for `shadow_rules`.
    pub shadow_prefix: String,
    /// `track_per_rule_stats`: each policy is counted by its name.
    pub per_rule_stats: bool,
}

/// **Source**: `envoy.extensions.filters.network.rbac.v3.RBAC`.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkRbac {
    /// `rules`: what is enforced; absent: everything is allowed, and nothing is counted.
    pub rules: Option<Rules>,
    /// `shadow_rules`: what is judged and counted, and that is all.
    pub shadow: Option<Rules>,
    /// Stats are `<stat_prefix>.rbac.*`.
    pub stat_prefix: String,
    /// `shadow_rules_stat_prefix`: in front of the stats and of the dynamic metadata of `shadow_rules`.
    pub shadow_prefix: String,
    /// `enforcement_type` is `CONTINUOUS`: all that is read is judged, not only the first of it.
    pub continuous: bool,
    /// `delay_deny`: how long a refused connection is held before it is closed.
    pub delay_deny: Option<Duration>,
}

/// **Source**: `envoy.config.rbac.v3.RBAC`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// What a match means.
    pub action: RbacAction,
    /// In the order of their names, in which they are tried: the first that matches counts.
    pub policies: Vec<Policy>,
}

/// **Source**: `envoy.config.rbac.v3.RBAC.Action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RbacAction {
    /// What matches is allowed, and nothing else.
    Allow,
    /// What matches is refused, and nothing else.
    Deny,
    /// All is allowed; a match is noted in the dynamic metadata (`envoy.common`, `access_log_hint`).
    Log,
}

/// **Source**: `envoy.config.rbac.v3.Policy`.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Its key in the map of policies.
    pub name: String,
    /// Any of these must hold.
    pub permissions: Vec<Condition>,
    /// Any of these as well.
    pub principals: Vec<Condition>,
}

/// A condition on what is done or on who does it.
/// **Source**: `envoy.config.rbac.v3.Permission`, `envoy.config.rbac.v3.Principal`.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// Holds always.
    Any,
    /// `and_rules`, `and_ids`
    All(Vec<Condition>),
    /// `or_rules`, `or_ids`
    AnyOf(Vec<Condition>),
    /// `not_rule`, `not_id`
    Not(Box<Condition>),
    /// A header of the request.
    Header(Box<HeaderMatcher>),
    /// The path of the request without its query.
    Path(StringMatcher),
    /// `uri_template`: the same against a template.
    Template(Pattern),
    /// `destination_ip`
    DestinationIp(Cidr),
    /// `destination_port`, `destination_port_range`: the end is not part of it.
    DestinationPort {
        /// First port.
        start: u32,
        /// Port after the last one, at most 65,536.
        end: u32,
    },
    /// Metadata; absent metadata matches only what is inverted.
    Metadata(Box<MetadataMatcher>, RbacMetadata),
    /// `requested_server_name`: what the TLS inspector saw.
    ServerName(StringMatcher),
    /// `authenticated`: a name of the peer's certificate (URI, DNS, subject); absent: any connection with TLS.
    Authenticated(Option<StringMatcher>),
    /// `source_ip`: the peer, as a PROXY protocol header has it.
    SourceIp(Cidr),
    /// `direct_remote_ip`: the peer, as the socket has it.
    DirectRemoteIp(Cidr),
    /// `remote_ip`: the client, as `X-Forwarded-For` or a PROXY protocol header has it.
    RemoteIp(Cidr),
}

/// **Source**: `envoy.config.rbac.v3.MetadataSource`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RbacMetadata {
    /// What filters left.
    Dynamic,
    /// That of the route.
    Route,
}
