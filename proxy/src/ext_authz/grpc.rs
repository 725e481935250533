//! What a gRPC service answers. **Source**: `envoy.service.auth.v3.CheckResponse`.

#![allow(deprecated, reason = "services still use the deprecated spellings, so they are read")]

use bytes::Bytes;
use weft_proto::pb::envoy::config::core::v3::HeaderValueOption;
use weft_proto::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use weft_proto::pb::envoy::service::auth::v3::check_response::HttpResponse;
use weft_proto::pb::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse};
use weft_proto::wkt;

use super::{Answer, Field, Verdict};
use crate::config::AppendAction;

/// What a refusal has where it does not say.
const FORBIDDEN: u16 = 403;

/// Reads an answer.
pub(crate) fn answer(response: CheckResponse) -> Answer {
    let mut answer = Answer::default();
    let ok = response.status.as_ref().is_none_or(|status| status.code == 0);
    let mut metadata = response.dynamic_metadata;
    match response.http_response {
        Some(HttpResponse::OkResponse(r)) => {
            // The deprecated place counts for more.
            metadata = r.dynamic_metadata.clone().or(metadata);
            if ok {
                allowed(&mut answer, r);
            }
        }
        Some(HttpResponse::ErrorResponse(r)) if !ok => {
            local(&mut answer, r, 0);
            answer.verdict = Verdict::Error;
            answer.metadata = metadata.as_ref().map(wkt::json_object).unwrap_or_default();
            return answer;
        }
        Some(HttpResponse::DeniedResponse(r)) if !ok => local(&mut answer, r, FORBIDDEN),
        _ => {}
    }
    answer.verdict = if ok { Verdict::Ok } else { Verdict::Denied };
    if !ok && answer.status == 0 {
        answer.status = FORBIDDEN;
    }
    answer.metadata = metadata.as_ref().map(wkt::json_object).unwrap_or_default();
    answer
}

fn allowed(answer: &mut Answer, r: OkHttpResponse) {
    for option in r.headers {
        // Of a request's fields only the deprecated switch says how, as in Envoy.
        let appends = option.append.as_ref().is_some_and(|append| append.value);
        let to = if appends { &mut answer.append } else { &mut answer.set };
        to.extend(field(option));
    }
    for option in r.response_headers_to_add {
        let action = action(&option);
        answer.bad_action |= action.is_none();
        if let (Some(action), Some(field)) = (action, field(option)) {
            answer.response.push((field, action));
        }
    }
    // In the order in which Envoy applies them.
    answer.response.sort_by_key(|(_, action)| match action {
        AppendAction::AppendIfExistsOrAdd => 0,
        AppendAction::OverwriteIfExistsOrAdd => 1,
        AppendAction::AddIfAbsent => 2,
        AppendAction::OverwriteIfExists => 3,
    });
    answer.remove = r.headers_to_remove;
    answer.query = r.query_parameters_to_set.into_iter().map(|p| (p.key, p.value)).collect();
    answer.query_remove = r.query_parameters_to_remove;
}

fn local(answer: &mut Answer, r: DeniedHttpResponse, default: u16) {
    let status = r.status.and_then(|s| u16::try_from(s.code).ok()).filter(|code| *code != 0);
    answer.status = status.unwrap_or(default);
    answer.body = Bytes::from(r.body);
    // What is to be appended is left out, as in Envoy.
    let set = r.headers.into_iter().filter(|o| !o.append.as_ref().is_some_and(|append| append.value));
    answer.local = set.filter_map(field).collect();
}

fn field(option: HeaderValueOption) -> Option<Field> {
    let header = option.header?;
    let value = if header.raw_value.is_empty() { Bytes::from(header.value) } else { Bytes::from(header.raw_value) };
    Some((header.key, value))
}

/// How a field of the upstream's answer is added; `None`: in a way that there is not.
fn action(option: &HeaderValueOption) -> Option<AppendAction> {
    if let Some(append) = &option.append {
        let (add, set) = (AppendAction::AppendIfExistsOrAdd, AppendAction::OverwriteIfExistsOrAdd);
        return Some(if append.value { add } else { set });
    }
    Some(match HeaderAppendAction::try_from(option.append_action).ok()? {
        HeaderAppendAction::AppendIfExistsOrAdd => AppendAction::AppendIfExistsOrAdd,
        HeaderAppendAction::AddIfAbsent => AppendAction::AddIfAbsent,
        HeaderAppendAction::OverwriteIfExistsOrAdd => AppendAction::OverwriteIfExistsOrAdd,
        HeaderAppendAction::OverwriteIfExists => AppendAction::OverwriteIfExists,
    })
}
