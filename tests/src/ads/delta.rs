//! Delta.

use std::collections::BTreeMap;

use prost::Message;
use weft_proto::pb::envoy::service::discovery::v3::{self as pb, DeltaDiscoveryRequest, DeltaDiscoveryResponse};

use super::{Out, Resource, Seen, Served, Stream};

/// A request; answers it where there is something new to say.
pub(super) fn received(stream: &mut Stream, all: &BTreeMap<String, Served>, message: &[u8]) -> Option<Seen> {
    let r = DeltaDiscoveryRequest::decode(message).ok()?;
    let first = !stream.subscriptions.contains_key(&r.type_url);
    let subscription = stream.subscriptions.entry(r.type_url.clone()).or_default();
    if first {
        subscription.wildcard = r.resource_names_subscribe.is_empty();
        subscription.sent.extend(r.initial_resource_versions.clone());
    }
    subscription.wildcard |= r.resource_names_subscribe.iter().any(|n| n == "*");
    subscription.names.extend(r.resource_names_subscribe.iter().cloned());
    for name in &r.resource_names_unsubscribe {
        subscription.names.remove(name);
        subscription.sent.remove(name);
    }
    if !first {
        // Whoever subscribes again does not have it.
        r.resource_names_subscribe.iter().for_each(|n| drop(subscription.sent.remove(n)));
    }
    let seen = Seen {
        type_url: r.type_url.clone(),
        nonce: r.response_nonce,
        names: r.resource_names_subscribe,
        unsubscribed: r.resource_names_unsubscribe,
        initial: r.initial_resource_versions.into_iter().collect(),
        error: r.error_detail.map(|e| e.message),
        node: r.node.map(|n| n.id),
        ..Seen::default()
    };
    if let Some(served) = all.get(&r.type_url).filter(|s| s.known && !s.withheld)
        && (first || !seen.names.is_empty())
    {
        push(stream, &r.type_url, served, false);
    }
    Some(seen)
}

/// The version of a resource: what it holds.
fn version(r: &Resource) -> String {
    let bytes = r.body.as_ref().map(|b| b.value.as_slice()).unwrap_or_default();
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

/// Sends what changed of a type, if it was asked for; `again`: everything.
pub(super) fn push(stream: &mut Stream, type_url: &str, served: &Served, again: bool) {
    let nonce = stream.next_nonce(&served.version);
    let Some(subscription) = stream.subscriptions.get_mut(type_url) else { return };
    let wanted = |r: &&Resource| {
        subscription.wildcard || r.aliases.iter().chain([&r.name]).any(|name| subscription.names.contains(name))
    };
    let mut resources = Vec::new();
    let mut sent = BTreeMap::new();
    for r in served.resources.values().filter(wanted) {
        let version = version(r);
        if again || r.copy > 0 || r.body.is_none() || subscription.sent.get(&r.name) != Some(&version) {
            resources.push(pb::Resource {
                name: r.name.clone(),
                version: version.clone(),
                resource: r.body.clone(),
                ttl: r.ttl,
                aliases: r.aliases.clone(),
                ..pb::Resource::default()
            });
        }
        sent.insert(r.name.clone(), version);
    }
    let removed: Vec<_> = subscription.sent.keys().filter(|n| !sent.contains_key(*n)).cloned().collect();
    // A first answer may be empty: it says that there is nothing.
    let first = subscription.answered.is_none();
    if resources.is_empty() && removed.is_empty() && !first {
        return;
    }
    subscription.answered = Some(subscription.names.clone());
    subscription.sent = sent;
    let response = DeltaDiscoveryResponse {
        system_version_info: served.version.clone(),
        resources,
        type_url: type_url.to_owned(),
        removed_resources: removed,
        nonce,
        ..DeltaDiscoveryResponse::default()
    };
    let _gone = stream.out.send(Out::Message(response.encode_to_vec()));
}
