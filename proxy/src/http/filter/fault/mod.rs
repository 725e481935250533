//! `envoy.filters.http.fault`: delays requests, answers them with errors, slows their answers down.
//!
//! [`plan`] says what is to happen to a request, this module makes it happen and counts it. A fault counts as active until the
//! stream ends. Runs on: workers, in the task of the stream.

mod plan;
mod rate;

pub(super) use self::plan::Settings;
pub use self::rate::LimitedBody;

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use http::HeaderValue;
use parking_lot::Mutex;

use self::plan::{Abort, DOWNSTREAM_CLUSTER, Plan};
use super::{Flow, HeldBody};
use crate::config;
use crate::http::body::Body;
use crate::http::local_reply::{self, is_grpc};
use crate::http::stream::StreamCtx;
use crate::runtime::Runtime;
use crate::stats::{Counter, Gauge, Scope};
use crate::stream_info::ResponseFlags;

/// Downstream clusters that are counted by name. Clients choose the names, so there must be an end to them: what comes beyond
/// counts in the filter's own stats alone.
const MAX_CLUSTERS: usize = 1_000;

/// The filter.
pub(super) struct Fault {
    /// Where routes have none of their own.
    settings: Settings,
    /// Namespace of the dynamic metadata: the filter's name.
    name: String,
    runtime: Arc<Runtime>,
    stats: Stats,
    clusters: Mutex<HashMap<Box<str>, ClusterStats>>,
}

/// `http.<stat_prefix>.fault.*`.
struct Stats {
    aborts_injected: Counter,
    delays_injected: Counter,
    faults_overflow: Counter,
    response_rl_injected: Counter,
    active_faults: Gauge,
    scope: Scope,
}

/// `http.<stat_prefix>.fault.<downstream cluster>.*`; a stat is there once it counts something, as in Envoy.
#[derive(Default)]
struct ClusterStats {
    aborts_injected: Option<Counter>,
    delays_injected: Option<Counter>,
}

/// The faults of one stream, filter by filter. Dropped with the stream, they are active no more.
pub struct Active {
    filter: usize,
    gauge: Gauge,
    rate: Option<NonZeroU64>,
    /// Those of the filters before it.
    more: Option<Box<Active>>,
}

impl Drop for Active {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

impl Active {
    fn chain(&self) -> impl Iterator<Item = &Active> {
        std::iter::successors(Some(self), |a| a.more.as_deref())
    }
}

/// Slows a body down as the faults of filter `only`, or of all filters, ask for.
pub(in crate::http) fn limit(ctx: &StreamCtx, body: Body, only: Option<usize>) -> Body {
    let Some(active) = &ctx.faults else { return body };
    let of = |a: &&Active| only.is_none_or(|filter| a.filter == filter);
    active.chain().filter(of).filter_map(|a| a.rate).fold(body, LimitedBody::wrap)
}

impl Fault {
    pub(super) fn new(name: &str, config: &config::Fault, scope: &Scope, runtime: &Arc<Runtime>) -> Self {
        let scope = scope.scope("fault");
        Fault {
            settings: Settings::new(config, runtime),
            name: name.to_owned(),
            runtime: runtime.clone(),
            stats: Stats {
                aborts_injected: scope.counter("aborts_injected"),
                delays_injected: scope.counter("delays_injected"),
                faults_overflow: scope.counter("faults_overflow"),
                response_rl_injected: scope.counter("response_rl_injected"),
                active_faults: scope.gauge("active_faults"),
                scope,
            },
            clusters: Mutex::default(),
        }
    }

    /// What is to happen to a request, and what belongs to it of the settings in force: those of its route, or the filter's.
    pub(super) fn plan(&self, ctx: &StreamCtx, of_route: Option<&Settings>) -> Option<Faults> {
        let settings = of_route.unwrap_or(&self.settings);
        let plan = settings.plan(&ctx.request, || upstream(ctx), &self.runtime, ctx.random)?;
        let config = settings.config();
        Some(Faults { plan, metadata: config.metadata.clone(), by_cluster: !config.disable_downstream_cluster_stats })
    }

