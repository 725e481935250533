//! `on_demand`: holds a request while the virtual host or the cluster it needs is fetched.
//!
//! A request without a route waits for its virtual host where its routes are discovered with VHDS; one whose cluster is not there
//! waits for the cluster where the filter, or the route's settings of it, say who delivers it. Then the request goes on with
//! what there is.

use std::sync::Arc;
use std::time::Duration;

use super::held::until;
use super::{Flow, HeldBody, on_demand_settings};
use crate::config::OnDemandClusters;
use crate::http::body::Body;
use crate::http::connection::Reply;
use crate::http::request;
use crate::http::route::Kind;
use crate::http::stream::StreamCtx;
use crate::on_demand::{OnDemand as Asks, Wanted};

/// The filter.
pub(super) struct OnDemand {
    clusters: Option<OnDemandClusters>,
    asks: Arc<Asks>,
}

impl OnDemand {
    pub(super) fn new(clusters: Option<OnDemandClusters>, asks: Arc<Asks>) -> Self {
        OnDemand { clusters, asks }
    }

    /// Whether it holds a request; `i`: its place in the chain.
    pub(super) fn holds(&self, ctx: &StreamCtx, i: usize) -> bool {
        virtual_host(ctx).is_some() || self.cluster(ctx, i).is_some()
    }

    /// Holds a request for as long as it has to.
    pub(super) async fn request(&self, ctx: Box<StreamCtx>, body: Body, i: usize) -> Flow {
        let mut body = HeldBody::new(&ctx, body);
        match self.hold(ctx, &mut body, i).await {
            Ok(ctx) => Flow::Continue(ctx, body.into_body()),
            Err(reply) => Flow::Answer(reply),
        }
    }

    async fn hold(&self, mut ctx: Box<StreamCtx>, body: &mut HeldBody, i: usize) -> Result<Box<StreamCtx>, Reply> {
        if let Some((wanted, limit)) = virtual_host(&ctx) {
            (ctx, _) = until(ctx, body, self.asks.wait(wanted, limit)).await?;
            ctx = request::find_route(ctx)?;
        }
        match self.cluster(&ctx, i) {
            Some((wanted, limit)) => Ok(until(ctx, body, self.asks.wait(wanted, Some(limit))).await?.0),
            None => Ok(ctx),
        }
    }

    /// The cluster that the route leads to and that is not there, and how long to wait for it.
    fn cluster(&self, ctx: &StreamCtx, i: usize) -> Option<(Wanted, Duration)> {
        let matched = ctx.route.as_ref()?;
        let Kind::Forward(f) = &matched.entry.kind else { return None };
        let clusters = on_demand_settings(ctx, i).unwrap_or(self.clusters.as_ref())?;
        let target = f.target(matched.choice)?;
        if target.resolve(ctx, &f.clusters).is_some() {
            return None;
        }
        let name = target.name(ctx).filter(|name| !name.is_empty())?;
        Some((Wanted::Cluster(clusters.source.from.clone(), name.to_owned()), clusters.timeout))
    }
}

/// The virtual host of a request that has no route, and how long to wait for it.
fn virtual_host(ctx: &StreamCtx) -> Option<(Wanted, Option<Duration>)> {
    if ctx.route.is_some() {
        return None;
    }
    let manager = &ctx.conn.manager;
    let rds = manager.config.rds.as_ref()?;
    let limit = manager.routes.with(|table| table.on_demand.filter(|_| !table.has_host(ctx)))?;
    let host = ctx.request.authority.as_ref()?.to_str().ok()?.to_ascii_lowercase();
    Some((Wanted::VirtualHost((rds.source.from.clone(), rds.name.clone()), host), limit))
}
