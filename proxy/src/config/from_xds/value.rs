//! Well-known types and Envoy's small value types: durations, percentages, structures, data sources, enumerations.

use std::time::Duration;

use bytes::Bytes;
use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::r#type::v3 as types;
use weft_proto::pb::google::protobuf as wkt;

use super::ctx::{Ctx, Out};
use crate::config::{BackOff, DataSource, Metadata, PerMillion, RuntimeFlag, RuntimeFraction};

/// Envoy counts durations in signed 64-bit nanoseconds.
const MAX_SECONDS: i64 = i64::MAX / 1_000_000_000;

/// A duration; negative and out-of-range ones are refused, as Envoy does.
pub(super) fn duration(c: &Ctx<'_>, d: &wkt::Duration) -> Out<Duration> {
    if d.seconds < 0 || d.nanos < 0 {
        return c.refuse("Invalid duration: Expected positive duration");
    }
    match (u64::try_from(d.seconds), u32::try_from(d.nanos)) {
        (Ok(s), Ok(n)) if d.seconds <= MAX_SECONDS && n < 1_000_000_000 => Ok(Duration::new(s, n)),
        _ => c.refuse("Invalid duration: Duration out-of-range"),
    }
}

/// A duration above zero.
pub(super) fn positive_duration(c: &Ctx<'_>, d: &wkt::Duration) -> Out<Duration> {
    let d = duration(c, d)?;
    c.ensure(!d.is_zero(), || "value must be greater than 0s".into())?;
    Ok(d)
}

/// A duration of which zero means "off".
pub(super) fn duration_or_off(c: &Ctx<'_>, d: &wkt::Duration) -> Out<Option<Duration>> {
    Ok(Some(duration(c, d)?).filter(|d| !d.is_zero()))
}

impl Ctx<'_> {
    /// An optional duration field.
    pub(super) fn duration(&self, name: &'static str, d: &Option<wkt::Duration>) -> Out<Option<Duration>> {
        self.opt(name, d, duration)
    }

    /// A timeout field: absent is `default`, zero is off.
    pub(super) fn timeout(
        &self,
        name: &'static str,
        d: &Option<wkt::Duration>,
        default: Option<Duration>,
    ) -> Out<Option<Duration>> {
        match d {
            Some(d) => duration_or_off(&self.field(name), d),
            None => Ok(default),
        }
    }

    /// An enumeration field.
    pub(super) fn enumeration<E: TryFrom<i32>>(&self, name: &'static str, value: i32) -> Out<E> {
        match E::try_from(value) {
            Ok(e) => Ok(e),
            Err(_) => self.field(name).refuse(format!("value must be one of the defined enum values, {value} is not")),
        }
    }

    /// A port field.
    pub(super) fn port(&self, name: &'static str, value: u32) -> Out<u16> {
        match u16::try_from(value) {
            Ok(port) => Ok(port),
            Err(_) => self.field(name).refuse("value must be less than or equal to 65535"),
        }
    }

    /// An integer field that must lie within a range.
    pub(super) fn bounded(&self, name: &'static str, value: u32, min: u32, max: u32) -> Out<u32> {
        let ok = (min..=max).contains(&value);
        self.field(name).ensure(ok, || format!("value must be inside range [{min}, {max}]"))?;
        Ok(value)
    }
}

/// The value of a boolean wrapper, or its default.
pub(super) fn bool_or(b: &Option<wkt::BoolValue>, default: bool) -> bool {
    b.as_ref().map_or(default, |b| b.value)
}

/// The value of an integer wrapper, or its default.
pub(super) fn u32_or(n: &Option<wkt::UInt32Value>, default: u32) -> u32 {
    n.as_ref().map_or(default, |n| n.value)
}

/// The value of an integer wrapper.
pub(super) fn u32_opt(n: &Option<wkt::UInt32Value>) -> Option<u32> {
    n.as_ref().map(|n| n.value)
}

/// A percentage from 0 to 100.
pub(super) fn percent(c: &Ctx<'_>, p: &types::Percent) -> Out<f64> {
    c.field("value").ensure((0.0..=100.0).contains(&p.value), || "value must be inside range [0, 100]".into())?;
    Ok(p.value)
}

/// A fraction and its denominator.
pub(super) fn fractional_percent(c: &Ctx<'_>, p: &types::FractionalPercent) -> Out<(PerMillion, u32)> {
    use types::fractional_percent::DenominatorType as D;
    let denominator = match c.enumeration::<D>("denominator", p.denominator)? {
        D::Hundred => 100,
        D::TenThousand => 10_000,
        D::Million => 1_000_000,
    };
    // Above the denominator Envoy takes all; the product may pass 32 bits.
    let parts = u64::from(p.numerator) * u64::from(1_000_000 / denominator);
    Ok((PerMillion(u32::try_from(parts.min(1_000_000)).unwrap_or(1_000_000)), denominator))
}

