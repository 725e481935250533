//! Values of policies as matchers: texts with wildcards, headers, identities, claims of tokens.

use weft_proto::pb::envoy::config::rbac::v3::{permission, principal};
use weft_proto::pb::envoy::config::route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier};
use weft_proto::pb::envoy::r#type::matcher::v3::{
    self as matcher, list_matcher, metadata_matcher, string_matcher::MatchPattern, value_matcher,
};

use super::super::request_authentication::{JWT, PAYLOAD};
use super::super::wire;

/// `*`, `*x`, `x*` or `x`.
pub(super) fn text(text: &str, ignore_case: bool) -> matcher::StringMatcher {
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

fn regex(text: &str) -> matcher::StringMatcher {
    wire::string_matcher(MatchPattern::SafeRegex(wire::regex(text)))
}

pub(super) fn header(name: &str, value: &str, ignore_case: bool) -> HeaderMatcher {
    let specifier = if value == "*" {
        HeaderMatchSpecifier::PresentMatch(true)
    } else {
        HeaderMatchSpecifier::StringMatch(text(value, ignore_case))
    };
    HeaderMatcher { name: name.to_owned(), header_match_specifier: Some(specifier), ..HeaderMatcher::default() }
}

fn authenticated(name: matcher::StringMatcher) -> principal::Identifier {
    principal::Identifier::Authenticated(principal::Authenticated { principal_name: Some(name) })
}

/// An identity, without the scheme that certificates have in front of it.
pub(super) fn identity(of: &str) -> principal::Identifier {
    authenticated(match of.strip_prefix('*') {
        Some("") => text("*", false),
        Some(suffix) => regex(&format!("spiffe://.*{}", regex::escape(suffix))),
        None => text(&format!("spiffe://{of}"), false),
    })
}

/// Any identity of a namespace.
pub(super) fn namespace(of: &str) -> principal::Identifier {
    let parts: Vec<String> = of.split('*').map(regex::escape).collect();
    authenticated(regex(&format!(".*/ns/{}/.*", parts.join(".*"))))
}

/// Any identity of a service account: `name`, in the policy's namespace, or `namespace/name`.
pub(super) fn service_account(of: &str, own_namespace: &str) -> principal::Identifier {
    let (namespace, name) = of.split_once('/').unwrap_or((own_namespace, of));
    let (namespace, name) = (regex::escape(namespace), regex::escape(name));
    authenticated(regex(&format!("spiffe://.+/ns/{namespace}/(.+/|)sa/{name}(/.+)?")))
}

/// Any identity of a trust domain.
pub(super) fn trust_domain(of: &str) -> principal::Identifier {
    let prefix = |text: String| wire::string_matcher(MatchPattern::Prefix(text));
    authenticated(match of.split_once('*') {
        None => prefix(format!("spiffe://{of}/")),
        Some(("", "")) => prefix("spiffe://".to_owned()),
        Some((before, after)) => regex(&format!("spiffe://{}[^/]*{}/.*", regex::escape(before), regex::escape(after))),
    })
}

/// The issuer and the subject of a token: `issuer/subject`; the issuer may be a URL.
#[expect(deprecated, reason = "the field every version of Envoy knows")]
pub(super) fn token(of: &str) -> [principal::Identifier; 2] {
    let exact = |text: &str| wire::string_matcher(MatchPattern::Exact(text.to_owned()));
    let split = of.rsplit_once('/');
    let (issuer, subject) = match split {
        _ if of == "*" => (text("*", false), text("*", false)),
        Some((issuer, subject)) if of.starts_with('*') => (text(issuer, false), exact(subject)),
        Some((issuer, subject)) if of.ends_with('*') => (exact(issuer), text(subject, false)),
        Some((issuer, subject)) => (exact(issuer), exact(subject)),
        None if of.starts_with('*') => (text("*", false), text(of, false)),
        None if of.ends_with('*') => (text(of, false), text("*", false)),
        None => (exact(of), exact("")),
    };
    [("iss", issuer), ("sub", subject)].map(|(name, value)| {
        let path = [PAYLOAD.to_owned(), name.to_owned()];
        principal::Identifier::Metadata(at(JWT, &path, value_of(value)))
    })
}

/// A claim of a token that is one of these texts, or a list with one of them.
#[expect(deprecated, reason = "the field every version of Envoy knows")]
pub(super) fn claims(path: &[String], values: &[String]) -> principal::Identifier {
    let matches = values.iter().map(|value| value_of(text(value, false))).collect();
    principal::Identifier::Metadata(claim(path, any_value(matches)))
}

/// A claim of a token, or an item of it if it is a list.
pub(in crate::translate) fn claim(path: &[String], value: matcher::ValueMatcher) -> matcher::MetadataMatcher {
    let path: Vec<String> = std::iter::once(PAYLOAD.to_owned()).chain(path.iter().cloned()).collect();
    at(JWT, &path, any_value(vec![item(value.clone()), value]))
}

/// What a filter left in the dynamic metadata: a text, or `[text]` for an item of a list.
#[expect(deprecated, reason = "the field every version of Envoy knows")]
pub(super) fn metadata(filter: &str, key: &str, values: &[String]) -> permission::Rule {
    let one = |value: &String| match value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => item(value_of(text(inner, false))),
        None => value_of(text(value, false)),
    };
    permission::Rule::Metadata(at(filter, &[key.to_owned()], any_value(values.iter().map(one).collect())))
}

pub(super) fn at(filter: &str, path: &[String], value: matcher::ValueMatcher) -> matcher::MetadataMatcher {
    let segment = |key: &String| metadata_matcher::PathSegment {
        segment: Some(metadata_matcher::path_segment::Segment::Key(key.clone())),
    };
    matcher::MetadataMatcher {
        filter: filter.to_owned(),
        path: path.iter().map(segment).collect(),
        value: Some(value),
        invert: false,
    }
}

/// A value that is this text.
pub(in crate::translate) fn value_of(text: matcher::StringMatcher) -> matcher::ValueMatcher {
    matcher::ValueMatcher { match_pattern: Some(value_matcher::MatchPattern::StringMatch(text)) }
}

fn item(value: matcher::ValueMatcher) -> matcher::ValueMatcher {
    let one = list_matcher::MatchPattern::OneOf(Box::new(value));
    let list = matcher::ListMatcher { match_pattern: Some(one) };
    matcher::ValueMatcher { match_pattern: Some(value_matcher::MatchPattern::ListMatch(Box::new(list))) }
}

fn any_value(mut of: Vec<matcher::ValueMatcher>) -> matcher::ValueMatcher {
    if of.len() == 1 {
        return of.remove(0);
    }
    let any = matcher::OrMatcher { value_matchers: of };
    matcher::ValueMatcher { match_pattern: Some(value_matcher::MatchPattern::OrMatch(any)) }
}
