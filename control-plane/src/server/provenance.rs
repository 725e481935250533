//! From what proxies refuse, or have not taken yet, to the objects it was made of, and back.
//!
//! Owns what the author of an object is told. Must not know: what objects are.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::Shared;
use super::connections::{Connection, wall};
use super::session::{How, Session, Standing};
use crate::generate::{Generator, Origin};
use crate::resource::{Resource, ResourceType};

/// The objects that are likely why a client has refused something of a type.
pub(super) fn culprits<G: Generator>(world: &G, session: &Session, ty: ResourceType) -> Vec<Origin> {
    let refused = session.refused(ty);
    let of_one =
        |(resource, before): &(Arc<Resource>, Option<Arc<Resource>>)| world.origins(ty, resource, before.as_deref());
    let mut found: Vec<Origin> = refused.iter().flat_map(of_one).collect();
    found.sort();
    found.dedup();
    found
}

/// Who refuses what was made of an object, by the object.
pub(super) fn refusals<G: Generator>(world: &G, connections: &[Arc<Connection>]) -> BTreeMap<Arc<str>, Vec<Json>> {
    let mut found: BTreeMap<Arc<str>, Vec<Json>> = BTreeMap::new();
    for connection in connections {
        let session = connection.session();
        for ty in ResourceType::ALL {
            let Some(nack) = session.subscription(ty).and_then(|of| of.nack()) else { continue };
            for origin in culprits(world, &session, ty) {
                found.entry(origin.object).or_default().push(json!({
                    "proxy": connection.proxy.id,
                    "type": ty.short_name(),
                    "at": super::http::timestamp(wall(nack.at)),
                    "reason": nack.reason,
                }));
            }
        }
    }
    found
}

/// How proxies stand with an object, as people call it: which of those that have something of it run its newest state, and why the
/// others do not.
pub(super) fn object<G: Generator>(shared: &Shared<G>, called: &str) -> Json {
    let published = shared.cache.current();
    let connections = shared.connections.list();
    let proxies: Vec<Json> = connections.iter().filter_map(|of| concerned(of, published.sequence, called)).collect();
    json!({
        "object": called,
        "at": published.world.written_at(called),
        "sequence": published.sequence,
        "waiting": shared.is_waiting(),
        "proxies": proxies,
    })
}

/// How a stream stands with what was made of an object; `None`: it has and had nothing of it.
fn concerned(connection: &Connection, sequence: u64, called: &str) -> Option<Json> {
    let wanted = |resource: &Resource| resource.origins().iter().any(|origin| **origin == *called);
    let session = connection.session();
    let mut reasons = Vec::new();
    let mut resources = 0;
    for ty in ResourceType::ALL {
        let refused = session.subscription(ty).and_then(|of| of.nack()).map(|nack| nack.reason.as_str());
        for of in session.standing_of(ty, wanted) {
            resources += 1;
            reasons.extend(reason(ty, &of, refused));
        }
    }
    // What it is to get of the newest state is not known yet.
    let behind = connection.current() < sequence;
    if resources == 0 && !behind {
        return None;
    }
    if behind {
        reasons.push("the newest configuration is still made for it".to_owned());
    }
    Some(json!({
        "proxy": connection.proxy.id,
        "name": connection.proxy.name,
        "namespace": connection.proxy.namespace,
        "runs": reasons.is_empty(),
        "why": reasons,
    }))
}

/// Why a client does not run the newest state of a resource.
fn reason(ty: ResourceType, of: &Standing, refused: Option<&str>) -> Option<String> {
    let name = &of.name;
    Some(match of.how {
        How::Accepted | How::Absent => return None,
        How::Unanswered => format!("has not answered for {ty} {name}"),
        How::Waiting => format!("was not sent the newest {ty} {name} yet"),
        How::NotSent => format!("was not sent {ty} {name} yet"),
        How::Refused => format!("has refused {ty} {name}: {}", refused.unwrap_or_default()),
    })
}
