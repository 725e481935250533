//! AuthorizationPolicies: who may reach a workload.
//!
//! As in Istio there is a filter for what is denied and one behind it for what is allowed, each with a policy for each rule
//! (`ns[default]-policy[name]-rule[0]`). Conditions on requests do not hold for connections: what is allowed by them is refused
//! there, and what is denied by them is denied as a whole.

use std::collections::HashMap;
use std::sync::Arc;

use weft_proto::pb::envoy::config::listener::v3::Filter;
use weft_proto::pb::envoy::config::rbac::v3::{self as pb, permission, principal, rbac};
use weft_proto::pb::envoy::config::route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier};
use weft_proto::pb::envoy::extensions::filters::http::rbac::v3 as http_rbac;
use weft_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use weft_proto::pb::envoy::extensions::filters::network::rbac::v3 as network_rbac;
use weft_proto::pb::envoy::r#type::matcher::v3::{self as matcher, string_matcher::MatchPattern};

use super::view::View;
use super::{http, wire};
use crate::model::kinds::authorization::{Action, AuthorizationPolicy, Condition, RequestOperation, Rule, Source};
use crate::model::kinds::{Kind, Object, ObjectKey};

/// The filters for requests, in their order.
pub(super) fn http_filters(view: &View<'_>) -> Vec<HttpFilter> {
    let filter = |rules| {
        http::http_filter("envoy.filters.http.rbac", &http_rbac::Rbac { rules: Some(rules), ..Default::default() })
    };
    all(view, true).into_iter().map(filter).collect()
}

/// The filters for connections, in their order.
pub(super) fn network_filters(view: &View<'_>) -> Vec<Filter> {
    let filter = |rules| {
        let config = network_rbac::Rbac { rules: Some(rules), stat_prefix: "tcp.".to_owned(), ..Default::default() };
        wire::network_filter("envoy.filters.network.rbac", &config)
    };
    all(view, false).into_iter().map(filter).collect()
}

/// The policies for a workload.
pub(super) fn objects(view: &View<'_>) -> Vec<ObjectKey> {
    policies(view).into_iter().map(|(object, _)| object.key.clone()).collect()
}

fn policies<'w>(view: &View<'w>) -> Vec<(&'w Arc<Object>, &'w AuthorizationPolicy)> {
    let root = view.world.config().mesh.root_namespace();
    let own = &view.proxy.namespace;
    let mut policies = view.world.objects().by_age::<AuthorizationPolicy>(Kind::AuthorizationPolicy);
    policies.retain(|(object, policy)| {
        let here = *object.key.namespace == **own || &*object.key.namespace == root;
        here && policy.spec.selector.as_ref().is_none_or(|selector| selector.matches(view.labels))
    });
    policies
}

/// What is denied, then what is allowed; what nobody speaks of is left out.
fn all(view: &View<'_>, is_http: bool) -> Vec<pb::Rbac> {
    let policies = policies(view);
    let mut made = Vec::new();
    for action in [Action::Deny, Action::Allow] {
        let of_action: Vec<_> = policies.iter().filter(|(_, policy)| policy.spec.action == action).collect();
        if of_action.is_empty() {
            continue;
        }
        let rules = of_action.iter().flat_map(|(object, policy)| {
            policy.spec.rules.iter().enumerate().map(move |(index, rule)| (name(object, index), rule))
        });
        let scope = Scope { is_http, denies: action == Action::Deny };
        let policies = rules.filter_map(|(name, rule)| Some((name, scope.policy(rule)?))).collect::<HashMap<_, _>>();
        let wire = if action == Action::Deny { rbac::Action::Deny } else { rbac::Action::Allow };
        made.push(pb::Rbac { action: wire as i32, policies, ..Default::default() });
    }
    made
}

fn name(object: &Object, rule: usize) -> String {
    format!("ns[{}]-policy[{}]-rule[{rule}]", object.key.namespace, object.key.name)
}

/// For what rules are translated.
#[derive(Clone, Copy)]
struct Scope {
    is_http: bool,
    denies: bool,
}

/// What a condition becomes: `None` can never hold.
type Held<T> = Option<T>;

impl Scope {
    /// A rule; `None` if it can never match.
    fn policy(self, rule: &Rule) -> Option<pb::Policy> {
        let mut permissions: Vec<pb::Permission> =
            rule.to.iter().filter_map(|to| self.operation(&to.operation)).collect();
        let mut principals: Vec<pb::Principal> =
            rule.from.iter().filter_map(|from| self.source(&from.source)).collect();
        if (permissions.is_empty() && !rule.to.is_empty()) || (principals.is_empty() && !rule.from.is_empty()) {
            return None;
        }
        if permissions.is_empty() {
            permissions.push(permit(permission::Rule::Any(true)));
        }
        if principals.is_empty() {
            principals.push(caller(principal::Identifier::Any(true)));
        }
        let mut needed_permissions = Vec::new();
        let mut needed_principals = Vec::new();
        for condition in &rule.when {
            match self.condition(condition)? {
                Needed::Permission(of) => needed_permissions.extend(of),
                Needed::Principal(of) => needed_principals.extend(of),
            }
        }
        let permissions = permissions.into_iter().map(|of| all_permissions(of, &needed_permissions)).collect();
        let principals = principals.into_iter().map(|of| all_principals(of, &needed_principals)).collect();
        Some(pb::Policy { permissions, principals, ..Default::default() })
    }

