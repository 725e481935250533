//! The table of HTTP/1 inputs.

use super::table::Input;

/// A request after which a valid one follows; the second answer tells whether the connection survived, and how the
/// first one's end was found.
const NEXT: &str = "GET /next HTTP/1.1\r\nhost: n\r\n\r\n";

struct Table(Vec<Input>);

impl Table {
    fn raw(&mut self, name: &str, bytes: impl AsRef<[u8]>) {
        self.0.push((name.to_owned(), bytes.as_ref().to_vec()));
    }

    /// A request line, with a `host` line and nothing else.
    fn line(&mut self, name: &str, line: &str) {
        self.raw(&format!("line-{name}"), format!("{line}\r\nhost: a\r\n\r\n"));
    }

    /// One more field line in a GET, then a second request.
    fn field(&mut self, name: &str, field: &[u8]) {
        let mut bytes = b"GET / HTTP/1.1\r\nhost: a\r\n".to_vec();
        bytes.extend_from_slice(field);
        bytes.extend_from_slice(b"\r\n\r\n");
        bytes.extend_from_slice(NEXT.as_bytes());
        self.raw(&format!("field-{name}"), bytes);
    }

    /// A POST with these framing fields and this body, then a second request.
    fn body(&mut self, name: &str, fields: &str, body: &str) {
        self.raw(&format!("body-{name}"), format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n{body}{NEXT}"));
    }

    fn chunks(&mut self, name: &str, body: &str) {
        self.body(&format!("chunk-{name}"), "transfer-encoding: chunked", body);
    }
}

pub(crate) fn all() -> Vec<Input> {
    let mut table = Table(Vec::new());
    request_lines(&mut table);
    fields(&mut table);
    framing(&mut table);
    chunked(&mut table);
    ends(&mut table);
    hosts(&mut table);
    limits(&mut table);
    table.0
}

fn request_lines(table: &mut Table) {
    for (name, line) in [
        ("good", "GET / HTTP/1.1"),
        ("no-version", "GET /"),
        ("only-method", "GET"),
        ("empty-method", " / HTTP/1.1"),
        ("two-spaces-method", "GET  / HTTP/1.1"),
        ("two-spaces-target", "GET /  HTTP/1.1"),
        ("tab", "GET\t/ HTTP/1.1"),
        ("tab-target", "GET /\tHTTP/1.1"),
        ("trailing-space", "GET / HTTP/1.1 "),
        ("leading-space", " GET / HTTP/1.1"),
        ("four-words", "GET / x HTTP/1.1"),
        ("lower-case-method", "get / HTTP/1.1"),
        ("odd-method", "BREW / HTTP/1.1"),
        ("long-method", "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEF / HTTP/1.1"),
        ("method-with-colon", "GE:T / HTTP/1.1"),
        ("method-with-slash", "GE/T / HTTP/1.1"),
        ("method-with-dash", "VERSION-CONTROL / HTTP/1.1"),
        ("method-with-at", "GE@T / HTTP/1.1"),
        ("method-digits", "123 / HTTP/1.1"),
        ("method-control", "GE\u{1}T / HTTP/1.1"),
        ("method-utf8", "G\u{c9}T / HTTP/1.1"),
        ("pri", "PRI * HTTP/1.1"),
        ("version-0.9", "GET / HTTP/0.9"),
        ("version-1.0", "GET / HTTP/1.0"),
        ("version-1.2", "GET / HTTP/1.2"),
        ("version-1.10", "GET / HTTP/1.10"),
        ("version-2.0", "GET / HTTP/2.0"),
        ("version-3", "GET / HTTP/3"),
        ("version-11.1", "GET / HTTP/11.1"),
        ("version-lower", "GET / http/1.1"),
        ("version-no-dot", "GET / HTTP/11"),
        ("version-comma", "GET / HTTP/1,1"),
        ("version-letters", "GET / HTTP/x.y"),
        ("version-other", "GET / HTP/1.1"),
        ("version-rtsp", "GET / RTSP/1.0"),
        ("version-ice", "SOURCE / ICE/1.0"),
        ("version-minus", "GET / HTTP/1.-1"),
        ("target-empty", "GET  HTTP/1.1"),
        ("target-star-get", "GET * HTTP/1.1"),
        ("target-star-options", "OPTIONS * HTTP/1.1"),
        ("target-relative", "GET path HTTP/1.1"),
        ("target-query-only", "GET ?a=b HTTP/1.1"),
        ("target-absolute", "GET http://b/x HTTP/1.1"),
        ("target-absolute-upper", "GET HTTP://B/x HTTP/1.1"),
        ("target-absolute-ftp", "GET ftp://b/x HTTP/1.1"),
        ("target-absolute-no-host", "GET http:///x HTTP/1.1"),
        ("target-absolute-bad-port", "GET http://b:99999/x HTTP/1.1"),
        ("target-absolute-letters-port", "GET http://b:port/x HTTP/1.1"),
        ("target-absolute-user", "GET http://u:p@b/x HTTP/1.1"),
        ("target-absolute-query", "GET http://b?x HTTP/1.1"),
        ("target-fragment", "GET /x#y HTTP/1.1"),
        ("target-control", "GET /\u{1} HTTP/1.1"),
        ("target-del", "GET /\u{7f} HTTP/1.1"),
        ("target-utf8", "GET /\u{e9} HTTP/1.1"),
        ("target-quotes", "GET /\"<>\\^`{|} HTTP/1.1"),
        ("target-percent-bad", "GET /%zz HTTP/1.1"),
        ("target-percent-null", "GET /%00 HTTP/1.1"),
        ("target-percent-crlf", "GET /%0d%0ax HTTP/1.1"),
        ("target-dots", "GET /../../etc HTTP/1.1"),
        ("connect-path", "CONNECT /x HTTP/1.1"),
        ("connect-authority", "CONNECT a:80 HTTP/1.1"),
        ("connect-bad-port", "CONNECT a:x HTTP/1.1"),
    ] {
        table.line(name, line);
    }
    table.raw("line-null", b"GET /\0 HTTP/1.1\r\nhost: a\r\n\r\n");
    table.raw("line-high-byte", b"GET /\xff HTTP/1.1\r\nhost: a\r\n\r\n");
    table.raw("line-bare-cr", "GET / HTTP/1.1\rhost: a\r\n\r\n");
    table.raw("line-cr-in-target", "GET /\r/x HTTP/1.1\r\nhost: a\r\n\r\n");
    table.raw("line-bare-lf", "GET / HTTP/1.1\nhost: a\n\n");
    table.raw("line-mixed-ends", "GET / HTTP/1.1\nhost: a\r\n\n");
    table.raw("line-crcrlf", "GET / HTTP/1.1\r\r\nhost: a\r\n\r\n");
    table.raw("line-leading-crlf", "\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n");
    table.raw("line-leading-crlfs", "\r\n\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n");
    table.raw("line-leading-lf", "\nGET / HTTP/1.1\r\nhost: a\r\n\r\n");
    table.raw("line-leading-cr", "\rGET / HTTP/1.1\r\nhost: a\r\n\r\n");
    table.raw("line-crlf-between", format!("GET / HTTP/1.1\r\nhost: a\r\n\r\n\r\n{NEXT}"));
    table.raw("line-empty", "\r\n\r\n");
    table.raw("line-garbage", "xyzzy\r\n\r\n");
    table.raw("line-binary", [0_u8, 1, 2, 3, 255, 254, 13, 10, 13, 10]);
    table.raw("line-tls-hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    table.raw("line-response", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    table.raw("line-proxy-v1", "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n");
    table.raw("line-http09", "GET /\r\n");
    table.raw("line-preface-cut", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n");
}

fn fields(table: &mut Table) {
    for (name, field) in [
        ("good", &b"x-a: b"[..]),
        ("no-colon", b"x-a"),
        ("empty-name", b": b"),
        ("space-before-colon", b"x-a : b"),
        ("tab-before-colon", b"x-a\t: b"),
        ("space-in-name", b"x a: b"),
        ("leading-space", b" x-a: b"),
        ("obs-fold", b"x-a: b\r\n c"),
        ("obs-fold-tab", b"x-a: b\r\n\tc"),
        ("obs-fold-empty", b"x-a: b\r\n \r\nx-c: d"),
        ("obs-fold-host", b"x-a:\r\n b"),
        ("null-in-name", b"x\0a: b"),
        ("null-in-value", b"x-a: b\0c"),
        ("cr-in-value", b"x-a: b\rc"),
        ("cr-at-end", b"x-a: b\r"),
        ("lf-in-value", b"x-a: b\nx-c: d"),
        ("control-in-value", b"x-a: b\x01c"),
        ("escape-in-value", b"x-a: b\x1bc"),
        ("tab-in-value", b"x-a: b\tc"),
        ("del-in-value", b"x-a: b\x7fc"),
        ("high-in-value", b"x-a: \xe9"),
        ("utf8-in-value", "x-a: \u{e9}".as_bytes()),
        ("high-in-name", b"x-\xe9: b"),
        ("utf8-in-name", "x-\u{e9}: b".as_bytes()),
        ("paren-in-name", b"x(a): b"),
        ("quote-in-name", b"x\"a: b"),
        ("slash-in-name", b"x/a: b"),
        ("at-in-name", b"x@a: b"),
        ("bracket-in-name", b"x[a]: b"),
        ("brace-in-name", b"x{a}: b"),
        ("equals-in-name", b"x=a: b"),
        ("control-in-name", b"x\x01a: b"),
        ("token-specials", b"x!#$%&'*+-.^_`|~a: b"),
        ("underscore", b"x_a: b"),
        ("digits-name", b"123: b"),
        ("pseudo-name", b":method: POST"),
        ("pseudo-path", b":path: /x"),
        ("empty-value", b"x-a:"),
        ("no-space", b"x-a:b"),
        ("many-spaces", b"x-a:     b     "),
        ("colon-value", b"x-a: : b"),
        ("upper-case", b"X-UPPER: b"),
        ("duplicate", b"x-a: b\r\nx-a: c"),
        ("connection-close", b"connection: close"),
        ("connection-close-upper", b"Connection: Close"),
        ("connection-list", b"connection: x-a, close\r\nx-a: b"),
        ("connection-host", b"connection: host"),
        ("connection-content-length", b"connection: content-length"),
        ("connection-garbage", b"connection: ;;,,"),
        ("upgrade-only", b"upgrade: websocket"),
        ("upgrade-h2c", b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAAA"),
        ("te-chunked", b"te: chunked"),
        ("expect", b"expect: 100-continue"),
        ("expect-bad", b"expect: something"),
        ("trailer", b"trailer: content-length"),
        ("http2-settings", b"http2-settings: AAAA"),
        ("proxy-connection", b"proxy-connection: close"),
        ("semicolon-line", b"x-a: b; c"),
        ("cookie-empty", b"cookie:"),
    ] {
        table.field(name, field);
    }
    table.raw("field-first-folded", "GET / HTTP/1.1\r\n host: a\r\n\r\n");
    table.raw("field-first-empty-name", "GET / HTTP/1.1\r\n: x\r\nhost: a\r\n\r\n");
    table.raw("field-bare-cr-end", "GET / HTTP/1.1\r\nhost: a\r\r\n\r\n");
    table.raw("field-end-crcr", "GET / HTTP/1.1\r\nhost: a\r\n\r\r\n");
    table.raw("field-end-lf", format!("GET / HTTP/1.1\r\nhost: a\r\n\n{NEXT}"));
}

fn framing(table: &mut Table) {
    for (name, fields, body) in [
        ("length", "content-length: 3", "abc"),
        ("length-zero", "content-length: 0", ""),
        ("length-none", "x-a: b", ""),
        ("length-plus", "content-length: +3", "abc"),
        ("length-minus", "content-length: -3", "abc"),
        ("length-hex", "content-length: 0x3", "abc"),
        ("length-leading-zeros", "content-length: 0003", "abc"),
        ("length-space-inside", "content-length: 3 3", "abc"),
        ("length-trailing-space", "content-length: 3   ", "abc"),
        ("length-trailing-tab", "content-length: 3\t", "abc"),
        ("length-letters", "content-length: abc", "abc"),
        ("length-mixed", "content-length: 3abc", "abc"),
        ("length-empty", "content-length:", ""),
        ("length-dot", "content-length: 3.0", "abc"),
        ("length-comma", "content-length: 3, 3", "abc"),
        ("length-comma-different", "content-length: 3, 4", "abc"),
        ("length-comma-trailing", "content-length: 3,", "abc"),
        ("length-twice-equal", "content-length: 3\r\ncontent-length: 3", "abc"),
        ("length-twice-different", "content-length: 3\r\ncontent-length: 4", "abcd"),
        ("length-twice-case", "Content-Length: 3\r\ncontent-LENGTH: 0", "abc"),
        ("length-2-64", "content-length: 18446744073709551616", "abc"),
        ("length-2-64-less-1", "content-length: 18446744073709551615", "abc"),
        ("length-2-63", "content-length: 9223372036854775808", "abc"),
        ("length-many-digits", "content-length: 99999999999999999999999999999", "abc"),
        ("length-quoted", "content-length: \"3\"", "abc"),
        ("length-folded", "content-length:\r\n 3", "abc"),
        ("length-space-colon", "content-length : 3", "abc"),
        ("length-underscore", "content_length: 3", ""),
        ("length-utf8-digit", "content-length: \u{0663}", "abc"),
        ("length-too-short", "content-length: 1", "abc"),
        ("both", "content-length: 3\r\ntransfer-encoding: chunked", "0\r\n\r\n"),
        ("both-reversed", "transfer-encoding: chunked\r\ncontent-length: 3", "0\r\n\r\n"),
        ("both-zero", "transfer-encoding: chunked\r\ncontent-length: 0", "0\r\n\r\n"),
        ("both-identity", "transfer-encoding: identity\r\ncontent-length: 3", "abc"),
        ("te-identity", "transfer-encoding: identity", ""),
        ("te-gzip", "transfer-encoding: gzip", "abc"),
        ("te-gzip-chunked", "transfer-encoding: gzip, chunked", "0\r\n\r\n"),
        ("te-chunked-gzip", "transfer-encoding: chunked, gzip", "0\r\n\r\n"),
        ("te-twice-chunked", "transfer-encoding: chunked, chunked", "0\r\n\r\n"),
        ("te-two-lines", "transfer-encoding: chunked\r\ntransfer-encoding: chunked", "0\r\n\r\n"),
        ("te-two-lines-gzip", "transfer-encoding: gzip\r\ntransfer-encoding: chunked", "0\r\n\r\n"),
        ("te-two-lines-identity", "transfer-encoding: chunked\r\ntransfer-encoding: identity", "0\r\n\r\n"),
        ("te-upper", "Transfer-Encoding: CHUNKED", "0\r\n\r\n"),
        ("te-space-colon", "transfer-encoding : chunked", "0\r\n\r\n"),
        ("te-tab-value", "transfer-encoding:\tchunked", "0\r\n\r\n"),
        ("te-vertical-tab", "transfer-encoding: \u{b}chunked", "0\r\n\r\n"),
        ("te-trailing-space", "transfer-encoding: chunked ", "0\r\n\r\n"),
        ("te-comma", "transfer-encoding: ,chunked", "0\r\n\r\n"),
        ("te-comma-after", "transfer-encoding: chunked,", "0\r\n\r\n"),
        ("te-semicolon", "transfer-encoding: chunked;q=1", "0\r\n\r\n"),
        ("te-quoted", "transfer-encoding: \"chunked\"", "0\r\n\r\n"),
        ("te-empty", "transfer-encoding:", ""),
        ("te-xchunked", "transfer-encoding: xchunked", "0\r\n\r\n"),
        ("te-chunkedx", "transfer-encoding: chunkedx", "0\r\n\r\n"),
        ("te-folded", "transfer-encoding:\r\n chunked", "0\r\n\r\n"),
        ("te-underscore", "transfer_encoding: chunked", ""),
        ("te-null", "transfer-encoding: chunked\0", "0\r\n\r\n"),
        ("te-cr", "transfer-encoding: chun\rked", "0\r\n\r\n"),
        ("te-lf-hidden", "x-a: b\ntransfer-encoding: chunked", "0\r\n\r\n"),
    ] {
        table.body(name, fields, body);
    }
    table.raw("body-get-length", format!("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc{NEXT}"));
    table.raw(
        "body-get-chunked",
        format!("GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n{NEXT}"),
    );
    table.raw("body-head-length", format!("HEAD / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc{NEXT}"));
    table.raw("body-10-chunked", "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n");
    table.raw("body-connect-length", "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\ncontent-length: 3\r\n\r\nabc");
    table.raw("body-smuggle-cl-te", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 44\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: evil\r\n\r\n");
    table.raw("body-smuggle-te-obfuscated", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\nTransfer-Encoding: xchunked\r\n\r\n5c\r\nGET /smuggled HTTP/1.1\r\n\r\n0\r\n\r\n");
    table.raw("body-garbage-after", "GET / HTTP/1.1\r\nhost: a\r\n\r\n\x01\x02garbage");
}

fn chunked(table: &mut Table) {
    for (name, body) in [
        ("good", "3\r\nabc\r\n0\r\n\r\n"),
        ("upper-hex", "A\r\n0123456789\r\n0\r\n\r\n"),
        ("leading-zeros", "0003\r\nabc\r\n0\r\n\r\n"),
        ("many-leading-zeros", "00000000000000000000003\r\nabc\r\n0\r\n\r\n"),
        ("many-zeros-end", "3\r\nabc\r\n00000\r\n\r\n"),
        ("prefix-0x", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("plus", "+3\r\nabc\r\n0\r\n\r\n"),
        ("minus", "-3\r\nabc\r\n0\r\n\r\n"),
        ("letters", "xyz\r\nabc\r\n0\r\n\r\n"),
        ("empty-size", "\r\nabc\r\n0\r\n\r\n"),
        ("leading-space", " 3\r\nabc\r\n0\r\n\r\n"),
        ("trailing-space", "3 \r\nabc\r\n0\r\n\r\n"),
        ("trailing-tab", "3\t\r\nabc\r\n0\r\n\r\n"),
        ("extension", "3;a=b\r\nabc\r\n0\r\n\r\n"),
        ("extension-quoted", "3;a=\"b;c\"\r\nabc\r\n0\r\n\r\n"),
        ("extension-space", "3 ; a\r\nabc\r\n0\r\n\r\n"),
        ("extension-lf", "3;a\nabc\r\n0\r\n\r\n"),
        ("extension-cr", "3;a\rb\r\nabc\r\n0\r\n\r\n"),
        ("extension-empty", "3;\r\nabc\r\n0\r\n\r\n"),
        ("comma", "3,3\r\nabc\r\n0\r\n\r\n"),
        ("bare-lf-size", "3\nabc\r\n0\r\n\r\n"),
        ("bare-lf-data", "3\r\nabc\n0\r\n\r\n"),
        ("bare-lf-last", "3\r\nabc\r\n0\n\n"),
        ("bare-lf-end", "3\r\nabc\r\n0\r\n\n"),
        ("bare-cr-size", "3\rabc\r\n0\r\n\r\n"),
        ("too-short", "2\r\nabc\r\n0\r\n\r\n"),
        ("too-long", "4\r\nabc\r\n0\r\n\r\n"),
        ("no-crlf-after-data", "3\r\nabc0\r\n\r\n"),
        ("size-2-64", "10000000000000000\r\nabc\r\n0\r\n\r\n"),
        ("size-2-64-less-1", "ffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
        ("size-2-63", "8000000000000000\r\nabc\r\n0\r\n\r\n"),
        ("size-many-digits", "fffffffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
        ("trailer", "0\r\nx-t: v\r\n\r\n"),
        ("trailer-two", "0\r\nx-t: v\r\nx-u: w\r\n\r\n"),
        ("trailer-length", "0\r\ncontent-length: 3\r\n\r\n"),
        ("trailer-te", "0\r\ntransfer-encoding: chunked\r\n\r\n"),
        ("trailer-host", "0\r\nhost: evil\r\n\r\n"),
        ("trailer-no-colon", "0\r\nxt\r\n\r\n"),
        ("trailer-space-colon", "0\r\nx-t : v\r\n\r\n"),
        ("trailer-fold", "0\r\nx-t: v\r\n w\r\n\r\n"),
        ("trailer-control", "0\r\nx-t: \u{1}\r\n\r\n"),
        ("trailer-pseudo", "0\r\n:path: /x\r\n\r\n"),
        ("trailer-null", "0\r\nx-t: a\0b\r\n\r\n"),
        ("null-in-size", "3\0\r\nabc\r\n0\r\n\r\n"),
        ("unicode-size", "\u{ff13}\r\nabc\r\n0\r\n\r\n"),
    ] {
        table.chunks(name, body);
    }
    let long = format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(20_000));
    table.chunks("extension-20k", &long);
    let trailers: String = (0..200).map(|at| format!("x-{at}: v\r\n")).collect();
    table.chunks("trailers-200", &format!("0\r\n{trailers}\r\n"));
    table.chunks("trailer-70k", &format!("0\r\nx-t: {}\r\n\r\n", "v".repeat(70_000)));
    table.chunks("many-small", &format!("{}0\r\n\r\n", "1\r\nx\r\n".repeat(500)));
}

/// Inputs that stop.
fn ends(table: &mut Table) {
    for (name, text) in [
        ("in-method", "GE"),
        ("after-line", "GET / HTTP/1.1\r\n"),
        ("in-field", "GET / HTTP/1.1\r\nhost: a\r\nx-a"),
        ("before-last-lf", "GET / HTTP/1.1\r\nhost: a\r\n\r"),
        ("in-body", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc"),
        ("in-chunk-size", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3"),
        ("in-chunk", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nab"),
        ("before-last-chunk", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"),
        ("in-trailers", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx-t: v\r\n"),
        ("chunked-last-crlf", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n"),
    ] {
        table.raw(&format!("end-{name}"), text);
    }
}

fn hosts(table: &mut Table) {
    for (name, fields) in [
        ("missing", "x-a: b"),
        ("empty", "host:"),
        ("two", "host: a\r\nhost: b"),
        ("two-equal", "host: a\r\nhost: a"),
        ("comma", "host: a,b"),
        ("space", "host: a b"),
        ("user", "host: u@a"),
        ("path", "host: a/b"),
        ("query", "host: a?b"),
        ("fragment", "host: a#b"),
        ("bad-port", "host: a:b"),
        ("big-port", "host: a:99999"),
        ("empty-port", "host: a:"),
        ("two-ports", "host: a:1:2"),
        ("v6", "host: [::1]"),
        ("v6-bare", "host: ::1"),
        ("v6-open", "host: [::1"),
        ("underscore", "host: a_b"),
        ("percent", "host: a%20b"),
        ("utf8", "host: \u{e9}"),
        ("quote", "host: \"a\""),
        ("angle", "host: <a>"),
        ("backslash", "host: a\\b"),
        ("control", "host: a\u{1}"),
        ("dots", "host: a..b"),
        ("dash", "host: -a-"),
        ("upper", "HOST: A"),
        ("space-colon", "host : a"),
    ] {
        table.raw(&format!("host-{name}"), format!("GET / HTTP/1.1\r\n{fields}\r\n\r\n"));
    }
    table.raw("host-absolute-without", "GET http://b/ HTTP/1.1\r\n\r\n");
    table.raw("host-absolute-two", "GET http://b/ HTTP/1.1\r\nhost: a\r\nhost: c\r\n\r\n");
    table.raw("host-long", format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", "a".repeat(5000)));
}

fn limits(table: &mut Table) {
    for kib in [8, 59, 61, 100] {
        table.raw(
            &format!("limit-target-{kib}k"),
            format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(kib * 1024)),
        );
        table.raw(
            &format!("limit-value-{kib}k"),
            format!("GET / HTTP/1.1\r\nhost: a\r\nx-a: {}\r\n\r\n", "x".repeat(kib * 1024)),
        );
    }
    table.raw("limit-name-20k", format!("GET / HTTP/1.1\r\nhost: a\r\n{}: b\r\n\r\n", "x".repeat(20_000)));
    table.raw("limit-method-20k", format!("{} / HTTP/1.1\r\nhost: a\r\n\r\n", "X".repeat(20_000)));
    table.raw("limit-version-20k", format!("GET / HTTP/1.1{}\r\nhost: a\r\n\r\n", "1".repeat(20_000)));
    for count in [98, 99, 100, 101, 500] {
        let fields: String = (0..count).map(|at| format!("x-{at}: v\r\n")).collect();
        table.raw(&format!("limit-fields-{count}"), format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n"));
    }
    table.raw("limit-crlfs-1000", format!("{}GET / HTTP/1.1\r\nhost: a\r\n\r\n", "\r\n".repeat(1000)));
    table.raw("limit-pipelined-50", "GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(50));
}
