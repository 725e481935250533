//! Where a connection was going before a redirect rule (iptables `REDIRECT`) sent it here.
//!
//! Runs on: workers.

use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::BorrowedFd;

use nix::sys::socket::{getsockopt, sockopt};

use crate::transport::Stream;

/// The original destination; `None`: the kernel knows of none.
pub fn lookup(stream: &Stream) -> Option<SocketAddr> {
    let fd = stream.fd()?;
    // An IPv4 connection on an IPv6 socket is tracked as IPv4.
    match stream.local_addr()?.ip()? {
        IpAddr::V4(_) => v4(fd),
        IpAddr::V6(_) => v6(fd),
    }
}

fn v4(fd: BorrowedFd<'_>) -> Option<SocketAddr> {
    let a = getsockopt(&fd, sockopt::OriginalDst).ok()?;
    let ip = u32::from_be(a.sin_addr.s_addr).into();
    Some(SocketAddrV4::new(ip, u16::from_be(a.sin_port)).into())
}

fn v6(fd: BorrowedFd<'_>) -> Option<SocketAddr> {
    let a = getsockopt(&fd, sockopt::Ip6tOriginalDst).ok()?;
    Some(SocketAddrV6::new(a.sin6_addr.s6_addr.into(), u16::from_be(a.sin6_port), 0, 0).into())
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn without_a_redirect_there_is_none_or_the_destination_itself() {
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(bind).await else {
                println!("SKIPPED: no {bind} here");
                continue;
            };
            let address = listener.local_addr().unwrap();
            let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
            let _client = client.unwrap();
            let found = lookup(&server.unwrap().0.into());
            assert!(found.is_none_or(|a| a == address), "{found:?}");
        }
        assert!(lookup(&tokio::io::duplex(1).0.into()).is_none());
    }
}
