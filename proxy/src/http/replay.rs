//! A request body that can be sent more than once: what was read is kept, up to a limit, for the next attempt or a mirror.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;

use super::body::{Body, BodyError, Frame};
use crate::http::HeaderMap;
use crate::stats::Counter;

struct State {
    source: Body,
    kept: Vec<Kept>,
    bytes: u64,
    limit: u64,
    /// Frames are kept for readers to come.
    keep: bool,
    /// Frames before this one are gone.
    dropped: usize,
    end: Option<Result<(), BodyError>>,
    waiting: Vec<Waker>,
    /// Counts a body that is too large to keep.
    abandoned: Counter,
}

#[derive(Clone)]
enum Kept {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Kept {
    fn frame(&self) -> Frame {
        match self {
            Kept::Data(b) => Frame::Data(b.clone()),
            Kept::Trailers(t) => Frame::Trailers(t.clone()),
        }
    }
}

/// The kept body, from which readers are made.
#[derive(Clone)]
pub struct Replay(Arc<Mutex<State>>);

impl Replay {
    /// Keeps up to `limit` bytes of `source`; `abandoned` counts where that is not enough.
    pub fn new(source: Body, limit: u64, abandoned: Counter) -> Self {
        Replay(Arc::new(Mutex::new(State {
            source,
            kept: Vec::new(),
            bytes: 0,
            limit,
            keep: true,
            dropped: 0,
            end: None,
            waiting: Vec::new(),
            abandoned,
        })))
    }

    /// A reader from the beginning; `None` where the beginning is no longer there.
    pub fn reader(&self) -> Option<Body> {
        let whole = self.0.lock().dropped == 0;
        whole.then(|| Body::Replay(ReplayBody { state: self.0.clone(), at: 0 }))
    }

    /// No reader will begin any more: what was read is no longer kept.
    pub fn commit(&self) {
        let mut s = self.0.lock();
        s.keep = false;
    }

    /// Whether the limit was exceeded, so that no reader can begin.
    pub fn overflowed(&self) -> bool {
        let s = self.0.lock();
        s.keep && s.dropped > 0
    }
}

/// One reading of the body.
pub struct ReplayBody {
    state: Arc<Mutex<State>>,
    at: usize,
}

impl ReplayBody {
    /// The next frame.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let mut s = self.state.lock();
        if self.at < s.dropped {
            return Poll::Ready(Some(Err(BodyError::TooLarge)));
        }
        if let Some(kept) = s.kept.get(self.at - s.dropped) {
            self.at += 1;
            return Poll::Ready(Some(Ok(kept.frame())));
        }
        match s.end {
            Some(Ok(())) => return Poll::Ready(None),
            Some(Err(e)) => return Poll::Ready(Some(Err(e))),
            None => {}
        }
        let Poll::Ready(frame) = s.source.poll_frame(cx) else {
            if !s.waiting.iter().any(|w| w.will_wake(cx.waker())) {
                s.waiting.push(cx.waker().clone());
            }
            return Poll::Pending;
        };
        self.at += 1;
        let result = match frame {
            Some(Ok(f)) => {
                s.remember(&f);
                if matches!(f, Frame::Trailers(_)) {
                    s.end = Some(Ok(()));
                }
                Some(Ok(f))
            }
            Some(Err(e)) => {
                s.end = Some(Err(e));
                Some(Err(e))
            }
            None => {
                s.end = Some(Ok(()));
                None
            }
        };
        for w in s.waiting.drain(..) {
            w.wake();
        }
        Poll::Ready(result)
    }
}

impl State {
    fn remember(&mut self, frame: &Frame) {
        let (kept, len) = match frame {
            Frame::Data(b) => (Kept::Data(b.clone()), b.len() as u64),
            Frame::Trailers(t) => (Kept::Trailers(t.clone()), 0),
        };
        self.bytes += len;
        if self.keep && self.dropped == 0 && self.bytes <= self.limit {
            self.kept.push(kept);
        } else {
            if self.keep && self.dropped == 0 {
                self.abandoned.inc();
            }
            self.dropped += self.kept.len() + 1;
            self.kept = Vec::new();
        }
    }
}

impl Drop for ReplayBody {
    fn drop(&mut self) {
        // Another reader may have left its wake-up to this one.
        for w in self.state.lock().waiting.drain(..) {
            w.wake();
        }
    }
}
