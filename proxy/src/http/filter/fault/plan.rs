//! Which faults a request gets: settings and a request in, a plan out. No input, output or clock.

use std::num::NonZeroU64;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use crate::cluster::lb::mix;
use crate::config::{self, AbortStatus, HeaderMatcher, RuntimeFraction};
use crate::http::head::RequestHead;
use crate::http::route;
use crate::runtime::{Fraction, Integer, Runtime};

/// What a key that is not set reads as.
const UNSET: u64 = u64::MAX;
/// Who sends a request, as a mesh's proxies tell each other: names runtime keys and stats of its own.
pub(super) const DOWNSTREAM_CLUSTER: &str = "x-envoy-downstream-service-cluster";
const KIB: NonZeroU64 = match NonZeroU64::new(1024) {
    Some(kib) => kib,
    None => NonZeroU64::MIN,
};
const DOWNSTREAM_NODE: &str = "x-envoy-downstream-service-node";

/// Settings of a filter or of some routes, compiled.
pub(in crate::http::filter) struct Settings {
    config: config::Fault,
    delay: Option<(Share, Integer)>,
    abort: Option<(Share, Integer, Integer)>,
    rate: Option<Share>,
    max_active: Integer,
}

/// What is to happen to a request.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Bytes of the answer per second.
    pub(super) rate: Option<NonZeroU64>,
    pub(super) delay: Option<Duration>,
    pub(super) abort: Option<Abort>,
    /// Requests that may have a fault at a time.
    pub(super) max_active: Option<u64>,
}

/// An answer in place of the upstream's.
#[derive(Debug, PartialEq)]
pub(super) struct Abort {
    pub(super) status: StatusCode,
    /// For gRPC requests.
    pub(super) grpc_status: Option<u32>,
    pub(super) body: Bytes,
}

/// A share of requests, and what may change it: runtime keys, and headers of the request.
struct Share {
    configured: RuntimeFraction,
    fraction: Fraction,
    /// Of `fault.http.<downstream cluster>.<...>`; empty: there is no such key.
    of_cluster: &'static str,
    /// Header that names a smaller share.
    header: Option<&'static str>,
    /// Tells the roll of this fault from those of the others.
    salt: u64,
}

impl Share {
    fn admits(&self, asked: &Asked<'_>) -> bool {
        let roll = mix(asked.random ^ self.salt);
        let of_cluster = asked.cluster.filter(|_| !self.of_cluster.is_empty());
        let given = self.header.and_then(|name| number(asked.request, name));
        if of_cluster.is_none() && given.is_none() {
            return self.fraction.admits(roll);
        }
        let default = given.map_or(self.configured.default, |n| self.configured.at_most(n));
        let snapshot = asked.runtime.snapshot();
        let of_runtime = match of_cluster {
            Some(cluster) => snapshot.share(&cluster_key(cluster, self.of_cluster)),
            None => snapshot.share(&self.configured.key),
        };
        of_runtime.unwrap_or(default).admits(roll)
    }
}

fn cluster_key(cluster: &str, key: &str) -> String {
    format!("fault.http.{cluster}.{key}")
}

/// A request, and what is known beside it.
struct Asked<'a> {
    request: &'a RequestHead,
    /// `x-envoy-downstream-service-cluster`, also if it is empty.
    cluster: Option<&'a str>,
    runtime: &'a Runtime,
    random: u64,
}

impl Asked<'_> {
    /// A number that the downstream cluster has of its own.
    fn of_cluster(&self, key: &str) -> Option<u64> {
        self.runtime.snapshot().integer(&cluster_key(self.cluster?, key))
    }
}

