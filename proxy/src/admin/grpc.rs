//! gRPC on the admin interface, over HTTP/2: as much of it as a service of questions and answers needs.
//!
//! A call is the body of its response: whoever writes that reads the next question, so that nothing is queued and no task is spawned.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, Version};
use hyper::body::{Body, Frame, Incoming};

use super::client_status::{self, SERVICE};
use super::sources::Sources;

/// A question is small: matchers of nodes.
const MAX_QUESTION: usize = 1 << 20;
/// A flag and a length.
const PREFIX: usize = 5;

/// gRPC's codes that occur here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    Ok = 0,
    InvalidArgument = 3,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
}

/// How a call ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Status {
    code: Code,
    message: String,
}

impl Status {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Status { code, message: message.into() }
    }

    fn trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(self.code as u16));
        if !self.message.is_empty() {
            let text = percent_encoding::utf8_percent_encode(&self.message, percent_encoding::NON_ALPHANUMERIC);
            // What is encoded so is a header value.
            if let Ok(text) = HeaderValue::try_from(text.to_string()) {
                trailers.insert("grpc-message", text);
            }
        }
        trailers
    }
}

/// Whether a request is a call. Over HTTP/1 there are no trailers that clients would read.
pub(super) fn is_call(parts: &Parts) -> bool {
    let kind = parts.headers.get(http::header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    parts.version == Version::HTTP_2
        && parts.method == Method::POST
        && kind.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Answers a call.
pub(super) fn call(sources: Sources, path: &str, questions: Incoming) -> Response<Call> {
    let method = path.strip_prefix(SERVICE);
    let (unary, end) = match method {
        Some("FetchClientStatus") => (true, None),
        Some("StreamClientStatus") => (false, None),
        _ => (true, Some(Status::new(Code::Unimplemented, format!("there is no method {path}")))),
    };
    let mut response = Response::new(Call { sources, questions, buffer: BytesMut::new(), unary, end, ended: false });
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// A call: questions come, answers go.
pub(super) struct Call {
    sources: Sources,
    questions: Incoming,
    buffer: BytesMut,
    /// One question, one answer.
    unary: bool,
    /// What is left to be said.
    end: Option<Status>,
    ended: bool,
}

impl Call {
    /// A question out of the buffer; `None`: it is not whole.
    fn question(&mut self) -> Result<Option<Bytes>, Status> {
        let Some(&[compressed, a, b, c, d]) = self.buffer.first_chunk::<PREFIX>() else { return Ok(None) };
        if compressed != 0 {
            return Err(Status::new(Code::Unimplemented, "compressed messages are not read"));
        }
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > MAX_QUESTION {
            let text = format!("a message of {length} bytes; {MAX_QUESTION} are read");
            return Err(Status::new(Code::ResourceExhausted, text));
        }
        if self.buffer.len() < PREFIX + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    fn answer(&mut self) -> Result<Option<Bytes>, Status> {
        let Some(question) = self.question()? else { return Ok(None) };
        let answer = client_status::answer(&self.sources, &question)?;
        let length = u32::try_from(answer.len()).map_err(|e| Status::new(Code::Internal, e.to_string()))?;
        let mut frame = BytesMut::with_capacity(PREFIX + answer.len());
        frame.put_u8(0);
        frame.put_u32(length);
        frame.put_slice(&answer);
        if self.unary {
            self.end = Some(Status::new(Code::Ok, ""));
        }
        Ok(Some(frame.freeze()))
    }
}

impl Body for Call {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let call = self.get_mut();
        loop {
            if call.ended {
                return Poll::Ready(None);
            }
            if let Some(end) = call.end.take() {
                call.ended = true;
                return Poll::Ready(Some(Ok(Frame::trailers(end.trailers()))));
            }
            match call.answer() {
                Ok(Some(answer)) => return Poll::Ready(Some(Ok(Frame::data(answer)))),
                Ok(None) => {}
                Err(status) => {
                    call.end = Some(status);
                    continue;
                }
            }
            match std::task::ready!(Pin::new(&mut call.questions).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    // What else there is are trailers, which say nothing.
                    if let Ok(data) = frame.into_data() {
                        call.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => call.end = Some(Status::new(Code::Internal, error.to_string())),
                None if call.unary || !call.buffer.is_empty() => {
                    call.end = Some(Status::new(Code::Internal, "the call ended within a message"));
                }
                None => call.end = Some(Status::new(Code::Ok, "")),
            }
        }
    }
}

#[cfg(test)]
mod tests;
