//! The order in which objects come does not matter, and a change touches what it must.

mod support;

use std::sync::Arc;

use proptest::prelude::*;
use support::{as_json, load, load_files, sidecars, with_pods};
use weft::generate::{Changes, Generator as _, Update};
use weft::model::World;
use weft::model::kinds::Object;
use weft::source::Change;
use weft::translate::generate;

/// A bit of everything.
fn objects() -> Vec<Arc<Object>> {
    let files = [
        "platform/kube/bookinfo.yaml",
        "platform/kube/bookinfo-versions.yaml",
        "platform/kube/bookinfo-ingress.yaml",
        "networking/bookinfo-gateway.yaml",
        "networking/destination-rule-all.yaml",
        "networking/virtual-service-reviews-jason-v2-v3.yaml",
        "networking/egress-rule-google-apis.yaml",
        "policy/productpage_envoy_ratelimit.yaml",
    ];
    let conflicting = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a-second}\nspec:\n  \
                       hosts: [reviews]\n  http:\n  - route:\n    - destination: {host: ratings}\n";
    let mut objects = load_files(&files).objects;
    objects.extend(load(&[("second.yaml", conflicting.to_owned())]).objects);
    let routes = load_files(&["gateway-api/route-all-v1.yaml", "gateway-api/bookinfo-gateway.yaml"]).objects;
    objects.extend(routes);
    with_pods(objects)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_objects_is_the_same_world(
        shuffled in Just(objects()).prop_shuffle(),
        at in 1..20usize,
    ) {
        let expected = World::of(objects());
        // In two or more steps, some of them incremental.
        let mut world = World::default();
        for step in shuffled.chunks(at) {
            world = world.apply(step.iter().cloned().map(Change::Applied)).0;
        }
        prop_assert!(world == expected);
        let problems = |world: &World| world.problems().iter().map(ToString::to_string).collect::<Vec<_>>();
        prop_assert_eq!(problems(&world), problems(&expected));
        let proxy = &sidecars(&shuffled)["productpage-v1-0"];
        prop_assert_eq!(as_json(&generate(&world, proxy)), as_json(&generate(&expected, proxy)));
    }
}

#[test]
fn the_other_of_two_is_told() {
    let told: Vec<String> = World::of(objects()).problems().iter().map(ToString::to_string).collect();
    // Neither has a time, so the name decides.
    let expected = "VirtualService default/a-second is for reviews.default.svc.cluster.local, too, and is older";
    assert!(told.iter().any(|line| line.contains(expected)), "{told:#?}");
}

#[test]
fn a_pod_that_goes_touches_endpoints_only() {
    let all = objects();
    let world = World::of(all.clone());
    let proxy = &sidecars(&all)["productpage-v1-0"];
    let previous = generate(&world, proxy);
    let gone = all.iter().find(|object| &*object.key.name == "reviews-v2-0").expect("a pod").key.clone();
    let (after, changes) = world.apply([Change::Deleted(gone)]);
    let hosts: Vec<&str> = changes.endpoints.iter().map(|host| &**host).collect();
    assert_eq!(hosts, ["reviews-v2.default.svc.cluster.local", "reviews.default.svc.cluster.local"]);
    assert_eq!(changes, Changes { endpoints: changes.endpoints.clone(), ..Changes::default() });
    let updated = after.generate(proxy, Some(Update { changes: &changes, previous: &previous }));
    assert_eq!(as_json(&updated), as_json(&generate(&after, proxy)));
    assert_ne!(as_json(&updated), as_json(&previous));
}

#[test]
fn an_object_that_only_moved_changes_nothing() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n";
    let world = World::of(load(&[("a.yaml", text.to_owned())]).objects);
    let moved = load(&[("b.yaml", format!("# moved\n{text}"))]).objects;
    let (_, changes) = world.apply(moved.into_iter().map(Change::Applied));
    assert!(changes.is_empty(), "{changes:?}");
}
