//! Rules of VirtualServices that no request reaches, because an earlier one takes all of them.

use std::collections::BTreeMap;

use weft_proto::problem::Severity;

use super::Lint;
use crate::model::kinds::virtual_service::{HttpMatch, StringMatch, VirtualService};

pub(super) fn check(lint: &mut Lint<'_>) {
    let Some(routes) = lint.object.of::<VirtualService>() else { return };
    // Each match with its rule; a rule without matches takes everything.
    let everything = HttpMatch::default();
    let mut earlier: Vec<(usize, Option<usize>, &HttpMatch)> = Vec::new();
    for (index, rule) in routes.spec.http.iter().enumerate() {
        let matches: Vec<(Option<usize>, &HttpMatch)> = match &rule.r#match[..] {
            [] => vec![(None, &everything)],
            several => several.iter().enumerate().map(|(at, of)| (Some(at), of)).collect(),
        };
        for (at, of) in matches {
            let hit = earlier.iter().find(|(_, _, before)| covers(before, of));
            if let Some((by, by_match, _)) = hit {
                let place = |rule: usize, of: Option<usize>| {
                    of.map_or_else(|| format!("spec.http[{rule}]"), |of| format!("spec.http[{rule}].match[{of}]"))
                };
                let whole = at.is_none() || rule.r#match.len() == 1;
                let code = if whole { "unreachable-route" } else { "shadowed-match" };
                let reason = format!(
                    "{} takes every request that would match: put this one in front of it",
                    place(*by, *by_match)
                );
                let position = if of.at.0.line > 0 { of.at.0 } else { rule.at.0 };
                lint.find(code, Severity::Warning, position, place(index, at), reason);
            }
            earlier.push((index, at, of));
        }
    }
}

/// Whether every request of `inner` is one of `outer`.
fn covers(outer: &HttpMatch, inner: &HttpMatch) -> bool {
    let text = |outer: &Option<StringMatch>, inner: &Option<StringMatch>| match (outer, inner) {
        (None, _) => true,
        (Some(outer), Some(inner)) => text_covers(outer, inner),
        (Some(StringMatch::Present), None) => true,
        (Some(StringMatch::Prefix(prefix)), None) => prefix == "/",
        (Some(_), None) => false,
    };
    let map = |outer: &BTreeMap<String, StringMatch>, inner: &BTreeMap<String, StringMatch>| {
        outer.iter().all(|(name, of)| inner.get(name).is_some_and(|inner| text_covers(of, inner)))
    };
    text(&outer.uri, &inner.uri)
        && (!inner.ignore_uri_case || outer.ignore_uri_case || outer.uri.is_none())
        && text(&outer.method, &inner.method)
        && text(&outer.scheme, &inner.scheme)
        && text(&outer.authority, &inner.authority)
        && map(&outer.headers, &inner.headers)
        && map(&outer.query_params, &inner.query_params)
        && outer.without_headers.iter().all(|(name, of)| inner.without_headers.get(name) == Some(of))
        && outer.port.is_none_or(|port| inner.port == Some(port))
        && outer.source_labels.iter().all(|(key, value)| inner.source_labels.get(key) == Some(value))
        && outer.source_namespace.as_ref().is_none_or(|from| inner.source_namespace.as_ref() == Some(from))
        && (outer.gateways.is_empty()
            || inner.gateways.iter().all(|of| outer.gateways.contains(of)) && !inner.gateways.is_empty())
}

fn text_covers(outer: &StringMatch, inner: &StringMatch) -> bool {
    match (outer, inner) {
        (StringMatch::Present, _) => true,
        (StringMatch::Prefix(prefix), StringMatch::Exact(text) | StringMatch::Prefix(text)) => {
            text.starts_with(prefix.as_str())
        }
        (outer, inner) => outer == inner,
    }
}
