//! The seam between what is known about services and what is served: a pure function from a proxy to its resources.
//!
//! Must not know: where the knowledge comes from, how resources travel.

use std::collections::BTreeSet;
use std::hash::Hash;
use std::sync::Arc;

use crate::node::Proxy;
use crate::resource::Resources;

/// An immutable state of the world that can say what each proxy gets.
pub trait Generator: Send + Sync + 'static {
    /// Proxies with an equal key get equal resources, so they are generated once for all of them.
    type Key: Clone + Eq + Hash + Send + Sync + 'static;

    /// The key of a proxy in this state. [`Proxy::scope`] is always right; a coarser one shares more.
    fn key(&self, proxy: &Proxy) -> Self::Key;

    /// What the proxy gets. It must not depend on anything of the proxy that [`Self::key`] does not.
    ///
    /// `previous` is what a proxy with this key got in an earlier state, and `changes` all that has changed since: whatever
    /// they do not touch should be taken over from there. It is `None` for a key that is new. That what is equal is kept once,
    /// the cache sees to.
    fn generate(&self, proxy: &Proxy, update: Option<Update<'_>>) -> Resources;
}

/// What a generation can start from.
#[derive(Clone, Copy, Debug)]
pub struct Update<'a> {
    /// What has changed since `previous` was generated.
    pub changes: &'a Changes,
    /// What the same key got then.
    pub previous: &'a Resources,
}

/// What differs between two states of the world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Anything may differ; the other fields say nothing.
    pub everything: bool,
    /// Hosts of which nothing but the endpoints differs: only EDS is touched.
    pub endpoints: BTreeSet<Arc<str>>,
    /// Secrets that differ, by resource name: only SDS is touched.
    pub secrets: BTreeSet<Arc<str>>,
}

impl Changes {
    /// Anything may differ.
    #[must_use]
    pub fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }

    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.everything && self.endpoints.is_empty() && self.secrets.is_empty()
    }

    /// Adds what came later.
    pub fn merge(&mut self, later: Self) {
        self.everything |= later.everything;
        self.endpoints.extend(later.endpoints);
        self.secrets.extend(later.secrets);
    }
}
