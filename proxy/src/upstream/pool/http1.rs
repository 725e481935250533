//! HTTP/1 connections for requests: idle ones, new ones, and the wait for either.

use std::sync::atomic::Ordering;

use super::guard::{ConnGuard, Home, Turn};
use super::{Ask, NEXT_ID, Pending, connection_place, enqueue};
use crate::http::h1::client::H1Conn;
use crate::transport::Stream;
use crate::upstream::{PoolError, connector};

/// A connection, as [`super::checkout`] has it.
pub(super) async fn checkout(ask: &Ask<'_>) -> Result<Box<H1Conn>, PoolError> {
    let pending = Pending::new(ask)?;
    let result = wait(ask).await;
    pending.over();
    result
}

async fn wait(ask: &Ask<'_>) -> Result<Box<H1Conn>, PoolError> {
    loop {
        let wait = {
            let mut pools = ask.host.pool(ask.worker).lock();
            let on_host = pools.open;
            let pool = pools.of(ask.key);
            if let Some(parked) = pool.idle.pop() {
                return Ok(parked.conn);
            }
            match connection_place(ask, pool.open == 0, on_host) {
                Some(permit) => {
                    pool.open += 1;
                    pools.open += 1;
                    Err(ConnGuard::new(ask, permit, true))
                }
                None => Ok(enqueue(&mut pool.waiting)),
            }
        };
        match wait {
            Err(guard) => return connect(ask, guard).await,
            Ok(turn) => match turn.await {
                Ok(Turn::Conn(conn)) => return Ok(conn),
                Ok(Turn::Connect(place)) => place.taken(),
                Err(_) => {}
            },
        }
    }
}

async fn connect(ask: &Ask<'_>, mut guard: ConnGuard) -> Result<Box<H1Conn>, PoolError> {
    match connector::connect(ask.cluster, ask.host, ask.connect).await {
        Ok(stream) => {
            ask.cluster.stats.upstream_cx_http1_total.inc();
            Ok(wrap(ask, guard, stream))
        }
        Err(e) => {
            guard.closing(e.is_remote(), false);
            Err(e)
        }
    }
}

/// A connection over a stream that speaks HTTP/1.
pub(super) fn wrap(ask: &Ask<'_>, guard: ConnGuard, stream: Stream) -> Box<H1Conn> {
    let c = &ask.cluster.config;
    let limits = crate::http::h1::ParseLimits {
        max_bytes: c.common.max_response_headers_bytes,
        max_headers: c.common.max_headers_count as usize,
        underscores: c.common.underscores,
        custom_methods: true,
        allow_chunked_length: c.http1.allow_chunked_length,
    };
    let home = Home::new(guard, NEXT_ID.fetch_add(1, Ordering::Relaxed), stream.local_addr());
    H1Conn::new(stream, limits, &c.http1, home)
}
