//! What is wrong with policies of security beyond their form.
//!
//! A value that means nothing never lets more in (`translate::authorization`), so a policy with one counts and is told.

use std::net::IpAddr;

use http::HeaderName;
use weft_proto::problem::{Position, Problem, Severity};

use super::attribute::Attribute;
use super::authorizer::Authorizer;
use super::check::Teller;
use super::key_sets::{self, KeySource};
use super::kinds::authorization::{Action, AuthorizationPolicy, AuthorizationSpec, RequestOperation, Rule, Source};
use super::kinds::destination_rule::WorkloadSelector;
use super::kinds::policy_target::PolicyTarget;
use super::kinds::request_authentication::{JwtRule, RequestAuthentication};
use super::kinds::{Kind, Object, ObjectKey};
use super::world::World;

/// Checks an AuthorizationPolicy.
pub(super) fn authorization(teller: &mut Teller<'_>, policy: &AuthorizationPolicy) {
    let spec = &policy.spec;
    attachment(teller, spec.at.0, spec.selector.as_ref(), spec.targets());
    action(teller, spec);
    for (index, rule) in spec.rules.iter().enumerate() {
        rule_of(teller, &format!("spec.rules[{index}]"), spec.action, rule);
    }
}

fn action(teller: &mut Teller<'_>, spec: &AuthorizationSpec) {
    let at = spec.at.0;
    let matches_nothing = spec.rules.is_empty() && spec.action != Action::Allow;
    if matches_nothing {
        teller.warn(at, "spec.rules", "missing: it matches nothing; write - {} if it is for every request");
    }
    match (spec.action, spec.provider()) {
        (Action::Custom, "") => {
            teller.invalid(at, "spec.provider.name", "missing: nobody can be asked, so what it matches is denied");
        }
        (Action::Custom, _) if teller.object().meta.is_dry_run() => {
            let reason = "istio.io/dry-run: CUSTOM is not tried out: the policy has no effect";
            teller.unsupported(at, "metadata.annotations", reason);
        }
        (Action::Custom, _) | (_, "") => {}
        _ => teller.invalid(at, "spec.provider", "only CUSTOM asks somebody: it has no effect"),
    }
    let annotation = teller.object().meta.annotations.get(super::kinds::meta::DRY_RUN);
    if let Some(value) = annotation.filter(|value| super::kinds::meta::go_bool(value).is_none()) {
        let reason = format!("istio.io/dry-run: {value:?} is neither true nor false: the policy is enforced");
        teller.invalid(at, "metadata.annotations", reason);
    }
}

/// Whom a policy is for.
fn attachment<'a>(
    teller: &mut Teller<'_>,
    at: Position,
    selector: Option<&WorkloadSelector>,
    targets: impl Iterator<Item = &'a PolicyTarget>,
) {
    let mut any = false;
    for (index, target) in targets.enumerate() {
        any = true;
        let path = format!("spec.targetRefs[{index}]");
        let at = if target.at.0.line > 0 { target.at.0 } else { at };
        if target.name.is_empty() {
            teller.invalid(at, format!("{path}.name"), "missing: it is attached to nothing");
        }
        if !target.namespace.is_empty() && *target.namespace != *teller.object().key.namespace {
            let reason = "a policy is only for its own namespace: it is attached to nothing";
            teller.invalid(at, format!("{path}.namespace"), reason);
        }
        if target.is_of_waypoints() {
            let reason = format!("{} is served by waypoints, which there are none of: it has no effect", target.kind);
            teller.unsupported(at, format!("{path}.kind"), reason);
        } else if !target.is_gateway() {
            let reason = format!(
                "{}/{} is nothing a policy is attached to; write gateway.networking.k8s.io and Gateway",
                target.group, target.kind
            );
            teller.invalid(at, format!("{path}.kind"), reason);
        }
    }
    if any && selector.is_some() {
        teller.invalid(at, "spec.selector", "is not for a policy with targetRefs: the targets count alone");
    }
}

