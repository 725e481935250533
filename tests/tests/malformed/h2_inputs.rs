//! The table of HTTP/2 frame sequences.

use weft_tests::frames::{PREFACE, block, frame, framed, kind};

use super::table::Input;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;
const ACK: u8 = 1;

const GOOD: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];

fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(kind::HEADERS, flags | END_HEADERS, stream, block)
}

fn get(stream: u32) -> Vec<u8> {
    headers(stream, END_STREAM, &block(&GOOD))
}

fn post(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    let mut fields = vec![(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
    fields.extend_from_slice(more);
    headers(stream, 0, &block(&fields))
}

fn fields(list: &[(&str, &str)]) -> Vec<u8> {
    headers(1, END_STREAM, &block(list))
}

fn with(more: &[(&str, &str)]) -> Vec<u8> {
    let mut all = GOOD.to_vec();
    all.extend_from_slice(more);
    fields(&all)
}

fn ping(flags: u8, payload: &[u8]) -> Vec<u8> {
    frame(kind::PING, flags, 0, payload)
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    let mut payload = id.to_be_bytes().to_vec();
    payload.extend_from_slice(&value.to_be_bytes());
    frame(kind::SETTINGS, 0, 0, &payload)
}

fn window(stream: u32, by: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

fn join(parts: &[Vec<u8>]) -> Vec<u8> {
    parts.concat()
}

pub(crate) fn all() -> Vec<Input> {
    let mut table = Vec::new();
    // After the preface and empty settings.
    let opened = [requests(), bodies(), continuations(), streams(), connection(), compression()];
    for (name, sequence) in opened.concat() {
        table.push((name.to_owned(), join(&[PREFACE.to_vec(), frame(kind::SETTINGS, 0, 0, &[]), sequence])));
    }
    for (name, bytes) in [
        ("preface-then-request-without-settings", join(&[PREFACE.to_vec(), get(1)])),
        ("preface-then-ping", join(&[PREFACE.to_vec(), ping(0, &[0; 8])])),
        ("preface-then-garbage", join(&[PREFACE.to_vec(), vec![0xff; 64]])),
        ("preface-wrong-end", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r".to_vec()),
        ("preface-http1-in-between", join(&[PREFACE.to_vec(), b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec()])),
        ("preface-only", PREFACE.to_vec()),
        ("preface-twice", join(&[PREFACE.to_vec(), frame(kind::SETTINGS, 0, 0, &[]), PREFACE.to_vec()])),
    ] {
        table.push((name.to_owned(), bytes));
    }
    table
}

fn requests() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("good", get(1)),
        ("good-two", join(&[get(1), get(3)])),
        ("method-missing", fields(&[(":scheme", "http"), (":path", "/"), (":authority", "a")])),
        ("path-missing", fields(&[(":method", "GET"), (":scheme", "http"), (":authority", "a")])),
        ("path-empty", fields(&[(":method", "GET"), (":scheme", "http"), (":path", ""), (":authority", "a")])),
        ("path-relative", fields(&[(":method", "GET"), (":scheme", "http"), (":path", "x"), (":authority", "a")])),
        ("path-star", fields(&[(":method", "OPTIONS"), (":scheme", "http"), (":path", "*"), (":authority", "a")])),
        ("path-space", fields(&[(":method", "GET"), (":scheme", "http"), (":path", "/a b"), (":authority", "a")])),
        ("path-fragment", fields(&[(":method", "GET"), (":scheme", "http"), (":path", "/a#b"), (":authority", "a")])),
        (
            "path-newline",
            fields(&[(":method", "GET"), (":scheme", "http"), (":path", "/a\r\nx: y"), (":authority", "a")]),
        ),
        ("scheme-missing", fields(&[(":method", "GET"), (":path", "/"), (":authority", "a")])),
        ("scheme-odd", fields(&[(":method", "GET"), (":scheme", "gopher"), (":path", "/"), (":authority", "a")])),
        ("scheme-bad", fields(&[(":method", "GET"), (":scheme", "ht tp"), (":path", "/"), (":authority", "a")])),
        ("authority-missing", fields(&[(":method", "GET"), (":scheme", "http"), (":path", "/")])),
        ("authority-from-host", fields(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), ("host", "a")])),
        ("authority-and-host", with(&[("host", "b")])),
        ("authority-bad", fields(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a b")])),
        ("method-lower-case", fields(&[(":method", "get"), (":scheme", "http"), (":path", "/"), (":authority", "a")])),
        ("method-bad", fields(&[(":method", "G T"), (":scheme", "http"), (":path", "/"), (":authority", "a")])),
        ("method-empty", fields(&[(":method", ""), (":scheme", "http"), (":path", "/"), (":authority", "a")])),
        ("pseudo-twice", with(&[(":path", "/x")])),
        ("pseudo-unknown", with(&[(":odd", "x")])),
        ("pseudo-status", with(&[(":status", "200")])),
        (
            "pseudo-after-field",
            fields(&[(":method", "GET"), ("x-a", "b"), (":scheme", "http"), (":path", "/"), (":authority", "a")]),
        ),
        ("protocol-without-connect", with(&[(":protocol", "websocket")])),
        (
            "connect-with-path",
            fields(&[(":method", "CONNECT"), (":scheme", "http"), (":path", "/"), (":authority", "a:80")]),
        ),
        ("connect-plain", fields(&[(":method", "CONNECT"), (":authority", "a:80")])),
        ("name-upper-case", with(&[("X-A", "b")])),
        ("name-empty", with(&[("", "b")])),
        ("name-space", with(&[("x a", "b")])),
        ("name-colon", with(&[("x:a", "b")])),
        ("name-control", with(&[("x\u{1}", "b")])),
        ("value-newline", with(&[("x-a", "b\r\nx-c: d")])),
        ("value-null", with(&[("x-a", "b\0c")])),
        ("value-leading-space", with(&[("x-a", " b")])),
        ("value-control", with(&[("x-a", "b\u{1}")])),
        ("connection-field", with(&[("connection", "close")])),
        ("keep-alive-field", with(&[("keep-alive", "5")])),
        ("proxy-connection-field", with(&[("proxy-connection", "close")])),
        ("upgrade-field", with(&[("upgrade", "websocket")])),
        ("transfer-encoding-field", with(&[("transfer-encoding", "chunked")])),
        ("te-trailers", with(&[("te", "trailers")])),
        ("te-gzip", with(&[("te", "gzip")])),
        ("headers-16k", with(&[("x-a", &"v".repeat(16_000))])),
        ("headers-none", headers(1, END_STREAM, &[])),
    ]
}

fn bodies() -> Vec<(&'static str, Vec<u8>)> {
    let data = |stream, flags, payload: &[u8]| frame(kind::DATA, flags, stream, payload);
    vec![
        ("body-good", join(&[post(1, &[]), data(1, END_STREAM, b"abc")])),
        ("body-length-good", join(&[post(1, &[("content-length", "3")]), data(1, END_STREAM, b"abc")])),
        ("body-length-short", join(&[post(1, &[("content-length", "5")]), data(1, END_STREAM, b"abc")])),
        ("body-length-long", join(&[post(1, &[("content-length", "1")]), data(1, END_STREAM, b"abc")])),
        ("body-length-bad", join(&[post(1, &[("content-length", "x")]), data(1, END_STREAM, b"abc")])),
        (
            "body-length-twice",
            join(&[post(1, &[("content-length", "3"), ("content-length", "4")]), data(1, END_STREAM, b"abc")]),
        ),
        ("body-length-without-body", with(&[("content-length", "5")])),
        ("body-after-end", join(&[get(1), data(1, END_STREAM, b"abc")])),
        ("body-on-stream-0", data(0, 0, b"abc")),
        ("body-on-idle", data(1, 0, b"abc")),
        ("body-padded", join(&[post(1, &[]), data(1, END_STREAM | PADDED, b"\x02abc\0\0")])),
        ("body-padding-too-long", join(&[post(1, &[]), data(1, END_STREAM | PADDED, b"\x09abc")])),
        ("body-padded-empty", join(&[post(1, &[]), data(1, END_STREAM | PADDED, b"")])),
        ("body-frame-too-large", join(&[post(1, &[]), data(1, END_STREAM, &[b'x'; 20_000])])),
        ("body-many-empty", join(&[post(1, &[]), data(1, 0, b"").repeat(200)])),
        ("trailers-good", join(&[post(1, &[]), data(1, 0, b"abc"), headers(1, END_STREAM, &block(&[("x-t", "v")]))])),
        ("trailers-without-end", join(&[post(1, &[]), data(1, 0, b"abc"), headers(1, 0, &block(&[("x-t", "v")]))])),
        (
            "trailers-pseudo",
            join(&[post(1, &[]), data(1, 0, b"abc"), headers(1, END_STREAM, &block(&[(":path", "/x")]))]),
        ),
        (
            "trailers-upper-case",
            join(&[post(1, &[]), data(1, 0, b"abc"), headers(1, END_STREAM, &block(&[("X-T", "v")]))]),
        ),
    ]
}

fn continuations() -> Vec<(&'static str, Vec<u8>)> {
    let whole = block(&GOOD);
    let (first, rest) = whole.split_at(10);
    let open = |flags| frame(kind::HEADERS, flags, 1, first);
    let next = |flags, stream| frame(kind::CONTINUATION, flags, stream, rest);
    vec![
        ("continuation-good", join(&[open(END_STREAM), next(END_HEADERS, 1)])),
        ("continuation-other-stream", join(&[open(END_STREAM), next(END_HEADERS, 3)])),
        ("continuation-interrupted", join(&[open(END_STREAM), ping(0, &[0; 8]), next(END_HEADERS, 1)])),
        ("continuation-by-unknown", join(&[open(END_STREAM), frame(0x77, 0, 1, b"x"), next(END_HEADERS, 1)])),
        ("continuation-alone", next(END_HEADERS, 1)),
        ("continuation-after-end", join(&[get(1), next(END_HEADERS, 1)])),
        ("continuation-stream-0", join(&[open(END_STREAM), next(END_HEADERS, 0)])),
        ("continuation-flood", join(&[open(END_STREAM), frame(kind::CONTINUATION, 0, 1, &[]).repeat(20_000)])),
        ("continuation-missing", open(END_STREAM)),
        (
            "headers-padded",
            frame(kind::HEADERS, END_STREAM | END_HEADERS | PADDED, 1, &join(&[vec![1], whole.clone(), vec![0]])),
        ),
        (
            "headers-padding-too-long",
            frame(kind::HEADERS, END_STREAM | END_HEADERS | PADDED, 1, &join(&[vec![250], whole.clone()])),
        ),
        (
            "headers-priority",
            frame(kind::HEADERS, END_STREAM | END_HEADERS | PRIORITY, 1, &join(&[vec![0, 0, 0, 0, 16], whole.clone()])),
        ),
        (
            "headers-priority-self",
            frame(kind::HEADERS, END_STREAM | END_HEADERS | PRIORITY, 1, &join(&[vec![0, 0, 0, 1, 16], whole.clone()])),
        ),
        ("headers-priority-cut", frame(kind::HEADERS, END_STREAM | END_HEADERS | PRIORITY, 1, &[0, 0])),
    ]
}

fn streams() -> Vec<(&'static str, Vec<u8>)> {
    let reset = |stream, code: u32| frame(kind::RST_STREAM, 0, stream, &code.to_be_bytes());
    vec![
        ("stream-0-headers", headers(0, END_STREAM, &block(&GOOD))),
        ("stream-even", get(2)),
        ("stream-backwards", join(&[get(5), get(3)])),
        ("stream-reused", join(&[get(1), get(1)])),
        ("stream-reserved-bit", get(1 | 0x8000_0000)),
        ("stream-last", get(0x7fff_ffff)),
        ("reset-idle", reset(1, 8)),
        ("reset-stream-0", reset(0, 8)),
        ("reset-short", join(&[post(1, &[]), frame(kind::RST_STREAM, 0, 1, &[0, 0])])),
        ("reset-then-ping", join(&[post(1, &[]), reset(1, 8), ping(0, &[1; 8])])),
        ("reset-unknown-code", join(&[post(1, &[]), reset(1, 0xffff_ffff), ping(0, &[1; 8])])),
        (
            "reset-flood",
            (0..2000_u32).map(|at| join(&[get(2 * at + 1), reset(2 * at + 1, 8)])).collect::<Vec<_>>().concat(),
        ),
        ("priority-good", join(&[frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 0, 16]), get(1)])),
        ("priority-self", frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 1, 16])),
        ("priority-short", join(&[frame(kind::PRIORITY, 0, 1, &[0, 0]), get(1)])),
        ("priority-stream-0", frame(kind::PRIORITY, 0, 0, &[0, 0, 0, 1, 16])),
        (
            "push-promise",
            join(&[post(1, &[]), frame(kind::PUSH_PROMISE, END_HEADERS, 1, &join(&[vec![0, 0, 0, 2], block(&GOOD)]))]),
        ),
    ]
}

