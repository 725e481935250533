//! HTTP/1 heads: what is accepted is written anew so that a strict reader, not ours, understands the same.
#![no_main]

use bytes::Bytes;
use http::{Method, header};
use libfuzzer_sys::fuzz_target;
use weft_proxy::config::{HeaderKeyFormat, UnderscoresAction};
use weft_proxy::http::HeaderMap;
use weft_proxy::http::h1::{Framing, ParseLimits, encode, parse};
use weft_proxy::http::{RequestHead, Scheme};

const LIMITS: ParseLimits = ParseLimits {
    max_bytes: 60 << 10,
    max_headers: 100,
    underscores: UnderscoresAction::Allow,
    custom_methods: true,
    allow_chunked_length: false,
};

fuzz_target!(|data: &[u8]| {
    let Some(end) = parse::head_end(data, 0) else { return };
    assert!(end <= data.len());
    // Found alike however the bytes arrive.
    for seen in [1, end / 2, end - 1] {
        assert_eq!(parse::head_end(&data[..seen], 0).is_some(), seen == end);
        assert_eq!(parse::head_end(data, seen), Some(end));
    }
    let head = Bytes::copy_from_slice(&data[..end]);
    let _ = parse::response(head.clone(), &LIMITS, true);
    let Ok(parsed) = parse::request(head, &LIMITS, true) else { return };
    let mut headers = parsed.headers;
    let Ok(lengths) = parse::lengths(&mut headers, false) else { return };
    if parsed.method == Method::CONNECT || !parsed.target.starts_with('/') {
        return;
    }
    for name in [header::HOST, header::CONNECTION, header::TRANSFER_ENCODING] {
        headers.remove(name);
    }
    reads_the_same(
        RequestHead {
            method: parsed.method,
            scheme: Scheme::Http,
            authority: None,
            path: parsed.target,
            headers,
            protocol: parsed.protocol,
            upgrade: None,
            spelling: None,
        },
        lengths.request(),
    );
});

/// Another reader finds in what we write what we read.
fn reads_the_same(head: RequestHead, framing: Framing) {
    let mut out = Vec::new();
    encode::request(&mut out, &head, framing, HeaderKeyFormat::Lower, false);
    let mut fields = [httparse::EMPTY_HEADER; 110];
    let mut request = httparse::Request::new(&mut fields);
    // What a fixed upper bound refuses is not at issue here.
    if head.headers.len() > 100 {
        return;
    }
    let status = request.parse(&out).unwrap_or_else(|e| panic!("{e}: {:?}", String::from_utf8_lossy(&out)));
    assert_eq!(status, httparse::Status::Complete(out.len()), "nothing is left behind the head");
    assert_eq!(request.method, Some(head.method.as_str()));
    assert_eq!(request.path, Some(head.path.as_str()));
    let sent = count(&head.headers);
    let extra = request.headers.len() - sent;
    assert!(extra <= 1, "at most the framing field is added: {:?}", String::from_utf8_lossy(&out));
    let framings = request
        .headers
        .iter()
        .filter(|h| h.name.eq_ignore_ascii_case("content-length") || h.name.eq_ignore_ascii_case("transfer-encoding"));
    assert!(framings.count() <= 1, "one framing: {:?}", String::from_utf8_lossy(&out));
}

/// Fields that are written: all but those of the connection.
fn count(headers: &HeaderMap) -> usize {
    headers.iter().filter(|(n, _)| !matches!(n.as_str(), "keep-alive" | "proxy-connection")).count()
}
