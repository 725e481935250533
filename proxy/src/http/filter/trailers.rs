//! Mutations of trailers by `header_mutation`. Their formats are filled in when the head passes; trailers that never come are not
//! made.

use bytes::Bytes;

use super::{FilteredBody, FrameMap};
use crate::http::HeaderMap;
use crate::http::body::Body;
use crate::http::headers::{Mutations, Resolved};
use crate::http::stream::StreamCtx;

/// Wraps `body` so that its trailers are mutated, where there is anything to do.
pub(super) fn wrap<'a>(ctx: &StreamCtx, body: Body, all: impl Iterator<Item = &'a Mutations>) -> Body {
    let resolved: Vec<Resolved> = all.filter(|m| !m.is_empty()).map(|m| m.resolve(ctx)).collect();
    if resolved.is_empty() || body.is_end() {
        return body;
    }
    FilteredBody::wrap(body, Mutating(resolved))
}

struct Mutating(Vec<Resolved>);

impl FrameMap for Mutating {
    fn trailers(&mut self, mut trailers: HeaderMap) -> Result<HeaderMap, Bytes> {
        self.0.iter().for_each(|m| m.apply(&mut trailers));
        Ok(trailers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AppendAction, HeaderMutation, HeaderMutations};

    #[test]
    fn trailers_are_mutated_in_order() {
        let append = |name: &str, value: &str| HeaderMutation::Append {
            name: name.into(),
            value: value.into(),
            action: AppendAction::OverwriteIfExistsOrAdd,
            keep_empty: false,
        };
        let list = HeaderMutations(vec![append("x-a", "1"), HeaderMutation::Remove("x-b".into()), append("x-c", "")]);
        let resolved = Mutations::new(&list).unwrap().resolve_fixed();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-a", http::HeaderValue::from_static("old"));
        trailers.insert("x-b", http::HeaderValue::from_static("old"));
        let trailers = Mutating(vec![resolved]).trailers(trailers).unwrap();
        assert_eq!((trailers.len(), trailers.get("x-a").unwrap()), (1, &http::HeaderValue::from_static("1")));
    }
}
