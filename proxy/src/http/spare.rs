//! A buffer that nobody needs at the moment, kept by each thread: connections take turns in writing, and an idle one holds none.

use std::cell::RefCell;

/// The largest buffer that is worth keeping.
const LARGEST: usize = 256 << 10;
/// What a new one begins with: a head and a small body, without moving as they are written.
const FIRST: usize = 2 << 10;

thread_local! {
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Gives `out` room to be written to, where it has none.
pub(super) fn ready(out: &mut Vec<u8>) {
    if out.capacity() == 0 {
        *out = SPARE.take();
        if out.capacity() == 0 {
            out.reserve(FIRST);
        }
    }
}

/// Lets go of a buffer whose bytes have left; `out` holds no memory afterwards.
pub(super) fn give_back(out: &mut Vec<u8>) {
    let mut gone = std::mem::take(out);
    if gone.capacity() <= LARGEST {
        gone.clear();
        SPARE.with_borrow_mut(|spare| {
            if spare.capacity() < gone.capacity() {
                *spare = gone;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_buffer_is_kept() {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        ready(&mut a);
        ready(&mut b);
        a.extend_from_slice(b"written");
        let place = a.as_ptr();
        give_back(&mut a);
        assert_eq!((a.capacity(), a.len()), (0, 0));
        give_back(&mut b);
        ready(&mut a);
        assert_eq!((a.as_ptr(), a.len()), (place, 0), "the first is used again, empty");
        a.reserve(LARGEST + 1);
        give_back(&mut a);
        ready(&mut a);
        assert!(a.capacity() <= LARGEST, "what is too large is not kept");
    }
}
