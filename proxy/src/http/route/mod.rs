//! Route tables: compiled once, then read by every request without a lock.

mod action;
mod discovered;
mod domains;
mod matcher;
mod stats;
mod table;

pub(crate) use table::value as header_value;

pub use action::{Forward, Redirect, Target};
pub use discovered::{DiscoveredRoutes, Hosts, Routes};
pub(crate) use matcher::{cookie, header_matches, matches, metadata_matches, query_matches, query_value, values_match};
pub use stats::{RouteStats, VirtualCluster, VirtualClusters};
pub use table::{Entry, Found, Kind, RouteTable, VirtualHost};

use std::sync::Arc;

use super::head::ResponseHead;
use super::headers::Mutations;
use super::stream::StreamCtx;

/// A route found for a request, with the cluster chosen where there is a choice.
#[derive(Clone)]
pub struct Matched {
    /// The route.
    pub entry: Arc<Entry>,
    /// Index of the chosen weighted cluster.
    pub choice: Option<usize>,
}

impl Matched {
    /// Header mutations of requests, in the order they are applied.
    pub fn request_mutations(&self) -> impl Iterator<Item = &Mutations> {
        self.levels().map(|l| &l.request)
    }

    /// Applies the header mutations of answers.
    pub fn response_headers(&self, ctx: &StreamCtx, head: &mut ResponseHead) {
        for level in self.levels() {
            level.response.apply_response(ctx, head);
        }
    }

    fn levels(&self) -> impl Iterator<Item = &table::Level> {
        let weighted = match (&self.entry.kind, self.choice) {
            (Kind::Forward(f), Some(i)) => f.level(i),
            _ => None,
        };
        let (a, b, c) = (&self.entry.level, &self.entry.vhost.level, &self.entry.vhost.root);
        let rest = if self.entry.vhost.most_specific_wins { [&**c, b, a] } else { [a, b, c] };
        // The weighted cluster's level comes first whichever way the others are applied, as in Envoy.
        weighted.into_iter().chain(rest)
    }
}
