//! An HTTP/1 upstream connection: one exchange at a time, its upload and its download driven by whoever polls it.
//!
//! While an exchange is under way the connection *is* the response body ([`super::super::body::Body::H1`]); at its end it goes home to
//! its pool, or is closed. Dropping it midway closes it.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Method, StatusCode, header};

use super::super::body::{Body, BodyError, Frame};
use super::super::head::{RequestHead, ResponseHead};
use super::super::limits::Shared;
use super::decode::{Decoder, ReadBuffer};
use super::encode::{self, Outgoing};
use super::{Framing, ParseError, ParseLimits, parse, poll_read_small, take};
use crate::config::{HeaderKeyFormat, Http1Options};
use crate::stream_info::Protocol;
use crate::transport::Stream;
use crate::upstream::pool::Home;

/// Why an exchange ended without a response head.
#[derive(Debug)]
pub enum ExchangeError {
    /// The connection closed. `idle_race` is true where nothing of a response was read on a connection that had served before:
    /// the request lost the race with an idle close and may be sent again.
    Closed {
        /// See above.
        idle_race: bool,
    },
    /// The response could not be understood.
    Protocol(ParseError),
    /// The request's own body failed.
    Upload(BodyError),
}

/// An upstream connection.
pub struct H1Conn {
    stream: Stream,
    rbuf: ReadBuffer,
    out: Outgoing,
    upload: Body,
    upload_framing: Framing,
    upload_done: bool,
    /// `None` while the head is awaited.
    download: Option<Decoder>,
    method: Method,
    upgrade: bool,
    reusable: bool,
    served: u64,
    limits: ParseLimits,
    enable_trailers: bool,
    format: HeaderKeyFormat,
    /// Targets are whole URLs (`send_fully_qualified_url`).
    full_url: bool,
    /// The peer closed it.
    peer_closed: bool,
    /// Told when the upstream answers 100 Continue.
    pub interim: Option<Arc<Shared>>,
    /// Bytes written since the exchange began.
    pub wire_sent: u64,
    home: Home,
}

impl Drop for H1Conn {
    fn drop(&mut self) {
        let busy = !self.body_done() || !self.upload_done;
        self.home.closing(self.peer_closed, busy);
        self.count_bytes();
        self.home.cluster().stats.upstream_rq_per_cx.record(self.served);
    }
}

impl H1Conn {
    /// A fresh connection.
    pub fn new(stream: Stream, limits: ParseLimits, options: &Http1Options, home: Home) -> Box<Self> {
        Box::new(H1Conn {
            stream,
            rbuf: ReadBuffer::default(),
            out: Outgoing::default(),
            upload: Body::Empty,
            upload_framing: Framing::None,
            upload_done: true,
            download: Some(Decoder::Done),
            method: Method::GET,
            upgrade: false,
            reusable: true,
            served: 0,
            limits,
            enable_trailers: options.enable_trailers,
            format: options.header_key_format,
            full_url: options.send_fully_qualified_url,
            peer_closed: false,
            interim: None,
            wire_sent: 0,
            home,
        })
    }

    /// Exchanges begun on this connection.
    pub fn served(&self) -> u64 {
        self.served
    }

    /// The transport, for its facts.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The pool it belongs to.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Begins an exchange. `framing` is how the body goes out.
    pub fn start(&mut self, head: &RequestHead, framing: Framing, body: Body) {
        self.out.head.clear();
        encode::request(&mut self.out.head, head, framing, self.format, self.full_url);
        self.upload_done = body.is_end() && !matches!(framing, Framing::Chunked | Framing::UntilClose);
        self.upload = body;
        self.upload_framing = framing;
        self.download = None;
        self.method = head.method.clone();
        self.upgrade = head.upgrade.is_some();
        self.served += 1;
        (self.wire_sent, self.rbuf.total) = (0, 0);
    }

    /// Begins a tunnel: no head goes out and none is awaited.
    pub fn start_tunnel(&mut self, body: Body) {
        self.upload_done = false;
        self.upload = body;
        self.upload_framing = Framing::UntilClose;
        self.download = Some(Decoder::UntilClose);
        self.reusable = false;
        self.served += 1;
        (self.wire_sent, self.rbuf.total) = (0, 0);
    }

