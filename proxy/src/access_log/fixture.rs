//! A request for the tests of this module.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderName, HeaderValue, Method, StatusCode};

use crate::http::HeaderMap;
use crate::http::{RequestHead, ResponseHead, Scheme};
use crate::stream_info::{ConnInfo, ListenerInfo, PeerAddr, Protocol, StreamInfo};

pub(crate) fn at(seconds: u64, nanos: u32) -> SystemTime {
    UNIX_EPOCH + Duration::new(seconds, nanos)
}

pub(crate) fn address(text: &str) -> PeerAddr {
    PeerAddr::Ip(text.parse().unwrap())
}

pub(crate) fn conn() -> ConnInfo {
    let listener = Arc::new(ListenerInfo { name: "main".into(), ..ListenerInfo::default() });
    let conn = ConnInfo::new(3, address("127.0.0.1:48224"), address("127.0.0.1:41083"), listener);
    ConnInfo { start_wall: at(1_795_212_261, 0), ..conn }
}

pub(crate) fn stream() -> StreamInfo {
    let mut info = StreamInfo::new(Arc::new(conn()), 9, Some(Protocol::Http11));
    info.start_wall = at(1_795_212_261, 65_752_000);
    info.response_code = 200;
    info.details = Some("via_upstream".into());
    info.bytes.sent = 5;
    let after = |ms| Some(info.start + Duration::from_millis(ms));
    info.times.last_downstream_rx = after(0);
    info.times.last_upstream_tx = after(1);
    info.times.first_upstream_rx = after(2);
    info.times.last_downstream_tx = after(3);
    info.times.end = after(3);
    info.vhost = Some("all".into());
    info.upstream.cluster = Some("upstream".into());
    info.upstream.host = Some(address("127.0.0.1:36123"));
    info.upstream.local = Some(address("127.0.0.1:43428"));
    info.upstream.connection_id = 4;
    info.upstream.protocol = Some(Protocol::Http11);
    info.upstream.attempts = 1;
    info.request_id = Some(HeaderValue::from_static("29a80736-a565-4a82-b90a-c2a8a5e74c75"));
    info
}

pub(crate) fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &[u8])| {
        (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap())
    };
    pairs.iter().map(pair).collect()
}

pub(crate) fn request() -> RequestHead {
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: Some(HeaderValue::from_static("example.com:80")),
        path: "/p%20a/th?x=hello&y=%41%20b+c".into(),
        headers: headers(&[
            ("x-bin", b"a\x80\xffb\"\\<>&'/\xc3\xa9"),
            ("x-u", "é\"\\<€".as_bytes()),
            ("x-c", b"a\tb"),
            ("user-agent", b"ua"),
            ("x-request-id", b"29a80736-a565-4a82-b90a-c2a8a5e74c75"),
        ]),
        protocol: Protocol::Http11,
        upgrade: None,
        spelling: None,
    }
}

pub(crate) fn response() -> ResponseHead {
    let mut head = ResponseHead::new(StatusCode::OK);
    head.headers = headers(&[("server", b"envoy"), ("content-length", b"5"), ("x-envoy-upstream-service-time", b"1")]);
    head
}
