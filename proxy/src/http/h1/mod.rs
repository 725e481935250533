//! HTTP/1.0 and HTTP/1.1, both directions: heads, framing and connection state.
//!
//! Strict where a lenient reading could smuggle a request past us, lenient where Envoy is, and never forwarding a doubtful
//! spelling as it was received: every head is written anew. An idle connection holds no buffer.

pub mod chunked;
pub mod client;
mod decode;
pub mod encode;
mod line;
pub mod parse;
mod request;
pub mod server;
mod upload;

pub(super) use line::is_authority;

pub use parse::{ParseError, ParseLimits};

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

/// How a message's body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunked.
    Chunked,
    /// Until the connection is closed (responses), or a tunnel's bytes.
    UntilClose,
}

/// First read of a body; later reads grow to `READ_MAX` as the peer fills them.
const READ_MIN: usize = 8 << 10;
/// As much as one read takes: large enough that the cost of a system call vanishes behind the copy.
const READ_MAX: usize = 256 << 10;

/// Reads a head: through a scratch buffer shared by the thread, so that a connection on which nothing arrives holds no memory.
/// Returns the number of bytes appended to `buf`; 0 at the end of the stream.
fn poll_read_small<S: AsyncRead + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    buf: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    let mut scratch = [std::mem::MaybeUninit::<u8>::uninit(); READ_MIN];
    let mut rb = ReadBuf::uninit(&mut scratch);
    std::task::ready!(Pin::new(stream).poll_read(cx, &mut rb))?;
    buf.extend_from_slice(rb.filled());
    Poll::Ready(Ok(rb.filled().len()))
}

/// Reads into `buf` directly, at most `max` bytes, in growing portions kept in `size`.
pub(super) fn poll_read_body<S: AsyncRead + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    buf: &mut BytesMut,
    size: &mut usize,
    max: usize,
) -> Poll<io::Result<usize>> {
    use bytes::BufMut;
    let want = (*size).clamp(READ_MIN, READ_MAX).min(max.max(1));
    buf.reserve(want);
    let n = {
        let spare = buf.chunk_mut();
        let limit = want.min(spare.len());
        // The slice is only handed to ReadBuf, which tracks what was initialised.
        let mut rb = ReadBuf::uninit(as_uninit(spare, limit));
        std::task::ready!(Pin::new(stream).poll_read(cx, &mut rb))?;
        rb.filled().len()
    };
    advance(buf, n);
    *size = if n >= want { want * 2 } else { want.min(n.next_power_of_two() * 2) };
    Poll::Ready(Ok(n))
}

#[allow(unsafe_code, reason = "viewing BytesMut's spare capacity as MaybeUninit has no safe spelling")]
fn as_uninit(spare: &mut bytes::buf::UninitSlice, limit: usize) -> &mut [std::mem::MaybeUninit<u8>] {
    // SAFETY: `UninitSlice::as_uninit_slice_mut` asks that no uninitialised byte be written; ReadBuf only writes initialised ones.
    unsafe { &mut spare.as_uninit_slice_mut()[..limit] }
}

#[allow(unsafe_code, reason = "BufMut::advance_mut is unsafe by signature")]
fn advance(buf: &mut BytesMut, n: usize) {
    // SAFETY: ReadBuf reported exactly `n` bytes of the spare capacity as filled.
    unsafe { bytes::BufMut::advance_mut(buf, n) }
}

/// Takes at most `n` bytes off the front; a drained buffer gives its memory back.
fn take(buf: &mut BytesMut, n: usize) -> Bytes {
    if n >= buf.len() { std::mem::take(buf).freeze() } else { buf.split_to(n).freeze() }
}
