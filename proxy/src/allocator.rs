//! The process's allocator: mimalloc, asked in the way that is fast for it.
//!
//! Its crate asks for every block by alignment. For what does not happen to lie in a free small block, and whose size is no power
//! of two, mimalloc then takes a larger block and remembers that the pointer is not its start: slower to take, slower to give
//! back, and larger. But its blocks are aligned to 8 bytes anyway, which is all that most types want.

use std::alloc::{GlobalAlloc, Layout};

use libmimalloc_sys as mi;

/// What every block of mimalloc's is aligned to (its smallest size class).
const ALIGNED: usize = 8;

/// Up to here an alignment comes with a size that is a power of two.
const NATURAL: usize = 4096;

/// mimalloc.
pub struct Allocator;

/// The size to ask for, so that the block is aligned by itself where that is cheap: runtime tasks are aligned to cache lines.
fn natural(layout: Layout) -> usize {
    let size = layout.size();
    if size <= NATURAL { size.next_power_of_two().max(layout.align()) } else { size }
}

#[allow(unsafe_code, reason = "an allocator is unsafe by signature")]
// SAFETY: every block comes from mimalloc and goes back to it, which is thread-safe; a block has at least the size and the
// alignment of its layout: `ALIGNED` of any block, more by `mi_*_aligned`. The alignment of a layout is a power of two, never 0,
// and a block is reallocated with the alignment it was taken with.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let block = if layout.align() <= ALIGNED {
            // SAFETY: no precondition.
            unsafe { mi::mi_malloc(layout.size()) }
        } else {
            // SAFETY: as above.
            unsafe { mi::mi_malloc_aligned(natural(layout), layout.align()) }
        };
        block.cast()
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let block = if layout.align() <= ALIGNED {
            // SAFETY: no precondition.
            unsafe { mi::mi_zalloc(layout.size()) }
        } else {
            // SAFETY: as above.
            unsafe { mi::mi_zalloc_aligned(natural(layout), layout.align()) }
        };
        block.cast()
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the caller gives back what `alloc` gave.
        unsafe { mi::mi_free(block.cast()) };
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let block = block.cast();
        let block = if layout.align() <= ALIGNED {
            // SAFETY: the caller gives what `alloc` gave.
            unsafe { mi::mi_realloc(block, size) }
        } else {
            // SAFETY: as above.
            unsafe { mi::mi_realloc_aligned(block, size, layout.align()) }
        };
        block.cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(unsafe_code, reason = "calls the allocator as the runtime does")]
    fn blocks_are_as_large_and_as_aligned_as_asked_for() {
        for align in [1, 2, 4, 8, 16, 64, 128, 4096, 1 << 17] {
            for size in (1..300).chain([511, 1000, 1100, 4095, 4097, 70_000]) {
                let layout = Layout::from_size_align(size, align).unwrap();
                // SAFETY: the size is not 0; the block is written within its size and given back once with its layout.
                unsafe {
                    let block = Allocator.alloc(layout);
                    assert!(!block.is_null());
                    assert_eq!(block as usize % align, 0, "{layout:?}");
                    block.write_bytes(7, size);
                    let grown = Allocator.realloc(block, layout, size * 2);
                    assert_eq!(grown as usize % align, 0, "{layout:?}");
                    assert!(std::slice::from_raw_parts(grown, size).iter().all(|b| *b == 7));
                    Allocator.dealloc(grown, Layout::from_size_align(size * 2, align).unwrap());
                    let zeroed = Allocator.alloc_zeroed(layout);
                    assert_eq!(zeroed as usize % align, 0, "{layout:?}");
                    assert!(std::slice::from_raw_parts(zeroed, size).iter().all(|b| *b == 0));
                    Allocator.dealloc(zeroed, layout);
                }
            }
        }
    }
}
