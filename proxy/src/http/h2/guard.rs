//! Looks at an HTTP/2 client's frames on their way to the library, and at the library's own on their way out.
//!
//! A client that floods, or that does not begin as it must, loses its connection; so does one whose request is malformed, unless
//! its listener is set to reset only the stream. Only frame headers are looked at. **Source**:
//! `envoy.config.core.v3.Http2ProtocolOptions`, the `max_*` fields and `override_stream_error_on_invalid_http_message`.

use tokio::time::Instant;

use super::frames::{Frame, Frames, kind};
use crate::config::Http2Options;

/// Length of the client's connection preface.
const PREFACE: usize = 24;
/// SETTINGS and PING frames at once: each costs us an answer, so they must not come faster than those leave.
const CONTROL_BURST: u64 = 1_000;
/// And per second: gRPC's clients send a PING for every round trip while data flows.
const CONTROL_RATE: f64 = 10_000.0;
/// Streams remembered as having had data: enough for those that are being received at one time.
const WITH_DATA: usize = 64;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;

/// What a peer did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Breach {
    #[error("the client's preface goes without settings")]
    NoSettings,
    #[error("too many empty frames")]
    EmptyFrames,
    #[error("too many PRIORITY frames")]
    Priority,
    #[error("too many control frames")]
    Control,
    #[error("too many WINDOW_UPDATE frames")]
    WindowUpdates,
    #[error("too many streams reset")]
    Resets,
    #[error("malformed request")]
    Malformed,
}

impl Breach {
    /// The code of the GOAWAY that answers it.
    pub(super) fn reason(self) -> h2::Reason {
        match self {
            Breach::NoSettings | Breach::Malformed => h2::Reason::PROTOCOL_ERROR,
            _ => h2::Reason::ENHANCE_YOUR_CALM,
        }
    }
}

/// What was seen of one connection; sans-io.
pub(super) struct Guard {
    inbound: Frames,
    outbound: Frames,
    opened: bool,
    streams: u64,
    /// The highest stream that was opened.
    pub(super) last_stream: u32,
    priority: u64,
    control: Bucket,
    empty: u32,
    max_priority: u64,
    max_empty: u32,
    windows: u64,
    /// DATA frames sent.
    data_sent: u64,
    max_windows_per_data: u64,
    /// `stream_reset_rate`, `stream_reset_burst`.
    resets: Bucket,
    /// Malformed requests cost only their streams.
    spare_connection: bool,
    /// Streams whose last frame was DATA, newest anywhere.
    with_data: [u32; WITH_DATA],
    newest: usize,
}

impl Guard {
    /// A guard with a client's preface ahead.
    pub(super) fn new(o: &Http2Options, spare_connection: bool) -> Self {
        Guard {
            inbound: Frames::after(PREFACE),
            outbound: Frames::after(0),
            opened: false,
            streams: 0,
            last_stream: 0,
            priority: 0,
            control: Bucket::new(CONTROL_BURST, CONTROL_RATE),
            empty: 0,
            max_priority: u64::from(o.max_priority_frames_per_stream),
            max_empty: o.max_empty_frames,
            windows: 0,
            data_sent: 0,
            max_windows_per_data: u64::from(o.max_window_updates_per_data),
            resets: Bucket::new(
                if o.stream_reset_burst == 0 { RESET_BURST } else { o.stream_reset_burst },
                o.stream_reset_rate.unwrap_or(RESET_RATE),
            ),
            spare_connection,
            with_data: [0; WITH_DATA],
            newest: 0,
        }
    }

    /// Looks at bytes from the client.
    ///
    /// # Errors
    /// The client is to be left.
    pub(super) fn received(&mut self, mut data: &[u8]) -> Result<(), Breach> {
        while let Some(frame) = self.inbound.next(&mut data) {
            self.inspect(frame)?;
        }
        Ok(())
    }

    /// Looks at bytes for the client.
    ///
    /// # Errors
    /// The library has refused a request as malformed, which is to cost the connection.
    pub(super) fn sent(&mut self, mut data: &[u8]) -> Result<(), Breach> {
        while let Some(frame) = self.outbound.next(&mut data) {
            self.data_sent += u64::from(frame.kind == kind::DATA);
            // A body that belies its content-length is refused with the same code, and costs only its stream.
            if frame.kind == kind::RST_STREAM
                && frame.code == u32::from(h2::Reason::PROTOCOL_ERROR)
                && !self.spare_connection
                && !self.with_data.contains(&frame.stream)
            {
                return Err(Breach::Malformed);
            }
        }
        Ok(())
    }

