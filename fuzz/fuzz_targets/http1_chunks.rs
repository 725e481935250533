//! Chunked bodies: the same payload, trailers and refusal however the bytes arrive.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use weft_proxy::http::h1::chunked::{Chunked, Event, Limits};

#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    payload: Vec<u8>,
    trailers: usize,
    /// `Some(true)`: ended; `Some(false)`: refused; `None`: more is needed.
    end: Option<bool>,
    /// Bytes behind the body.
    left: usize,
}

fuzz_target!(|input: (u8, &[u8])| {
    let (step, data) = input;
    let whole = decode(data, data.len().max(1));
    let pieces = decode(data, usize::from(step).max(1));
    assert_eq!(whole.end, pieces.end);
    if whole.end == Some(true) {
        assert_eq!(whole, pieces);
    }
    assert!(whole.payload.len() <= data.len());
});

fn decode(data: &[u8], step: usize) -> Outcome {
    let mut decoder = Chunked::new(Limits { bytes: 4096, trailers: 100 });
    let mut buf = BytesMut::new();
    let mut out = Outcome { payload: Vec::new(), trailers: 0, end: None, left: 0 };
    let mut fed = 0;
    for piece in data.chunks(step) {
        buf.extend_from_slice(piece);
        fed += piece.len();
        loop {
            match decoder.next(&mut buf) {
                Ok(Event::Data(d)) => {
                    assert!(!d.is_empty(), "progress");
                    out.payload.extend_from_slice(&d);
                }
                Ok(Event::End(trailers)) => {
                    out.trailers = trailers.len();
                    out.end = Some(true);
                    out.left = buf.len() + data.len() - fed;
                    return out;
                }
                Ok(Event::NeedMore) => break,
                Err(_) => {
                    out.end = Some(false);
                    return out;
                }
            }
        }
    }
    out
}
