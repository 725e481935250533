//! Mirrored requests: sent beside the real one, their answers thrown away.

use http::HeaderValue;

use super::body::Body;
use super::headers::Mutations;
use super::manager::split_port;
use super::replay::Replay;
use super::route::Forward;
use super::stream::StreamCtx;
use crate::cluster::{Cluster, lb};
use crate::stream_info::StreamInfo;
use crate::upstream::attempt::{self, Books, Via};
use std::sync::Arc;
use std::time::Duration;

/// A mirror that is not answered within this is given up: nobody waits for it.
const LIMIT: Duration = Duration::from_secs(60);

/// Starts the mirrors of a request that is about to be forwarded.
pub(super) fn start(ctx: &StreamCtx, f: &Forward, body: Option<&Replay>) {
    for (i, (mirror, target)) in f.mirrors.iter().enumerate() {
        if !mirror.fraction.default.admits(lb::mix(ctx.random ^ i as u64)) {
            continue;
        }
        let Some(cluster) = target.resolve(ctx, &f.clusters) else { continue };
        let Some(body) = body.map_or(Some(Body::Empty), Replay::reader) else {
            cluster.stats.retry_or_shadow_abandoned.inc();
            continue;
        };
        let mut head = ctx.request.clone();
        let host = mirror.host_rewrite.clone().or_else(|| {
            let name = head.authority.as_ref()?.to_str().ok()?;
            Some(if mirror.disable_host_suffix { name.to_owned() } else { shadow(name) })
        });
        head.authority = host.and_then(|h| HeaderValue::from_str(&h).ok());
        if let Ok(m) = Mutations::new(&mirror.headers) {
            m.apply_to(ctx, &mut head.headers);
        }
        let mut info = StreamInfo::new(ctx.conn.info.clone(), ctx.random, Some(head.protocol));
        let worker = ctx.conn.worker;
        let random = lb::mix(ctx.random ^ 0x51ad);
        tokio::spawn(async move {
            let sending = send(cluster, head, body, &mut info, worker, random);
            let _ = tokio::time::timeout(LIMIT, sending).await;
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
    let Some(host) = cluster.pick(worker, &lb::Request { random, ..lb::Request::default() }) else {
        cluster.stats.upstream_cx_none_healthy.inc();
        return;
    };
    let mut books = Books::new(&cluster, &host);
    let via = Via { cluster: &cluster, host: &host, worker, high: false, downstream: 0 };
    let result = match attempt::connect(&via, &head, info).await {
        Ok((connection, permit)) => {
            books.sent(permit);
            attempt::exchange(connection, &head, body, info).await
        }
        Err(e) => Err(e),
    };
    // Envoy's mirrors count as internal requests.
    match result {
        Ok((response, mut body)) => {
            cluster.stats.answered(response.status.as_u16(), true);
            while let Some(Ok(_)) = body.frame().await {}
            books.complete(true);
        }
        Err(_) => cluster.stats.answered(503, true),
    }
}