    fn inspect(&mut self, frame: Frame) -> Result<(), Breach> {
        if !std::mem::replace(&mut self.opened, true) && (frame.kind != kind::SETTINGS || frame.flags & ACK != 0) {
            return Err(Breach::NoSettings);
        }
        match frame.kind {
            kind::DATA | kind::HEADERS | kind::CONTINUATION => {
                self.note(frame);
                if frame.len == 0 && (frame.kind == kind::CONTINUATION || frame.flags & END_STREAM == 0) {
                    self.empty += 1;
                    if self.empty > self.max_empty {
                        return Err(Breach::EmptyFrames);
                    }
                } else {
                    self.empty = 0;
                }
            }
            kind::PRIORITY => {
                self.priority += 1;
                if self.priority > self.max_priority * (1 + self.streams) {
                    return Err(Breach::Priority);
                }
            }
            kind::WINDOW_UPDATE => {
                self.windows += 1;
                // Two for each stream and each frame they may be about (its own and the connection's), and a few to begin with.
                if self.windows > 5 + 2 * (self.streams + self.max_windows_per_data * self.data_sent) {
                    return Err(Breach::WindowUpdates);
                }
            }
            kind::RST_STREAM if !self.resets.take(Instant::now()) => return Err(Breach::Resets),
            kind::SETTINGS | kind::PING if frame.flags & ACK == 0 && !self.control.take(Instant::now()) => {
                return Err(Breach::Control);
            }
            _ => {}
        }
        Ok(())
    }

    /// Remembers which streams are in the middle of their data.
    fn note(&mut self, frame: Frame) {
        match frame.kind {
            kind::DATA if self.with_data[self.newest] != frame.stream && !self.with_data.contains(&frame.stream) => {
                self.newest = (self.newest + 1) % WITH_DATA;
                self.with_data[self.newest] = frame.stream;
            }
            kind::HEADERS => {
                self.streams += 1;
                if frame.stream > self.last_stream {
                    self.last_stream = frame.stream;
                } else if let Some(slot) = self.with_data.iter_mut().find(|s| **s == frame.stream) {
                    *slot = 0;
                }
            }
            _ => {}
        }
    }
}

/// Resets at once, and per second, where nothing is configured: what Envoy's library has. Rapid resets make work for nothing
/// (CVE-2023-44487).
const RESET_BURST: u64 = 1_000;
const RESET_RATE: f64 = 33.0;

/// So many at once, and so many per second.
struct Bucket {
    left: f64,
    burst: f64,
    rate: f64,
    at: Option<Instant>,
}

impl Bucket {
    fn new(burst: u64, rate: f64) -> Self {
        Bucket { left: burst as f64, burst: burst as f64, rate, at: None }
    }

    /// Takes one; `false`: there is none left.
    fn take(&mut self, now: Instant) -> bool {
        let since = self.at.replace(now).map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        self.left = (self.left + since * self.rate).min(self.burst);
        let any = self.left >= 1.0;
        self.left -= f64::from(u8::from(any));
        any
    }
}

