//! A socket to a host: where it comes from, its options, and the connect.
//!
//! Runs on: workers.

use std::io;
use std::net::SocketAddr;

use nix::errno::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use crate::cluster::Cluster;
use crate::config::{self, Address, SocketOptionState};
use crate::listener::bind::keepalive;
use crate::transport::{Stream, socket_options};

/// Why there is no connected socket.
pub(super) enum SocketError {
    /// It could not be made as the cluster wants it.
    Local(String),
    /// Connecting failed.
    Remote(io::Error),
}

impl From<io::Error> for SocketError {
    fn from(e: io::Error) -> Self {
        SocketError::Remote(e)
    }
}

/// Connects a socket as the cluster wants it.
///
/// # Errors
/// The system's.
pub(super) async fn connect(cluster: &Cluster, address: &Address) -> Result<Stream, SocketError> {
    let c = &cluster.config;
    match address {
        Address::Ip(address) => {
            let stream = if is_plain(c) {
                TcpStream::connect(address).await?
            } else {
                let socket = prepared(c, *address).inspect_err(|_| cluster.stats.bind_errors.inc())?;
                TcpSocket::from_std_stream(socket.into()).connect(*address).await?
            };
            stream.set_nodelay(true)?;
            Ok(Stream::Tcp(stream))
        }
        Address::Pipe { path, .. } => Ok(Stream::Unix(UnixStream::connect(path).await?)),
        Address::Host { .. } => Err(io::Error::new(io::ErrorKind::InvalidInput, "unresolved host name").into()),
    }
}

/// What the system calls an error.
pub(super) fn describe(e: &io::Error) -> String {
    e.raw_os_error().map_or_else(|| e.to_string(), |code| Errno::from_raw(code).desc().to_owned())
}

/// Whether nothing is to be done before the connect.
fn is_plain(c: &config::Cluster) -> bool {
    c.bind_address.is_none() && c.tcp_keepalive.is_none() && c.socket_options.is_empty()
}

/// An unconnected socket with its options, bound to its source.
fn prepared(c: &config::Cluster, to: SocketAddr) -> Result<Socket, SocketError> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    let local = |e: io::Error| SocketError::Local(describe(&e));
    if let Some(k) = c.tcp_keepalive {
        socket.set_tcp_keepalive(&keepalive(k)).map_err(local)?;
    }
    socket_options::apply(&socket, &c.socket_options, SocketOptionState::PreBind).map_err(local)?;
    if let Some(from) = c.bind_address {
        if from.port() == 0 {
            // The system chooses the port at the connect, when it knows the other end: one port serves many destinations.
            let level = libc::IPPROTO_IP;
            socket_options::set(&socket, level, libc::IP_BIND_ADDRESS_NO_PORT, &1i32.to_ne_bytes()).map_err(local)?;
        }
        let failed = |e: io::Error| SocketError::Local(format!("failed to bind to {from}: {}", describe(&e)));
        socket.bind(&SockAddr::from(from)).map_err(failed)?;
    }
    socket_options::apply(&socket, &c.socket_options, SocketOptionState::Bound).map_err(local)?;
    Ok(socket)
}
