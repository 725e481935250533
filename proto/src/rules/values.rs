//! The rules of single values.

use std::fmt::Display;

use super::Walk;
use crate::message::{Content, Message, Value};
use crate::pb::google::protobuf as wkt;
use crate::pb::validate::field_rules::Type;
use crate::pb::validate::string_rules::WellKnown;
use crate::pb::validate::{BytesRules, DurationRules, EnumRules, FieldRules, KnownRegex, StringRules};
use crate::schema::Kind;

/// The bounds of a number or a duration.
struct Range<T> {
    lt: Option<T>,
    lte: Option<T>,
    gt: Option<T>,
    gte: Option<T>,
}

impl<T: PartialOrd> Range<T> {
    /// What is wrong with a value, worded as protoc-gen-validate does. NaN is outside every range.
    fn check(&self, value: &T, show: impl Fn(&T) -> String) -> Option<String> {
        let below = self.lt.as_ref().map(|bound| (value < bound, bound, false));
        let below = below.or(self.lte.as_ref().map(|bound| (value <= bound, bound, true)));
        let above = self.gt.as_ref().map(|bound| (value > bound, bound, false));
        let above = above.or(self.gte.as_ref().map(|bound| (value >= bound, bound, true)));
        match (above, below) {
            (Some((over, low, closed_low)), Some((under, high, closed_high))) => {
                let (low_mark, high_mark) = (if closed_low { '[' } else { '(' }, if closed_high { ']' } else { ')' });
                // Bounds the other way round mean "outside".
                if high > low {
                    let range = format!("{low_mark}{}, {}{high_mark}", show(low), show(high));
                    (!(over && under)).then(|| format!("value must be inside range {range}"))
                } else {
                    let (open, close) = (if closed_high { '(' } else { '[' }, if closed_low { ')' } else { ']' });
                    let range = format!("{open}{}, {}{close}", show(high), show(low));
                    (!(over || under)).then(|| format!("value must be outside range {range}"))
                }
            }
            (None, Some((true, ..)) | None) | (Some((true, ..)), None) => None,
            (None, Some((false, bound, closed))) => {
                Some(format!("value must be less than {}{}", or_equal(closed), show(bound)))
            }
            (Some((false, bound, closed)), None) => {
                Some(format!("value must be greater than {}{}", or_equal(closed), show(bound)))
            }
        }
    }
}

fn or_equal(closed: bool) -> &'static str {
    if closed { "or equal to " } else { "" }
}

/// The rules of every numeric type have the same fields; `$as` is a type that holds all their values.
macro_rules! number_rules {
    ($walk:ident, $rules:ident, $value:expr, $as:ty) => {{
        let value: $as = $value;
        let widen = |bound: Option<_>| bound.map(<$as>::from);
        #[allow(clippy::float_cmp, reason = "rules compare with constants, exactly")]
        if !($rules.ignore_empty() && value == <$as>::default()) {
            if let Some(wanted) = widen($rules.r#const).filter(|wanted| *wanted != value) {
                $walk.broken(format!("value must equal {wanted}"));
            }
            let range =
                Range { lt: widen($rules.lt), lte: widen($rules.lte), gt: widen($rules.gt), gte: widen($rules.gte) };
            if let Some(reason) = range.check(&value, ToString::to_string) {
                $walk.broken(reason);
            }
            let list: Vec<$as> = $rules.r#in.iter().map(|item| <$as>::from(*item)).collect();
            if !list.is_empty() && !list.contains(&value) {
                $walk.broken(format!("value must be in list {}", listed(&list)));
            }
            let list: Vec<$as> = $rules.not_in.iter().map(|item| <$as>::from(*item)).collect();
            if list.contains(&value) {
                $walk.broken(format!("value must not be in list {}", listed(&list)));
            }
        }
    }};
}

fn listed(items: &[impl Display]) -> String {
    let items: Vec<_> = items.iter().map(ToString::to_string).collect();
    format!("[{}]", items.join(", "))
}