    fn operation(self, of: &RequestOperation) -> Held<pb::Permission> {
        let mut rules = Vec::new();
        let port = |text: &str| text.parse().ok().map(permission::Rule::DestinationPort);
        permissions(&mut rules, &of.ports, &of.not_ports, port);
        let header = |name: &'static str, ignore_case: bool| {
            move |text: &str| Some(permission::Rule::Header(header_matches(name, text, ignore_case)))
        };
        let path = |text: &str| {
            let path = matcher::path_matcher::Rule::Path(string_matches(text, false));
            Some(permission::Rule::UrlPath(matcher::PathMatcher { rule: Some(path) }))
        };
        let of_request = [&of.hosts, &of.not_hosts, &of.methods, &of.not_methods, &of.paths, &of.not_paths];
        if self.is_http {
            permissions(&mut rules, &of.hosts, &of.not_hosts, header(":authority", true));
            permissions(&mut rules, &of.methods, &of.not_methods, header(":method", false));
            permissions(&mut rules, &of.paths, &of.not_paths, path);
        } else if of_request.iter().any(|of| !of.is_empty()) && !self.denies {
            return None;
        }
        Some(and_permissions(rules))
    }

    fn source(self, of: &Source) -> Held<pb::Principal> {
        let mut ids = Vec::new();
        principals(&mut ids, &of.principals, &of.not_principals, |text| Some(identity(text)));
        principals(&mut ids, &of.namespaces, &of.not_namespaces, |text| Some(namespace(text)));
        principals(&mut ids, &of.ip_blocks, &of.not_ip_blocks, |text| {
            wire::cidr(text).map(principal::Identifier::DirectRemoteIp)
        });
        principals(&mut ids, &of.remote_ip_blocks, &of.not_remote_ip_blocks, |text| {
            wire::cidr(text).map(principal::Identifier::RemoteIp)
        });
        Some(and_principals(ids))
    }

    fn condition(self, of: &Condition) -> Held<Needed> {
        let mut rules = Vec::new();
        let mut ids = Vec::new();
        let header = of.key.strip_prefix("request.headers[").and_then(|rest| rest.strip_suffix(']'));
        match (of.key.as_str(), header) {
            (_, Some(name)) if self.is_http => {
                principals(&mut ids, &of.values, &of.not_values, |text| {
                    Some(principal::Identifier::Header(header_matches(name, text, false)))
                });
            }
            // Of a connection nobody knows: what is allowed by it is refused, what is denied by it is denied.
            (_, Some(_)) => return self.denies.then_some(Needed::Principal(Vec::new())),
            ("source.ip", _) => {
                let block = |text: &str| wire::cidr(text).map(principal::Identifier::DirectRemoteIp);
                principals(&mut ids, &of.values, &of.not_values, block);
            }
            ("remote.ip", _) => {
                let block = |text: &str| wire::cidr(text).map(principal::Identifier::RemoteIp);
                principals(&mut ids, &of.values, &of.not_values, block);
            }
            ("source.principal", _) => principals(&mut ids, &of.values, &of.not_values, |text| Some(identity(text))),
            ("source.namespace", _) => principals(&mut ids, &of.values, &of.not_values, |text| Some(namespace(text))),
            ("destination.ip", _) => {
                permissions(&mut rules, &of.values, &of.not_values, |text| {
                    wire::cidr(text).map(permission::Rule::DestinationIp)
                });
            }
            ("destination.port", _) => {
                let port = |text: &str| text.parse().ok().map(permission::Rule::DestinationPort);
                permissions(&mut rules, &of.values, &of.not_values, port);
            }
            ("connection.sni", _) => {
                let name = |text: &str| Some(permission::Rule::RequestedServerName(string_matches(text, false)));
                permissions(&mut rules, &of.values, &of.not_values, name);
            }
            // Told when the object was checked.
            _ => return self.denies.then_some(Needed::Principal(Vec::new())),
        }
        Some(if rules.is_empty() { Needed::Principal(ids) } else { Needed::Permission(rules) })
    }
}

/// What a condition is on.
enum Needed {
    Permission(Vec<pb::Permission>),
    Principal(Vec<pb::Principal>),
}