/// A GOAWAY frame that tells of a breach.
pub(super) fn goaway(last_stream: u32, reason: h2::Reason) -> [u8; 17] {
    let ([l1, l2, l3, l4], [r1, r2, r3, r4]) = (last_stream.to_be_bytes(), u32::from(reason).to_be_bytes());
    [0, 0, 8, 7, 0, 0, 0, 0, 0, l1, l2, l3, l4, r1, r2, r3, r4]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(stream: u8, kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let l = (payload.len() as u32).to_be_bytes();
        let mut f = vec![l[1], l[2], l[3], kind, flags, 0, 0, 0, stream];
        f.extend_from_slice(payload);
        f
    }

    fn frame(kind: u8, flags: u8, len: usize) -> Vec<u8> {
        on(1, kind, flags, &vec![0; len])
    }

    fn opened() -> Vec<u8> {
        let mut all = vec![0; PREFACE];
        all.extend(frame(4, 0, 0));
        all
    }

    fn run(frames: &[Vec<u8>], step: usize) -> Result<(), Breach> {
        let mut guard = Guard::new(&Http2Options::default(), false);
        let mut all = opened();
        all.extend(frames.concat());
        all.chunks(step).try_for_each(|part| guard.received(part))
    }

    #[test]
    fn floods_end_the_connection_however_they_are_cut() {
        for step in [1, 7, 9, 4096] {
            assert_eq!(run(&vec![frame(2, 0, 5); 101], step), Err(Breach::Priority));
            assert_eq!(run(&vec![frame(6, 0, 8); 50_000], step), Err(Breach::Control));
            assert_eq!(run(&vec![frame(0, 0, 0); 2], step), Err(Breach::EmptyFrames));
            assert_eq!(run(&vec![frame(6, 1, 8); 5000], step), Ok(()));
            assert_eq!(run(&vec![frame(8, 0, 4); 6], step), Err(Breach::WindowUpdates));
            assert_eq!(run(&[vec![frame(1, 5, 3)], vec![frame(8, 0, 4); 7]].concat(), step), Ok(()));
            assert_eq!(run(&[frame(1, 4, 10), frame(0, 0, 0), frame(0, 0, 5), frame(0, 0, 0)], step), Ok(()));
        }
    }

    #[test]
    fn data_sent_earns_window_updates() {
        let mut guard = Guard::new(&Http2Options { max_window_updates_per_data: 3, ..Http2Options::default() }, false);
        guard.received(&opened()).unwrap();
        guard.sent(&frame(0, 0, 9)).unwrap();
        assert_eq!(guard.received(&frame(8, 0, 4).repeat(11)), Ok(()));
        assert_eq!(guard.received(&frame(8, 0, 4)), Err(Breach::WindowUpdates));
    }

    #[test]
    fn resets_come_from_a_bucket() {
        let (mut resets, began) = (Bucket::new(3, 2.0), Instant::now());
        let mut at = |millis| resets.take(began + std::time::Duration::from_millis(millis));
        assert_eq!(
            [at(0), at(0), at(0), at(0), at(400), at(500), at(500)],
            [true, true, true, false, false, true, false]
        );
        assert!(at(60_000) && at(60_000) && at(60_000) && !at(60_000), "never more than the burst");
        let flood = vec![frame(3, 0, 4); 2_000];
        assert_eq!(run(&flood, 4096), Err(Breach::Resets));
        assert_eq!(run(&flood[..1_000], 4096), Ok(()));
    }

    #[test]
    fn settings_come_first() {
        for first in [frame(6, 0, 8), frame(1, 5, 3), frame(4, 1, 0)] {
            let mut guard = Guard::new(&Http2Options::default(), false);
            let bytes = [vec![0; PREFACE], first].concat();
            assert_eq!(guard.received(&bytes), Err(Breach::NoSettings));
        }
    }

    #[test]
    fn malformed_heads_cost_the_connection_and_wrong_bodies_their_stream() {
        let reset = |code| on(1, 3, 0, &[0, 0, 0, code]);
        let (headers, data) = (on(1, 1, 4, &[0; 3]), on(1, 0, 0, &[0; 3]));
        for (inbound, out, spare, want) in [
            (vec![headers.clone()], reset(1), false, Err(Breach::Malformed)),
            (vec![headers.clone()], reset(1), true, Ok(())),
            (vec![headers.clone()], reset(8), false, Ok(())),
            (vec![headers.clone(), data.clone()], reset(1), false, Ok(())),
            (vec![headers.clone(), data, headers], reset(1), false, Err(Breach::Malformed)),
        ] {
            let mut guard = Guard::new(&Http2Options::default(), spare);
            guard.received(&opened()).unwrap();
            guard.received(&inbound.concat()).unwrap();
            let sent: Result<(), Breach> = out.chunks(2).try_for_each(|part| guard.sent(part));
            assert_eq!(sent, want);
        }
        assert_eq!(goaway(5, h2::Reason::PROTOCOL_ERROR)[9..], [0, 0, 0, 5, 0, 0, 0, 1]);
    }
}