fn rule_of(teller: &mut Teller<'_>, path: &str, action: Action, rule: &Rule) {
    let effect = match action {
        Action::Allow => "the rule allows nothing",
        Action::Deny => "the rule denies without it",
        Action::Audit => "the rule marks without it",
        Action::Custom => "the rule asks without it",
    };
    let mut bad = |at: Position, path: String, reason: String| teller.invalid(at, path, format!("{reason}: {effect}"));
    for (index, from) in rule.from.iter().enumerate() {
        let of = &from.source;
        let at = if of.at.0.line > 0 { of.at.0 } else { rule.at.0 };
        if *of == Source::default() {
            bad(at, format!("{path}.from[{index}].source"), "it says nothing".to_owned());
        }
        let path = |field: &str| format!("{path}.from[{index}].source.{field}");
        for (field, values, check) in [
            ("ipBlocks", &of.ip_blocks, network as Check),
            ("notIpBlocks", &of.not_ip_blocks, network),
            ("remoteIpBlocks", &of.remote_ip_blocks, network),
            ("notRemoteIpBlocks", &of.not_remote_ip_blocks, network),
            ("principals", &of.principals, text),
            ("notPrincipals", &of.not_principals, text),
            ("namespaces", &of.namespaces, text),
            ("notNamespaces", &of.not_namespaces, text),
            ("requestPrincipals", &of.request_principals, text),
            ("notRequestPrincipals", &of.not_request_principals, text),
            ("serviceAccounts", &of.service_accounts, service_account),
            ("notServiceAccounts", &of.not_service_accounts, service_account),
            ("trustDomains", &of.trust_domains, trust_domain),
            ("notTrustDomains", &of.not_trust_domains, trust_domain),
        ] {
            values.iter().filter_map(|value| check(value)).for_each(|reason| bad(at, path(field), reason));
        }
        let tokens = !of.request_principals.is_empty() || !of.not_request_principals.is_empty();
        if tokens && action == Action::Custom {
            bad(at, path("requestPrincipals"), TOO_EARLY.to_owned());
        }
    }
    for (index, to) in rule.to.iter().enumerate() {
        let of = &to.operation;
        let at = if of.at.0.line > 0 { of.at.0 } else { rule.at.0 };
        if *of == RequestOperation::default() {
            bad(at, format!("{path}.to[{index}].operation"), "it says nothing".to_owned());
        }
        for (field, values, check) in [
            ("ports", &of.ports, port as Check),
            ("notPorts", &of.not_ports, port),
            ("methods", &of.methods, text),
            ("notMethods", &of.not_methods, text),
            ("hosts", &of.hosts, text),
            ("notHosts", &of.not_hosts, text),
            ("paths", &of.paths, path_template),
            ("notPaths", &of.not_paths, path_template),
        ] {
            let path = || format!("{path}.to[{index}].operation.{field}");
            values.iter().filter_map(|value| check(value)).for_each(|reason| bad(at, path(), reason));
        }
    }
    for (index, condition) in rule.when.iter().enumerate() {
        let (at, path) = (condition.at.0, format!("{path}.when[{index}]"));
        let Some(attribute) = Attribute::parse(&condition.key) else {
            bad(at, format!("{path}.key"), format!("{:?} is no attribute", condition.key));
            continue;
        };
        if condition.values.is_empty() && condition.not_values.is_empty() {
            bad(at, path.clone(), "it has neither values nor notValues".to_owned());
        }
        if action == Action::Custom && attribute.is_of_token() {
            bad(at, format!("{path}.key"), TOO_EARLY.to_owned());
        }
        let check = match attribute {
            Attribute::SourceIp | Attribute::RemoteIp | Attribute::DestinationIp => network as Check,
            Attribute::DestinationPort => port,
            Attribute::SourceServiceAccount => service_account,
            Attribute::SourceTrustDomain => trust_domain,
            _ => text,
        };
        for (field, values) in [("values", &condition.values), ("notValues", &condition.not_values)] {
            values
                .iter()
                .filter_map(|value| check(value))
                .for_each(|reason| bad(at, format!("{path}.{field}"), reason));
        }
    }
}

const TOO_EARLY: &str = "CUSTOM comes before tokens are looked at";

/// What is wrong with a value.
type Check = fn(&str) -> Option<String>;

fn text(value: &str) -> Option<String> {
    value.is_empty().then(|| "\"\" means nothing".to_owned())
}

fn network(value: &str) -> Option<String> {
    let (address, length) = value.split_once('/').map_or((value, None), |(address, length)| (address, Some(length)));
    let good = address.parse::<IpAddr>().is_ok_and(|ip| {
        let most = if ip.is_ipv4() { 32 } else { 128 };
        length.is_none_or(|length| length.parse::<u8>().is_ok_and(|length| length <= most))
    });
    (!good).then(|| format!("{value:?} is neither an address nor a network such as 10.0.0.0/8"))
}

fn port(value: &str) -> Option<String> {
    value.parse::<u16>().is_err().then(|| format!("{value:?} is no port"))
}

fn service_account(value: &str) -> Option<String> {
    let parts: Vec<&str> = value.split('/').collect();
    let good = parts.len() <= 2 && parts.iter().all(|part| !part.is_empty() && !part.contains('*'));
    (!good).then(|| format!("{value:?} is neither a service account nor namespace/account"))
}

fn trust_domain(value: &str) -> Option<String> {
    let inner = value.strip_prefix('*').or_else(|| value.strip_suffix('*')).unwrap_or(value);
    let good = !value.is_empty() && !inner.contains(['*', '/']);
    (!good).then(|| format!("{value:?} is no trust domain, with * at an end or without"))
}

/// Paths with `{*}` and `{**}`, which Envoy refuses in any other form.
pub(crate) fn path_template(value: &str) -> Option<String> {
    if value.is_empty() || !value.contains(['{', '}']) {
        return text(value);
    }
    let literal = |c: char| c.is_ascii_alphanumeric() || "-._~%!$&'()+,;:@=".contains(c);
    let segments: Vec<&str> = value.trim_matches('/').split('/').collect();
    let is_last = |index: usize| !segments[index + 1..].iter().any(|of| matches!(*of, "{*}" | "{**}"));
    let good = value.starts_with('/')
        && segments.iter().enumerate().all(|(index, segment)| match *segment {
            "{*}" => true,
            "{**}" => is_last(index),
            segment => !segment.is_empty() && segment.chars().all(literal),
        });
    (!good).then(|| {
        format!("{value:?} is no path: {{*}} is a whole segment, {{**}} any number of them and the last of its kind")
    })
}

