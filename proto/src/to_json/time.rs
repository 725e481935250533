//! Durations, times and field masks as text.

use crate::message::{Content, Message, Value};

/// `1s`, `0.250s`, `-1.000000001s`: no fraction, or one of 3, 6 or 9 digits.
pub(super) fn duration(message: &Message) -> String {
    let (seconds, nanos) = (message.integer(1), message.integer(2));
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    format!("{sign}{}{}s", seconds.unsigned_abs(), fraction(nanos.unsigned_abs()))
}

/// RFC 3339 in UTC. A time that no calendar has is printed as the nearest that protobuf allows.
pub(super) fn timestamp(message: &Message) -> String {
    const FIRST: i64 = -62_135_596_800;
    const LAST: i64 = 253_402_300_799;
    let seconds = message.integer(1).clamp(FIRST, LAST);
    let nanos = message.integer(2).clamp(0, 999_999_999).unsigned_abs();
    let (year, month, day) = civil_from_days(seconds.div_euclid(86_400));
    let time = seconds.rem_euclid(86_400);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{}Z", fraction(nanos))
}

fn fraction(nanos: u64) -> String {
    match nanos {
        0 => String::new(),
        n if n.is_multiple_of(1_000_000) => format!(".{:03}", n / 1_000_000),
        n if n.is_multiple_of(1000) => format!(".{:06}", n / 1000),
        n => format!(".{n:09}"),
    }
}

/// The date of a day since 1970-01-01 in the Gregorian calendar; years are counted from March so that a leap day comes last.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Paths joined by commas, in camel case.
pub(super) fn field_mask(message: &Message) -> String {
    let Some(Content::List(paths)) = message.get(1) else { return String::new() };
    let paths = paths.iter().filter_map(|path| match path {
        Value::String(path) => Some(camel_case(path)),
        _ => None,
    });
    paths.collect::<Vec<_>>().join(",")
}

fn camel_case(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut upper = false;
    for c in path.chars() {
        if c == '_' {
            upper = true;
        } else {
            out.push(if upper { c.to_ascii_uppercase() } else { c });
            upper = false;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::days_from_civil;

    #[test]
    fn dates_go_both_ways() {
        for days in (-719_162..2_932_896).step_by(13) {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
    }
}