fn connection() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("ping", ping(0, &[1; 8])),
        ("ping-ack-unasked", join(&[ping(ACK, &[1; 8]), get(1)])),
        ("ping-short", ping(0, &[1; 7])),
        ("ping-long", ping(0, &[1; 9])),
        ("ping-on-stream", frame(kind::PING, 0, 1, &[1; 8])),
        ("ping-flood", ping(0, &[1; 8]).repeat(20_000)),
        ("settings-ack-with-payload", frame(kind::SETTINGS, ACK, 0, &[0; 6])),
        ("settings-on-stream", frame(kind::SETTINGS, 0, 1, &[])),
        ("settings-short", frame(kind::SETTINGS, 0, 0, &[0; 5])),
        ("settings-unknown", join(&[setting(0x99, 1), get(1)])),
        ("settings-push-2", setting(2, 2)),
        ("settings-window-too-large", setting(4, 0x8000_0000)),
        ("settings-frame-too-small", setting(5, 100)),
        ("settings-frame-too-large", setting(5, 0x0100_0000)),
        ("settings-table-huge", join(&[setting(1, u32::MAX), get(1)])),
        ("settings-table-0", join(&[setting(1, 0), get(1)])),
        ("settings-window-0", join(&[setting(4, 0), get(1)])),
        ("settings-flood", setting(3, 100).repeat(20_000)),
        ("window-0", window(0, 0)),
        ("window-0-stream", join(&[post(1, &[]), window(1, 0)])),
        ("window-overflow", join(&[window(0, 0x7fff_ffff), window(0, 0x7fff_ffff)])),
        ("window-overflow-stream", join(&[post(1, &[]), window(1, 0x7fff_ffff), window(1, 0x7fff_ffff)])),
        ("window-short", frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0])),
        ("window-idle", window(1, 10)),
        ("goaway-then-request", join(&[frame(kind::GOAWAY, 0, 0, &[0; 8]), get(1)])),
        ("goaway-on-stream", frame(kind::GOAWAY, 0, 1, &[0; 8])),
        ("goaway-short", frame(kind::GOAWAY, 0, 0, &[0; 4])),
        ("unknown-frame", join(&[frame(0x77, 0xff, 0, b"whatever"), get(1)])),
        ("unknown-frame-too-large", framed(0x77, 0, 0, 20_000, &[0; 20_000])),
        ("frame-cut", framed(kind::HEADERS, END_HEADERS, 1, 100, b"abc")),
        ("length-max", framed(kind::DATA, 0, 1, 0x00ff_ffff, b"abc")),
        ("unknown-flags", join(&[frame(kind::PING, 0xfe, 0, &[1; 8]), get(1)])),
    ]
}

