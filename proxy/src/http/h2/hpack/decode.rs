//! Reads header blocks.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::table::{Field, STATIC, Table};
use super::{Malformed, huffman};

/// The decoder of one connection.
pub(in super::super) struct Decoder {
    table: Table,
    /// What we allow the peer's table.
    allowed: usize,
    /// Text out of Huffman's code, before it has its place.
    scratch: Vec<u8>,
    again: Again,
}

/// How a literal is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Indexed,
    Plain,
    /// It is not to be indexed by anybody.
    Never,
}

impl Decoder {
    /// A decoder that allows a table of so many bytes.
    pub(in super::super) fn new(allowed: usize) -> Self {
        // The peer begins with 4,096 bytes, whatever it is told later.
        Decoder { table: Table::new(allowed.min(4096)), allowed, scratch: Vec::new(), again: Again::default() }
    }

    /// Reads a whole block and hands out its fields.
    ///
    /// # Errors
    /// The connection cannot go on: the table's state is unknown.
    pub(in super::super) fn decode(&mut self, mut block: &[u8], mut take: impl FnMut(Field)) -> Result<(), Malformed> {
        let mut begun = false;
        while let Some(first) = block.first() {
            match first {
                0x80.. => {
                    let index = integer(&mut block, 7)?;
                    take(self.table.get(index).ok_or(Malformed)?.clone());
                }
                0x40.. => {
                    let field = self.literal(&mut block, 6, Kind::Indexed)?;
                    take(field);
                }
                // Sizes come before fields.
                0x20.. => {
                    let size = integer(&mut block, 5)?;
                    if begun || size > self.allowed {
                        return Err(Malformed);
                    }
                    self.table.resize(size);
                    continue;
                }
                0x10.. => take(self.literal(&mut block, 4, Kind::Never)?),
                _ => take(self.literal(&mut block, 4, Kind::Plain)?),
            }
            begun = true;
        }
        Ok(())
    }

    fn literal(&mut self, block: &mut &[u8], prefix: u32, kind: Kind) -> Result<Field, Malformed> {
        let index = integer(block, prefix)?;
        let field = if index == 0 {
            let name = string(block, &mut self.scratch)?;
            let named = Named::of(name);
            named.with(string(block, &mut self.scratch)?)
        } else {
            let like = self.table.get(index).ok_or(Malformed)?;
            let written = *block;
            match self.again.find(index, written) {
                Some((field, rest)) => {
                    *block = rest;
                    field
                }
                None => {
                    let field = Named::like(like).with(string(block, &mut self.scratch)?);
                    self.again.keep(index, &written[..written.len() - block.len()], &field);
                    field
                }
            }
        };
        Ok(match (kind, field) {
            (Kind::Indexed, field) => {
                self.table.insert(&field);
                field
            }
            (Kind::Never, Field::Header(name, mut value)) => {
                value.set_sensitive(true);
                Field::Header(name, value)
            }
            (_, field) => field,
        })
    }
}

/// Literals as they were written last, by their name's index in the static table. Peers that keep no table write the same
/// fields out in each message: a date, a server's name. What is written as before is not decoded, checked and copied again.
#[derive(Default)]
struct Again(Vec<Option<Literal>>);

struct Literal {
    name: u8,
    /// The value as it was written.
    value: Box<[u8]>,
    field: Field,
}

impl Again {
    const PLACES: usize = 8;
    /// Values are kept up to this length as they are written, so that a connection keeps 2 KiB at most.
    const LONGEST: usize = 64;

    /// The field of a name whose value stands at the beginning of `written`, and what follows it.
    fn find<'b>(&self, index: usize, written: &'b [u8]) -> Option<(Field, &'b [u8])> {
        let known = self.0.get(index % Self::PLACES)?.as_ref()?;
        let rest = written.strip_prefix(&*known.value)?;
        (usize::from(known.name) == index).then(|| (known.field.clone(), rest))
    }

    fn keep(&mut self, index: usize, written: &[u8], field: &Field) {
        if index > STATIC || written.len() > Self::LONGEST || !matches!(field, Field::Header(..)) {
            return;
        }
        if self.0.is_empty() {
            self.0.resize_with(Self::PLACES, || None);
        }
        self.0[index % Self::PLACES] = Some(Literal { name: index as u8, value: written.into(), field: field.clone() });
    }
}

