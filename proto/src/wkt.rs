//! Protobuf's well-known types to and from Rust's own, range-checked.
//!
//! Owns the ranges and the words for what is out of them, which are Envoy's. Must not know: which fields hold these values.

use std::time::{Duration, SystemTime};

use serde_json::Value as Json;

use crate::pb::envoy::r#type::v3 as types;
use crate::pb::envoy::r#type::v3::fractional_percent::DenominatorType;
use crate::pb::google::protobuf as wkt;

/// A value that is out of range, in Envoy's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutOfRange {
    /// A negative duration.
    #[error("Invalid duration: Expected positive duration")]
    NegativeDuration,
    /// A duration whose nanoseconds do not fit 63 bits (292 years), or are malformed.
    #[error("Invalid duration: Duration out-of-range")]
    Duration,
    /// A time outside the years 1 to 9999, or malformed.
    #[error("timestamp out of range")]
    Timestamp,
    /// A percentage outside 0 to 100.
    #[error("value must be inside range [0, 100]")]
    Percent,
    /// An enum number that has no meaning.
    #[error("value must be one of the defined enum values")]
    Denominator,
}

/// The longest duration in seconds: Envoy counts nanoseconds in 63 bits.
const MAX_SECONDS: i64 = i64::MAX / 1_000_000_000;

/// A duration of zero or more.
///
/// # Errors
/// A negative duration, or one that Envoy cannot count.
pub fn duration(value: &wkt::Duration) -> Result<Duration, OutOfRange> {
    if value.seconds < 0 || value.nanos < 0 {
        return Err(OutOfRange::NegativeDuration);
    }
    match (u64::try_from(value.seconds), u32::try_from(value.nanos)) {
        (Ok(seconds), Ok(nanos)) if value.seconds <= MAX_SECONDS && nanos < 1_000_000_000 => {
            Ok(Duration::new(seconds, nanos))
        }
        _ => Err(OutOfRange::Duration),
    }
}

/// An optional duration.
///
/// # Errors
/// As [`duration`].
pub fn optional_duration(value: Option<&wkt::Duration>) -> Result<Option<Duration>, OutOfRange> {
    value.map(duration).transpose()
}

/// A duration for the wire; one beyond protobuf's range becomes the longest that Envoy counts.
pub fn to_duration(value: Duration) -> wkt::Duration {
    match i64::try_from(value.as_secs()) {
        Ok(seconds) if seconds <= MAX_SECONDS => {
            // Nanoseconds are below a billion.
            wkt::Duration { seconds, nanos: i32::try_from(value.subsec_nanos()).unwrap_or_default() }
        }
        _ => wkt::Duration { seconds: MAX_SECONDS, nanos: 0 },
    }
}

/// A point in time.
///
/// # Errors
/// A time outside the years 1 to 9999.
pub fn system_time(value: &wkt::Timestamp) -> Result<SystemTime, OutOfRange> {
    const YEARS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
    let nanos = u32::try_from(value.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    let nanos = nanos.filter(|_| YEARS.contains(&value.seconds)).ok_or(OutOfRange::Timestamp)?;
    let seconds = Duration::from_secs(value.seconds.unsigned_abs());
    let whole = if value.seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    whole.and_then(|time| time.checked_add(Duration::from_nanos(nanos.into()))).ok_or(OutOfRange::Timestamp)
}

/// A point in time for the wire; before the epoch the nanoseconds still count forward.
pub fn to_timestamp(value: SystemTime) -> wkt::Timestamp {
    let (seconds, nanos) = match value.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => (i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            let seconds = -i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            match before.subsec_nanos() {
                0 => (seconds, 0),
                nanos => (seconds - 1, 1_000_000_000 - nanos),
            }
        }
    };
    wkt::Timestamp { seconds, nanos: i32::try_from(nanos).unwrap_or_default() }
}

/// The value in a wrapper.
pub trait Wrapper {
    /// What it wraps.
    type Inner;
    /// A copy of what it wraps.
    fn inner(&self) -> Self::Inner;
}

macro_rules! wrappers {
    ($($wrapper:ident $inner:ty),* $(,)?) => {$(
        impl Wrapper for wkt::$wrapper {
            type Inner = $inner;
            fn inner(&self) -> $inner {
                self.value.clone()
            }
        }
    )*};
}

wrappers! {
    BoolValue bool, BytesValue Vec<u8>, DoubleValue f64, FloatValue f32, Int32Value i32, Int64Value i64,
    StringValue String, UInt32Value u32, UInt64Value u64,
}

/// The value in an optional wrapper: `None` is "not set", which differs from the default.
pub fn unwrapped<W: Wrapper>(value: Option<&W>) -> Option<W::Inner> {
    value.map(Wrapper::inner)
}

