//! The frames of an HTTP/2 client, however they are cut: they are served or refused, and nothing grows without bound.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_proxy::http::h2::stranger;

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, bytes) = input;
    stranger::serve(bytes, usize::from(cut) + 1);
});
