//! The messages that have a JSON form of their own.

use std::collections::BTreeMap;

use super::{Converter, is_value, scalar};
use crate::document::{Data, Entry, Node};
use crate::message::{Content, Key, Message, Value};
use crate::schema::{Kind, MessageType, WellKnown};
use crate::spans::{Segment, Span};

/// The range of a protobuf Duration: ten thousand years of 365.25 days.
const MAX_SECONDS: i64 = 315_576_000_000;

impl Converter {
    pub(super) fn well_known(
        &mut self,
        well_known: WellKnown,
        ty: MessageType,
        node: &Node,
        span: &mut Span,
    ) -> Option<Message> {
        match (well_known, &node.data) {
            (WellKnown::Any, _) => self.any(ty, node, span),
            (WellKnown::Struct, _) => self.structure(ty, node, span),
            (WellKnown::ListValue, _) => self.list_value(ty, node, span),
            (WellKnown::Value, _) => self.any_value(ty, node, span),
            // Written out as a message, which Envoy's reader takes.
            (_, Data::Map(_)) => self.plain_message(ty, node, span),
            (WellKnown::Wrapper, _) => {
                let field = ty.field(1)?;
                let value = self.value(field.kind(), node, span)?;
                let mut message = Message::new(ty);
                message.set(field, Content::One(value));
                Some(message)
            }
            (WellKnown::Duration, Data::String(text)) => match duration(text) {
                Ok((seconds, nanos)) => seconds_and_nanos(ty, seconds, nanos),
                Err(reason) => self.refuse(node.at, reason),
            },
            (WellKnown::Duration, _) => self.wrong_type(node, "a duration such as 1.5s"),
            (WellKnown::Timestamp, Data::String(text)) => match timestamp(text) {
                Some((seconds, nanos)) => seconds_and_nanos(ty, seconds, nanos),
                None => self.wrong_type(node, "a time such as 2026-01-31T12:00:00Z"),
            },
            (WellKnown::Timestamp, _) => self.wrong_type(node, "a time such as 2026-01-31T12:00:00Z"),
            (WellKnown::FieldMask, Data::String(text)) => {
                let paths = text.split(',').filter(|path| !path.is_empty());
                let mut message = Message::new(ty);
                message.set(ty.field(1)?, Content::List(paths.map(|p| Value::String(snake_case(p))).collect()));
                Some(message)
            }
            (WellKnown::FieldMask, _) => self.wrong_type(node, "field paths joined by commas"),
        }
    }

    fn structure(&mut self, ty: MessageType, node: &Node, span: &mut Span) -> Option<Message> {
        let Data::Map(entries) = &node.data else { return self.wrong_type(node, "a map") };
        let field = ty.field(1)?;
        let (_, value) = field.map()?;
        let mut fields = BTreeMap::new();
        for entry in entries {
            let up = self.path.len();
            self.path.push_key(&entry.key);
            let child = span.child(Segment::Key(entry.key.clone()), entry.at);
            if let Some(value) = self.value(value.kind(), &entry.value, child) {
                fields.insert(Key::String(entry.key.to_string()), value);
            }
            self.path.truncate(up);
        }
        let mut message = Message::new(ty);
        message.set(field, Content::Map(fields));
        Some(message)
    }

    fn list_value(&mut self, ty: MessageType, node: &Node, span: &mut Span) -> Option<Message> {
        let Data::List(items) = &node.data else { return self.wrong_type(node, "a list") };
        let field = ty.field(1)?;
        let mut values = Vec::with_capacity(items.len());
        for item in items {
            self.element(field.kind(), item, &mut values, span);
        }
        let mut message = Message::new(ty);
        message.set(field, Content::List(values));
        Some(message)
    }

