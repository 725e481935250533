//! HTTP/1 downstream connections.
//!
//! One future drives everything of a connection: it reads a head, polls the request's future, feeds it the body it asks for,
//! watches for the client leaving meanwhile, and writes the answer as its body yields. Between requests it holds no buffer.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode, header};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::super::body::{Body, Frame};
use super::super::connection::{EndReason, HttpConn, Reply};
use super::super::limits::{Clock, Shared};
use super::decode::{Decoder, ReadBuffer};
use super::encode::{self, Names, Outgoing};
use super::request::{self, Received};
use super::upload::{Activity, Upload};
use super::{Framing, ParseError, ParseLimits, line, parse, poll_read_small};
use crate::stream_info::{Protocol, ResponseFlags};
use crate::timer::LazyTimer;
use crate::transport::Stream;

/// A connection.
pub struct ServerConn {
    stream: Stream,
    buf: ReadBuffer,
    out: Outgoing,
    timer: LazyTimer,
    conn: Arc<HttpConn>,
    limits: ParseLimits,
    requests: u64,
    shared: Arc<Shared>,
    /// It was the client that closed.
    client_gone: bool,
    /// When `max_connection_duration` is reached.
    ends: Option<Instant>,
}

/// How the wait for a head ended.
enum HeadWait {
    Head(Bytes),
    /// The client left, or it was idle for too long, or we drain: nothing to say.
    Quiet,
    /// The client left in the middle of one.
    Cut,
    Refused(ParseError),
    Timeout,
}

/// What follows a request.
#[derive(PartialEq, Eq)]
enum Next {
    KeepAlive,
    /// Closed after lingering for the client to read the answer.
    Linger,
    /// Closed at once.
    Close,
}

impl Drop for ServerConn {
    fn drop(&mut self) {
        self.count_read();
        self.conn.manager.stats.destroyed(self.client_gone);
    }
}

impl ServerConn {
    /// Counts what was read since the last time.
    fn count_read(&mut self) {
        let n = std::mem::take(&mut self.buf.total);
        self.conn.manager.stats.downstream_cx_rx_bytes_total.add(n);
    }

    /// A connection on `stream`, of which `already` was read. `timer`: any that is there already.
    pub fn new(stream: Stream, already: BytesMut, conn: Arc<HttpConn>, timer: LazyTimer) -> Self {
        let m = &conn.manager.config;
        let limits = ParseLimits {
            max_bytes: m.max_request_headers_bytes,
            max_headers: m.common.max_headers_count as usize,
            underscores: m.common.underscores,
            custom_methods: m.http1.allow_custom_methods,
            allow_chunked_length: m.http1.allow_chunked_length,
        };
        let total = already.len() as u64;
        let buf = ReadBuffer { bytes: already, size: 0, total };
        let ends = m.common.max_connection_duration.and_then(|d| conn.info.start.checked_add(d));
        ServerConn {
            ends,
            stream,
            buf,
            out: Outgoing::default(),
            timer,
            conn,
            limits,
            requests: 0,
            shared: Arc::default(),
            client_gone: false,
        }
    }

    /// Serves until the connection ends.
    pub async fn run(mut self) {
        loop {
            let next = match self.head().await {
                HeadWait::Head(head) => self.request(head).await,
                HeadWait::Refused(e) => {
                    self.refuse(e.status(), e.details(), ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR).await
                }
                HeadWait::Timeout => {
                    self.conn.manager.stats.downstream_rq_header_timeout.inc();
                    let (status, details) = (StatusCode::REQUEST_TIMEOUT, "request_header_timeout");
                    self.refuse(status, details, ResponseFlags::NONE).await
                }
                HeadWait::Quiet => Next::Close,
                HeadWait::Cut => {
                    self.conn.cut_off();
                    Next::Close
                }
            };
            match next {
                Next::KeepAlive => {}
                Next::Close => break,
                Next::Linger => {
                    self.linger().await;
                    break;
                }
            }
        }
    }

