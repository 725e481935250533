use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::access_log::fixture::{headers, request, response, stream};
use crate::config::{
    AccessLogFilter as F, Comparison, ComparisonOp, HeaderMatcher, HeaderValueMatcher, LogFormat, LogTemplate,
    PerMillion, RuntimeFraction, RuntimeLayer, RuntimeLayerKind, StringMatcher,
};
use crate::stats::Store;
use crate::stream_info::ResponseFlags;

fn log(path: &Path, text: &str, filter: Option<F>) -> config::AccessLog {
    config::AccessLog {
        name: "f".into(),
        filter,
        sink: AccessLogSink::File(path.to_str().unwrap().into()),
        format: LogFormat {
            template: LogTemplate::Text(text.into()),
            omit_empty_values: false,
            sort_properties: None,
            content_type: None,
        },
    }
}

fn registry(store: &Arc<Store>) -> Arc<SinkRegistry> {
    let options = FlushOptions { bytes: 256, interval: Duration::from_millis(20) };
    SinkRegistry::new(&store.root(), options).unwrap()
}

fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !check() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn lines_are_whole_and_in_order_from_many_threads() {
    let (store, dir) = (Store::new(1, &Default::default()), tempfile::tempdir().unwrap());
    let path = dir.path().join("a.log");
    let sinks = registry(&store);
    let compile = || AccessLogs::compile(&[log(&path, "%STREAM_ID%\n", None)], &sinks, &Runtime::none()).unwrap();
    let (one, two) = (compile(), compile());
    std::thread::scope(|s| {
        for thread in 0..4 {
            let logs = if thread % 2 == 0 { &one } else { &two };
            s.spawn(move || {
                for i in 0..2000 {
                    let mut info = stream();
                    info.request_id = Some(http::HeaderValue::try_from(format!("{thread} {i}")).unwrap());
                    logs.log(&LogContext::new(&info));
                }
            });
        }
    });
    sinks.flush_all();
    let text = std::fs::read_to_string(&path).unwrap();
    let mut next = [0; 4];
    for line in text.lines() {
        let (thread, i) = line.split_once(' ').unwrap();
        let thread: usize = thread.parse().unwrap();
        assert_eq!(i.parse::<usize>().unwrap(), next[thread]);
        next[thread] += 1;
    }
    assert_eq!(next, [2000; 4]);
    assert_eq!(store.value("filesystem.write_buffered"), Some(8000));
    assert_eq!(store.value("filesystem.write_total_buffered"), Some(0));
    assert!(store.value("filesystem.write_completed") >= Some(1));
}

#[test]
fn written_by_the_timer_and_when_dropped() {
    let (store, dir) = (Store::new(1, &Default::default()), tempfile::tempdir().unwrap());
    let path = dir.path().join("a.log");
    let sinks = registry(&store);
    let logs = AccessLogs::compile(&[log(&path, "x\n", None)], &sinks, &Runtime::none()).unwrap();
    let info = stream();
    logs.log(&LogContext::new(&info));
    eventually("the timer", || std::fs::read_to_string(&path).unwrap() == "x\n");
    eventually("its count", || store.value("filesystem.flushed_by_timer") >= Some(1));
    logs.log(&LogContext::new(&info));
    drop(logs);
    eventually("the drop", || std::fs::read_to_string(&path).unwrap() == "x\nx\n");
}

#[test]
fn reopened_after_rotation() {
    let (store, dir) = (Store::new(1, &Default::default()), tempfile::tempdir().unwrap());
    let (path, old) = (dir.path().join("a.log"), dir.path().join("a.log.1"));
    let sinks = registry(&store);
    let logs = AccessLogs::compile(&[log(&path, "%STREAM_ID%\n", None)], &sinks, &Runtime::none()).unwrap();
    let mut info = stream();
    info.request_id = Some(http::HeaderValue::from_static("before"));
    logs.log(&LogContext::new(&info));
    std::fs::rename(&path, &old).unwrap_or(());
    sinks.reopen();
    info.request_id = Some(http::HeaderValue::from_static("after"));
    logs.log(&LogContext::new(&info));
    sinks.flush_all();
    assert_eq!(std::fs::read_to_string(&old).unwrap(), "before\n");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "after\n");
    std::fs::remove_dir_all(dir.path()).unwrap();
    sinks.reopen();
    assert_eq!(store.value("filesystem.reopen_failed"), Some(1));
}

