//! A socket to a host: where it comes from, its options, and the connect.
//!
//! Runs on: workers.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use crate::cluster::Cluster;
use crate::config::{self, Address, SocketOptionState};
use crate::listener::bind::keepalive;
use crate::transport::{Stream, socket_options};

/// Connects a socket as the cluster wants it.
///
/// # Errors
/// The system's.
pub(super) async fn connect(cluster: &Cluster, address: &Address) -> io::Result<Stream> {
    match address {
        Address::Ip(address) => {
            let stream = if is_plain(&cluster.config) {
                TcpStream::connect(address).await?
            } else {
                let socket = prepared(&cluster.config, *address).inspect_err(|_| cluster.stats.bind_errors.inc())?;
                TcpSocket::from_std_stream(socket.into()).connect(*address).await?
            };
            stream.set_nodelay(true)?;
            Ok(Stream::Tcp(stream))
        }
        Address::Pipe { path, .. } => Ok(Stream::Unix(UnixStream::connect(path).await?)),
        Address::Host { .. } => Err(io::Error::new(io::ErrorKind::InvalidInput, "unresolved host name")),
    }
}

/// Whether nothing is to be done before the connect.
fn is_plain(c: &config::Cluster) -> bool {
    c.bind_address.is_none() && c.tcp_keepalive.is_none() && c.socket_options.is_empty()
}

/// An unconnected socket with its options, bound to its source.
fn prepared(c: &config::Cluster, to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if let Some(k) = c.tcp_keepalive {
        socket.set_tcp_keepalive(&keepalive(k))?;
    }
    socket_options::apply(&socket, &c.socket_options, SocketOptionState::PreBind)?;
    if let Some(from) = c.bind_address {
        if from.port() == 0 {
            // The system chooses the port at the connect, when it knows the other end: one port serves many destinations.
            let level = libc::IPPROTO_IP;
            socket_options::set(&socket, level, libc::IP_BIND_ADDRESS_NO_PORT, &1i32.to_ne_bytes())?;
        }
        socket
            .bind(&SockAddr::from(from))
            .map_err(|e| io::Error::new(e.kind(), format!("failed to bind to {from}: {e}")))?;
    }
    socket_options::apply(&socket, &c.socket_options, SocketOptionState::Bound)?;
    Ok(socket)
}
