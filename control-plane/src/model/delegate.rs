//! Delegates: rules of a VirtualService that stand in another one.
//!
//! As in Istio, a request must match the root's rule *and* the delegate's; a pair that no request can match is left out.

use std::collections::BTreeMap;

use weft_proto::problem::Severity;

use super::config::Problems;
use super::kinds::mesh_config::MeshConfig;
use super::kinds::virtual_service::{HttpMatch, HttpRoute, StringMatch, VirtualService, VirtualServiceSpec};
use super::kinds::{Kind, Object};
use super::objects::Objects;
use super::visibility::Visibility;

/// The rules with every delegate replaced by what it refers to.
pub(super) fn expand(
    object: &Object,
    spec: &VirtualServiceSpec,
    objects: &Objects,
    mesh: &MeshConfig,
    problems: &mut Problems,
) -> Vec<HttpRoute> {
    let mut routes = Vec::with_capacity(spec.http.len());
    for (index, route) in spec.http.iter().enumerate() {
        let Some(delegate) = &route.delegate else {
            routes.push(route.clone());
            continue;
        };
        let namespace = delegate.namespace.as_deref().unwrap_or(&object.key.namespace);
        let found = objects.get(Kind::VirtualService, namespace, &delegate.name);
        let target = found.and_then(|found| Some((found, found.of::<VirtualService>()?)));
        let refused = match target {
            None => Some("does not exist: this rule matches nothing"),
            Some((_, target)) if !target.spec.hosts.is_empty() => {
                Some("has hosts of its own and so is no delegate: take its hosts away")
            }
            Some((found, target)) => {
                let export_to = target.spec.export_to.iter().map(String::as_str);
                let seen = Visibility::of(export_to, &mesh.default_virtual_service_export_to, &found.key.namespace);
                (!seen.includes(&object.key.namespace)).then_some("is not exported to this namespace")
            }
        };
        match (refused, target) {
            (None, Some((_, target))) => {
                routes.extend(target.spec.http.iter().filter_map(|inner| merge(route, inner)));
            }
            (reason, _) => {
                let reason = format!("VirtualService {namespace}/{} {}", delegate.name, reason.unwrap_or_default());
                let path = format!("spec.http[{index}].delegate");
                let problem = object.problem(Severity::Invalid, delegate.at.0, path, reason);
                problems.entry(object.key.clone()).or_default().push(problem);
            }
        }
    }
    routes
}

/// One rule of a delegate below one rule of its root. `None`: no request matches both, or it delegates again.
fn merge(root: &HttpRoute, inner: &HttpRoute) -> Option<HttpRoute> {
    if inner.delegate.is_some() {
        return None;
    }
    let r#match = match (root.r#match.is_empty(), inner.r#match.is_empty()) {
        (true, _) => inner.r#match.clone(),
        (_, true) => root.r#match.clone(),
        (false, false) => {
            let pairs = root.r#match.iter().flat_map(|outer| inner.r#match.iter().map(move |inner| (outer, inner)));
            let merged: Vec<HttpMatch> = pairs.filter_map(|(outer, inner)| merge_match(outer, inner)).collect();
            if merged.is_empty() {
                return None;
            }
            merged
        }
    };
    let mut merged = inner.clone();
    merged.r#match = r#match;
    merged.name = match (&root.name, &inner.name) {
        (Some(root), Some(inner)) => Some(format!("{root}-{inner}")),
        (root, inner) => inner.clone().or_else(|| root.clone()),
    };
    macro_rules! inherit {
        ($($field:ident),*) => { $( if merged.$field.is_none() { merged.$field.clone_from(&root.$field); } )* };
    }
    inherit!(rewrite, timeout, retries, fault, mirror, mirror_percentage, mirror_percent, cors_policy, headers);
    if merged.mirrors.is_empty() {
        merged.mirrors.clone_from(&root.mirrors);
    }
    Some(merged)
}

fn merge_match(outer: &HttpMatch, inner: &HttpMatch) -> Option<HttpMatch> {
    let mut merged = inner.clone();
    merged.uri = merge_text(outer.uri.as_ref(), inner.uri.as_ref())?;
    merged.scheme = merge_text(outer.scheme.as_ref(), inner.scheme.as_ref())?;
    merged.method = merge_text(outer.method.as_ref(), inner.method.as_ref())?;
    merged.authority = merge_text(outer.authority.as_ref(), inner.authority.as_ref())?;
    merged.headers = merge_map(&outer.headers, &inner.headers)?;
    merged.without_headers = merge_map(&outer.without_headers, &inner.without_headers)?;
    merged.query_params = merge_map(&outer.query_params, &inner.query_params)?;
    merged.port = same(outer.port.as_ref(), inner.port.as_ref())?;
    merged.source_namespace = same(outer.source_namespace.as_ref(), inner.source_namespace.as_ref())?;
    merged.ignore_uri_case |= outer.ignore_uri_case;
    merged.gateways = if inner.gateways.is_empty() { outer.gateways.clone() } else { inner.gateways.clone() };
    for (key, value) in &outer.source_labels {
        if merged.source_labels.insert(key.clone(), value.clone()).is_some_and(|before| before != *value) {
            return None;
        }
    }
    merged.name = inner.name.clone().or_else(|| outer.name.clone());
    Some(merged)
}

/// Both or the one that is there; `None`: they differ.
fn same<T: Clone + PartialEq>(outer: Option<&T>, inner: Option<&T>) -> Option<Option<T>> {
    match (outer, inner) {
        (Some(outer), Some(inner)) if outer != inner => None,
        (outer, inner) => Some(inner.or(outer).cloned()),
    }
}

/// The narrower of two; `None`: nothing fulfils both.
fn merge_text(outer: Option<&StringMatch>, inner: Option<&StringMatch>) -> Option<Option<StringMatch>> {
    use StringMatch::{Exact, Prefix, Present};
    let (Some(outer), Some(inner)) = (outer, inner) else { return Some(inner.or(outer).cloned()) };
    let narrower = match (outer, inner) {
        (outer, inner) if outer == inner => inner,
        (Present, other) | (other, Present) => other,
        (Prefix(prefix), Exact(text) | Prefix(text)) if text.starts_with(prefix.as_str()) => inner,
        (Exact(text), Prefix(prefix)) if text.starts_with(prefix.as_str()) => outer,
        _ => return None,
    };
    Some(Some(narrower.clone()))
}

fn merge_map(
    outer: &BTreeMap<String, StringMatch>,
    inner: &BTreeMap<String, StringMatch>,
) -> Option<BTreeMap<String, StringMatch>> {
    let mut merged = inner.clone();
    for (key, value) in outer {
        let both = merge_text(Some(value), inner.get(key))??;
        merged.insert(key.clone(), both);
    }
    Some(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> StringMatch {
        StringMatch::Prefix(text.into())
    }

    #[test]
    fn a_delegates_rule_is_narrowed_by_its_root() {
        let uri = |uri| HttpRoute {
            r#match: vec![HttpMatch { uri: Some(uri), ..HttpMatch::default() }],
            ..HttpRoute::default()
        };
        let merged = merge(&uri(prefix("/a")), &uri(prefix("/a/b"))).unwrap();
        assert_eq!(merged.r#match[0].uri, Some(prefix("/a/b")));
        assert_eq!(merge(&uri(prefix("/a")), &uri(prefix("/b"))), None);
        let exact = StringMatch::Exact("/a/c".into());
        assert_eq!(merge(&uri(exact.clone()), &uri(prefix("/a"))).unwrap().r#match[0].uri, Some(exact));
    }
}
