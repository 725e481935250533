//! HTTP/2 as bytes: frames to send, and what an answer says without a whole codec.

use crate::upstream::show;

/// The client preface.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types.
pub mod kind {
    /// DATA.
    pub const DATA: u8 = 0;
    /// HEADERS.
    pub const HEADERS: u8 = 1;
    /// PRIORITY.
    pub const PRIORITY: u8 = 2;
    /// `RST_STREAM`.
    pub const RST_STREAM: u8 = 3;
    /// SETTINGS.
    pub const SETTINGS: u8 = 4;
    /// `PUSH_PROMISE`.
    pub const PUSH_PROMISE: u8 = 5;
    /// PING.
    pub const PING: u8 = 6;
    /// GOAWAY.
    pub const GOAWAY: u8 = 7;
    /// `WINDOW_UPDATE`.
    pub const WINDOW_UPDATE: u8 = 8;
    /// CONTINUATION.
    pub const CONTINUATION: u8 = 9;
}

/// A frame; `stream` may have its reserved bit set.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    framed(kind, flags, stream, payload.len(), payload)
}

/// A frame whose length field says something else than its payload's length.
#[must_use]
pub fn framed(kind: u8, flags: u8, stream: u32, length: usize, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header block of literals without indexing and without Huffman coding.
#[must_use]
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        string(&mut bytes, name.as_bytes());
        string(&mut bytes, value.as_bytes());
    }
    bytes
}

fn string(into: &mut Vec<u8>, text: &[u8]) {
    // An integer with a prefix of 7 bits.
    if let Some(short) = u8::try_from(text.len()).ok().filter(|length| *length < 127) {
        into.push(short);
    } else {
        into.push(127);
        let mut rest = text.len() - 127;
        while rest >= 128 {
            into.push(u8::try_from(rest % 128).unwrap_or(0) | 128);
            rest /= 128;
        }
        into.push(u8::try_from(rest).unwrap_or(0));
    }
    into.extend_from_slice(text);
}

/// What a server's bytes say that a comparison may ask: statuses, resets, GOAWAYs, acknowledgements of pings.
#[must_use]
pub fn summary(mut bytes: &[u8]) -> Vec<String> {
    let mut said = Vec::new();
    while let [a, b, c, kind, flags, s0, s1, s2, s3, rest @ ..] = bytes {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        let Some(payload) = rest.get(..length) else {
            said.push(format!("cut frame {}", show(bytes)));
            break;
        };
        let stream = u32::from_be_bytes([*s0, *s1, *s2, *s3]);
        match *kind {
            kind::HEADERS => said.push(format!("{stream}:{}", status(payload))),
            kind::RST_STREAM => said.push(format!("{stream}:RST {}", code(payload, 0))),
            kind::GOAWAY => said.push(format!("GOAWAY {}", code(payload, 4))),
            kind::PING if flags & 1 == 1 => said.push("pong".to_owned()),
            _ => {}
        }
        bytes = &rest[length..];
    }
    said
}

fn code(payload: &[u8], at: usize) -> String {
    let names = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    let number = payload
        .get(at..at + 4)
        .map_or(usize::MAX, |code| code.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)));
    names.get(number).map_or_else(|| number.to_string(), |name| (*name).to_owned())
}

/// The status of a response's header block. It comes first; a table size update may stand before it.
fn status(block: &[u8]) -> String {
    const INDEXED: [&str; 7] = ["200", "204", "206", "304", "400", "404", "500"];
    match block {
        [first, rest @ ..] if first & 0xe0 == 0x20 => {
            // A number that does not fit in five bits goes on until a byte without the high bit.
            let more = rest.iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
            status(rest.get(if first & 0x1f == 0x1f { more } else { 0 }..).unwrap_or(&[]))
        }
        [first, ..] if (0x88..=0x8e).contains(first) => INDEXED[usize::from(first - 0x88)].to_owned(),
        [0x08 | 0x18 | 0x48 | 0x0c..=0x0e | 0x48..=0x4e, length, value @ ..] if length & 0x80 == 0 => {
            value.get(..usize::from(*length)).map_or("?".to_owned(), |text| String::from_utf8_lossy(text).into_owned())
        }
        [0x08 | 0x18 | 0x48 | 0x0c..=0x0e | 0x48..=0x4e, length, value @ ..] => {
            value.get(..usize::from(length & 0x7f)).map_or("?".to_owned(), digits)
        }
        // An entry of the dynamic table: this connection said it before.
        [first, ..] if first & 0x80 == 0x80 => "again".to_owned(),
        _ => "headers".to_owned(),
    }
}

/// Huffman-coded digits: 0 to 2 have five bits, 3 to 9 six.
fn digits(coded: &[u8]) -> String {
    let bits: Vec<u8> = coded.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)).collect();
    let number = |bits: &[u8]| bits.iter().fold(0_u8, |number, bit| number << 1 | bit);
    let (mut at, mut text) = (0, String::new());
    while let Some(five) = bits.get(at..at + 5).map(number) {
        if five <= 2 {
            text.push(char::from(b'0' + five));
            at += 5;
        } else if let Some(six @ 0x19..=0x1f) = bits.get(at..at + 6).map(number) {
            text.push(char::from(b'3' + (six - 0x19)));
            at += 6;
        } else {
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_in_every_form_a_server_may_choose() {
        assert_eq!(status(&[0x88]), "200");
        assert_eq!(status(&[0x20, 0x88]), "200");
        assert_eq!(status(&[0x3f, 0xe1, 0x1f, 0x88]), "200");
        assert_eq!(status(b"\x48\x03431"), "431");
        // 503 in Huffman code: 011011 00000 011001.
        assert_eq!(status(&[0x48, 0x83, 0b0110_1100, 0b0000_1100, 0b1111_1111]), "503");
    }

    #[test]
    fn resets_and_goaways_have_names() {
        let mut bytes = frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 7]);
        bytes.extend(frame(kind::GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 1]));
        assert_eq!(summary(&bytes), ["1:RST REFUSED_STREAM", "GOAWAY PROTOCOL_ERROR"]);
    }
}
