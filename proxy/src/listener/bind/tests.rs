use socket2::SockRef;

use super::*;
use crate::config::{SocketOption, SocketOptionValue, TrafficDirection};

fn listener() -> config::Listener {
    config::Listener {
        name: "l".into(),
        addresses: vec![config::ListenerAddress {
            address: Address::Ip(([127, 0, 0, 1], 0).into()),
            ipv4_compat: false,
        }],
        stat_prefix: None,
        reuse_port: true,
        bind_to_port: true,
        backlog: 16,
        transparent: false,
        freebind: false,
        tcp_fast_open: None,
        mptcp: false,
        tcp_keepalive: None,
        socket_options: Vec::new(),
        per_connection_buffer_limit: 1 << 20,
        listener_filters: Vec::new(),
        listener_filters_timeout: None,
        continue_on_listener_filters_timeout: false,
        filter_chains: Vec::new(),
        default_filter_chain: None,
        access_log: Vec::new(),
        direction: TrafficDirection::Unspecified,
        drain_modify_only: false,
        use_original_dst: false,
        exact_balance: false,
        max_accepts_per_event: None,
        ignore_global_conn_limit: false,
    }
}

fn open(listener: &config::Listener) -> io::Result<std::net::TcpListener> {
    let bound = bind(listener, &listener.addresses[0])?;
    bound.listen(listener)?;
    match bound {
        Bound::Tcp(l) => Ok(l),
        Bound::Unix(_) => unreachable!("an IP address was given"),
    }
}

#[test]
fn connections_inherit_what_is_set_once() {
    let keepalive =
        config::TcpKeepalive { time: Some(std::time::Duration::from_secs(77)), interval: None, probes: None };
    let own = open(&config::Listener { tcp_keepalive: Some(keepalive), ..listener() }).unwrap();
    own.set_nonblocking(false).unwrap();
    let _client = std::net::TcpStream::connect(own.local_addr().unwrap()).unwrap();
    let (accepted, _) = own.accept().unwrap();
    assert!(accepted.nodelay().unwrap());
    assert!(SockRef::from(&accepted).keepalive().unwrap());
    assert_eq!(SockRef::from(&accepted).tcp_keepalive_time().unwrap().as_secs(), 77);
}

#[test]
fn options_are_set_in_their_states() {
    let option = |level, name, state| SocketOption { level, name, value: SocketOptionValue::Int(1), state };
    let own = open(&config::Listener {
        freebind: true,
        tcp_fast_open: Some(5),
        socket_options: vec![
            option(libc::SOL_SOCKET, libc::SO_OOBINLINE, SocketOptionState::PreBind),
            option(libc::SOL_SOCKET, libc::SO_BROADCAST, SocketOptionState::Bound),
            option(libc::SOL_SOCKET, libc::SO_KEEPALIVE, SocketOptionState::Listening),
        ],
        ..listener()
    })
    .unwrap();
    let socket = SockRef::from(&own);
    assert!(socket.out_of_band_inline().unwrap() && socket.broadcast().unwrap() && socket.keepalive().unwrap());
    assert!(socket.freebind_v4().unwrap());
}

#[test]
fn a_refused_option_is_named() {
    let bad =
        SocketOption { level: 6, name: 9999, value: SocketOptionValue::Int(1), state: SocketOptionState::Listening };
    let e = open(&config::Listener { socket_options: vec![bad], ..listener() }).unwrap_err();
    assert!(e.to_string().contains("level 6, name 9999"), "{e}");
}

#[test]
fn mptcp_where_the_system_has_it() {
    match open(&config::Listener { mptcp: true, ..listener() }) {
        Ok(own) => assert_eq!(SockRef::from(&own).protocol().unwrap(), Some(Protocol::MPTCP)),
        Err(e) => println!("SKIPPED: {e}"),
    }
}
