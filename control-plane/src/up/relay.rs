//! The machine's ports for gateways: each connection is handed on to the gateway's own port in the mesh's network.
//!
//! Owns the listening sockets. They are on the loopback unless somebody says otherwise.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};

use super::namespace::Namespace;

/// How many connections a port carries at once.
const CONNECTIONS: usize = 1024;
/// What is added to a port that may not be opened: below 1024, or taken.
const OTHERWISE: u16 = 8000;
/// After this long without a gateway behind it, a connection is given up.
const CONNECT: Duration = Duration::from_secs(5);

/// The ports.
pub struct Relay {
    host: IpAddr,
    /// From where gateways are reached.
    from: Arc<Namespace>,
    ports: BTreeMap<SocketAddr, Open>,
    tasks: JoinSet<()>,
}

/// A port that is open.
struct Open {
    address: SocketAddr,
    task: AbortHandle,
}

impl Relay {
    /// No ports yet, on this address of the machine.
    #[must_use]
    pub fn new(host: IpAddr, from: Arc<Namespace>) -> Self {
        Self { host, from, ports: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// Opens what is wanted and closes what is not: addresses of gateways' ports. Returns where each is open now, and why those
    /// that are not could not be opened.
    pub async fn set(&mut self, wanted: &[SocketAddr]) -> (BTreeMap<SocketAddr, SocketAddr>, Vec<String>) {
        self.ports.retain(|to, open| {
            let stays = wanted.contains(to);
            if !stays {
                open.task.abort();
            }
            stays
        });
        let mut problems = Vec::new();
        for &to in wanted {
            if self.ports.contains_key(&to) {
                continue;
            }
            let opened = self.open(to.port()).await.and_then(|listener| Ok((listener.local_addr()?, listener)));
            match opened {
                Ok((address, listener)) => {
                    let task = self.tasks.spawn(accept(listener, to, self.from.clone()));
                    self.ports.insert(to, Open { address, task });
                }
                Err(error) => problems.push(format!("port {} of this machine: {error}", to.port())),
            }
        }
        while self.tasks.try_join_next().is_some() {}
        (self.ports.iter().map(|(to, open)| (*to, open.address)).collect(), problems)
    }

    async fn open(&self, port: u16) -> io::Result<TcpListener> {
        let first = match TcpListener::bind((self.host, port)).await {
            Ok(listener) => return Ok(listener),
            Err(error) => error,
        };
        let other = port.checked_add(OTHERWISE).ok_or_else(|| io::Error::from(first.kind()))?;
        TcpListener::bind((self.host, other)).await.map_err(|second| {
            io::Error::other(format!("{first}, and {other} instead of it: {second}; end what listens there"))
        })
    }
}

/// Carries connections until it is aborted, and those that are open then with it.
async fn accept(listener: TcpListener, to: SocketAddr, from: Arc<Namespace>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut carried = JoinSet::new();
    loop {
        while carried.try_join_next().is_some() {}
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((client, _)) => {
                let from = from.clone();
                carried.spawn(async move {
                    let _slot = slot;
                    let _ = carry(client, to, &from).await;
                });
            }
            // Too many open files, as a rule: it gets better when connections end.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn carry(mut client: TcpStream, to: SocketAddr, from: &Namespace) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut gateway = tokio::time::timeout(CONNECT, connect(to, from)).await??;
    tokio::io::copy_bidirectional(&mut client, &mut gateway).await?;
    Ok(())
}

/// A connection from within a namespace.
///
/// # Errors
/// When nothing listens there.
pub async fn connect(to: SocketAddr, from: &Namespace) -> io::Result<TcpStream> {
    let runtime = tokio::runtime::Handle::current();
    let socket = from.run(|| {
        let _within = runtime.enter();
        let socket = if to.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
        socket.set_nodelay(true)?;
        Ok::<_, io::Error>(socket)
    })??;
    socket.connect(to).await
}
