//! The seam between what is known about services and what is served: a pure function from a proxy to its resources.
//!
//! Must not know: where the knowledge comes from, how resources travel.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use crate::node::Proxy;
use crate::resource::{Resource, ResourceType, Resources};

/// An immutable state of the world that can say what each proxy gets: what it has in common with others, and its own over it.
pub trait Generator: Send + Sync + 'static {
    /// Proxies of one scope have equal resources in common, so these are generated once for all of them.
    type Scope: Clone + Eq + Hash + Send + Sync + 'static;
    /// Proxies with an equal key have equal resources of their own.
    type Key: Clone + Eq + Hash + Send + Sync + 'static;

    /// The scope of a proxy in this state.
    fn scope(&self, proxy: &Proxy) -> Self::Scope;

    /// The key of what a proxy has of its own in this state.
    fn key(&self, proxy: &Proxy) -> Self::Key;

    /// A part of what the proxy gets. It must not depend on anything of the proxy that the scope or the key does not.
    ///
    /// `update` has what a proxy with the same scope or key got in an earlier state, and all that has changed since: whatever that
    /// does not touch should be taken over from there. It is `None` for one that is new. That what is equal is kept once, the
    /// cache sees to.
    fn generate(&self, part: Part, proxy: &Proxy, update: Option<Update<'_>>) -> Resources;

    /// Whether changes touch what a proxy has of its own, if its key is what it was. That it is cheap to ask counts: it is asked
    /// for every proxy after every change.
    fn touches_own(&self, key: &Self::Key, changes: &Changes) -> bool;

    /// The objects that are likely the reason if a resource is refused: those it was made of, narrowed to what differs from what
    /// was accepted `before`. Not for every day.
    fn origins(&self, ty: ResourceType, refused: &Resource, before: Option<&Resource>) -> Vec<Origin>;

    /// Where the object was written that people call so, as `file:line`; `None`: there is none.
    fn written_at(&self, called: &str) -> Option<String>;
}

/// An object that a resource was made of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// As people call it: `VirtualService default/reviews`.
    pub object: Arc<str>,
    /// Where it was written, as `file:line`.
    pub at: Option<String>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.object)?;
        self.at.as_ref().map_or(Ok(()), |at| write!(f, " ({at})"))
    }
}

/// A part of what a proxy gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What it has in common with all of its scope.
    Shared,
    /// What lies over that.
    Own,
}

/// What a generation can start from.
#[derive(Clone, Copy, Debug)]
pub struct Update<'a> {
    /// What has changed since `previous` was generated.
    pub changes: &'a Changes,
    /// What the same scope or key got then.
    pub previous: &'a Resources,
}

/// What differs between two states of the world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Anything may differ; the other fields say nothing.
    pub everything: bool,
    /// Hosts of whose services anything may differ: their clusters, endpoints, and what their workloads accept.
    pub hosts: BTreeSet<Arc<str>>,
    /// Routes may differ, and the listeners that lead to them.
    pub routes: bool,
    /// Hosts whose endpoints differ: only EDS is touched.
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
        *self == Self::default()
    }

    /// Adds what came later.
    pub fn merge(&mut self, later: Self) {
        self.everything |= later.everything;
        self.routes |= later.routes;
        self.hosts.extend(later.hosts);
        self.endpoints.extend(later.endpoints);
        self.secrets.extend(later.secrets);
        *self = std::mem::take(self).settled();
    }

    /// The same in its shortest form.
    #[must_use]
    pub fn settled(mut self) -> Self {
        if self.everything {
            return Self::everything();
        }
        self.endpoints.retain(|host| !self.hosts.contains(host));
        self
    }
}
