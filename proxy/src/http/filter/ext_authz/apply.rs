//! Does what an answer says: to the request, and to the answer that the client gets.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use serde_json::json;

use super::ExtAuthz;
use crate::config::{self, AppendAction, MutationRules};
use crate::ext_authz::{Answer, Field, HTTP_NAMESPACE, Verdict};
use crate::http::HeaderMap;
use crate::http::connection::Reply;
use crate::http::filter::Edits;
use crate::http::head::Scheme;
use crate::http::request;
use crate::http::stream::StreamCtx;
use crate::stats::Counter;

/// The answer may not do what it says.
#[derive(Debug)]
pub(super) struct Invalid;

/// Fields that say where a body ends are ours to write, and those of a connection are none of the answer's.
const FRAMING: [&str; 3] = ["content-length", "transfer-encoding", "connection"];

/// Whether a field is one.
pub(super) fn is_field(field: &Field) -> bool {
    let name = field.0.strip_prefix(':').unwrap_or(&field.0);
    HeaderName::try_from(name).is_ok() && HeaderValue::from_bytes(&field.1).is_ok()
}

/// Keeps the answer's metadata, and for how long the service thought.
pub(super) fn metadata(filter: &ExtAuthz, ctx: &mut StreamCtx, answer: &mut Answer, began: tokio::time::Instant) {
    if answer.metadata.is_empty() {
        return;
    }
    if !filter.config.ingest_metadata {
        filter.stats.ignored_dynamic_metadata.inc();
        return;
    }
    let mut said = std::mem::take(&mut answer.metadata);
    if answer.verdict == Verdict::Ok {
        let took = crate::clock::now().saturating_duration_since(began);
        said.insert("ext_authz_duration".to_owned(), json!(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)));
    }
    let all = ctx.info.metadata.get_or_insert_default();
    let own = all.entry(HTTP_NAMESPACE.to_owned()).or_insert_with(|| json!({}));
    if let Some(own) = own.as_object_mut() {
        own.extend(said);
    }
}

/// Changes the request.
///
/// # Errors
/// It may not be changed so. What was changed before that was, but goes nowhere.
pub(super) fn request(config: &config::ExtAuthz, ctx: &mut StreamCtx, answer: &Answer) -> Result<(), Invalid> {
    let changes = [(&answer.set, Change::Set), (&answer.add, Change::Add), (&answer.append, Change::Append)];
    for (fields, change) in changes {
        for field in fields {
            if config.validate_mutations && !is_field(field) {
                return Err(Invalid);
            }
            if allowed(config.rules.as_ref(), &field.0.to_ascii_lowercase(), change)? {
                put(ctx, field, change);
            }
        }
    }
    for name in &answer.remove {
        let name = name.to_ascii_lowercase();
        if allowed(config.rules.as_ref(), &name, Change::Remove)? && !name.starts_with(':') && name != "host" {
            ctx.request.headers.remove(name.as_str());
        }
    }
    if config.validate_mutations && !answer.response.iter().all(|(field, _)| is_field(field)) {
        return Err(Invalid);
    }
    query(config.validate_mutations, ctx, answer)?;
    let max = &ctx.conn.manager.config;
    let headers = &ctx.request.headers;
    // The four parts of a request that are no fields count as such.
    let size = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
    let too_many = headers.len() + 4 > max.common.max_headers_count as usize;
    if too_many || headers.iter().map(size).sum::<usize>() + ctx.request.path.len() > max.max_request_headers_bytes {
        return Err(Invalid);
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Set,
    Add,
    Append,
    Remove,
}

/// Whether a field may be changed; without rules what makes a request may be set, but not removed.
fn allowed(rules: Option<&MutationRules>, name: &str, change: Change) -> Result<bool, Invalid> {
    let Some(rules) = rules else { return Ok(true) };
    let system = name.starts_with(':') || name == "host";
    let may = match () {
        () if change == Change::Remove && system => false,
        () if change == Change::Append && name.starts_with(':') => false,
        () => may_touch(rules, name),
    };
    if !may && rules.is_error { Err(Invalid) } else { Ok(may) }
}

fn may_touch(rules: &MutationRules, name: &str) -> bool {
    if rules.disallow.as_ref().is_some_and(|p| p.is_match(name)) {
        return false;
    }
    if rules.allow.as_ref().is_some_and(|p| p.is_match(name)) {
        return true;
    }
    let routing = matches!(name, "host" | ":authority" | ":method" | ":scheme");
    !(rules.nothing
        || (!rules.routing && routing)
        || (rules.no_system && name.starts_with(':'))
        || (!rules.envoy && name.starts_with("x-envoy")))
}

/// Changes a field, or a part of the request that Envoy has as one.
fn put(ctx: &mut StreamCtx, (name, value): &Field, change: Change) {
    let text = || std::str::from_utf8(value).ok();
    match &*name.to_ascii_lowercase() {
        ":path" => {
            if let Some(path) = text().filter(|path| path.starts_with('/')) {
                ctx.request.path = path.to_owned();
            }
        }
        ":authority" | "host" => {
            if let Ok(host) = HeaderValue::from_bytes(value) {
                ctx.request.authority = Some(host);
            }
        }
        ":method" => {
            if let Ok(method) = Method::from_bytes(value) {
                ctx.request.method = method;
            }
        }
        ":scheme" => match text() {
            Some("https") => ctx.request.scheme = Scheme::Https,
            Some("http") => ctx.request.scheme = Scheme::Http,
            _ => {}
        },
        _ => {
            // What is no field is left out: it would end in a message that nobody understands.
            let (Ok(name), Ok(value)) = (HeaderName::try_from(name.as_str()), HeaderValue::from_bytes(value)) else {
                return;
            };
            let headers = &mut ctx.request.headers;
            match change {
                Change::Set => drop(headers.insert(name, value)),
                Change::Add => headers.append(name, value),
                Change::Append => append(headers, &name, &value),
                Change::Remove => {}
            }
        }
    }
}

/// Puts a value behind the first one of a field; one that is not there stays so.
fn append(headers: &mut HeaderMap, name: &HeaderName, value: &HeaderValue) {
    let all: Vec<HeaderValue> = headers.get_all(name).cloned().collect();
    let Some((first, rest)) = all.split_first() else { return };
    if let Ok(joined) = HeaderValue::from_bytes(&[first.as_bytes(), b",", value.as_bytes()].concat()) {
        headers.insert(name, joined);
        rest.iter().for_each(|value| headers.append(name, value.clone()));
    }
}

/// Changes the query, which comes out in the order of its names.
fn query(validate: bool, ctx: &mut StreamCtx, answer: &Answer) -> Result<(), Invalid> {
    if answer.query.is_empty() && answer.query_remove.is_empty() {
        return Ok(());
    }
    let mut all: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for pair in ctx.request.query().into_iter().filter(|q| !q.is_empty()).flat_map(|q| q.split('&')) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        all.entry(name).or_default().push(value);
    }
    for (name, value) in &answer.query {
        if !is_encoded(name) || !is_encoded(value) {
            if validate {
                return Err(Invalid);
            }
            continue;
        }
        all.insert(name, vec![value]);
    }
    for name in &answer.query_remove {
        all.remove(name.as_str());
    }
    let pairs = all.iter().flat_map(|(name, values)| values.iter().map(move |value| format!("{name}={value}")));
    let query = pairs.collect::<Vec<_>>().join("&");
    let path = ctx.request.path.split('?').next().unwrap_or_default();
    ctx.request.path = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    Ok(())
}

