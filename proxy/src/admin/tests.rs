use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::body::Params;
use super::router::route;
use super::*;
use crate::access_log::{AccessLogs, FlushOptions, SinkRegistry};
use crate::config::{
    AccessLog, AccessLogSink, Address, Locality, LogFormat, LogTemplate, Node, RuntimeLayer, RuntimeLayerKind,
};
use crate::runtime::Runtime;
use crate::stats::Store;
use crate::stream_info::PeerAddr;

pub(super) fn sources() -> (Sources, UnboundedReceiver<Command>) {
    let (commands, receiver) = unbounded_channel();
    let stats = Store::new(1, &Default::default());
    let admin = RuntimeLayer { name: "admin".into(), kind: RuntimeLayerKind::Admin };
    let sources = Sources {
        runtime: Runtime::new(&[admin], "", &stats.root()),
        sinks: SinkRegistry::new(&stats.root(), FlushOptions::default()).unwrap(),
        loggers: Arc::new(Loggers::new(Level::Info, |_| {})),
        server: Arc::new(|| server(ServerState::Live)),
        clusters: Arc::new(Vec::new),
        listeners: Arc::new(Vec::new),
        certificates: Arc::new(Vec::new),
        config: Arc::new(ConfigDump::default),
        unready: Arc::new(Vec::new),
        status: Arc::new(ClientStatus::default),
        to_json: Arc::new(|_, _| Ok(json!({}))),
        commands,
        stats,
    };
    (sources, receiver)
}

fn server(state: ServerState) -> ServerInfo {
    ServerInfo {
        version: "abc/0.1.0/Clean/RELEASE/rustls".into(),
        state,
        uptime: Duration::from_secs(5),
        options: CommandLineOptions { concurrency: 2, ..CommandLineOptions::default() },
        node: Node { id: "n1".into(), cluster: "c1".into(), ..Node::default() },
        waits: None,
    }
}

fn ask(sources: &Sources, method: &str, target: &str) -> (u16, String) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let reply = route(sources, &method.parse().unwrap(), path, &Params::parse(query));
    (reply.status.as_u16(), reply.body)
}

fn get(sources: &Sources, target: &str) -> String {
    let (status, body) = ask(sources, "GET", target);
    assert_eq!(status, 200, "{body}");
    body
}

#[test]
fn what_changes_something_wants_post() {
    let (sources, mut commands) = sources();
    let refused = (405, "Method GET not allowed, POST required.".to_owned());
    for path in
        ["/quitquitquit", "/healthcheck/fail", "/drain_listeners", "/reset_counters", "/runtime_modify", "/logging"]
    {
        assert_eq!(ask(&sources, "GET", path), refused, "{path}");
    }
    assert!(commands.try_recv().is_err());
    let ok = (200, "OK\n".to_owned());
    for (path, command) in [
        ("/quitquitquit", Command::Quit),
        ("/healthcheck/fail", Command::FailHealthChecks),
        ("/healthcheck/ok", Command::PassHealthChecks),
        ("/drain_listeners", Command::DrainListeners { graceful: false, skip_exit: false, inbound_only: false }),
        (
            "/drain_listeners?graceful&inboundonly",
            Command::DrainListeners { graceful: true, skip_exit: false, inbound_only: true },
        ),
    ] {
        assert_eq!(ask(&sources, "POST", path), ok, "{path}");
        assert_eq!(commands.try_recv(), Ok(command));
    }
    drop(commands);
    assert_eq!(ask(&sources, "POST", "/quitquitquit").0, 503);
}

#[test]
fn help_and_unknown_paths() {
    let (sources, _commands) = sources();
    let help = get(&sources, "/help");
    assert!(help.starts_with("admin commands are:\n  /: Admin home page\n  /certs: print certs on machine\n"));
    assert!(help.contains("  /cpuprofiler (POST): enable/disable the CPU profiler\n      enable: enables the CPU profiler; One of (y, n)\n"));
    let (status, text) = ask(&sources, "GET", "/nope");
    assert_eq!((status, text), (404, format!("invalid path. {help}")));
    let paths: Vec<_> = router::ENDPOINTS.iter().map(|endpoint| endpoint.path).collect();
    assert!(paths.is_sorted());
    let home = get(&sources, "/");
    assert!(home.contains("<a href='certs'>certs</a>") && home.contains("action='quitquitquit' method='post'"));
}

