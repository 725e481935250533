//! Time formats: `strftime`'s letters and Envoy's additions, `%s` and fractions of a second.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use time::{OffsetDateTime, UtcOffset};

/// A compiled time format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TimeFormat {
    items: Vec<Item>,
    /// In the system's time zone, not in UTC.
    local: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    Literal(String),
    /// One of `strftime`'s letters.
    Field(char),
    /// This many digits of the second's fraction.
    Fraction(u8),
    /// Seconds and so many digits of their fraction; `None`: as many as it takes.
    Seconds(Option<u8>),
    /// `+hh:mm`.
    Offset,
    /// Seconds since 1970.
    Epoch,
}

const LETTERS: &str = "aAbBcCdDeFgGhHIjklmMnpPrRStTuUVwWxXyYzZ";

impl TimeFormat {
    /// Compiles a format; an empty one is Envoy's default, `2026-01-31T23:59:59.123Z`.
    ///
    /// # Errors
    /// A newline: the text may become a header.
    pub(super) fn new(format: &str, local: bool) -> Result<Self, String> {
        let default = if local { "%Y-%m-%dT%H:%M:%E3S%z" } else { "%Y-%m-%dT%H:%M:%E3SZ" };
        let mut rest = if format.is_empty() { default } else { format };
        let mut items = Vec::new();
        while let Some(at) = rest.find('%') {
            literal(&mut items, &rest[..at]);
            let (item, length) = specifier(&rest[at..]);
            match item {
                Some(Item::Field('n')) => {
                    return Err("Invalid header configuration. Format string contains newline.".to_owned());
                }
                Some(item) => items.push(item),
                None => literal(&mut items, if &rest[at..at + length] == "%%" { "%" } else { &rest[at..at + length] }),
            }
            rest = &rest[at + length..];
        }
        literal(&mut items, rest);
        Ok(TimeFormat { items, local })
    }

    /// Writes a time.
    pub(super) fn write(&self, time: SystemTime, out: &mut String) {
        let utc = OffsetDateTime::from(time);
        let time = if self.local { utc.to_offset(local_offset(time)) } else { utc };
        for item in &self.items {
            // Writing to a string cannot fail.
            let _ = match item {
                Item::Literal(text) => out.write_str(text),
                Item::Field(letter) => field(out, *letter, time, self.local),
                Item::Fraction(digits) => fraction(out, time.nanosecond(), *digits),
                Item::Seconds(digits) => seconds(out, time, *digits),
                Item::Offset => {
                    let (h, m, _) = time.offset().as_hms();
                    write!(out, "{}{:02}:{:02}", sign(time.offset()), h.unsigned_abs(), m.unsigned_abs())
                }
                Item::Epoch => write!(out, "{}", time.unix_timestamp()),
            };
        }
    }
}

fn literal(items: &mut Vec<Item>, text: &str) {
    if text.is_empty() {
        return;
    }
    match items.last_mut() {
        Some(Item::Literal(before)) => before.push_str(text),
        _ => items.push(Item::Literal(text.to_owned())),
    }
}

/// The specifier that `text`, which begins with `%`, begins with, and its length; `None`: text as it stands.
fn specifier(text: &str) -> (Option<Item>, usize) {
    let letters: Vec<char> = text.chars().skip(1).take(3).collect();
    match letters.as_slice() {
        ['s', ..] => (Some(Item::Epoch), 2),
        ['f', ..] => (Some(Item::Fraction(9)), 2),
        [n @ '1'..='9', 'f', ..] => (Some(Item::Fraction(*n as u8 - b'0')), 3),
        ['1'..='9', 'n', ..] => (Some(Item::Field('n')), 3),
        ['E', '*', 'S'] => (Some(Item::Seconds(None)), 4),
        ['E', n @ '0'..='9', 'S'] => (Some(Item::Seconds(Some(*n as u8 - b'0'))), 4),
        ['E', n @ '1'..='9', 'f'] => (Some(Item::Fraction(*n as u8 - b'0')), 4),
        ['E', '4', 'Y'] => (Some(Item::Field('Y')), 4),
        ['E', 'z', ..] => (Some(Item::Offset), 3),
        ['-' | '_' | '0' | '^' | '#', 'n', ..] => (Some(Item::Field('n')), 3),
        ['E' | 'O', 'n', ..] => (Some(Item::Field('n')), 3),
        ['%', ..] => (None, 2),
        [letter, ..] if LETTERS.contains(*letter) => (Some(Item::Field(*letter)), 2),
        [other, ..] => (None, 1 + other.len_utf8()),
        [] => (None, 1),
    }
}

