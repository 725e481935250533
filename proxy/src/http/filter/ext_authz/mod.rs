//! `envoy.filters.http.ext_authz`: a service says which requests may go on.
//!
//! The request is held while the service is asked, its body read ahead as far as the buffer limit allows. [`check`] makes the
//! question, [`service`] asks it, [`apply`] does what the answer says. Runs on: workers, in the task of the stream.

mod apply;
mod check;
mod service;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use self::service::Service;
use super::held::until;
use super::{Flow, HeldBody, Override, buffer, slots_of};
use crate::cluster::{Cluster, Clusters, lb};
use crate::config::{self, AuthzBody, ConfigError};
use crate::ext_authz::{Answer, Count, Verdict};
use crate::http::body::Body;
use crate::http::connection::Reply;
use crate::http::local_reply;
use crate::http::route::{Matched, metadata_matches};
use crate::http::stream::StreamCtx;
use crate::runtime::{Flag, Fraction, Runtime};
use crate::stats::{Counter, Scope};
use crate::stream_info::ResponseFlags;

/// Tells the upstream that nobody could be asked.
const FAILURE_MODE_ALLOWED: &str = "x-envoy-auth-failure-mode-allowed";

/// The filter.
pub(super) struct ExtAuthz {
    config: config::ExtAuthz,
    service: Service,
    enabled: Option<Fraction>,
    deny_at_disable: Option<Flag>,
    stats: Stats,
}

/// The filter for some routes, compiled.
pub(super) struct Settings {
    disabled: bool,
    context: BTreeMap<String, String>,
    no_body: bool,
    body: Option<AuthzBody>,
    service: Option<Service>,
}

/// `http.<stat_prefix>.ext_authz.<stat_prefix>.*`.
struct Stats {
    ok: Counter,
    denied: Counter,
    error: Counter,
    disabled: Counter,
    failure_mode_allowed: Counter,
    invalid: Counter,
    ignored_dynamic_metadata: Counter,
    omitted_response_headers: Counter,
    /// Of what there is not here; 0.
    _filter_state_name_collision: Counter,
}

/// Whether a request is asked about.
pub(super) enum Asks {
    /// It goes on.
    No,
    /// It is refused.
    Refused,
    /// It is.
    Yes,
}

impl Settings {
    /// # Errors
    /// A service that cannot be compiled.
    pub(super) fn new(config: &config::AuthzPerRoute, clusters: &Clusters) -> Result<Self, ConfigError> {
        let service = config.service.as_ref().map(|s| Service::new(s, clusters)).transpose();
        Ok(Settings {
            disabled: config.disabled,
            context: config.context.clone(),
            no_body: config.no_body,
            body: config.body,
            service: service
                .map_err(|e| ConfigError { field_path: format!("check_settings.{}", e.field_path), ..e })?,
        })
    }
}

/// What the levels of a route say of the filter `i`, least specific first.
fn settings(route: Option<&Matched>, i: usize) -> impl DoubleEndedIterator<Item = &Settings> {
    slots_of(route, i).flat_map(|slot| &slot.configs).filter_map(|o| match o {
        Override::ExtAuthz(s) => Some(&**s),
        _ => None,
    })
}

impl ExtAuthz {
    /// `scope`: the connection manager's.
    ///
    /// # Errors
    /// A service that cannot be compiled.
    pub(super) fn new(
        config: &config::ExtAuthz,
        scope: &Scope,
        runtime: &Arc<Runtime>,
        clusters: &Clusters,
    ) -> Result<Self, ConfigError> {
        let scope = scope.scope("ext_authz").scope(&config.stat_prefix);
        Ok(ExtAuthz {
            service: Service::new(&config.service, clusters)?,
            enabled: config.enabled.as_ref().map(|f| runtime.fraction(f)),
            deny_at_disable: config.deny_at_disable.as_ref().map(|f| runtime.flag(f)),
            stats: Stats {
                ok: scope.counter("ok"),
                denied: scope.counter("denied"),
                error: scope.counter("error"),
                disabled: scope.counter("disabled"),
                failure_mode_allowed: scope.counter("failure_mode_allowed"),
                invalid: scope.counter("invalid"),
                ignored_dynamic_metadata: scope.counter("ignored_dynamic_metadata"),
                omitted_response_headers: scope.counter("omitted_response_headers"),
                _filter_state_name_collision: scope.counter("filter_state_name_collision"),
            },
            config: config.clone(),
        })
    }