    /// Waits for a whole head.
    async fn head(&mut self) -> HeadWait {
        let conn = self.conn.clone();
        let config = &conn.manager.config;
        self.timer.set_after(config.common.idle_timeout);
        // An idle connection that is too old still waits out the drain.
        let closes = self.ends.and_then(|at| at.checked_add(config.drain_timeout));
        if let Some(at) = closes
            && config.common.idle_timeout.is_none_or(|d| Instant::now() + d > at)
        {
            self.timer.set(Some(at));
        }
        let drain = conn.drain.notified();
        tokio::pin!(drain);
        let (mut begun, mut looked) = (false, false);
        let mut searched = 0;
        poll_fn(|cx| {
            loop {
                if !begun {
                    parse::skip_empty_lines(&mut self.buf.bytes);
                }
                if !begun && !self.buf.bytes.is_empty() {
                    begun = true;
                    if config.request_headers_timeout.is_some() {
                        self.timer.set_after(config.request_headers_timeout);
                    } else if closes.is_some() {
                        // A request that has begun is not cut off for the connection's age.
                        self.timer.set_after(config.common.idle_timeout);
                    }
                }
                if !looked {
                    match self.look_ahead(searched) {
                        Ok(whole) => looked = whole,
                        Err(e) => return Poll::Ready(HeadWait::Refused(e)),
                    }
                }
                if let Some(end) = parse::head_end(&self.buf.bytes, searched) {
                    if end > self.limits.max_bytes {
                        return Poll::Ready(HeadWait::Refused(ParseError::HeadersTooLarge));
                    }
                    return Poll::Ready(HeadWait::Head(super::take(&mut self.buf.bytes, end)));
                }
                searched = self.buf.bytes.len();
                if searched > self.limits.max_bytes {
                    return Poll::Ready(HeadWait::Refused(ParseError::HeadersTooLarge));
                }
                match poll_read_small(&mut self.stream, cx, &mut self.buf.bytes) {
                    Poll::Ready(Ok(n)) if n > 0 => self.buf.total += n as u64,
                    Poll::Ready(_) => {
                        self.client_gone = true;
                        return Poll::Ready(if begun { HeadWait::Cut } else { HeadWait::Quiet });
                    }
                    Poll::Pending => break,
                }
            }
            if !begun && (conn.is_draining() || drain.as_mut().poll(cx).is_ready()) {
                return Poll::Ready(HeadWait::Quiet);
            }
            ready!(self.timer.poll_expired(cx));
            if begun && config.request_headers_timeout.is_some() {
                return Poll::Ready(HeadWait::Timeout);
            }
            if !begun && closes.is_some_and(|at| at <= Instant::now()) {
                conn.manager.stats.downstream_cx_max_duration_reached.inc();
            } else {
                conn.manager.stats.downstream_cx_idle_timeout.inc();
            }
            Poll::Ready(HeadWait::Quiet)
        })
        .await
    }

