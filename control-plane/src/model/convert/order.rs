//! Which rule is tried first, where several routes share a place.
//!
//! **Source**: `gateway.networking.k8s.io/v1.HTTPRouteRule.matches`, `GRPCRouteRule.matches`.

use std::cmp::Reverse;

use crate::model::kinds::Object;
use crate::model::kinds::virtual_service::{HttpMatch, StringMatch};

/// What orders rules: the smaller goes first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// Exact paths, then expressions, then prefixes; the longer ones first.
    path: (u8, Reverse<usize>),
    /// With a method first.
    method: Reverse<bool>,
    headers: Reverse<usize>,
    query_params: Reverse<usize>,
    /// The older route first, then by namespace and name.
    created: (bool, String, String, String),
    /// By their order in the route.
    index: (usize, usize),
}

/// The rank of a rule with this match.
pub(super) fn rank(of: &HttpMatch, object: &Object, index: (usize, usize)) -> Rank {
    let path = match &of.uri {
        Some(StringMatch::Exact(path)) => (0, Reverse(path.len())),
        Some(StringMatch::Regex(path)) => (1, Reverse(path.len())),
        Some(StringMatch::Prefix(path) | StringMatch::PathPrefix(path)) => {
            (2, Reverse(path.trim_end_matches('/').len()))
        }
        Some(StringMatch::Present) | None => (2, Reverse(0)),
    };
    let (undated, created, name, namespace) = object.age();
    Rank {
        path,
        method: Reverse(of.method.is_some()),
        headers: Reverse(of.headers.len()),
        query_params: Reverse(of.query_params.len()),
        created: (undated, created.to_owned(), namespace.to_owned(), name.to_owned()),
        index,
    }
}
