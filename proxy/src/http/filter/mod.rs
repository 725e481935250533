//! HTTP filters: the chain, what a route changes of it, and the filters.
//!
//! A filter sees a request on its way in, in order, and may answer it; it sees the answer on its way out, in reverse order. What
//! changes bodies wraps them in a [`FilteredBody`]. The router is not among them: it is what the chain leads to.

mod buffer;
mod cors;
mod discovered;
mod edits;
mod ext_authz;
mod fault;
mod grpc_stats;
mod grpc_web;
mod health_check;
mod held;
mod istio_stats;
mod jwt;
mod on_demand;
mod peer_metadata;
mod rate_limit;
mod rbac;
mod trailers;

pub use self::cors::Policy;
pub(in crate::http) use self::discovered::of;
pub use self::discovered::{DiscoveredFilters, ExtensionStats};
pub use self::edits::Edits;
pub(in crate::http) use self::edits::apply as apply_edits;
pub(in crate::http) use self::fault::limit;
pub use self::fault::{Active as ActiveFaults, LimitedBody};
pub use self::held::HeldBody;
pub use self::peer_metadata::Peers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::body::{Body, BodyError, Frame};
use super::connection::Reply;
use super::head::ResponseHead;
use super::headers::Mutations;
use super::stream::StreamCtx;
use crate::app::Parts;
use crate::cluster::{Cluster, Clusters};
use crate::config::{self, ConfigError, HttpFilterKind, PerFilter, PerFilterConfig};
use crate::http::HeaderMap;
use crate::runtime::Runtime;
use crate::stats::Scope;

/// What a filter decides about a request.
pub enum Flow {
    /// It goes on.
    Continue(Box<StreamCtx>, Body),
    /// It is answered here.
    Answer(Reply),
}

/// A filter of the chain.
pub struct Filter {
    /// Name: the key of overrides.
    pub name: String,
    /// Off unless a route turns it on.
    pub disabled: bool,
    kind: Kind,
}

enum Kind {
    Cors(cors::Stats),
    HeaderMutation(Mutating),
    HealthCheck(health_check::HealthCheck),
    Buffer(u64),
    Fault(Box<fault::Fault>),
    Rbac(Box<rbac::Rbac>),
    Jwt(Box<jwt::Jwt>),
    ExtAuthz(Box<ext_authz::ExtAuthz>),
    RateLimit(Box<rate_limit::RateLimit>),
    GrpcWeb,
    GrpcStats(grpc_stats::GrpcStats),
    IstioStats(Box<istio_stats::IstioStats>),
    PeerMetadata(Box<peer_metadata::PeerMetadata>),
    OnDemand(Box<on_demand::OnDemand>),
    /// A discovered router: what the chain leads to.
    Router,
    /// Its configuration is not there.
    Missing,
}

/// Header mutations of the `header_mutation` filter.
struct Mutating {
    request: Mutations,
    response: Mutations,
    request_trailers: Mutations,
    response_trailers: Mutations,
    query: Vec<config::QueryMutation>,
}

impl Mutating {
    fn new(c: &config::HeaderMutationFilter) -> Result<Self, ConfigError> {
        Ok(Mutating {
            request: Mutations::new(&c.request)?,
            response: Mutations::new(&c.response)?,
            request_trailers: Mutations::new(&c.request_trailers)?,
            response_trailers: Mutations::new(&c.response_trailers)?,
            query: c.query.clone(),
        })
    }
}

/// A filter's settings for some routes, compiled.
enum Override {
    Cors(Arc<Policy>),
    HeaderMutation(Mutating),
    Buffer(u64),
    Fault(Box<fault::Settings>),
    Rbac(Box<rbac::Settings>),
    Jwt(config::JwtPerRoute),
    ExtAuthz(Box<ext_authz::Settings>),
    RateLimit(Box<rate_limit::Settings>),
    OnDemand(Option<Box<config::OnDemandClusters>>),
}