fn compression() -> Vec<(&'static str, Vec<u8>)> {
    let raw = |bytes: &[u8]| headers(1, END_STREAM, bytes);
    let after = |bytes: &[u8]| headers(1, END_STREAM, &join(&[block(&GOOD), bytes.to_vec()]));
    vec![
        ("hpack-index-0", raw(&[0x80])),
        ("hpack-index-too-large", raw(&[0xff, 0x80, 0x01])),
        ("hpack-index-overflow", raw(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f])),
        ("hpack-cut-string", after(&[0, 5, b'a'])),
        ("hpack-string-too-long", after(&[0, 0x7f, 0xff, 0xff, 0xff, 0x7f])),
        ("hpack-bad-huffman", after(&[0, 1, b'a', 0x84, 0xff, 0xff, 0xff, 0xff])),
        ("hpack-huffman-padding", after(&[0, 1, b'a', 0x81, 0x00])),
        ("hpack-table-update-good", headers(1, END_STREAM, &join(&[vec![0x20], block(&GOOD)]))),
        ("hpack-table-update-too-large", headers(1, END_STREAM, &join(&[vec![0x3f, 0xff, 0xff, 0x7f], block(&GOOD)]))),
        ("hpack-table-update-late", after(&[0x20])),
        ("hpack-never-indexed", after(&[0x10, 1, b'a', 1, b'b'])),
        ("hpack-static", raw(&[0x82, 0x86, 0x84, 0x41, 1, b'a'])),
    ]
}
