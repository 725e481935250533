//! What an HTTP service answers: 200 is yes, 5xx is no answer, all else is no.

use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;

use super::{Answer, Verdict};
use crate::config::{AppendAction, AuthzHttp, StringMatcher};
use crate::http::call;

/// Names of request fields to be taken away, as an answer has them.
const REMOVE: &str = "x-envoy-auth-headers-to-remove";
/// Fields of a refusal that the client is always given.
const ALWAYS: [&str; 2] = ["www-authenticate", "location"];

/// Reads an answer.
pub(crate) fn answer(config: &AuthzHttp, from: call::Answer) -> Answer {
    let status = from.head.status;
    if status.is_server_error() {
        return Answer::default();
    }
    let ok = status == StatusCode::OK;
    let mut answer = Answer { verdict: if ok { Verdict::Ok } else { Verdict::Denied }, ..Answer::default() };
    if ok {
        let lists = from.head.headers.get_all(REMOVE).filter_map(|v| v.to_str().ok());
        let names = lists.flat_map(|list| list.split(',')).map(str::trim).filter(|name| !name.is_empty());
        answer.remove = names.map(str::to_owned).collect();
    } else {
        answer.status = status.as_u16();
        answer.body = from.body;
    }
    for (name, value) in &from.head.headers {
        let name = name.as_str();
        if name == REMOVE {
            continue;
        }
        let field = || (name.to_owned(), Bytes::copy_from_slice(value.as_bytes()));
        if ok {
            if is_one_of(&config.upstream, name) {
                answer.set.push(field());
            }
            if is_one_of(&config.upstream_append, name) {
                answer.add.push(field());
            }
            if is_one_of(&config.client_on_success, name) {
                answer.response.push((field(), AppendAction::AppendIfExistsOrAdd));
            }
        } else if goes_to_client(&config.client, name) {
            answer.local.push(field());
        }
        if is_one_of(&config.metadata, name) {
            let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
            answer.metadata.insert(name.to_owned(), Value::String(text));
        }
    }
    answer
}

fn is_one_of(list: &[StringMatcher], name: &str) -> bool {
    list.iter().any(|m| m.matches(name))
}

fn goes_to_client(list: &[StringMatcher], name: &str) -> bool {
    if list.is_empty() { name != "host" } else { ALWAYS.contains(&name) || is_one_of(list, name) }
}