/// A name that waits for its value.
enum Named {
    Method,
    Scheme,
    Authority,
    Path,
    Status,
    Protocol,
    Header(HeaderName),
    /// Not one; its length.
    Invalid(u32),
}

impl Named {
    fn of(name: &[u8]) -> Self {
        match name {
            b":method" => Named::Method,
            b":scheme" => Named::Scheme,
            b":authority" => Named::Authority,
            b":path" => Named::Path,
            b":status" => Named::Status,
            b":protocol" => Named::Protocol,
            // Capitals are an error here, too.
            _ => HeaderName::from_lowercase(name).map_or(Named::Invalid(name.len() as u32), Named::Header),
        }
    }

    fn like(field: &Field) -> Self {
        match field {
            Field::Method(_) => Named::Method,
            Field::Scheme(_) => Named::Scheme,
            Field::Authority(_) => Named::Authority,
            Field::Path(_) => Named::Path,
            Field::Status(_) => Named::Status,
            Field::Protocol(_) => Named::Protocol,
            Field::Header(name, _) => Named::Header(name.clone()),
            Field::Invalid(name, _) => Named::Invalid(*name),
        }
    }

    fn len(&self) -> u32 {
        match self {
            Named::Method | Named::Scheme | Named::Status => 7,
            Named::Authority => 10,
            Named::Path => 5,
            Named::Protocol => 9,
            Named::Header(name) => name.as_str().len() as u32,
            Named::Invalid(len) => *len,
        }
    }

    fn with(self, value: &[u8]) -> Field {
        let len = self.len();
        let copy = || Bytes::copy_from_slice(value);
        let field = match self {
            Named::Method => Method::from_bytes(value).ok().map(Field::Method),
            Named::Scheme => Some(Field::Scheme(copy())),
            Named::Authority => Some(Field::Authority(copy())),
            Named::Path => Some(Field::Path(copy())),
            Named::Status => StatusCode::from_bytes(value).ok().map(Field::Status),
            Named::Protocol => Some(Field::Protocol(copy())),
            Named::Header(name) => HeaderValue::from_bytes(value).ok().map(|value| Field::Header(name, value)),
            Named::Invalid(_) => None,
        };
        field.unwrap_or(Field::Invalid(len, value.len() as u32))
    }
}