/// The filters of a connection manager.
#[derive(Clone)]
pub struct Chain {
    filters: Vec<Arc<Filter>>,
    runtime: Arc<Runtime>,
    clusters: Arc<Clusters>,
    /// The connection manager's.
    scope: Scope,
    /// The router's settings.
    pub router: config::RouterFilter,
}

/// What a route changes of a chain, by position; empty: nothing.
#[derive(Default)]
pub struct Overrides(Vec<Option<Slot>>);

struct Slot {
    disabled: Option<bool>,
    configs: Vec<Override>,
}

impl Chain {
    /// Compiles a chain.
    ///
    /// # Errors
    /// A filter that cannot be compiled.
    pub fn new(filters: &[config::HttpFilter], scope: &Scope, parts: &Parts) -> Result<Self, ConfigError> {
        let mut chain = Chain {
            filters: Vec::new(),
            runtime: parts.runtime.clone(),
            clusters: parts.clusters.clone(),
            scope: scope.clone(),
            router: config::RouterFilter::default(),
        };
        for f in filters {
            if let HttpFilterKind::Router(r) = &f.kind {
                chain.router = r.clone();
                continue;
            }
            let kind = chain.kind(&f.name, &f.kind, scope, parts)?;
            chain.filters.push(Arc::new(Filter { name: f.name.clone(), disabled: f.disabled, kind }));
        }
        Ok(chain)
    }

    fn kind(&mut self, name: &str, kind: &HttpFilterKind, scope: &Scope, parts: &Parts) -> Result<Kind, ConfigError> {
        Ok(match kind {
            HttpFilterKind::Router(r) => {
                self.router = r.clone();
                Kind::Router
            }
            HttpFilterKind::Cors => Kind::Cors(cors::Stats::new(scope)),
            HttpFilterKind::HeaderMutation(c) => Kind::HeaderMutation(Mutating::new(c)?),
            HttpFilterKind::HealthCheck(c) => Kind::HealthCheck(health_check::HealthCheck::new(c, scope, parts)?),
            HttpFilterKind::Buffer(max) => Kind::Buffer(*max),
            HttpFilterKind::Fault(c) => Kind::Fault(Box::new(fault::Fault::new(name, c, scope, &parts.runtime))),
            HttpFilterKind::Rbac(c) => Kind::Rbac(Box::new(rbac::Rbac::new(c, scope))),
            HttpFilterKind::Jwt(c) => Kind::Jwt(Box::new(jwt::Jwt::new(c, scope)?)),
            HttpFilterKind::ExtAuthz(c) => {
                Kind::ExtAuthz(Box::new(ext_authz::ExtAuthz::new(c, scope, &parts.runtime, &parts.clusters)?))
            }
            HttpFilterKind::RateLimit(c) => Kind::RateLimit(Box::new(rate_limit::RateLimit::new(c, parts)?)),
            HttpFilterKind::GrpcWeb => Kind::GrpcWeb,
            HttpFilterKind::GrpcStats(c) => Kind::GrpcStats(grpc_stats::GrpcStats::new(c)),
            HttpFilterKind::IstioStats(c) => {
                Kind::IstioStats(Box::new(istio_stats::IstioStats::new(c, &parts.telemetry)))
            }
            HttpFilterKind::PeerMetadata(c) => {
                Kind::PeerMetadata(Box::new(peer_metadata::PeerMetadata::new(c, &parts.telemetry)))
            }
            HttpFilterKind::OnDemand(c) => {
                Kind::OnDemand(Box::new(on_demand::OnDemand::new(c.clone(), parts.on_demand.clone())))
            }
            HttpFilterKind::Discovered(d) => match &d.default {
                Some(default) => self.kind(name, default, scope, parts)?,
                None => Kind::Missing,
            },
        })
    }

