//! What a client wants of one type, what it was sent of it and what it answered.
//!
//! Owns the difference between the two. Must not know: other types.

pub(super) mod standing;

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::Instant;
use weft_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;

use super::{Push, Variant};
use crate::resource::{Resource, ResourceSet, ResourceType, Version};

/// A subscription to a type.
#[derive(Debug)]
pub struct Subscription {
    ty: ResourceType,
    /// All there are.
    wildcard: bool,
    /// These, besides.
    names: BTreeSet<Arc<str>>,
    /// The set that the last push was taken from: of it the client has what it was subscribed to and is not `forced`.
    sent: Arc<ResourceSet>,
    /// Names to be sent whether they have changed or not: the client does not have them, or asks for them again.
    forced: BTreeSet<Arc<str>>,
    /// Names the client brought along from an earlier stream that are gone (delta).
    gone: BTreeSet<Arc<str>>,
    /// The client waits for an answer, also if there is nothing to tell.
    answer_due: bool,
    /// The nonce of the last push.
    nonce: Option<u64>,
    outstanding: Option<Outstanding>,
    ack: Option<Ack>,
    nack: Option<Nack>,
    sent_version: Option<Version>,
}

/// A push without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outstanding {
    /// When it was sent.
    pub sent_at: Instant,
    /// The state it brings.
    pub version: Version,
    /// What it adds, changes or takes away.
    names: Vec<Arc<str>>,
    /// It adds or changes resources.
    pub brings_something: bool,
    /// What was sent before it, of which the client has what it has accepted.
    before: Arc<ResourceSet>,
}

/// A client has taken what it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The state.
    pub version: Version,
    /// When it said so.
    pub at: Instant,
}

/// A client has refused what it was sent, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    /// The state.
    pub version: Version,
    /// When it said so.
    pub at: Instant,
    /// Why, in its words.
    pub reason: String,
    /// What was refused and not sent again. Which of them is the reason only the client knows.
    names: BTreeSet<Arc<str>>,
    /// What was sent before the first of it was refused.
    before: Arc<ResourceSet>,
}

impl Subscription {
    pub(super) fn new(ty: ResourceType) -> Self {
        Self {
            ty,
            wildcard: false,
            names: BTreeSet::new(),
            sent: Arc::default(),
            forced: BTreeSet::new(),
            gone: BTreeSet::new(),
            answer_due: false,
            nonce: None,
            outstanding: None,
            ack: None,
            nack: None,
            sent_version: None,
        }
    }

    /// Whether it asks for all resources of the type.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// The names it asks for, besides.
    #[must_use]
    pub fn names(&self) -> &BTreeSet<Arc<str>> {
        &self.names
    }

    /// The push that waits for its answer.
    #[must_use]
    pub fn outstanding(&self) -> Option<&Outstanding> {
        self.outstanding.as_ref()
    }

    /// The last thing it has accepted.
    #[must_use]
    pub fn ack(&self) -> Option<Ack> {
        self.ack
    }

    /// What it has refused, while it has not accepted something in its place.
    #[must_use]
    pub fn nack(&self) -> Option<&Nack> {
        self.nack.as_ref()
    }

    /// Whether it has refused something of `set`, and the newest it was sent of it.
    #[must_use]
    pub fn is_refused(&self, set: &ResourceSet) -> bool {
        let matters = |name: &Arc<str>| self.wants(name) && set.get(name).is_some();
        let of_set = |nack: &Nack| nack.names.is_empty() || nack.names.iter().any(matters);
        self.outstanding.is_none() && self.nack.as_ref().is_some_and(of_set)
    }

    /// The state that was sent last.
    #[must_use]
    pub fn sent_version(&self) -> Option<Version> {
        self.sent_version
    }

    /// Whether a resource of this name is wanted.
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// Whether the client was sent all of `set` that it wants, and told of all that is gone.
    #[must_use]
    pub fn is_current(&self, variant: Variant, set: &ResourceSet) -> bool {
        !self.is_due(variant, &self.difference(variant, set, false))
    }

    /// Whether something of `set` that the client wants was not sent.
    pub(super) fn lacks_something(&self, variant: Variant, set: &ResourceSet) -> bool {
        !self.difference(variant, set, true).changed.is_empty()
    }

