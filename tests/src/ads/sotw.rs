//! State of the world.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use weft_proto::any::pack;
use weft_proto::pb::envoy::service::discovery::v3::{self as pb, DiscoveryRequest, DiscoveryResponse};

use super::{Out, Seen, Served, Stream, Subscription};

/// A request; answers it where there is something new to say.
pub(super) fn received(stream: &mut Stream, all: &BTreeMap<String, Served>, message: &[u8]) -> Option<Seen> {
    let r = DiscoveryRequest::decode(message).ok()?;
    let subscription = stream.subscriptions.entry(r.type_url.clone()).or_default();
    subscription.names = r.resource_names.iter().cloned().collect();
    subscription.wildcard = r.resource_names.is_empty() || r.resource_names.iter().any(|n| n == "*");
    let seen = Seen {
        type_url: r.type_url.clone(),
        version: r.version_info,
        nonce: r.response_nonce,
        names: r.resource_names,
        error: r.error_detail.map(|e| e.message),
        node: r.node.map(|n| n.id),
        ..Seen::default()
    };
    if let Some(served) = all.get(&r.type_url).filter(|s| s.known && !s.withheld) {
        let more = subscription.answered.as_ref() != Some(&subscription.names);
        if (more || subscription.version != served.version) && seen.error.is_none() {
            push(stream, &r.type_url, served);
        }
    }
    Some(seen)
}

fn wants(s: &Subscription, name: &str) -> bool {
    s.wildcard || s.names.contains(name)
}

/// Sends a type, if it was asked for.
pub(super) fn push(stream: &mut Stream, type_url: &str, served: &Served) {
    let nonce = stream.next_nonce(&served.version);
    let Some(subscription) = stream.subscriptions.get_mut(type_url) else { return };
    let wanted = served.resources.values().filter(|r| wants(subscription, &r.name));
    let resources = wanted.map(|r| match (&r.body, &r.ttl) {
        (Some(body), None) => body.clone(),
        (body, ttl) => {
            pack(&pb::Resource { name: r.name.clone(), resource: body.clone(), ttl: *ttl, ..pb::Resource::default() })
        }
    });
    let response = DiscoveryResponse {
        version_info: served.version.clone(),
        resources: resources.collect(),
        type_url: type_url.to_owned(),
        nonce,
        ..DiscoveryResponse::default()
    };
    let answered: BTreeSet<String> = subscription.names.clone();
    subscription.answered = Some(answered);
    subscription.version.clone_from(&served.version);
    let _gone = stream.out.send(Out::Message(response.encode_to_vec()));
}
