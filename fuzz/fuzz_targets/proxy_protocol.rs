//! PROXY protocol headers: decided alike however much of what follows has arrived.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_proxy::config::ProxyProtocolIn;
use weft_proxy::listener::filters::proxy_protocol::{Step, parse};

fuzz_target!(|input: (bool, u8, u16, &[u8])| {
    let (optional, disallowed, cut, data) = input;
    let config = ProxyProtocolIn {
        allow_requests_without_proxy_protocol: optional,
        disallowed_versions: if disallowed % 4 > 0 && disallowed % 4 < 3 { vec![disallowed % 4] } else { Vec::new() },
        pass_through_tlvs: Some(Vec::new()),
        rules: Vec::new(),
        stat_prefix: String::new(),
    };
    let whole = parse(data, &config);
    if let Ok(Step::Header(h)) = &whole {
        assert!(h.len <= data.len() && h.len > 0);
    }
    let first = &data[..usize::from(cut).min(data.len())];
    match parse(first, &config) {
        Ok(Step::NeedMore(n)) => assert!(n > first.len(), "asks for more than there is"),
        // The reason may change with what is known, the refusal does not.
        Err(_) => assert!(whole.is_err(), "what was refused stays refused"),
        early => assert_eq!(early, whole, "what was decided stays"),
    }
});
