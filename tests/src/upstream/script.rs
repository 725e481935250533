//! The little language of the `x-script` request field.
//!
//! Answers separated by `;`, one for each request in turn, the last one for all that follow. An answer is words
//! separated by `,`: a status; `body=TEXT`; `size=BYTES`; `h=NAME:VALUE`; `t=NAME:VALUE` (a trailer); `delay=MS`;
//! `stall=MS` (between head and body); `chunked`; `continue` and `hints` (a 100 or 103 in front); `close`
//! (without an answer), `reset` (TCP RST or `RST_STREAM`), `refuse` (`REFUSED_STREAM`), `cut` (half the body, then
//! close); `end` (close after the answer); `early` (answer before the body is read); `raw=HEX` (these bytes);
//! `grpc=HEX` (this message, and gRPC's status 0).

use std::time::Duration;

/// One answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
    /// Header fields.
    pub headers: Vec<(String, String)>,
    /// Trailer fields.
    pub trailers: Vec<(String, String)>,
    /// Before the head.
    pub delay: Duration,
    /// Between head and body.
    pub stall: Duration,
    /// HTTP/1: use the chunked coding.
    pub chunked: bool,
    /// Interim responses to send first.
    pub interim: Vec<u16>,
    /// Close instead of answering.
    pub close: bool,
    /// Reset instead of answering.
    pub reset: bool,
    /// HTTP/2: `REFUSED_STREAM` instead of answering.
    pub refuse: bool,
    /// Send half the body and close.
    pub cut: bool,
    /// Close after the answer.
    pub end: bool,
    /// Answer before reading the request's body.
    pub early: bool,
    /// Send these bytes instead, then close.
    pub raw: Option<Vec<u8>>,
}

impl Answer {
    /// The answer for the `turn`th request under `script`.
    #[must_use]
    pub fn of(script: &str, turn: usize) -> Self {
        let answers: Vec<&str> = script.split(';').collect();
        let text = answers.get(turn).or(answers.last()).copied().unwrap_or("");
        let mut answer = Self { status: 200, body: b"ok".to_vec(), ..Self::default() };
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            answer.word(word);
        }
        answer
    }

    fn word(&mut self, word: &str) {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let number = value.parse::<u64>().unwrap_or(0);
        let field = || value.split_once(':').map(|(name, value)| (name.to_owned(), value.to_owned()));
        match key {
            "body" => self.body = value.as_bytes().to_vec(),
            "size" => self.body = (0..number).map(|at| b'a' + u8::try_from(at % 26).unwrap_or(0)).collect(),
            "h" => self.headers.extend(field()),
            "t" => self.trailers.extend(field()),
            "delay" => self.delay = Duration::from_millis(number),
            "stall" => self.stall = Duration::from_millis(number),
            "chunked" => self.chunked = true,
            "continue" => self.interim.push(100),
            "hints" => self.interim.push(103),
            "close" => self.close = true,
            "reset" => self.reset = true,
            "refuse" => self.refuse = true,
            "cut" => self.cut = true,
            "end" => self.end = true,
            "early" => self.early = true,
            "raw" => self.raw = Some(unhex(value)),
            "grpc" => self.message(&unhex(value)),
            _ => {
                if let Ok(status) = key.parse() {
                    self.status = status;
                }
            }
        }
    }

    fn message(&mut self, message: &[u8]) {
        let length = u32::try_from(message.len()).unwrap_or(0);
        self.body = [&[0][..], &length.to_be_bytes(), message].concat();
        self.headers.push(("content-type".into(), "application/grpc".into()));
        self.trailers.push(("grpc-status".into(), "0".into()));
    }

    /// Whether a response with this status to this method has no body.
    #[must_use]
    pub fn bodiless(&self, method: &str) -> bool {
        method == "HEAD" || self.status == 204 || self.status == 304 || self.status == 101
    }
}

/// Bytes as the `raw=` word takes them.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).filter_map(|d| u8::try_from(d).ok()).collect();
    digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte * 16 + digit)).collect()
}