#[test]
fn states() {
    let (mut sources, _commands) = sources();
    assert_eq!(ask(&sources, "GET", "/ready"), (200, "LIVE\n".into()));
    sources.server = Arc::new(|| server(ServerState::PreInitializing));
    assert_eq!(ask(&sources, "GET", "/ready"), (503, "PRE_INITIALIZING\n".into()));
    let info: Value = serde_json::from_str(&get(&sources, "/server_info")).unwrap();
    assert_eq!(info["state"], "PRE_INITIALIZING");
    assert_eq!((&info["uptime_current_epoch"], &info["node"]["id"]), (&json!("5s"), &json!("n1")));
    assert_eq!(info["command_line_options"]["drain_time"], "600s");
    assert_eq!(info["command_line_options"]["concurrency"], 2);
    assert_eq!(get(&sources, "/init_dump"), "{}\n");
    sources.unready = Arc::new(|| {
        let unready = |name: &str, targets: &[&str]| UnreadyTargets {
            name: name.into(),
            targets: targets.iter().map(|t| (*t).to_owned()).collect(),
        };
        vec![unready("init manager Server", &["cluster a"]), unready("done", &[])]
    });
    let dump: Value = serde_json::from_str(&get(&sources, "/init_dump")).unwrap();
    let expected = json!({"unready_targets_dumps": [{"name": "init manager Server", "target_names": ["cluster a"]}]});
    assert_eq!(dump, expected);
    let memory: Value = serde_json::from_str(&get(&sources, "/memory")).unwrap();
    assert!(memory["total_physical_bytes"].as_str().unwrap().parse::<u64>().unwrap() > 0);
}

fn cluster() -> ClusterStatus {
    let mut sick = HostStatus::new(PeerAddr::Ip("[::1]:1".parse().unwrap()));
    sick.hostname = "foo".into();
    sick.weight = 3;
    sick.canary = true;
    sick.success_rate = Some(99.5);
    sick.health = HealthFlags { failed_active_hc: true, eds_status_draining: true, ..HealthFlags::default() };
    let mut well = HostStatus::new(PeerAddr::Ip("127.0.0.1:36123".parse().unwrap()));
    well.counters = vec![("cx_total", 1), ("rq_error", 0)];
    well.gauges = vec![("cx_active", 1)];
    well.locality = Locality { region: "r".into(), zone: "z".into(), sub_zone: String::new() };
    ClusterStatus {
        name: "up".into(),
        observability_name: "up".into(),
        outlier: Some(OutlierThresholds::default()),
        default_priority: Thresholds { max_connections: 7, ..Thresholds::default() },
        hosts: vec![sick, well],
        ..ClusterStatus::default()
    }
}

#[test]
fn clusters_in_text() {
    let (mut sources, _commands) = sources();
    sources.clusters = Arc::new(|| vec![cluster()]);
    let expected = "up::observability_name::up
up::outlier::success_rate_average::-1
up::outlier::success_rate_ejection_threshold::-1
up::outlier::local_origin_success_rate_average::-1
up::outlier::local_origin_success_rate_ejection_threshold::-1
up::default_priority::max_connections::7
up::default_priority::max_pending_requests::1024
up::default_priority::max_requests::1024
up::default_priority::max_retries::3
up::high_priority::max_connections::1024
up::high_priority::max_pending_requests::1024
up::high_priority::max_requests::1024
up::high_priority::max_retries::3
up::added_via_api::false
up::[::1]:1::hostname::foo
up::[::1]:1::health_flags::/failed_active_hc/eds_status_draining
up::[::1]:1::weight::3
up::[::1]:1::region::
up::[::1]:1::zone::
up::[::1]:1::sub_zone::
up::[::1]:1::canary::true
up::[::1]:1::priority::0
up::[::1]:1::success_rate::99.5
up::[::1]:1::local_origin_success_rate::-1
up::127.0.0.1:36123::cx_active::1
up::127.0.0.1:36123::cx_total::1
up::127.0.0.1:36123::rq_error::0
up::127.0.0.1:36123::hostname::
up::127.0.0.1:36123::health_flags::healthy
up::127.0.0.1:36123::weight::1
up::127.0.0.1:36123::region::r
up::127.0.0.1:36123::zone::z
up::127.0.0.1:36123::sub_zone::
up::127.0.0.1:36123::canary::false
up::127.0.0.1:36123::priority::0
up::127.0.0.1:36123::success_rate::-1
up::127.0.0.1:36123::local_origin_success_rate::-1
";
    assert_eq!(get(&sources, "/clusters"), expected);
    assert_eq!(get(&sources, "/clusters?filter=nope"), "");
    assert_eq!(ask(&sources, "GET", "/clusters?filter=%5B"), (400, "Invalid re2 regex".into()));
}

