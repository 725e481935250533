//! Endpoints that do something, and the short answers of those that do nothing here.

use http::StatusCode;

use super::body::{Params, Reply};
use super::sources::{Command, Sources};

fn send(sources: &Sources, command: Command) -> Reply {
    match sources.commands.send(command) {
        Ok(()) => Reply::ok(),
        // The control loop is gone: the process is ending.
        Err(_) => Reply::error(StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down\n"),
    }
}

pub(super) fn fail_health_checks(sources: &Sources, _: &Params) -> Reply {
    send(sources, Command::FailHealthChecks)
}

pub(super) fn pass_health_checks(sources: &Sources, _: &Params) -> Reply {
    send(sources, Command::PassHealthChecks)
}

pub(super) fn drain_listeners(sources: &Sources, params: &Params) -> Reply {
    let (graceful, skip_exit, inbound_only) =
        (params.has("graceful"), params.has("skip_exit"), params.has("inboundonly"));
    send(sources, Command::DrainListeners { graceful, skip_exit, inbound_only })
}

pub(super) fn quit(sources: &Sources, _: &Params) -> Reply {
    send(sources, Command::Quit)
}

pub(super) fn reset_counters(sources: &Sources, _: &Params) -> Reply {
    sources.stats.reset_counters();
    Reply::ok()
}

pub(super) fn reopen_logs(sources: &Sources, _: &Params) -> Reply {
    sources.sinks.reopen();
    Reply::ok()
}

pub(super) fn contention(_: &Sources, _: &Params) -> Reply {
    Reply::text("Mutex contention tracing is not enabled. To enable, run Envoy with flag --enable-mutex-tracing.\n")
}

pub(super) fn hot_restart_version(_: &Sources, _: &Params) -> Reply {
    Reply::text("disabled\n")
}

/// As an Envoy built without a profiler.
pub(super) fn cpu_profiler(_: &Sources, params: &Params) -> Reply {
    match params.get("enable") {
        Some("y") => Reply::error(StatusCode::INTERNAL_SERVER_ERROR, "failure to start the profiler\n"),
        Some("n") => Reply::ok(),
        _ => Reply::error(StatusCode::BAD_REQUEST, "?enable=<y|n>\n"),
    }
}

pub(super) fn heap_profiler(_: &Sources, params: &Params) -> Reply {
    match params.get("enable") {
        Some("y" | "n") => {
            Reply::error(StatusCode::NOT_IMPLEMENTED, "The current build does not support heap profiler\n")
        }
        _ => Reply::error(StatusCode::BAD_REQUEST, "?enable=<y|n>\n"),
    }
}

pub(super) fn heap_dump(_: &Sources, _: &Params) -> Reply {
    Reply::error(StatusCode::NOT_IMPLEMENTED, "The current build does not support heap profiler\n")
}
