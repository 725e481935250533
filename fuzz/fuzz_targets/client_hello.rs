//! The peek into a ClientHello, and that for the HTTP version: decided alike however much of what follows has arrived.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_proxy::listener::filters::client_hello::{Step, parse};
use weft_proxy::listener::filters::http_inspector::HttpInspector;

const MAX: usize = 16 << 10;

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, data) = input;
    let whole = parse(data, MAX);
    let first = &data[..usize::from(cut).min(data.len())];
    match parse(first, MAX) {
        Ok(Step::NeedMore(n)) => assert!(n > first.len(), "asks for more than there is"),
        // The reason may change with what is known, the refusal does not.
        Err(_) => assert!(whole.is_err(), "what was refused stays refused"),
        early => assert_eq!(early, whole, "what was decided stays"),
    }
    if let Ok(Step::Hello(hello)) = whole {
        assert!(hello.sni.len() <= data.len());
        assert_eq!(hello.sni, hello.sni.to_ascii_lowercase());
    }
    let mut inspector = HttpInspector::default();
    let _ = inspector.parse(first);
    let _ = inspector.parse(data);
});
