//! A connection whose peer sends what it likes, for fuzzing.

use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::StatusCode;

use super::core::{Core, HIGH_WATER, Options, Role};
use super::driver::feed;
use super::guard::Guard;
use super::handle;
use crate::config::Http2Options;
use crate::http::HeaderMap;

/// Feeds a server with the bytes behind a client's preface, cut into pieces of `cut` bytes, reads and answers every request that
/// comes of it, and returns how many there were. What is kept for the peer is bounded whatever it sends.
pub fn serve(bytes: &[u8], cut: usize) -> usize {
    let o = Http2Options::default();
    let options = Options {
        role: Role::Server,
        stream_window: o.initial_stream_window,
        connection_window: o.initial_connection_window,
        max_streams: 16,
        max_head: 60 << 10,
        table: o.hpack_table_size,
        connect: true,
        spare_connection: true,
    };
    let core: handle::Connection =
        std::sync::Arc::new(parking_lot::Mutex::new(Core::new(options, Some(Guard::new(&o)))));
    let mut input = bytes::BytesMut::new();
    let cx = Context::from_waker(Waker::noop());
    let mut requests = 0;
    for piece in bytes.chunks(cut.max(1)) {
        input.extend_from_slice(piece);
        feed(&mut input, &mut core.lock());
        while let Some(accepted) = { core.lock().accepted.pop_front() } {
            let stream = handle::StreamRef::adopt(&core, accepted.key);
            requests += 1;
            if accepted.head.is_err() {
                stream.refuse(super::Reason::PROTOCOL_ERROR);
                continue;
            }
            let mut held = 0;
            while let Poll::Ready(Some(Ok(_))) = stream.poll_frame(&cx, &mut held) {}
            if stream.respond(StatusCode::OK, &HeaderMap::new(), false) {
                let _ = stream.poll_send(&cx, &mut Bytes::from_static(&[0; 1000]), true);
            }
            stream.stop_reading(held);
        }
        let mut core = core.lock();
        // A frame of control for each of 9 bytes at most, and its answer.
        assert!(core.out.len() <= HIGH_WATER + 2 * cut + (64 << 10), "bounded");
        core.out.clear();
        core.pass_on();
        if core.ended.is_some() {
            break;
        }
    }
    requests
}
