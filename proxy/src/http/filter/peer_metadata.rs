//! `io.istio.http.peer_metadata.Config`: the two sides of a request tell each other who they are, in headers that go no further.
//!
//! Runs on: workers.

use std::sync::Arc;

use http::HeaderName;

use crate::config::PeerMetadata as Config;
use crate::http::HeaderMap;
use crate::http::head::ResponseHead;
use crate::http::stream::StreamCtx;
use crate::telemetry::{Telemetry, Workload, of_header};

const METADATA: HeaderName = HeaderName::from_static("x-envoy-peer-metadata");
const ID: HeaderName = HeaderName::from_static("x-envoy-peer-metadata-id");

/// The filter.
pub(super) struct PeerMetadata {
    config: Config,
    telemetry: Arc<Telemetry>,
}

/// What is known of the two sides of a request.
#[derive(Default)]
pub struct Peers {
    /// Who calls.
    pub downstream: Option<Arc<Workload>>,
    /// Who was called.
    pub upstream: Option<Arc<Workload>>,
    /// The caller has said who it is, and by what name: only then it is answered in kind.
    asked: (bool, bool),
}

/// Takes what a peer says from its headers.
fn take(headers: &mut HeaderMap) -> (Option<Arc<Workload>>, (bool, bool)) {
    let asked = (headers.contains_key(METADATA), headers.contains_key(ID));
    let peer = headers.get(METADATA).and_then(|value| of_header(value.as_bytes()));
    if asked.0 {
        headers.remove(METADATA);
    }
    if asked.1 {
        headers.remove(ID);
    }
    (peer, asked)
}

impl PeerMetadata {
    pub(super) fn new(config: &Config, telemetry: &Arc<Telemetry>) -> Self {
        PeerMetadata { config: config.clone(), telemetry: telemetry.clone() }
    }

    pub(super) fn request(&self, ctx: &mut StreamCtx) {
        if self.config.from_downstream {
            let (peer, asked) = take(&mut ctx.request.headers);
            ctx.peers.downstream = ctx.peers.downstream.take().or(peer);
            ctx.peers.asked = asked;
        }
        if self.config.to_upstream && !self.is_outside(ctx) {
            self.tell(&mut ctx.request.headers);
        }
    }

    pub(super) fn response(&self, ctx: &mut StreamCtx, head: &mut ResponseHead) {
        if self.config.from_upstream {
            let (peer, _) = take(&mut head.headers);
            ctx.peers.upstream = ctx.peers.upstream.take().or(peer);
        }
        if self.config.to_downstream {
            if ctx.peers.asked.1 {
                head.headers.insert(ID, self.telemetry.id.clone());
            }
            if ctx.peers.asked.0 {
                head.headers.insert(METADATA, self.telemetry.header.clone());
            }
        }
    }

    fn tell(&self, headers: &mut HeaderMap) {
        headers.insert(ID, self.telemetry.id.clone());
        headers.insert(METADATA, self.telemetry.header.clone());
    }

    /// Whether a request leaves for somebody who is not to be told.
    fn is_outside(&self, ctx: &StreamCtx) -> bool {
        let Some(cluster) = ctx.routed_cluster() else { return false };
        let says =
            |field: &str| cluster.config.metadata.get("istio").and_then(|of| of.get(field)?.as_bool()) == Some(true);
        says("disable_mx")
            || (self.config.skip_external && (says("external") || &*cluster.name == "PassthroughCluster"))
    }
}
