//! HPACK's Huffman code (RFC 7541 section 5.2 and appendix B).
//!
//! The code is canonical: the lengths of the codes, in the order of their symbols, say everything. Decoding looks eight bits
//! ahead, which covers what header fields are made of; longer codes are found by their length.

use super::Malformed;

/// Bits per symbol; the last is the end of the string, which never occurs in one.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

const MAX: usize = 30;
const END: u16 = 256;

/// What decoding needs of the code.
struct Code {
    /// By the next eight bits: the symbol and its length, or length 0 where it is longer.
    short: [(u8, u8); 256],
    /// Per length: the first code that is too large for it, aligned to 32 bits.
    limit: [u64; MAX + 1],
    /// Per length: its first code, and where its symbols begin in `symbols`.
    first: [(u32, u16); MAX + 1],
    /// Symbols in the order of their codes.
    symbols: [u16; 257],
}

static CODE: Code = build();

const fn build() -> Code {
    let mut code = Code { short: [(0, 0); 256], limit: [0; MAX + 1], first: [(0, 0); MAX + 1], symbols: [0; 257] };
    let (mut next, mut place, mut length) = (0u32, 0usize, 1usize);
    while length <= MAX {
        next <<= 1;
        code.first[length] = (next, place as u16);
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as usize == length {
                code.symbols[place] = symbol as u16;
                if length <= 8 {
                    let (from, many) = ((next as usize) << (8 - length), 1 << (8 - length));
                    let mut i = 0;
                    while i < many {
                        code.short[from + i] = (symbol as u8, length as u8);
                        i += 1;
                    }
                }
                place += 1;
                next += 1;
            }
            symbol += 1;
        }
        code.limit[length] = (next as u64) << (32 - length);
        length += 1;
    }
    code
}

/// Appends what `coded` says to `out`.
///
/// # Errors
/// The end symbol, or padding that is none.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let mut at = out.len();
    // No code is shorter than five bits.
    out.resize(at + coded.len() * 8 / 5 + 1, 0);
    let mut code = Bits { bits: 0, have: 0, rest: coded };
    loop {
        code.refill();
        let (symbol, length) = match CODE.short[(code.bits >> 56) as usize] {
            (symbol, length @ 1..) if u32::from(length) <= code.have => (symbol, u32::from(length)),
            _ if code.is_padding() => break,
            _ => code.long()?,
        };
        *out.get_mut(at).ok_or(Malformed)? = symbol;
        at += 1;
        code.bits <<= length;
        code.have -= length;
    }
    out.truncate(at);
    Ok(())
}

/// What is still to be read.
struct Bits<'a> {
    /// The next bits, at the top; zeros behind them.
    bits: u64,
    have: u32,
    rest: &'a [u8],
}

impl Bits<'_> {
    /// Makes sure that the next symbol is there, unless the string ends before.
    #[inline]
    fn refill(&mut self) {
        if self.have >= MAX as u32 {
            return;
        }
        if let Some((four, rest)) = self.rest.split_first_chunk() {
            self.bits |= u64::from(u32::from_be_bytes(*four)) << (32 - self.have);
            self.have += 32;
            self.rest = rest;
            return;
        }
        for byte in std::mem::take(&mut self.rest) {
            self.bits |= u64::from(*byte) << (56 - self.have);
            self.have += 8;
        }
    }

    /// The padding: fewer than eight bits, all of them ones.
    fn is_padding(&self) -> bool {
        self.have < 8 && (self.bits >> (64 - self.have).min(63)) == (1u64 << self.have) - 1
    }

    /// A symbol of more than eight bits, and its length.
    fn long(&self) -> Result<(u8, u32), Malformed> {
        let (symbol, length) = long((self.bits >> 32) as u32).ok_or(Malformed)?;
        if length > self.have || symbol == END { Err(Malformed) } else { Ok((symbol as u8, length)) }
    }
}

/// The symbol that `bits` begin with, and its length.
fn long(bits: u32) -> Option<(u16, u32)> {
    let length = (5..=MAX).find(|l| u64::from(bits) < CODE.limit[*l])?;
    let (first, place) = CODE.first[length];
    let nth = (bits >> (32 - length)).checked_sub(first)?;
    let symbol = CODE.symbols.get(usize::from(place) + nth as usize)?;
    Some((*symbol, length as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(hex: &str) -> Result<String, Malformed> {
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
        let mut out = Vec::new();
        decode(&bytes, &mut out).map(|()| String::from_utf8_lossy(&out).into_owned())
    }

    /// RFC 7541 appendix C.
    #[test]
    fn the_examples_of_the_rfc() {
        assert_eq!(decoded("f1e3c2e5f23a6ba0ab90f4ff").unwrap(), "www.example.com");
        assert_eq!(decoded("a8eb10649cbf").unwrap(), "no-cache");
        assert_eq!(decoded("d07abe941054d444a8200595040b8166e082a62d1bff").unwrap(), "Mon, 21 Oct 2013 20:13:21 GMT");
        assert_eq!(
            decoded("94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007")
                .unwrap(),
            "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
        );
        assert_eq!(decoded("").unwrap(), "");
    }

    #[test]
    fn every_symbol() {
        for symbol in 0..=255u16 {
            let length = u32::from(LENGTHS[symbol as usize]);
            let (first, place) = CODE.first[length as usize];
            let nth = (0..257).find(|i| CODE.symbols[usize::from(place) + i] == symbol).unwrap() as u32;
            // The code, and ones behind it.
            let bits = (u64::from(first + nth) << (64 - length)) | (u64::MAX >> length);
            let coded = &bits.to_be_bytes()[..length.div_ceil(8) as usize];
            let mut out = Vec::new();
            decode(coded, &mut out).unwrap();
            assert_eq!(out, [symbol as u8]);
        }
    }

    #[test]
    fn padding_is_short_and_of_ones() {
        assert_eq!(decoded("ff"), Err(Malformed), "eight bits of it");
        assert_eq!(decoded("1fff"), Err(Malformed), "11 bits");
        assert_eq!(decoded("18"), Err(Malformed), "a zero in it");
        assert_eq!(decoded("1f"), Ok("a".to_owned()));
        assert_eq!(decoded("fffffffc"), Err(Malformed), "the end of the string");
    }
}