#[test]
fn refused_with_the_field_that_is_wrong() {
    let store = Store::new(1, &Default::default());
    let sinks = registry(&store);
    let error = |log| AccessLogs::compile(&[log], &sinks, &Runtime::none()).unwrap_err();
    let e = error(log(Path::new("/nonexistent/x"), "a", None));
    assert_eq!(e.field_path, "access_log[0].path");
    assert_eq!(e.reason, "unable to open file '/nonexistent/x': No such file or directory");
    let e = error(log(Path::new("/dev/null"), "%NOPE%", None));
    assert_eq!(e.to_string(), "access_log[0].log_format: Not supported field in StreamInfo: NOPE");
    let e = error(log(Path::new("/dev/null"), "", Some(F::ResponseFlag(vec!["XX".into()]))));
    assert_eq!(e.field_path, "access_log[0].filter.response_flag_filter.flags");
}

#[test]
fn what_needs_the_response() {
    let store = Store::new(1, &Default::default());
    let sinks = registry(&store);
    let needs = |text, filter| {
        let logs = [log(Path::new("/dev/null"), text, filter)];
        AccessLogs::compile(&logs, &sinks, &Runtime::none()).unwrap().needs_response_headers()
    };
    assert!(!needs("%REQ(A)% %RESPONSE_CODE%", None));
    assert!(needs("%RESP(A)%", None));
    let grpc = F::GrpcStatus { statuses: vec![0], exclude: true };
    assert!(needs("", Some(F::And(vec![F::Traceable, grpc]))));
    assert!(AccessLogs::default().is_empty());
}

fn admits(filter: F, ctx: &LogContext<'_>) -> bool {
    Filter::new(&filter, &Runtime::none()).unwrap().admits(ctx)
}

fn compare(op: ComparisonOp, value: u32) -> Comparison {
    Comparison { op, value, runtime_key: String::new() }
}

#[test]
fn filters_on_the_stream() {
    use ComparisonOp::{Eq, Ge, Le, Ne};
    let mut info = stream();
    let ctx = LogContext::new(&info);
    assert!(admits(F::StatusCode(compare(Eq, 200)), &ctx) && !admits(F::StatusCode(compare(Ne, 200)), &ctx));
    assert!(admits(F::StatusCode(compare(Ge, 200)), &ctx) && !admits(F::StatusCode(compare(Le, 199)), &ctx));
    assert!(admits(F::Duration(compare(Eq, 3)), &ctx) && !admits(F::Duration(compare(Ge, 4)), &ctx));
    assert!(admits(F::NotHealthCheck, &ctx) && !admits(F::Traceable, &ctx));
    assert!(!admits(F::ResponseFlag(vec![]), &ctx));
    assert!(admits(F::And(vec![]), &ctx) && !admits(F::Or(vec![]), &ctx));
    assert!(admits(F::Or(vec![F::Traceable, F::NotHealthCheck]), &ctx));
    assert!(!admits(F::And(vec![F::Traceable, F::NotHealthCheck]), &ctx));
    info.health_check = true;
    info.traced = true;
    info.flags.set(ResponseFlags::NO_ROUTE_FOUND);
    let ctx = LogContext { log_type: LogType::TcpConnectionEnd, ..LogContext::new(&info) };
    assert!(!admits(F::NotHealthCheck, &ctx) && admits(F::Traceable, &ctx));
    assert!(admits(F::ResponseFlag(vec![]), &ctx) && admits(F::ResponseFlag(vec!["UH".into(), "NR".into()]), &ctx));
    assert!(!admits(F::ResponseFlag(vec!["UH".into()]), &ctx));
    let types = |exclude| F::LogType { types: vec!["TcpConnectionEnd".into()], exclude };
    assert!(admits(types(false), &ctx) && !admits(types(true), &ctx));
}

