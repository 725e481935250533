//! Floating point numbers as the C++ libraries print that Envoy's output goes through.

/// Significant digits and the decimal exponent of the first, from Rust's `1.25e3` form.
fn parts(scientific: &str) -> (String, i32) {
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let digits = mantissa.chars().filter(char::is_ascii_digit).collect();
    (digits, exponent.parse().unwrap_or(0))
}

fn sign(x: f64) -> &'static str {
    if x.is_sign_negative() && x != 0.0 { "-" } else { "" }
}

fn fixed(digits: &str, exponent: i32) -> String {
    let Ok(point) = usize::try_from(exponent + 1) else {
        return format!("0.{}{digits}", "0".repeat(exponent.unsigned_abs() as usize - 1));
    };
    match digits.split_at_checked(point) {
        Some((whole, "")) => whole.to_owned(),
        Some(("", fraction)) => format!("0.{fraction}"),
        Some((whole, fraction)) => format!("{whole}.{fraction}"),
        None => format!("{digits}{}", "0".repeat(point - digits.len())),
    }
}

fn scientific(digits: &str, exponent: i32) -> String {
    let (first, rest) = digits.split_at(1);
    let dot = if rest.is_empty() { "" } else { "." };
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{first}{dot}{rest}e{sign}{:02}", exponent.abs())
}

fn not_finite(x: f64) -> Option<&'static str> {
    match x {
        _ if x.is_nan() => Some("nan"),
        f64::INFINITY => Some("inf"),
        f64::NEG_INFINITY => Some("-inf"),
        _ => None,
    }
}

/// As `fmt::format("{}", x)`: the fewest digits that read back the same, with an exponent from 1e16 on.
pub(super) fn shortest(x: f64) -> String {
    if let Some(text) = not_finite(x) {
        return text.to_owned();
    }
    let (digits, exponent) = parts(&format!("{x:e}"));
    let text = if (-4..16).contains(&exponent) { fixed(&digits, exponent) } else { scientific(&digits, exponent) };
    [sign(x), &text].concat()
}

/// As `std::to_chars`: the fewest characters that read back the same, without an exponent where both are equally long. What
/// JSON has no word for is `null`.
pub(super) fn json(x: f64) -> String {
    if !x.is_finite() {
        return "null".to_owned();
    }
    let (digits, exponent) = parts(&format!("{x:e}"));
    let (fixed, scientific) = (fixed(&digits, exponent), scientific(&digits, exponent));
    [sign(x), if scientific.len() < fixed.len() { &scientific } else { &fixed }].concat()
}

/// As `printf("%.<precision>g", x)`.
pub(super) fn general(x: f64, precision: usize) -> String {
    if let Some(text) = not_finite(x) {
        return text.to_owned();
    }
    let (digits, exponent) = parts(&format!("{x:.*e}", precision.saturating_sub(1)));
    let digits = match digits.trim_end_matches('0') {
        "" => "0",
        digits => digits,
    };
    let plain = exponent >= -4 && exponent < i32::try_from(precision).unwrap_or(i32::MAX);
    let text = if plain { fixed(digits, exponent) } else { scientific(digits, exponent) };
    [sign(x), &text].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_seen_on_envoy() {
        assert_eq!(shortest(1.0166666666666666), "1.0166666666666666");
        assert_eq!((shortest(0.0), shortest(44.5), shortest(365000.0)), ("0".into(), "44.5".into(), "365000".into()));
        assert_eq!((shortest(1e16), shortest(0.00001)), ("1e+16".into(), "1e-05".into()));
        assert_eq!((json(300000.0), json(30000.0)), ("3e+05".into(), "30000".into()));
        assert_eq!((json(1800000.0), json(0.1), json(f64::NAN)), ("1800000".into(), "0.1".into(), "null".into()));
        assert_eq!((general(300000.0, 6), general(1800000.0, 6)), ("300000".into(), "1.8e+06".into()));
        assert_eq!(general(46.543_162_510_276_79, 32), "46.543162510276786747454025316983");
        assert_eq!(
            (general(0.5, 32), general(0.0, 32), general(3600000.0, 32)),
            ("0.5".into(), "0".into(), "3600000".into())
        );
        assert_eq!((shortest(-1.5), general(-0.25, 6)), ("-1.5".into(), "-0.25".into()));
    }
}
