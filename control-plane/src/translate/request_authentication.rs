//! RequestAuthentications: whose tokens of end users are taken.
//!
//! As in Istio: a request without a token goes through, one with a token that is not good does not; of several rules one good token
//! is enough where the rules look at one place. What a token says is left in the dynamic metadata for AuthorizationPolicies and routes.

use std::collections::{BTreeSet, HashMap};

use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::config::route::v3 as route;
use weft_proto::pb::envoy::extensions::filters::http::jwt_authn::v3::{
    self as pb, JwtRequirement, jwt_provider, jwt_requirement::RequiresType, requirement_rule::RequirementType,
};
use weft_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;

use super::view::View;
use super::{attachment, http};
use crate::model::key_sets::{KeySource, UNKNOWN_KEYS};
use crate::model::kinds::request_authentication::{JwtRule, Presence, RequestAuthentication};
use crate::model::kinds::{Kind, ObjectKey};
use crate::model::policy_check::is_header;
use crate::node::ProxyKind;

/// The filter, and its namespace in the dynamic metadata.
pub(super) const JWT: &str = "envoy.filters.http.jwt_authn";
/// The key of what a token says.
pub(super) const PAYLOAD: &str = "payload";
/// Claims that are lists with spaces between their items, in any token.
const SPACE_DELIMITED: [&str; 2] = ["permission", "scope"];

/// The RequestAuthentications for a workload.
pub(super) fn objects(view: &View<'_>) -> Vec<ObjectKey> {
    policies(view).map(|(key, _)| key.clone()).collect()
}

fn policies<'w>(view: &View<'w>) -> impl Iterator<Item = (&'w ObjectKey, &'w RequestAuthentication)> {
    let all = view.world.objects().by_age::<RequestAuthentication>(Kind::RequestAuthentication).into_iter();
    let counting = all.filter(|(object, policy)| {
        attachment::counts(view, object, policy.spec.selector.as_ref(), policy.spec.targets())
    });
    counting.map(|(object, policy)| (&object.key, policy))
}

/// The filter of the rules that count; `None`: there are none.
pub(super) fn filter(view: &View<'_>) -> Option<HttpFilter> {
    let mut rules: Vec<&JwtRule> = policies(view).flat_map(|(_, policy)| &policy.spec.jwt_rules).collect();
    if rules.is_empty() {
        return None;
    }
    rules.sort_by_key(|rule| &rule.issuer);
    let named = rules.iter().enumerate().map(|(index, rule)| (name(index), provider(view, rule)));
    let everything = route::RouteMatch {
        path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".to_owned())),
        ..route::RouteMatch::default()
    };
    let config = pb::JwtAuthentication {
        providers: named.collect::<HashMap<_, _>>(),
        rules: vec![pb::RequirementRule {
            r#match: Some(everything),
            requirement_type: Some(RequirementType::Requires(requirement(&rules))),
        }],
        bypass_cors_preflight: true,
        ..pb::JwtAuthentication::default()
    };
    Some(http::http_filter(JWT, &config))
}

fn name(index: usize) -> String {
    format!("origins-{index}")
}

fn provider(view: &View<'_>, rule: &JwtRule) -> pb::JwtProvider {
    let extra = rule.space_delimited_claims.iter().map(String::as_str).filter(|name| !name.is_empty());
    let delimited: BTreeSet<&str> = SPACE_DELIMITED.into_iter().chain(extra).collect();
    // Names that are none are told where objects are checked; proxies refuse everything for one of them.
    let headers = rule.from_headers.iter().filter(|of| is_header(&of.name));
    let from_headers = headers.map(|of| pb::JwtHeader { name: of.name.clone(), value_prefix: of.prefix.clone() });
    let claims = rule.output_claim_to_headers.iter().filter(|of| is_header(&of.header) && !of.claim.is_empty());
    let claims = claims.map(|of| pb::JwtClaimToHeader {
        header_name: of.header.clone(),
        claim_name: of.claim.clone(),
        ..pb::JwtClaimToHeader::default()
    });
    let named = |names: &[String]| names.iter().filter(|name| !name.is_empty()).cloned().collect();
    let keys = core::data_source::Specifier::InlineString(keys(view, rule));
    let keys = core::DataSource { specifier: Some(keys), ..core::DataSource::default() };
    pb::JwtProvider {
        issuer: rule.issuer.clone(),
        audiences: rule.audiences.clone(),
        forward: rule.forward_original_token,
        from_headers: from_headers.collect(),
        from_params: named(&rule.from_params),
        from_cookies: named(&rule.from_cookies),
        forward_payload_header: rule
            .output_payload_to_header
            .clone()
            .filter(|name| is_header(name))
            .unwrap_or_default(),
        claim_to_headers: claims.collect(),
        payload_in_metadata: PAYLOAD.to_owned(),
        normalize_payload_in_metadata: Some(jwt_provider::NormalizePayload {
            space_delimited_claims: delimited.into_iter().map(str::to_owned).collect(),
        }),
        // Routes of a gateway may look at claims.
        clear_route_cache: view.proxy.kind == ProxyKind::Gateway,
        jwks_source_specifier: Some(jwt_provider::JwksSourceSpecifier::LocalJwks(keys)),
        ..pb::JwtProvider::default()
    }
}

