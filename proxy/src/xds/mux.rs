//! One stream of discovery, without input or output: what to ask for, what an answer means, what to answer.
//!
//! A [`Mux`] knows what is subscribed to, by kind, and what the server was told on this stream. Messages go in as bytes and come
//! out as bytes; requests are made when they are taken ([`Mux::next_request`]), so that changes that happen together become one
//! request, and nothing waits in a queue but the names of kinds. Both variants of the protocol are here: state of the world and
//! delta differ in how a request is made and what an answer holds. Must not know: what resources mean, and who carries bytes.

mod delta;
mod sotw;
#[cfg(test)]
mod tests;
mod update;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tokio::time::Instant;
use weft_proto::pb::envoy::config::core::v3::Node;
use weft_proto::pb::google::rpc::Status;

use super::kind::Kind;
pub use update::{Answered, Resource, Update};
use update::{Decoded, Wrapped};

/// gRPC's INTERNAL: what Envoy says in every NACK.
const NACK_CODE: i32 = 13;
/// The name that means all of a kind.
const ALL: &str = "*";
/// Bounds the text of a NACK: it travels with every resource that was wrong.
const MAX_NACK_TEXT: usize = 4096;

/// A stream.
pub struct Mux {
    delta: bool,
    node: Node,
    node_on_first_only: bool,
    kinds: BTreeMap<Kind, Subscription>,
    /// Kinds that were subscribed to, first ones first: a new stream asks in this order.
    order: Vec<Kind>,
    /// Kinds with something to say.
    queue: VecDeque<Kind>,
    connected: bool,
    /// Nothing was said on this stream yet.
    silent: bool,
    control_plane: String,
}

/// What is known of one kind.
#[derive(Default)]
struct Subscription {
    names: BTreeSet<String>,
    wildcard: bool,
    /// Its requests are held back.
    held: bool,
    /// It was asked for on this stream.
    asked: bool,
    /// An answer to the last response.
    answer: Option<Answer>,
    /// Last nonce of this stream.
    nonce: String,
    /// Version of the last response accepted as a whole (state of the world).
    version: String,
    /// Versions of what is held (delta).
    versions: BTreeMap<String, String>,
    /// Names that the server is still to be told of (delta).
    subscribe: BTreeSet<String>,
    /// Names that it is still to be told not to send (delta).
    unsubscribe: BTreeSet<String>,
    /// Names that it was told of and is to be told of again (delta).
    again: BTreeSet<String>,
    expiry: BTreeMap<String, Instant>,
    /// Names that the server says not to exist (delta).
    absent: BTreeSet<String>,
}

struct Answer {
    nonce: String,
    error: Option<Status>,
}

/// What a message was.
#[derive(Debug, Clone, PartialEq)]
pub enum Received {
    /// A response; to be answered by [`Mux::answer`].
    Update(Update),
    /// Nothing for us, and why.
    Ignored(String),
}

