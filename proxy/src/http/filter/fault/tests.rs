//! What is planned for a request, and what becomes of it in a connection manager, in virtual time.

use std::num::NonZeroU64;
use std::time::Duration;

use http::{HeaderName, Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;
use crate::app::Parts;
use crate::cluster::fixture;
use crate::config::from_file::{self, LoadOptions};
use crate::config::{HttpConnectionManager, HttpFilterKind, NetworkFilterKind};
use crate::http::HeaderMap;
use crate::http::connection::{HttpConn, Reply};
use crate::http::head::{RequestHead, Scheme};
use crate::http::manager::Manager;
use crate::stream_info::{ConnInfo, ListenerInfo, PeerAddr, Protocol};

const FAULT: &str = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";

type Headers = &'static [(&'static str, &'static str)];

fn with_type(mut fields: Value) -> Value {
    fields["@type"] = FAULT.into();
    fields
}

/// A connection manager with this fault filter and these fields of its one route.
fn manager(fault: Value, route: Value) -> HttpConnectionManager {
    let mut routes = json!([{ "match": { "prefix": "/" }, "direct_response": { "status": 200, "body": { "inline_string": "hello" } } }]);
    for (name, value) in route.as_object().unwrap() {
        routes[0][name] = value.clone();
    }
    let extensions = "type.googleapis.com/envoy.extensions.filters";
    let hcm = json!({
        "@type": format!("{extensions}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "p",
        "stream_idle_timeout": "20s",
        "route_config": { "virtual_hosts": [{ "name": "v", "domains": ["*"], "routes": routes }] },
        "http_filters": [
            { "name": "my-fault", "typed_config": with_type(fault) },
            { "name": "router", "typed_config": { "@type": format!("{extensions}.http.router.v3.Router") } },
        ],
    });
    let all = json!({ "static_resources": { "listeners": [{
        "name": "l",
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": 1 } },
        "filter_chains": [{ "filters": [{ "name": "hcm", "typed_config": hcm }] }],
    }] } });
    let loaded = from_file::load(None, Some(&all.to_string()), &LoadOptions::default()).unwrap();
    let mut listener = loaded.bootstrap.listeners.into_iter().next().unwrap();
    match listener.filter_chains.remove(0).filters.remove(0).kind {
        NetworkFilterKind::Http(m) => *m,
        other => panic!("{other:?}"),
    }
}

fn head(headers: &[(&'static str, &str)]) -> RequestHead {
    let pairs = headers.iter().map(|(n, v)| (HeaderName::from_static(n), v.parse().unwrap()));
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: Some("a".parse().unwrap()),
        path: "/p?q".into(),
        headers: pairs.collect::<HeaderMap>(),
        protocol: Protocol::Http11,
        upgrade: None,
        spelling: None,
    }
}

fn config(fields: Value) -> config::Fault {
    match manager(fields, json!({})).filters.into_iter().next().unwrap().kind {
        HttpFilterKind::Fault(f) => *f,
        other => panic!("{other:?}"),
    }
}

fn runtime(values: Value) -> Arc<Runtime> {
    let values = values.as_object().unwrap().clone().into_iter().collect();
    let layer = config::RuntimeLayer { name: "l".into(), kind: config::RuntimeLayerKind::Static(values) };
    Runtime::new(&[layer], "", &crate::stats::Store::new(1, &Default::default()).root())
}

/// What is planned of a request under these settings and runtime values; a nothing is an empty plan.
fn plan(fields: Value, values: Value, headers: &[(&'static str, &str)]) -> Plan {
    let runtime = runtime(values);
    let settings = Settings::new(&config(fields), &runtime);
    settings.plan(&head(headers), || Some("c"), &runtime, 7).unwrap_or_default()
}

fn all() -> Value {
    json!({ "numerator": 100 })
}

fn delayed(p: &Plan) -> Option<u64> {
    p.delay.map(|d| d.as_millis() as u64)
}

fn status(p: &Plan) -> Option<u16> {
    p.abort.as_ref().map(|a| a.status.as_u16())
}

#[test]
fn what_a_request_must_have() {
    let with = |field: &str, value: Value| {
        let mut fields = json!({ "abort": { "http_status": 503, "percentage": all() } });
        fields[field] = value;
        fields
    };
    const NODE: &str = "x-envoy-downstream-service-node";
    let cases: [(Value, Headers, bool); 7] = [
        (with("upstream_cluster", json!("c")), &[], true),
        (with("upstream_cluster", json!("d")), &[], false),
        (with("downstream_nodes", json!(["n1", "n2"])), &[], false),
        (with("downstream_nodes", json!(["n1", "n2"])), &[(NODE, "n2")], true),
        (with("downstream_nodes", json!(["n1", "n2"])), &[(NODE, "n3")], false),
        (with("headers", json!([{ "name": "x", "string_match": { "exact": "1" } }])), &[("x", "1")], true),
        (with("headers", json!([{ "name": ":path", "string_match": { "prefix": "/other" } }])), &[], false),
    ];
    for (fields, headers, hit) in cases {
        assert_eq!(plan(fields.clone(), json!({}), headers).abort.is_some(), hit, "{fields} {headers:?}");
    }
}

#[test]
fn shares_by_configuration_runtime_and_header() {
    let fixed = |n: u32, of: &str| json!({ "delay": { "fixed_delay": "2s", "percentage": { "numerator": n, "denominator": of } } });
    let runtime = runtime(json!({}));
    let settings = Settings::new(&config(fixed(2_500, "TEN_THOUSAND")), &runtime);
    let hits = |settings: &Settings, headers: &[(&'static str, &str)]| {
        let request = head(headers);
        (0..20_000)
            .filter(|n| settings.plan(&request, || None, &runtime, crate::cluster::lb::mix(*n)).is_some())
            .count()
    };
    let quarter = hits(&settings, &[]);
    assert!((4_750..5_250).contains(&quarter), "a quarter of 20000 is not {quarter}");

    let key = "fault.http.delay.fixed_delay_percent";
    assert_eq!(delayed(&plan(fixed(0, "HUNDRED"), json!({ key: 100 }), &[])), Some(2000));
    assert_eq!(delayed(&plan(fixed(100, "HUNDRED"), json!({ key: 0 }), &[])), None);
    let mut own = fixed(0, "HUNDRED");
    own["delay_percent_runtime"] = "mine".into();
    assert_eq!(delayed(&plan(own.clone(), json!({ "mine": 100 }), &[])), Some(2000));
    assert_eq!(delayed(&plan(own, json!({ key: 100 }), &[])), None, "one key, not two");

    // A header takes away from the share and never adds to it; it is asked only where the fault is the header's, too.
    let by_header =
        json!({ "delay": { "header_delay": {}, "percentage": { "numerator": 50, "denominator": "HUNDRED" } } });
    let settings = Settings::new(&config(by_header), &runtime);
    let (wanted, share) = ("x-envoy-fault-delay-request", "x-envoy-fault-delay-request-percentage");
    assert_eq!(hits(&settings, &[(wanted, "5"), (share, "0")]), 0);
    for more in ["100", "18446744073709551615"] {
        let half = hits(&settings, &[(wanted, "5"), (share, more)]);
        assert!((9_700..10_300).contains(&half), "{half}");
    }
    let garbage = hits(&settings, &[(wanted, "5"), (share, "x")]);
    assert!((9_700..10_300).contains(&garbage), "{garbage}");
    assert_eq!(hits(&Settings::new(&config(fixed(100, "HUNDRED")), &runtime), &[(share, "0")]), 20_000);
}

#[test]
fn delays() {
    let fixed = || json!({ "delay": { "fixed_delay": "1.5s", "percentage": all() } });
    let by_header = || json!({ "delay": { "header_delay": {}, "percentage": all() } });
    let key = "fault.http.delay.fixed_duration_ms";
    assert_eq!(delayed(&plan(fixed(), json!({}), &[])), Some(1500));
    assert_eq!(delayed(&plan(fixed(), json!({ key: 20 }), &[])), Some(20));
    assert_eq!(delayed(&plan(fixed(), json!({ key: 0 }), &[])), None);
    let header = "x-envoy-fault-delay-request";
    for (given, wanted) in [("30", Some(30)), ("0", None), ("-1", None), ("1s", None), ("", None)] {
        assert_eq!(delayed(&plan(by_header(), json!({}), &[(header, given)])), wanted, "{given}");
    }
    assert_eq!(delayed(&plan(by_header(), json!({ key: 20 }), &[])), None, "no header, no delay");
    assert_eq!(delayed(&plan(by_header(), json!({ key: 20 }), &[(header, "30")])), Some(20));
    assert_eq!(delayed(&plan(fixed(), json!({}), &[(header, "30")])), Some(1500));
}

#[test]
fn aborts() {
    let abort = |error: Value| {
        let mut abort = json!({ "percentage": all() });
        for (name, value) in error.as_object().unwrap() {
            abort[name] = value.clone();
        }
        json!({ "abort": abort })
    };
    let (http, grpc) = ("fault.http.abort.http_status", "fault.http.abort.grpc_status");
    assert_eq!(status(&plan(abort(json!({ "http_status": 418 })), json!({}), &[])), Some(418));
    assert_eq!(status(&plan(abort(json!({ "http_status": 418 })), json!({ http: 501 }), &[])), Some(501));
    assert_eq!(
        status(&plan(abort(json!({ "http_status": 418 })), json!({ http: 99 }), &[])),
        Some(418),
        "99 ends nothing"
    );
    let code = |p: Plan| p.abort.and_then(|a| a.grpc_status);
    assert_eq!(code(plan(abort(json!({ "grpc_status": 5 })), json!({}), &[])), Some(5));
    assert_eq!(code(plan(abort(json!({ "grpc_status": 5 })), json!({ grpc: 7 }), &[])), Some(7));
    let by_header = || abort(json!({ "header_abort": {} }));
    let (ask_http, ask_grpc) = ("x-envoy-fault-abort-request", "x-envoy-fault-abort-grpc-request");
    for (given, wanted) in [("429", Some(429)), ("199", None), ("600", None), ("x", None)] {
        assert_eq!(status(&plan(by_header(), json!({}), &[(ask_http, given)])), wanted, "{given}");
    }
    assert_eq!(code(plan(by_header(), json!({}), &[(ask_grpc, "12")])), Some(12));
    assert_eq!(code(plan(by_header(), json!({}), &[(ask_http, "429"), (ask_grpc, "12")])), None, "HTTP goes first");
    assert_eq!(plan(by_header(), json!({}), &[]), Plan::default());
    let body = plan(abort(json!({ "http_status": 500, "response_body": "no" })), json!({}), &[]).abort.unwrap().body;
    assert_eq!(&body[..], b"no");
}

#[test]
fn a_client_has_keys_of_its_own() {
    let fields = || {
        json!({
            "delay": { "fixed_delay": "1s", "percentage": all() },
            "abort": { "http_status": 503, "percentage": all() },
        })
    };
    let from = |cluster| [(DOWNSTREAM_CLUSTER, cluster)];
    let values = || {
        json!({
            "fault.http.b.delay.fixed_delay_percent": 0,
            "fault.http.b.abort.http_status": 501,
            "fault.http.c.delay.fixed_duration_ms": 5,
            "fault.http.c.abort.abort_percent": 0,
            "fault.http.delay.fixed_duration_ms": 7,
            "fault.http.abort.http_status": 502,
        })
    };
    let p = plan(fields(), values(), &[]);
    assert_eq!((delayed(&p), status(&p)), (Some(7), Some(502)));
    let p = plan(fields(), values(), &from("b"));
    assert_eq!((delayed(&p), status(&p)), (None, Some(501)));
    let p = plan(fields(), values(), &from("c"));
    assert_eq!((delayed(&p), status(&p)), (Some(5), None));
    // The status of all counts for no client that has a name.
    let p = plan(fields(), values(), &from("d"));
    assert_eq!((delayed(&p), status(&p)), (Some(7), Some(503)));
}

#[test]
fn rates() {
    let fixed = json!({ "response_rate_limit": { "fixed_limit": { "limit_kbps": 3 }, "percentage": all() } });
    assert_eq!(plan(fixed.clone(), json!({}), &[]).rate, NonZeroU64::new(3072));
    assert_eq!(plan(fixed, json!({ "fault.http.rate_limit.response_percent": 0 }), &[]).rate, None);
    let by_header = || json!({ "response_rate_limit": { "header_limit": {}, "percentage": all() } });
    let header = "x-envoy-fault-throughput-response";
    for (given, wanted) in [("2", 2048), ("0", 0), ("x", 0), ("18446744073709551615", u64::MAX)] {
        assert_eq!(plan(by_header(), json!({}), &[(header, given)]).rate, NonZeroU64::new(wanted), "{given}");
    }
}

/// A connection manager that runs, and its surroundings.
struct Scene {
    conn: Arc<HttpConn>,
    parts: Parts,
}

impl Scene {
    fn new(fault: Value, route: Value) -> Self {
        let parts = fixture::parts(1);
        let manager = Manager::new(manager(fault, route), &parts).unwrap();
        let address = |a: &str| PeerAddr::Ip(a.parse().unwrap());
        let listener = Arc::new(ListenerInfo::default());
        let info = ConnInfo::new(1, address("127.0.0.1:9"), address("127.0.0.1:1"), listener);
        let conn = HttpConn { manager, info: Arc::new(info), worker: 0, drain: parts.drain.clone() };
        Scene { conn: Arc::new(conn), parts }
    }

    async fn request(&self, headers: &[(&'static str, &str)]) -> Reply {
        self.conn.clone().handle(head(headers), Body::Empty, 0, Arc::default()).await
    }

    fn stat(&self, name: &str) -> u64 {
        self.parts.stats.root().counter(&format!("http.p.fault.{name}")).value()
    }

    fn active(&self) -> u64 {
        self.parts.stats.root().gauge("http.p.fault.active_faults").value()
    }
}

async fn text(reply: &mut Reply) -> String {
    let mut all = Vec::new();
    while let Some(Ok(crate::http::body::Frame::Data(data))) = reply.body.frame().await {
        all.extend_from_slice(&data);
    }
    String::from_utf8(all).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_delay_and_then_an_error() {
    let scene = Scene::new(
        json!({
            "delay": { "fixed_delay": "7s", "percentage": all() },
            "abort": { "http_status": 555, "percentage": all() },
        }),
        json!({}),
    );
    let began = Instant::now();
    let mut reply = scene.request(&[(DOWNSTREAM_CLUSTER, "me")]).await;
    assert_eq!(began.elapsed(), Duration::from_secs(7));
    assert_eq!((reply.head.status.as_u16(), text(&mut reply).await.as_str()), (555, "fault filter abort"));
    assert_eq!((scene.stat("delays_injected"), scene.stat("aborts_injected")), (1, 1));
    assert_eq!((scene.stat("me.delays_injected"), scene.stat("me.aborts_injected")), (1, 1));
    assert_eq!(scene.active(), 1, "active until the stream ends, and counted once");
    drop(reply);
    assert_eq!(scene.active(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_ends_its_fault() {
    let scene = Scene::new(json!({ "delay": { "fixed_delay": "7s", "percentage": all() } }), json!({}));
    let gone = tokio::time::timeout(Duration::from_secs(1), scene.request(&[])).await;
    assert!(gone.is_err());
    assert_eq!((scene.stat("delays_injected"), scene.active()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn no_more_faults_than_allowed() {
    let scene =
        Scene::new(json!({ "max_active_faults": 1, "abort": { "http_status": 500, "percentage": all() } }), json!({}));
    let first = scene.request(&[]).await;
    let second = scene.request(&[]).await;
    assert_eq!((first.head.status, second.head.status), (StatusCode::INTERNAL_SERVER_ERROR, StatusCode::OK));
    assert_eq!((scene.stat("aborts_injected"), scene.stat("faults_overflow"), scene.active()), (1, 1, 1));
    drop(first);
    assert_eq!(scene.request(&[]).await.head.status, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test(start_paused = true)]
async fn routes_have_the_last_word() {
    let none = || with_type(json!({}));
    let abort = |status: u16| json!({ "abort": { "http_status": status, "percentage": all() } });
    let of_route = |settings: Value| json!({ "typed_per_filter_config": { "my-fault": settings } });
    let scene = Scene::new(abort(500), of_route(none()));
    assert_eq!(scene.request(&[]).await.head.status, StatusCode::OK);
    let scene = Scene::new(json!({}), of_route(with_type(abort(501))));
    assert_eq!(scene.request(&[]).await.head.status, StatusCode::NOT_IMPLEMENTED);
    let off = json!({ "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true });
    let scene = Scene::new(abort(500), of_route(off));
    assert_eq!(scene.request(&[]).await.head.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn errors_in_grpc() {
    let abort = |error: &str, code: u32| json!({ "abort": { error: code, "percentage": all() } });
    let grpc = [("content-type", "application/grpc")];
    let field = |reply: &Reply, name: &str| reply.head.headers.get(name).map(|v| v.to_str().unwrap().to_owned());
    for (fault, code) in [(abort("grpc_status", 5), "5"), (abort("http_status", 503), "14")] {
        let reply = Scene::new(fault, json!({})).request(&grpc).await;
        assert_eq!(reply.head.status, StatusCode::OK);
        assert_eq!(field(&reply, "grpc-status").as_deref(), Some(code));
        assert_eq!(field(&reply, "grpc-message").as_deref(), Some("fault filter abort"));
    }
    let reply = Scene::new(abort("grpc_status", 5), json!({})).request(&[]).await;
    assert_eq!((reply.head.status, field(&reply, "grpc-status")), (StatusCode::OK, None));
}

#[tokio::test(start_paused = true)]
async fn answers_go_out_slowly() {
    let body = "x".repeat(2000);
    let direct = json!({ "direct_response": { "status": 200, "body": { "inline_string": body } } });
    let limit = json!({ "response_rate_limit": { "fixed_limit": { "limit_kbps": 1 }, "percentage": all() } });
    let scene = Scene::new(limit, direct);
    let began = Instant::now();
    let mut reply = scene.request(&[]).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(text(&mut reply).await.len(), 2000);
    let took = began.elapsed().as_millis();
    assert!((1850..=2000).contains(&took), "2000 bytes at 1024 a second took {took} ms");
    assert_eq!((scene.stat("response_rl_injected"), scene.active()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn names_of_clients_are_counted_up_to_a_limit() {
    let scene = Scene::new(json!({ "abort": { "http_status": 500, "percentage": all() } }), json!({}));
    for n in 0..MAX_CLUSTERS + 5 {
        drop(scene.request(&[(DOWNSTREAM_CLUSTER, &format!("c{n}"))]).await);
    }
    assert_eq!(scene.stat("aborts_injected"), MAX_CLUSTERS as u64 + 5);
    assert_eq!((scene.stat("c0.aborts_injected"), scene.stat(&format!("c{MAX_CLUSTERS}.aborts_injected"))), (1, 0));
}
