//! What a response says: resources with their names and versions, of either variant of the protocol and of files.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use weft_proto::pb::envoy::service::discovery::v3::DiscoveryResponse;
use weft_proto::pb::google::protobuf::Any;

use super::sotw;
use crate::xds::kind::{Kind, resource_name};

/// A response.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// Of what.
    pub kind: Kind,
    /// Its version as the server calls it.
    pub version: String,
    /// To be answered with.
    pub nonce: String,
    /// Resources that are new or changed.
    pub resources: Vec<Resource>,
    /// Names of those that are gone (delta).
    pub removed: Vec<String>,
    /// Names of virtual hosts that do not exist: an answer to who asked for them.
    pub absent: Vec<String>,
    /// `resources` are all there are: others are gone.
    pub complete: bool,
    /// What is wrong with the response itself.
    pub problems: Vec<String>,
}

impl Update {
    /// What a file holds.
    pub fn of_file(kind: Kind, response: &DiscoveryResponse) -> Update {
        let mut update = Update {
            kind,
            version: response.version_info.clone(),
            nonce: String::new(),
            resources: Vec::with_capacity(response.resources.len()),
            removed: Vec::new(),
            absent: Vec::new(),
            complete: kind.is_whole(),
            problems: Vec::new(),
        };
        // Nobody renews what a file says.
        update.add(response.resources.iter().cloned().map(sotw::wrapped).collect(), |_| {});
        update
    }

    /// Adds resources as they came; `lives` is told how long each of them does.
    pub(super) fn add(&mut self, resources: Vec<Wrapped>, mut lives: impl FnMut(&Life)) {
        let mut seen = BTreeSet::new();
        for (i, mut wrapped) in resources.into_iter().enumerate() {
            if self.kind == Kind::VirtualHost && wrapped.body.is_none() {
                self.absent.append(&mut wrapped.aliases);
                self.absent.push(wrapped.name);
                continue;
            }
            let (resource, life) = match wrapped.open(self.kind, &self.version) {
                Ok(opened) => opened,
                Err(problem) => {
                    self.problems.push(format!("resources[{i}]: {problem}"));
                    continue;
                }
            };
            lives(&life);
            match resource {
                // A sign of life: nothing changed.
                None => self.complete = false,
                Some(r) if !seen.insert(r.name.clone()) => {
                    self.problems.push(format!("{}: duplicate resource {} found", r.name, r.name));
                }
                Some(r) => self.resources.push(r),
            }
        }
    }
}

/// A resource of a response.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// Name.
    pub name: String,
    /// Its own version, or the response's.
    pub version: String,
    /// Other names that it answers for.
    pub aliases: Vec<String>,
    /// The message.
    pub body: Any,
    /// When the server said so, if that was before this process began; absent: now.
    pub said: Option<SystemTime>,
    /// Of a resource said before: the server knows that we hold it.
    pub held: bool,
}

/// What an answer needs to know of the response it is for.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    /// Of what.
    pub kind: Kind,
    /// The response's version.
    pub version: String,
    /// The response's nonce.
    pub nonce: String,
    /// Resources with their versions, to be named after a reconnect.
    pub used: Vec<(String, String)>,
    /// Resources that are gone.
    pub removed: Vec<String>,
}

impl From<&Update> for Answered {
    fn from(update: &Update) -> Self {
        Answered {
            kind: update.kind,
            version: update.version.clone(),
            nonce: update.nonce.clone(),
            used: update.resources.iter().map(|r| (r.name.clone(), r.version.clone())).collect(),
            removed: update.removed.clone(),
        }
    }
}

/// A response of either variant.
pub(super) struct Decoded {
    pub(super) type_url: String,
    pub(super) version: String,
    pub(super) update_nonce: String,
    pub(super) resources: Vec<Wrapped>,
    pub(super) removed: Vec<String>,
    pub(super) control_plane: Option<String>,
}

/// A resource as it came; alone, it has but its body.
#[derive(Default)]
pub(super) struct Wrapped {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) aliases: Vec<String>,
    pub(super) ttl: Option<weft_proto::pb::google::protobuf::Duration>,
    pub(super) body: Option<Any>,
}

impl From<weft_proto::pb::envoy::service::discovery::v3::Resource> for Wrapped {
    fn from(r: weft_proto::pb::envoy::service::discovery::v3::Resource) -> Self {
        Wrapped { name: r.name, version: r.version, aliases: r.aliases, ttl: r.ttl, body: r.resource }
    }
}

/// A time to live, and whose it is.
pub(super) struct Life {
    pub(super) name: String,
    pub(super) ttl: Option<Duration>,
}

impl Wrapped {
    /// The resource (none: only a sign of life) and how long it lives.
    fn open(self, kind: Kind, version: &str) -> Result<(Option<Resource>, Life), String> {
        let Wrapped { name: named, version: own, aliases, ttl, body } = self;
        let ttl = ttl.and_then(|ttl| weft_proto::wkt::duration(&ttl).ok());
        let version = if own.is_empty() { version.to_owned() } else { own };
        let Some(body) = body else { return Ok((None, Life { name: named, ttl })) };
        if Kind::of(&body.type_url) != Some(kind) {
            return Err(format!("type URL {} does not match expected type {}", body.type_url, kind.type_url()));
        }
        let Some(own) = resource_name(&body.value) else {
            return Err(format!("cannot be decoded as {}", kind.type_url()));
        };
        let name = if kind == Kind::VirtualHost && !named.is_empty() {
            named
        } else if !named.is_empty() && !own.is_empty() && named != own {
            return Err(format!("'{named}' holds a resource of another name: '{own}'"));
        } else if own.is_empty() {
            named
        } else {
            own
        };
        Ok((Some(Resource { name: name.clone(), version, aliases, body, said: None, held: false }), Life { name, ttl }))
    }
}
