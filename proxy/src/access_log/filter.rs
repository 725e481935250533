//! Which requests get an entry.

use crate::config::{AccessLogFilter, Comparison, ComparisonOp, ConfigError, HeaderMatcher, StringMatcher};
use crate::http::route::values_match;
use crate::runtime::{Integer, Runtime};
use crate::stream_info::ResponseFlags;

use super::LogContext;
use super::format::status_of;

/// A compiled filter.
#[derive(Debug, Clone)]
pub(crate) enum Filter {
    StatusCode(Compare),
    Duration(Compare),
    NotHealthCheck,
    Traceable,
    Share {
        numerator: Integer,
        denominator: u64,
        independent: bool,
    },
    And(Vec<Filter>),
    Or(Vec<Filter>),
    Header(HeaderMatcher),
    /// `None`: any flag.
    Flags(Option<ResponseFlags>),
    GrpcStatus {
        statuses: Vec<u32>,
        exclude: bool,
    },
    Metadata(MetadataFilter),
    LogType {
        types: Vec<String>,
        exclude: bool,
    },
}

#[derive(Debug, Clone)]
pub(crate) struct Compare {
    op: ComparisonOp,
    value: Integer,
}

#[derive(Debug, Clone)]
pub(crate) struct MetadataFilter {
    namespace: String,
    path: Vec<String>,
    value: Option<StringMatcher>,
    invert: bool,
    if_missing: bool,
}

impl Filter {
    pub(crate) fn new(filter: &AccessLogFilter, runtime: &Runtime) -> Result<Filter, ConfigError> {
        let all = |filters: &[AccessLogFilter]| {
            filters.iter().map(|f| Filter::new(f, runtime)).collect::<Result<Vec<_>, _>>()
        };
        Ok(match filter {
            AccessLogFilter::StatusCode(comparison) => Filter::StatusCode(Compare::new(comparison, runtime)),
            AccessLogFilter::Duration(comparison) => Filter::Duration(Compare::new(comparison, runtime)),
            AccessLogFilter::NotHealthCheck => Filter::NotHealthCheck,
            AccessLogFilter::Traceable => Filter::Traceable,
            AccessLogFilter::Runtime { fraction, use_independent_randomness } => {
                let denominator = u64::from(fraction.denominator.max(1));
                let default = u64::from(fraction.default.0) * denominator / 1_000_000;
                // Here, unlike elsewhere, a runtime value is a numerator over the configured denominator.
                let numerator = runtime.integer(&fraction.key, default);
                Filter::Share { numerator, denominator, independent: *use_independent_randomness }
            }
            AccessLogFilter::And(filters) => Filter::And(all(filters)?),
            AccessLogFilter::Or(filters) => Filter::Or(all(filters)?),
            AccessLogFilter::Header(matcher) => Filter::Header(matcher.clone()),
            AccessLogFilter::ResponseFlag(names) => Filter::Flags(flags(names)?),
            AccessLogFilter::GrpcStatus { statuses, exclude } => {
                Filter::GrpcStatus { statuses: statuses.clone(), exclude: *exclude }
            }
            AccessLogFilter::Metadata { filter, path, value, invert, match_if_key_not_found } => {
                Filter::Metadata(MetadataFilter {
                    namespace: filter.clone(),
                    path: path.clone(),
                    value: value.clone(),
                    invert: *invert,
                    if_missing: *match_if_key_not_found,
                })
            }
            AccessLogFilter::LogType { types, exclude } => Filter::LogType { types: types.clone(), exclude: *exclude },
        })
    }

    /// Whether an entry is wanted.
    pub(crate) fn admits(&self, ctx: &LogContext<'_>) -> bool {
        match self {
            Filter::StatusCode(compare) => compare.holds(ctx.info.response_code.into()),
            Filter::Duration(compare) => {
                let end = ctx.info.times.end.unwrap_or_else(tokio::time::Instant::now);
                let duration = end.saturating_duration_since(ctx.info.start);
                compare.holds(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
            }
            Filter::NotHealthCheck => !ctx.info.health_check,
            Filter::Traceable => ctx.info.traced,
            Filter::Share { numerator, denominator, independent } => {
                let roll = (!independent).then(|| request_number(ctx)).flatten().unwrap_or_else(rand::random);
                roll % denominator < numerator.get().min(*denominator)
            }
            Filter::And(filters) => filters.iter().all(|f| f.admits(ctx)),
            Filter::Or(filters) => filters.iter().any(|f| f.admits(ctx)),
            Filter::Header(matcher) => match ctx.request {
                Some(request) => values_match(matcher, request.values(&matcher.name)),
                None => values_match(matcher, std::iter::empty()),
            },
            Filter::Flags(Some(flags)) => ctx.info.flags.any_of(*flags),
            Filter::Flags(None) => !ctx.info.flags.is_empty(),
            Filter::GrpcStatus { statuses, exclude } => statuses.contains(&status_of(ctx)) != *exclude,
            Filter::Metadata(filter) => filter.admits(ctx),
            Filter::LogType { types, exclude } => types.iter().any(|t| t == ctx.log_type.as_str()) != *exclude,
        }
    }

    /// Whether it looks at the response's headers.
    pub(super) fn reads_response(&self) -> bool {
        match self {
            Filter::And(filters) | Filter::Or(filters) => filters.iter().any(Filter::reads_response),
            Filter::GrpcStatus { .. } => true,
            _ => false,
        }
    }
}

fn flags(names: &[String]) -> Result<Option<ResponseFlags>, ConfigError> {
    let mut all = (!names.is_empty()).then_some(ResponseFlags::NONE);
    for name in names {
        let Some(flag) = ResponseFlags::by_name(name) else {
            return Err(ConfigError::at("response_flag_filter.flags", format!("unknown response flag {name:?}")));
        };
        if let Some(all) = &mut all {
            all.set(flag);
        }
    }
    Ok(all)
}

/// A number that is the same for a request in every proxy it passes, from its request id.
fn request_number(ctx: &LogContext<'_>) -> Option<u64> {
    let id = ctx.info.request_id.as_ref()?.to_str().ok()?;
    u64::from_str_radix(id.get(..8)?, 16).ok()
}

impl Compare {
    fn new(comparison: &Comparison, runtime: &Runtime) -> Self {
        Compare { op: comparison.op, value: runtime.integer(&comparison.runtime_key, comparison.value.into()) }
    }

    fn holds(&self, value: u64) -> bool {
        let wanted = self.value.get();
        match self.op {
            ComparisonOp::Eq => value == wanted,
            ComparisonOp::Ge => value >= wanted,
            ComparisonOp::Le => value <= wanted,
            ComparisonOp::Ne => value != wanted,
        }
    }
}

impl MetadataFilter {
    fn admits(&self, ctx: &LogContext<'_>) -> bool {
        let found = ctx.info.dynamic_metadata(&self.namespace);
        let value = found.and_then(|value| self.path.iter().try_fold(value, |v, key| v.get(key)));
        let Some(value) = value.filter(|v| !v.is_null()) else { return self.if_missing };
        let matches = match &self.value {
            Some(wanted) => value.as_str().is_some_and(|text| wanted.matches(text)),
            None => true,
        };
        matches != self.invert
    }
}
