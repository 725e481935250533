//! Which endpoint a path is, and the help.

use std::fmt::Write;

use http::{Method, StatusCode};

use super::body::{Params, Reply};
use super::sources::Sources;
use super::{certs, clusters, config_dump, control, html, listeners, logging, runtime, server_info, stats};

/// An endpoint.
pub(super) struct Endpoint {
    pub(super) path: &'static str,
    /// It changes something, and so wants POST.
    pub(super) post: bool,
    pub(super) help: &'static str,
    pub(super) parameters: &'static [Parameter],
    handler: fn(&Sources, &Params) -> Reply,
}

/// A parameter of an endpoint.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) input: Input,
}

/// What a parameter is.
pub(super) enum Input {
    /// There or not.
    Flag,
    Text,
    Choice(&'static [&'static str]),
}

const fn get(path: &'static str, help: &'static str, handler: fn(&Sources, &Params) -> Reply) -> Endpoint {
    Endpoint { path, post: false, help, parameters: &[], handler }
}

const fn post(path: &'static str, help: &'static str, handler: fn(&Sources, &Params) -> Reply) -> Endpoint {
    Endpoint { path, post: true, help, parameters: &[], handler }
}

impl Endpoint {
    const fn with(mut self, parameters: &'static [Parameter]) -> Self {
        self.parameters = parameters;
        self
    }
}

const fn flag(name: &'static str, help: &'static str) -> Parameter {
    Parameter { name, help, input: Input::Flag }
}

const fn text(name: &'static str, help: &'static str) -> Parameter {
    Parameter { name, help, input: Input::Text }
}

const fn choice(name: &'static str, help: &'static str, choices: &'static [&'static str]) -> Parameter {
    Parameter { name, help, input: Input::Choice(choices) }
}

const YES_NO: &[&str] = &["y", "n"];
const USED_ONLY: Parameter = flag("usedonly", "Only include stats that have been written by system since restart");
const FILTER: Parameter = text("filter", "Regular expression for filtering stats");
const INVERT: Parameter = flag("invert_filter", "Invert the filter regex");

