use std::os::unix::fs::symlink;
use std::time::Duration;

use super::*;
use crate::config::PerMillion;
use crate::stats::Store;

fn fixed(name: &str, values: serde_json::Value) -> RuntimeLayer {
    let values = values.as_object().unwrap().clone().into_iter().collect();
    RuntimeLayer { name: name.into(), kind: RuntimeLayerKind::Static(values) }
}

fn admin() -> RuntimeLayer {
    RuntimeLayer { name: "admin".into(), kind: RuntimeLayerKind::Admin }
}

fn set(runtime: &Runtime, key: &str, value: &str) {
    runtime.modify(&[(key.to_owned(), value.to_owned())]).unwrap();
}

fn share(runtime: &Runtime, key: &str, per_million: u32) -> Fraction {
    let default = PerMillion(per_million);
    runtime.fraction(&RuntimeFraction { default, key: key.into(), denominator: 100 })
}

#[test]
fn later_layers_win_and_handles_follow() {
    let store = Store::new(1, &Default::default());
    let layers = [fixed("static", json!({"n": 3, "f": true, "d": 1.5})), admin()];
    let runtime = Runtime::new(&layers, "", &store.root());
    let (n, f, d) = (
        runtime.integer("n", 9),
        runtime.flag(&RuntimeFlag { default: false, key: "f".into() }),
        runtime.double("d", 0.0),
    );
    let unset = runtime.integer("unset", 7);
    assert_eq!((n.get(), f.enabled(), d.get(), unset.get()), (3, true, 1.5, 7));
    set(&runtime, "n", "5");
    set(&runtime, "f", "0");
    set(&runtime, "unset", "8");
    assert_eq!((n.get(), f.enabled(), d.get(), unset.get()), (5, false, 1.5, 8));
    set(&runtime, "n", "");
    set(&runtime, "unset", "not a number");
    assert_eq!((n.get(), unset.get()), (3, 7));
    assert_eq!(runtime.snapshot().get("unset"), Some("not a number"));
    assert_eq!((store.value("runtime.num_keys"), store.value("runtime.num_layers")), (Some(4), Some(2)));
    assert_eq!(store.value("runtime.admin_overrides_active"), Some(1));
    assert_eq!(store.value("runtime.load_success"), Some(6));
}

#[test]
fn a_discovered_layer_is_replaced_as_a_whole() {
    let source = ConfigSource { from: crate::config::Source::Ads, initial_fetch_timeout: None };
    let kind = RuntimeLayerKind::Discovered { resource: "rt".into(), source };
    let layers = [fixed("static", json!({"n": 1})), RuntimeLayer { name: "found".into(), kind }, admin()];
    let runtime = Runtime::with(&layers, "", Stats::default());
    let values = |values: serde_json::Value| values.as_object().unwrap().clone().into_iter().collect();
    let (n, m) = (runtime.integer("n", 0), runtime.integer("m", 0));
    assert_eq!(runtime.discovered().map(|(layer, resource, _)| (layer, resource)).next(), Some(("found", "rt")));
    assert_eq!(runtime.to_json()["layers"], json!(["static", "found", "admin"]));
    runtime.deliver("found", &values(json!({"n": 2.0, "m": 3.0})));
    assert_eq!((n.get(), m.get()), (2, 3));
    set(&runtime, "n", "4");
    runtime.deliver("found", &values(json!({"n": 5.0})));
    assert_eq!((n.get(), m.get()), (4, 0), "a layer above wins; what is not said any more is gone");
    set(&runtime, "n", "");
    assert_eq!(n.get(), 5);
}

#[test]
fn fractions() {
    let runtime = Runtime::with(&[admin()], "", Stats::default());
    let none = share(&runtime, "", 500_000);
    let half = share(&runtime, "k", 500_000);
    assert_eq!((none.admits(499_999), none.admits(500_000), none.certain()), (true, false, None));
    assert_eq!((half.admits(499_999), half.admits(500_000)), (true, false));
    set(&runtime, "k", "30");
    assert_eq!((half.admits(29), half.admits(30), half.admits(129)), (true, false, true));
    set(&runtime, "k", "101");
    assert_eq!((half.admits(99), half.certain()), (true, Some(true)));
    set(&runtime, "k", "{numerator: 1, denominator: TEN_THOUSAND}");
    assert_eq!((half.admits(10_000), half.admits(1)), (true, false));
    set(&runtime, "k", "0");
    assert_eq!(half.certain(), Some(false));
    set(&runtime, "k", "");
    assert!(half.admits(499_999));
}

#[test]
fn nothing_to_modify() {
    let unnamed = RuntimeLayer { name: String::new(), kind: RuntimeLayerKind::Admin };
    let runtime = Runtime::with(&[unnamed], "", Stats::default());
    assert_eq!(runtime.modify(&[]), Err(NoAdminLayer));
    assert_eq!(runtime.to_json(), json!({"layers": [], "entries": {}}));
}

#[test]
fn shown_by_layer() {
    let runtime = Runtime::with(&[fixed("s", json!({"a": 1, "b": "x"})), admin()], "", Stats::default());
    set(&runtime, "a", "2");
    let expected = json!({
        "layers": ["s", "admin"],
        "entries": {
            "a": {"layer_values": ["1", "2"], "final_value": "2"},
            "b": {"layer_values": ["x", ""], "final_value": "x"},
        },
    });
    assert_eq!(runtime.to_json(), expected);
}

#[test]
fn handles_that_are_gone_are_forgotten() {
    let runtime = Runtime::with(&[admin()], "", Stats::default());
    for i in 0..10_000 {
        runtime.integer("k", i);
    }
    let keep = runtime.integer("k", 1);
    set(&runtime, "k", "2");
    assert_eq!(keep.get(), 2);
    assert!(runtime.slots.capacity() < 1_000);
}

#[test]
fn disk_layers_are_read_again_when_the_link_is_swapped() {
    let dir = tempfile::tempdir().unwrap();
    let write = |version: &str, value: &str| {
        let keys = dir.path().join(version).join("envoy/health");
        std::fs::create_dir_all(&keys).unwrap();
        std::fs::write(keys.join("min"), value).unwrap();
    };
    write("v1", "30\n");
    write("v2", "99\n");
    let link = dir.path().join("current");
    symlink("v1", &link).unwrap();
    let kind = RuntimeLayerKind::Disk {
        symlink_root: link.to_str().unwrap().into(),
        subdirectory: "envoy".into(),
        append_service_cluster: false,
    };
    let gone = RuntimeLayerKind::Disk {
        symlink_root: "/nonexistent".into(),
        subdirectory: String::new(),
        append_service_cluster: true,
    };
    let layers = [RuntimeLayer { name: "gone".into(), kind: gone }, RuntimeLayer { name: "d".into(), kind }];
    let runtime = Runtime::with(&layers, "c", Stats::default());
    let value = runtime.integer("health.min", 0);
    assert_eq!(value.get(), 30);
    assert_eq!(runtime.to_json()["layers"], json!(["d"]));
    let _watch = runtime.watch().unwrap();
    symlink("v2", dir.path().join("new")).unwrap();
    std::fs::rename(dir.path().join("new"), &link).unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while value.get() != 99 && tokio::time::Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!(value.get(), 99);
}
