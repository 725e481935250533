//! How a client stands with each resource it asks for.
//!
//! Owns what is told of it to people and tools. Must not know: in which form.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::Instant;

use super::super::Session;
use super::Subscription;
use crate::resource::{Resource, ResourceSet, ResourceType};

/// How a client stands with one resource.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its name.
    pub name: Arc<str>,
    /// What it was sent last.
    pub sent: Option<Arc<Resource>>,
    /// What it may have now.
    pub newest: Option<Arc<Resource>>,
    /// What became of what was sent.
    pub how: How,
    /// When that was, as far as it is known: of what was accepted, the time of the last answer for its type.
    pub at: Option<Instant>,
}

/// What became of a resource that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The client has accepted the newest.
    Accepted,
    /// It has not answered.
    Unanswered,
    /// It has accepted what it was sent, and something newer waits.
    Waiting,
    /// It has refused it, or something beside it: which of the resources of a response is the reason only the client knows.
    Refused,
    /// It was not sent.
    NotSent,
    /// It was told that there is no such resource, or could tell.
    Absent,
}

impl Session {
    /// How the client stands with each resource of a type that it asks for, sorted by name.
    #[must_use]
    pub fn standing(&self, ty: ResourceType) -> Vec<Standing> {
        let Some(subscription) = self.subscription(ty) else { return Vec::new() };
        let set = self.resources().get(ty);
        let mut names: BTreeSet<&Arc<str>> = subscription.names().iter().collect();
        if subscription.is_wildcard() {
            names.extend(set.iter().chain(subscription.sent.iter()).map(|resource| resource.name()));
        }
        subscription.all_standing(set, names)
    }

    /// The same for those of which some state that it may have now, was sent, or had before is `wanted`.
    #[must_use]
    pub fn standing_of(&self, ty: ResourceType, wanted: impl Fn(&Resource) -> bool) -> Vec<Standing> {
        let Some(subscription) = self.subscription(ty) else { return Vec::new() };
        let set = self.resources().get(ty);
        let before = subscription.outstanding().map(|of| &of.before);
        let refused = subscription.nack().map(|nack| &nack.before);
        let mut sets = vec![set, &subscription.sent];
        sets.extend(before.into_iter().chain(refused));
        sets.sort_by_key(|set| Arc::as_ptr(set));
        sets.dedup_by_key(|set| Arc::as_ptr(set));
        let found = sets.into_iter().flat_map(|set| set.iter()).filter(|resource| wanted(resource));
        let names: BTreeSet<&Arc<str>> =
            found.map(|resource| resource.name()).filter(|name| subscription.wants(name)).collect();
        let concerns = |of: &Standing| {
            // What was taken back before is no longer of concern.
            let new = of.newest.iter().chain(&of.sent).any(|resource| wanted(resource));
            new || matches!(of.how, How::Unanswered | How::Refused)
        };
        subscription.all_standing(set, names).into_iter().filter(concerns).collect()
    }

    /// What a client has refused of a type, each with what it had before. If it names some of them, only those.
    #[must_use]
    pub fn refused(&self, ty: ResourceType) -> Vec<(Arc<Resource>, Option<Arc<Resource>>)> {
        let Some(subscription) = self.subscription(ty) else { return Vec::new() };
        let Some(nack) = subscription.nack() else { return Vec::new() };
        let mut names: Vec<&Arc<str>> = nack.names.iter().collect();
        if names.iter().any(|name| nack.reason.contains(&***name)) {
            names.retain(|name| nack.reason.contains(&***name));
        }
        let with_before = |name: &Arc<str>| {
            let before = nack.before.get(name).cloned();
            // One that was taken away is refused by what it was.
            Some((subscription.sent.get(name).cloned().or_else(|| before.clone())?, before))
        };
        names.into_iter().filter_map(with_before).collect()
    }
}

impl Subscription {
    fn all_standing(&self, set: &ResourceSet, names: BTreeSet<&Arc<str>>) -> Vec<Standing> {
        let unanswered: BTreeSet<&Arc<str>> = self.outstanding().iter().flat_map(|of| &of.names).collect();
        let standing = |name: &Arc<str>| self.standing(name, set.get(name).cloned(), unanswered.contains(name));
        names.into_iter().map(standing).collect()
    }

    fn standing(&self, name: &Arc<str>, newest: Option<Arc<Resource>>, unanswered: bool) -> Standing {
        let is_sent = !self.forced.contains(name);
        let sent = self.sent.get(name).filter(|_| is_sent).cloned();
        let accepted_at = self.ack().map(|ack| ack.at);
        let nack = self.nack().filter(|nack| nack.names.contains(name));
        let (how, at) = match (&sent, &newest, nack) {
            _ if unanswered => (How::Unanswered, self.outstanding().map(|of| of.sent_at)),
            (_, _, Some(nack)) => (How::Refused, Some(nack.at)),
            (Some(sent), Some(newest), _) if sent.version() == newest.version() => (How::Accepted, accepted_at),
            (Some(_), _, _) => (How::Waiting, accepted_at),
            (None, Some(_), _) => (How::NotSent, None),
            (None, None, _) if is_sent => (How::Absent, accepted_at),
            (None, None, _) => (How::NotSent, None),
        };
        Standing { name: name.clone(), sent, newest, how, at }
    }
}