    /// The same chain with another filter at a place; `None`: one whose configuration is not there. Places count all filters
    /// but a router that is written in the configuration.
    ///
    /// # Errors
    /// A filter that cannot be compiled.
    pub fn with(
        &self,
        place: usize,
        kind: Option<&HttpFilterKind>,
        scope: &Scope,
        parts: &Parts,
    ) -> Result<Chain, ConfigError> {
        let mut chain = self.clone();
        let Some(slot) = self.filters.get(place) else { return Ok(chain) };
        let kind = kind.map_or(Ok(Kind::Missing), |kind| chain.kind(&slot.name, kind, scope, parts))?;
        chain.filters[place] = Arc::new(Filter { name: slot.name.clone(), disabled: slot.disabled, kind });
        Ok(chain)
    }

    /// Compiles overrides given from the least to the most specific level.
    ///
    /// # Errors
    /// An override that cannot be compiled, or that names no filter of the chain.
    pub fn overrides(&self, levels: &[&BTreeMap<String, PerFilter>]) -> Result<Overrides, ConfigError> {
        if levels.iter().all(|l| l.is_empty()) {
            return Ok(Overrides::default());
        }
        let mut slots = Vec::with_capacity(self.filters.len());
        for filter in &self.filters {
            let mut slot = Slot { disabled: None, configs: Vec::new() };
            for per in levels.iter().filter_map(|l| l.get(&filter.name)) {
                // A configuration of its own turns the filter on; the most specific word counts.
                slot.disabled = per.disabled.or(per.config.as_ref().map(|_| false)).or(slot.disabled);
                if let Some(c) = &per.config {
                    slot.configs.push(self.compile(filter, c)?);
                }
            }
            slots.push((slot.disabled.is_some() || !slot.configs.is_empty()).then_some(slot));
        }
        Ok(Overrides(slots))
    }

    fn compile(&self, filter: &Filter, c: &PerFilterConfig) -> Result<Override, ConfigError> {
        Ok(match c {
            PerFilterConfig::Cors(c) => Override::Cors(Arc::new(Policy::new(c, &self.runtime))),
            PerFilterConfig::HeaderMutation(m) => Override::HeaderMutation(Mutating::new(m)?),
            PerFilterConfig::Buffer(max) => Override::Buffer(*max),
            PerFilterConfig::Fault(c) => Override::Fault(Box::new(fault::Settings::new(c, &self.runtime))),
            PerFilterConfig::OnDemand(c) => Override::OnDemand(c.clone()),
            PerFilterConfig::Jwt(c) => Override::Jwt(c.clone()),
            PerFilterConfig::RateLimit(c) => {
                Override::RateLimit(Box::new(rate_limit::Settings::new(c, &self.runtime)?))
            }
            PerFilterConfig::ExtAuthz(c) => Override::ExtAuthz(Box::new(ext_authz::Settings::new(c, &self.clusters)?)),
            PerFilterConfig::Rbac(c) => {
                let of_chain = if let Kind::Rbac(r) = &filter.kind { Some(&**r) } else { None };
                Override::Rbac(Box::new(rbac::Settings::of_route(c, &self.scope, of_chain)))
            }
        })
    }

    /// Whether there is nothing but the router.
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// Runs a request through the chain.
    pub async fn request(&self, mut ctx: Box<StreamCtx>, mut body: Body) -> Flow {
        for (i, filter) in self.filters.iter().enumerate() {
            if !filter.is_on(&ctx, i) {
                continue;
            }
            match filter.request(ctx, body, i).await {
                Flow::Continue(c, b) => (ctx, body) = (c, b),
                answer => return answer,
            }
        }
        Flow::Continue(ctx, body)
    }

    /// Runs an answer through the chain.
    pub fn response(&self, ctx: &mut StreamCtx, head: &mut ResponseHead, mut body: Body) -> Body {
        // Formats see the status the answer has.
        ctx.info.response_code = head.status.as_u16();
        for (i, filter) in self.filters.iter().enumerate().rev() {
            if filter.is_on(ctx, i) {
                body = filter.response(ctx, head, body, i);
            }
        }
        // All of them have seen it, so it is known who has answered.
        if !ctx.messages.is_empty() {
            self.reports().for_each(|(i, stats)| stats.answered(ctx, i));
        }
        body
    }