    /// The response's head. The upload goes on meanwhile, and afterwards as the body is polled.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, ExchangeError>> {
        loop {
            if let Err(e) = self.drive_upload(cx) {
                return Poll::Ready(Err(ExchangeError::Upload(e)));
            }
            if let Some(end) = parse::head_end(&self.rbuf.bytes, 0) {
                if end > self.limits.max_bytes {
                    return Poll::Ready(Err(ExchangeError::Protocol(ParseError::HeadersTooLarge)));
                }
                match self.take_head(end) {
                    Ok(Some(head)) => return Poll::Ready(Ok(head)),
                    Ok(None) => continue,
                    Err(e) => return Poll::Ready(Err(ExchangeError::Protocol(e))),
                }
            }
            if self.rbuf.bytes.len() > self.limits.max_bytes {
                return Poll::Ready(Err(ExchangeError::Protocol(ParseError::HeadersTooLarge)));
            }
            let read = ready!(poll_read_small(&mut self.stream, cx, &mut self.rbuf.bytes));
            match read {
                Ok(n) if n > 0 => self.rbuf.total += n as u64,
                _ if self.rbuf.bytes.is_empty() => {
                    self.peer_closed = true;
                    return Poll::Ready(Err(ExchangeError::Closed {
                        idle_race: self.served > 1 && self.rbuf.total == 0,
                    }));
                }
                _ => {
                    self.peer_closed = true;
                    return Poll::Ready(Err(ExchangeError::Protocol(ParseError::Incomplete)));
                }
            }
        }
    }

    /// Parses a complete head; `None` for an informational one, which is dropped as Envoy does.
    fn take_head(&mut self, end: usize) -> Result<Option<ResponseHead>, ParseError> {
        let parsed =
            parse::response(take(&mut self.rbuf.bytes, end), &self.limits, self.format == HeaderKeyFormat::Preserve)?;
        let mut headers = parsed.headers;
        let status = parsed.status;
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            if let Some(told) = self.interim.as_ref().filter(|_| status == StatusCode::CONTINUE) {
                told.go_on();
            }
            return Ok(None);
        }
        let lengths = parse::lengths(&mut headers, self.limits.allow_chunked_length)?;
        if status == StatusCode::NO_CONTENT && (lengths.chunked || lengths.length.is_some_and(|n| n > 0)) {
            return Err(ParseError::ContentLength);
        }
        let framing =
            if status == StatusCode::SWITCHING_PROTOCOLS || (self.method == Method::CONNECT && status.is_success()) {
                if !self.upgrade && self.method != Method::CONNECT {
                    return Err(ParseError::StartLine);
                }
                Framing::UntilClose
            } else {
                lengths.response(&self.method, status)
            };
        let close = parse::list_has(&headers, &header::CONNECTION, "close");
        let keep = parse::list_has(&headers, &header::CONNECTION, "keep-alive");
        if close && self.reusable {
            self.home.cluster().stats.upstream_cx_close_notify.inc();
        }
        self.reusable &= !close && (parsed.protocol == Protocol::Http11 || keep) && framing != Framing::UntilClose;
        self.download = Some(Decoder::new(framing, self.limits.body(self.enable_trailers)));
        parse::drop_of_codec(&mut headers);
        Ok(Some(ResponseHead { status, headers, protocol: parsed.protocol, spelling: parsed.spelling }))
    }

    /// Whether the response has nothing more to read.
    pub fn body_done(&self) -> bool {
        self.download.as_ref().is_some_and(Decoder::is_done)
    }

    /// The next frame of the response.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        // An upload that fails now is no reason to lose a response that is arriving.
        if self.drive_upload(cx).is_err() {
            self.reusable = false;
        }
        let Some(decoder) = &mut self.download else { return Poll::Ready(None) };
        match ready!(decoder.poll_frame(&mut self.stream, &mut self.rbuf, cx)) {
            Some(Ok(Frame::Trailers(_))) if !self.enable_trailers => Poll::Ready(None),
            frame => {
                self.peer_closed |= matches!(frame, Some(Err(BodyError::Closed)));
                Poll::Ready(frame)
            }
        }
    }

    /// Bytes read since the exchange began.
    pub fn wire_received(&self) -> u64 {
        self.rbuf.total
    }

    /// Writes what is queued and what the request's body has. Errors are those of the request's body; a failing socket only ends
    /// the upload, for a response may still be there to read.
    fn drive_upload(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        loop {
            match self.out.poll_write(&mut self.stream, cx, &mut self.wire_sent) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(_)) => {
                    self.abandon_upload();
                    return Ok(());
                }
                Poll::Ready(Ok(())) => {}
            }
            if self.upload_done {
                return Ok(());
            }
            let chunked = self.upload_framing == Framing::Chunked;
            match self.upload.poll_frame(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Some(Ok(Frame::Data(d)))) => self.out.push(d, chunked),
                Poll::Ready(Some(Ok(Frame::Trailers(t)))) => {
                    if chunked {
                        encode::last_chunk(&mut self.out.head, self.enable_trailers.then_some(&t));
                    }
                    self.upload_done = true;
                }
                Poll::Ready(None) => {
                    if chunked {
                        encode::last_chunk(&mut self.out.head, None);
                    }
                    self.upload_done = true;
                    if self.upload_framing == Framing::UntilClose {
                        self.reusable = false;
                        self.half_close(cx);
                    }
                }
                Poll::Ready(Some(Err(e))) => {
                    self.abandon_upload();
                    return Err(e);
                }
            }
        }
    }

    fn abandon_upload(&mut self) {
        self.out = Outgoing::default();
        self.upload = Body::Empty;
        self.upload_done = true;
        self.reusable = false;
    }

    /// The client's end of a tunnel is passed on.
    fn half_close(&mut self, cx: &mut Context<'_>) {
        let _: Poll<io::Result<()>> = tokio::io::AsyncWrite::poll_shutdown(std::pin::Pin::new(&mut self.stream), cx);
    }

    /// Whether the connection may carry another exchange.
    pub fn is_reusable(&self) -> bool {
        self.reusable && self.body_done() && self.upload_done && self.out.is_empty() && self.rbuf.bytes.is_empty()
    }

    fn count_bytes(&mut self) {
        let stats = &self.home.cluster().stats;
        stats.upstream_cx_tx_bytes_total.add(std::mem::take(&mut self.wire_sent));
        stats.upstream_cx_rx_bytes_total.add(std::mem::take(&mut self.rbuf.total));
    }

    /// Ends the exchange: home to the pool, or closed.
    pub fn finish(mut self: Box<Self>) {
        self.count_bytes();
        if self.is_reusable() {
            Home::check_in(self);
        }
    }

    /// An idle connection has nothing to say: anything but "pending" means it is of no use any more. `cx` is woken when that
    /// changes.
    pub fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match poll_read_small(&mut self.stream, cx, &mut self.rbuf.bytes) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(read) => {
                self.peer_closed = !matches!(read, Ok(1..));
                Poll::Ready(())
            }
        }
    }
}
