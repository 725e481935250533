//! Requests that come, go on and are given up at random against an upstream that closes at random: after each of them the
//! books must be right, and at the end nothing may be held and nobody may wait.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::cluster::lb::mix;
use crate::cluster::{Cluster, Host, Resource, fixture};
use crate::http::body::Body;
use crate::http::head::{RequestHead, Scheme};
use crate::stream_info::{Protocol, StreamInfo};
use crate::upstream::attempt::{self, Via};

/// Longer than the whole takes on any machine.
const GIVE_UP: Duration = Duration::from_secs(120);
const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// One connection: answers, slowly or not, and leaves at random in every way there is.
async fn serve_h1(mut stream: TcpStream, mut random: u64) {
    let mut seen = Vec::new();
    loop {
        while !seen.ends_with(b"\r\n\r\n") {
            if !matches!(stream.read_buf(&mut seen).await, Ok(1..)) {
                return;
            }
        }
        seen.clear();
        random = mix(random);
        tokio::time::sleep(Duration::from_micros(random % 3000)).await;
        let answer: &[u8] = match (random >> 20) % 12 {
            0 => return,
            1 => b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab",
            2 => b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
            3 => b"nonsense\r\n\r\n",
            _ => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        };
        if stream.write_all(answer).await.is_err() || answer.ends_with(b"ab") {
            return;
        }
    }
}

/// One connection of at most three streams at a time; says GOAWAY after some.
async fn serve_h2(stream: TcpStream, mut random: u64) {
    let Ok(mut connection) = h2::server::Builder::new().max_concurrent_streams(3).handshake::<_, Bytes>(stream).await
    else {
        return;
    };
    let mut left = random % 20;
    while let Some(Ok((_request, mut respond))) = connection.accept().await {
        random = mix(random);
        let roll = random;
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_micros(roll % 3000)).await;
            match (roll >> 20) % 12 {
                0 => respond.send_reset(h2::Reason::INTERNAL_ERROR),
                1 => respond.send_reset(h2::Reason::REFUSED_STREAM),
                _ => {
                    if let Ok(mut body) = respond.send_response(http::Response::new(()), false) {
                        let _ = body.send_data(Bytes::from_static(b"ok"), true);
                    }
                }
            }
        });
        left = left.saturating_sub(1);
        if left == 0 {
            connection.graceful_shutdown();
        }
    }
}

fn head() -> RequestHead {
    RequestHead {
        method: http::Method::GET,
        scheme: Scheme::Http,
        authority: Some(http::HeaderValue::from_static("a.example")),
        path: "/".into(),
        headers: crate::http::HeaderMap::new(),
        protocol: Protocol::Http11,
        upgrade: None,
        spelling: None,
    }
}

/// One request, given up when its patience ends. Whether it was answered in full.
async fn request(cluster: &Arc<Cluster>, host: &Arc<Host>, random: u64, patience: Duration) -> bool {
    let via = Via { cluster, host, worker: 0, high: false, downstream: random % 3, tunnel: false };
    let whole = async {
        let mut info = StreamInfo::new(Arc::new(crate::access_log::fixture::conn()), 1, Some(Protocol::Http11));
        let (checkout, _permit) = attempt::connect(&via, &head(), &mut info).await.ok()?;
        let (_, mut body) = attempt::exchange(checkout, &head(), Body::Empty, &mut info).await.ok()?;
        while let Some(frame) = body.frame().await {
            frame.ok()?;
        }
        Some(())
    };
    tokio::time::timeout(patience, whole).await.is_ok_and(|r| r.is_some())
}

fn check(cluster: &Cluster, host: &Host) {
    let limits = &cluster.config.breakers_default;
    let breaker = cluster.breaker(false);
    let mut pools = host.pool(0).lock();
    let connections = host.cx_active.load(Ordering::Relaxed);
    assert_eq!(breaker.used(Resource::Connections), connections);
    assert_eq!(pools.open, connections);
    assert_eq!(cluster.stats.upstream_cx_active.value(), u64::from(connections));
    let used = pools.all().filter(|p| p.open > 0 || !p.h2.is_empty() || p.h2_connecting).count() as u32;
    let per_host = cluster.config.per_host_max_connections.unwrap_or(u32::MAX);
    // Each pool may have one, whatever the limit. HTTP/2 connections whose peer said GOAWAY live on for their last streams.
    let serving = pools.all().map(|p| p.open + p.h2.len() as u32 + u32::from(p.h2_connecting)).sum::<u32>();
    assert!(serving <= limits.max_connections.min(per_host) + used, "{serving} of {used} pools");
    assert!(breaker.used(Resource::Pending) <= limits.max_pending_requests);
    assert!(breaker.used(Resource::Requests) <= limits.max_requests);
    for pool in pools.all() {
        assert!(pool.idle.len() <= pool.open as usize);
        assert!(pool.waiting.len() <= 64 && pool.h2_full.len() <= 64, "those who gave up are cleared away");
    }
}