/// A fraction with a runtime key.
pub(super) fn runtime_fraction(c: &Ctx<'_>, p: &core::RuntimeFractionalPercent) -> Out<RuntimeFraction> {
    let (default, denominator) = c.required("default_value", &p.default_value, fractional_percent)?;
    Ok(RuntimeFraction { default, key: p.runtime_key.clone(), denominator })
}

/// A switch with a runtime key.
pub(super) fn runtime_flag(c: &Ctx<'_>, p: &core::RuntimeFeatureFlag) -> Out<RuntimeFlag> {
    let default = c.required("default_value", &p.default_value, |_, b| Ok(b.value))?;
    Ok(RuntimeFlag { default, key: p.runtime_key.clone() })
}

/// A back-off; the ceiling defaults to ten times the base.
pub(super) fn back_off(c: &Ctx<'_>, base: &Option<wkt::Duration>, max: &Option<wkt::Duration>) -> Out<BackOff> {
    let base = c.required("base_interval", base, positive_duration)?;
    let max = c.opt("max_interval", max, positive_duration)?;
    if let Some(max) = max {
        c.field("max_interval")
            .ensure(max >= base, || "max_interval must be greater than or equal to the base_interval".into())?;
    }
    // Envoy rounds anything below a millisecond up to it.
    let base = base.max(Duration::from_millis(1));
    Ok(BackOff { base, max: max.unwrap_or(base.saturating_mul(10)).max(base) })
}

/// A structure as JSON.
pub(super) fn object(s: &wkt::Struct) -> serde_json::Map<String, serde_json::Value> {
    s.fields.iter().map(|(k, v)| (k.clone(), json(v))).collect()
}

/// A value as JSON. Whole numbers are integers, so that they print without a decimal point.
pub(super) fn json(v: &wkt::Value) -> serde_json::Value {
    use serde_json::Value as J;
    use wkt::value::Kind;
    /// Beyond this a double no longer holds every integer.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match &v.kind {
        None | Some(Kind::NullValue(_)) => J::Null,
        #[allow(clippy::cast_possible_truncation, reason = "a whole number of at most 53 bits")]
        Some(Kind::NumberValue(n)) if n.fract() == 0.0 && n.abs() <= EXACT => J::from(*n as i64),
        Some(Kind::NumberValue(n)) => J::from(*n),
        Some(Kind::StringValue(s)) => J::from(s.as_str()),
        Some(Kind::BoolValue(b)) => J::from(*b),
        Some(Kind::StructValue(s)) => J::Object(object(s)),
        Some(Kind::ListValue(l)) => J::Array(l.values.iter().map(json).collect()),
    }
}

/// Metadata.
pub(super) fn metadata(m: &core::Metadata) -> Metadata {
    m.filter_metadata.iter().map(|(k, v)| (k.clone(), serde_json::Value::Object(object(v)))).collect()
}

/// Optional metadata; absent: empty.
pub(super) fn metadata_or_empty(m: &Option<core::Metadata>) -> Metadata {
    m.as_ref().map(metadata).unwrap_or_default()
}

/// A data source. An environment variable is read now.
pub(super) fn data_source(c: &Ctx<'_>, d: &core::DataSource) -> Out<DataSource> {
    use core::data_source::Specifier as S;
    match &d.specifier {
        None => c.refuse("a specifier is required: filename, inline_bytes, inline_string or environment_variable"),
        Some(S::Filename(path)) => {
            let path = c.non_empty("filename", path)?;
            let watched_directory = c.opt("watched_directory", &d.watched_directory, watched_directory)?;
            Ok(DataSource::File { path, watched_directory })
        }
        Some(S::InlineBytes(b)) => Ok(DataSource::Inline(Bytes::from(b.clone()))),
        Some(S::InlineString(s)) => Ok(DataSource::Inline(Bytes::from(s.clone()))),
        Some(S::EnvironmentVariable(name)) => {
            let here = c.field("environment_variable");
            match std::env::var_os(name) {
                Some(value) => Ok(DataSource::Inline(Bytes::from(value.into_encoded_bytes()))),
                None => here.refuse(format!("Environment variable doesn't exist: {name}")),
            }
        }
    }
}

/// A data source read now, as text.
pub(super) fn text_source(c: &Ctx<'_>, d: &core::DataSource) -> Out<String> {
    let bytes = match data_source(c, d)? {
        DataSource::Inline(b) => b.to_vec(),
        DataSource::File { path, .. } => match std::fs::read(&path) {
            Ok(b) => b,
            Err(e) => return c.field("filename").refuse(format!("Invalid path: {path}: {e}")),
        },
    };
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(_) => c.refuse("must be UTF-8"),
    }
}

/// A directory whose swap is the signal to read again.
pub(super) fn watched_directory(c: &Ctx<'_>, w: &core::WatchedDirectory) -> Out<String> {
    c.non_empty("path", &w.path)
}
