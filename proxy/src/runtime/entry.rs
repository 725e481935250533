//! One runtime value: text, and all that the text can be read as.

use serde_json::Value as Json;

/// A value in every form it has.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// As it was written.
    pub(super) raw: String,
    pub(super) integer: Option<u64>,
    pub(super) double: Option<f64>,
    pub(super) flag: Option<bool>,
    /// Numerator and denominator.
    pub(super) fraction: Option<(u32, u32)>,
}

impl Entry {
    /// Reads a value from text: of a file, or given to `/runtime_modify`.
    pub(super) fn parse(raw: &str) -> Entry {
        let text = raw.trim();
        let integer = text.parse().ok();
        let word = |word| text.eq_ignore_ascii_case(word);
        let flag = match integer {
            Some(n) => Some(n != 0),
            None if word("true") => Some(true),
            None if word("false") => Some(false),
            None => None,
        };
        let double = if flag.is_some() && integer.is_none() { None } else { text.parse().ok() };
        Entry { raw: raw.to_owned(), integer, double, flag, fraction: fraction_text(text) }
    }

    /// Numerator and denominator, where the value can be a share of requests.
    pub(super) fn share(&self) -> Option<(u32, u32)> {
        // A whole number is a percentage, whatever the default's denominator; one beyond 100 is always.
        self.fraction.or_else(|| self.integer.map(|n| (n.min(100) as u32, 100)))
    }

    /// Reads a value of a static layer.
    pub(super) fn from_json(value: &Json) -> Entry {
        match value {
            Json::String(text) => Entry::parse(text),
            // A number of protobuf's is a double, whatever it was written as.
            Json::Number(n) => match n.as_f64() {
                Some(f) if f.fract() == 0.0 && (0.0..1.8e19).contains(&f) => Entry::parse(&(f as u64).to_string()),
                _ => Entry::parse(&n.to_string()),
            },
            Json::Object(fields) => {
                let numerator = fields.get("numerator").map_or(Some(0.0), Json::as_f64);
                let denominator = fields.get("denominator").map_or(Some(100), |d| denominator(d.as_str()?));
                let fraction = numerator.filter(|n| (0.0..=4_294_967_295.0).contains(n)).zip(denominator);
                let fraction = fraction.map(|(n, d)| (n as u32, d));
                Entry { raw: value.to_string(), integer: None, double: None, flag: None, fraction }
            }
            other => Entry::parse(&other.to_string()),
        }
    }
}

fn denominator(name: &str) -> Option<u32> {
    match name {
        "HUNDRED" => Some(100),
        "TEN_THOUSAND" => Some(10_000),
        "MILLION" => Some(1_000_000),
        _ => None,
    }
}

/// A fraction in YAML, in one line or in two: `{numerator: 3, denominator: HUNDRED}`.
fn fraction_text(text: &str) -> Option<(u32, u32)> {
    let inner = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text);
    let (mut numerator, mut of) = (None, 100);
    for field in inner.split([',', '\n']).map(str::trim).filter(|field| !field.is_empty()) {
        let (key, value) = field.split_once(':')?;
        let plain = |text: &str| text.trim().trim_matches(['"', '\'']).to_owned();
        match plain(key).as_str() {
            "numerator" => numerator = Some(plain(value).parse().ok()?),
            "denominator" => of = denominator(&plain(value))?,
            _ => return None,
        }
    }
    numerator.map(|numerator| (numerator, of))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn forms() {
        let e = Entry::parse(" 30 ");
        assert_eq!((e.integer, e.double, e.flag, e.raw.as_str()), (Some(30), Some(30.0), Some(true), " 30 "));
        let e = Entry::parse("FALSE");
        assert_eq!((e.integer, e.double, e.flag), (None, None, Some(false)));
        let e = Entry::parse("-1.5");
        assert_eq!((e.integer, e.double, e.flag), (None, Some(-1.5), None));
        for text in ["{numerator: 3, denominator: TEN_THOUSAND}", "numerator: 3\ndenominator: TEN_THOUSAND"] {
            assert_eq!(Entry::parse(text).fraction, Some((3, 10_000)), "{text}");
        }
        assert_eq!(Entry::parse("{\"numerator\":7}").fraction, Some((7, 100)));
        assert_eq!(Entry::parse("{x: 1}").fraction, None);
        assert_eq!(Entry::parse("").fraction, None);
    }

    #[test]
    fn json_values() {
        assert_eq!(Entry::from_json(&json!(3.0)).raw, "3");
        assert_eq!(Entry::from_json(&json!(true)).flag, Some(true));
        assert_eq!(Entry::from_json(&json!(1.5)).double, Some(1.5));
        let fraction = json!({"numerator": 5.0, "denominator": "MILLION"});
        assert_eq!(Entry::from_json(&fraction).fraction, Some((5, 1_000_000)));
        assert_eq!(Entry::from_json(&json!({"numerator": 5, "denominator": "X"})).fraction, None);
    }
}
