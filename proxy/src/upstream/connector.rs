//! Opening a transport to a host: address, socket options, time limit, TLS.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::AsyncWriteExt;

use super::socket::SocketError;
use super::{ConnectFault, PoolError, happy, proxy_header, socket};
use crate::cluster::{Cluster, Host, Transport};
use crate::config::Address;
use crate::stream_info::ConnInfo;
use crate::transport::Stream;
use crate::transport::tls::ConnectOptions;

/// ALPN of a cluster that speaks HTTP/1, HTTP/2, or either.
const ALPN_H1: &[&[u8]] = &[b"http/1.1"];
const ALPN_H2: &[&[u8]] = &[b"h2"];
const ALPN_AUTO: &[&[u8]] = &[b"h2", b"http/1.1"];

/// What a request wants of a new connection.
#[derive(Default)]
pub struct Options<'a> {
    /// SNI in place of the configured one (`auto_sni`).
    pub sni: Option<&'a str>,
    /// Name that the peer's certificate must have (`auto_san_validation`).
    pub san: Option<&'a str>,
    /// ALPN offers both protocols and its answer decides.
    pub alpn_decides: bool,
    /// The codec above speaks HTTP/2; `None`: it is not HTTP.
    pub h2: Option<bool>,
    /// The connection on whose behalf it is made, for a PROXY protocol header.
    pub downstream: Option<&'a ConnInfo>,
}

/// Connects.
///
/// # Errors
/// What failed, as `%UPSTREAM_TRANSPORT_FAILURE_REASON%` and response-code details have it.
pub async fn connect(cluster: &Arc<Cluster>, host: &Arc<Host>, options: &Options<'_>) -> Result<Stream, PoolError> {
    let began = tokio::time::Instant::now();
    let result = tokio::time::timeout(cluster.config.connect_timeout, open(cluster, host, options)).await;
    let error = match result {
        Ok(Ok(stream)) => {
            cluster.stats.upstream_cx_connect_ms.record(began.elapsed().as_millis() as u64);
            return Ok(stream);
        }
        Ok(Err((fault, reason))) => PoolError::Connect { reason: reason.into(), fault },
        Err(_) => {
            cluster.stats.upstream_cx_connect_timeout.inc();
            PoolError::Connect { reason: "".into(), fault: ConnectFault::Timeout }
        }
    };
    cluster.stats.upstream_cx_connect_fail.inc();
    host.cx_connect_fail.fetch_add(1, Ordering::Relaxed);
    Err(error)
}

fn remote(e: &std::io::Error) -> (ConnectFault, String) {
    (ConnectFault::Remote, format!("delayed connect error: {}", socket::describe(e)))
}

async fn open(cluster: &Cluster, host: &Host, options: &Options<'_>) -> Result<Stream, (ConnectFault, String)> {
    let mut stream = match transport(cluster, host).await {
        Ok(stream) => stream,
        Err(SocketError::Remote(e)) => return Err(remote(&e)),
        Err(SocketError::Local(reason)) => return Err((ConnectFault::Local, reason)),
    };
    let mut transport = cluster.transports.of(&host.metadata);
    while let Transport::Proxied(proxied) = transport {
        let header = proxy_header::header(proxied, options.downstream, (stream.local_addr(), stream.peer_addr()));
        stream.write_all(&header).await.map_err(|e| remote(&e))?;
        cluster.stats.upstream_cx_tx_bytes_total.add(header.len() as u64);
        transport = &proxied.inner;
    }
    let Transport::Tls(tls) = transport else { return Ok(stream) };
    let alpn = match (options.alpn_decides, options.h2) {
        (true, _) => ALPN_AUTO,
        (_, Some(true)) => ALPN_H2,
        (_, Some(false)) => ALPN_H1,
        (_, None) => &[],
    };
    let alpn: Vec<Vec<u8>> = alpn.iter().map(|p| p.to_vec()).collect();
    let sans: Vec<String> = options.san.map(str::to_owned).into_iter().collect();
    let connect = ConnectOptions {
        server_name: options.sni,
        host_name: (!host.hostname.is_empty()).then_some(&*host.hostname),
        san_override: &sans,
        alpn_override: None,
        alpn_fallback: &alpn,
    };
    let (stream, _) = tls.connect(stream, connect).await.map_err(|e| (ConnectFault::Remote, e.reason.into_owned()))?;
    Ok(stream)
}

/// A socket to the first of the host's addresses that takes it.
async fn transport(cluster: &Cluster, host: &Host) -> Result<Stream, SocketError> {
    let more = host.additional_addresses();
    let Address::Ip(first) = &host.address else { return socket::connect(cluster, &host.address).await };
    if more.is_empty() {
        return socket::connect(cluster, &host.address).await;
    }
    let more = more.iter().filter_map(|a| if let Address::Ip(a) = a { Some(*a) } else { None });
    let none = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable).into();
    let attempt = |a| async move { socket::connect(cluster, &Address::Ip(a)).await };
    Box::pin(happy::first(&happy::order(*first, more), none, attempt)).await
}