    /// Whether a request is asked about; `i`: the filter's place in the chain.
    pub(super) fn asks(&self, ctx: &StreamCtx, i: usize) -> Asks {
        let Some(route) = &ctx.route else { return Asks::No };
        if settings(Some(route), i).next_back().is_some_and(|s| s.disabled) {
            return Asks::No;
        }
        let enabled = self.enabled.as_ref().is_none_or(|f| f.admits(lb::mix(ctx.random ^ i as u64)));
        let wanted = self.config.enabled_metadata.as_ref();
        if enabled && wanted.is_none_or(|m| metadata_matches(m, ctx.info.dynamic_metadata(&m.filter))) {
            return Asks::Yes;
        }
        self.stats.disabled.inc();
        if self.deny_at_disable.as_ref().is_some_and(Flag::enabled) { Asks::Refused } else { Asks::No }
    }

    /// The answer to a request that nobody is asked about.
    pub(super) fn refused(&self, ctx: Box<StreamCtx>) -> Reply {
        failed(ctx, self.config.status_on_error)
    }

    /// Asks about a request.
    pub(super) async fn request(&self, ctx: Box<StreamCtx>, body: Body, i: usize) -> Flow {
        let mut held = HeldBody::new(&ctx, body);
        match self.judge(ctx, &mut held, i).await {
            Ok(ctx) => Flow::Continue(ctx, held.into_body()),
            Err(reply) => Flow::Answer(reply),
        }
    }

    async fn judge(&self, ctx: Box<StreamCtx>, held: &mut HeldBody, i: usize) -> Result<Box<StreamCtx>, Reply> {
        let route = ctx.route.clone();
        let of_route = || settings(route.as_ref(), i);
        let wanted = self.body(of_route().next_back(), &ctx, held);
        let ctx = match wanted {
            Some(wanted) => read(ctx, held, wanted).await?,
            None => ctx,
        };
        // What a refusal counts for is the cluster as it is when the question is asked.
        let cluster = ctx.routed_cluster();
        let request = check::request(&self.config, &ctx, of_route(), wanted.map(|w| (w, &*held)));
        let service = of_route().next_back().and_then(|s| s.service.as_ref()).unwrap_or(&self.service);
        let began = crate::clock::now();
        let question = service.question(&ctx, request);
        let conn = ctx.conn.info.clone();
        let (ctx, answer) = until(ctx, held, service.ask(question, &conn)).await?;
        self.decide(ctx, answer, cluster.as_ref(), i, began)
    }

    /// What of the body is told.
    fn body(&self, of_route: Option<&Settings>, ctx: &StreamCtx, held: &HeldBody) -> Option<AuthzBody> {
        let wanted = of_route.and_then(|s| s.body).or(self.config.body)?;
        let none = of_route.is_some_and(|s| s.no_body) || held.is_end() || ctx.request.upgrade.is_some();
        (!none).then_some(wanted)
    }

    #[allow(clippy::result_large_err, reason = "the answer is what the caller returns as it is")]
    fn decide(
        &self,
        mut ctx: Box<StreamCtx>,
        mut answer: Answer,
        cluster: Option<&Arc<Cluster>>,
        i: usize,
        began: tokio::time::Instant,
    ) -> Result<Box<StreamCtx>, Reply> {
        if answer.bad_action && self.config.validate_mutations {
            return Err(self.invalid(ctx, cluster));
        }
        apply::metadata(self, &mut ctx, &mut answer, began);
        match answer.verdict {
            Verdict::Ok => {
                if apply::request(&self.config, &mut ctx, &answer).is_err() {
                    return Err(self.invalid(ctx, cluster));
                }
                apply::remember(&self.config, &mut ctx, &mut answer, &self.stats.omitted_response_headers, i);
                self.count(cluster, &self.stats.ok, Count::Ok);
                if self.config.clear_route_cache && apply::may_reroute(&answer) {
                    return apply::reroute(ctx);
                }
                Ok(ctx)
            }
            Verdict::Denied => Err(self.denied(ctx, answer, cluster)),
            Verdict::Error => {
                self.count(cluster, &self.stats.error, Count::Error);
                self.failed(ctx, answer, cluster)
            }
        }
    }

