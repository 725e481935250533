//! How a client stands with each resource it asks for.
//!
//! Owns what is told of it to people and tools. Must not know: in which form.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::Instant;

use super::super::Session;
use super::Subscription;
use crate::resource::{Resource, ResourceType};

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
        let unanswered: BTreeSet<&Arc<str>> = subscription.outstanding().iter().flat_map(|of| &of.names).collect();
        let standing = |name: &Arc<str>| {
            let newest = set.get(name).cloned();
            subscription.standing(name, newest, unanswered.contains(name))
        };
        names.into_iter().map(standing).collect()
    }
}

impl Subscription {
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