    /// Makes the faults happen; `i`: the filter's place.
    pub(super) async fn inject(&self, mut ctx: Box<StreamCtx>, mut body: Body, i: usize, faults: Faults) -> Flow {
        let Faults { plan, metadata, by_cluster } = faults;
        let Plan { rate, delay, abort, max_active } = plan;
        if rate.is_some() && self.activate(&mut ctx, i, max_active) {
            self.stats.response_rl_injected.inc();
            if let Some(active) = ctx.faults.as_mut().filter(|a| a.filter == i) {
                active.rate = rate;
            }
        }
        let cluster = by_cluster.then(|| ctx.request.headers.get(DOWNSTREAM_CLUSTER).cloned()).flatten();
        if let Some(delay) = delay
            && self.activate(&mut ctx, i, max_active)
        {
            self.stats.delays_injected.inc();
            self.count(cluster.as_ref(), "delays_injected", |c| &mut c.delays_injected);
            ctx.info.flags.set(ResponseFlags::DELAY_INJECTED);
            self.describe(&mut ctx, &metadata);
            let limits = ctx.limits.clone();
            let mut held = HeldBody::new(&ctx, body);
            let wait = async {
                tokio::select! {
                    biased;
                    limit = limits.expired() => Some(limit),
                    () = tokio::time::sleep(delay) => None,
                }
            };
            if let Some(limit) = held.during(wait).await {
                return Flow::Answer(limit.reply(ctx, held.is_complete()));
            }
            body = held.into_body();
        }
        match abort {
            Some(abort) if self.activate(&mut ctx, i, max_active) => {
                self.stats.aborts_injected.inc();
                self.count(cluster.as_ref(), "aborts_injected", |c| &mut c.aborts_injected);
                ctx.info.flags.set(ResponseFlags::FAULT_INJECTED);
                self.describe(&mut ctx, &metadata);
                Flow::Answer(answer(ctx, abort))
            }
            _ => Flow::Continue(ctx, body),
        }
    }

    /// Counts a stream among those with faults, once; whether there was room.
    fn activate(&self, ctx: &mut StreamCtx, i: usize, max: Option<u64>) -> bool {
        // Filters run in order: only the last one can have been here before.
        if ctx.faults.as_ref().is_some_and(|a| a.filter == i) {
            return true;
        }
        let gauge = &self.stats.active_faults;
        // As with other limits of this kind, those who ask at the same moment may all be let in.
        if max.is_some_and(|max| gauge.value() >= max) {
            self.stats.faults_overflow.inc();
            return false;
        }
        gauge.inc();
        let more = ctx.faults.take();
        ctx.faults = Some(Box::new(Active { filter: i, gauge: gauge.clone(), rate: None, more }));
        true
    }

    fn count(
        &self,
        cluster: Option<&HeaderValue>,
        stat: &str,
        of: impl FnOnce(&mut ClusterStats) -> &mut Option<Counter>,
    ) {
        let Some(name) = cluster.and_then(|v| v.to_str().ok()).filter(|name| !name.is_empty()) else { return };
        let mut clusters = self.clusters.lock();
        if clusters.len() >= MAX_CLUSTERS && !clusters.contains_key(name) {
            return;
        }
        let stats = clusters.entry(name.into()).or_default();
        let scope = || self.stats.scope.tagged("", "envoy.fault_downstream_cluster", name);
        of(stats).get_or_insert_with(|| scope().counter(stat)).inc();
    }

    /// Leaves word of a fault in the dynamic metadata, for logs.
    fn describe(&self, ctx: &mut StreamCtx, metadata: &serde_json::Value) {
        ctx.info.metadata.get_or_insert_default().insert(self.name.clone(), metadata.clone());
    }
}

/// A plan with what carrying it out needs of the settings, so that these need not be held meanwhile.
pub(super) struct Faults {
    plan: Plan,
    metadata: serde_json::Value,
    by_cluster: bool,
}

/// The name of the cluster that the request's route leads to, whether there is such a cluster or not.
fn upstream(ctx: &StreamCtx) -> Option<&str> {
    let route = ctx.route.as_ref()?;
    let crate::http::route::Kind::Forward(forward) = &route.entry.kind else { return None };
    forward.target(route.choice)?.name(ctx)
}

fn answer(ctx: Box<StreamCtx>, abort: Abort) -> crate::http::connection::Reply {
    let status = abort.grpc_status.filter(|_| is_grpc(&ctx));
    local_reply::with_headers(ctx, abort.status, abort.body, "fault_filter_abort", |h| {
        if let Some(status) = status {
            h.insert(crate::http::names::GRPC_STATUS, HeaderValue::from(status));
        }
    })
}

#[cfg(test)]
mod tests;
