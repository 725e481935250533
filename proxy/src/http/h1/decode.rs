//! Reading the body of one message off a connection.

use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::AsyncRead;

use super::super::body::{BodyError, Frame};
use super::chunked::{Chunked, Event, Limits};
use super::{Framing, ParseError, READ_MIN, poll_read_body, take};

/// The reading state of one body.
pub(super) enum Decoder {
    Length(u64),
    Chunked(Box<Chunked>),
    UntilClose,
    Done,
}

/// Bytes read and not yet used, with the size the next read should have.
#[derive(Default)]
pub(super) struct ReadBuffer {
    pub(super) bytes: BytesMut,
    pub(super) size: usize,
    /// Bytes read since it was last set to 0.
    pub(super) total: u64,
}

impl Decoder {
    pub(super) fn new(framing: Framing, limits: Limits) -> Self {
        match framing {
            Framing::None | Framing::Length(0) => Decoder::Done,
            Framing::Length(n) => Decoder::Length(n),
            Framing::Chunked => Decoder::Chunked(Box::new(Chunked::new(limits))),
            Framing::UntilClose => Decoder::UntilClose,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self, Decoder::Done)
    }

    /// The next frame; `None` at the end.
    pub(super) fn poll_frame<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        buf: &mut ReadBuffer,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, BodyError>>> {
        loop {
            let mut max = usize::MAX;
            match self {
                Decoder::Done => return Poll::Ready(None),
                Decoder::Chunked(decoder) => match decoder.next(&mut buf.bytes) {
                    Ok(Event::Data(d)) => return Poll::Ready(Some(Ok(Frame::Data(d)))),
                    Ok(Event::End(trailers)) => {
                        *self = Decoder::Done;
                        return Poll::Ready((!trailers.is_empty()).then_some(Ok(Frame::Trailers(trailers))));
                    }
                    Ok(Event::NeedMore) => {}
                    Err(ParseError::HeadersTooLarge) => return Poll::Ready(Some(Err(BodyError::TrailersTooLarge))),
                    Err(ParseError::TooManyHeaders) => return Poll::Ready(Some(Err(BodyError::TooManyTrailers))),
                    Err(_) => return Poll::Ready(Some(Err(BodyError::Protocol))),
                },
                Decoder::Length(left) => {
                    let want = usize::try_from(*left).unwrap_or(usize::MAX);
                    if !buf.bytes.is_empty() {
                        let data = take(&mut buf.bytes, want);
                        *left -= data.len() as u64;
                        if *left == 0 {
                            *self = Decoder::Done;
                        }
                        return Poll::Ready(Some(Ok(Frame::Data(data))));
                    }
                    max = want;
                }
                Decoder::UntilClose if !buf.bytes.is_empty() => {
                    return Poll::Ready(Some(Ok(Frame::Data(std::mem::take(&mut buf.bytes).freeze()))));
                }
                Decoder::UntilClose => {}
            }
            let n = ready!(poll_read_body(stream, cx, &mut buf.bytes, &mut buf.size, max)).unwrap_or(0);
            buf.total += n as u64;
            if n == 0 {
                if matches!(self, Decoder::UntilClose) {
                    *self = Decoder::Done;
                    return Poll::Ready(None);
                }
                return Poll::Ready(Some(Err(BodyError::Closed)));
            }
            buf.size = buf.size.max(READ_MIN);
        }
    }
}
