//! Accepting connections: one loop per listener address and worker.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};

use super::admission::{self, Place};
use super::balance::Held;
use super::connection::{self, Accepted};
use super::{Listener, Slot};
use crate::drain::Drain;
use crate::stream_info::PeerAddr;
use crate::transport::Stream;

/// A bound socket, on its worker.
pub enum Socket {
    /// TCP.
    Tcp(TcpListener),
    /// Unix.
    Unix(UnixListener),
}

impl Socket {
    async fn accept(&self) -> io::Result<(Stream, PeerAddr)> {
        match self {
            Socket::Tcp(l) => {
                let (s, peer) = l.accept().await?;
                Ok((Stream::Tcp(s), peer.into()))
            }
            Socket::Unix(l) => {
                let (s, peer) = l.accept().await?;
                let name = peer.as_pathname().and_then(|p| p.to_str()).unwrap_or_default();
                Ok((Stream::Unix(s), PeerAddr::Pipe(name.into())))
            }
        }
    }
}

impl Socket {
    /// Our end of every connection, where one need not ask each.
    fn local_addr(&self) -> Option<PeerAddr> {
        match self {
            Socket::Tcp(l) => l.local_addr().ok().filter(|a| !a.ip().is_unspecified()).map(PeerAddr::from),
            Socket::Unix(_) => None,
        }
    }
}

/// What an accept error calls for.
#[derive(Debug, PartialEq, Eq)]
enum Reaction {
    /// That connection's own trouble: the next one.
    Next,
    /// No descriptors or memory: wait, so that the loop does not spin.
    BackOff,
    /// The socket is of no use.
    Fatal,
}

fn react(e: &io::Error) -> Reaction {
    match e.raw_os_error() {
        Some(libc::ECONNABORTED | libc::EINTR | libc::EAGAIN | libc::EPROTO | libc::EPERM | libc::ENETDOWN) => {
            Reaction::Next
        }
        Some(
            libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::ENOPROTOOPT
            | libc::ENOTCONN,
        ) => Reaction::Next,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => Reaction::BackOff,
        _ => Reaction::Fatal,
    }
}

/// Pause after running out of descriptors, doubled up to the maximum while it lasts.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// Accepts until the listener drains.
pub async fn run(socket: Socket, slot: Arc<Slot>, worker: usize, drain: Drain) {
    let mut pause = BACK_OFF.0;
    let first = slot.load_full();
    let stop = first.stop.clone();
    let stopped = stop.notified();
    tokio::pin!(stopped);
    // Behind a transparent socket connections go to any address.
    let local = socket.local_addr().filter(|_| !first.config.transparent);
    let name = first.config.name.clone();
    let worker = Worker { slot, local, index: worker, drain };
    worker.open_inbox(&first);
    let max = first.config.max_accepts_per_event;
    drop(first);
    let mut in_a_row = 0;
    loop {
        if stop.is_draining() {
            return;
        }
        let accepted = tokio::select! {
            biased;
            () = &mut stopped => return,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                pause = BACK_OFF.0;
                worker.accepted(stream, peer);
                in_a_row += 1;
                if max.is_some_and(|max| in_a_row >= max) {
                    in_a_row = 0;
                    tokio::task::yield_now().await;
                }
            }
            Err(e) => match react(&e) {
                Reaction::Next => {}
                Reaction::BackOff => {
                    tracing::warn!(listener = %name, error = %e, "accept failed; raise the limit of open files (ulimit -n)");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(BACK_OFF.1);
                }
                Reaction::Fatal => {
                    tracing::error!(listener = %name, error = %e, "accept failed; the listener is closed");
                    return;
                }
            },
        }
    }
}

/// A listener on a worker.
#[derive(Clone)]
struct Worker {
    slot: Arc<Slot>,
    /// Our end of every connection, where it is the same.
    local: Option<PeerAddr>,
    index: usize,
    drain: Drain,
}

impl Worker {
    /// A connection was accepted here; it may be served elsewhere.
    fn accepted(&self, stream: Stream, peer: PeerAddr) {
        let listener = self.slot.load_full();
        let Some(place) = admission::admit(&listener) else { return };
        let Some(balancer) = listener.balancer.clone() else {
            return self.serve(listener, stream, peer, None, Some(place));
        };
        let (target, held) = balancer.choose(self.index);
        if target == self.index {
            return self.serve(listener, stream, peer, Some(held), Some(place));
        }
        if let Err(error) = balancer.hand_over(stream, peer, held, Some(place)) {
            tracing::debug!(listener = %listener.config.name, %error, "a connection could not go to another worker");
        }
    }

    fn serve(&self, listener: Arc<Listener>, stream: Stream, peer: PeerAddr, held: Option<Held>, place: Option<Place>) {
        let accepted = Accepted { stream, peer, local: self.local.clone(), _held: held, place };
        tokio::spawn(connection::serve(accepted, listener, self.index, self.drain.clone()));
    }

    /// Serves what other workers accept, where the listener balances.
    fn open_inbox(&self, listener: &Listener) {
        let Some(mut inbox) = listener.balancer.as_ref().and_then(|b| b.join(self.index)) else { return };
        // Another of its addresses may have accepted them.
        let worker = Worker { local: None, ..self.clone() };
        tokio::spawn(async move {
            while let Some(handed) = inbox.recv().await {
                match handed.take() {
                    Ok((stream, peer, held, place)) => {
                        worker.serve(worker.slot.load_full(), stream, peer, Some(held), place);
                    }
                    Err(error) => tracing::debug!(%error, "a connection could not be taken over"),
                }
            }
        });
    }
}
