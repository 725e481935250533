//! Counts a peer's HTTP/2 frames on their way to the library and ends the connection of one that floods.
//!
//! Only frame headers are looked at. **Source**: `envoy.config.core.v3.Http2ProtocolOptions`, the `max_*` fields.

use crate::config::Http2Options;

/// Frame header: length (3), type, flags, stream (4).
const HEADER: usize = 9;
/// Length of the client's connection preface.
const PREFACE: usize = 24;
/// SETTINGS and PING frames a peer may send beyond one per ten other frames: they cost us an answer each.
const CONTROL_BURST: u64 = 1_000;

/// Counts of one connection; sans-io.
pub(super) struct Counts {
    skip: usize,
    header: [u8; HEADER],
    have: usize,
    streams: u64,
    priority: u64,
    control: u64,
    others: u64,
    empty: u32,
    max_priority: u64,
    max_empty: u32,
}

impl Counts {
    /// Counts with a client's preface ahead.
    pub(super) fn new(o: &Http2Options) -> Self {
        Counts {
            skip: PREFACE,
            header: [0; HEADER],
            have: 0,
            streams: 0,
            priority: 0,
            control: 0,
            others: 0,
            empty: 0,
            max_priority: u64::from(o.max_priority_frames_per_stream),
            max_empty: o.max_empty_frames,
        }
    }

    /// Looks at bytes in passing; the error names the flood.
    pub(super) fn feed(&mut self, mut data: &[u8]) -> Result<(), &'static str> {
        while !data.is_empty() {
            let n = self.skip.min(data.len());
            self.skip -= n;
            data = &data[n..];
            if self.skip > 0 {
                break;
            }
            let n = (HEADER - self.have).min(data.len());
            self.header[self.have..self.have + n].copy_from_slice(&data[..n]);
            self.have += n;
            data = &data[n..];
            if self.have == HEADER {
                self.have = 0;
                let [a, b, c, kind, flags, ..] = self.header;
                let len = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                self.skip = len;
                self.frame(kind, flags, len)?;
            }
        }
        Ok(())
    }

    fn frame(&mut self, kind: u8, flags: u8, len: usize) -> Result<(), &'static str> {
        const END_STREAM: u8 = 1;
        const ACK: u8 = 1;
        match kind {
            // DATA, HEADERS, CONTINUATION
            0 | 1 | 9 => {
                self.others += 1;
                if kind == 1 {
                    self.streams += 1;
                }
                if len == 0 && (kind == 9 || flags & END_STREAM == 0) {
                    self.empty += 1;
                    if self.empty > self.max_empty {
                        return Err("too many empty frames");
                    }
                } else {
                    self.empty = 0;
                }
            }
            // PRIORITY
            2 => {
                self.priority += 1;
                if self.priority > self.max_priority * (1 + self.streams) {
                    return Err("too many PRIORITY frames");
                }
            }
            // SETTINGS, PING
            4 | 6 if flags & ACK == 0 => {
                self.control += 1;
                if self.control > CONTROL_BURST + self.others / 10 {
                    return Err("too many control frames");
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, len: u32) -> Vec<u8> {
        let l = len.to_be_bytes();
        let mut f = vec![l[1], l[2], l[3], kind, flags, 0, 0, 0, 1];
        f.resize(HEADER + len as usize, 0);
        f
    }

    fn run(frames: &[Vec<u8>], step: usize) -> Result<(), &'static str> {
        let mut c = Counts::new(&Http2Options::default());
        let mut all = vec![0; PREFACE];
        all.extend(frames.concat());
        all.chunks(step).try_for_each(|part| c.feed(part))
    }

    #[test]
    fn floods_end_the_connection_however_they_are_cut() {
        for step in [1, 7, 9, 4096] {
            assert_eq!(run(&vec![frame(2, 0, 5); 101], step), Err("too many PRIORITY frames"));
            assert_eq!(run(&vec![frame(6, 0, 8); 1001], step), Err("too many control frames"));
            assert_eq!(run(&vec![frame(0, 0, 0); 2], step), Err("too many empty frames"));
            assert_eq!(run(&vec![frame(6, 1, 8); 5000], step), Ok(()));
            assert_eq!(run(&[frame(1, 4, 10), frame(0, 0, 0), frame(0, 0, 5), frame(0, 0, 0)], step), Ok(()));
        }
    }
}
