//! Looks at the headers of an HTTP/2 client's frames: one that floods, or that does not begin as it must, loses its connection.
//!
//! **Source**: `envoy.config.core.v3.Http2ProtocolOptions`, the `max_*` fields.

use tokio::time::Instant;

use super::Reason;
use super::frame::{Head, flag, kind};
use crate::config::Http2Options;

/// SETTINGS and PING frames at once: each costs us an answer, so they must not come faster than those leave.
const CONTROL_BURST: u64 = 1_000;
/// And per second: gRPC's clients send a PING for every round trip while data flows.
const CONTROL_RATE: f64 = 10_000.0;
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
    pub(super) fn reason(self) -> Reason {
        match self {
            Breach::NoSettings | Breach::Malformed => Reason::PROTOCOL_ERROR,
            _ => Reason::ENHANCE_YOUR_CALM,
        }
    }
}

/// What was seen of one connection; sans-io.
pub(super) struct Guard {
    opened: bool,
    streams: u64,
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
}

impl Guard {
    /// A guard of a connection that has just begun.
    pub(super) fn new(o: &Http2Options) -> Self {
        Guard {
            opened: false,
            streams: 0,
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
        }
    }

    /// A DATA frame has left.
    pub(super) fn sent_data(&mut self) {
        self.data_sent += 1;
    }

    /// Looks at a frame from the client.
    ///
    /// # Errors
    /// The client is to be left.
    pub(super) fn received(&mut self, frame: Head) -> Result<(), Breach> {
        if !std::mem::replace(&mut self.opened, true) && (frame.kind != kind::SETTINGS || frame.has(flag::ACK)) {
            return Err(Breach::NoSettings);
        }
        match frame.kind {
            kind::DATA | kind::HEADERS | kind::CONTINUATION => {
                self.streams += u64::from(frame.kind == kind::HEADERS);
                if frame.len == 0 && (frame.kind == kind::CONTINUATION || !frame.has(flag::END_STREAM)) {
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
            kind::SETTINGS | kind::PING if !frame.has(flag::ACK) && !self.control.take(Instant::now()) => {
                return Err(Breach::Control);
            }
            _ => {}
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, len: usize) -> Head {
        Head { len, kind, flags, stream: 1 }
    }

    fn opened(o: &Http2Options) -> Guard {
        let mut guard = Guard::new(o);
        guard.received(frame(4, 0, 0)).unwrap();
        guard
    }

    fn run(frames: &[Head]) -> Result<(), Breach> {
        let mut guard = opened(&Http2Options::default());
        frames.iter().try_for_each(|f| guard.received(*f))
    }

    #[test]
    fn floods_end_the_connection() {
        assert_eq!(run(&[frame(2, 0, 5); 101]), Err(Breach::Priority));
        assert_eq!(run(&vec![frame(6, 0, 8); 50_000]), Err(Breach::Control));
        assert_eq!(run(&[frame(0, 0, 0); 2]), Err(Breach::EmptyFrames));
        assert_eq!(run(&vec![frame(6, 1, 8); 5000]), Ok(()));
        assert_eq!(run(&[frame(8, 0, 4); 6]), Err(Breach::WindowUpdates));
        assert_eq!(run(&[vec![frame(1, 5, 3)], vec![frame(8, 0, 4); 7]].concat()), Ok(()));
        assert_eq!(run(&[frame(1, 4, 10), frame(0, 0, 0), frame(0, 0, 5), frame(0, 0, 0)]), Ok(()));
    }

    #[test]
    fn data_sent_earns_window_updates() {
        let mut guard = opened(&Http2Options { max_window_updates_per_data: 3, ..Http2Options::default() });
        guard.sent_data();
        for _ in 0..11 {
            guard.received(frame(8, 0, 4)).unwrap();
        }
        assert_eq!(guard.received(frame(8, 0, 4)), Err(Breach::WindowUpdates));
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
        assert_eq!(run(&flood), Err(Breach::Resets));
        assert_eq!(run(&flood[..1_000]), Ok(()));
    }

    #[test]
    fn settings_come_first() {
        for first in [frame(6, 0, 8), frame(1, 5, 3), frame(4, 1, 0)] {
            let mut guard = Guard::new(&Http2Options::default());
            assert_eq!(guard.received(first), Err(Breach::NoSettings));
        }
    }
}