/// The keys of an issuer; as long as they are not known, one that nobody has.
fn keys(view: &View<'_>, rule: &JwtRule) -> String {
    let known = match KeySource::of(rule) {
        Some(source) => view.world.key_sets().keys(&source),
        None => rule.jwks.as_deref().filter(|jwks| crate::model::key_sets::check(jwks.as_bytes()).is_ok()),
    };
    known.unwrap_or(UNKNOWN_KEYS).to_owned()
}

/// What requests need of these rules.
fn requirement(rules: &[&JwtRule]) -> JwtRequirement {
    let good = |index: usize| of(RequiresType::ProviderName(name(index)));
    let optional = |index: usize| any(vec![good(index), of(RequiresType::AllowMissing(Default::default()))]);
    let required = |index: &usize| rules[*index].presence == Presence::Required;
    let (needed, free): (Vec<usize>, Vec<usize>) = (0..rules.len()).partition(required);
    if needed.is_empty() {
        let each: Vec<_> = free.iter().copied().map(optional).collect();
        return match rules.len() {
            1 => all(each),
            // One that is good is enough: of tokens in one place each rule but one would refuse it.
            _ => any(free.into_iter().map(good).chain([all(each)]).collect()),
        };
    }
    // What must be there must be good; of the rest, what is somewhere else must be, too.
    let apart = |index: &usize| needed.iter().all(|of| !share_a_place(rules[*of], rules[*index]));
    let rest: Vec<_> = free.iter().copied().filter(apart).map(optional).collect();
    all(needed.into_iter().map(good).chain(rest).collect())
}

/// Whether two rules look for a token in one place.
fn share_a_place(a: &JwtRule, b: &JwtRule) -> bool {
    let usual =
        |rule: &JwtRule| rule.from_headers.is_empty() && rule.from_params.is_empty() && rule.from_cookies.is_empty();
    let headers = |rule: &JwtRule| {
        let mut names: BTreeSet<String> = rule.from_headers.iter().map(|of| of.name.to_ascii_lowercase()).collect();
        names.extend(usual(rule).then(|| "authorization".to_owned()));
        names
    };
    let params = |rule: &JwtRule| {
        let mut names: BTreeSet<&str> = rule.from_params.iter().map(String::as_str).collect();
        names.extend(usual(rule).then_some("access_token"));
        names.into_iter().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    !headers(a).is_disjoint(&headers(b))
        || !params(a).is_disjoint(&params(b))
        || a.from_cookies.iter().any(|name| b.from_cookies.contains(name))
}

fn of(requires: RequiresType) -> JwtRequirement {
    JwtRequirement { requires_type: Some(requires) }
}

fn any(requirements: Vec<JwtRequirement>) -> JwtRequirement {
    of(RequiresType::RequiresAny(pb::JwtRequirementOrList { requirements }))
}

/// All of these; one alone is itself.
fn all(mut requirements: Vec<JwtRequirement>) -> JwtRequirement {
    if requirements.len() == 1 {
        return requirements.remove(0);
    }
    of(RequiresType::RequiresAll(pb::JwtRequirementAndList { requirements }))
}
