use tokio_util::sync::CancellationToken;

use super::*;
use crate::server::Limits;
use crate::server::fixtures::state;
use crate::server::tests::World;

fn shared(stop: &CancellationToken) -> Arc<Shared<World>> {
    let world = World { resources: state(&[("a", 1)], &[], &[]), generated: Arc::default() };
    Shared::new(Arc::new(world), |_| Json::Null, Limits::default(), stop.clone())
}

#[test]
fn every_page_of_the_list_is_there() {
    let shared = shared(&CancellationToken::new());
    for line in PAGES.lines() {
        let path = line.split([' ', '?', '[']).next().unwrap();
        let page = answer(&shared, path, "");
        let needs_proxy = ["/debug/config_dump", "/debug/objectz"].contains(&path);
        assert_eq!(page.status, if needs_proxy { StatusCode::BAD_REQUEST } else { StatusCode::OK }, "{path}");
    }
    assert!(answer(&shared, "/debug", "").body.contains("/debug/syncz"));
    let missing = answer(&shared, "/nothing", "");
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    assert!(missing.body.contains("/debug/syncz"));
}

#[test]
fn it_is_not_ready_while_it_stops() {
    let stop = CancellationToken::new();
    let shared = shared(&stop);
    stop.cancel();
    assert_eq!(answer(&shared, "/ready", "").status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer(&shared, "/healthz", "").status, StatusCode::OK);
}

#[test]
fn a_proxy_that_is_not_there_is_named() {
    let shared = shared(&CancellationToken::new());
    let page = answer(&shared, "/debug/config_dump", "proxyID=sidecar%7Ex");
    assert_eq!(page.status, StatusCode::NOT_FOUND);
    assert!(page.body.contains("no proxy sidecar~x is connected"), "{}", page.body);
}
