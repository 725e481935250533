//! Who delivers what: the streams and files that are open, and what each of them was asked for. No input or output.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use tokio::time::Instant;
use weft_proto::pb::envoy::config::core::v3::Node;

use super::files;
use super::kind::Kind;
use super::mux::Mux;
use crate::config::{ApiConfigSource, Source};

/// A stream or a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// The aggregated stream.
    Ads,
    /// A stream of one kind.
    Separate(Box<ApiConfigSource>, Kind),
}

impl Key {
    /// The source whose resources come here.
    pub(super) fn source(&self) -> Source {
        match self {
            Key::Ads => Source::Ads,
            Key::Separate(api, _) => Source::Api(api.clone()),
        }
    }
}

/// Everything that is open or to be opened.
pub(super) struct Sources {
    node: Node,
    /// The server of the aggregated stream.
    ads: Option<ApiConfigSource>,
    pub(super) streams: BTreeMap<Key, Mux>,
    /// Streams that nobody has opened yet.
    pub(super) unopened: Vec<(Key, ApiConfigSource)>,
    /// Files, and what they deliver.
    files: BTreeSet<(Source, Kind)>,
    /// Files that are to be read: for the first time, or for somebody else.
    pub(super) unread: BTreeSet<(Source, Kind)>,
}

impl Sources {
    pub(super) fn new(node: Node, ads: Option<ApiConfigSource>) -> Self {
        Sources {
            node,
            ads,
            streams: BTreeMap::new(),
            unopened: Vec::new(),
            files: BTreeSet::new(),
            unread: BTreeSet::new(),
        }
    }

    /// Who servers are told that we are.
    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    /// The server of the aggregated stream.
    pub(super) fn ads(&self) -> Option<&ApiConfigSource> {
        self.ads.as_ref()
    }

    /// The stream of a source, if it was asked for anything.
    pub(super) fn of(&self, source: &Source, kind: Kind) -> Option<&Mux> {
        self.streams.get(&Self::key(source, kind)?)
    }

    /// The same, to be told something.
    pub(super) fn stream(&mut self, source: &Source, kind: Kind) -> Option<&mut Mux> {
        self.streams.get_mut(&Self::key(source, kind)?)
    }

    fn key(source: &Source, kind: Kind) -> Option<Key> {
        match source {
            Source::Ads => Some(Key::Ads),
            Source::Api(api) => Some(Key::Separate(api.clone(), kind)),
            Source::File { .. } => None,
        }
    }

    fn mux(&mut self, source: &Source, kind: Kind) -> Option<&mut Mux> {
        let key = Self::key(source, kind)?;
        let api = match &key {
            Key::Ads => self.ads.clone(),
            Key::Separate(api, _) => Some((**api).clone()),
        };
        let Some(api) = api else {
            tracing::error!(kind = ?kind, "an aggregated stream is asked for, but there is no ads_config");
            return None;
        };
        let Sources { node, streams, unopened, .. } = self;
        Some(streams.entry(key.clone()).or_insert_with(|| {
            let mux = Mux::new(api.delta, node.clone(), api.set_node_on_first_message_only);
            unopened.push((key, api));
            mux
        }))
    }

    fn file(&mut self, source: &Source, kind: Kind) {
        if matches!(source, Source::File { .. }) {
            self.files.insert((source.clone(), kind));
            self.unread.insert((source.clone(), kind));
        }
    }

    /// Subscribes to all of a kind.
    pub(super) fn watch_all(&mut self, source: &Source, kind: Kind) {
        self.file(source, kind);
        if let Some(mux) = self.mux(source, kind) {
            mux.watch_all(kind);
        }
    }

    /// Subscribes to a resource.
    pub(super) fn watch(&mut self, source: &Source, kind: Kind, name: &str) {
        self.file(source, kind);
        if let Some(mux) = self.mux(source, kind) {
            mux.watch(kind, name);
        }
    }

    /// Subscribes to a resource that somebody needs now, and asks for it again if it was subscribed to before.
    pub(super) fn demand(&mut self, source: &Source, kind: Kind, name: &str) {
        if let Some(mux) = self.mux(source, kind) {
            mux.demand(kind, name);
        }
    }

    /// No longer subscribes to all of a kind.
    pub(super) fn unwatch_all(&mut self, source: &Source, kind: Kind) {
        if let Some(mux) = self.mux(source, kind) {
            mux.unwatch_all(kind);
        }
    }

    /// Something was moved to this path: files that change with it are to be read.
    pub(super) fn moved(&mut self, path: &Path) {
        let changed = self.files.iter().filter(|(source, _)| files::covers(source, path)).cloned();
        self.unread.extend(changed);
    }

    /// No longer subscribes to a resource.
    pub(super) fn unwatch(&mut self, source: &Source, kind: Kind, name: &str) {
        if let Some(mux) = self.mux(source, kind) {
            mux.unwatch(kind, name);
        }
    }

    /// Asks once more.
    pub(super) fn ask_again(&mut self, source: &Source, kind: Kind, name: &str) {
        self.file(source, kind);
        if let Some(mux) = self.mux(source, kind) {
            mux.ask_again(kind, name);
        }
    }

    /// Holds requests of a kind back, or lets them go.
    pub(super) fn hold(&mut self, source: &Source, kind: Kind, held: bool) {
        if let Some(mux) = self.mux(source, kind) {
            mux.hold(kind, held);
        }
    }

    /// Resources whose time to live is over.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<(Kind, String)> {
        self.streams.values_mut().flat_map(|mux| mux.expired(now)).collect()
    }

    /// When the next of them ends.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.streams.values().filter_map(Mux::next_expiry).min()
    }
}