async fn simulate(seed: u64, h2: bool, fields: Value) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let upstream = tokio::spawn(async move {
        for n in 0.. {
            let Ok((stream, _)) = listener.accept().await else { return };
            let random = mix(seed ^ n);
            if h2 {
                tokio::spawn(serve_h2(stream, random));
            } else {
                tokio::spawn(serve_h1(stream, random));
            }
        }
    });
    let cluster = fixture::cluster(&fields, &json!([{ "lb_endpoints": [fixture::endpoint(port)] }]));
    let host = cluster.hosts().all().next().unwrap().clone();
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..24 {
        let (cluster, host) = (cluster.clone(), host.clone());
        clients.spawn(async move {
            let mut random = mix(seed ^ client << 32);
            for _ in 0..25 {
                random = mix(random);
                request(&cluster, &host, random, Duration::from_micros((random >> 8) % 20_000)).await;
                check(&cluster, &host);
            }
            // However it went until now, who goes on asking and has patience is answered.
            while !request(&cluster, &host, random, GIVE_UP).await {
                random = mix(random);
                check(&cluster, &host);
                tokio::time::sleep(Duration::from_micros(random % 2000)).await;
            }
        });
    }
    let all = async {
        while let Some(one) = clients.join_next().await {
            one.unwrap();
        }
    };
    tokio::time::timeout(GIVE_UP, all).await.expect("everybody is answered");

    // What waits for a connection is gone with its request; then only idle connections are left, and they can be closed.
    let idle = host.pool(0).lock().close_idle();
    drop(idle);
    let empty = async {
        while host.cx_active.load(Ordering::Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), empty).await.expect("every connection ends");
    check(&cluster, &host);
    for resource in [Resource::Connections, Resource::Pending, Resource::Requests, Resource::Pools] {
        assert_eq!(cluster.breaker(false).used(resource), 0, "{resource:?}");
    }
    assert!(host.pool(0).lock().keyed.is_empty(), "pools without connections are removed");
    let s = &cluster.stats;
    assert_eq!(s.upstream_cx_total.value(), s.upstream_cx_destroy.value());
    assert_eq!(
        s.upstream_cx_destroy.value(),
        s.upstream_cx_destroy_local.value() + s.upstream_cx_destroy_remote.value()
    );
    upstream.abort();
}

fn with(limits: Value, more: Value) -> Value {
    let mut fields = json!({ "circuit_breakers": { "thresholds": [limits] } });
    for (name, value) in more.as_object().unwrap() {
        fields[name] = value.clone();
    }
    fields
}

fn http2() -> Value {
    let typed = json!({
        "@type": format!("type.googleapis.com/{OPTIONS}"),
        "explicit_http_config": { "http2_protocol_options": {} },
    });
    json!({ "typed_extension_protocol_options": { OPTIONS: typed } })
}

#[tokio::test]
async fn http1_accounts() {
    for seed in 0..4 {
        simulate(seed, false, with(json!({ "max_connections": 5, "max_requests": 4 }), json!({}))).await;
    }
    simulate(10, false, with(json!({ "max_pending_requests": 3, "max_connections": 2 }), json!({}))).await;
    let keyed = json!({ "connection_pool_per_downstream_connection": true });
    simulate(11, false, with(json!({ "max_connections": 4, "max_connection_pools": 2 }), keyed)).await;
    let mut per_host = with(json!({}), json!({ "max_requests_per_connection": 3 }));
    per_host["circuit_breakers"]["per_host_thresholds"] = json!([{ "max_connections": 3 }]);
    simulate(12, false, per_host).await;
}

#[tokio::test]
async fn http2_accounts() {
    for seed in 0..4 {
        simulate(seed, true, with(json!({ "max_connections": 2 }), http2())).await;
    }
    simulate(10, true, with(json!({ "max_requests": 5 }), http2())).await;
}

/// Whoever waits for a place gets one as soon as there is one: not only the first when a connection takes several streams at once.
#[tokio::test]
async fn places_on_a_new_connection_are_for_all_who_wait() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let upstream = tokio::spawn(async move {
        // The first connection takes one stream and leaves while it is under way.
        let stream = listener.accept().await.unwrap().0;
        let mut first =
            h2::server::Builder::new().max_concurrent_streams(1).handshake::<_, Bytes>(stream).await.unwrap();
        let held = first.accept().await;
        let (tell, told) = tokio::sync::oneshot::channel();
        let rest = tokio::spawn(async move {
            tokio::select! {
                _ = first.accept() => {}
                _ = told => {}
            }
        });
        (listener, held, tell, rest)
    });
    let fields = with(json!({ "max_connections": 1 }), http2());
    let cluster = fixture::cluster(&fields, &json!([{ "lb_endpoints": [fixture::endpoint(port)] }]));
    let host = cluster.hosts().all().next().unwrap().clone();
    let mut clients = tokio::task::JoinSet::new();
    let ask = |n: u64| {
        let (cluster, host) = (cluster.clone(), host.clone());
        async move { request(&cluster, &host, n, GIVE_UP).await }
    };
    clients.spawn(ask(0));
    let (listener, _held, leave, rest) = upstream.await.unwrap();
    // The peer's settings are here once its limit holds.
    while host.pool(0).lock().main.h2[0].has_place() {
        tokio::task::yield_now().await;
    }
    for n in 1..=3 {
        clients.spawn(ask(n));
    }
    while host.pool(0).lock().main.h2_full.len() < 3 {
        tokio::task::yield_now().await;
    }
    let _ = leave.send(());
    rest.await.unwrap();
    // The second one answers none before all are there.
    let second = async {
        let stream = listener.accept().await.unwrap().0;
        let mut second = h2::server::handshake(stream).await.unwrap();
        let mut asked = Vec::new();
        while asked.len() < 3 {
            asked.push(second.accept().await.unwrap().unwrap().1);
        }
        for mut respond in asked {
            let _ = respond.send_response(http::Response::new(()), true);
        }
        while second.accept().await.is_some() {}
    };
    let answers = async {
        let mut answered = 0;
        while let Some(one) = clients.join_next().await {
            answered += u32::from(one.unwrap());
        }
        assert_eq!(answered, 3, "all but the one whose connection broke");
    };
    let all = async {
        tokio::select! {
            () = second => panic!("the connection ended"),
            () = answers => {}
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all).await.expect("all who wait are asked for at once");
}