/// An integer with a prefix of so many bits (RFC 7541 section 5.1).
fn integer(block: &mut &[u8], prefix: u32) -> Result<usize, Malformed> {
    let (first, mut rest) = block.split_first().ok_or(Malformed)?;
    let mask = (1u8 << prefix) - 1;
    let mut value = usize::from(first & mask);
    if value == usize::from(mask) {
        let mut shift = 0;
        loop {
            let (byte, after) = rest.split_first().ok_or(Malformed)?;
            rest = after;
            // Nothing in a block is as large as what has five bytes.
            if shift > 28 {
                return Err(Malformed);
            }
            value += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *block = rest;
    Ok(value)
}

/// A string (RFC 7541 section 5.2), through `scratch` where it is coded.
fn string<'s, 'b: 's>(block: &mut &'b [u8], scratch: &'s mut Vec<u8>) -> Result<&'s [u8], Malformed> {
    let coded = block.first().ok_or(Malformed)? & 0x80 != 0;
    let len = integer(block, 7)?;
    let (text, rest) = block.split_at_checked(len).ok_or(Malformed)?;
    *block = rest;
    if !coded {
        return Ok(text);
    }
    scratch.clear();
    huffman::decode(text, scratch)?;
    Ok(scratch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let hex: String = hex.split_whitespace().collect();
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
    }

    fn fields(decoder: &mut Decoder, hex: &str) -> Result<Vec<String>, Malformed> {
        let mut all = Vec::new();
        decoder.decode(&bytes(hex), |field| {
            all.push(match field {
                Field::Method(m) => format!(":method {m}"),
                Field::Scheme(v) | Field::Authority(v) | Field::Path(v) | Field::Protocol(v) => {
                    String::from_utf8_lossy(&v).into_owned()
                }
                Field::Status(s) => s.as_u16().to_string(),
                Field::Header(n, v) => format!("{n}: {}", String::from_utf8_lossy(v.as_bytes())),
                Field::Invalid(..) => "invalid".to_owned(),
            });
        })?;
        Ok(all)
    }

    /// RFC 7541 appendix C.4: one connection, Huffman's code and the table.
    #[test]
    fn requests_of_the_rfc() {
        let mut d = Decoder::new(4096);
        let first = fields(&mut d, "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff").unwrap();
        assert_eq!(first, [":method GET", "http", "/", "www.example.com"]);
        let second = fields(&mut d, "8286 84be 5886 a8eb 1064 9cbf").unwrap();
        assert_eq!(second, [":method GET", "http", "/", "www.example.com", "cache-control: no-cache"]);
        let third = fields(&mut d, "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf").unwrap();
        assert_eq!(third, [":method GET", "https", "/index.html", "www.example.com", "custom-key: custom-value"]);
    }

    /// RFC 7541 appendix C.5: a small table that evicts.
    #[test]
    fn responses_of_the_rfc() {
        let mut d = Decoder::new(256);
        let first = fields(
            &mut d,
            "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 \
             474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        );
        assert_eq!(first.unwrap().len(), 4);
        let second = fields(&mut d, "4803 3330 37c1 c0bf").unwrap();
        assert_eq!(second[0], "307");
        assert_eq!(second[3], "location: https://www.example.com");
    }

    #[test]
    fn what_is_written_again_is_the_same() {
        let mut d = Decoder::new(0);
        for _ in 0..2 {
            // `server: nginx`, coded and plain; another one; a date beside it.
            assert_eq!(fields(&mut d, "0f27 84aa 6355 e7").unwrap(), ["server: nginx"]);
            assert_eq!(fields(&mut d, "0f27 05 6e67 696e 78 0f12 01 61").unwrap(), ["server: nginx", "date: a"]);
            assert_eq!(fields(&mut d, "0f27 05 6e67 696e 79").unwrap(), ["server: nginy"]);
        }
        // A beginning is no value.
        assert_eq!(fields(&mut d, "0f27 05 6e67 69"), Err(Malformed));
        assert_eq!(fields(&mut d, "0f27 04 6e67 696e").unwrap(), ["server: ngin"]);
    }

    #[test]
    fn what_breaks_compression() {
        for (hex, why) in [
            ("80", "index 0"),
            ("be", "an index beyond the table"),
            ("ff ff ff ff ff ff 7f", "an integer without end"),
            ("40 05 61", "a string that is cut off"),
            ("82 20", "a size behind a field"),
            ("3f e2 1f", "a size beyond what is allowed"),
            ("41", "a value that is missing"),
        ] {
            assert_eq!(fields(&mut Decoder::new(4096), hex), Err(Malformed), "{why}");
        }
    }

    #[test]
    fn what_only_breaks_its_message() {
        let mut d = Decoder::new(4096);
        assert_eq!(fields(&mut d, "40 01 41 01 61").unwrap(), ["invalid"], "a capital");
        assert_eq!(fields(&mut d, "be").unwrap(), ["invalid"], "it has its place in the table");
        assert_eq!(fields(&mut d, "40 01 61 01 00").unwrap(), ["invalid"], "a control character");
        assert_eq!(fields(&mut d, "48 02 32 30").unwrap(), ["invalid"], "a status of two digits");
    }
}
