//! The type of an unquoted YAML scalar, as yaml-cpp decides it and Envoy passes it on.

use super::Data;

/// Null, a boolean, a 32-bit integer, or text: larger integers and fractions stay text and are read as the field's type later.
pub(super) fn plain(text: &str) -> Data {
    if matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return Data::Null;
    }
    if let Some(value) = boolean(text) {
        return Data::Bool(value);
    }
    match integer(text) {
        Some(value) if i32::try_from(value).is_ok() => Data::Number(value.to_string().into()),
        Some(value) => Data::String(value.to_string().into()),
        None => Data::String(text.into()),
    }
}

/// The YAML 1.1 booleans in lower case, UPPER CASE, or with a Capital.
fn boolean(text: &str) -> Option<bool> {
    let rest = text.get(1..)?;
    let first_upper = text.starts_with(|c: char| c.is_ascii_uppercase());
    let rest_lower = !rest.contains(|c: char| c.is_ascii_uppercase());
    let rest_upper = !rest.contains(|c: char| c.is_ascii_lowercase());
    if !(rest_lower || first_upper && rest_upper) {
        return None;
    }
    match text.to_ascii_lowercase().as_str() {
        "y" | "yes" | "true" | "on" => Some(true),
        "n" | "no" | "false" | "off" => Some(false),
        _ => None,
    }
}

/// A C integer literal: decimal, `0x` hexadecimal, or octal after a `0`; with a sign.
fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let lower = digits.to_ascii_lowercase();
    let magnitude = if let Some(hex) = lower.strip_prefix("0x") {
        i128::from_str_radix(hex.strip_prefix(['+', '-']).map_or(hex, |_| ""), 16).ok()?
    } else if lower.len() > 1 && lower.starts_with('0') {
        i128::from_str_radix(&lower, 8).ok()?
    } else {
        lower.parse().ok()?
    };
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_are_typed_like_yaml_cpp() {
        let bool_true = ["y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"];
        assert!(bool_true.iter().all(|t| plain(t) == Data::Bool(true)));
        let bool_false = ["n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"];
        assert!(bool_false.iter().all(|t| plain(t) == Data::Bool(false)));
        assert!(["", "~", "null", "Null", "NULL"].iter().all(|t| plain(t) == Data::Null));
        for (text, number) in [("5", "5"), ("+5", "5"), ("-0", "0"), ("010", "8"), ("0x10", "16"), ("-0x1", "-1")] {
            assert_eq!(plain(text), Data::Number(number.into()), "{text}");
        }
        for text in ["yEs", "tRue", "nUll", "1.5", "1e3", "08", "1_000", "0b1", "0o10", "0x", "-", "+", "é", "0x-1"] {
            assert_eq!(plain(text), Data::String(text.into()), "{text}");
        }
        assert_eq!(plain("5000000000"), Data::String("5000000000".into()));
        assert_eq!(plain("99999999999999999999"), Data::String("99999999999999999999".into()));
    }
}
