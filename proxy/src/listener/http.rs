//! A connection of an HTTP connection manager: which HTTP it speaks, and its codec.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};

use crate::config::CodecType;
use crate::drain::Drain;
use crate::http::connection::HttpConn;
use crate::http::h1::server::ServerConn;
use crate::http::h2;
use crate::http::manager::Manager;
use crate::stream_info::ConnInfo;
use crate::timer::LazyTimer;
use crate::transport::Stream;

/// What tells HTTP/2: as much of the client's preface as Envoy looks at. The rest of it is the codec's to check.
const PREFACE: &[u8] = b"PRI * HTTP/2";

/// Serves a connection until it is closed.
pub(super) async fn serve(mut stream: Stream, manager: Arc<Manager>, info: Arc<ConnInfo>, worker: usize, drain: Drain) {
    let mut timer = LazyTimer::default();
    let conn = Arc::new(HttpConn { manager: manager.clone(), info, worker, drain });
    let detected = match manager.config.codec {
        CodecType::Http1 => Some((false, BytesMut::new())),
        CodecType::Http2 => Some((true, BytesMut::new())),
        CodecType::Auto => detect(&mut stream, &conn, &mut timer).await,
    };
    match detected {
        Some((true, already)) => {
            manager.stats.downstream_cx_http2_total.inc();
            manager.stats.downstream_cx_http2_active.inc();
            Box::pin(h2::server::serve(stream, already.freeze(), conn)).await;
            manager.stats.downstream_cx_http2_active.dec();
        }
        Some((false, already)) => {
            manager.stats.downstream_cx_http1_total.inc();
            manager.stats.downstream_cx_http1_active.inc();
            ServerConn::new(stream, already, conn, timer).run().await;
            manager.stats.downstream_cx_http1_active.dec();
        }
        None => {}
    }
}

/// HTTP/2 or HTTP/1, by ALPN or by the first bytes. `None`: the client left or was silent for too long.
async fn detect(stream: &mut Stream, conn: &HttpConn, timer: &mut LazyTimer) -> Option<(bool, BytesMut)> {
    if let Some(tls) = stream.tls_info()
        && !tls.alpn.is_empty()
    {
        return Some((&*tls.alpn == "h2", BytesMut::new()));
    }
    let mut buf = BytesMut::new();
    timer.set_after(Some(conn.manager.config.common.idle_timeout.unwrap_or(Duration::from_secs(3600))));
    let mut drain = std::pin::pin!(conn.drain.notified());
    loop {
        let n = buf.len().min(PREFACE.len());
        if buf[..n] != PREFACE[..n] {
            return Some((false, buf));
        }
        if n == PREFACE.len() {
            return Some((true, buf));
        }
        let read = poll_fn(|cx| {
            if let Poll::Ready(read) = poll_first(stream, cx, &mut buf) {
                return Poll::Ready(read.unwrap_or(0));
            }
            if drain.as_mut().poll(cx).is_ready() {
                return Poll::Ready(0);
            }
            timer.poll_expired(cx).map(|()| 0)
        });
        if read.await == 0 {
            return None;
        }
    }
}

/// Reads through the stack: a client that never speaks costs no buffer.
fn poll_first(stream: &mut Stream, cx: &mut Context<'_>, buf: &mut BytesMut) -> Poll<io::Result<usize>> {
    let mut first = [0u8; 1024];
    let mut read = ReadBuf::new(&mut first);
    ready!(Pin::new(stream).poll_read(cx, &mut read))?;
    buf.extend_from_slice(read.filled());
    Poll::Ready(Ok(read.filled().len()))
}