/// Whether a part of a query is written as URLs have it.
fn is_encoded(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~%!$'()*,;:@/?+=".contains(&b))
}

/// Keeps what the client's answer is given.
pub(super) fn remember(
    config: &config::ExtAuthz,
    ctx: &mut StreamCtx,
    answer: &mut Answer,
    omitted: &Counter,
    i: usize,
) {
    let field = |((name, value), action): ((String, Bytes), AppendAction)| {
        let name = HeaderName::try_from(name).ok().filter(|name| !FRAMING.contains(&name.as_str()))?;
        Some((name, HeaderValue::from_maybe_shared(value).ok()?, action))
    };
    let fields: Vec<_> = std::mem::take(&mut answer.response).into_iter().filter_map(field).collect();
    if !fields.is_empty() {
        let limit = config.limit_response_headers.then(|| (MAX_RESPONSE_FIELDS, omitted.clone()));
        ctx.edits.push(Edits { filter: i, fields, limit });
    }
}

/// So many fields Envoy's response may have.
const MAX_RESPONSE_FIELDS: usize = 100;

/// Whether the answer changed what a route may depend on.
pub(super) fn may_reroute(answer: &Answer) -> bool {
    !(answer.set.is_empty()
        && answer.append.is_empty()
        && answer.remove.is_empty()
        && answer.query.is_empty()
        && answer.query_remove.is_empty())
}

/// Finds the route of a request anew.
#[allow(clippy::result_large_err, reason = "the answer is what the caller returns as it is")]
pub(super) fn reroute(mut ctx: Box<StreamCtx>) -> Result<Box<StreamCtx>, Reply> {
    ctx.route = None;
    ctx.info.route = None;
    ctx.info.vhost = None;
    request::find_route(ctx)
}

/// Fields of a refusal: in place of ours, all that the service names.
pub(super) fn local(fields: &[Field], headers: &mut HeaderMap) {
    let good = |(name, value): &Field| {
        let name = HeaderName::try_from(name.as_str()).ok().filter(|name| !FRAMING.contains(&name.as_str()))?;
        Some((name, HeaderValue::from_bytes(value).ok()?))
    };
    let fields: Vec<_> = fields.iter().filter_map(good).collect();
    for (name, _) in &fields {
        headers.remove(name);
    }
    for (name, value) in fields {
        headers.append(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        let may = |rules: &MutationRules, name: &str| allowed(Some(rules), name, Change::Set).unwrap();
        let none = MutationRules::default();
        assert!(may(&none, "x-own") && may(&none, ":path"));
        assert!(!may(&none, "host") && !may(&none, ":method") && !may(&none, "x-envoy-own"));
        let strict = MutationRules { is_error: true, nothing: true, ..MutationRules::default() };
        assert!(allowed(Some(&strict), "x-own", Change::Set).is_err());
        let open = MutationRules { routing: true, envoy: true, ..MutationRules::default() };
        assert!(may(&open, "host") && may(&open, "x-envoy-own"));
        assert!(!allowed(Some(&open), ":path", Change::Remove).unwrap());
        assert!(allowed(None, ":path", Change::Set).unwrap());
    }

    #[test]
    fn a_value_behind_the_first() {
        let mut headers = HeaderMap::new();
        let (name, value) = (HeaderName::from_static("x-own"), HeaderValue::from_static("c"));
        append(&mut headers, &name, &value);
        assert!(headers.is_empty());
        headers.append("x-own", HeaderValue::from_static("a"));
        headers.append("x-own", HeaderValue::from_static("b"));
        append(&mut headers, &name, &value);
        assert_eq!(headers.get_all("x-own").collect::<Vec<_>>(), ["a,c", "b"]);
    }

    #[test]
    fn parts_of_a_query() {
        assert!(is_encoded("a%20b") && is_encoded("") && !is_encoded("a b") && !is_encoded("a&b") && !is_encoded("ä"));
    }
}
