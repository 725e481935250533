//! Responses that are encoded once for all streams that send the same.
//!
//! Owns the last of them: a change goes to many proxies at nearly one time. Must not know: streams.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;

use super::session::Push;

/// How many are held, and how long they may be together. What is sent holds itself.
const HELD: usize = 32;
const HELD_BYTES: usize = 16 << 20;

/// The responses that were encoded last.
#[derive(Default)]
pub(super) struct Encoded {
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// By the hash of what they say, the newest last.
    responses: VecDeque<(u64, Bytes)>,
    bytes: usize,
}

impl Held {
    fn find(&self, content: u64) -> Option<Bytes> {
        self.responses.iter().rev().find(|(of, _)| *of == content).map(|(_, response)| response.clone())
    }
}

impl Encoded {
    /// What the streams share that send `push`.
    pub(super) fn shared(&self, push: &Push, control_plane: &str) -> Bytes {
        let content = push.content();
        if let Some(found) = self.held.lock().find(content) {
            return found;
        }
        // Two streams may do so at once; that costs less than one waiting for the other.
        let made = push.shared(control_plane);
        let mut held = self.held.lock();
        if made.len() <= HELD_BYTES {
            held.bytes += made.len();
            held.responses.push_back((content, made.clone()));
        }
        while held.responses.len() > HELD || held.bytes > HELD_BYTES {
            let Some((_, gone)) = held.responses.pop_front() else { break };
            held.bytes -= gone.len();
        }
        made
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::resource::{ResourceType, Version};
    use crate::server::fixtures::cluster;
    use crate::server::session::Variant;

    fn push(revision: u32, nonce: u64) -> Push {
        let resources = vec![Arc::new(cluster("a", revision))];
        Push {
            variant: Variant::Delta,
            ty: ResourceType::Cluster,
            version: Version::default(),
            nonce,
            changed: resources.clone(),
            resources,
            removed: Vec::new(),
        }
    }

    #[test]
    fn streams_that_send_the_same_send_the_same_bytes() {
        let encoded = Encoded::default();
        let first = encoded.shared(&push(1, 1), "weft");
        assert_eq!(encoded.shared(&push(1, 2), "weft").as_ptr(), first.as_ptr());
        assert_ne!(encoded.shared(&push(2, 3), "weft"), first);
        // What is long ago is not held.
        for revision in 0..100 {
            encoded.shared(&push(revision, 1), "weft");
        }
        let held = encoded.held.lock();
        assert_eq!(held.responses.len(), HELD);
        assert_eq!(held.bytes, held.responses.iter().map(|(_, of)| of.len()).sum::<usize>());
    }
}
