//! gRPC messages of discovery streams on HTTP/2 bodies.
//!
//! Owns framing. Resources are sent as the bytes they are, shared by all streams that send the same; a stream that waits holds no
//! buffer, neither one it has read from nor one it has written to. Must not know: what messages say.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::Stream;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Body as HttpBody, Frame};
use tonic::Status;
use tonic::body::Body;

/// What goes before each message: whether it is compressed, and its length.
const HEADER_BYTES: usize = 5;

/// The messages of a request.
pub(super) struct Messages {
    body: Body,
    /// What has come of a message that is not complete.
    begun: BytesMut,
    limit: usize,
}

impl Messages {
    /// Those of `body`, each at most `limit` bytes long.
    pub(super) fn new(body: Body, limit: usize) -> Self {
        Self { body, begun: BytesMut::new(), limit }
    }

    /// The next message; `None` at the end of the request.
    ///
    /// # Errors
    /// What is not gRPC, is compressed or too long, and a connection that breaks.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.complete()? {
                return Ok(Some(message));
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.begun.extend_from_slice(&data);
                    }
                }
                None if self.begun.is_empty() => return Ok(None),
                None => return Err(Status::internal("the request ends within a message")),
            }
        }
    }

    fn complete(&mut self) -> Result<Option<Bytes>, Status> {
        let Some((header, rest)) = self.begun.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let [compressed, length @ ..] = *header;
        if compressed != 0 {
            return Err(Status::unimplemented("a compressed message; send it without compression"));
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > self.limit {
            return Err(Status::out_of_range(format!("a message of {length} bytes; at most {} are taken", self.limit)));
        }
        if rest.len() < length {
            return Ok(None);
        }
        self.begun.advance(HEADER_BYTES);
        let message = self.begun.split_to(length).freeze();
        if self.begun.is_empty() {
            // What is left of its room would be held for as long as the client says nothing.
            self.begun = BytesMut::new();
        }
        Ok(Some(message))
    }
}

/// A message to be sent: its own beginning, and what it shares with others.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) own: Bytes,
    pub(super) shared: Bytes,
}

/// Up to here a message is sent in one piece: another frame costs more than copying.
const ONE_PIECE_BYTES: usize = 4096;

impl Message {
    /// Its pieces on the wire.
    fn pieces(self) -> impl Iterator<Item = Bytes> {
        let length = self.own.len() + self.shared.len();
        let joined = length <= ONE_PIECE_BYTES;
        let mut first = BytesMut::with_capacity(HEADER_BYTES + if joined { length } else { self.own.len() });
        first.extend_from_slice(&[0]);
        // Longer ones are not made: a client takes 4 MiB if it is not told otherwise.
        first.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        first.extend_from_slice(&self.own);
        if joined {
            first.extend_from_slice(&self.shared);
        }
        [first.freeze()].into_iter().chain((!joined).then_some(self.shared))
    }
}

/// A response of messages.
pub(super) fn respond(messages: impl Stream<Item = Result<Message, Status>> + Send + 'static) -> Response<Body> {
    let mut response =
        Response::new(Body::new(Messaging { messages: Box::pin(messages), pieces: VecDeque::new(), over: false }));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// Sends messages, and how it ended.
struct Messaging<S> {
    messages: Pin<Box<S>>,
    pieces: VecDeque<Bytes>,
    over: bool,
}

impl<S: Stream<Item = Result<Message, Status>>> HttpBody for Messaging<S> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(piece) = self.pieces.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if self.over {
            return Poll::Ready(None);
        }
        let status = match ready!(self.messages.as_mut().poll_next(cx)) {
            Some(Ok(message)) => {
                let mut pieces = message.pieces();
                let first = pieces.next().unwrap_or_default();
                self.pieces.extend(pieces);
                return Poll::Ready(Some(Ok(Frame::data(first))));
            }
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.over = true;
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.over
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::StreamBody;
    use tonic::Code;

    use super::*;

    /// A request of these pieces.
    fn messages(pieces: &[&[u8]], limit: usize) -> Messages {
        let frames: Vec<_> =
            pieces.iter().map(|piece| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(piece)))).collect();
        Messages::new(Body::new(StreamBody::new(stream::iter(frames))), limit)
    }

    #[tokio::test]
    async fn messages_are_found_however_they_are_cut() {
        let wire = b"\0\0\0\0\x03abc\0\0\0\0\0\0\0\0\0\x02de";
        for cut in 0..wire.len() {
            let mut messages = messages(&[&wire[..cut], &wire[cut..]], 3);
            for expected in ["abc", "", "de"] {
                assert_eq!(messages.next().await.unwrap().unwrap(), expected, "cut at {cut}");
            }
            assert_eq!(messages.next().await.unwrap(), None);
            assert_eq!(messages.begun.capacity(), 0);
        }
    }

    #[tokio::test]
    async fn what_is_no_message_is_said() {
        for (wire, code) in [
            (b"\0\0\0\0\x04abcd".as_slice(), Code::OutOfRange),
            (b"\0\xff\xff\xff\xff", Code::OutOfRange),
            (b"\x01\0\0\0\x01a", Code::Unimplemented),
            (b"\0\0\0", Code::Internal),
            (b"\0\0\0\0\x02a", Code::Internal),
        ] {
            assert_eq!(messages(&[wire], 3).next().await.unwrap_err().code(), code, "{wire:?}");
        }
    }

    #[tokio::test]
    async fn a_response_is_its_messages_and_how_it_ended() {
        let long = Bytes::from(vec![7; ONE_PIECE_BYTES]);
        let message = |own: &'static str, shared: &Bytes| Message { own: own.into(), shared: shared.clone() };
        let all = [Ok(message("ab", &"c".into())), Ok(message("d", &long)), Err(Status::aborted("enough"))];
        let mut body = respond(stream::iter(all)).into_body();
        let mut frames = Vec::new();
        while let Some(frame) = body.frame().await {
            frames.push(frame.unwrap());
        }
        let [short, begin, rest, end] = &frames[..] else { panic!("{frames:?}") };
        assert_eq!(short.data_ref().unwrap(), "\0\0\0\0\x03abc");
        assert_eq!(begin.data_ref().unwrap().as_ref(), b"\0\0\0\x10\x01d");
        // It is the same bytes, not a copy.
        assert_eq!(rest.data_ref().unwrap().as_ptr(), long.as_ptr());
        assert_eq!(end.trailers_ref().unwrap()["grpc-message"], "enough");
    }
}
