//! Raw socket options, as configuration names them: level, number, value.
//!
//! Runs on: whoever opens a socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::config::{SocketOption, SocketOptionState, SocketOptionValue};

/// Sets those of `options` that belong to a state of the socket.
///
/// # Errors
/// The first that the system refuses, named.
pub fn apply(socket: &impl AsFd, options: &[SocketOption], state: SocketOptionState) -> io::Result<()> {
    for option in options.iter().filter(|o| o.state == state) {
        let set = match &option.value {
            SocketOptionValue::Int(n) => set(socket, option.level, option.name, &n.to_ne_bytes()),
            SocketOptionValue::Bytes(bytes) => set(socket, option.level, option.name, bytes),
        };
        set.map_err(|e| {
            io::Error::new(e.kind(), format!("socket option (level {}, name {}): {e}", option.level, option.name))
        })?;
    }
    Ok(())
}

/// Sets one option; a C `int` is its bytes in the machine's order.
///
/// # Errors
/// The system's.
#[allow(unsafe_code, reason = "an option known only by number has no typed wrapper")]
pub fn set(socket: &impl AsFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let len = libc::socklen_t::try_from(value.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the descriptor is open while it is borrowed, and `value` is readable for `len` bytes during the call.
    let result = unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, value.as_ptr().cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(name: i32, value: SocketOptionValue, state: SocketOptionState) -> SocketOption {
        SocketOption { level: libc::SOL_SOCKET, name, value, state }
    }

    #[test]
    fn sets_what_belongs_to_the_state() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = socket2::SockRef::from(&listener);
        let yes = SocketOptionValue::Bytes(1i32.to_ne_bytes().to_vec());
        let options = [
            option(libc::SO_KEEPALIVE, SocketOptionValue::Int(1), SocketOptionState::PreBind),
            option(libc::SO_OOBINLINE, yes, SocketOptionState::Listening),
        ];
        apply(&listener, &options, SocketOptionState::PreBind).unwrap();
        assert!(socket.keepalive().unwrap() && !socket.out_of_band_inline().unwrap());
        apply(&listener, &options, SocketOptionState::Listening).unwrap();
        assert!(socket.out_of_band_inline().unwrap());
    }

    #[test]
    fn a_refusal_names_the_option() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let options = [option(99_999, SocketOptionValue::Int(1), SocketOptionState::Bound)];
        let e = apply(&listener, &options, SocketOptionState::Bound).unwrap_err();
        assert!(e.to_string().contains("level 1, name 99999"), "{e}");
    }
}
