//! One attempt of a request: a host's connection, the head sent, the response's head awaited.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{Method, header};
use tokio::time::Instant;

use super::pool::{self, Ask, Checkout};
use super::{PoolError, connector};
use crate::cluster::{Cluster, Host, Permit, Resource, outlier};
use crate::config::UpstreamProtocol;
use crate::http::body::{Body, BodyError};
use crate::http::h1::Framing;
use crate::http::h1::client::ExchangeError;
use crate::http::head::{RequestHead, ResponseHead};
use crate::http::retry::Failure;
use crate::stream_info::{Protocol, StreamInfo};

/// What an attempt holds while it lives: the counts of requests under way.
pub struct Books {
    /// Cluster.
    pub cluster: Arc<Cluster>,
    /// Host.
    pub host: Arc<Host>,
    started: Instant,
    /// The request's timeout and the attempt's own, where the cluster tracks how much of them is used.
    pub timeouts: [Option<Duration>; 2],
    /// Its place among the requests under way, once it has a connection.
    permit: Option<Permit>,
}

impl Books {
    /// Opens them. The host counts as busy from now on, though the request still waits for its connection: a host that is slow
    /// to accept is no better choice for the next one.
    pub fn new(cluster: &Arc<Cluster>, host: &Arc<Host>) -> Self {
        host.active.fetch_add(1, Ordering::Relaxed);
        Books {
            cluster: cluster.clone(),
            host: host.clone(),
            started: crate::clock::now(),
            timeouts: [None; 2],
            permit: None,
        }
    }

    /// The request has its connection.
    pub fn sent(&mut self, permit: Permit) {
        self.permit = Some(permit);
        self.cluster.stats.upstream_rq_active.inc();
        self.host.rq_total.fetch_add(1, Ordering::Relaxed);
    }

    /// Records the time of a whole exchange; `internal`: the client is (`x-envoy-internal`).
    pub fn complete(&self, internal: bool) {
        self.cluster.stats.took(self.started.elapsed(), internal);
    }

    /// The route's timeout ended it.
    pub fn timed_out(&self) {
        self.cluster.stats.upstream_rq_timeout.inc();
        self.host.rq_timeout.fetch_add(1, Ordering::Relaxed);
    }

    /// `per_try_idle_timeout` ended it behind the answer's head.
    pub fn idle(&self) {
        self.cluster.stats.upstream_rq_per_try_idle_timeout.inc();
        self.host.rq_timeout.fetch_add(1, Ordering::Relaxed);
        self.cluster.observe(&self.host, outlier::Outcome::Timeout);
    }
}