    fn denied(&self, mut ctx: Box<StreamCtx>, mut answer: Answer, cluster: Option<&Arc<Cluster>>) -> Reply {
        self.count(cluster, &self.stats.denied, Count::Denied);
        if let Some(cluster) = cluster.filter(|_| self.config.charge_cluster) {
            cluster.stats.answered(answer.status, true);
        }
        if self.config.validate_mutations && !answer.local.iter().all(apply::is_field) {
            return self.invalid(ctx, cluster);
        }
        tracing::debug!(
            status = answer.status,
            peer = %ctx.conn.info.direct_remote,
            client = %ctx.info.remote,
            "denied by external authorization"
        );
        self.cut(&mut answer);
        ctx.info.flags.set(ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE);
        let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::FORBIDDEN);
        let Answer { local, body, .. } = answer;
        local_reply::with_headers(ctx, status, body, "ext_authz_denied", |headers| apply::local(&local, headers))
    }

    fn cut(&self, answer: &mut Answer) {
        if self.config.max_denied_body > 0 {
            answer.body.truncate(self.config.max_denied_body);
        }
    }

    /// Nobody could say anything.
    #[allow(clippy::result_large_err, reason = "the answer is what the caller returns as it is")]
    fn failed(
        &self,
        mut ctx: Box<StreamCtx>,
        mut answer: Answer,
        cluster: Option<&Arc<Cluster>>,
    ) -> Result<Box<StreamCtx>, Reply> {
        if self.config.failure_mode_allow {
            self.count(cluster, &self.stats.failure_mode_allowed, Count::FailureModeAllowed);
            if self.config.failure_mode_allow_header_add {
                ctx.request.headers.append(FAILURE_MODE_ALLOWED, HeaderValue::from_static("true"));
            }
            return Ok(ctx);
        }
        if self.config.validate_mutations && !answer.local.iter().all(apply::is_field) {
            return Err(self.invalid(ctx, cluster));
        }
        self.cut(&mut answer);
        ctx.info.flags.set(ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE);
        let status = if answer.status == 0 { self.config.status_on_error } else { answer.status };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
        let Answer { local, body, .. } = answer;
        let fields = |headers: &mut crate::http::HeaderMap| apply::local(&local, headers);
        Err(local_reply::with_headers(ctx, status, body, "ext_authz_error", fields))
    }

    /// The answer asks for what may not be.
    fn invalid(&self, mut ctx: Box<StreamCtx>, cluster: Option<&Arc<Cluster>>) -> Reply {
        self.count(cluster, &self.stats.invalid, Count::Invalid);
        ctx.info.flags.set(ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE);
        local_reply::make(ctx, StatusCode::INTERNAL_SERVER_ERROR, "", "ext_authz_invalid")
    }

    /// Counts for the filter, and for the cluster the route leads to.
    fn count(&self, cluster: Option<&Arc<Cluster>>, own: &Counter, what: Count) {
        own.inc();
        if let Some(cluster) = cluster {
            cluster.stats.authorized(&self.config.stat_prefix, what);
        }
    }
}

/// Reads as much of the body as is to be told.
async fn read(ctx: Box<StreamCtx>, held: &mut HeldBody, wanted: AuthzBody) -> Result<Box<StreamCtx>, Reply> {
    // To see that there is more than may be, one byte more.
    let until = if wanted.allow_partial { wanted.max_bytes } else { wanted.max_bytes.saturating_add(1) };
    let limits = ctx.limits.clone();
    let expired = tokio::select! {
        biased;
        () = held.read_to(until) => None,
        limit = limits.expired() => Some(limit),
    };
    if let Some(limit) = expired {
        return Err(limit.reply(ctx, held.is_complete()));
    }
    if let Some(error) = held.error() {
        return Err(buffer::broken(ctx, error));
    }
    if !wanted.allow_partial && held.bytes() > wanted.max_bytes {
        return Err(buffer::too_large(ctx));
    }
    Ok(ctx)
}

fn failed(mut ctx: Box<StreamCtx>, status: u16) -> Reply {
    ctx.info.flags.set(ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE);
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
    local_reply::with_headers(ctx, status, Bytes::new(), "ext_authz_error", |_| {})
}