impl Walk {
    /// Rules of another type than the value's say nothing.
    pub(super) fn scalar(&mut self, kind: Kind, value: &Value, rules: &FieldRules) {
        let Some(rules) = &rules.r#type else { return };
        match (rules, value) {
            (Type::Uint32(r), Value::U32(v)) => number_rules!(self, r, i128::from(*v), i128),
            (Type::Fixed32(r), Value::U32(v)) => number_rules!(self, r, i128::from(*v), i128),
            (Type::Uint64(r), Value::U64(v)) => number_rules!(self, r, i128::from(*v), i128),
            (Type::Fixed64(r), Value::U64(v)) => number_rules!(self, r, i128::from(*v), i128),
            (Type::Int32(r), Value::I32(v)) => number_rules!(self, r, i128::from(*v), i128),
            (Type::Sint32(r), Value::I32(v)) => number_rules!(self, r, i128::from(*v), i128),
            (Type::Sfixed32(r), Value::I32(v)) => number_rules!(self, r, i128::from(*v), i128),
            (Type::Int64(r), Value::I64(v)) => number_rules!(self, r, i128::from(*v), i128),
            (Type::Sint64(r), Value::I64(v)) => number_rules!(self, r, i128::from(*v), i128),
            (Type::Sfixed64(r), Value::I64(v)) => number_rules!(self, r, i128::from(*v), i128),
            (Type::Double(r), Value::F64(v)) => number_rules!(self, r, *v, f64),
            (Type::Float(r), Value::F32(v)) => number_rules!(self, r, f64::from(*v), f64),
            (Type::Bool(r), Value::Bool(v)) => {
                if let Some(wanted) = r.r#const.filter(|wanted| wanted != v) {
                    self.broken(format!("value must equal {wanted}"));
                }
            }
            (Type::String(r), Value::String(v)) => self.string(v, r),
            (Type::Bytes(r), Value::Bytes(v)) => self.bytes(v, r),
            (Type::Enum(r), Value::Enum(v)) => self.enumeration(kind, *v, r),
            _ => {}
        }
    }

    fn enumeration(&mut self, kind: Kind, number: i32, rules: &EnumRules) {
        let Kind::Enum(ty) = kind else { return };
        let name = |number: &i32| ty.value(*number).map_or_else(|| number.to_string(), |v| v.name().to_owned());
        if rules.defined_only() && ty.value(number).is_none() {
            self.broken("value must be one of the defined enum values");
        }
        if let Some(wanted) = rules.r#const.filter(|wanted| *wanted != number) {
            self.broken(format!("value must equal {}", name(&wanted)));
        }
        if !rules.r#in.is_empty() && !rules.r#in.contains(&number) {
            let names: Vec<_> = rules.r#in.iter().map(name).collect();
            self.broken(format!("value must be in list {}", listed(&names)));
        }
        if rules.not_in.contains(&number) {
            let names: Vec<_> = rules.not_in.iter().map(name).collect();
            self.broken(format!("value must not be in list {}", listed(&names)));
        }
    }

    fn string(&mut self, text: &str, rules: &StringRules) {
        if rules.ignore_empty() && text.is_empty() {
            return;
        }
        let characters = text.chars().count() as u64;
        self.length(characters, "characters", rules.len, rules.min_len, rules.max_len);
        self.length(text.len() as u64, "bytes", rules.len_bytes, rules.min_bytes, rules.max_bytes);
        if let Some(wanted) = rules.r#const.as_ref().filter(|wanted| *wanted != text) {
            self.broken(format!("value must equal {wanted}"));
        }
        if let Some(prefix) = rules.prefix.as_ref().filter(|prefix| !text.starts_with(prefix.as_str())) {
            self.broken(format!("value does not have prefix {prefix:?}"));
        }
        if let Some(suffix) = rules.suffix.as_ref().filter(|suffix| !text.ends_with(suffix.as_str())) {
            self.broken(format!("value does not have suffix {suffix:?}"));
        }
        if let Some(part) = rules.contains.as_ref().filter(|part| !text.contains(part.as_str())) {
            self.broken(format!("value does not contain substring {part:?}"));
        }
        if let Some(part) = rules.not_contains.as_ref().filter(|part| text.contains(part.as_str())) {
            self.broken(format!("value contains substring {part:?}"));
        }
        if !rules.r#in.is_empty() && !rules.r#in.iter().any(|allowed| allowed == text) {
            self.broken(format!("value must be in list {}", listed(&rules.r#in)));
        }
        if rules.not_in.iter().any(|refused| refused == text) {
            self.broken(format!("value must not be in list {}", listed(&rules.not_in)));
        }
        if let Some(pattern) = &rules.pattern {
            self.pattern(text, pattern);
        }
        if let Some(WellKnown::WellKnownRegex(known)) = rules.well_known {
            self.header(text, known, rules.strict.unwrap_or(true));
        }
    }

    /// The rule `len` alone, or the two bounds together.
    fn length(&mut self, length: u64, unit: &str, exact: Option<u64>, min: Option<u64>, max: Option<u64>) {
        if let Some(exact) = exact.filter(|exact| length != *exact) {
            self.broken(format!("value length must be {exact} {unit}"));
        }
        match (min, max) {
            (Some(min), Some(max)) if length < min || length > max => {
                self.broken(format!("value length must be between {min} and {max} {unit}, inclusive"));
            }
            (Some(min), None) if length < min => self.broken(format!("value length must be at least {min} {unit}")),
            (None, Some(max)) if length > max => self.broken(format!("value length must be at most {max} {unit}")),
            _ => {}
        }
    }

    fn pattern(&mut self, text: &str, pattern: &str) {
        let compiled = match self.patterns.get(pattern) {
            Some(compiled) => compiled,
            None => self.patterns.entry(pattern.to_owned()).or_insert_with(|| regex::Regex::new(pattern).ok()),
        };
        // A rule's pattern that does not compile is no rule; a test compiles all of them.
        if compiled.as_ref().is_some_and(|regex| !regex.is_match(text)) {
            self.broken(format!("value does not match regex pattern {pattern:?}"));
        }
    }

    fn header(&mut self, text: &str, known: i32, strict: bool) {
        let is_name = known == KnownRegex::HttpHeaderName as i32;
        let (pattern, matches) = match (is_name, strict) {
            (true, true) => ("^:?[0-9a-zA-Z!#$%&'*+-.^_|~`]+$", is_header_name(text)),
            (false, true) => ("^[^\\u0000-\\u0008\\u000A-\\u001F\\u007F]*$", !text.contains(is_control)),
            (_, false) => ("^[^\\u0000\\u000A\\u000D]*$", !text.contains(['\0', '\n', '\r'])),
        };
        if !matches {
            self.broken(format!("value does not match regex pattern \"{pattern}\""));
        }
    }

    fn bytes(&mut self, bytes: &[u8], rules: &BytesRules) {
        if !(rules.ignore_empty() && bytes.is_empty()) {
            self.length(bytes.len() as u64, "bytes", rules.len, rules.min_len, rules.max_len);
        }
    }

    pub(super) fn duration(&mut self, message: &Message, rules: &FieldRules) {
        let Some(Type::Duration(rules)) = &rules.r#type else { return };
        let nanos = match message.get(2) {
            Some(Content::One(Value::I32(nanos))) => *nanos,
            _ => 0,
        };
        let value = total(message.integer(1), nanos);
        let bound = |bound: &Option<wkt::Duration>| bound.as_ref().map(|d| total(d.seconds, d.nanos));
        let DurationRules { lt, lte, gt, gte, .. } = rules;
        let range = Range { lt: bound(lt), lte: bound(lte), gt: bound(gt), gte: bound(gte) };
        if let Some(reason) = range.check(&value, |nanos| show_duration(*nanos)) {
            self.broken(reason);
        }
        if let Some(wanted) = bound(&rules.r#const).filter(|wanted| *wanted != value) {
            self.broken(format!("value must equal {}", show_duration(wanted)));
        }
    }
}

