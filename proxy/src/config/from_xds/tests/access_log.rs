use serde_json::{Value, json};

use super::{Doc, ext};
use crate::config::{AccessLog, AccessLogFilter, AccessLogSink, ComparisonOp, LogTemplate, PerMillion};

fn file(fields: Value) -> Value {
    ext("f", "envoy.extensions.access_loggers.file.v3.FileAccessLog", fields)
}

fn with_filter(filter: Value) -> Doc {
    let mut log = file(json!({ "path": "/dev/null" }));
    log["filter"] = filter;
    Doc::new().set("$hcm.access_log", json!([log]))
}

fn log(log: Value) -> AccessLog {
    Doc::new().set("$hcm.access_log", json!([log])).hcm().access_log.remove(0)
}

fn filter(filter: Value) -> AccessLogFilter {
    with_filter(filter).hcm().access_log.remove(0).filter.unwrap()
}

#[test]
fn formats_by_all_spellings() {
    let l = log(file(json!({ "path": "/a" })));
    assert_eq!((l.sink, l.format.template), (AccessLogSink::File("/a".into()), LogTemplate::Default));
    assert_eq!(log(file(json!({ "path": "/a", "format": "" }))).format.template, LogTemplate::Default);
    assert_eq!(log(file(json!({ "path": "/a", "format": "x" }))).format.template, LogTemplate::Text("x".into()));
    let object = LogTemplate::Json(json!({ "a": "%PROTOCOL%", "n": { "b": 1 } }));
    for field in ["json_format", "typed_json_format"] {
        let l = log(file(json!({ "path": "/a", field: { "a": "%PROTOCOL%", "n": { "b": 1 } } })));
        assert_eq!(l.format.template, object);
    }
    let l = log(file(json!({ "path": "/a", "log_format": {
        "json_format": { "a": "%PROTOCOL%", "n": { "b": 1 } }, "omit_empty_values": true,
        "json_format_options": { "sort_properties": true } } })));
    assert_eq!((l.format.template, l.format.omit_empty_values), (object, true));
    assert_eq!(l.format.sort_properties, Some(true));
    let text = json!({ "log_format": { "text_format_source": { "inline_string": "t" } } });
    let l = log(ext("o", "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog", text));
    assert_eq!((l.sink, l.format.template), (AccessLogSink::Stdout, LogTemplate::Text("t".into())));
    let l = log(ext("e", "envoy.extensions.access_loggers.stream.v3.StderrAccessLog", json!({})));
    assert_eq!((l.sink, l.format.template), (AccessLogSink::Stderr, LogTemplate::Default));
}

#[test]
fn a_format_may_come_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("format");
    std::fs::write(&path, "%PROTOCOL%\n").unwrap();
    let l = log(file(json!({ "path": "/a", "log_format": { "text_format_source": { "filename": path } } })));
    assert_eq!(l.format.template, LogTemplate::Text("%PROTOCOL%\n".into()));
}

#[test]
fn filters() {
    let compare = json!({ "comparison": { "op": "LE", "value": { "default_value": 7, "runtime_key": "k" } } });
    let AccessLogFilter::Duration(c) = filter(json!({ "duration_filter": compare })) else { panic!() };
    assert_eq!((c.op, c.value, c.runtime_key.as_str()), (ComparisonOp::Le, 7, "k"));
    let runtime = json!({ "runtime_key": "k", "percent_sampled": { "numerator": 5, "denominator": "TEN_THOUSAND" } });
    let AccessLogFilter::Runtime { fraction, .. } = filter(json!({ "runtime_filter": runtime })) else { panic!() };
    assert_eq!((fraction.default, fraction.denominator), (PerMillion(500), 10_000));
    let and = json!({ "and_filter": { "filters": [{ "traceable_filter": {} }, { "not_health_check_filter": {} }] } });
    assert_eq!(filter(and), AccessLogFilter::And(vec![AccessLogFilter::Traceable, AccessLogFilter::NotHealthCheck]));
    let types = json!({ "log_type_filter": { "types": ["DownstreamEnd"], "exclude": true } });
    assert_eq!(filter(types), AccessLogFilter::LogType { types: vec!["DownstreamEnd".into()], exclude: true });
    let grpc = json!({ "grpc_status_filter": { "statuses": ["UNAVAILABLE"] } });
    assert_eq!(filter(grpc), AccessLogFilter::GrpcStatus { statuses: vec![14], exclude: false });
    let matcher = json!({ "filter": "f", "path": [{ "key": "a" }], "value": { "string_match": { "exact": "x" } } });
    let AccessLogFilter::Metadata { path, match_if_key_not_found, value, .. } =
        filter(json!({ "metadata_filter": { "matcher": matcher } }))
    else {
        panic!()
    };
    assert_eq!((path, match_if_key_not_found), (vec!["a".to_owned()], true));
    assert!(value.unwrap().matches("x"));
}

#[test]
fn bad_logs() {
    let one = |log: Value| Doc::new().set("$hcm.access_log", json!([log]));
    one(file(json!({}))).refused("$hcm.access_log[0].typed_config.path", "value length must be at least 1 characters");
    one(json!({ "name": "x" }))
        .refused("$hcm.access_log[0]", "Didn't find a registered implementation for 'x' with type URL: ''");
    one(ext("g", "envoy.config.core.v3.Pipe", json!({}))).refused(
        "$hcm.access_log[0].typed_config",
        "Didn't find a registered implementation for 'g' with type URL: 'envoy.config.core.v3.Pipe'",
    );
    one(file(json!({ "path": "/a", "log_format": {} }))).refused(
        "$hcm.access_log[0].typed_config.log_format",
        "a format is required: text_format, text_format_source or json_format",
    );
    let at = "$hcm.access_log[0].filter";
    with_filter(json!({})).refused(at, "a filter is required");
    with_filter(json!({ "and_filter": { "filters": [{ "traceable_filter": {} }] } }))
        .refused(&format!("{at}.and_filter.filters"), "value must contain at least 2 item(s)");
    with_filter(json!({ "response_flag_filter": { "flags": ["UF", "XX"] } }))
        .refused(&format!("{at}.response_flag_filter.flags[1]"), "unknown response flag XX");
    with_filter(json!({ "status_code_filter": { "comparison": {} } }))
        .refused(&format!("{at}.status_code_filter.comparison.value"), "value is required");
}