    pub(super) fn nonce(&self) -> Option<u64> {
        self.nonce
    }

    /// Takes an answer; `None` if the push had one already.
    pub(super) fn answered(&mut self, refused: Option<&str>, now: Instant) -> Option<Outstanding> {
        let answered = self.outstanding.take()?;
        let version = answered.version;
        if let Some(reason) = refused {
            let mut names: BTreeSet<_> = answered.names.iter().cloned().collect();
            let mut before = answered.before.clone();
            if let Some(earlier) = self.nack.take() {
                names.extend(earlier.names);
                before = earlier.before;
            }
            self.nack = Some(Nack { version, at: now, reason: reason.to_owned(), names, before });
        } else {
            self.ack = Some(Ack { version, at: now });
            self.nack.take_if(|nack| nack.names.is_empty());
        }
        Some(answered)
    }

    /// All of the type is wanted, or no longer.
    pub(super) fn set_wildcard(&mut self, wildcard: bool) {
        if wildcard && !self.wildcard {
            self.answer_due = true;
            // Of the last set the client has no more than what it has named.
            let sent = self.sent.iter().map(|resource| resource.name());
            self.forced.extend(sent.filter(|name| !self.names.contains(*name)).cloned());
        }
        self.wildcard = wildcard;
    }

    /// `name` is wanted; if it was before, it is wanted again.
    pub(super) fn subscribe(&mut self, name: &str, set: &ResourceSet) {
        let name = set.get(name).map_or_else(|| name.into(), |resource| resource.name().clone());
        self.gone.remove(&name);
        self.forced.insert(name.clone());
        self.names.insert(name);
    }

    /// `name` is no longer wanted by itself; it may still be one of all that are wanted.
    pub(super) fn unsubscribe(&mut self, name: &str) {
        self.names.remove(name);
        if !self.wildcard {
            self.forced.remove(name);
            self.gone.remove(name);
            // What was refused matters no longer when none of it is wanted.
            self.nack.take_if(|nack| nack.names.remove(name) && nack.names.is_empty());
        }
    }

    /// The client has `name` at `version` from an earlier stream.
    pub(super) fn holds(&mut self, name: &str, version: &str, set: &ResourceSet) {
        if !self.wants(name) {
            return;
        }
        match set.get(name) {
            None => {
                self.forced.remove(name);
                self.gone.insert(name.into());
            }
            Some(resource) if Version::parse(version) == Some(resource.version()) => {
                self.forced.remove(name);
            }
            Some(resource) => {
                self.forced.insert(resource.name().clone());
            }
        }
    }

    /// Takes `set` for what the client has, but for what is forced and, of a wildcard, what it did not bring along.
    pub(super) fn resume(&mut self, set: &Arc<ResourceSet>, held: impl Fn(&str) -> bool) {
        if self.wildcard {
            self.forced.extend(set.iter().map(|resource| resource.name()).filter(|name| !held(name)).cloned());
        }
        self.sent = set.clone();
    }

    pub(super) fn force(&mut self, name: &str) {
        if self.wants(name) {
            self.forced.insert(name.into());
        }
    }

    pub(super) fn must_answer(&mut self) {
        self.answer_due = true;
    }

    pub(super) fn has_gone(&self) -> bool {
        !self.gone.is_empty()
    }

    /// What to send so that the client has all of `set` that it wants; what is gone stays with it if `keep_removed`.
    pub(super) fn push(
        &mut self,
        variant: Variant,
        set: &Arc<ResourceSet>,
        keep_removed: bool,
        nonce: u64,
        now: Instant,
    ) -> Option<Push> {
        let mut difference = self.difference(variant, set, keep_removed);
        if !self.is_due(variant, &difference) {
            return None;
        }
        if variant == Variant::Delta {
            self.add_refused(set, keep_removed, &mut difference);
        }
        let target = target(set, &difference.kept);
        let resources = if variant == Variant::Sotw && sends_full_state(self.ty) {
            target.iter().filter(|resource| self.wants(resource.name())).cloned().collect()
        } else {
            difference.changed.clone()
        };
        let version = target.version();
        self.forced.clear();
        self.gone.retain(|name| keep_removed && set.get(name).is_none());
        self.answer_due = false;
        let before = std::mem::replace(&mut self.sent, target);
        self.nonce = Some(nonce);
        self.sent_version = Some(version);
        let brings_something = !difference.changed.is_empty();
        let Difference { changed, removed, .. } = difference;
        let names: Vec<_> = changed.iter().map(|resource| resource.name().clone()).chain(removed.clone()).collect();
        if let Some(nack) = &mut self.nack {
            for name in &names {
                nack.names.remove(name);
            }
        }
        self.outstanding = Some(Outstanding { sent_at: now, version, names, brings_something, before });
        Some(Push { variant, ty: self.ty, version, nonce, resources, changed, removed })
    }