impl Drop for Books {
    fn drop(&mut self) {
        if self.permit.is_some() {
            self.cluster.stats.upstream_rq_active.dec();
            if let Some(t) = &self.cluster.tracked {
                t.attempt(self.started.elapsed(), self.timeouts[1]);
            }
        }
        self.host.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A failed attempt.
pub struct Failed {
    /// How.
    pub failure: Failure,
    /// The head went out.
    pub sent: bool,
    /// It lost the race with an idle close: nothing of a response was read on a connection that had served before.
    pub idle_race: bool,
}

impl From<PoolError> for Failed {
    fn from(e: PoolError) -> Self {
        let failure = match e {
            PoolError::Overflow => Failure::Overflow,
            PoolError::NoPool => Failure::NoHost,
            PoolError::Connect { reason, fault } => Failure::Connect { reason, fault },
        };
        Failed { failure, sent: false, idle_race: false }
    }
}

/// Where an attempt goes.
pub struct Via<'a> {
    /// Cluster.
    pub cluster: &'a Arc<Cluster>,
    /// Host.
    pub host: &'a Arc<Host>,
    /// Worker.
    pub worker: usize,
    /// High priority.
    pub high: bool,
    /// A CONNECT that ends here: what follows is bytes over TCP.
    pub tunnel: bool,
    /// The client's connection, for clusters whose pools are not shared among clients.
    pub downstream: u64,
}

/// Has a connection for a request, and its place among the requests under way.
///
/// # Errors
/// No connection could be had, or there is no place.
///
/// # Cancel safety
/// Dropped, it gives back what it holds.
pub async fn connect(via: &Via<'_>, head: &RequestHead, info: &mut StreamInfo) -> Result<(Checkout, Permit), Failed> {
    let protocol = via.cluster.config.protocol;
    let (sni, san) = names(&via.cluster.config, head);
    let asked = crate::clock::now();
    info.times.upstream_connect_start = Some(asked);
    let h2 = match protocol {
        _ if via.tunnel => false,
        UpstreamProtocol::Http1 => false,
        UpstreamProtocol::Http2 | UpstreamProtocol::Auto => true,
        UpstreamProtocol::Downstream => head.protocol == Protocol::Http2,
    };
    let conn = info.conn.clone();
    let alpn_decides = protocol == UpstreamProtocol::Auto && !via.tunnel;
    let connect =
        connector::Options { sni, san, alpn_decides, h2: (!via.tunnel).then_some(h2), downstream: Some(&conn) };
    let downstream = if via.cluster.config.pool_per_downstream {
        Some(via.downstream)
    } else {
        // What a connection begins with is said once, for all that it carries.
        via.cluster.transports.tell_downstream().then(|| pool::told(&conn))
    };
    let ask = Ask {
        cluster: via.cluster,
        host: via.host,
        worker: via.worker,
        high: via.high,
        // A connection was opened, and its peer verified, under a name: a request under another one must not use it.
        key: match via.tunnel {
            // No server name has a NUL: an idle connection that spoke HTTP is not taken for a tunnel.
            true => pool::key(Some("\0tunnel"), downstream),
            false => pool::key(san.or(sni), downstream),
        },
        connect: &connect,
    };
    let checkout = match pool::ready(&ask, h2) {
        Some(c) => Ok(c),
        None => Box::pin(pool::checkout(&ask, h2, alpn_decides)).await,
    };
    if matches!(checkout, Err(PoolError::Connect { .. })) {
        via.cluster.stats.upstream_rq_pending_failure_eject.inc();
    }
    let checkout = checkout?;
    let Some(permit) = via.cluster.breaker(via.high).acquire(Resource::Requests) else {
        checkout.put_back();
        return Err(PoolError::Overflow.into());
    };
    via.cluster.stats.upstream_rq_total.inc();
    info.upstream.pool_ready = Some(asked.elapsed());
    Ok((checkout, permit))
}

/// The server name that a connection is opened with and the name its certificate must have, where the request decides
/// them (`auto_sni`, `auto_san_validation`). An address is no server name.
fn names<'h>(config: &crate::config::Cluster, head: &'h RequestHead) -> (Option<&'h str>, Option<&'h str>) {
    if !config.auto_sni && !config.auto_san_validation {
        return (None, None);
    }
    let header = config.auto_sni_header.as_deref().and_then(|name| head.get(name));
    let value = header.filter(|v| !v.is_empty()).or_else(|| head.authority.as_ref().map(|a| a.as_bytes()));
    let Some(host) = value.and_then(|v| std::str::from_utf8(v).ok()) else { return (None, None) };
    let host = crate::http::manager::split_port(host).0;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let sni = Some(host).filter(|h| config.auto_sni && h.parse::<std::net::IpAddr>().is_err());
    (sni, Some(host).filter(|_| config.auto_san_validation))
}

/// Sends a request and waits for the head of its response.
///
/// # Errors
/// How it failed; nothing of a response was passed on.
///
/// # Cancel safety
/// Dropped, it gives up the attempt and closes or resets what it used.
pub async fn exchange(
    checkout: Checkout,
    head: &RequestHead,
    body: Body,
    info: &mut StreamInfo,
) -> Result<(ResponseHead, Body), Failed> {
    info.times.first_upstream_tx = Some(crate::clock::now());
    let result = match checkout {
        Checkout::H1(conn) => http1(conn, head, body, info).await,
        Checkout::H2(slot) => http2(slot, head, body, info).await,
    };
    info.times.first_upstream_rx = Some(crate::clock::now());
    result
}

