//! The port, with an application beside it that does well, badly, or nothing.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::Response;
use http_body_util::{Full, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::config::StatsConfig;

/// An application: what it answers to a path; `None`: nothing, ever.
async fn app(answer: impl Fn(&str) -> Option<(u16, Bytes)> + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            let service = service_fn(move |request: http::Request<Incoming>| {
                let answer = answer.clone();
                async move {
                    let Some((status, body)) = answer(request.uri().path()) else {
                        return std::future::pending().await;
                    };
                    let mut response = Response::new(Full::new(body));
                    *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
                    for (name, value) in request.headers() {
                        if name.as_str().starts_with("x-") || name == "host" {
                            response
                                .headers_mut()
                                .append(http::HeaderName::try_from(format!("seen-{name}")).unwrap(), value.clone());
                        }
                    }
                    Ok::<_, Infallible>(response)
                }
            });
            let io = TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
        }
    });
    port
}

struct Running {
    port: u16,
    ready: Arc<AtomicBool>,
    commands: mpsc::UnboundedReceiver<Command>,
    stats: Arc<Store>,
    /// A metric is there as long as somebody has it.
    _own: crate::stats::Counter,
}

async fn start(metrics: Option<(u16, &str)>, probes: &str) -> Running {
    let beside = Beside {
        port: 0,
        metrics: metrics.map(|(port, path)| AppMetrics { port, path: path.to_owned() }),
        probes: config::probers(probes).unwrap(),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        from: None,
    };
    let stats = Store::new(1, &StatsConfig::default());
    let own = stats.root().counter("server.of_the_proxy");
    own.inc();
    let agent = Agent::bind(beside).await.unwrap();
    let port = agent.listener.local_addr().unwrap().port();
    let ready = Arc::new(AtomicBool::new(false));
    let (told, (send, commands)) = (ready.clone(), mpsc::unbounded_channel());
    let is_ready: Ready =
        Arc::new(move || if told.load(Ordering::Relaxed) { Ok(()) } else { Err("not yet".to_owned()) });
    tokio::spawn(agent.serve(stats.clone(), is_ready, send));
    Running { port, ready, commands, stats, _own: own }
}

impl Running {
    async fn ask(&self, method: &str, path: &str, headers: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let text = format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer)
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path, "").await
    }
}

#[tokio::test]
async fn metrics_of_both_are_one_page() {
    let own =
        app(|path| Some((200, Bytes::from(format!("# TYPE app_x counter\napp_x{{path=\"{path}\"}} 1\n# EOF"))))).await;
    let agent = start(Some((own, "/m?x=1")), "{}").await;
    let (status, page) = agent.get("/stats/prometheus").await;
    assert_eq!(status, 200);
    assert!(page.contains("envoy_server_of_the_proxy{} 1\n") && page.contains("app_x{path=\"/m\"} 1\n"), "{page}");
    assert!(!page.contains("EOF"), "{page}");
    assert_eq!(agent.stats.value("agent.app_scrape"), Some(1));
}

#[tokio::test]
async fn an_application_that_fails_costs_the_proxy_nothing() {
    let silent = app(|_| None).await;
    let failing = app(|_| Some((500, Bytes::from_static(b"app_x 1\n")))).await;
    let large = app(|_| Some((200, Bytes::from(vec![b'x'; (16 << 20) + 1])))).await;
    for port in [silent, failing, large, 1] {
        let agent = start(Some((port, "/metrics")), "{}").await;
        let (status, page) =
            agent.ask("GET", "/stats/prometheus", "x-prometheus-scrape-timeout-seconds: 0.5\r\n").await;
        assert_eq!(status, 200, "{port}");
        assert!(page.contains("envoy_server_of_the_proxy{} 1\n") && !page.contains("app_x"), "{page}");
        assert_eq!(agent.stats.value("agent.app_scrape_failure"), Some(1), "{port}");
    }
}

#[tokio::test]
async fn probes_ask_the_application() {
    let own = app(|path| match path {
        "/well" => Some((204, Bytes::new())),
        "/ill" => Some((503, Bytes::new())),
        _ => None,
    })
    .await;
    let probes = serde_json::json!({
        "/app-health/a/readyz": {"httpGet": {"path": "/well", "port": own, "httpHeaders": [{"name": "x-a", "value": "b"}]}},
        "/app-health/a/livez": {"httpGet": {"path": "/ill", "port": own.to_string()}, "timeoutSeconds": 2},
        "/app-health/a/startupz": {"httpGet": {"path": "/silent", "port": own}, "timeoutSeconds": 1},
        "/app-health/b/readyz": {"tcpSocket": {"port": own}},
        "/app-health/b/livez": {"tcpSocket": {"port": 1}},
    });
    let agent = start(None, &probes.to_string()).await;
    assert_eq!(agent.get("/app-health/a/readyz").await.0, 204);
    assert_eq!(agent.get("/app-health/a/livez").await.0, 503);
    let (status, text) = agent.get("/app-health/a/startupz").await;
    assert_eq!(status, 500);
    assert!(text.contains("no answer in time"), "{text}");
    assert_eq!(agent.get("/app-health/b/readyz").await.0, 200);
    assert_eq!(agent.get("/app-health/b/livez").await.0, 500);
    assert_eq!(agent.get("/app-health/c/livez").await.0, 404);
    assert_eq!(agent.stats.value("agent.app_probe"), Some(5));
    assert_eq!(agent.stats.value("agent.app_probe_failure"), Some(3));
}