    /// Whether requests that have ended are counted.
    pub fn is_counting(&self) -> bool {
        self.reports().next().is_some()
    }

    /// A request has ended.
    pub fn ended(&self, ctx: &StreamCtx, cluster: Option<&Cluster>) {
        for (i, stats) in self.reports() {
            if self.filters.get(i).is_some_and(|filter| filter.is_on(ctx, i)) {
                stats.ended(ctx, cluster, i);
            }
        }
    }

    fn reports(&self) -> impl Iterator<Item = (usize, &istio_stats::IstioStats)> {
        let all = self.filters.iter().enumerate();
        all.filter_map(
            |(i, filter)| if let Kind::IstioStats(stats) = &filter.kind { Some((i, &**stats)) } else { None },
        )
    }
}

/// The overrides of a request's route for filter `i`, least specific first.
fn slots(ctx: &StreamCtx, i: usize) -> impl DoubleEndedIterator<Item = &Slot> {
    slots_of(ctx.route.as_ref(), i)
}

/// The same of a route.
fn slots_of(route: Option<&super::route::Matched>, i: usize) -> impl DoubleEndedIterator<Item = &Slot> {
    let entry = route.and_then(|m| m.entry.overrides.0.get(i)?.as_ref());
    let weighted = route.and_then(|m| match (&m.entry.kind, m.choice) {
        (super::route::Kind::Forward(f), Some(c)) => f.overrides(c)?.0.get(i)?.as_ref(),
        _ => None,
    });
    entry.into_iter().chain(weighted)
}

impl Filter {
    fn is_on(&self, ctx: &StreamCtx, i: usize) -> bool {
        !slots(ctx, i).rev().find_map(|s| s.disabled).unwrap_or(self.disabled)
    }

    async fn request(&self, mut ctx: Box<StreamCtx>, body: Body, i: usize) -> Flow {
        match &self.kind {
            Kind::Cors(stats) => {
                let policy = cors_policy(&ctx, i);
                match policy {
                    Some(p) => cors::request(ctx, body, &p, stats),
                    None => Flow::Continue(ctx, body),
                }
            }
            Kind::HeaderMutation(m) => {
                mutate_request(m, &mut ctx);
                let route = ctx.route.clone();
                for o in mutations(&route, i) {
                    mutate_request(o, &mut ctx);
                }
                let all = std::iter::once(m).chain(mutations(&route, i));
                let body = trailers::wrap(&ctx, body, all.map(|m| &m.request_trailers));
                Flow::Continue(ctx, body)
            }
            Kind::HealthCheck(h) => h.request(ctx, body),
            Kind::Buffer(max) => {
                let max = slots(&ctx, i)
                    .rev()
                    .find_map(|s| {
                        s.configs.iter().rev().find_map(|o| if let Override::Buffer(n) = o { Some(*n) } else { None })
                    })
                    .unwrap_or(*max);
                buffer::request(ctx, body, max).await
            }
            Kind::Fault(f) => match f.plan(&ctx, fault_settings(&ctx, i)) {
                // Few requests have faults: the others' futures should not be larger for it.
                Some(faults) => Box::pin(f.inject(ctx, body, i, faults)).await,
                None => Flow::Continue(ctx, body),
            },
            Kind::Rbac(r) => r.request(ctx, body, i),
            Kind::Jwt(j) => j.request(ctx, body, i),
            Kind::ExtAuthz(e) => match e.asks(&ctx, i) {
                ext_authz::Asks::No => Flow::Continue(ctx, body),
                ext_authz::Asks::Refused => Flow::Answer(e.refused(ctx)),
                // The futures of requests that nobody is asked about should not be larger for it.
                ext_authz::Asks::Yes => Box::pin(e.request(ctx, body, i)).await,
            },
            Kind::RateLimit(r) => match r.question(&ctx, i) {
                // As above.
                Some(question) => Box::pin(r.request(ctx, body, question, i)).await,
                None => Flow::Continue(ctx, body),
            },
            Kind::GrpcWeb => grpc_web::request(ctx, body),
            Kind::GrpcStats(g) => {
                let body = g.request(&ctx, body);
                Flow::Continue(ctx, body)
            }
            Kind::IstioStats(s) => {
                let body = s.request(&mut ctx, body, i);
                Flow::Continue(ctx, body)
            }
            Kind::PeerMetadata(p) => {
                p.request(&mut ctx);
                Flow::Continue(ctx, body)
            }
            // Few requests wait: the others' futures should not be larger for it.
            Kind::OnDemand(o) if o.holds(&ctx, i) => Box::pin(o.request(ctx, body, i)).await,
            Kind::Router | Kind::OnDemand(_) => Flow::Continue(ctx, body),
            Kind::Missing => discovered::missing(ctx),
        }
    }