/// The server does not speak the protocol: the stream is to be closed.
#[derive(Debug, thiserror::Error)]
#[error("undecodable message: {0}")]
pub struct Undecodable(#[from] prost::DecodeError);

impl Mux {
    /// A stream that is not connected.
    pub fn new(delta: bool, node: Node, node_on_first_only: bool) -> Self {
        Mux {
            delta,
            node,
            node_on_first_only,
            kinds: BTreeMap::new(),
            order: Vec::new(),
            queue: VecDeque::new(),
            connected: false,
            silent: true,
            control_plane: String::new(),
        }
    }

    fn of(&mut self, kind: Kind) -> &mut Subscription {
        if !self.order.contains(&kind) {
            self.order.push(kind);
        }
        self.kinds.entry(kind).or_default()
    }

    fn say(&mut self, kind: Kind) {
        if self.connected && !self.queue.contains(&kind) {
            self.queue.push_back(kind);
        }
    }

    /// Subscribes to all of a kind.
    pub fn watch_all(&mut self, kind: Kind) {
        let delta = self.delta;
        let s = self.of(kind);
        if !std::mem::replace(&mut s.wildcard, true) {
            // Where it was asked for by name before, it has to be said.
            if delta && s.asked && !s.unsubscribe.remove(ALL) {
                s.subscribe.insert(ALL.to_owned());
            }
            self.say(kind);
        }
    }

    /// Subscribes to a resource.
    pub fn watch(&mut self, kind: Kind, name: &str) {
        let delta = self.delta;
        let s = self.of(kind);
        if s.names.insert(name.to_owned()) {
            if delta && !s.unsubscribe.remove(name) {
                s.subscribe.insert(name.to_owned());
            }
            self.say(kind);
        }
    }

    /// Subscribes to a resource, and asks for it once more where it is subscribed to: somebody needs it now. State of the world
    /// knows no such question.
    pub fn demand(&mut self, kind: Kind, name: &str) {
        let delta = self.delta;
        let s = self.of(kind);
        if delta && s.names.contains(name) && !s.subscribe.contains(name) {
            s.again.insert(name.to_owned());
            self.say(kind);
        }
        self.watch(kind, name);
    }

    /// No longer subscribes to all of a kind.
    pub fn unwatch_all(&mut self, kind: Kind) {
        let delta = self.delta;
        let s = self.of(kind);
        if std::mem::replace(&mut s.wildcard, false) && s.asked {
            if delta {
                s.unsubscribe.insert(ALL.to_owned());
            }
            self.say(kind);
        }
    }

    /// No longer subscribes to a resource.
    pub fn unwatch(&mut self, kind: Kind, name: &str) {
        let delta = self.delta;
        let s = self.of(kind);
        s.versions.remove(name);
        s.expiry.remove(name);
        s.again.remove(name);
        s.absent.remove(name);
        if s.names.remove(name) {
            if delta && !s.subscribe.remove(name) {
                s.unsubscribe.insert(name.to_owned());
            }
            self.say(kind);
        }
    }

    /// Asks for a resource once more: it is needed although nothing about the subscription changed. Delta knows no such question, so
    /// the server has to know by itself; but a stream that begins meanwhile does not say that it is here.
    pub fn ask_again(&mut self, kind: Kind, name: &str) {
        let Some(s) = self.kinds.get_mut(&kind) else { return };
        if self.delta {
            s.versions.remove(name);
        } else if s.asked {
            self.say(kind);
        }
    }

    /// Whether anything of a kind is subscribed to.
    pub fn watches(&self, kind: Kind) -> bool {
        self.kinds.get(&kind).is_some_and(|s| s.wildcard || !s.names.is_empty())
    }

    /// Resources of a kind that are subscribed to by name.
    pub fn names(&self, kind: Kind) -> impl Iterator<Item = &str> {
        self.kinds.get(&kind).into_iter().flat_map(|s| &s.names).map(String::as_str)
    }

    /// Whether all of a kind is subscribed to.
    pub fn watches_all(&self, kind: Kind) -> bool {
        self.kinds.get(&kind).is_some_and(|s| s.wildcard)
    }

    /// Whether a resource is subscribed to, by one of its names or with all; one that came `on_demand` only by name.
    pub fn wants(&self, kind: Kind, name: &str, aliases: &[String], on_demand: bool) -> bool {
        let named = |s: &Subscription| s.names.contains(name) || aliases.iter().any(|alias| s.names.contains(alias));
        self.kinds.get(&kind).is_some_and(|s| (s.wildcard && !on_demand) || named(s))
    }

    /// Resources that are here although this stream did not bring them: a server of the delta protocol is told so by the next
    /// stream. One of the state of the world is not, for there a version means a whole kind.
    pub fn holds(&mut self, kind: Kind, versions: Vec<(String, String)>) {
        if self.delta {
            self.of(kind).versions.extend(versions);
        }
    }

    /// The version of a resource that a server of the delta protocol knows to be here.
    pub fn version(&self, kind: Kind, name: &str) -> Option<&String> {
        self.kinds.get(&kind)?.versions.get(name)
    }

    /// Whether the server has said that there is no such resource.
    pub fn is_absent(&self, kind: Kind, name: &str) -> bool {
        self.kinds.get(&kind).is_some_and(|s| s.absent.contains(name))
    }

    /// Whether a resource has a time to live.
    pub fn is_mortal(&self, kind: Kind, name: &str) -> bool {
        self.kinds.get(&kind).is_some_and(|s| s.expiry.contains_key(name))
    }

    /// Whether it speaks delta.
    pub fn is_delta(&self) -> bool {
        self.delta
    }

    /// Holds requests of a kind back, answers too, or lets them go. The first of a stream goes all the same, or answers for what
    /// depends on this kind would overtake its own; and, by delta, names that are added: somebody waits for them.
    pub fn hold(&mut self, kind: Kind, held: bool) {
        if let Some(s) = self.kinds.get_mut(&kind) {
            s.held = held;
        }
    }

    /// There is a stream: everything subscribed to is asked for.
    pub fn connected(&mut self) {
        self.disconnected();
        self.connected = true;
        for kind in self.order.clone() {
            if self.watches(kind) {
                self.say(kind);
            }
        }
    }

    /// The stream is gone. What was accepted stays known.
    pub fn disconnected(&mut self) {
        (self.connected, self.silent) = (false, true);
        self.queue.clear();
        for s in self.kinds.values_mut() {
            (s.asked, s.answer) = (false, None);
            s.nonce.clear();
            s.unsubscribe.clear();
            s.again.clear();
            if self.delta {
                s.subscribe.clone_from(&s.names);
            }
        }
    }

    /// Whether there is a stream.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Who the server says it is.
    pub fn control_plane(&self) -> &str {
        &self.control_plane
    }

    /// Whether [`Mux::next_request`] has something.
    pub fn has_next(&self) -> bool {
        self.queue.iter().any(|kind| self.may_speak(*kind))
    }

    fn may_speak(&self, kind: Kind) -> bool {
        let added = |s: &Subscription| !(s.subscribe.is_empty() && s.again.is_empty());
        self.kinds.get(&kind).is_some_and(|s| !s.held || !s.asked || (self.delta && added(s)))
    }

    /// The next request.
    pub fn next_request(&mut self) -> Option<Vec<u8>> {
        loop {
            let at = self.queue.iter().position(|kind| self.may_speak(*kind))?;
            let kind = self.queue.remove(at)?;
            let s = self.kinds.get_mut(&kind)?;
            if s.held && s.asked {
                // What else there is to say comes when it is let go.
                self.queue.push_back(kind);
            }
            let node = (self.silent || !self.node_on_first_only).then(|| self.node.clone());
            let request = if self.delta { delta::request(kind, s, node) } else { sotw::request(kind, s, node) };
            if let Some(request) = request {
                (s.asked, self.silent) = (true, false);
                return Some(request);
            }
        }
    }

    /// A message from the server.
    ///
    /// # Errors
    /// It is none of the protocol.
    pub fn received(&mut self, message: &[u8], now: Instant) -> Result<Received, Undecodable> {
        let decoded = if self.delta { delta::response(message)? } else { sotw::response(message)? };
        if let Some(id) = decoded.control_plane {
            self.control_plane = id;
        }
        let Some(kind) = Kind::of(&decoded.type_url) else {
            return Ok(Received::Ignored(format!("unknown type URL '{}'", decoded.type_url)));
        };
        let Some(s) = self.kinds.get_mut(&kind).filter(|s| s.asked) else {
            return Ok(Received::Ignored(format!("nobody asked for {}", decoded.type_url)));
        };
        s.nonce.clone_from(&decoded.update_nonce);
        let mut update = Update {
            kind,
            version: decoded.version,
            nonce: decoded.update_nonce,
            resources: Vec::with_capacity(decoded.resources.len()),
            removed: decoded.removed,
            absent: Vec::new(),
            complete: !self.delta && kind.is_whole(),
            problems: Vec::new(),
        };
        update.add(decoded.resources, |life| s.lives_until(&life.name, life.ttl.map(|ttl| now + ttl)));
        for resource in &update.resources {
            for name in resource.aliases.iter().chain([&resource.name]) {
                s.absent.remove(name);
            }
        }
        s.absent.extend(update.removed.iter().chain(&update.absent).filter(|name| s.names.contains(*name)).cloned());
        Ok(Received::Update(update))
    }

    /// Answers a response: with `Err` it is refused, for these reasons. `used` and `removed` are what is in force because of it.
    pub fn answer(&mut self, update: &Answered, verdict: Result<(), String>) {
        let delta = self.delta;
        let s = self.of(update.kind);
        let error = match verdict {
            Ok(()) => {
                if delta {
                    s.versions.extend(update.used.iter().cloned());
                } else {
                    s.version.clone_from(&update.version);
                }
                None
            }
            Err(text) => Some(Status { code: NACK_CODE, message: shorten(text), details: Vec::new() }),
        };
        for name in &update.removed {
            s.versions.remove(name);
            s.expiry.remove(name);
        }
        s.answer = Some(Answer { nonce: update.nonce.clone(), error });
        self.say(update.kind);
    }

    /// Resources whose time to live is over.
    pub fn expired(&mut self, now: Instant) -> Vec<(Kind, String)> {
        let mut out = Vec::new();
        for (kind, s) in &mut self.kinds {
            let over: Vec<_> = s.expiry.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
            for name in over {
                s.expiry.remove(&name);
                s.versions.remove(&name);
                out.push((*kind, name));
            }
        }
        out
    }

    /// When the next of them ends.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.kinds.values().flat_map(|s| s.expiry.values()).min().copied()
    }
}

impl Subscription {
    fn lives_until(&mut self, name: &str, until: Option<Instant>) {
        match until {
            Some(at) => self.expiry.insert(name.to_owned(), at),
            None => self.expiry.remove(name),
        };
    }
}

fn shorten(mut text: String) -> String {
    if text.len() > MAX_NACK_TEXT {
        let mut end = MAX_NACK_TEXT;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}