/// Every endpoint, sorted.
pub(super) const ENDPOINTS: &[Endpoint] = &[
    get("/", "Admin home page", |_, _| html::home()),
    get("/certs", "print certs on machine", certs::certs),
    get("/clusters", "upstream cluster status", clusters::clusters).with(&[
        text("filter", "Regular expression for filtering clusters by name"),
        choice("format", "File format to use", &["text", "json"]),
    ]),
    get("/config_dump", "dump current configs, secrets redacted", config_dump::config_dump).with(&[
        text("resource", "The resource to dump"),
        text(
            "mask",
            "The mask to apply. When both resource and mask are specified, the mask is applied to every element in the \
             desired repeated field so that only a subset of fields are returned. The mask is parsed as a FieldMask",
        ),
        text(
            "name_regex",
            "Dump only the currently loaded configurations whose names match the specified regex. Can be used with both \
             resource and mask query parameters.",
        ),
        flag("include_eds", "Dump currently loaded configuration including EDS"),
    ]),
    get("/contention", "dump current mutex contention stats (if enabled)", control::contention),
    post("/cpuprofiler", "enable/disable the CPU profiler", control::cpu_profiler)
        .with(&[choice("enable", "enables the CPU profiler", YES_NO)]),
    post("/drain_listeners", "drain listeners", control::drain_listeners).with(&[
        flag(
            "graceful",
            "When draining listeners, enter a graceful drain period prior to closing listeners. This behaviour and \
             duration is configurable via server options or CLI",
        ),
        flag(
            "skip_exit",
            "When draining listeners, drain the connections but never stop the listeners. The graceful parameter has no \
             effect when this is set, since the drain period only delays stopping the listeners",
        ),
        flag("inboundonly", "Drains all listeners whose traffic_direction is INBOUND"),
    ]),
    post("/healthcheck/fail", "cause the server to fail health checks", control::fail_health_checks),
    post("/healthcheck/ok", "cause the server to pass health checks", control::pass_health_checks),
    get("/heap_dump", "dump current heap (if supported)", control::heap_dump),
    post("/heapprofiler", "enable/disable the heap profiler", control::heap_profiler)
        .with(&[choice("enable", "enable/disable the heap profiler", YES_NO)]),
    get("/help", "print out list of admin commands", |_, _| Reply::text(help("admin commands are:\n"))),
    get("/hot_restart_version", "print the hot restart compatibility version", control::hot_restart_version),
    get("/init_dump", "dump what start-up and configuration changes wait for", server_info::init_dump),
    get("/listeners", "print listener info", listeners::listeners)
        .with(&[choice("format", "File format to use", &["text", "json"])]),
    post("/logging", "query/change logging levels", logging::logging).with(&[
        text(
            "paths",
            "Change multiple logging levels by setting to <logger_name1>:<desired_level1>,<logger_name2>:<desired_level2>",
        ),
        choice(
            "level",
            "desired logging level, this will change all loggers's level",
            &["", "trace", "debug", "info", "warning", "error", "critical", "off"],
        ),
    ]),
    get("/memory", "print current allocation/heap usage", server_info::memory),
    post("/quitquitquit", "exit the server", control::quit),
    get("/ready", "print server state, return 200 if LIVE, otherwise return 503", server_info::ready),
    post("/reopen_logs", "reopen access logs", control::reopen_logs),
    post("/reset_counters", "reset all counters to zero", control::reset_counters),
    get("/runtime", "print runtime values", runtime::runtime),
    post(
        "/runtime_modify",
        "Adds or modifies runtime values as passed in query parameters. To delete a previously added key, use an empty \
         string as the value. Note that deletion only applies to overrides added via this endpoint; values loaded from \
         disk can be modified via override but not deleted. E.g. ?key1=value1&key2=value2...",
        runtime::runtime_modify,
    ),
    get("/server_info", "print server version/status information", server_info::server_info),
    get("/stats", "print server stats", stats::stats).with(&[
        USED_ONLY,
        FILTER,
        INVERT,
        choice("format", "Format to use", &["html", "active-html", "text", "json"]),
        choice("type", "Stat types to include.", &["All", "Counters", "Histograms", "Gauges", "TextReadouts"]),
        choice(
            "histogram_buckets",
            "Histogram bucket display mode",
            &["", "cumulative", "disjoint", "detailed", "summary"],
        ),
    ]),
    get("/stats/prometheus", "print server stats in prometheus format", stats::stats_prometheus).with(&[
        USED_ONLY,
        flag("text_readouts", "Render text_readouts as new gaugues with value 0 (increases Prometheus data size)"),
        FILTER,
        INVERT,
        choice("histogram_buckets", "Histogram bucket display mode", &["", "cumulative", "summary"]),
    ]),
    get("/stats/recentlookups", "Show recent stat-name lookups", stats::recent_lookups),
    post("/stats/recentlookups/clear", "clear list of stat-name lookups and counter", stats::lookup_tracking),
    post("/stats/recentlookups/disable", "disable recording of stat-name lookup names", stats::lookup_tracking),
    post("/stats/recentlookups/enable", "enable recording of stat-name lookup names", stats::lookup_tracking),
];

/// Answers a request.
pub(super) fn route(sources: &Sources, method: &Method, path: &str, params: &Params) -> Reply {
    // Envoy takes a trailing slash for none.
    let path = if path.len() > 1 { path.trim_end_matches('/') } else { path };
    match ENDPOINTS.iter().find(|endpoint| endpoint.path == path) {
        None => Reply::error(StatusCode::NOT_FOUND, help("invalid path. admin commands are:\n")),
        Some(endpoint) if endpoint.post && method != Method::POST => {
            let text = format!("Method {method} not allowed, POST required.");
            Reply::error(StatusCode::METHOD_NOT_ALLOWED, text)
        }
        Some(endpoint) => (endpoint.handler)(sources, params),
    }
}

/// The endpoints with what they take.
fn help(heading: &str) -> String {
    let mut out = heading.to_owned();
    for endpoint in ENDPOINTS {
        let post = if endpoint.post { " (POST)" } else { "" };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "  {}{post}: {}", endpoint.path, endpoint.help);
        for parameter in endpoint.parameters {
            let _ = write!(out, "      {}: {}", parameter.name, parameter.help);
            if let Input::Choice(choices) = parameter.input {
                let _ = write!(out, "; One of ({})", choices.join(", "));
            }
            out.push('\n');
        }
    }
    out
}
