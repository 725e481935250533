//! Peers that a worker has met: their descriptions are read once, and not with each request.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use super::Workload;
use crate::config::Metadata;

/// Peers that a worker keeps (Istio's number); beyond it forgets all and begins anew.
const MAX_PEERS: usize = 500;

type Cache = HashMap<Box<[u8]>, Option<Arc<Workload>>>;

thread_local! {
    // Headers are base64, and descriptions of endpoints have semicolons: neither is ever the other.
    static PEERS: RefCell<Cache> = RefCell::default();
}

/// The peer that a header `x-envoy-peer-metadata` describes.
pub fn of_header(value: &[u8]) -> Option<Arc<Workload>> {
    known(value, || Workload::of_header(value))
}

/// The workload of an endpoint, where the control plane tells of it. **Source**: `filter_metadata["istio"].workload`.
pub fn of_endpoint(metadata: &Metadata) -> Option<Arc<Workload>> {
    let text = metadata.get("istio")?.get("workload")?.as_str()?;
    known(text.as_bytes(), || Workload::of_endpoint(text))
}

fn known(key: &[u8], make: impl FnOnce() -> Option<Workload>) -> Option<Arc<Workload>> {
    PEERS.with_borrow_mut(|peers| {
        if let Some(peer) = peers.get(key) {
            return peer.clone();
        }
        if peers.len() >= MAX_PEERS {
            peers.clear();
        }
        let peer = make().map(Arc::new);
        peers.insert(key.into(), peer.clone());
        peer
    })
}
