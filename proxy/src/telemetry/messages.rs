//! Messages of a gRPC call, counted as they flow.
//!
//! Whose they are is known when there is an answer: what came before is counted then.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use super::Series;

/// The messages of one call.
#[derive(Default)]
pub struct Messages {
    series: OnceLock<Arc<Series>>,
    requests: AtomicU64,
    responses: AtomicU64,
    status: OnceLock<u32>,
}

/// From where a message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The caller.
    Request,
    /// Who is called.
    Response,
}

impl Messages {
    /// One more message. A call is on one worker, so nobody else writes meanwhile.
    pub fn count(&self, side: Side) {
        let (early, series) = (self.early(side), self.series.get());
        match (series, side) {
            (Some(series), Side::Request) => series.request_messages.inc(),
            (Some(series), Side::Response) => series.response_messages.inc(),
            (None, _) => early.store(early.load(Relaxed) + 1, Relaxed),
        }
    }

    /// The status in the trailers.
    pub fn ended(&self, status: u32) {
        let _ = self.status.set(status);
    }

    /// The status that came in trailers.
    pub fn status(&self) -> Option<u32> {
        self.status.get().copied()
    }

    fn early(&self, side: Side) -> &AtomicU64 {
        match side {
            Side::Request => &self.requests,
            Side::Response => &self.responses,
        }
    }

    /// Whose they are, if that is not known yet.
    pub fn belong(&self, series: impl FnOnce() -> Arc<Series>) {
        if self.series.get().is_some() {
            return;
        }
        let series = self.series.get_or_init(series);
        // With nothing to add the metric is there nevertheless, as in Istio.
        series.request_messages.add(self.requests.swap(0, Relaxed));
        series.response_messages.add(self.responses.swap(0, Relaxed));
    }
}