/// A percentage as a fraction of one million; what is finer is rounded.
///
/// # Errors
/// A percentage outside 0 to 100, or not a number.
pub fn percent(value: &types::Percent) -> Result<u32, OutOfRange> {
    if !(0.0..=100.0).contains(&value.value) {
        return Err(OutOfRange::Percent);
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most a million")]
    Ok((value.value * 10_000.0).round() as u32)
}

/// A fraction as parts of one million; more than one is one, as in Envoy.
///
/// # Errors
/// A denominator that does not exist.
pub fn fractional_percent(value: &types::FractionalPercent) -> Result<u32, OutOfRange> {
    const MILLION: u64 = 1_000_000;
    let parts = match DenominatorType::try_from(value.denominator) {
        Ok(DenominatorType::Hundred) => MILLION / 100,
        Ok(DenominatorType::TenThousand) => MILLION / 10_000,
        Ok(DenominatorType::Million) => 1,
        Err(_) => return Err(OutOfRange::Denominator),
    };
    let millionths = u64::from(value.numerator).saturating_mul(parts).min(MILLION);
    Ok(u32::try_from(millionths).unwrap_or(1_000_000))
}

/// A Struct as a JSON object.
pub fn json_object(value: &wkt::Struct) -> serde_json::Map<String, Json> {
    value.fields.iter().map(|(key, value)| (key.clone(), json(value))).collect()
}

/// A Value as JSON. Whole numbers are integers; NaN and infinity, which JSON does not have, are null.
pub fn json(value: &wkt::Value) -> Json {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    use wkt::value::Kind;
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        #[expect(clippy::cast_possible_truncation, reason = "a whole number of at most 53 bits")]
        Some(Kind::NumberValue(n)) if n.fract() == 0.0 && n.abs() < EXACT => Json::from(*n as i64),
        Some(Kind::NumberValue(n)) => Json::from(*n),
        Some(Kind::StringValue(text)) => Json::from(text.as_str()),
        Some(Kind::BoolValue(value)) => Json::from(*value),
        Some(Kind::StructValue(value)) => Json::Object(json_object(value)),
        Some(Kind::ListValue(list)) => Json::Array(list.values.iter().map(json).collect()),
    }
}

/// JSON as a Value.
pub fn to_value(json: &Json) -> wkt::Value {
    use wkt::value::Kind;
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(*value),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(items) => Kind::ListValue(wkt::ListValue { values: items.iter().map(to_value).collect() }),
        Json::Object(object) => Kind::StructValue(to_struct(object)),
    };
    wkt::Value { kind: Some(kind) }
}

/// A JSON object as a Struct.
pub fn to_struct(object: &serde_json::Map<String, Json>) -> wkt::Struct {
    wkt::Struct { fields: object.iter().map(|(key, value)| (key.clone(), to_value(value))).collect() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_checked_in_envoys_words() {
        let of = |seconds, nanos| duration(&wkt::Duration { seconds, nanos }).map_err(|e| e.to_string());
        assert_eq!(of(1, 500_000_000), Ok(Duration::from_millis(1500)));
        assert_eq!(of(-1, 0), Err("Invalid duration: Expected positive duration".into()));
        assert_eq!(of(0, -1), Err("Invalid duration: Expected positive duration".into()));
        assert_eq!(of(315_576_000_000, 0), Err("Invalid duration: Duration out-of-range".into()));
        assert_eq!(of(0, 1_000_000_000), Err("Invalid duration: Duration out-of-range".into()));
        assert_eq!(optional_duration(None), Ok(None));
        assert_eq!(to_duration(Duration::MAX).seconds, MAX_SECONDS);
    }

    #[test]
    fn fractions_are_parts_of_a_million() {
        let fraction =
            |numerator, denominator| fractional_percent(&types::FractionalPercent { numerator, denominator });
        assert_eq!(fraction(5, 0), Ok(50_000));
        assert_eq!(fraction(5, 1), Ok(500));
        assert_eq!(fraction(5, 2), Ok(5));
        assert_eq!(fraction(u32::MAX, 0), Ok(1_000_000));
        assert_eq!(fraction(5, 3), Err(OutOfRange::Denominator));
        assert_eq!(percent(&types::Percent { value: 12.5 }), Ok(125_000));
        assert_eq!(percent(&types::Percent { value: f64::NAN }), Err(OutOfRange::Percent));
        assert_eq!(percent(&types::Percent { value: 100.1 }), Err(OutOfRange::Percent));
    }

    #[test]
    fn wrappers_tell_unset_from_default() {
        assert_eq!(unwrapped(Some(&wkt::UInt32Value { value: 0 })), Some(0));
        assert_eq!(unwrapped::<wkt::BoolValue>(None), None);
    }

    proptest! {
        #[test]
        fn durations_and_times_go_both_ways(seconds in 0..MAX_SECONDS, nanos in 0..1_000_000_000i32) {
            let wire = wkt::Duration { seconds, nanos };
            prop_assert_eq!(to_duration(duration(&wire).unwrap()), wire);
            for seconds in [seconds % 253_402_300_799, -(seconds % 62_135_596_800)] {
                let wire = wkt::Timestamp { seconds, nanos };
                prop_assert_eq!(to_timestamp(system_time(&wire).unwrap()), wire);
            }
        }

        #[test]
        fn json_goes_both_ways(text in "\\PC{0,9}", number: i32, flag: bool) {
            let value = serde_json::json!({"a": [text, number, flag, null, 0.5], "b": {}});
            prop_assert_eq!(json(&to_value(&value)), value);
        }
    }
}