/// Checks a RequestAuthentication.
pub(super) fn request_authentication(teller: &mut Teller<'_>, policy: &RequestAuthentication) {
    let spec = &policy.spec;
    attachment(teller, spec.at.0, spec.selector.as_ref(), spec.targets());
    for (index, rule) in spec.jwt_rules.iter().enumerate() {
        jwt_rule(teller, &format!("spec.jwtRules[{index}]"), rule);
    }
}

fn jwt_rule(teller: &mut Teller<'_>, path: &str, rule: &JwtRule) {
    let at = rule.at.0;
    let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    match (set(&rule.jwks), set(&rule.jwks_uri)) {
        (Some(jwks), uri) => {
            if let Err(why) = key_sets::check(jwks.as_bytes()) {
                teller.invalid(at, format!("{path}.jwks"), format!("{why}: every token of this rule is refused"));
            }
            if uri.is_some() {
                teller.invalid(at, format!("{path}.jwksUri"), "has no effect beside jwks");
            }
        }
        (None, Some(uri)) => bad_uri(teller, at, format!("{path}.jwksUri"), &uri),
        (None, None) if rule.issuer.is_empty() => {
            let reason = "missing: without jwks and jwksUri keys are found by the issuer; every token is refused";
            teller.invalid(at, format!("{path}.issuer"), reason);
        }
        (None, None) => bad_uri(teller, at, format!("{path}.issuer"), &rule.issuer),
    }
    for (field, names) in
        [("fromParams", &rule.from_params), ("fromCookies", &rule.from_cookies), ("audiences", &rule.audiences)]
    {
        if names.iter().any(String::is_empty) {
            teller.invalid(at, format!("{path}.{field}"), "\"\" means nothing");
        }
    }
    for (index, of) in rule.from_headers.iter().enumerate().filter(|(_, of)| !is_header(&of.name)) {
        let reason = format!("{:?} is no name of a header: no token is looked for there", of.name);
        teller.invalid(of.at.0, format!("{path}.fromHeaders[{index}].name"), reason);
    }
    for (index, of) in rule.output_claim_to_headers.iter().enumerate() {
        if !is_header(&of.header) || of.claim.is_empty() {
            let reason = "needs the name of a header and a claim: it has no effect";
            teller.invalid(of.at.0, format!("{path}.outputClaimToHeaders[{index}]"), reason);
        }
    }
    if let Some(name) = set(&rule.output_payload_to_header).filter(|name| !is_header(name)) {
        let reason = format!("{name:?} is no name of a header: it has no effect");
        teller.invalid(at, format!("{path}.outputPayloadToHeader"), reason);
    }
}

/// Whether a text is the name of a header.
pub(crate) fn is_header(name: &str) -> bool {
    HeaderName::try_from(name).is_ok()
}

fn bad_uri(teller: &mut Teller<'_>, at: Position, path: String, uri: &str) {
    let parsed = uri.parse::<http::Uri>().ok();
    let good = parsed.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some());
    if !good {
        let reason =
            format!("{uri:?} is no http:// or https:// URI, and keys are fetched there: every token is refused");
        teller.invalid(at, path, reason);
    }
}

/// What depends on services and on what was fetched, of one object.
pub(super) fn of_world(world: &World, object: &Object) -> Vec<Problem> {
    if let Some(policy) = object.of::<AuthorizationPolicy>() {
        let name = policy.spec.provider();
        if policy.spec.action != Action::Custom || name.is_empty() {
            return Vec::new();
        }
        let Err(why) = Authorizer::find(world, name) else { return Vec::new() };
        let at = policy.spec.provider.as_ref().map_or(policy.spec.at.0, |provider| provider.at.0);
        let reason = format!("{name:?} cannot be asked, so what the policy matches is denied: {why}");
        return vec![object.problem(Severity::Invalid, at, "spec.provider.name", reason)];
    }
    let Some(policy) = object.of::<RequestAuthentication>() else { return Vec::new() };
    let rules = policy.spec.jwt_rules.iter().enumerate();
    let told = rules.filter_map(|(index, rule)| {
        let reason = world.key_sets().problem(&KeySource::of(rule)?)?;
        Some(object.problem(Severity::Warning, rule.at.0, format!("spec.jwtRules[{index}].jwksUri"), reason))
    });
    told.collect()
}

/// The same of all objects.
pub(super) fn of_all(world: &World) -> Vec<(ObjectKey, Problem)> {
    let objects = [Kind::AuthorizationPolicy, Kind::RequestAuthentication].into_iter();
    let objects = objects.flat_map(|kind| world.objects().of_kind(kind));
    objects
        .flat_map(|object| of_world(world, object).into_iter().map(|problem| (object.key.clone(), problem)))
        .collect()
}