/// Makes a tunnel of a connection: a CONNECT's own answer, and bytes behind it.
pub fn tunnel(checkout: Checkout, body: Body, info: &mut StreamInfo) -> Result<(ResponseHead, Body), Failed> {
    let Checkout::H1(mut conn) = checkout else {
        return Err(Failed { failure: Failure::Protocol, sent: false, idle_race: false });
    };
    info.times.first_upstream_tx = Some(crate::clock::now());
    info.upstream.connection_id = conn.home().id;
    info.upstream.local.clone_from(&conn.home().local);
    info.upstream.tls = conn.stream().tls_info();
    conn.start_tunnel(body);
    Ok((ResponseHead::new(http::StatusCode::OK), Body::H1(conn)))
}

async fn http1(
    mut conn: Box<crate::http::h1::client::H1Conn>,
    head: &RequestHead,
    body: Body,
    info: &mut StreamInfo,
) -> Result<(ResponseHead, Body), Failed> {
    info.upstream.protocol = Some(Protocol::Http11);
    info.upstream.connection_id = conn.home().id;
    info.upstream.local.clone_from(&conn.home().local);
    info.upstream.tls = conn.stream().tls_info();
    conn.start(head, request_framing(head, &body), body);
    conn.interim.clone_from(&info.interim);
    info.upstream.requests_on_connection = conn.served();
    let result = poll_fn(|cx| conn.poll_head(cx)).await;
    info.bytes.upstream_wire_sent = conn.wire_sent;
    info.bytes.upstream_wire_received = conn.wire_received();
    match result {
        Ok(response) if conn.body_done() && conn.is_reusable() => {
            conn.finish();
            Ok((response, Body::Empty))
        }
        Ok(response) => Ok((response, Body::H1(conn))),
        Err(e) => {
            let sent = conn.wire_sent > 0;
            Err(match e {
                ExchangeError::Closed { idle_race } => Failed { failure: Failure::Closed, sent, idle_race },
                ExchangeError::Protocol(_) => {
                    conn.home().cluster().stats.upstream_cx_protocol_error.inc();
                    Failed { failure: Failure::Protocol, sent, idle_race: false }
                }
                ExchangeError::Upload(e) => Failed { failure: Failure::Upload(e), sent, idle_race: false },
            })
        }
    }
}

async fn http2(
    slot: crate::http::h2::client::H2Slot,
    head: &RequestHead,
    body: Body,
    info: &mut StreamInfo,
) -> Result<(ResponseHead, Body), Failed> {
    info.upstream.protocol = Some(Protocol::Http2);
    info.upstream.connection_id = slot.id();
    info.upstream.local = slot.local().cloned();
    info.upstream.tls = slot.tls().cloned();
    let failed = |e: BodyError, sent: bool| Failed {
        failure: failure(e),
        sent,
        // Neither was looked at: one was not sent, the other is beyond the last stream of the peer's GOAWAY.
        idle_race: (!sent && e != BodyError::Protocol) || e == BodyError::GoneAway,
    };
    let mut exchange = slot.start(head, body).map_err(|e| failed(e, false))?;
    exchange.interim.clone_from(&info.interim);
    match poll_fn(|cx| exchange.poll_head(cx)).await {
        Ok(response) if exchange.is_end() => Ok((response, Body::H2(exchange))),
        Ok(response) => Ok((response, Body::H2(exchange))),
        Err(e) => Err(failed(e, true)),
    }
}

fn failure(e: BodyError) -> Failure {
    match e {
        BodyError::Closed => Failure::Closed,
        BodyError::GoneAway => Failure::Reset(crate::http::h2::Reason::REFUSED_STREAM),
        BodyError::Reset(crate::http::h2::Reason::PROTOCOL_ERROR) | BodyError::Protocol => Failure::Protocol,
        BodyError::Reset(r) => Failure::Reset(r),
        other => Failure::Upload(other),
    }
}

/// How a request's body is framed for an HTTP/1 upstream.
fn request_framing(head: &RequestHead, body: &Body) -> Framing {
    if head.upgrade.is_some() || head.method == Method::CONNECT {
        return Framing::UntilClose;
    }
    let length = head.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    match (length, body.exact_len()) {
        (Some(0), _) => Framing::None,
        (Some(n), _) => Framing::Length(n),
        (None, Some(0)) => Framing::None,
        (None, Some(n)) => Framing::Length(n),
        (None, None) => Framing::Chunked,
    }
}
