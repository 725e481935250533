//! Which local replies a mapper rewrites: access log filters, asked while the reply is being made.
//!
//! Runs on: workers evaluate; the control thread compiles.

use super::local_reply;
use super::route::values_match;
use crate::access_log::LogContext;
use crate::config::{AccessLogFilter, Comparison, ComparisonOp, ConfigError};
use crate::runtime::Runtime;
use crate::stream_info::ResponseFlags;

/// A compiled filter.
pub(super) type Filter = Box<dyn Fn(&LogContext<'_>) -> bool + Send + Sync>;

/// Compiles a filter.
///
/// # Errors
/// A response flag that is not known.
pub(super) fn compile(filter: &AccessLogFilter, runtime: &Runtime) -> Result<Filter, ConfigError> {
    let all = |filters: &[AccessLogFilter]| filters.iter().map(|f| compile(f, runtime)).collect::<Result<Vec<_>, _>>();
    Ok(match filter {
        AccessLogFilter::StatusCode(c) => {
            let holds = compare(c, runtime);
            Box::new(move |ctx| holds(ctx.info.response_code.into()))
        }
        AccessLogFilter::Duration(c) => {
            let holds = compare(c, runtime);
            Box::new(move |ctx| holds(ctx.info.start.elapsed().as_millis().try_into().unwrap_or(u64::MAX)))
        }
        AccessLogFilter::NotHealthCheck => Box::new(|ctx| !ctx.info.health_check),
        AccessLogFilter::Traceable => Box::new(|ctx| ctx.info.traced),
        AccessLogFilter::Runtime { fraction, use_independent_randomness } => {
            let denominator = u64::from(fraction.denominator.max(1));
            // Here, as in access logs, a runtime value is a numerator over the configured denominator.
            let numerator = runtime.integer(&fraction.key, u64::from(fraction.default.0) * denominator / 1_000_000);
            let independent = *use_independent_randomness;
            Box::new(move |ctx| {
                let shared = (!independent).then(|| request_number(ctx)).flatten();
                let roll = shared.unwrap_or_else(crate::worker::random);
                roll % denominator < numerator.get().min(denominator)
            })
        }
        AccessLogFilter::And(filters) => {
            let filters = all(filters)?;
            Box::new(move |ctx| filters.iter().all(|f| f(ctx)))
        }
        AccessLogFilter::Or(filters) => {
            let filters = all(filters)?;
            Box::new(move |ctx| filters.iter().any(|f| f(ctx)))
        }
        AccessLogFilter::Header(matcher) => {
            let matcher = matcher.clone();
            Box::new(move |ctx| match ctx.request {
                Some(request) => values_match(&matcher, request.values(&matcher.name)),
                None => values_match(&matcher, std::iter::empty()),
            })
        }
        AccessLogFilter::ResponseFlag(names) => {
            let mut wanted = ResponseFlags::NONE;
            for name in names {
                wanted.set(ResponseFlags::by_name(name).ok_or_else(|| {
                    ConfigError::at("response_flag_filter.flags", format!("unknown response flag {name:?}"))
                })?);
            }
            let any = names.is_empty();
            Box::new(move |ctx| if any { !ctx.info.flags.is_empty() } else { ctx.info.flags.any_of(wanted) })
        }
        AccessLogFilter::GrpcStatus { statuses, exclude } => {
            let (statuses, exclude) = (statuses.clone(), *exclude);
            Box::new(move |ctx| statuses.contains(&grpc_status(ctx)) != exclude)
        }
        AccessLogFilter::Metadata { filter, path, value, invert, match_if_key_not_found } => {
            let (namespace, path, wanted) = (filter.clone(), path.clone(), value.clone());
            let (invert, missing) = (*invert, *match_if_key_not_found);
            Box::new(move |ctx| {
                let all = ctx.info.metadata.as_deref();
                let found = all.and_then(|all| path.iter().try_fold(all.get(&namespace)?, |v, key| v.get(key)));
                let Some(found) = found.filter(|v| !v.is_null()) else { return missing };
                wanted.as_ref().is_none_or(|w| found.as_str().is_some_and(|t| w.matches(t))) != invert
            })
        }
        AccessLogFilter::LogType { types, exclude } => {
            let (types, exclude) = (types.clone(), *exclude);
            Box::new(move |ctx| types.iter().any(|t| t == ctx.log_type.as_str()) != exclude)
        }
    })
}

fn compare(comparison: &Comparison, runtime: &Runtime) -> impl Fn(u64) -> bool + Send + Sync + use<> {
    let op = comparison.op;
    let wanted = runtime.integer(&comparison.runtime_key, comparison.value.into());
    move |value| match op {
        ComparisonOp::Eq => value == wanted.get(),
        ComparisonOp::Ge => value >= wanted.get(),
        ComparisonOp::Le => value <= wanted.get(),
        ComparisonOp::Ne => value != wanted.get(),
    }
}

/// A number that is the same for a request in every proxy it passes, from its request id.
fn request_number(ctx: &LogContext<'_>) -> Option<u64> {
    let id = ctx.info.request_id.as_ref()?.to_str().ok()?;
    u64::from_str_radix(id.get(..8)?, 16).ok()
}

fn grpc_status(ctx: &LogContext<'_>) -> u32 {
    let header = ctx.response.and_then(|r| r.headers.get("grpc-status")?.to_str().ok()?.parse().ok());
    header.or(ctx.info.grpc_status).unwrap_or_else(|| local_reply::grpc_status(ctx.info.response_code))
}