    fn any_value(&mut self, ty: MessageType, node: &Node, span: &mut Span) -> Option<Message> {
        debug_assert!(is_value(Kind::Message(ty)));
        let inner = |name: &str| ty.field_named(name).map(|field| (field, field.kind()));
        let (field, value) = match &node.data {
            Data::Null => (ty.field_named("null_value")?, Value::Enum(0)),
            Data::Bool(value) => (ty.field_named("bool_value")?, Value::Bool(*value)),
            Data::String(text) => (ty.field_named("string_value")?, Value::String(text.to_string())),
            Data::Number(text) => match scalar::parse_float(text).filter(|value| value.is_finite()) {
                Some(value) => (ty.field_named("number_value")?, Value::F64(value)),
                None => return self.refuse(node.at, format!("{text} is out of range")),
            },
            Data::List(_) => {
                let (field, kind) = inner("list_value")?;
                (field, self.value(kind, node, span)?)
            }
            Data::Map(_) => {
                let (field, kind) = inner("struct_value")?;
                (field, self.value(kind, node, span)?)
            }
        };
        let mut message = Message::new(ty);
        message.set(field, Content::One(value));
        Some(message)
    }
}

/// A Duration or a Timestamp: both have seconds as field 1, nanos as field 2, neither with presence.
fn seconds_and_nanos(ty: MessageType, seconds: i64, nanos: i32) -> Option<Message> {
    let mut message = Message::new(ty);
    message.set(ty.field(1)?, Content::One(Value::I64(seconds)));
    message.set(ty.field(2)?, Content::One(Value::I32(nanos)));
    Some(message)
}

/// `1s`, `1.5s`, `-0.000000001s`.
pub(crate) fn duration(text: &str) -> Result<(i64, i32), String> {
    let shape = || format!("expected a duration such as 1.5s, found {text:?}");
    let number = text.strip_suffix('s').ok_or_else(|| {
        let milliseconds = text.strip_suffix('m').is_some();
        if milliseconds { shape() } else { format!("{}: it must end with a single `s`", shape()) }
    })?;
    let (sign, number) = number.strip_prefix('-').map_or((1, number), |rest| (-1, rest));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return Err(shape());
    }
    let seconds = whole.parse::<i64>().ok().filter(|seconds| *seconds <= MAX_SECONDS);
    let seconds = seconds.ok_or_else(|| format!("the duration {text} is out of range"))?;
    let nanos: i32 = format!("{fraction:0<9}").parse().map_err(|_| shape())?;
    Ok((i64::from(sign) * seconds, sign * nanos))
}

/// RFC 3339: `2026-01-31T12:00:00.5Z`, `…+01:00`, from the year 1 to 9999.
pub(crate) fn timestamp(text: &str) -> Option<(i64, i32)> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let marked = |(at, wanted): (usize, &[u8])| text.as_bytes().get(at).is_some_and(|b| wanted.contains(b));
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let marks: [(usize, &[u8]); 5] = [(4, b"-"), (7, b"-"), (10, b"Tt "), (13, b":"), (16, b":")];
    if !marks.into_iter().all(marked)
        || !(1..=9999).contains(&year)
        || !(1..=12).contains(&month)
        || !(1..=days_in_month(year, month)).contains(&day)
        || hour > 23
        || minute > 59
        || second > 59
    {
        return None;
    }
    let rest = text.get(19..)?;
    let (nanos, zone) = match rest.strip_prefix('.') {
        Some(rest) => {
            let end = rest.find(|c: char| !c.is_ascii_digit())?;
            let (digits, zone) = rest.split_at_checked(end).filter(|(d, _)| (1..=9).contains(&d.len()))?;
            (format!("{digits:0<9}").parse().ok()?, zone)
        }
        None => (0, rest),
    };
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some((seconds - zone_offset(zone)?, nanos))
}

fn zone_offset(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let sign = match zone.get(..1)? {
        "+" => 1,
        "-" => -1,
        _ => return None,
    };
    let (hours, minutes) = zone.get(1..)?.split_once(':').filter(|(h, m)| h.len() == 2 && m.len() == 2)?;
    let (hours, minutes): (u8, u8) = (hours.parse().ok()?, minutes.parse().ok()?);
    (hours < 24 && minutes < 60).then(|| sign * (i64::from(hours) * 3600 + i64::from(minutes) * 60))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the Gregorian calendar; years are counted from March so that a leap day comes last.
pub(crate) fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// `fooBar.baz` to `foo_bar.baz`.
fn snake_case(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// The fields of a well-known message inside an `Any`: only `value`.
pub(super) fn value_entry(entries: &[Entry]) -> Option<&Entry> {
    entries.iter().rev().find(|entry| &*entry.key == "value")
}