/// The number a header holds. Clients write it: what is no number is not there.
fn number(request: &RequestHead, name: &str) -> Option<u64> {
    request.headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// The number of a key, where that is set.
fn known(n: &Integer) -> Option<u64> {
    Some(n.get()).filter(|n| *n != UNSET)
}

impl Settings {
    /// Compiles.
    pub(in crate::http::filter) fn new(c: &config::Fault, runtime: &Runtime) -> Self {
        let share = |configured: &RuntimeFraction, of_cluster, header, salt| Share {
            configured: configured.clone(),
            fraction: runtime.fraction(configured),
            of_cluster,
            header,
            salt,
        };
        let integer = |key: &str| runtime.integer(key, UNSET);
        let delay = c.delay.as_ref().map(|d| {
            let header = d.fixed.is_none().then_some("x-envoy-fault-delay-request-percentage");
            (share(&d.share, "delay.fixed_delay_percent", header, 0xde), integer(&d.duration_key))
        });
        let abort = c.abort.as_ref().map(|a| {
            let header = (a.status == AbortStatus::Header).then_some("x-envoy-fault-abort-request-percentage");
            let share = share(&a.share, "abort.abort_percent", header, 0xab);
            (share, integer(&a.http_status_key), integer(&a.grpc_status_key))
        });
        let rate = c.rate_limit.as_ref().map(|r| {
            let header = r.fixed.is_none().then_some("x-envoy-fault-throughput-response-percentage");
            share(&r.share, "", header, 0x4a)
        });
        Settings {
            delay,
            abort,
            rate,
            max_active: runtime.integer(&c.max_active_key, c.max_active.map_or(UNSET, u64::from)),
            config: c.clone(),
        }
    }

    pub(super) fn config(&self) -> &config::Fault {
        &self.config
    }

    /// The faults of a request; `None`: none. `upstream` is asked for the name of the cluster the request goes to.
    pub(super) fn plan<'u>(
        &self,
        request: &RequestHead,
        upstream: impl FnOnce() -> Option<&'u str>,
        runtime: &Runtime,
        random: u64,
    ) -> Option<Plan> {
        let c = &self.config;
        let cluster_matches = c.upstream_cluster.is_empty() || upstream() == Some(&c.upstream_cluster);
        if !cluster_matches || !self.node_matches(request) || !headers_match(&c.headers, request) {
            return None;
        }
        let cluster = request.headers.get(DOWNSTREAM_CLUSTER).and_then(|v| v.to_str().ok());
        let asked = Asked { request, cluster, runtime, random };
        let plan = Plan {
            rate: self.rate(&asked),
            delay: self.delay(&asked),
            abort: self.abort(&asked),
            max_active: known(&self.max_active),
        };
        (plan.rate.is_some() || plan.delay.is_some() || plan.abort.is_some()).then_some(plan)
    }

    fn node_matches(&self, request: &RequestHead) -> bool {
        let nodes = &self.config.downstream_nodes;
        nodes.is_empty()
            || request.headers.get(DOWNSTREAM_NODE).is_some_and(|v| nodes.iter().any(|n| n.as_bytes() == v.as_bytes()))
    }

    fn rate(&self, asked: &Asked<'_>) -> Option<NonZeroU64> {
        self.rate.as_ref().filter(|s| s.admits(asked))?;
        let fixed = self.config.rate_limit.as_ref()?.fixed;
        let kib =
            fixed.or_else(|| number(asked.request, "x-envoy-fault-throughput-response").and_then(NonZeroU64::new));
        kib.map(|kib| kib.saturating_mul(KIB))
    }

    fn delay(&self, asked: &Asked<'_>) -> Option<Duration> {
        let (share, duration) = self.delay.as_ref()?;
        if !share.admits(asked) {
            return None;
        }
        let millis = match self.config.delay.as_ref()?.fixed {
            Some(fixed) => u64::try_from(fixed.as_millis()).unwrap_or(u64::MAX),
            None => number(asked.request, "x-envoy-fault-delay-request")?,
        };
        let millis = asked.of_cluster("delay.fixed_duration_ms").or_else(|| known(duration)).unwrap_or(millis);
        (millis > 0).then(|| Duration::from_millis(millis))
    }

    fn abort(&self, asked: &Asked<'_>) -> Option<Abort> {
        let (share, http, grpc) = self.abort.as_ref()?;
        if !share.admits(asked) {
            return None;
        }
        let config = self.config.abort.as_ref()?;
        let header = |name| number(asked.request, name);
        let status = match config.status {
            AbortStatus::Http(status) => Some(u64::from(status)),
            AbortStatus::Grpc(_) => None,
            AbortStatus::Header => header("x-envoy-fault-abort-request").filter(|n| (200..600).contains(n)),
        };
        let answer = |status, grpc_status| Abort { status, grpc_status, body: config.body.clone() };
        if let Some(status) = status {
            // A client has its own key in place of everybody's.
            let of_runtime = if asked.cluster.is_some() { asked.of_cluster("abort.http_status") } else { known(http) };
            return Some(answer(final_status(of_runtime).or_else(|| final_status(Some(status)))?, None));
        }
        let code = match config.status {
            AbortStatus::Grpc(code) => u64::from(code),
            _ => header("x-envoy-fault-abort-grpc-request")?,
        };
        let of_runtime = if asked.cluster.is_some() { asked.of_cluster("abort.grpc_status") } else { known(grpc) };
        let code = u32::try_from(of_runtime.unwrap_or(code)).ok()?;
        Some(answer(StatusCode::OK, Some(code)))
    }
}

/// A status that can end an exchange. Runtime values are not checked when they are set.
fn final_status(status: Option<u64>) -> Option<StatusCode> {
    let status = u16::try_from(status?).ok().filter(|s| (200..600).contains(s))?;
    StatusCode::from_u16(status).ok()
}

fn headers_match(matchers: &[HeaderMatcher], request: &RequestHead) -> bool {
    matchers.iter().all(|m| route::values_match(m, request.values(&m.name)))
}
