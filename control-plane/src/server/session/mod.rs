//! One xDS stream as a state machine, without input or output.
//!
//! Owns what the client is subscribed to, what it was sent and what it answered, and from these what to send next and when.
//! Must not know: gRPC, tasks, clocks (`now` is an argument), where resources come from.
//!
//! What it keeps to:
//! - At most one push of a type waits for its answer. What changes meanwhile is sent after it, in its newest state.
//! - Make before break: routes and listeners wait until the client has answered for the clusters they may refer to; a cluster is
//!   removed when the client has accepted the listeners and routes that no longer refer to it.
//! - A changed cluster is followed by its endpoints, changed or not, since Envoy warms it until they come again.
//! - What was refused is not sent again until it differs.

pub mod push;
mod request;
#[cfg(test)]
mod simulation;
mod subscription;
#[cfg(test)]
mod tests;

pub use push::Push;
pub use request::{Answer, Refused};
pub use subscription::standing::{How, Standing};
pub use subscription::{Ack, Nack, Subscription};

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use weft_proto::pb::envoy::config::cluster::v3::Cluster;

use crate::resource::{Resource, ResourceType, Resources};

/// How long listeners and routes wait for the answer to a push of clusters. Envoy withholds it while a cluster warms, at most
/// for its `initial_fetch_timeout`, 15 s by default; a client that never answers must not keep its old routes for ever.
pub const CLUSTERS_GRACE: Duration = Duration::from_secs(20);

/// How long clusters that are gone stay with a client that is about to subscribe to what may refer to them: to routes after it
/// has got listeners, to everything after it has reconnected. From then on those subscriptions hold the removal back.
pub const SUBSCRIBE_GRACE: Duration = Duration::from_secs(1);

/// Which of the two protocols a stream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// State of the world: `Stream…`.
    Sotw,
    /// Incremental: `Delta…`.
    Delta,
}

/// The state of a stream.
#[derive(Debug)]
pub struct Session {
    variant: Variant,
    subscriptions: [Option<Subscription>; ResourceType::ALL.len()],
    resources: Resources,
    /// Counts pushes; a nonce is its value.
    pushes: u64,
    /// Until when no cluster is removed.
    removals_from: Option<Instant>,
}

impl Session {
    /// A stream on which nothing was said yet.
    #[must_use]
    pub fn new(variant: Variant, resources: Resources) -> Self {
        Self { variant, subscriptions: Default::default(), resources, pushes: 0, removals_from: None }
    }

    /// The protocol of the stream.
    #[must_use]
    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// What the client may have.
    #[must_use]
    pub fn resources(&self) -> &Resources {
        &self.resources
    }

    /// The subscription to a type, if the client has asked for the type.
    #[must_use]
    pub fn subscription(&self, ty: ResourceType) -> Option<&Subscription> {
        self.subscriptions[ty as usize].as_ref()
    }

    /// Replaces what the client may have. What it was not sent of the state before, it never is.
    pub fn update(&mut self, resources: Resources) {
        self.resources = resources;
    }

    /// The next push, if something is to be sent and nothing forbids it now. The caller must send it.
    pub fn next_push(&mut self, now: Instant) -> Option<Push> {
        ResourceType::ALL.into_iter().find_map(|ty| self.push_of(ty, now))
    }

    fn push_of(&mut self, ty: ResourceType, now: Instant) -> Option<Push> {
        let subscription = self.subscription(ty)?;
        if subscription.outstanding().is_some() || (waits_for_clusters(ty) && self.clusters_awaited(now)) {
            return None;
        }
        let keep_removed = self.keep_removed(ty, now);
        let nonce = self.pushes + 1;
        let set = self.resources.get(ty);
        let push = self.subscriptions[ty as usize].as_mut()?.push(self.variant, set, keep_removed, nonce, now)?;
        self.pushes = nonce;
        if ty == ResourceType::Cluster
            && let Some(endpoints) = &mut self.subscriptions[ResourceType::Endpoints as usize]
        {
            push.changed.iter().filter_map(|cluster| eds_name(cluster)).for_each(|name| endpoints.force(&name));
        }
        Some(push)
    }

    /// When to ask for [`Self::next_push`] again though nothing has happened.
    #[must_use]
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let clusters = self.awaited_clusters().map(|sent| sent + CLUSTERS_GRACE);
        [clusters, self.removals_from].into_iter().flatten().filter(|at| *at > now).min()
    }

    /// Whether the client has all it may have of what it asked for, and has accepted it.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        ResourceType::ALL.into_iter().all(|ty| self.is_settled(ty))
    }

    /// Whether the client has all it may have of a type, and has accepted it; also if it has not asked for the type.
    #[must_use]
    pub fn is_settled(&self, ty: ResourceType) -> bool {
        self.subscription(ty).is_none_or(|subscription| {
            let set = self.resources.get(ty);
            subscription.outstanding().is_none()
                && !subscription.is_refused(set)
                && subscription.is_current(self.variant, set)
        })
    }

    /// Since when clusters are new, or wait to be sent, that the client has not answered for.
    fn awaited_clusters(&self) -> Option<Instant> {
        let clusters = self.subscription(ResourceType::Cluster)?;
        let outstanding = clusters.outstanding()?;
        let set = self.resources.get(ResourceType::Cluster);
        (outstanding.brings_something || clusters.lacks_something(self.variant, set)).then_some(outstanding.sent_at)
    }

    fn clusters_awaited(&self, now: Instant) -> bool {
        self.awaited_clusters().is_some_and(|sent| now < sent + CLUSTERS_GRACE)
    }

    /// Whether what is gone of a type is still referred to by what the client has.
    fn keep_removed(&self, ty: ResourceType, now: Instant) -> bool {
        use ResourceType::{Cluster, Endpoints, Extension, Listener, Route, Secret, VirtualHost};
        let unsettled = |types: &[ResourceType]| !types.iter().all(|ty| self.is_settled(*ty));
        match ty {
            Cluster => {
                self.removals_from.is_some_and(|from| now < from)
                    || unsettled(&[Listener, Route, VirtualHost, Extension])
            }
            Endpoints => unsettled(&[Cluster]),
            Route | Extension => unsettled(&[Listener]),
            VirtualHost => unsettled(&[Route]),
            Secret => unsettled(&[Cluster, Listener]),
            // A new listener may have the address of one that is gone, and is refused while that is there.
            Listener => false,
        }
    }
}

/// Types that refer to clusters.
fn waits_for_clusters(ty: ResourceType) -> bool {
    use ResourceType::{Extension, Listener, Route, VirtualHost};
    matches!(ty, Listener | Route | VirtualHost | Extension)
}

/// The name by which a cluster subscribes to its endpoints, if it does.
fn eds_name(cluster: &Resource) -> Option<Arc<str>> {
    let cluster: Cluster = prost::Message::decode(cluster.message()).ok()?;
    let eds = cluster.eds_cluster_config?;
    Some(if eds.service_name.is_empty() { cluster.name } else { eds.service_name }.into())
}
