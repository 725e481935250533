//! What filters add to an answer that does not exist yet, be it an upstream's or one of our own.

use http::{HeaderName, HeaderValue};

use crate::config::AppendAction;
use crate::http::HeaderMap;
use crate::http::stream::StreamCtx;
use crate::stats::Counter;

/// Fields that a filter adds to the answer.
pub struct Edits {
    /// The filter's place in the chain.
    pub filter: usize,
    /// The fields, and what where there is one of their name.
    pub fields: Vec<(HeaderName, HeaderValue, AppendAction)>,
    /// How many fields an answer may have, and what counts that there were more.
    pub limit: Option<(usize, Counter)>,
}

impl Edits {
    fn apply(self, headers: &mut HeaderMap) {
        let mut omitted = false;
        for (name, value, action) in self.fields {
            let present = headers.contains_key(&name);
            let adds = match action {
                AppendAction::AppendIfExistsOrAdd => true,
                AppendAction::AddIfAbsent if present => continue,
                AppendAction::OverwriteIfExists if !present => continue,
                _ => !present,
            };
            if adds && self.limit.as_ref().is_some_and(|(max, _)| headers.len() >= *max) {
                omitted = true;
            } else if action == AppendAction::AppendIfExistsOrAdd {
                headers.append(name, value);
            } else {
                headers.insert(name, value);
            }
        }
        if let Some((_, counter)) = self.limit.filter(|_| omitted) {
            counter.inc();
        }
    }
}

/// Adds what filter `i`, or any filter, has to add.
pub(in crate::http) fn apply(ctx: &mut StreamCtx, headers: &mut HeaderMap, i: Option<usize>) {
    if ctx.edits.is_empty() {
        return;
    }
    let all = std::mem::take(&mut ctx.edits);
    let (now, later): (Vec<_>, Vec<_>) = all.into_iter().partition(|e| i.is_none_or(|i| e.filter == i));
    ctx.edits = later;
    now.into_iter().rev().for_each(|edits| edits.apply(headers));
}