    fn response(&self, ctx: &mut StreamCtx, head: &mut ResponseHead, body: Body, i: usize) -> Body {
        match &self.kind {
            Kind::Cors(_) => {
                if let Some(p) = cors_policy(ctx, i) {
                    cors::response(ctx, head, &p);
                }
                body
            }
            Kind::HeaderMutation(m) => {
                m.response.apply_response(ctx, head);
                for o in mutations(&ctx.route, i) {
                    o.response.apply_response(ctx, head);
                }
                let all = std::iter::once(m).chain(mutations(&ctx.route, i));
                trailers::wrap(ctx, body, all.map(|m| &m.response_trailers))
            }
            Kind::GrpcWeb => grpc_web::response(ctx, head, body),
            Kind::GrpcStats(g) => g.response(ctx, head, body),
            Kind::IstioStats(s) => s.response(ctx, body, i),
            Kind::PeerMetadata(p) => {
                p.response(ctx, head);
                body
            }
            Kind::HealthCheck(h) => {
                h.response(ctx, head);
                body
            }
            Kind::Fault(_) => fault::limit(ctx, body, Some(i)),
            Kind::ExtAuthz(_) | Kind::RateLimit(_) => {
                edits::apply(ctx, &mut head.headers, Some(i));
                body
            }
            Kind::Buffer(_) | Kind::Rbac(_) | Kind::Jwt(_) | Kind::OnDemand(_) | Kind::Router | Kind::Missing => body,
        }
    }
}

fn mutations(route: &Option<super::route::Matched>, i: usize) -> impl Iterator<Item = &Mutating> {
    let entry = route.as_ref().and_then(|m| m.entry.overrides.0.get(i)?.as_ref());
    entry
        .into_iter()
        .flat_map(|s| &s.configs)
        .filter_map(|o| if let Override::HeaderMutation(m) = o { Some(m) } else { None })
}

fn mutate_request(m: &Mutating, ctx: &mut StreamCtx) {
    m.request.apply_request(ctx);
    if !m.query.is_empty() {
        mutate_query(&m.query, ctx);
    }
}

/// Applies query parameter mutations, keeping the others as they were written.
fn mutate_query(list: &[config::QueryMutation], ctx: &mut StreamCtx) {
    use config::{AppendAction, QueryMutation};
    let path = ctx.request.path_only().to_owned();
    let mut pairs: Vec<String> = ctx
        .request
        .query()
        .map_or_else(Vec::new, |q| q.split('&').filter(|p| !p.is_empty()).map(str::to_owned).collect());
    let named = |p: &String, key: &str| p.split('=').next() == Some(key);
    for m in list {
        match m {
            QueryMutation::Remove(key) => pairs.retain(|p| !named(p, key)),
            QueryMutation::Append { key, value, action } => {
                let value = match super::headers::Format::new(value) {
                    Ok(f) => f.text(ctx),
                    Err(_) => value.clone(),
                };
                let pair = format!("{key}={value}");
                let have = pairs.iter().any(|p| named(p, key));
                match action {
                    AppendAction::AddIfAbsent if have => {}
                    AppendAction::OverwriteIfExists if !have => {}
                    AppendAction::OverwriteIfExists | AppendAction::OverwriteIfExistsOrAdd => {
                        pairs.retain(|p| !named(p, key));
                        pairs.push(pair);
                    }
                    _ => pairs.push(pair),
                }
            }
        }
    }
    ctx.request.path = if pairs.is_empty() { path } else { format!("{path}?{}", pairs.join("&")) };
}