    /// Serves one request.
    async fn request(&mut self, head: Bytes) -> Next {
        self.requests += 1;
        let head_bytes = head.len() as u64;
        let secure = self.conn.info.tls.is_some();
        let received = request::read(head, &self.limits, &self.conn.manager.config.http1, secure);
        let Received { mut head, framing, keep_alive, dropped } = match received {
            Ok(received) => received,
            Err(e) => {
                if e == ParseError::Underscore {
                    self.conn.manager.stats.http1.requests_rejected_with_underscores_in_headers.inc();
                }
                return self.refuse(e.status(), e.details(), ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR).await;
            }
        };
        if dropped > 0 {
            self.conn.manager.stats.http1.dropped_headers_with_underscores.add(dropped.into());
        }
        let method = head.method.clone();
        let old = head.protocol == Protocol::Http10;
        if request::expects_continue(&head) && !self.conn.manager.config.proxy_100_continue {
            head.headers.remove(header::EXPECT);
            self.out.head.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        let (feed, body) = match framing {
            Framing::None => (None, Body::Empty),
            _ => {
                let (feed, body) = Body::pipe();
                (Some(feed), body)
            }
        };
        let mut upload = Upload {
            decoder: Decoder::new(framing, self.limits.body(self.conn.manager.config.http1.enable_trailers)),
            feed,
            failed: None,
            shared: self.shared.clone(),
            trailers: self.conn.manager.config.http1.enable_trailers,
        };
        // Boxed: an idle connection must not hold the room that a request needs.
        let mut clock = Clock::new(self.shared.clone(), &self.conn.manager.config);
        let handler = Box::pin(self.conn.clone().handle(head, body, head_bytes, self.shared.clone()));
        let Some(reply) = self.drive(handler, &mut upload, &mut clock).await else { return Next::Close };
        clock.shared.touch();
        self.reply(reply, upload, &method, old, keep_alive, clock).await
    }

    /// Polls the request's future, feeding it and watching the client. `None`: the client left.
    async fn drive<F: Future<Output = Reply>>(
        &mut self,
        mut handler: Pin<Box<F>>,
        upload: &mut Upload,
        clock: &mut Clock,
    ) -> Option<Reply> {
        let mut expired = false;
        poll_fn(|cx| {
            loop {
                let polled = handler.as_mut().poll(cx);
                // Also where the answer came together with it.
                if clock.shared.take_go_on() {
                    self.out.head.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                }
                if let Poll::Ready(reply) = polled {
                    return Poll::Ready(Some(reply));
                }
                if !self.out.is_empty() {
                    let mut n = 0;
                    let written = self.out.poll_write(&mut self.stream, cx, &mut n);
                    self.conn.manager.stats.downstream_cx_tx_bytes_total.add(n);
                    if let Poll::Ready(Err(_)) = written {
                        return Poll::Ready(None);
                    }
                }
                match upload.poll(&mut self.stream, &mut self.buf, cx) {
                    Poll::Ready(Activity::Fed) => {
                        clock.shared.touch();
                        continue;
                    }
                    Poll::Ready(Activity::Gone) => {
                        self.client_gone = true;
                        return Poll::Ready(None);
                    }
                    Poll::Pending => {}
                }
                if expired {
                    // A filter holds the request where it cannot be answered for.
                    return Poll::Ready(None);
                }
                self.timer.set(clock.deadline(upload.is_done()));
                ready!(self.timer.poll_expired(cx));
                clock.expire();
                expired = true;
            }
        })
        .await
    }

    /// Writes an answer and says what follows.
    #[allow(clippy::too_many_arguments, reason = "one call, the state of one answer")]
    async fn reply(
        &mut self,
        mut reply: Reply,
        mut upload: Upload,
        method: &Method,
        old: bool,
        keep_alive: bool,
        mut clock: Clock,
    ) -> Next {
        let status = reply.head.status;
        let tunnel = status == StatusCode::SWITCHING_PROTOCOLS || (*method == Method::CONNECT && status.is_success());
        let framing = if tunnel { Framing::UntilClose } else { request::response_framing(&reply, method, old) };
        let no_body = !tunnel && request::has_no_body(method, status);
        let incomplete = reply.local && !upload.is_done();
        let last = self.conn.is_last_request(self.requests) || self.is_too_old();
        let mut close = tunnel || !keep_alive || incomplete || last || framing == Framing::UntilClose;
        close |= reply.close || upload.failed.is_some();
        // The bytes behind a tunnel that was not opened are no request.
        close |= matches!(upload.decoder, Decoder::UntilClose);
        let connection = match (tunnel, close, old) {
            (true, _, _) => (status == StatusCode::SWITCHING_PROTOCOLS).then_some("upgrade"),
            (_, true, _) => Some("close"),
            (_, false, true) => Some("keep-alive"),
            _ => None,
        };
        let format = self.conn.manager.config.http1.header_key_format;
        let names = Names::new(format, &reply.head.spelling);
        encode::response(&mut self.out.head, old, status, &reply.head.headers, framing, connection, names);
        reply.end.head_sent(self.out.head.len() as u64);
        let mut body = std::mem::take(&mut reply.body);
        let trailers = self.conn.manager.config.http1.enable_trailers;
        let framing = if no_body { Framing::None } else { framing };
        let result = poll_fn(|cx| {
            self.poll_reply(cx, &mut body, framing, no_body, trailers, &mut upload, &mut reply, &mut clock)
        })
        .await;
        self.count_read();
        match result {
            Ok(()) => reply.end.finish(EndReason::Complete),
            Err(reason) => {
                reply.end.finish(reason);
                return Next::Close;
            }
        }
        if !close && upload.is_done() {
            return Next::KeepAlive;
        }
        // Who asked for the close and has sent a whole request sends nothing more that could meet a closed socket.
        let nothing_follows = !keep_alive && upload.is_done() && self.buf.bytes.is_empty();
        let quiet = nothing_follows && matches!(self.stream, Stream::Tcp(_) | Stream::Unix(_));
        if tunnel || quiet { Next::Close } else { Next::Linger }
    }

    #[allow(clippy::too_many_arguments, reason = "one call, the state of one answer")]
    fn poll_reply(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut Body,
        framing: Framing,
        no_body: bool,
        trailers: bool,
        upload: &mut Upload,
        reply: &mut Reply,
        clock: &mut Clock,
    ) -> Poll<Result<(), EndReason>> {
        loop {
            let mut source_pending = false;
            // The head waits for the first piece of the body, so that both leave in one write.
            while !reply.done && self.out.payload.is_empty() && self.out.head.len() < (16 << 10) {
                if no_body {
                    *body = Body::Empty;
                }
                match body.poll_frame(cx) {
                    Poll::Ready(Some(Ok(Frame::Data(d)))) => {
                        reply.end.body_sent(d.len() as u64);
                        self.out.push(d, framing == Framing::Chunked);
                    }
                    Poll::Ready(Some(Ok(Frame::Trailers(t)))) => {
                        if framing == Framing::Chunked {
                            encode::last_chunk(&mut self.out.head, trailers.then_some(&t));
                        }
                        reply.end.trailers(t);
                        reply.done = true;
                    }
                    Poll::Ready(None) => {
                        if framing == Framing::Chunked {
                            encode::last_chunk(&mut self.out.head, None);
                        }
                        reply.done = true;
                    }
                    Poll::Ready(Some(Err(e))) => {
                        // What there was of the answer goes out first.
                        reply.failed = Some(e);
                        reply.done = true;
                    }
                    Poll::Pending => {
                        source_pending = true;
                        break;
                    }
                }
            }
            let mut written = 0;
            let flushed = self.out.poll_write(&mut self.stream, cx, &mut written);
            reply.end.wire_sent(written);
            if written > 0 {
                self.conn.manager.stats.downstream_cx_tx_bytes_total.add(written);
                clock.shared.touch();
            }
            match flushed {
                Poll::Ready(Err(_)) => return Poll::Ready(Err(EndReason::DownstreamClosed)),
                Poll::Ready(Ok(())) if reply.done => {
                    return Poll::Ready(reply.failed.map_or(Ok(()), |e| Err(EndReason::Upstream(e))));
                }
                Poll::Ready(Ok(())) if !source_pending => continue,
                _ => {}
            }
            match upload.poll(&mut self.stream, &mut self.buf, cx) {
                Poll::Ready(Activity::Fed) => {
                    clock.shared.touch();
                    continue;
                }
                Poll::Ready(Activity::Gone) => {
                    self.client_gone = true;
                    return Poll::Ready(Err(EndReason::DownstreamClosed));
                }
                Poll::Pending => {}
            }
            clock.flushing(!self.out.is_empty());
            self.timer.set(clock.deadline(upload.is_done()));
            ready!(self.timer.poll_expired(cx));
            return Poll::Ready(Err(EndReason::Expired(clock.expire())));
        }
    }

    /// Refuses what is wrong before the rest of its head is here; `from`: what was looked at before. `true`: the first line is
    /// whole.
    fn look_ahead(&self, from: usize) -> Result<bool, ParseError> {
        let bytes = &self.buf.bytes;
        if bytes.first().is_some_and(|b| *b <= b' ') {
            return Err(ParseError::StartLine);
        }
        let Some(end) = memchr::memchr(b'\n', &bytes[from..]) else { return Ok(false) };
        // With more behind it, the line is read together with its fields.
        if from + end + 1 == bytes.len() {
            line::check_early(&bytes[..from + end], self.limits.custom_methods)?;
        }
        Ok(true)
    }

    /// Whether `max_connection_duration` has passed; then this request is the last.
    fn is_too_old(&mut self) -> bool {
        let passed = self.ends.is_some_and(|at| at <= Instant::now());
        if passed {
            self.conn.manager.stats.downstream_cx_max_duration_reached.inc();
        }
        passed
    }

    /// Answers what could not be read as a request, and closes.
    async fn refuse(&mut self, status: StatusCode, details: &'static str, flags: ResponseFlags) -> Next {
        let mut reply = self.conn.refuse(status, details, flags);
        let body = std::mem::take(&mut reply.body);
        let framing = Framing::Length(body.exact_len().unwrap_or(0));
        let format = self.conn.manager.config.http1.header_key_format;
        let (head, names) = (&reply.head, Names { format, spelling: &[] });
        encode::response(&mut self.out.head, false, head.status, &head.headers, framing, Some("close"), names);
        if let Body::Full(b) = body {
            reply.end.body_sent(b.len() as u64);
            self.out.push(b, false);
        }
        let mut n = 0;
        let written = poll_fn(|cx| self.out.poll_write(&mut self.stream, cx, &mut n)).await;
        self.conn.manager.stats.downstream_cx_tx_bytes_total.add(n);
        reply.end.finish(if written.is_ok() { EndReason::Complete } else { EndReason::DownstreamClosed });
        if written.is_ok() { Next::Linger } else { Next::Close }
    }

    /// Waits for the client to close, so that data under way to us does not destroy our answer on its way to the client.
    async fn linger(&mut self) {
        let Some(limit) = self.conn.manager.config.delayed_close_timeout else { return };
        if self.stream.shutdown().await.is_err() {
            return;
        }
        self.timer.set_after(Some(limit));
        poll_fn(|cx| {
            loop {
                self.buf.bytes.clear();
                match poll_read_small(&mut self.stream, cx, &mut self.buf.bytes) {
                    Poll::Ready(Ok(n)) if n > 0 => {}
                    Poll::Ready(_) => {
                        self.client_gone = true;
                        return Poll::Ready(());
                    }
                    Poll::Pending => break,
                }
            }
            ready!(self.timer.poll_expired(cx));
            self.conn.manager.stats.downstream_cx_delayed_close_timeout.inc();
            Poll::Ready(())
        })
        .await;
    }
}
