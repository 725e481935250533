//! The order in which objects come does not matter, and a change touches what it must.

mod support;

use std::sync::Arc;

use proptest::prelude::*;
use support::{as_json, load, load_files, sidecars, with_pods};
use weft::generate::{Changes, Generator as _, Part, Update};
use weft::model::World;
use weft::model::kinds::{Kind, Object};
use weft::node::{Proxy, ProxyKind};
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
    let previous = world.generate(Part::Shared, proxy, None);
    let gone = all.iter().find(|object| &*object.key.name == "reviews-v2-0").expect("a pod").key.clone();
    let (after, changes) = world.apply([Change::Deleted(gone)]);
    let hosts: Vec<&str> = changes.endpoints.iter().map(|host| &**host).collect();
    assert_eq!(hosts, ["reviews-v2.default.svc.cluster.local", "reviews.default.svc.cluster.local"]);
    assert_eq!(changes, Changes { endpoints: changes.endpoints.clone(), ..Changes::default() });
    let updated = after.generate(Part::Shared, proxy, Some(Update { changes: &changes, previous: &previous }));
    assert_eq!(as_json(&updated), as_json(&after.generate(Part::Shared, proxy, None)));
    assert_ne!(as_json(&updated), as_json(&previous));
}

/// Whatever changes, what is brought up to date is what would be generated anew, for all kinds of proxies.
#[test]
fn bringing_up_to_date_is_generating_anew() {
    let unpatched = objects().into_iter().filter(|object| object.key.kind != Kind::EnvoyFilter).collect::<Vec<_>>();
    let partly = follow_all(&unpatched);
    assert!(partly > 10, "only {partly} changes were not of everything");
    // The policy's filter adds a cluster; these change, take away and add some.
    assert!(follow_all(&objects()) > 10);
    let mut patched = unpatched;
    patched.splice(0..0, load(&[("patches.yaml", PATCHES.to_owned())]).objects);
    assert!(follow_all(&patched) > 10);
}

/// Patches of clusters that are of one of them each.
const PATCHES: &str = "
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: clusters}
spec:
  configPatches:
  - applyTo: CLUSTER
    match: {context: SIDECAR_OUTBOUND, cluster: {service: reviews.default.svc.cluster.local}}
    patch: {operation: MERGE, value: {connect_timeout: 9s}}
  - applyTo: CLUSTER
    match: {context: ANY, cluster: {service: details.default.svc.cluster.local, subset: v2}}
    patch: {operation: REMOVE}
  - applyTo: CLUSTER
    match: {context: ANY}
    patch: {operation: ADD, value: {name: added, type: STATIC, connect_timeout: 1s}}
  - applyTo: CLUSTER
    match: {context: ANY}
    patch: {operation: MERGE, value: {per_connection_buffer_limit_bytes: 4096}}
";

/// Takes each object away and puts it back; how many changes were not of everything.
fn follow_all(all: &[Arc<Object>]) -> usize {
    let mut proxies: Vec<_> = sidecars(all).into_values().collect();
    proxies.push(Proxy::gateway(
        [10, 9, 9, 9].into(),
        "gw",
        "default",
        [("istio".into(), "ingressgateway".into())].into(),
    ));
    proxies.push(Proxy { kind: ProxyKind::Grpc, ..proxies[0].clone() });
    let mut world = World::of(all.to_vec());
    let own_key = |world: &World, proxy: &Proxy| world.key(proxy);
    let mut steps: Vec<Change> = all.iter().map(|object| Change::Deleted(object.key.clone())).collect();
    steps.extend(all.iter().rev().cloned().map(Change::Applied));
    let mut partly = 0;
    for step in steps {
        let name = format!("{step:?}").chars().take(200).collect::<String>();
        let (after, changes) = world.apply([step]);
        partly += usize::from(!changes.everything && !changes.hosts.is_empty());
        for proxy in &proxies {
            let previous = world.generate(Part::Shared, proxy, None);
            let update = Update { changes: &changes, previous: &previous };
            let updated = after.generate(Part::Shared, proxy, Some(update));
            let anew = after.generate(Part::Shared, proxy, None);
            // A scope may become another one; then nothing is brought along.
            if world.scope(proxy) == after.scope(proxy) {
                assert_eq!(as_json(&updated), as_json(&anew), "{name} {}", proxy.id);
                assert!(updated == anew);
            }
            let key = own_key(&after, proxy);
            if key == own_key(&world, proxy) && !after.touches_own(&key, &changes) {
                let own = |world: &World| world.generate(Part::Own, proxy, None);
                assert!(own(&world) == own(&after), "own: {name} {}", proxy.id);
            }
        }
        world = after;
    }
    partly
}

#[test]
fn an_object_that_only_moved_changes_nothing() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n";
    let world = World::of(load(&[("a.yaml", text.to_owned())]).objects);
    let moved = load(&[("b.yaml", format!("# moved\n{text}"))]).objects;
    let (_, changes) = world.apply(moved.into_iter().map(Change::Applied));
    assert!(changes.is_empty(), "{changes:?}");
}