    /// Whether a difference is worth a push.
    fn is_due(&self, variant: Variant, difference: &Difference) -> bool {
        !difference.changed.is_empty()
            || (tells_what_is_gone(variant, self.ty) && (self.answer_due || !difference.removed.is_empty()))
    }

    fn difference(&self, variant: Variant, set: &ResourceSet, keep_removed: bool) -> Difference {
        let keep_removed = keep_removed && tells_what_is_gone(variant, self.ty);
        let mut difference = Difference::default();
        let changed = set.changed_since(&self.sent);
        let wanted = changed.iter().filter(|name| self.wants(name) && !self.forced.contains(*name));
        for name in wanted.chain(&self.forced) {
            match (set.get(name), self.sent.get(name)) {
                (Some(resource), _) => difference.changed.push(resource.clone()),
                (None, Some(held)) if keep_removed && !self.forced.contains(name) => difference.kept.push(held.clone()),
                (None, _) if variant == Variant::Sotw && self.ty == ResourceType::Endpoints => {
                    if self.forced.contains(name) {
                        difference.changed.push(no_endpoints(name));
                    }
                }
                (None, _) => difference.removed.push(name.clone()),
            }
        }
        if !keep_removed {
            difference.removed.extend(self.gone.iter().filter(|name| set.get(name).is_none()).cloned());
        }
        difference
    }

    /// Adds what was refused, so that the answer is about all there is: what is sent alone would be accepted, and hide that
    /// something else is not. In the other protocol a response has all anyway, or could fail for the good ones in it.
    fn add_refused(&self, set: &ResourceSet, keep_removed: bool, difference: &mut Difference) {
        let Some(nack) = &self.nack else { return };
        let changed = difference.changed.iter().map(|resource| resource.name());
        let known: BTreeSet<Arc<str>> = changed.chain(&difference.removed).cloned().collect();
        for name in nack.names.difference(&known) {
            match set.get(name) {
                Some(resource) => difference.changed.push(resource.clone()),
                // The client may still have what it had before.
                None if keep_removed => {}
                None => difference.removed.push(name.clone()),
            }
        }
    }
}

/// What a push is about.
#[derive(Debug, Default)]
struct Difference {
    changed: Vec<Arc<Resource>>,
    removed: Vec<Arc<str>>,
    /// Gone, but the client is not told yet.
    kept: Vec<Arc<Resource>>,
}

/// What stands for endpoints that do not exist, where a response cannot say so: a cluster that waits for them would warm until
/// its time is over, and hold up what comes after it.
fn no_endpoints(name: &Arc<str>) -> Arc<Resource> {
    let cluster_name = name.to_string();
    Arc::new(Resource::new(name.clone(), &ClusterLoadAssignment { cluster_name, ..ClusterLoadAssignment::default() }))
}

/// The set that the client has a part of after a push: what is kept of the last one stays in it.
fn target(set: &Arc<ResourceSet>, kept: &[Arc<Resource>]) -> Arc<ResourceSet> {
    if kept.is_empty() {
        return set.clone();
    }
    let mut target = ResourceSet::clone(set);
    kept.iter().for_each(|resource| target.insert(resource.clone()));
    Arc::new(target)
}

/// Whether a push can say that a resource is gone or never was.
fn tells_what_is_gone(variant: Variant, ty: ResourceType) -> bool {
    variant == Variant::Delta || sends_full_state(ty)
}

/// Types of which a state-of-the-world response holds all: what is absent from it is gone. Of the others it holds what changed.
fn sends_full_state(ty: ResourceType) -> bool {
    matches!(ty, ResourceType::Listener | ResourceType::Cluster)
}
