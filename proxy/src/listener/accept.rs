//! Accepting connections: one loop per listener address and worker.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};

use super::Listener;
use super::connection;
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
                s.set_nodelay(true)?;
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
pub async fn run(socket: Socket, listener: Arc<Listener>, worker: usize, drain: Drain) {
    let mut pause = BACK_OFF.0;
    let stop = listener.stop.clone();
    let stopped = stop.notified();
    tokio::pin!(stopped);
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
                tokio::spawn(connection::serve(stream, peer, listener.clone(), worker, drain.clone()));
            }
            Err(e) => match react(&e) {
                Reaction::Next => {}
                Reaction::BackOff => {
                    tracing::warn!(listener = %listener.config.name, error = %e, "accept failed; raise the limit of open files (ulimit -n)");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(BACK_OFF.1);
                }
                Reaction::Fatal => {
                    tracing::error!(listener = %listener.config.name, error = %e, "accept failed; the listener is closed");
                    return;
                }
            },
        }
    }
}
