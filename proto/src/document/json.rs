//! JSON, with the liberties that protobuf's reader takes in Envoy: single quotes, bare keys, a comma after the last element.

use std::collections::HashMap;

use super::{Data, Entry, MAX_DEPTH, Node, Parsed, Refusal};
use crate::problem::Position;

pub(super) fn parse(text: &str) -> Parsed {
    let mut reader = Reader { rest: text, line: 1, column: 1, warnings: Vec::new() };
    let root = reader.value(0)?;
    reader.space();
    if !reader.rest.is_empty() {
        return Err(reader.refuse("not JSON: something follows the end of the value"));
    }
    Ok((root, reader.warnings))
}

struct Reader<'t> {
    rest: &'t str,
    line: u32,
    column: u32,
    warnings: Vec<Refusal>,
}

impl<'t> Reader<'t> {
    fn at(&self) -> Position {
        Position { line: self.line, column: self.column }
    }

    fn refuse(&self, reason: impl Into<String>) -> Refusal {
        Refusal::new(self.at(), reason)
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn advance(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = self.rest.get(c.len_utf8()..).unwrap_or_default();
        if c == '\n' {
            self.line = self.line.saturating_add(1);
            self.column = 1;
        } else {
            self.column = self.column.saturating_add(1);
        }
        Some(c)
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\r' | '\n')) {
            self.advance();
        }
    }

    /// Takes `c` after white space, if it is there.
    fn take(&mut self, c: char) -> bool {
        self.space();
        let found = self.peek() == Some(c);
        if found {
            self.advance();
        }
        found
    }

    /// Takes what `wanted` accepts.
    fn word(&mut self, wanted: impl Fn(char) -> bool) -> &'t str {
        let start = self.rest;
        while self.peek().is_some_and(&wanted) {
            self.advance();
        }
        start.get(..start.len() - self.rest.len()).unwrap_or_default()
    }

    fn value(&mut self, depth: usize) -> Result<Node, Refusal> {
        self.space();
        let at = self.at();
        if depth > MAX_DEPTH {
            return Err(self.refuse(format!("nested more than {MAX_DEPTH} levels deep")));
        }
        let data = match self.peek() {
            None => return Err(self.refuse("not JSON: the text ends where a value is expected")),
            Some('{') => Data::Map(self.map(depth)?),
            Some('[') => Data::List(self.list(depth)?),
            Some('"' | '\'') => Data::String(self.string()?.into()),
            Some('-' | '0'..='9') => Data::Number(self.number()?.into()),
            Some(_) => self.literal()?,
        };
        Ok(Node { at, data })
    }

    fn literal(&mut self) -> Result<Data, Refusal> {
        let at = self.at();
        match self.word(|c| c.is_ascii_alphabetic()) {
            "null" => Ok(Data::Null),
            "true" => Ok(Data::Bool(true)),
            "false" => Ok(Data::Bool(false)),
            "" => Err(self.refuse("not JSON: a value is expected")),
            word => Err(Refusal::new(at, format!("not JSON: `{word}` is no value (strings need quotes)"))),
        }
    }

    fn number(&mut self) -> Result<&'t str, Refusal> {
        let at = self.at();
        let text = self.word(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
        if is_number(text) { Ok(text) } else { Err(Refusal::new(at, format!("not JSON: `{text}` is no number"))) }
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Refusal> {
        self.advance();
        let mut items = Vec::new();
        while !self.take(']') {
            items.push(self.value(depth + 1)?);
            if !self.take(',') {
                if self.take(']') {
                    break;
                }
                return Err(self.refuse("not JSON: `,` or `]` is expected"));
            }
        }
        Ok(items)
    }

    fn map(&mut self, depth: usize) -> Result<Vec<Entry>, Refusal> {
        self.advance();
        let mut entries = Vec::new();
        while !self.take('}') {
            let at = self.at();
            let key = match self.peek() {
                Some('"' | '\'') => self.string()?,
                _ => self.word(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '$')).to_owned(),
            };
            if key.is_empty() && self.at() == at {
                return Err(self.refuse("not JSON: a key or `}` is expected"));
            }
            if !self.take(':') {
                return Err(self.refuse("not JSON: `:` is expected"));
            }
            let value = self.value(depth + 1)?;
            entries.push(Entry { at, key: key.into(), value });
            if !self.take(',') {
                if self.take('}') {
                    break;
                }
                return Err(self.refuse("not JSON: `,` or `}` is expected"));
            }
        }
        self.warn_of_duplicates(&entries);
        Ok(entries)
    }

    fn warn_of_duplicates(&mut self, entries: &[Entry]) {
        let mut seen = HashMap::with_capacity(entries.len());
        for entry in entries {
            if let Some(first) = seen.insert(&entry.key, entry.at.line) {
                let reason = format!("`{}` is given again (first in line {first}): the last one counts", entry.key);
                self.warnings.push(Refusal::new(entry.at, reason));
            }
        }
    }

    fn string(&mut self) -> Result<String, Refusal> {
        let start = self.at();
        let quote = self.advance();
        let mut text = String::new();
        loop {
            text.push_str(self.word(|c| Some(c) != quote && c != '\\'));
            match self.advance() {
                Some('\\') => text.push(self.escape()?),
                Some(_) => return Ok(text),
                None => return Err(Refusal::new(start, "not JSON: the string does not end")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Refusal> {
        let at = self.at();
        Ok(match self.advance() {
            Some(c @ ('"' | '\'' | '\\' | '/')) => c,
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => return self.unicode(at),
            _ => return Err(Refusal::new(at, "not JSON: no such escape in a string")),
        })
    }

    fn unicode(&mut self, at: Position) -> Result<char, Refusal> {
        let first = self.hex()?;
        let code = match first {
            0xd800..=0xdbff => {
                let pair = self.advance() == Some('\\') && self.advance() == Some('u');
                let second = if pair { self.hex()? } else { 0 };
                let low = second.checked_sub(0xdc00).filter(|low| *low < 0x400);
                low.map(|low| 0x10000 + ((first - 0xd800) << 10) + low)
            }
            _ => Some(first),
        };
        let c = code.and_then(char::from_u32);
        c.ok_or_else(|| Refusal::new(at, "not JSON: half of a surrogate pair in a string"))
    }

    fn hex(&mut self) -> Result<u32, Refusal> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|c| c.to_digit(16));
            code = code << 4 | digit.ok_or_else(|| self.refuse("not JSON: `\\u` needs four hexadecimal digits"))?;
            self.advance();
        }
        Ok(code)
    }
}

/// JSON's grammar of numbers: no leading zeros, digits on both sides of a point.
fn is_number(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (text, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(digits)
}
