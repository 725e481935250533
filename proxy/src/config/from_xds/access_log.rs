//! Access logs, their filters and formats.

use weft_proto::pb::envoy::config::accesslog::v3 as accesslog;
use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::data::accesslog::v3::AccessLogType;
use weft_proto::pb::envoy::extensions::access_loggers::{file::v3 as file, stream::v3 as stream};

use super::ctx::{Ctx, Out, type_name};
use super::{matcher, value};
use crate::config::{
    AccessLog, AccessLogFilter, AccessLogSink, Comparison, ComparisonOp, LogFormat, LogTemplate, RuntimeFraction,
    ValueMatcher,
};

/// Formatter extensions whose operators the formatter knows anyway.
const BUILT_IN_FORMATTERS: [&str; 2] = [
    "envoy.extensions.formatter.metadata.v3.Metadata",
    "envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery",
];

/// The short names of response flags.
const RESPONSE_FLAGS: [&str; 30] = [
    "LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC", "URX", "SI", "IH",
    "DPE", "UMSDR", "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DO", "DR", "UDO",
];

/// An access log.
pub(super) fn access_log(c: &Ctx<'_>, log: &accesslog::AccessLog) -> Out<AccessLog> {
    use accesslog::access_log::ConfigType;
    let filter = c.opt("filter", &log.filter, filter);
    let Some(ConfigType::TypedConfig(any)) = &log.config_type else {
        return c.unknown_extension(&log.name, None);
    };
    let c = c.field("typed_config");
    let (sink, format) = match &*type_name(any) {
        "envoy.extensions.access_loggers.file.v3.FileAccessLog" => file_sink(&c, &c.unpack(any)?)?,
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog" => {
            use stream::stdout_access_log::AccessLogFormat::LogFormat;
            let s: stream::StdoutAccessLog = c.unpack(any)?;
            let f = s.access_log_format.map(|LogFormat(f)| format(&c.field("log_format"), &f)).transpose()?;
            (AccessLogSink::Stdout, f)
        }
        "envoy.extensions.access_loggers.stream.v3.StderrAccessLog" => {
            use stream::stderr_access_log::AccessLogFormat::LogFormat;
            let s: stream::StderrAccessLog = c.unpack(any)?;
            let f = s.access_log_format.map(|LogFormat(f)| format(&c.field("log_format"), &f)).transpose()?;
            (AccessLogSink::Stderr, f)
        }
        _ => return c.unknown_extension(&log.name, Some(any)),
    };
    let format = format.unwrap_or_else(|| plain(LogTemplate::Default));
    Ok(AccessLog { name: log.name.clone(), filter: filter?, sink, format })
}

fn file_sink(c: &Ctx<'_>, f: &file::FileAccessLog) -> Out<(AccessLogSink, Option<LogFormat>)> {
    use file::file_access_log::AccessLogFormat as F;
    let sink = AccessLogSink::File(c.non_empty("path", &f.path)?);
    let format = match &f.access_log_format {
        None => None,
        Some(F::Format(text)) if text.is_empty() => None,
        Some(F::Format(text)) => Some(plain(LogTemplate::Text(text.clone()))),
        Some(F::JsonFormat(s) | F::TypedJsonFormat(s)) => {
            Some(plain(LogTemplate::Json(serde_json::Value::Object(value::object(s)))))
        }
        Some(F::LogFormat(f)) => Some(format(&c.field("log_format"), f)?),
    };
    Ok((sink, format))
}

fn plain(template: LogTemplate) -> LogFormat {
    LogFormat { template, omit_empty_values: false, sort_properties: None, content_type: None }
}

/// A substitution format. Its operators are checked by whoever compiles it.
pub(super) fn format(c: &Ctx<'_>, f: &core::SubstitutionFormatString) -> Out<LogFormat> {
    use core::substitution_format_string::Format as F;
    c.each("formatters", &f.formatters, |c, ext| {
        let known = ext.typed_config.as_ref().is_some_and(|any| BUILT_IN_FORMATTERS.contains(&&*type_name(any)));
        if known { Ok(()) } else { c.unknown_extension(&ext.name, ext.typed_config.as_ref()) }
    })?;
    let template = match &f.format {
        None => return c.refuse("a format is required: text_format, text_format_source or json_format"),
        Some(F::TextFormat(text)) => LogTemplate::Text(text.clone()),
        Some(F::TextFormatSource(d)) => LogTemplate::Text(value::text_source(&c.field("text_format_source"), d)?),
        Some(F::JsonFormat(s)) => LogTemplate::Json(serde_json::Value::Object(value::object(s))),
    };
    Ok(LogFormat {
        template,
        omit_empty_values: f.omit_empty_values,
        sort_properties: f.json_format_options.as_ref().map(|o| o.sort_properties),
        content_type: Some(f.content_type.clone()).filter(|t| !t.is_empty()),
    })
}

