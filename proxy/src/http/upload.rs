//! How far a request's body has come: timeouts start at its end, logs count its bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::body::Body;
use super::filter::{FilteredBody, FrameMap};
use crate::http::HeaderMap;

/// Progress of an upload. An empty body costs nothing.
#[derive(Clone)]
pub(super) struct Progress(Option<Arc<State>>);

struct State {
    bytes: AtomicU64,
    done: AtomicBool,
    finished: Mutex<Option<Instant>>,
    notify: Notify,
}

/// Watches `body`.
pub(super) fn track(body: Body) -> (Body, Progress) {
    if body.is_end() {
        return (body, Progress(None));
    }
    let state = Arc::new(State {
        bytes: AtomicU64::new(0),
        done: AtomicBool::new(false),
        finished: Mutex::new(None),
        notify: Notify::new(),
    });
    (FilteredBody::wrap(body, Watch(state.clone())), Progress(Some(state)))
}

impl Progress {
    /// There never was a body.
    pub(super) fn was_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The whole body has been read.
    pub(super) fn is_done(&self) -> bool {
        self.0.as_ref().is_none_or(|s| s.done.load(Ordering::Acquire))
    }

    /// Bytes read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, |s| s.bytes.load(Ordering::Relaxed))
    }

    /// When the body had been read; `None` for an empty one or one still coming.
    pub(super) fn finished_at(&self) -> Option<Instant> {
        *self.0.as_ref()?.finished.lock()
    }

    /// Resolves once the whole body has been read.
    pub(super) async fn done(&self) {
        let Some(s) = &self.0 else { return };
        loop {
            let notified = s.notify.notified();
            if s.done.load(Ordering::Acquire) {
                return;
            }
            notified.await;
        }
    }
}

struct Watch(Arc<State>);

impl Watch {
    fn finish(&self) {
        *self.0.finished.lock() = Some(crate::clock::now());
        self.0.done.store(true, Ordering::Release);
        self.0.notify.notify_waiters();
    }
}

impl FrameMap for Watch {
    fn data(&mut self, data: Bytes) -> Bytes {
        self.0.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        data
    }

    fn trailers(&mut self, trailers: HeaderMap) -> Result<HeaderMap, Bytes> {
        self.finish();
        Ok(trailers)
    }

    fn end(&mut self) -> Option<Bytes> {
        self.finish();
        None
    }
}
