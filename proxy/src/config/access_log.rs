//! Access logs: where lines go, what they hold and which requests get one.

use super::{HeaderMatcher, RuntimeFraction};

/// **Source**: `envoy.config.accesslog.v3.AccessLog`.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    /// Extension name as configured.
    pub name: String,
    /// Which requests or connections are logged; absent: all.
    pub filter: Option<AccessLogFilter>,
    /// Where lines go.
    pub sink: AccessLogSink,
    /// What a line holds.
    pub format: LogFormat,
}

/// Where access log lines go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AccessLogSink {
    /// `envoy.extensions.access_loggers.file.v3.FileAccessLog.path`.
    File(String),
    /// `envoy.extensions.access_loggers.stream.v3.StdoutAccessLog`.
    Stdout,
    /// `envoy.extensions.access_loggers.stream.v3.StderrAccessLog`.
    Stderr,
}

/// **Source**: `envoy.config.core.v3.SubstitutionFormatString`, or a logger's own deprecated `format` fields.
#[derive(Debug, Clone, PartialEq)]
pub struct LogFormat {
    /// The template.
    pub template: LogTemplate,
    /// `omit_empty_values`: leave out instead of `-` (text) or `null` (JSON).
    pub omit_empty_values: bool,
    /// `json_format_options.sort_properties`; absent: sorted, as Envoy has it.
    pub sort_properties: Option<bool>,
    /// `content_type`, for local replies.
    pub content_type: Option<String>,
}

/// The alternatives of a format.
#[derive(Debug, Clone, PartialEq)]
pub enum LogTemplate {
    /// Envoy's default access log line.
    Default,
    /// Text with `%OPERATORS%`.
    Text(String),
    /// A JSON object whose string leaves hold operators.
    Json(serde_json::Value),
}

/// **Source**: `envoy.config.accesslog.v3.AccessLogFilter`.
#[derive(Debug, Clone, PartialEq)]
pub enum AccessLogFilter {
    /// Response status compared.
    StatusCode(Comparison),
    /// Milliseconds of the whole request compared.
    Duration(Comparison),
    /// Not a health check of the `health_check` filter.
    NotHealthCheck,
    /// Sampled for tracing.
    Traceable,
    /// A random share.
    Runtime {
        /// Share and key.
        fraction: RuntimeFraction,
        /// Decide by random number alone and not by the request id.
        use_independent_randomness: bool,
    },
    /// All of them.
    And(Vec<AccessLogFilter>),
    /// Any of them.
    Or(Vec<AccessLogFilter>),
    /// By a request header.
    Header(HeaderMatcher),
    /// Any of these response flags (short names); empty: any flag at all.
    ResponseFlag(Vec<String>),
    /// By gRPC status code.
    GrpcStatus {
        /// Codes.
        statuses: Vec<u32>,
        /// All but these.
        exclude: bool,
    },
    /// By dynamic metadata: `filter`, path below it, and the value wanted.
    Metadata {
        /// Filter name (namespace).
        filter: String,
        /// Keys downwards.
        path: Vec<String>,
        /// String value wanted; absent: present at all.
        value: Option<super::StringMatcher>,
        /// Result turned round.
        invert: bool,
        /// Result where the key is not there.
        match_if_key_not_found: bool,
    },
    /// By the kind of entry (`DownstreamEnd` and so on).
    LogType {
        /// Type names.
        types: Vec<String>,
        /// All but these.
        exclude: bool,
    },
}

/// **Source**: `envoy.config.accesslog.v3.ComparisonFilter`.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Operator.
    pub op: ComparisonOp,
    /// The value compared with, where the runtime key is not set.
    pub value: u32,
    /// Runtime key.
    pub runtime_key: String,
}

/// Comparison operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComparisonOp {
    /// Equal.
    Eq,
    /// Greater or equal.
    Ge,
    /// Less or equal.
    Le,
    /// Not equal.
    Ne,
}
