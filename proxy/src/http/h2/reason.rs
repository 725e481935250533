//! Error codes of HTTP/2 (RFC 9113 section 7).

use std::fmt;

/// Why a stream was reset or a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reason(u32);

macro_rules! reasons {
    ($($code:literal $name:ident $text:literal;)*) => {
        #[allow(missing_docs, reason = "RFC 9113 section 7 says what they mean")]
        impl Reason {
            $(pub const $name: Reason = Reason($code);)*

            fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($code => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            /// What it means, for people.
            pub fn description(self) -> &'static str {
                match self.0 {
                    $($code => $text,)*
                    _ => "unknown error",
                }
            }
        }
    };
}

reasons! {
    0 NO_ERROR "not an error";
    1 PROTOCOL_ERROR "protocol error";
    2 INTERNAL_ERROR "internal error";
    3 FLOW_CONTROL_ERROR "flow control broken";
    4 SETTINGS_TIMEOUT "settings not acknowledged";
    5 STREAM_CLOSED "frame for a closed stream";
    6 FRAME_SIZE_ERROR "frame of a wrong size";
    7 REFUSED_STREAM "stream refused before it was looked at";
    8 CANCEL "stream no longer needed";
    9 COMPRESSION_ERROR "header compression broken";
    10 CONNECT_ERROR "connection of a CONNECT failed";
    11 ENHANCE_YOUR_CALM "too much load";
    12 INADEQUATE_SECURITY "transport not secure enough";
    13 HTTP_1_1_REQUIRED "HTTP/1.1 required";
}

impl From<u32> for Reason {
    fn from(code: u32) -> Self {
        Reason(code)
    }
}

impl From<Reason> for u32 {
    fn from(reason: Reason) -> Self {
        reason.0
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "Reason({:#x})", self.0),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.description())
    }
}
