//! `exact_balance`: each worker has as many connections of a listener as the others, whoever accepts them.
//!
//! For few connections that live long: the system's own choice among sockets leaves some workers without any. Each costs a
//! lock, and a hand-over if it goes to another worker. Runs on: workers.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::admission::Place;
use crate::stream_info::PeerAddr;
use crate::transport::Stream;

/// Connections of a listener by worker.
#[derive(Debug)]
pub(super) struct Balancer(Mutex<Vec<Slot>>);

#[derive(Debug, Default)]
struct Slot {
    open: u64,
    /// Absent until the worker serves the listener.
    inbox: Option<UnboundedSender<Handed>>,
}

/// A connection on its way to another worker.
pub(super) struct Handed {
    socket: Socket,
    peer: PeerAddr,
    held: Held,
    place: Option<Place>,
}

enum Socket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// A connection's place in its worker's count.
pub(super) struct Held {
    balancer: Arc<Balancer>,
    worker: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(slot) = self.balancer.0.lock().get_mut(self.worker) {
            slot.open -= 1;
        }
    }
}

impl Balancer {
    pub(super) fn new(workers: usize) -> Arc<Self> {
        Arc::new(Balancer(Mutex::new((0..workers).map(|_| Slot::default()).collect())))
    }

    /// Opens a worker's inbox; `None`: it is open already. Bounded by what may be accepted.
    pub(super) fn join(&self, worker: usize) -> Option<UnboundedReceiver<Handed>> {
        let mut slots = self.0.lock();
        let slot = slots.get_mut(worker).filter(|s| s.inbox.is_none())?;
        let (sender, receiver) = unbounded_channel();
        slot.inbox = Some(sender);
        Some(receiver)
    }

    /// Chooses the worker of a connection that `own` accepted, and counts it there. Its own where that has no more than others.
    pub(super) fn choose(self: &Arc<Self>, own: usize) -> (usize, Held) {
        let mut slots = self.0.lock();
        let ready = slots.iter().enumerate().filter(|(i, s)| *i == own || s.inbox.is_some());
        let worker = ready.min_by_key(|(i, s)| (s.open, *i != own)).map_or(own, |(i, _)| i);
        if let Some(slot) = slots.get_mut(worker) {
            slot.open += 1;
        }
        (worker, Held { balancer: self.clone(), worker })
    }

    /// Hands a connection to the worker it was counted for.
    ///
    /// # Errors
    /// The system's; the connection is closed.
    pub(super) fn hand_over(&self, stream: Stream, peer: PeerAddr, held: Held, place: Option<Place>) -> io::Result<()> {
        let socket = match stream {
            Stream::Tcp(s) => Socket::Tcp(s.into_std()?),
            Stream::Unix(s) => Socket::Unix(s.into_std()?),
            // Nothing else is accepted.
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        let inbox = self.0.lock().get(held.worker).and_then(|s| s.inbox.clone());
        let sent = inbox.is_some_and(|inbox| inbox.send(Handed { socket, peer, held, place }).is_ok());
        if sent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }
}

impl Handed {
    /// The connection, for the worker this runs on.
    ///
    /// # Errors
    /// The system's; the connection is closed.
    pub(super) fn take(self) -> io::Result<(Stream, PeerAddr, Held, Option<Place>)> {
        let stream = match self.socket {
            Socket::Tcp(s) => Stream::Tcp(tokio::net::TcpStream::from_std(s)?),
            Socket::Unix(s) => Stream::Unix(tokio::net::UnixStream::from_std(s)?),
        };
        Ok((stream, self.peer, self.held, self.place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worker_with_fewest_and_at_a_tie_ones_own() {
        let balancer = Balancer::new(3);
        let _inboxes: Vec<_> = (0..3).map(|w| balancer.join(w).unwrap()).collect();
        assert!(balancer.join(1).is_none(), "one inbox each");
        let (mut held, mut count) = (Vec::new(), [0; 3]);
        // One worker accepts them all.
        for _ in 0..7 {
            let (worker, place) = balancer.choose(1);
            count[worker] += 1;
            held.push(place);
        }
        assert_eq!(count, [2, 3, 2]);
        // Two of worker 1 leave: the next is its own.
        held.retain(|h| h.worker != 1);
        assert_eq!(balancer.choose(0).0, 1);
    }

    #[test]
    fn a_worker_that_does_not_serve_the_listener_gets_none() {
        let balancer = Balancer::new(2);
        let kept: Vec<_> = (0..4).map(|_| balancer.choose(0)).collect();
        assert!(kept.iter().all(|(worker, _)| *worker == 0));
    }

    #[tokio::test]
    async fn a_connection_arrives_with_its_bytes() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let balancer = Balancer::new(2);
        let mut inbox = balancer.join(1).unwrap();
        let _busy = balancer.choose(0);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
        let (mut client, (server, peer)) = (client.unwrap(), accepted.unwrap());
        client.write_all(b"hi").await.unwrap();
        let (worker, held) = balancer.choose(0);
        assert_eq!(worker, 1);
        balancer.hand_over(server.into(), peer.into(), held, None).unwrap();
        let (mut stream, from, held, _) = inbox.recv().await.unwrap().take().unwrap();
        assert_eq!(from, peer.into());
        let mut got = [0; 2];
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hi");
        drop(held);
        assert_eq!(balancer.choose(1).0, 1, "its place is free again");
    }
}