fn sign(offset: UtcOffset) -> char {
    if offset.is_negative() { '-' } else { '+' }
}

fn fraction(out: &mut String, nanos: u32, digits: u8) -> std::fmt::Result {
    let digits = digits.clamp(1, 9);
    write!(out, "{:0width$}", nanos / 10u32.pow(9 - u32::from(digits)), width = usize::from(digits))
}

fn seconds(out: &mut String, time: OffsetDateTime, digits: Option<u8>) -> std::fmt::Result {
    write!(out, "{:02}", time.second())?;
    match digits {
        Some(0) => Ok(()),
        Some(digits) => {
            out.push('.');
            fraction(out, time.nanosecond(), digits)
        }
        None if time.nanosecond() == 0 => Ok(()),
        None => {
            out.push('.');
            fraction(out, time.nanosecond(), 9)?;
            out.truncate(out.trim_end_matches('0').len());
            Ok(())
        }
    }
}

/// Three letters of an English name.
fn short(name: impl std::fmt::Display) -> String {
    name.to_string().chars().take(3).collect()
}

fn field(out: &mut String, letter: char, t: OffsetDateTime, local: bool) -> std::fmt::Result {
    let (date, month, hour12) = (t.date(), u8::from(t.month()), (t.hour() + 11) % 12 + 1);
    let half = if t.hour() < 12 { "AM" } else { "PM" };
    let (h, m, _) = t.offset().as_hms();
    match letter {
        'a' => write!(out, "{}", short(t.weekday())),
        'A' => write!(out, "{}", t.weekday()),
        'b' | 'h' => write!(out, "{}", short(t.month())),
        'B' => write!(out, "{}", t.month()),
        'c' => nested(out, "a b e T Y", t, local),
        'C' => write!(out, "{:02}", t.year() / 100),
        'd' => write!(out, "{:02}", t.day()),
        'D' | 'x' => write!(out, "{month:02}/{:02}/{:02}", t.day(), t.year().rem_euclid(100)),
        'e' => write!(out, "{:2}", t.day()),
        'F' => write!(out, "{}-{month:02}-{:02}", t.year(), t.day()),
        'g' => write!(out, "{:02}", date.to_iso_week_date().0.rem_euclid(100)),
        'G' => write!(out, "{}", date.to_iso_week_date().0),
        'H' => write!(out, "{:02}", t.hour()),
        'I' => write!(out, "{hour12:02}"),
        'j' => write!(out, "{:03}", t.ordinal()),
        'k' => write!(out, "{:2}", t.hour()),
        'l' => write!(out, "{hour12:2}"),
        'm' => write!(out, "{month:02}"),
        'M' => write!(out, "{:02}", t.minute()),
        'p' => out.write_str(half),
        'P' => out.write_str(&half.to_ascii_lowercase()),
        'r' => write!(out, "{hour12:02}:{:02}:{:02} {half}", t.minute(), t.second()),
        'R' => write!(out, "{:02}:{:02}", t.hour(), t.minute()),
        'S' => write!(out, "{:02}", t.second()),
        't' => out.write_char('\t'),
        'T' | 'X' => write!(out, "{:02}:{:02}:{:02}", t.hour(), t.minute(), t.second()),
        'u' => write!(out, "{}", t.weekday().number_from_monday()),
        'U' => write!(out, "{:02}", t.sunday_based_week()),
        'V' => write!(out, "{:02}", t.iso_week()),
        'w' => write!(out, "{}", t.weekday().number_days_from_sunday()),
        'W' => write!(out, "{:02}", t.monday_based_week()),
        'y' => write!(out, "{:02}", t.year().rem_euclid(100)),
        'Y' => write!(out, "{}", t.year()),
        'z' => write!(out, "{}{:02}{:02}", sign(t.offset()), h.unsigned_abs(), m.unsigned_abs()),
        'Z' if t.offset().is_utc() => out.write_str("UTC"),
        'Z' => field(out, 'z', t, local),
        _ => Ok(()),
    }
}

