//! `/runtime` and `/runtime_modify`.

use http::StatusCode;

use super::body::{Params, Reply};
use super::sources::Sources;

pub(super) fn runtime(sources: &Sources, _: &Params) -> Reply {
    Reply::json(&sources.runtime.to_json())
}

pub(super) fn runtime_modify(sources: &Sources, params: &Params) -> Reply {
    if params.all().is_empty() {
        let usage = "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\n       \
                     or send the parameters as form values\n\
                     use an empty value to remove a previously added override";
        return Reply::error(StatusCode::BAD_REQUEST, usage);
    }
    match sources.runtime.modify(params.all()) {
        Ok(()) => Reply::ok(),
        Err(error) => Reply::error(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}
