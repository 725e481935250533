//! Mirrored requests: sent beside the real one, their answers thrown away.

use http::HeaderValue;

use super::body::Body;
use super::call::Sending;
use super::headers::Mutations;
use super::manager::split_port;
use super::replay::Replay;
use super::route::Target;
use super::stream::StreamCtx;
use crate::app::Parts;
use crate::cluster::{Cluster, Clusters, lb};
use crate::config::{self, ConfigError};
use crate::runtime::Fraction;
use crate::stream_info::StreamInfo;
use std::sync::Arc;
use std::time::Duration;

/// Where the request has no timeout: nobody waits for a mirror's answer, so it must end by itself.
const LIMIT: Duration = Duration::from_secs(60);

/// A mirror, compiled.
pub struct Mirror {
    config: config::Mirror,
    target: Target,
    fraction: Fraction,
    mutations: Mutations,
}

impl Mirror {
    /// Compiles a list of them.
    ///
    /// # Errors
    /// A header mutation that cannot be compiled.
    pub fn compile(list: &[config::Mirror], parts: &Parts) -> Result<Vec<Mirror>, ConfigError> {
        let compile = |m: &config::Mirror| {
            Ok(Mirror {
                target: Target::new(&m.cluster, parts),
                fraction: parts.runtime.fraction(&m.fraction),
                mutations: Mutations::new(&m.headers)?,
                config: m.clone(),
            })
        };
        list.iter().map(compile).collect()
    }
}

/// Starts the mirrors of a request that is about to be forwarded; each may take as long as the request's `timeout`.
pub(super) fn start(
    ctx: &StreamCtx,
    mirrors: &[Mirror],
    clusters: &Clusters,
    body: Option<&Replay>,
    timeout: Option<Duration>,
) {
    for (i, mirror) in mirrors.iter().enumerate() {
        if !mirror.fraction.admits(lb::mix(ctx.random ^ i as u64)) {
            continue;
        }
        let Some(cluster) = mirror.target.resolve(ctx, clusters) else { continue };
        let Some(body) = body.map_or(Some(Body::Empty), Replay::reader) else {
            cluster.stats.retry_or_shadow_abandoned.inc();
            continue;
        };
        let mut head = ctx.request.clone();
        let host = mirror.config.host_rewrite.clone().or_else(|| {
            let name = head.authority.as_ref()?.to_str().ok()?;
            Some(if mirror.config.disable_host_suffix { name.to_owned() } else { shadow(name) })
        });
        head.authority = host.and_then(|h| HeaderValue::from_str(&h).ok());
        mirror.mutations.apply_to(ctx, &mut head.headers);
        let mut info = StreamInfo::new(ctx.conn.info.clone(), ctx.random, Some(head.protocol));
        let worker = ctx.conn.worker;
        let random = lb::mix(ctx.random ^ 0x51ad);
        tokio::spawn(async move {
            let sending = send(cluster, head, body, &mut info, worker, random);
            let _ = tokio::time::timeout(timeout.unwrap_or(LIMIT), sending).await;
        });
    }
}

/// `host-shadow`, before the port.
fn shadow(host: &str) -> String {
    match split_port(host) {
        (name, Some(port)) => format!("{name}-shadow:{port}"),
        (name, None) => format!("{name}-shadow"),
    }
}

async fn send(
    cluster: Arc<Cluster>,
    head: super::head::RequestHead,
    body: Body,
    info: &mut StreamInfo,
    worker: usize,
    random: u64,
) {
    let Some(mut sending) = Sending::begin(&cluster, Some(&head.headers), info, worker, random) else { return };
    // Envoy's mirrors count as internal requests.
    match sending.exchange(&head, body, info).await {
        Ok((response, mut body)) => {
            cluster.stats.answered(response.status.as_u16(), true);
            while let Some(Ok(_)) = body.frame().await {}
            sending.books.complete(true);
        }
        Err(_) => cluster.stats.answered(503, true),
    }
}
