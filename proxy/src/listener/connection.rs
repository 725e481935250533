//! A connection from accept to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::Listener;
use super::runtime::{Chain, End};
use crate::config::CodecType;
use crate::drain::Drain;
use crate::http::connection::HttpConn;
use crate::http::h1::server::ServerConn;
use crate::http::h2;
use crate::http::manager::Manager;
use crate::stream_info::{ConnInfo, PeerAddr, TlsInfo};
use crate::transport::Stream;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Serves a connection.
pub(super) async fn serve(stream: Stream, peer: PeerAddr, listener: Arc<Listener>, worker: usize, drain: Drain) {
    let _open = drain.hold();
    let stats = &listener.stats;
    stats.downstream_cx_total.inc();
    stats.downstream_cx_active.inc();
    let began = Instant::now();
    let local = stream.local_addr().unwrap_or(PeerAddr::Pipe("".into()));
    match listener.chains.first() {
        Some(chain) => {
            if let Some((stream, tls)) = secure(stream, chain, &listener).await {
                let info = info(&listener, chain, &peer, local, began, tls);
                run(stream, chain, info, worker, drain.clone()).await;
            }
        }
        None => stats.no_filter_chain_match.inc(),
    }
    stats.downstream_cx_active.dec();
    stats.downstream_cx_destroy.inc();
    stats.downstream_cx_length_ms.record(began.elapsed().as_millis() as u64);
}

/// The TLS handshake, where the chain has one. `None`: it failed.
async fn secure(stream: Stream, chain: &Chain, listener: &Listener) -> Option<(Stream, Option<Arc<TlsInfo>>)> {
    let Some(tls) = &chain.tls else { return Some((stream, None)) };
    // A handshake without a configured limit is still bounded, by the time a client has for anything before its first byte.
    let limit = chain.handshake_timeout.unwrap_or(HANDSHAKE);
    match tokio::time::timeout(limit, Box::pin(tls.accept(stream))).await {
        Ok(Ok((stream, info))) => Some((stream, Some(info))),
        Ok(Err(e)) => {
            tracing::debug!(listener = %listener.config.name, error = %e, "TLS handshake failed");
            None
        }
        Err(_) => {
            listener.stats.scope.counter("downstream_cx_transport_socket_connect_timeout").inc();
            None
        }
    }
}

/// Bound of a TLS handshake where none is configured.
const HANDSHAKE: std::time::Duration = std::time::Duration::from_secs(15);

fn info(
    listener: &Listener,
    chain: &Chain,
    peer: &PeerAddr,
    local: PeerAddr,
    start: Instant,
    tls: Option<Arc<TlsInfo>>,
) -> Arc<ConnInfo> {
    Arc::new(ConnInfo {
        id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
        start,
        start_wall: SystemTime::now(),
        remote: peer.clone(),
        direct_remote: peer.clone(),
        direct_local: local.clone(),
        local,
        local_restored: false,
        listener: listener.info.clone(),
        filter_chain: chain.name.clone(),
        transport_protocol: "",
        sni: tls.as_ref().map_or_else(|| "".into(), |t| t.sni.clone()),
        tls,
        proxy_tlvs: Vec::new(),
        proxy_protocol: false,
        metadata: std::collections::BTreeMap::new(),
        termination_details: Mutex::new(None),
        transport_failure: Mutex::new(None),
        handshake: None,
    })
}

async fn run(mut stream: Stream, chain: &Chain, info: Arc<ConnInfo>, worker: usize, drain: Drain) {
    match &chain.end {
        End::Http(manager) => http(stream, manager.clone(), info, worker, drain).await,
        End::Tcp(proxy) => proxy.clone().serve(stream, info, worker).await,
        End::Direct(data) => {
            let _ = stream.write_all(data).await;
            let _ = stream.shutdown().await;
        }
        End::Echo => {
            let (mut r, mut w) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut r, &mut w).await;
            let _ = w.shutdown().await;
        }
        End::Close => {}
    }
}

/// What tells HTTP/2: as much of the client's preface as Envoy looks at. The rest of it is the codec's to check.
const PREFACE: &[u8] = b"PRI * HTTP/2";

async fn http(mut stream: Stream, manager: Arc<Manager>, info: Arc<ConnInfo>, worker: usize, drain: Drain) {
    manager.stats.downstream_cx_total.inc();
    manager.stats.downstream_cx_active.inc();
    let began = info.start;
    let conn = Arc::new(HttpConn { manager: manager.clone(), info, worker, drain });
    let detected = match manager.config.codec {
        CodecType::Http1 => Some((false, Bytes::new())),
        CodecType::Http2 => Some((true, Bytes::new())),
        CodecType::Auto => detect(&mut stream, &conn).await,
    };
    match detected {
        Some((true, already)) => {
            manager.stats.downstream_cx_http2_total.inc();
            manager.stats.downstream_cx_http2_active.inc();
            Box::pin(h2::server::serve(stream, already, conn)).await;
            manager.stats.downstream_cx_http2_active.dec();
        }
        Some((false, already)) => {
            manager.stats.downstream_cx_http1_total.inc();
            manager.stats.downstream_cx_http1_active.inc();
            ServerConn::new(stream, already, conn).run().await;
            manager.stats.downstream_cx_http1_active.dec();
        }
        None => {}
    }
    manager.stats.downstream_cx_active.dec();
    manager.stats.downstream_cx_destroy.inc();
    manager.stats.downstream_cx_length_ms.record(began.elapsed().as_millis() as u64);
}

/// HTTP/2 or HTTP/1, by ALPN or by the first bytes. `None`: the client left or was silent for too long.
async fn detect(stream: &mut Stream, conn: &HttpConn) -> Option<(bool, Bytes)> {
    if let Some(tls) = stream.tls_info()
        && !tls.alpn.is_empty()
    {
        return Some((&*tls.alpn == "h2", Bytes::new()));
    }
    let mut buf = BytesMut::new();
    let idle = conn.manager.config.common.idle_timeout.unwrap_or(std::time::Duration::from_secs(3600));
    loop {
        let n = buf.len().min(PREFACE.len());
        if buf[..n] != PREFACE[..n] {
            return Some((false, buf.freeze()));
        }
        if n == PREFACE.len() {
            return Some((true, buf.freeze()));
        }
        // Small: a client that never speaks must not cost a buffer.
        let mut first = [0u8; 1024];
        let read = tokio::select! {
            biased;
            () = conn.drain.notified() => return None,
            read = tokio::time::timeout(idle, stream.read(&mut first)) => read,
        };
        match read {
            Ok(Ok(n)) if n > 0 => buf.extend_from_slice(&first[..n]),
            _ => return None,
        }
    }
}