fn permit(rule: permission::Rule) -> pb::Permission {
    pb::Permission { rule: Some(rule) }
}

fn caller(identifier: principal::Identifier) -> pb::Principal {
    pb::Principal { identifier: Some(identifier) }
}

/// One of `values` and none of `not_values`; a value that means nothing matches nothing.
fn permissions(
    rules: &mut Vec<pb::Permission>,
    values: &[String],
    not_values: &[String],
    make: impl Fn(&str) -> Option<permission::Rule>,
) {
    let any = |of: &[String]| {
        let rules = of.iter().filter_map(|text| make(text)).map(permit).collect();
        permit(permission::Rule::OrRules(permission::Set { rules }))
    };
    let nothing = || permit(permission::Rule::NotRule(Box::new(permit(permission::Rule::Any(true)))));
    if !values.is_empty() {
        let made = values.iter().any(|text| make(text).is_some());
        rules.push(if made { any(values) } else { nothing() });
    }
    if not_values.iter().any(|text| make(text).is_some()) {
        rules.push(permit(permission::Rule::NotRule(Box::new(any(not_values)))));
    }
}

/// The same for callers.
fn principals(
    ids: &mut Vec<pb::Principal>,
    values: &[String],
    not_values: &[String],
    make: impl Fn(&str) -> Option<principal::Identifier>,
) {
    let any = |of: &[String]| {
        let ids = of.iter().filter_map(|text| make(text)).map(caller).collect();
        caller(principal::Identifier::OrIds(principal::Set { ids }))
    };
    let nothing = || caller(principal::Identifier::NotId(Box::new(caller(principal::Identifier::Any(true)))));
    if !values.is_empty() {
        let made = values.iter().any(|text| make(text).is_some());
        ids.push(if made { any(values) } else { nothing() });
    }
    if not_values.iter().any(|text| make(text).is_some()) {
        ids.push(caller(principal::Identifier::NotId(Box::new(any(not_values)))));
    }
}

fn and_permissions(rules: Vec<pb::Permission>) -> pb::Permission {
    permit(if rules.is_empty() {
        permission::Rule::Any(true)
    } else {
        permission::Rule::AndRules(permission::Set { rules })
    })
}

fn and_principals(ids: Vec<pb::Principal>) -> pb::Principal {
    caller(if ids.is_empty() {
        principal::Identifier::Any(true)
    } else {
        principal::Identifier::AndIds(principal::Set { ids })
    })
}

fn all_permissions(of: pb::Permission, needed: &[pb::Permission]) -> pb::Permission {
    if needed.is_empty() { of } else { and_permissions(std::iter::once(of).chain(needed.iter().cloned()).collect()) }
}

fn all_principals(of: pb::Principal, needed: &[pb::Principal]) -> pb::Principal {
    if needed.is_empty() { of } else { and_principals(std::iter::once(of).chain(needed.iter().cloned()).collect()) }
}

/// `*`, `*x`, `x*` or `x`.
fn string_matches(text: &str, ignore_case: bool) -> matcher::StringMatcher {
    let pattern = match (text.strip_prefix('*'), text.strip_suffix('*')) {
        (Some(""), _) => MatchPattern::SafeRegex(wire::regex(".+")),
        (Some(suffix), _) => MatchPattern::Suffix(suffix.to_owned()),
        (None, Some(prefix)) => MatchPattern::Prefix(prefix.to_owned()),
        (None, None) => MatchPattern::Exact(text.to_owned()),
    };
    // An expression has its own way to ignore case, and this one has no letters.
    let ignore_case = ignore_case && !matches!(pattern, MatchPattern::SafeRegex(_));
    matcher::StringMatcher { ignore_case, ..wire::string_matcher(pattern) }
}

fn header_matches(name: &str, text: &str, ignore_case: bool) -> HeaderMatcher {
    let specifier = if text == "*" {
        HeaderMatchSpecifier::PresentMatch(true)
    } else {
        HeaderMatchSpecifier::StringMatch(string_matches(text, ignore_case))
    };
    HeaderMatcher { name: name.to_owned(), header_match_specifier: Some(specifier), ..Default::default() }
}

fn authenticated(name: matcher::StringMatcher) -> principal::Identifier {
    principal::Identifier::Authenticated(principal::Authenticated { principal_name: Some(name) })
}

/// An identity, without the scheme that certificates have in front of it.
fn identity(text: &str) -> principal::Identifier {
    let text = if text.starts_with('*') { text.to_owned() } else { format!("spiffe://{text}") };
    authenticated(string_matches(&text, false))
}

/// Any identity of a namespace.
fn namespace(text: &str) -> principal::Identifier {
    let escaped = text.replace('.', "\\.").replace('*', ".*");
    authenticated(wire::string_matcher(MatchPattern::SafeRegex(wire::regex(&format!(".*/ns/{escaped}/.*")))))
}
