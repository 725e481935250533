//! Frame headers (RFC 9113 section 4.1), and the frames that are nothing but a few numbers.

use bytes::BufMut;

use super::Reason;

/// Length of a frame header.
pub(super) const HEADER: usize = 9;
/// What we let the peer send in one frame: the protocol's own default.
pub(super) const MAX_SIZE: usize = 16_384;
/// The largest window.
pub(super) const MAX_WINDOW: i64 = (1 << 31) - 1;
/// Windows and table sizes before anybody said anything.
pub(super) const DEFAULT_WINDOW: u32 = 65_535;

/// What a client begins with.
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types (RFC 9113 section 6).
pub(super) mod kind {
    pub(in super::super) const DATA: u8 = 0;
    pub(in super::super) const HEADERS: u8 = 1;
    pub(in super::super) const PRIORITY: u8 = 2;
    pub(in super::super) const RST_STREAM: u8 = 3;
    pub(in super::super) const SETTINGS: u8 = 4;
    pub(in super::super) const PUSH_PROMISE: u8 = 5;
    pub(in super::super) const PING: u8 = 6;
    pub(in super::super) const GOAWAY: u8 = 7;
    pub(in super::super) const WINDOW_UPDATE: u8 = 8;
    pub(in super::super) const CONTINUATION: u8 = 9;
}

/// Flags.
pub(super) mod flag {
    pub(in super::super) const END_STREAM: u8 = 1;
    pub(in super::super) const ACK: u8 = 1;
    pub(in super::super) const END_HEADERS: u8 = 4;
    pub(in super::super) const PADDED: u8 = 8;
    pub(in super::super) const PRIORITY: u8 = 32;
}

/// Settings (RFC 9113 section 6.5.2, RFC 8441 section 3).
pub(super) mod setting {
    pub(in super::super) const HEADER_TABLE_SIZE: u16 = 1;
    pub(in super::super) const ENABLE_PUSH: u16 = 2;
    pub(in super::super) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(in super::super) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(in super::super) const MAX_FRAME_SIZE: u16 = 5;
    pub(in super::super) const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub(in super::super) const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// A frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) len: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Head {
    /// Reads one, if it is all there.
    pub(super) fn read(bytes: &[u8]) -> Option<Head> {
        let [l1, l2, l3, kind, flags, s1, s2, s3, s4, ..] = *bytes else { return None };
        Some(Head {
            len: u32::from_be_bytes([0, l1, l2, l3]) as usize,
            kind,
            flags,
            // The first bit is reserved, and ignored.
            stream: u32::from_be_bytes([s1, s2, s3, s4]) & 0x7fff_ffff,
        })
    }

    /// Whether a flag is set.
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Writes it.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        let [_, l1, l2, l3] = (self.len as u32).to_be_bytes();
        let [s1, s2, s3, s4] = self.stream.to_be_bytes();
        out.put_slice(&[l1, l2, l3, self.kind, self.flags, s1, s2, s3, s4]);
    }
}

fn small(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    Head { len: payload.len(), kind, flags, stream }.write(out);
    out.put_slice(payload);
}

/// RST_STREAM
pub(super) fn reset(out: &mut Vec<u8>, stream: u32, reason: Reason) {
    small(out, kind::RST_STREAM, 0, stream, &u32::from(reason).to_be_bytes());
}

/// GOAWAY
pub(super) fn goaway(out: &mut Vec<u8>, last: u32, reason: Reason) {
    let ([l1, l2, l3, l4], [r1, r2, r3, r4]) = (last.to_be_bytes(), u32::from(reason).to_be_bytes());
    small(out, kind::GOAWAY, 0, 0, &[l1, l2, l3, l4, r1, r2, r3, r4]);
}

/// WINDOW_UPDATE
pub(super) fn window(out: &mut Vec<u8>, stream: u32, by: u32) {
    small(out, kind::WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
}

/// PING
pub(super) fn ping(out: &mut Vec<u8>, ack: bool, payload: [u8; 8]) {
    small(out, kind::PING, if ack { flag::ACK } else { 0 }, 0, &payload);
}

/// The acknowledgement of settings.
pub(super) fn settings_ack(out: &mut Vec<u8>) {
    small(out, kind::SETTINGS, flag::ACK, 0, &[]);
}

/// SETTINGS
pub(super) fn settings(out: &mut Vec<u8>, all: &[(u16, u32)]) {
    Head { len: all.len() * 6, kind: kind::SETTINGS, flags: 0, stream: 0 }.write(out);
    for (id, value) in all {
        out.put_u16(*id);
        out.put_u32(*value);
    }
}
