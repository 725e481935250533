//! Opening listening sockets.

use std::io;
use std::os::unix::fs::PermissionsExt;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use crate::config::{self, Address, SocketOptionState};
use crate::transport::socket_options;

/// A bound, non-blocking socket. Nobody can connect before [`Bound::listen`].
pub enum Bound {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// Unix.
    Unix(std::os::unix::net::UnixListener),
}

impl Bound {
    /// Another handle of the same socket.
    ///
    /// # Errors
    /// The operating system's.
    pub fn try_clone(&self) -> io::Result<Bound> {
        Ok(match self {
            Bound::Tcp(l) => Bound::Tcp(l.try_clone()?),
            Bound::Unix(l) => Bound::Unix(l.try_clone()?),
        })
    }

    /// Lets clients connect. To listen once more does no harm: it may be another handle's socket.
    ///
    /// # Errors
    /// The operating system's; the port is taken after all.
    pub fn listen(&self, listener: &config::Listener) -> io::Result<()> {
        let backlog = i32::try_from(listener.backlog).unwrap_or(i32::MAX);
        let socket = match self {
            Bound::Tcp(socket) => socket,
            Bound::Unix(l) => return SockRef::from(l).listen(backlog),
        };
        SockRef::from(socket).listen(backlog)?;
        if let Some(queue) = listener.tcp_fast_open {
            let queue = i32::try_from(queue).unwrap_or(i32::MAX).to_ne_bytes();
            socket_options::set(socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, &queue)?;
        }
        socket_options::apply(socket, &listener.socket_options, SocketOptionState::Listening)
    }

    /// The address it got.
    pub fn local_addr(&self) -> Option<std::net::SocketAddr> {
        match self {
            Bound::Tcp(l) => l.local_addr().ok(),
            Bound::Unix(_) => None,
        }
    }
}

/// Binds the socket of one address of a listener.
///
/// # Errors
/// The operating system's; the caller names listener and address.
pub fn bind(listener: &config::Listener, address: &config::ListenerAddress) -> io::Result<Bound> {
    match &address.address {
        Address::Ip(addr) => tcp(listener, address, *addr).map(Bound::Tcp),
        Address::Pipe { path, mode } => unix(path, *mode).map(Bound::Unix),
        Address::Host { .. } => Err(io::Error::new(io::ErrorKind::InvalidInput, "a listener needs an IP address")),
    }
}

fn tcp(
    listener: &config::Listener,
    address: &config::ListenerAddress,
    addr: std::net::SocketAddr,
) -> io::Result<std::net::TcpListener> {
    let protocol = if listener.mptcp { Protocol::MPTCP } else { Protocol::TCP };
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), Some(protocol))?;
    socket.set_reuse_address(true)?;
    if listener.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if addr.is_ipv6() {
        socket.set_only_v6(!address.ipv4_compat)?;
    }
    if listener.transparent {
        if addr.is_ipv6() {
            set_flag(&socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT)
        } else {
            socket.set_ip_transparent_v4(true)
        }?;
    }
    if listener.freebind {
        if addr.is_ipv6() { socket.set_freebind_v6(true) } else { socket.set_freebind_v4(true) }?;
    }
    if let Some(k) = listener.tcp_keepalive {
        socket.set_tcp_keepalive(&keepalive(k))?;
    }
    // Accepted connections inherit it.
    socket.set_tcp_nodelay(true)?;
    socket_options::apply(&socket, &listener.socket_options, SocketOptionState::PreBind)?;
    socket.bind(&SockAddr::from(addr))?;
    socket_options::apply(&socket, &listener.socket_options, SocketOptionState::Bound)?;
    Ok(socket.into())
}

fn set_flag(socket: &Socket, level: i32, name: i32) -> io::Result<()> {
    socket_options::set(socket, level, name, &1i32.to_ne_bytes())
}

/// Keepalive as the socket library takes it; what is absent stays the system's.
pub fn keepalive(k: config::TcpKeepalive) -> socket2::TcpKeepalive {
    let mut out = socket2::TcpKeepalive::new();
    if let Some(t) = k.time {
        out = out.with_time(t);
    }
    if let Some(i) = k.interval {
        out = out.with_interval(i);
    }
    if let Some(p) = k.probes {
        out = out.with_retries(p);
    }
    out
}

fn unix(path: &str, mode: u32) -> io::Result<std::os::unix::net::UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    if let Some(name) = path.strip_prefix('@') {
        socket.bind(&SockAddr::unix(format!("\0{name}"))?)?;
    } else {
        // A socket file left by a process that is gone would refuse the bind; one that still answers must not be taken.
        if std::os::unix::net::UnixStream::connect(path).is_err() {
            let _ = std::fs::remove_file(path);
        }
        socket.bind(&SockAddr::unix(path)?)?;
        if mode != 0 {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        }
    }
    Ok(socket.into())
}

#[cfg(test)]
mod tests;