#[test]
fn clusters_in_json() {
    let (mut sources, _commands) = sources();
    sources.clusters = Arc::new(|| vec![cluster()]);
    let json: Value = serde_json::from_str(&get(&sources, "/clusters?format=json")).unwrap();
    let limits = |priority: Option<&str>, connections: u32| {
        let mut limits = json!({
            "max_connections": connections, "max_pending_requests": 1024, "max_requests": 1024, "max_retries": 3
        });
        if let Some(priority) = priority {
            limits["priority"] = json!(priority);
        }
        limits
    };
    let expected = json!({"cluster_statuses": [{
        "name": "up",
        "host_statuses": [
            {
                "address": {"socket_address": {"address": "::1", "port_value": 1}},
                "stats": [],
                "health_status": {"failed_active_health_check": true, "eds_health_status": "DRAINING"},
                "success_rate": {"value": 99.5},
                "weight": 3,
                "hostname": "foo",
                "locality": {},
            },
            {
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": 36123}},
                "stats": [
                    {"name": "cx_total", "value": "1"},
                    {"name": "rq_error"},
                    {"name": "cx_active", "type": "GAUGE", "value": "1"},
                ],
                "health_status": {"eds_health_status": "HEALTHY"},
                "weight": 1,
                "locality": {"region": "r", "zone": "z"},
            },
        ],
        "circuit_breakers": {"thresholds": [limits(None, 7), limits(Some("HIGH"), 1024)]},
        "observability_name": "up",
    }]});
    assert_eq!(json, expected);
    sources.clusters = Arc::new(Vec::new);
    assert_eq!(get(&sources, "/clusters?format=json"), "{}\n");
}

#[test]
fn listeners_and_certificates() {
    let (mut sources, _commands) = sources();
    sources.listeners = Arc::new(|| vec![ListenerStatus::new("main", "127.0.0.1:37823".parse().unwrap())]);
    assert_eq!(get(&sources, "/listeners"), "main::127.0.0.1:37823\n");
    let expected = json!({"listener_statuses": [{
        "name": "main", "local_address": {"socket_address": {"address": "127.0.0.1", "port_value": 37823}}
    }]});
    let json: Value = serde_json::from_str(&get(&sources, "/listeners?format=json")).unwrap();
    assert_eq!(json, expected);
    let names = vec!["a.example".to_owned(), "127.0.0.1".to_owned()];
    let key = rcgen::generate_simple_self_signed(names).unwrap();
    let details = CertificateDetails::from_der("/c.pem", key.cert.der()).unwrap();
    assert_eq!(details.names, [SubjectName::Dns("a.example".into()), SubjectName::IpAddress("127.0.0.1".into())]);
    assert_eq!(details.days_left(details.not_after - Duration::from_secs(86_400 * 29 + 5)), 29);
    assert_eq!(details.days_left(details.not_after + Duration::from_secs(1)), 0);
    sources.certificates = Arc::new(move || vec![CertificateGroup { ca: Vec::new(), chain: vec![details.clone()] }]);
    let json: Value = serde_json::from_str(&get(&sources, "/certs")).unwrap();
    let shown = &json["certificates"][0]["cert_chain"][0];
    assert_eq!((&shown["path"], &shown["subject_alt_names"][0]), (&json!("/c.pem"), &json!({"dns": "a.example"})));
    assert!(json["certificates"][0].get("ca_cert").is_none());
}

#[test]
fn stats_in_every_format() {
    let (sources, _commands) = sources();
    let counter = sources.stats.root().scope("a").counter("x");
    counter.add(3);
    assert_eq!(get(&sources, "/stats?filter=%5Ea%5C."), "a.x: 3\n");
    assert_eq!(get(&sources, "/stats?filter=%5Ea%5C.&format=json"), "{\"stats\":[{\"name\":\"a.x\",\"value\":3}]}");
    assert_eq!(get(&sources, "/stats/prometheus?filter=%5Ea%5C."), "# TYPE envoy_a_x counter\nenvoy_a_x{} 3\n");
    assert!(get(&sources, "/stats?filter=%5Ea%5C.&format=html").contains("<pre>\na.x: 3\n</pre>"));
    assert_eq!(ask(&sources, "GET", "/stats?type=foo"), (400, "invalid &type= param".into()));
    let usage = "usage: /stats?format=(html|active-html|json|prometheus|text)\n\n";
    assert_eq!(ask(&sources, "GET", "/stats?format=foo"), (400, usage.into()));
    assert_eq!(ask(&sources, "GET", "/stats?histogram_buckets=x").0, 400);
    assert_eq!(ask(&sources, "GET", "/stats/prometheus?histogram_buckets=detailed").0, 400);
    assert_eq!(ask(&sources, "POST", "/reset_counters"), (200, "OK\n".into()));
    assert_eq!(counter.value(), 0);
    assert!(get(&sources, "/stats/recentlookups").ends_with("total: 0\n"));
}