fn is_header_name(text: &str) -> bool {
    let text = text.strip_prefix(':').unwrap_or(text);
    // The pattern's `+-.` is a range: it takes the comma as well.
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+,-.^_|~`".contains(&b);
    !text.is_empty() && text.bytes().all(allowed)
}

fn is_control(c: char) -> bool {
    matches!(c, '\0'..='\u{8}' | '\n'..='\u{1f}' | '\u{7f}')
}

fn total(seconds: i64, nanos: i32) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanos)
}

/// As Go shows durations, in which protoc-gen-validate words its messages: `1ms`, `5m0s`, `1h0m0s`.
fn show_duration(nanos: i128) -> String {
    const SECOND: i128 = 1_000_000_000;
    let fraction = |unit: i128, name: &str| {
        let text = format!("{}.{:0>9}", nanos / unit, (nanos % unit) * (SECOND / unit));
        format!("{}{name}", text.trim_end_matches('0').trim_end_matches('.'))
    };
    match nanos {
        0 => "0s".to_owned(),
        ..0 => format!("-{}", show_duration(-nanos)),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => fraction(1_000, "µs"),
        1_000_000..SECOND => fraction(1_000_000, "ms"),
        _ => {
            let (minutes, rest) = (nanos / (60 * SECOND), nanos % (60 * SECOND));
            let seconds = format!("{}.{:0>9}", rest / SECOND, rest % SECOND);
            let seconds = seconds.trim_end_matches('0').trim_end_matches('.');
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_show_as_in_go() {
        let second = 1_000_000_000;
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (1_000_000, "1ms"),
            (20_500_000, "20.5ms"),
            (second, "1s"),
            (300 * second, "5m0s"),
            (3600 * second + second / 2, "1h0m0.5s"),
            (-second, "-1s"),
        ] {
            assert_eq!(show_duration(nanos), text);
        }
    }

    #[test]
    fn ranges_are_worded_like_protoc_gen_validate() {
        let range = |gt, gte, lt, lte| Range { gt, gte, lt, lte };
        let check = |range: Range<i128>, value: i128| range.check(&value, ToString::to_string).unwrap_or_default();
        assert_eq!(check(range(Some(0), None, None, None), 0), "value must be greater than 0");
        assert_eq!(check(range(None, Some(1), None, None), 0), "value must be greater than or equal to 1");
        assert_eq!(check(range(None, None, Some(9), None), 9), "value must be less than 9");
        assert_eq!(check(range(None, None, None, Some(9)), 10), "value must be less than or equal to 9");
        assert_eq!(check(range(None, Some(1), None, Some(9)), 10), "value must be inside range [1, 9]");
        assert_eq!(check(range(Some(1), None, Some(9), None), 1), "value must be inside range (1, 9)");
        assert_eq!(check(range(Some(9), None, Some(1), None), 5), "value must be outside range [1, 9]");
        assert_eq!(check(range(Some(9), None, Some(1), None), 10), "");
        let nan = Range { gt: None, gte: Some(0.0), lt: None, lte: Some(100.0) };
        assert!(nan.check(&f64::NAN, ToString::to_string).is_some());
    }
}
