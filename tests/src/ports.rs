//! Ports from the operating system, held for as long as a test needs them.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

/// A loopback port that nobody else gets while this value lives.
///
/// The socket is bound with `SO_REUSEPORT` and never listens: a proxy, whose listeners have the same option, can bind
/// the port next to it, and until one does, connecting is refused.
#[derive(Debug)]
pub struct Reserved {
    socket: Option<Socket>,
    port: u16,
}

impl Reserved {
    /// Takes a free port.
    ///
    /// # Errors
    /// When the machine has no port left.
    pub fn new() -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).context("socket")?;
        socket.set_reuse_port(true).context("SO_REUSEPORT")?;
        let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        socket.bind(&any.into()).context("bind to a free port")?;
        let address = socket.local_addr().context("local address")?;
        let port = address.as_socket().context("an IPv4 address")?.port();
        Ok(Self { socket: Some(socket), port })
    }

    /// The port's number.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Lets the port go at once, for whoever cannot bind next to this reservation (Envoy's admin listener).
    pub fn release(&mut self) {
        self.socket = None;
    }
}