#[tokio::test]
async fn probes_of_grpc() {
    // A server of gRPC's health service: well for one service, and unknown for others.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request: http::Request<Incoming>| async move {
                let body = http_body_util::BodyExt::collect(request.into_body()).await.unwrap().to_bytes();
                let is_well = body.ends_with(b"well");
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", http::HeaderValue::from_static(if is_well { "0" } else { "5" }));
                let mut bytes = vec![0, 0, 0, 0, 2];
                bytes.extend([8, 1]);
                let frames = [
                    Ok::<_, Infallible>(hyper::body::Frame::data(Bytes::from(bytes))),
                    Ok(hyper::body::Frame::trailers(trailers)),
                ];
                Ok::<_, Infallible>(Response::new(StreamBody::new(futures_util::stream::iter(frames))))
            });
            let executor = hyper_util::rt::TokioExecutor::new();
            let http = hyper::server::conn::http2::Builder::new(executor);
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
        }
    });
    let probes = serde_json::json!({
        "/app-health/a/readyz": {"grpc": {"port": port, "service": "well"}},
        "/app-health/a/livez": {"grpc": {"port": port, "service": "other"}},
        "/app-health/a/startupz": {"grpc": {"port": 1}},
    });
    let agent = start(None, &probes.to_string()).await;
    assert_eq!(agent.get("/app-health/a/readyz").await.0, 200);
    assert_eq!(agent.get("/app-health/a/livez").await.0, 500);
    assert_eq!(agent.get("/app-health/a/startupz").await.0, 500);
}

#[tokio::test]
async fn readiness_and_the_end() {
    let mut agent = start(None, "{}").await;
    assert_eq!(agent.get("/healthz/ready").await.0, 503);
    agent.ready.store(true, Ordering::Relaxed);
    assert_eq!(agent.get("/healthz/ready").await.0, 200);
    assert_eq!(agent.get("/quitquitquit").await.0, 405);
    assert_eq!(agent.get("/other").await.0, 404);
    assert!(agent.commands.try_recv().is_err());
    assert_eq!(agent.ask("POST", "/quitquitquit", "content-length: 0\r\n").await.0, 200);
    assert!(matches!(agent.commands.recv().await, Some(Command::Quit)));
}

#[test]
fn what_the_injector_says_is_checked() {
    let scrape = |text: &str| config::annotations(text, 15020);
    let wanted = AppMetrics { port: 9080, path: "/m".into() };
    assert_eq!(scrape(r#"{"scrape": "true", "port": "9080", "path": "m"}"#), Ok(Some(wanted)));
    assert_eq!(scrape(r#"{"scrape": "false", "port": "9080"}"#), Ok(None));
    assert_eq!(scrape("{}"), Ok(None));
    assert_eq!(scrape(r#"{"scrape": true}"#), Ok(Some(AppMetrics { port: 80, path: "/metrics".into() })));
    for bad in [
        r#"{"scrape": "true", "port": "15020"}"#,
        r#"{"scrape": "true", "port": "x"}"#,
        "[",
        r#"{"scrape": "true", "path": "a b"}"#,
    ] {
        assert!(scrape(bad).is_err(), "{bad}");
    }
    for bad in [
        r#"{"/app-health/a/other": {"tcpSocket": {"port": 1}}}"#,
        r#"{"/app-health//livez": {"tcpSocket": {"port": 1}}}"#,
        r#"{"/app-health/a/livez": {}}"#,
        r#"{"/app-health/a/livez": {"tcpSocket": {"port": 0}}}"#,
        r#"{"/app-health/a/livez": {"tcpSocket": {"port": 1}, "grpc": {"port": 1}}}"#,
        r#"{"/app-health/a/livez": {"httpGet": {"port": 1, "scheme": "FTP"}}}"#,
        r#"{"/app-health/a/livez": {"httpGet": {"port": 1, "httpHeaders": [{"name": "a b"}]}}}"#,
    ] {
        assert!(config::probers(bad).is_err(), "{bad}");
    }
}
