//! A bootstrap, from its text to what the proxy would run: whatever is written, it is accepted or refused with a reason.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_proxy::config::from_file::{LoadError, LoadOptions, load};

fuzz_target!(|text: &str| {
    for allow_unknown_fields in [false, true] {
        let options = LoadOptions { allow_unknown_fields, ..LoadOptions::default() };
        match load(None, Some(text), &options) {
            Ok(_) => {}
            Err(LoadError::Nothing) => {}
            Err(e) => assert!(!e.to_string().is_empty(), "a refusal says why"),
        }
    }
});