/// An access log filter.
pub(super) fn filter(c: &Ctx<'_>, f: &accesslog::AccessLogFilter) -> Out<AccessLogFilter> {
    use accesslog::access_log_filter::FilterSpecifier as F;
    use accesslog::grpc_status_filter::Status;
    Ok(match &f.filter_specifier {
        None => return c.refuse("a filter is required"),
        Some(F::StatusCodeFilter(f)) => AccessLogFilter::StatusCode(compare(c, "status_code_filter", &f.comparison)?),
        Some(F::DurationFilter(f)) => AccessLogFilter::Duration(compare(c, "duration_filter", &f.comparison)?),
        Some(F::NotHealthCheckFilter(_)) => AccessLogFilter::NotHealthCheck,
        Some(F::TraceableFilter(_)) => AccessLogFilter::Traceable,
        Some(F::RuntimeFilter(f)) => {
            let c = c.field("runtime_filter");
            let key = c.non_empty("runtime_key", &f.runtime_key)?;
            let percent = c.opt("percent_sampled", &f.percent_sampled, value::fractional_percent)?;
            // Envoy's default is zero percent: the key decides alone.
            let (default, denominator) = percent.unwrap_or((crate::config::PerMillion(0), 100));
            AccessLogFilter::Runtime {
                fraction: RuntimeFraction { default, key, denominator },
                use_independent_randomness: f.use_independent_randomness,
            }
        }
        Some(F::AndFilter(f)) => AccessLogFilter::And(several(&c.field("and_filter"), &f.filters)?),
        Some(F::OrFilter(f)) => AccessLogFilter::Or(several(&c.field("or_filter"), &f.filters)?),
        Some(F::HeaderFilter(f)) => {
            AccessLogFilter::Header(c.field("header_filter").required("header", &f.header, matcher::header)?)
        }
        Some(F::ResponseFlagFilter(f)) => {
            AccessLogFilter::ResponseFlag(c.field("response_flag_filter").each("flags", &f.flags, |c, flag| {
                c.ensure(RESPONSE_FLAGS.contains(&flag.as_str()), || format!("unknown response flag {flag}"))?;
                Ok(flag.clone())
            })?)
        }
        Some(F::GrpcStatusFilter(f)) => AccessLogFilter::GrpcStatus {
            statuses: c.field("grpc_status_filter").each("statuses", &f.statuses, |c, n| {
                match Status::try_from(*n) {
                    Ok(s) => Ok(s as u32),
                    Err(_) => c.refuse(format!("{n} is no gRPC status")),
                }
            })?,
            exclude: f.exclude,
        },
        Some(F::MetadataFilter(f)) => metadata_filter(&c.field("metadata_filter"), f)?,
        Some(F::LogTypeFilter(f)) => AccessLogFilter::LogType {
            types: c.field("log_type_filter").each("types", &f.types, |c, n| match AccessLogType::try_from(*n) {
                Ok(t) => Ok(t.as_str_name().to_owned()),
                Err(_) => c.refuse(format!("{n} is no access log type")),
            })?,
            exclude: f.exclude,
        },
        Some(F::ExtensionFilter(f)) => {
            use accesslog::extension_filter::ConfigType::TypedConfig;
            let any = f.config_type.as_ref().map(|TypedConfig(any)| any);
            return c.field("extension_filter").unknown_extension(&f.name, any);
        }
    })
}

fn metadata_filter(c: &Ctx<'_>, f: &accesslog::MetadataFilter) -> Out<AccessLogFilter> {
    let m = c.required("matcher", &f.matcher, matcher::metadata)?;
    let value = match m.value {
        ValueMatcher::String(s) => Some(s),
        ValueMatcher::Present(true) => None,
        _ => {
            return c
                .field("matcher")
                .field("value")
                .unsupported("a value matcher other than string_match and present_match");
        }
    };
    Ok(AccessLogFilter::Metadata {
        filter: m.filter,
        path: m.path,
        value,
        invert: m.invert,
        match_if_key_not_found: value::bool_or(&f.match_if_key_not_found, true),
    })
}

fn several(c: &Ctx<'_>, filters: &[accesslog::AccessLogFilter]) -> Out<Vec<AccessLogFilter>> {
    c.field("filters").ensure(filters.len() >= 2, || "value must contain at least 2 item(s)".into())?;
    c.each("filters", filters, filter)
}

fn compare(c: &Ctx<'_>, field: &'static str, p: &Option<accesslog::ComparisonFilter>) -> Out<Comparison> {
    use accesslog::comparison_filter::Op;
    c.field(field).required("comparison", p, |c, p| {
        let op = match c.enumeration::<Op>("op", p.op)? {
            Op::Eq => ComparisonOp::Eq,
            Op::Ge => ComparisonOp::Ge,
            Op::Le => ComparisonOp::Le,
            Op::Ne => ComparisonOp::Ne,
        };
        let (value, runtime_key) =
            c.required("value", &p.value, |_, v| Ok((v.default_value, v.runtime_key.clone())))?;
        Ok(Comparison { op, value, runtime_key })
    })
}
