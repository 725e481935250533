//! AuthorizationPolicies: who may reach a workload.
//!
//! As in Istio there is a filter for each action, each with a policy for each rule (`ns[default]-policy[name]-rule[0]`): whom
//! somebody else is asked about (CUSTOM), then tokens, then what is marked (AUDIT), denied, allowed. What is tried out (the annotation
//! `istio.io/dry-run`) is judged beside what is enforced, and only said.
//!
//! | | |
//! |---|---|
//! | `rules` | from a rule to a policy of the filter |
//! | `matching` | texts, headers, tokens' claims |
//! | `custom` | those who are asked |

mod custom;
mod matching;
mod rules;

use std::collections::HashMap;
use std::sync::Arc;

use weft_proto::pb::envoy::config::listener::v3::Filter;
use weft_proto::pb::envoy::config::rbac::v3::{self as pb, permission, principal, rbac};
use weft_proto::pb::envoy::extensions::filters::http::rbac::v3 as http_rbac;
use weft_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use weft_proto::pb::envoy::extensions::filters::network::rbac::v3 as network_rbac;

pub(super) use custom::services;
pub(super) use matching::{claim, value_of};

use super::view::View;
use super::{attachment, http, request_authentication, wire};
use crate::model::kinds::authorization::{Action, AuthorizationPolicy};
use crate::model::kinds::{Kind, Object, ObjectKey};
use rules::Scope;

/// The HTTP filter.
const HTTP: &str = "envoy.filters.http.rbac";
/// The network filter.
const NETWORK: &str = "envoy.filters.network.rbac";
/// In front of its stats.
const NETWORK_STATS: &str = "tcp.";

/// A policy and its object.
type Policy<'w> = (&'w Arc<Object>, &'w AuthorizationPolicy);

/// The filters for requests, in their order: those of tokens are among them.
pub(super) fn http_filters(view: &View<'_>) -> Vec<HttpFilter> {
    let policies = policies(view);
    let mut filters = custom::http_filters(view, &policies);
    filters.extend(request_authentication::filter(view));
    let filter = |(rules, shadow_rules, prefix): (_, _, &str)| {
        let config = http_rbac::Rbac {
            rules,
            shadow_rules,
            shadow_rules_stat_prefix: prefix.to_owned(),
            ..http_rbac::Rbac::default()
        };
        http::http_filter(HTTP, &config)
    };
    filters.extend(local(view, &policies, true).into_iter().map(filter));
    filters
}

/// The filters for connections, in their order.
pub(super) fn network_filters(view: &View<'_>) -> Vec<Filter> {
    let policies = policies(view);
    let mut filters = custom::network_filters(view, &policies);
    let filter = |(rules, shadow_rules, prefix): (_, _, &str)| {
        let config = network_rbac::Rbac {
            rules,
            shadow_rules,
            shadow_rules_stat_prefix: prefix.to_owned(),
            stat_prefix: NETWORK_STATS.to_owned(),
            ..network_rbac::Rbac::default()
        };
        wire::network_filter(NETWORK, &config)
    };
    filters.extend(local(view, &policies, false).into_iter().map(filter));
    filters
}

/// The policies for a workload.
pub(super) fn objects(view: &View<'_>) -> Vec<ObjectKey> {
    policies(view).into_iter().map(|(object, _)| object.key.clone()).collect()
}

/// Those that count for a workload, the oldest first.
fn policies<'w>(view: &View<'w>) -> Vec<Policy<'w>> {
    let mut policies = view.world.objects().by_age::<AuthorizationPolicy>(Kind::AuthorizationPolicy);
    policies.retain(|(object, policy)| {
        attachment::counts(view, object, policy.spec.selector.as_ref(), policy.spec.targets())
    });
    policies
}

/// What is enforced, what is tried out, and what the latter's results are called by.
type Judged = (Option<pb::Rbac>, Option<pb::Rbac>, &'static str);

/// What the proxy judges itself: of an action that no policy has nothing is left.
fn local(view: &View<'_>, policies: &[Policy<'_>], is_http: bool) -> Vec<Judged> {
    let actions = [
        (Action::Audit, rbac::Action::Log, ""),
        (Action::Deny, rbac::Action::Deny, "istio_dry_run_deny_"),
        (Action::Allow, rbac::Action::Allow, "istio_dry_run_allow_"),
    ];
    let made = actions.into_iter().filter_map(|(action, wire, prefix)| {
        let of_action = policies.iter().filter(|(_, policy)| policy.spec.action == action);
        let (tried, enforced): (Vec<Policy<'_>>, Vec<_>) = of_action.partition(|(object, _)| object.meta.is_dry_run());
        let judge = |of: &[Policy<'_>]| (!of.is_empty()).then(|| judgement(view, of, wire, is_http, ""));
        let judged = (judge(&enforced), judge(&tried));
        let prefix = if tried.is_empty() { "" } else { prefix };
        (judged != (None, None)).then_some((judged.0, judged.1, prefix))
    });
    made.collect()
}

/// The rules of policies; `prefix` is in front of their names.
fn judgement(view: &View<'_>, policies: &[Policy<'_>], action: rbac::Action, is_http: bool, prefix: &str) -> pb::Rbac {
    let mut made = HashMap::new();
    for (object, policy) in policies {
        let scope = Scope::new(view, is_http, action != rbac::Action::Allow, &object.key.namespace);
        let name = |rule| format!("{prefix}ns[{}]-policy[{}]-rule[{rule}]", object.key.namespace, object.key.name);
        let rules = policy.spec.rules.iter().enumerate();
        made.extend(rules.filter_map(|(index, rule)| Some((name(index), scope.policy(rule)?))));
        if policy.spec.rules.is_empty() {
            // So that its name is to be seen.
            made.insert(name(0), never());
        }
    }
    pb::Rbac { action: action as i32, policies: made, ..pb::Rbac::default() }
}

/// What matches nothing.
fn never() -> pb::Policy {
    let nothing = rules::permit(permission::Rule::NotRule(Box::new(rules::permit(permission::Rule::Any(true)))));
    let nobody = rules::caller(principal::Identifier::NotId(Box::new(rules::caller(principal::Identifier::Any(true)))));
    pb::Policy { permissions: vec![nothing], principals: vec![nobody], ..pb::Policy::default() }
}
