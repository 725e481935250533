//! Places on HTTP/2 connections for requests: on one that is there, on a new one, and the wait for either.

use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use super::guard::{ConnGuard, Place, Turns};
use super::{Ask, Checkout, NEXT_ID, Pending, connection_place, enqueue, http1};
use crate::http::h2::client::H2Handle;
use crate::upstream::{ConnectFault, PoolError, connector};

/// A place, as [`super::checkout`] has it. With `auto`, an HTTP/1 connection where ALPN chose that.
pub(super) async fn checkout(ask: &Ask<'_>, auto: bool) -> Result<Checkout, PoolError> {
    let mut pending = None;
    let result = wait(ask, auto, &mut pending).await;
    if let Some(p) = pending {
        p.over();
    }
    match result? {
        Some(checkout) => Ok(checkout),
        None => http1::checkout(ask).await.map(Checkout::H1),
    }
}

/// A place; `None`: ALPN chose HTTP/1. `pending` is filled in once there is a wait.
async fn wait<'a>(ask: &Ask<'a>, auto: bool, pending: &mut Option<Pending<'a>>) -> Result<Option<Checkout>, PoolError> {
    loop {
        if let Some(at_hand) = super::ready(ask, true) {
            return Ok(Some(at_hand));
        }
        let next = {
            let mut pools = ask.host.pool(ask.worker).lock();
            let on_host = pools.open;
            let pool = pools.of(ask.key);
            if auto && pool.speaks_h1 {
                Next::Http1
            } else {
                if pending.is_none() {
                    *pending = Some(Pending::new(ask)?);
                }
                if pool.h2_connecting {
                    let (tx, rx) = oneshot::channel();
                    pool.h2_waiting.push(tx);
                    Next::Wait(rx)
                } else if let Some(permit) = connection_place(ask, pool.h2.is_empty(), on_host) {
                    pool.h2_connecting = true;
                    pools.open += 1;
                    Next::Connect(ConnGuard::new(ask, permit, false))
                } else {
                    Next::Full(enqueue(&mut pool.h2_full))
                }
            }
        };
        match next {
            Next::Http1 => return Ok(None),
            Next::Wait(rx) => {
                if let Ok(Err(e)) = rx.await {
                    return Err(e);
                }
            }
            Next::Full(rx) => {
                if let Ok(place) = rx.await {
                    place.taken();
                }
            }
            Next::Connect(guard) => return connect(ask, guard).await.map(Some),
        }
    }
}

/// What a request that found no place does.
enum Next {
    Wait(oneshot::Receiver<Result<(), PoolError>>),
    Full(oneshot::Receiver<Place>),
    Http1,
    Connect(ConnGuard),
}

/// Connects for everybody who waits. Ends the waiting however it ends, also when it is dropped.
async fn connect(ask: &Ask<'_>, guard: ConnGuard) -> Result<Checkout, PoolError> {
    let mut waiters = Waiters { ask, result: None };
    let result = open(ask, guard).await;
    waiters.result = Some(result.as_ref().map(|_| ()).map_err(Clone::clone));
    result
}

async fn open(ask: &Ask<'_>, mut guard: ConnGuard) -> Result<Checkout, PoolError> {
    let stream = match connector::connect(ask.cluster, ask.host, ask.connect).await {
        Ok(stream) => stream,
        Err(e) => {
            guard.closing(e.is_remote(), false);
            return Err(e);
        }
    };
    if ask.connect.alpn_decides && stream.tls_info().is_none_or(|t| &*t.alpn != "h2") {
        guard.h1 = true;
        let mut pools = ask.host.pool(ask.worker).lock();
        let pool = pools.of(ask.key);
        pool.speaks_h1 = true;
        pool.open += 1;
        drop(pools);
        ask.cluster.stats.upstream_cx_http1_total.inc();
        return Ok(Checkout::H1(http1::wrap(ask, guard, stream)));
    }
    ask.cluster.stats.upstream_cx_http2_total.inc();
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    let handle = H2Handle::connect(stream, id, guard);
    let mine = handle.reserve();
    let mut pools = ask.host.pool(ask.worker).lock();
    if ask.host.is_removed() {
        // It left while this was being opened: no other request will come.
        handle.drain();
    }
    pools.of(ask.key).h2.push(handle);
    drop(pools);
    mine.map(Checkout::H2)
        .ok_or(PoolError::Connect { reason: "connection closed by peer".into(), fault: ConnectFault::Remote })
}

struct Waiters<'a, 'b> {
    ask: &'a Ask<'b>,
    result: Option<Result<(), PoolError>>,
}

impl Drop for Waiters<'_, '_> {
    fn drop(&mut self) {
        let (waiting, more) = {
            let mut pools = self.ask.host.pool(self.ask.worker).lock();
            let pool = pools.of(self.ask.key);
            pool.h2_connecting = false;
            (std::mem::take(&mut pool.h2_waiting), pool.next_may_look())
        };
        // Given up midway: the others try again by themselves.
        let result = self.result.take().unwrap_or(Ok(()));
        for w in waiting {
            let _ = w.send(result.clone());
        }
        if more {
            Turns::for_streams(self.ask).pass();
        }
    }
}
