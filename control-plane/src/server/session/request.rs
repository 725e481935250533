//! What clients say: subscriptions and answers.
//!
//! Owns the rules of both protocols for requests. Must not know: what is sent.

use std::time::Duration;

use tokio::time::Instant;
use weft_proto::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use weft_proto::pb::google::rpc::Status;

use super::{SUBSCRIBE_GRACE, Session, Subscription};
use crate::resource::{ResourceType, Version};

/// The name that stands for all resources.
const WILDCARD: &str = "*";
/// How many names a client may ask for of one type, so that none can fill the memory.
const MAX_NAMES: usize = 200_000;
/// The longest name that is taken.
const MAX_NAME_BYTES: usize = 4096;
/// How much of a client's reason for a refusal is kept: Envoy puts whole resources into it.
const MAX_REASON_BYTES: usize = 8192;

/// What a request answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The type of the push.
    pub ty: ResourceType,
    /// The state that was sent.
    pub version: Version,
    /// How long it took.
    pub took: Duration,
    /// Why it was refused, if it was.
    pub nack: Option<String>,
}

/// Why a stream ends: the client breaks the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It answers what it was not sent.
    #[error("response_nonce {nonce:?} of {ty} was never sent on this stream; answer with the nonce of the response")]
    Nonce {
        /// What it said.
        nonce: String,
        /// About what.
        ty: ResourceType,
    },
    /// It asks for too much.
    #[error("more than {MAX_NAMES} names of {0} are subscribed to; use the wildcard *, or fewer names")]
    Names(ResourceType),
    /// A name is too long.
    #[error("a resource name of {1} with {0} bytes; at most {MAX_NAME_BYTES} are taken")]
    LongName(usize, ResourceType),
}

impl Session {
    /// A request in the state-of-the-world protocol.
    ///
    /// # Errors
    /// When the client breaks the protocol.
    pub fn sotw_request(
        &mut self,
        ty: ResourceType,
        request: &DiscoveryRequest,
        now: Instant,
    ) -> Result<Option<Answer>, Refused> {
        check_names(ty, &request.resource_names)?;
        let first = self.subscription(ty).is_none();
        let mut answer = None;
        // What a client answers in its first request was sent on another stream.
        if !first && !request.response_nonce.is_empty() {
            match self.answer(ty, &request.response_nonce, request.error_detail.as_ref(), now)? {
                // Its answer to the newest push will name what it wants by then.
                Nonce::Stale => return Ok(None),
                Nonce::Newest(found) => answer = found,
            }
        }
        let set = self.resources.get(ty).clone();
        let subscription = self.subscriptions[ty as usize].get_or_insert_with(|| Subscription::new(ty));
        let implied = request.resource_names.is_empty()
            && may_be_implied(ty)
            && (first || (subscription.is_wildcard() && subscription.names().is_empty()));
        subscription.set_wildcard(implied || request.resource_names.iter().any(|name| name == WILDCARD));
        let names = || request.resource_names.iter().filter(|name| *name != WILDCARD);
        let wanted: std::collections::HashSet<&str> = names().map(String::as_str).collect();
        let unwanted: Vec<_> = subscription.names().iter().filter(|name| !wanted.contains(&***name)).cloned().collect();
        unwanted.iter().for_each(|name| subscription.unsubscribe(name));
        for name in wanted {
            if !subscription.names().contains(name) {
                subscription.subscribe(name, &set);
                subscription.must_answer();
            }
        }
        Ok(answer)
    }

    /// A request in the incremental protocol.
    ///
    /// # Errors
    /// When the client breaks the protocol.
    pub fn delta_request(
        &mut self,
        ty: ResourceType,
        request: &DeltaDiscoveryRequest,
        now: Instant,
    ) -> Result<Option<Answer>, Refused> {
        check_names(ty, &request.resource_names_subscribe)?;
        let first = self.subscription(ty).is_none();
        let mut answer = None;
        if !first && !request.response_nonce.is_empty() {
            // Subscriptions are changes here, so they count whatever was answered.
            if let Nonce::Newest(found) =
                self.answer(ty, &request.response_nonce, request.error_detail.as_ref(), now)?
            {
                answer = found;
            }
        }
        let set = self.resources.get(ty).clone();
        let subscription = self.subscriptions[ty as usize].get_or_insert_with(|| Subscription::new(ty));
        if first && request.resource_names_subscribe.is_empty() && may_be_implied(ty) {
            subscription.set_wildcard(true);
        }
        for name in &request.resource_names_subscribe {
            if name == WILDCARD {
                subscription.set_wildcard(true);
            } else {
                subscription.subscribe(name, &set);
            }
        }
        for name in &request.resource_names_unsubscribe {
            if name == WILDCARD {
                subscription.set_wildcard(false);
            } else {
                subscription.unsubscribe(name);
                // Whether it is one of all that are wanted is for the server to say.
                subscription.force(name);
            }
        }
        if subscription.names().len() > MAX_NAMES {
            return Err(Refused::Names(ty));
        }
        if first && !request.initial_resource_versions.is_empty() {
            let held = &request.initial_resource_versions;
            subscription.resume(&set, |name| held.contains_key(name));
            held.iter().for_each(|(name, version)| subscription.holds(name, version, &set));
            if ty == ResourceType::Cluster && subscription.has_gone() {
                self.removals_from = Some(now + SUBSCRIBE_GRACE);
            }
        }
        Ok(answer)
    }

    fn answer(
        &mut self,
        ty: ResourceType,
        nonce: &str,
        error: Option<&Status>,
        now: Instant,
    ) -> Result<Nonce, Refused> {
        let refused = || Refused::Nonce { nonce: nonce.chars().take(64).collect(), ty };
        let number =
            nonce.parse::<u64>().ok().filter(|number| (1..=self.pushes).contains(number)).ok_or_else(refused)?;
        let subscription = self.subscriptions[ty as usize].as_mut().ok_or_else(refused)?;
        if subscription.nonce() != Some(number) {
            return Ok(Nonce::Stale);
        }
        let nack = error.map(|status| shorten(&status.message));
        // Envoy repeats a request with the nonce that it has answered already.
        let Some(answered) = subscription.answered(nack.as_deref(), now) else { return Ok(Nonce::Newest(None)) };
        if ty == ResourceType::Listener && answered.brings_something {
            self.removals_from = Some(now + SUBSCRIBE_GRACE);
        }
        let took = now.duration_since(answered.sent_at);
        Ok(Nonce::Newest(Some(Answer { ty, version: answered.version, took, nack })))
    }
}

/// Which push a request answers.
enum Nonce {
    /// An earlier one of the type.
    Stale,
    /// The last one of the type; the answer, unless it was answered before.
    Newest(Option<Answer>),
}

/// Types of which a first request without names asks for all.
fn may_be_implied(ty: ResourceType) -> bool {
    matches!(ty, ResourceType::Listener | ResourceType::Cluster)
}

fn check_names(ty: ResourceType, names: &[String]) -> Result<(), Refused> {
    if names.len() > MAX_NAMES {
        return Err(Refused::Names(ty));
    }
    match names.iter().map(String::len).max() {
        Some(longest) if longest > MAX_NAME_BYTES => Err(Refused::LongName(longest, ty)),
        _ => Ok(()),
    }
}

fn shorten(reason: &str) -> String {
    if reason.len() <= MAX_REASON_BYTES {
        return reason.to_owned();
    }
    format!("{}…", &reason[..reason.floor_char_boundary(MAX_REASON_BYTES)])
}
