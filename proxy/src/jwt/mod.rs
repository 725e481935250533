//! JSON Web Tokens: reading them, and whether they are to be believed (RFC 7515, 7517, 7518, 7519, 8037).
//!
//! No input or output, and no clock: the time is an argument. Knows nothing of requests. Runs on: workers; keys are read on the
//! control thread.

mod key;
mod token;

pub use key::Keys;
pub use token::{Status, Token};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_comes_is_no_panic(text in "\\PC*", parts in proptest::collection::vec("[A-Za-z0-9_=-]{0,40}", 0..5)) {
            let _ = Token::read(&text);
            let _ = Token::read(&parts.join("."));
            let _ = Keys::read(text.as_bytes());
            let _ = Keys::read(format!(r#"{{"keys": [{{"kty": "RSA", "n": "{text}", "e": "AQAB"}}]}}"#).as_bytes());
        }
    }

    #[test]
    fn a_token_without_a_signature_is_none() {
        // {"alg":"none"} and an empty signature: the oldest trick.
        let refused = Token::read("eyJhbGciOiJub25lIn0.e30.").is_err();
        let keys = Keys::read(br#"{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}"#);
        let verified = Token::read("eyJhbGciOiJub25lIn0.e30.AA")
            .is_ok_and(|token| keys.is_ok_and(|keys| keys.verify(&token).is_ok()));
        assert!(refused && !verified);
    }
}
