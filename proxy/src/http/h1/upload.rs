//! A request's body between its connection and whoever asked for it, and the watch for the client leaving.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::super::body::{BodyError, Frame, PipeFeed};
use super::super::limits::Shared;
use super::decode::{Decoder, ReadBuffer};
use super::poll_read_small;
use crate::transport::Stream;

/// As much of a following request is read while one is served.
const PIPELINE_MAX: usize = 64 << 10;

/// The request's body on its way from the connection to whoever asked for it.
pub(super) struct Upload {
    pub(super) decoder: Decoder,
    pub(super) feed: Option<PipeFeed>,
    /// It ended badly.
    pub(super) failed: Option<BodyError>,
    pub(super) shared: Arc<Shared>,
    /// Trailers go on.
    pub(super) trailers: bool,
}

/// What polling an upload came to.
pub(super) enum Activity {
    /// Something was handed on: poll the request again.
    Fed,
    /// The client left.
    Gone,
}

impl Upload {
    pub(super) fn is_done(&self) -> bool {
        self.decoder.is_done()
    }

    /// Feeds what is wanted; with nothing left to feed, watches for the client leaving.
    pub(super) fn poll(&mut self, stream: &mut Stream, buf: &mut ReadBuffer, cx: &mut Context<'_>) -> Poll<Activity> {
        if let Some(feed) = &self.feed {
            if !feed.wanted() {
                return Poll::Pending;
            }
            match ready!(self.decoder.poll_frame(stream, buf, cx)) {
                Some(Ok(Frame::Trailers(_))) if !self.trailers => {
                    feed.end(Ok(()));
                    self.feed = None;
                }
                Some(Ok(frame)) => {
                    if let Frame::Data(d) = &frame {
                        self.shared.add_received(d.len());
                    }
                    feed.push(frame);
                }
                None => {
                    feed.end(Ok(()));
                    self.feed = None;
                }
                Some(Err(e)) => {
                    feed.end(Err(e));
                    self.failed = Some(e);
                    self.feed = None;
                    if e == BodyError::Closed {
                        return Poll::Ready(Activity::Gone);
                    }
                }
            }
            return Poll::Ready(Activity::Fed);
        }
        while buf.bytes.len() < PIPELINE_MAX {
            match ready!(poll_read_small(stream, cx, &mut buf.bytes)) {
                Ok(n) if n > 0 => buf.total += n as u64,
                _ => return Poll::Ready(Activity::Gone),
            }
        }
        Poll::Pending
    }
}
