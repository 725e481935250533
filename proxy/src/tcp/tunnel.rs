//! A connection inside of a CONNECT over HTTP/1 (`tunneling_config`): the head goes out first, and bytes follow once it is answered.
//!
//! Runs on: workers; the control thread compiles.

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderValue, Method};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::access_log::LogContext;
use crate::cluster::Cluster;
use crate::config::{self, ConfigError, UpstreamProtocol};
use crate::http::HeaderMap;
use crate::http::h1::{Framing, ParseLimits, encode, parse};
use crate::http::head::{RequestHead, Scheme};
use crate::http::headers::{Format, Mutations};
use crate::stream_info::{Protocol, StreamInfo};
use crate::transport::Stream;

/// What is asked for.
pub(super) struct Tunnel {
    hostname: Format,
    headers: Mutations,
}

impl Tunnel {
    /// Compiles.
    ///
    /// # Errors
    /// A format that is none.
    pub(super) fn new(config: &config::Tunnel) -> Result<Self, ConfigError> {
        let hostname = Format::new(&config.hostname)
            .map_err(|reason| ConfigError::at("tunneling_config.hostname".to_owned(), reason))?;
        Ok(Tunnel { hostname, headers: Mutations::new(&config.headers_to_add)? })
    }

    /// Asks for the connection. The time it may take is the caller's to limit.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn open(
        &self,
        mut stream: Stream,
        cluster: &Cluster,
        facts: &mut StreamInfo,
    ) -> Result<Stream, String> {
        if cluster.config.protocol != UpstreamProtocol::Http1 {
            return Err("tunnelling is supported over HTTP/1 only".to_owned());
        }
        let head = self.head(cluster, facts)?;
        stream.write_all(&head).await.map_err(|e| format!("tunnel request: {e}"))?;
        cluster.stats.upstream_cx_tx_bytes_total.add(head.len() as u64);
        facts.bytes.upstream_headers_sent += head.len() as u64;
        let rest = answer(&mut stream, cluster, facts).await?;
        Ok(if rest.is_empty() { stream } else { Stream::prefixed(rest, stream) })
    }

    fn head(&self, cluster: &Cluster, facts: &StreamInfo) -> Result<Vec<u8>, String> {
        let ctx = LogContext::new(facts);
        let hostname = HeaderValue::from_bytes(&self.hostname.render(&ctx))
            .map_err(|_| "tunneling_config.hostname comes out as no host".to_owned())?;
        let mut headers = HeaderMap::new();
        self.headers.apply_logged(&ctx, &mut headers);
        let head = RequestHead {
            method: Method::CONNECT,
            scheme: Scheme::Http,
            authority: Some(hostname),
            path: "".into(),
            headers,
            protocol: Protocol::Http11,
            upgrade: None,
            spelling: None,
        };
        let mut out = Vec::new();
        encode::request(&mut out, &head, Framing::None, cluster.config.http1.header_key_format, false);
        Ok(out)
    }
}

/// Reads the answer; what came behind it belongs to the connection.
async fn answer(stream: &mut Stream, cluster: &Cluster, facts: &mut StreamInfo) -> Result<Bytes, String> {
    let common = &cluster.config.common;
    let limits = ParseLimits {
        max_bytes: common.max_response_headers_bytes,
        max_headers: common.max_headers_count as usize,
        underscores: common.underscores,
        custom_methods: true,
        allow_chunked_length: false,
    };
    let mut read = BytesMut::new();
    loop {
        if let Some(end) = parse::head_end(&read, 0) {
            let head = read.split_to(end).freeze();
            cluster.stats.upstream_cx_rx_bytes_total.add(end as u64);
            facts.bytes.upstream_headers_received += end as u64;
            let answer = parse::response(head, &limits, false).map_err(|e| {
                cluster.stats.upstream_cx_protocol_error.inc();
                format!("tunnel response: {e}")
            })?;
            match answer.status {
                status if status.is_success() => return Ok(read.freeze()),
                status if status.is_informational() && status != http::StatusCode::SWITCHING_PROTOCOLS => continue,
                status => return Err(format!("tunnel refused: {}", status.as_u16())),
            }
        }
        if read.len() > limits.max_bytes {
            return Err("tunnel response: head too large".to_owned());
        }
        let n = stream.read_buf(&mut read).await.map_err(|e| format!("tunnel response: {e}"))?;
        if n == 0 {
            return Err(format!("tunnel response: closed after {} bytes", read.remaining()));
        }
    }
}
