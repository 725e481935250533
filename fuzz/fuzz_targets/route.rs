//! A request's way to its route: path rules, virtual host, every matcher, and what the route makes of the request.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http::header;
use libfuzzer_sys::fuzz_target;
use weft_proxy::access_log::FlushOptions;
use weft_proxy::app::{self, Built};
use weft_proxy::config::from_file::{self, LoadOptions, load};
use weft_proxy::config::{NetworkFilterKind, UnderscoresAction};
use weft_proxy::drain::Drain;
use weft_proxy::http::connection::HttpConn;
use weft_proxy::http::h1::{ParseLimits, parse};
use weft_proxy::http::manager::{self, Manager};
use weft_proxy::http::route::{Found, Kind};
use weft_proxy::http::stream::StreamCtx;
use weft_proxy::http::{RequestHead, Scheme};
use weft_proxy::stream_info::{ConnInfo, ListenerInfo, PeerAddr};

const LIMITS: ParseLimits = ParseLimits {
    max_bytes: 60 << 10,
    max_headers: 100,
    underscores: UnderscoresAction::Allow,
    custom_methods: true,
    allow_chunked_length: false,
};

static WORLD: LazyLock<(Built, Arc<HttpConn>)> = LazyLock::new(world);

fn world() -> (Built, Arc<HttpConn>) {
    let text = include_str!("../route.yaml");
    let mut bootstrap = load(None, Some(text), &LoadOptions::default()).expect("the configuration is sound").bootstrap;
    let listeners = std::mem::take(&mut bootstrap.listeners);
    let options = app::Options {
        concurrency: 1,
        drain_time: Duration::from_secs(1),
        drain_gradual: true,
        admin_address_path: None,
        command_line: Default::default(),
        flush: FlushOptions::default(),
        xds_cache: None,
        apply_levels: Arc::new(|_| ()),
        load_secrets: from_file::load_secrets,
        beside: None,
    };
    let built = app::build(bootstrap, &options).expect("it can be built");
    let filter = &listeners[0].filter_chains[0].filters[0];
    let NetworkFilterKind::Http(config) = &filter.kind else { panic!("the first filter is HTTP") };
    let manager: Arc<Manager> = Manager::new((**config).clone(), built.parts()).expect("it can be built");
    let here = PeerAddr::Ip("127.0.0.1:80".parse().expect("an address"));
    let info = Arc::new(ConnInfo::new(1, here.clone(), here, Arc::new(ListenerInfo::default())));
    let conn = Arc::new(HttpConn { manager, info, worker: 0, drain: Drain::new(Duration::from_secs(1)) });
    (built, conn)
}

fuzz_target!(|data: &[u8]| {
    let Some(end) = parse::head_end(data, 0) else { return };
    let Ok(parsed) = parse::request(Bytes::copy_from_slice(&data[..end]), &LIMITS, false) else { return };
    let conn = &WORLD.1;
    let mut headers = parsed.headers;
    let request = RequestHead {
        method: parsed.method,
        scheme: Scheme::Http,
        authority: headers.remove(header::HOST),
        path: parsed.target,
        headers,
        protocol: parsed.protocol,
        upgrade: None,
        spelling: None,
    };
    let ctx = Box::new(StreamCtx::new(conn.clone(), request));
    let Ok(mut ctx) = manager::prepare(ctx) else { return };
    let Found::Route(matched) = conn.manager.routes.find(&ctx) else { return };
    let (entry, choice) = (matched.entry.clone(), matched.choice);
    let (path, case) = (&entry.matches.path, entry.matches.case_sensitive);
    for mutations in matched.request_mutations() {
        mutations.apply_request(&mut ctx);
    }
    match &entry.kind {
        Kind::Forward(f) => {
            f.rewrite(&mut ctx, path, case, choice);
            assert!(!ctx.request.path.bytes().any(|b| b == b' ' || b < 0x20), "{:?}", ctx.request.path);
        }
        Kind::Redirect(r) => {
            let _ = r.location(&ctx, path, case);
        }
        _ => {}
    }
});