#[test]
fn runtime_values_and_log_levels() {
    let (mut sources, _commands) = sources();
    let number = sources.runtime.integer("k", 1);
    assert_eq!(ask(&sources, "POST", "/runtime_modify?k=7"), (200, "OK\n".into()));
    assert_eq!(number.get(), 7);
    let shown = "{\n \"entries\": {\n  \"k\": {\n   \"final_value\": \"7\",\n   \"layer_values\": [\n    \"7\"\n   ]\n  }\n },\n \
                 \"layers\": [\n  \"admin\"\n ]\n}\n";
    assert_eq!(get(&sources, "/runtime"), shown);
    let (status, usage) = ask(&sources, "POST", "/runtime_modify");
    assert!(status == 400 && usage.starts_with("usage: /runtime_modify?key1=value1"), "{usage}");
    sources.runtime = Runtime::none();
    assert_eq!(ask(&sources, "POST", "/runtime_modify?k=7"), (503, "No admin layer specified".into()));
    let (status, levels) = ask(&sources, "POST", "/logging?level=debug");
    assert!(status == 200 && levels.starts_with("active loggers:\n  admin: debug\n"), "{levels}");
    let (status, error) = ask(&sources, "POST", "/logging?level=x");
    assert!(
        status == 400 && error.starts_with("error: unknown logger level\n\nusage: /logging?<name>=<level>"),
        "{error}"
    );
}

async fn exchange(address: &PeerAddr, request: &str) -> String {
    let PeerAddr::Ip(address) = address else { panic!("not an IP address") };
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut out = String::new();
    stream.read_to_string(&mut out).await.unwrap();
    out
}

#[tokio::test]
async fn over_the_wire() {
    let (sources, _commands) = sources();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.log");
    let log = AccessLog {
        name: "f".into(),
        filter: None,
        sink: AccessLogSink::File(path.to_str().unwrap().into()),
        format: LogFormat {
            template: LogTemplate::Text(
                "%REQ(:METHOD)% %REQ(:PATH)% %REQ(:AUTHORITY)% %RESPONSE_CODE% %BYTES_SENT%\n".into(),
            ),
            omit_empty_values: false,
            sort_properties: None,
            content_type: None,
        },
    };
    let logs = AccessLogs::compile(&[log], &sources.sinks, &sources.runtime).unwrap();
    let admin = AdminServer::bind(&Address::Ip("127.0.0.1:0".parse().unwrap())).await.unwrap();
    let address = admin.local_address().clone();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(admin.serve(sources.clone(), logs, async { drop(stopped.await) }));
    let answer = exchange(&address, "GET /ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=UTF-8\r\n"), "{answer}");
    for header in ["cache-control: no-cache, max-age=0", "x-content-type-options: nosniff", "server: envoy", "date: "] {
        assert!(answer.contains(header), "{answer}");
    }
    assert!(answer.ends_with("\r\n\r\nLIVE\n"), "{answer}");
    let form = "POST /runtime_modify HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 7\r\n\r\nk=x+%2B";
    assert!(exchange(&address, form).await.ends_with("OK\n"));
    assert_eq!(sources.runtime.snapshot().get("k"), Some("x +"));
    sources.sinks.flush_all();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "GET /ready a 200 5\nPOST /runtime_modify a 200 3\n");
    assert_eq!(sources.stats.value("http.admin.downstream_rq_2xx"), Some(2));
    stop.send(()).unwrap();
    server.await.unwrap();
    assert_eq!(sources.stats.value("http.admin.downstream_cx_active"), None, "gone with the server");
}

#[tokio::test]
async fn on_a_unix_socket() {
    let (sources, _commands) = sources();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let address = Address::Pipe { path: path.to_str().unwrap().into(), mode: 0o600 };
    drop(AdminServer::bind(&address).await.unwrap());
    let admin = AdminServer::bind(&address).await.unwrap();
    tokio::spawn(admin.serve(sources, AccessLogs::default(), std::future::pending()));
    let stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut client, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("/ready").header("host", "a").body(String::new()).unwrap();
    let body = client.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "LIVE\n");
}