/// The most specific settings that the request's route has for the fault filter `i`.
fn fault_settings(ctx: &StreamCtx, i: usize) -> Option<&fault::Settings> {
    slots(ctx, i)
        .rev()
        .find_map(|s| s.configs.iter().rev().find_map(|o| if let Override::Fault(f) = o { Some(&**f) } else { None }))
}

/// The most specific rules that the request's route has for the RBAC filter `i`.
fn rbac_settings(ctx: &StreamCtx, i: usize) -> Option<&rbac::Settings> {
    slots(ctx, i)
        .rev()
        .find_map(|s| s.configs.iter().rev().find_map(|o| if let Override::Rbac(r) = o { Some(&**r) } else { None }))
}

/// What the request's route says of the JWT filter `i`.
fn jwt_settings(ctx: &StreamCtx, i: usize) -> Option<&config::JwtPerRoute> {
    slots(ctx, i)
        .rev()
        .find_map(|s| s.configs.iter().rev().find_map(|o| if let Override::Jwt(j) = o { Some(j) } else { None }))
}

/// What the request's route says of the on-demand filter `i`; `Some(None)`: no clusters on demand.
fn on_demand_settings(ctx: &StreamCtx, i: usize) -> Option<Option<&config::OnDemandClusters>> {
    slots(ctx, i).rev().find_map(|s| {
        s.configs.iter().rev().find_map(|o| if let Override::OnDemand(c) = o { Some(c.as_deref()) } else { None })
    })
}

fn cors_policy(ctx: &StreamCtx, i: usize) -> Option<Arc<Policy>> {
    let from_slot = slots(ctx, i).rev().find_map(|s| {
        s.configs.iter().rev().find_map(|o| if let Override::Cors(c) = o { Some(c.clone()) } else { None })
    });
    from_slot.or_else(|| {
        let m = ctx.route.as_ref()?;
        let route = match &m.entry.kind {
            super::route::Kind::Forward(f) => f.cors.as_ref(),
            _ => None,
        };
        route.or(m.entry.vhost.cors.as_ref()).cloned()
    })
}

/// Sees or changes the frames of a body.
pub trait FrameMap: Send {
    /// A piece of payload; what is returned goes on.
    fn data(&mut self, data: Bytes) -> Bytes {
        data
    }

    /// Trailers: they go on, or what is returned as data goes on instead.
    fn trailers(&mut self, trailers: HeaderMap) -> Result<HeaderMap, Bytes> {
        Ok(trailers)
    }

    /// The end without trailers; may yield a last piece.
    fn end(&mut self) -> Option<Bytes> {
        None
    }
}

/// A body seen through a [`FrameMap`].
pub struct FilteredBody {
    inner: Body,
    map: Box<dyn FrameMap>,
    ended: bool,
}

impl FilteredBody {
    /// Wraps `inner`.
    pub fn wrap(inner: Body, map: impl FrameMap + 'static) -> Body {
        Body::Filtered(Box::new(FilteredBody { inner, map: Box::new(map), ended: false }))
    }

    /// The next frame.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        while !self.ended {
            match ready!(self.inner.poll_frame(cx)) {
                Some(Ok(Frame::Data(d))) => {
                    let d = self.map.data(d);
                    if !d.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::Data(d))));
                    }
                }
                Some(Ok(Frame::Trailers(t))) => {
                    self.ended = true;
                    return Poll::Ready(Some(Ok(match self.map.trailers(t) {
                        Ok(t) => Frame::Trailers(t),
                        Err(data) => Frame::Data(data),
                    })));
                }
                None => {
                    self.ended = true;
                    return Poll::Ready(self.map.end().map(|d| Ok(Frame::Data(d))));
                }
                Some(Err(e)) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(e)));
                }
            }
        }
        Poll::Ready(None)
    }
}