fn nested(out: &mut String, letters: &str, t: OffsetDateTime, local: bool) -> std::fmt::Result {
    letters.chars().try_for_each(|c| if c == ' ' { out.write_char(' ') } else { field(out, c, t, local) })
}

/// What the system's time zone is off UTC at a time; UTC where that cannot be found out.
fn local_offset(time: SystemTime) -> UtcOffset {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    UtcOffset::from_whole_seconds(offset_seconds(seconds)).unwrap_or(UtcOffset::UTC)
}

/// Seconds east of UTC. The C library knows the time zone, and nothing safe asks it for an offset at a given time.
#[allow(unsafe_code, reason = "localtime_r has no safe wrapper among our dependencies")]
fn offset_seconds(seconds: u64) -> i32 {
    let Ok(seconds) = libc::time_t::try_from(seconds) else { return 0 };
    let mut broken_down = std::mem::MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are to live values of the types asked for, `tm` is plain data for which zeroes are a value, and
    // localtime_r keeps neither. It reads `TZ`, which nothing in this process sets.
    let offset = unsafe {
        let result = libc::localtime_r(&raw const seconds, broken_down.as_mut_ptr());
        if result.is_null() { 0 } else { broken_down.assume_init().tm_gmtoff }
    };
    i32::try_from(offset).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(format: &str) -> String {
        let time = UNIX_EPOCH + Duration::new(1_795_212_261, 65_752_000);
        let mut out = String::new();
        TimeFormat::new(format, false).unwrap().write(time, &mut out);
        out
    }

    #[test]
    fn as_seen_on_envoy() {
        assert_eq!(at(""), "2026-11-20T22:04:21.065Z");
        assert_eq!(at("%s.%3f"), "1795212261.065");
        assert_eq!(
            at("%Y/%m/%dT%H:%M:%S%z %s %f %6f %9f %a %b %d %e %j %y %p %I %Z %F %T %D %%"),
            "2026/11/20T22:04:21+0000 1795212261 065752000 065752 065752000 Fri Nov 20 20 324 26 PM 10 UTC 2026-11-20 \
             22:04:21 11/20/26 %"
        );
        assert_eq!(
            at("%E3S|%E*S|%c|%U|%w|%R|%h|%C|%G|%V|%u|%k|%l|%x|%X|%r|%E4Y|%Ez|%3E|%q|%N"),
            "21.065|21.065752|Fri Nov 20 22:04:21 2026|46|5|22:04|Nov|20|2026|47|5|22|10|11/20/26|22:04:21|10:04:21 PM|\
             2026|+00:00|%3E|%q|%N"
        );
    }

    #[test]
    fn odd_formats() {
        for newline in ["%n", "%1n", "a%_nb", "%En"] {
            assert!(TimeFormat::new(newline, false).is_err(), "{newline}");
        }
        assert_eq!(at("%"), "%");
        assert_eq!(at("é%é"), "é%é");
        let mut out = String::new();
        TimeFormat::new("%Y", true).unwrap().write(UNIX_EPOCH + Duration::from_secs(86400 * 180), &mut out);
        assert_eq!(out, "1970");
    }
}
