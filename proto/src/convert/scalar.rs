//! Single values.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::Converter;
use crate::document::{Data, Node};
use crate::message::Value;
use crate::problem::Severity;
use crate::schema::{EnumType, EnumValue, Kind, nearest};
use crate::spans::Span;

/// As many values as an error lists.
const LISTED: usize = 12;

impl Converter {
    pub(super) fn value(&mut self, kind: Kind, node: &Node, span: &mut Span) -> Option<Value> {
        match kind {
            Kind::Message(ty) => self.message(ty, node, span).map(|m| Value::Message(Box::new(m))),
            Kind::Enum(ty) => self.enumeration(ty, node).map(Value::Enum),
            Kind::Bool => self.boolean(node).map(Value::Bool),
            Kind::String => match &node.data {
                Data::String(text) => Some(Value::String(text.to_string())),
                Data::Bool(_) | Data::Number(_) => self.wrong_type(node, "a string (put it in quotes)"),
                _ => self.wrong_type(node, "a string"),
            },
            Kind::Bytes => self.bytes(node).map(Value::Bytes),
            Kind::Double => self.float(node, f64::MAX).map(Value::F64),
            Kind::Float => self.float(node, f64::from(f32::MAX)).map(to_f32),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => self.integer(node).map(Value::I32),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => self.integer(node).map(Value::I64),
            Kind::Uint32 | Kind::Fixed32 => self.integer(node).map(Value::U32),
            Kind::Uint64 | Kind::Fixed64 => self.integer(node).map(Value::U64),
        }
    }

    fn integer<T: Integer>(&mut self, node: &Node) -> Option<T> {
        let (Data::Number(text) | Data::String(text)) = &node.data else {
            return self.wrong_type(node, "an integer");
        };
        let Some(number) = parse_integer(text) else { return self.wrong_type(node, "an integer") };
        let range = T::RANGE;
        match T::try_from(number) {
            Ok(value) => Some(value),
            Err(_) => self.refuse(node.at, format!("{text} is out of range: expected {} to {}", range.0, range.1)),
        }
    }

    fn float(&mut self, node: &Node, largest: f64) -> Option<f64> {
        let (Data::Number(text) | Data::String(text)) = &node.data else {
            return self.wrong_type(node, "a number");
        };
        match &**text {
            "NaN" => return Some(f64::NAN),
            "Infinity" => return Some(f64::INFINITY),
            "-Infinity" => return Some(f64::NEG_INFINITY),
            _ => {}
        }
        // White space before a number is skipped, as `strtod` does.
        match parse_float(text.trim_start()) {
            Some(value) if value.abs() <= largest => Some(value),
            Some(_) => self.refuse(node.at, format!("{text} is out of range")),
            None => self.wrong_type(node, "a number"),
        }
    }

    fn boolean(&mut self, node: &Node) -> Option<bool> {
        match &node.data {
            Data::Bool(value) => Some(*value),
            Data::String(text) => match text.to_ascii_lowercase().as_str() {
                "true" | "t" | "yes" | "y" | "1" => Some(true),
                "false" | "f" | "no" | "n" | "0" => Some(false),
                _ => self.wrong_type(node, "true or false"),
            },
            _ => self.wrong_type(node, "true or false"),
        }
    }

    /// Base64 of either alphabet; padding is optional, but right if it is there.
    fn bytes(&mut self, node: &Node) -> Option<Vec<u8>> {
        let Data::String(text) = &node.data else { return self.wrong_type(node, "base64 text") };
        let standard = text.replace('-', "+").replace('_', "/");
        let mode =
            if standard.ends_with('=') { DecodePaddingMode::RequireCanonical } else { DecodePaddingMode::RequireNone };
        let config = GeneralPurposeConfig::new().with_decode_padding_mode(mode).with_decode_allow_trailing_bits(true);
        match GeneralPurpose::new(&alphabet::STANDARD, config).decode(standard) {
            Ok(bytes) => Some(bytes),
            Err(e) => self.refuse(node.at, format!("expected base64 text: {e}")),
        }
    }

    /// A name in any case, or a number; open enums take every number.
    fn enumeration(&mut self, ty: EnumType, node: &Node) -> Option<i32> {
        let text = match &node.data {
            Data::String(text) | Data::Number(text) => text,
            // The one enum whose only value is null.
            Data::Null if ty.name() == "google.protobuf.NullValue" => return Some(0),
            _ => return self.wrong_type(node, &format!("a value of {}", ty.name())),
        };
        let number = || text.trim().parse::<i32>().ok().or_else(|| parse_json_integer(node));
        let named = ty.values().find(|value| value.name().eq_ignore_ascii_case(text));
        let found = named.map(EnumValue::number).or_else(number);
        if found.is_none() {
            self.problem(Severity::Unknown, node.at, unknown_value(ty, text));
        }
        found
    }
}

/// A JSON number such as `1.0` is an integer; the same in quotes is not a number of an enum.
fn parse_json_integer(node: &Node) -> Option<i32> {
    let Data::Number(text) = &node.data else { return None };
    parse_integer(text).and_then(|number| number.try_into().ok())
}

fn unknown_value(ty: EnumType, text: &str) -> String {
    let count = ty.values().len();
    let hint = if count <= LISTED {
        let names: Vec<_> = ty.values().map(EnumValue::name).collect();
        format!("expected one of {}", names.join(", "))
    } else {
        match nearest(text, ty.values().map(EnumValue::name)) {
            Some(name) => format!("did you mean {name}?"),
            None => format!("it has {count} values"),
        }
    };
    format!("{text:?} is no value of {}: {hint}", ty.name())
}

#[expect(clippy::cast_possible_truncation, reason = "the range was checked; precision is lost as protobuf loses it")]
fn to_f32(value: f64) -> Value {
    Value::F32(value as f32)
}

/// The integer types of protobuf and their ranges, for messages.
trait Integer: TryFrom<i128> {
    const RANGE: (i128, i128);
}

impl Integer for i32 {
    const RANGE: (i128, i128) = (Self::MIN as i128, Self::MAX as i128);
}

impl Integer for i64 {
    const RANGE: (i128, i128) = (Self::MIN as i128, Self::MAX as i128);
}

impl Integer for u32 {
    const RANGE: (i128, i128) = (0, Self::MAX as i128);
}

impl Integer for u64 {
    const RANGE: (i128, i128) = (0, Self::MAX as i128);
}

/// An integer in any notation that has an integral value: `5`, `+5`, `0x10`, `5.0`, `1e3`.
fn parse_integer(text: &str) -> Option<i128> {
    // Beyond this a double no longer tells neighbours apart, and no field is as wide.
    const LIMIT: f64 = 1e20;
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let value = parse_float(text)?;
    #[expect(clippy::cast_possible_truncation, reason = "integral and far within range")]
    (value.fract() == 0.0 && value.abs() <= LIMIT).then_some(value as i128)
}

/// A finite decimal number, or a hexadecimal integer.
pub(super) fn parse_float(text: &str) -> Option<f64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let value = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        // Within 53 bits, so exact.
        Some(hex) => f64::from(u32::from_str_radix(hex, 16).ok()?),
        None => digits.parse().ok()?,
    };
    // An overflow to infinity is for the caller to refuse as out of range.
    Some(if negative { -value } else { value })
}
