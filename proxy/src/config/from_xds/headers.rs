//! Header names, and mutations of headers.

use weft_proto::pb::envoy::config::common::mutation_rules::v3 as rules;
use weft_proto::pb::envoy::config::core::v3 as core;

use super::ctx::{Ctx, Out};
use super::matcher;
use crate::config::{AppendAction, HeaderMutation, HeaderMutationLevel, HeaderMutations};

/// A header name in lower case: not empty, and without what could end a line.
pub(super) fn name(c: &Ctx<'_>, field: &'static str, name: &str) -> Out<String> {
    c.non_empty(field, name)?;
    checked_name(&c.field(field), name)
}

/// A header name that is an element of a list.
pub(super) fn element(c: &Ctx<'_>, name: &str) -> Out<String> {
    checked_name(c, name)
}

fn checked_name(c: &Ctx<'_>, name: &str) -> Out<String> {
    // A pseudo-header's colon is allowed in front. `HeaderName` takes the token characters of RFC 9110 and nothing else.
    let token = name.strip_prefix(':').unwrap_or(name);
    match http::HeaderName::from_bytes(token.as_bytes()) {
        Ok(token) if name.starts_with(':') => Ok(format!(":{token}")),
        Ok(token) => Ok(token.as_str().to_owned()),
        Err(_) => c.refuse(format!("'{}' is not a valid header name", name.escape_default())),
    }
}

/// A header value must not end a line.
pub(super) fn plain_value(c: &Ctx<'_>, value: &str) -> Out<()> {
    let bad = value.bytes().any(|b| matches!(b, b'\0' | b'\r' | b'\n'));
    c.ensure(!bad, || "a header value must not hold NUL, CR or LF".into())
}

/// The mutations of one level: `*_headers_to_add` and `*_headers_to_remove`, for requests and responses.
pub(super) fn level(
    c: &Ctx<'_>,
    request: (&[core::HeaderValueOption], &[String]),
    response: (&[core::HeaderValueOption], &[String]),
) -> Out<HeaderMutationLevel> {
    let request = add_remove(c, "request_headers_to_add", request.0, "request_headers_to_remove", request.1);
    let response = add_remove(c, "response_headers_to_add", response.0, "response_headers_to_remove", response.1);
    Ok(HeaderMutationLevel { request: request?, response: response? })
}

fn add_remove(
    c: &Ctx<'_>,
    add_field: &'static str,
    add: &[core::HeaderValueOption],
    remove_field: &'static str,
    remove: &[String],
) -> Out<HeaderMutations> {
    let removed = c.each(remove_field, remove, |c, name| Ok(HeaderMutation::Remove(removable(c, name)?)));
    let added = c.each(add_field, add, append);
    // Envoy removes first, so a header can be replaced by naming it in both.
    let mut all = removed?;
    all.extend(added?);
    Ok(HeaderMutations(all))
}

/// `headers_to_add` alone.
pub(super) fn to_add(c: &Ctx<'_>, field: &'static str, add: &[core::HeaderValueOption]) -> Out<HeaderMutations> {
    c.each(field, add, append).map(HeaderMutations)
}

/// A header field that takes the place of those of its name.
pub(super) fn set(c: &Ctx<'_>, h: &core::HeaderValue) -> Out<HeaderMutation> {
    let (name, value) = header_value(c, h)?;
    Ok(HeaderMutation::Append { name, value, action: AppendAction::OverwriteIfExistsOrAdd, keep_empty: false })
}

/// Mutations of the `header_mutation` extension family, in order.
pub(super) fn mutations(c: &Ctx<'_>, field: &'static str, list: &[rules::HeaderMutation]) -> Out<HeaderMutations> {
    use rules::header_mutation::Action as A;
    let mutations = c.each(field, list, |c, m| match &m.action {
        None => c.refuse("an action is required: remove, append or remove_on_match"),
        Some(A::Remove(header)) => Ok(HeaderMutation::Remove(name(c, "remove", header)?)),
        Some(A::Append(o)) => append(&c.field("append"), o),
        Some(A::RemoveOnMatch(m)) => {
            let c = c.field("remove_on_match");
            Ok(HeaderMutation::RemoveOnMatch(c.required("key_matcher", &m.key_matcher, matcher::string)?))
        }
    })?;
    Ok(HeaderMutations(mutations))
}

fn append(c: &Ctx<'_>, o: &core::HeaderValueOption) -> Out<HeaderMutation> {
    let mutation = option(c, o)?;
    if let HeaderMutation::Append { name, .. } = &mutation {
        c.field("header")
            .field("key")
            .ensure(modifiable(name), || ":-prefixed or host headers may not be modified".into())?;
    }
    Ok(mutation)
}

fn option(c: &Ctx<'_>, o: &core::HeaderValueOption) -> Out<HeaderMutation> {
    use core::header_value_option::HeaderAppendAction as A;
    let (name, value) = c.required("header", &o.header, header_value)?;
    let action = match c.enumeration::<A>("append_action", o.append_action)? {
        A::AppendIfExistsOrAdd => AppendAction::AppendIfExistsOrAdd,
        A::AddIfAbsent => AppendAction::AddIfAbsent,
        A::OverwriteIfExistsOrAdd => AppendAction::OverwriteIfExistsOrAdd,
        A::OverwriteIfExists => AppendAction::OverwriteIfExists,
    };
    let action = match &o.append {
        None => action,
        Some(_) if action != AppendAction::AppendIfExistsOrAdd => {
            return c.field("append").refuse("Both append and append_action are set and it's not allowed");
        }
        Some(append) if append.value => AppendAction::AppendIfExistsOrAdd,
        Some(_) => AppendAction::OverwriteIfExistsOrAdd,
    };
    Ok(HeaderMutation::Append { name, value, action, keep_empty: o.keep_empty_value })
}

fn header_value(c: &Ctx<'_>, h: &core::HeaderValue) -> Out<(String, String)> {
    let name = name(c, "key", &h.key)?;
    if h.raw_value.is_empty() {
        plain_value(&c.field("value"), &h.value)?;
        return Ok((name, h.value.clone()));
    }
    let raw = c.field("raw_value");
    raw.ensure(h.value.is_empty(), || "Only one of value or raw_value may be set".into())?;
    match std::str::from_utf8(&h.raw_value) {
        Ok(text) => {
            plain_value(&raw, text)?;
            Ok((name, text.to_owned()))
        }
        Err(_) => raw.unsupported("a value that is not UTF-8"),
    }
}

fn removable(c: &Ctx<'_>, name: &str) -> Out<String> {
    let name = checked_name(c, name)?;
    c.ensure(modifiable(&name), || ":-prefixed or host headers may not be removed".into())?;
    Ok(name)
}

fn modifiable(lower_case: &str) -> bool {
    !lower_case.starts_with(':') && lower_case != "host"
}
