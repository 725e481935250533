//! Frame headers in a stream of HTTP/2 bytes, however it is cut.

/// Frame header: length (3), type, flags, stream (4).
const HEADER: usize = 9;

/// Frame types (RFC 9113 section 6).
pub(super) mod kind {
    pub(in super::super) const DATA: u8 = 0;
    pub(in super::super) const HEADERS: u8 = 1;
    pub(in super::super) const PRIORITY: u8 = 2;
    pub(in super::super) const RST_STREAM: u8 = 3;
    pub(in super::super) const SETTINGS: u8 = 4;
    pub(in super::super) const PING: u8 = 6;
    pub(in super::super) const WINDOW_UPDATE: u8 = 8;
    pub(in super::super) const CONTINUATION: u8 = 9;
}

/// A frame as far as it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) len: usize,
    /// The code of a RST_STREAM.
    pub(super) code: u32,
}

/// Finds frames; sans-io.
pub(super) struct Frames {
    skip: usize,
    bytes: [u8; HEADER + 4],
    have: usize,
}

impl Frames {
    /// A reader with so many bytes ahead that are no frames.
    pub(super) fn after(skip: usize) -> Self {
        Frames { skip, bytes: [0; HEADER + 4], have: 0 }
    }

    /// Takes bytes up to the next frame's header off `data`; `None` once they are used up.
    pub(super) fn next(&mut self, data: &mut &[u8]) -> Option<Frame> {
        while !data.is_empty() {
            let n = self.skip.min(data.len());
            self.skip -= n;
            *data = &data[n..];
            if self.skip > 0 {
                return None;
            }
            let want = self.want();
            let n = (want - self.have).min(data.len());
            self.bytes[self.have..self.have + n].copy_from_slice(&data[..n]);
            self.have += n;
            *data = &data[n..];
            if self.have >= HEADER && self.have == self.want() {
                return Some(self.take());
            }
        }
        None
    }

    fn len(&self) -> usize {
        let [a, b, c, ..] = self.bytes;
        usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)
    }

    /// How much is to be collected: of a reset, its code too.
    fn want(&self) -> usize {
        let reset = self.have >= HEADER && self.bytes[3] == kind::RST_STREAM && self.len() == 4;
        if reset { HEADER + 4 } else { HEADER }
    }

    fn take(&mut self) -> Frame {
        let [_, _, _, kind, flags, s1, s2, s3, s4, c1, c2, c3, c4] = self.bytes;
        let len = self.len();
        self.skip = HEADER + len - self.have;
        let code = if self.have > HEADER { u32::from_be_bytes([c1, c2, c3, c4]) } else { 0 };
        self.have = 0;
        Frame { kind, flags, stream: u32::from_be_bytes([s1 & 0x7f, s2, s3, s4]), len, code }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let mut all = b"preface".to_vec();
        all.extend_from_slice(&[0, 0, 3, 0, 1, 0x80, 0, 0, 5, 9, 9, 9]);
        all.extend_from_slice(&[0, 0, 4, 3, 0, 0, 0, 0, 7, 0, 0, 0, 1]);
        all.extend_from_slice(&[0, 0, 0, 4, 1, 0, 0, 0, 0]);
        for step in 1..all.len() {
            let mut frames = Frames::after(7);
            let mut seen = Vec::new();
            for mut part in all.chunks(step) {
                while let Some(f) = frames.next(&mut part) {
                    seen.push((f.kind, f.flags, f.stream, f.len, f.code));
                }
            }
            assert_eq!(seen, [(0, 1, 5, 3, 0), (3, 0, 7, 4, 1), (4, 1, 0, 0, 0)], "{step}");
        }
    }
}