#[test]
fn filters_on_messages() {
    let (info, request, response) = (stream(), request(), response());
    let ctx = LogContext { request: Some(&request), response: Some(&response), ..LogContext::new(&info) };
    let header = |name: &str, value: &str, invert| {
        F::Header(HeaderMatcher {
            name: name.into(),
            value: HeaderValueMatcher::String(StringMatcher::exact(value)),
            invert,
            treat_missing_as_empty: false,
        })
    };
    assert!(admits(header("user-agent", "ua", false), &ctx) && admits(header(":method", "GET", false), &ctx));
    assert!(!admits(header("user-agent", "ua", true), &ctx) && !admits(header("nope", "x", false), &ctx));
    assert!(!admits(header("user-agent", "ua", false), &LogContext::new(&info)));
    let grpc = |statuses: &[u32], exclude| F::GrpcStatus { statuses: statuses.to_vec(), exclude };
    assert!(admits(grpc(&[2], false), &ctx), "200 without a status is unknown");
    let trailers = headers(&[("grpc-status", b"0")]);
    let ctx = LogContext { trailers: Some(&trailers), ..ctx };
    assert!(admits(grpc(&[0, 5], false), &ctx) && !admits(grpc(&[0, 5], true), &ctx));
}

#[test]
fn filters_on_metadata() {
    let mut info = stream();
    info.metadata = Some(Box::new([("ns".to_owned(), json!({"a": {"b": "x"}, "n": 1}))].into()));
    let ctx = LogContext::new(&info);
    let metadata = |path: &[&str], value: Option<&str>, invert, match_if_key_not_found| F::Metadata {
        filter: "ns".into(),
        path: path.iter().map(|p| (*p).to_owned()).collect(),
        value: value.map(StringMatcher::exact),
        invert,
        match_if_key_not_found,
    };
    assert!(admits(metadata(&["a", "b"], Some("x"), false, false), &ctx));
    assert!(!admits(metadata(&["a", "b"], Some("x"), true, false), &ctx));
    assert!(!admits(metadata(&["a", "b"], Some("y"), false, true), &ctx));
    assert!(admits(metadata(&["a", "c"], Some("x"), false, true), &ctx));
    assert!(!admits(metadata(&["a", "c"], Some("x"), true, false), &ctx));
    assert!(admits(metadata(&["n"], None, false, false), &ctx));
}

#[test]
fn shares_follow_the_request_id_and_the_runtime() {
    let layer = RuntimeLayer { name: "a".into(), kind: RuntimeLayerKind::Admin };
    let store = Store::new(1, &Default::default());
    let runtime = Runtime::new(&[layer], "", &store.root());
    let fraction = RuntimeFraction { default: PerMillion(250_000), key: "k".into(), denominator: 10_000 };
    let share = F::Runtime { fraction, use_independent_randomness: false };
    let filter = Filter::new(&share, &runtime).unwrap();
    let mut info = stream();
    let mut with = |id: &str| {
        info.request_id = Some(http::HeaderValue::try_from(id.to_owned()).unwrap());
        filter.admits(&LogContext::new(&info))
    };
    assert!(with("000009c3-aaaa") && !with("000009c4-aaaa"), "2500 of 10,000");
    runtime.modify(&[("k".into(), "9999".into())]).unwrap();
    assert!(with("0000270e-aaaa") && !with("0000270f-aaaa"));
    runtime.modify(&[("k".into(), "0".into())]).unwrap();
    assert!(!with("00000000-aaaa") && !with("not an id"));
}
