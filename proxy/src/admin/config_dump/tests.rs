use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::admin::tests::sources;

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// A resource whose encoding is JSON: what it is turned into does not matter here.
fn resource(name: &str, type_url: &'static str, json: Value) -> DumpedResource {
    DumpedResource {
        name: name.into(),
        type_url,
        encoded: json.to_string().into(),
        last_updated: Some(UNIX_EPOCH + Duration::from_secs(1)),
        ..DumpedResource::default()
    }
}

fn dump() -> ConfigDump {
    let mut dynamic = resource("dyn", CLUSTER, json!({"name": "dyn", "type": "EDS"}));
    dynamic.version_info = "7".into();
    dynamic.ignored_fields = vec!["upstream_config".into()];
    let failure = UpdateFailure { last_update_attempt: UNIX_EPOCH, details: "bad".into(), version_info: "8".into() };
    let private = json!({"name": "s", "tls_certificate": {"private_key": {"inline_string": "KEY"}}});
    ConfigDump {
        bootstrap: json!({"node": {"id": "n", "cluster": "c"}}).to_string().into(),
        static_clusters: vec![
            resource("up", CLUSTER, json!({"name": "up", "load_assignment": {"endpoints": [1]}})),
            resource("other", CLUSTER, json!({"name": "other"})),
        ],
        dynamic_active_clusters: vec![dynamic],
        clusters_version: "7".into(),
        dynamic_listeners: vec![DumpedListener {
            name: "l".into(),
            active: Some(resource("l", LISTENER, json!({"name": "l"}))),
            error: Some(failure),
            ..DumpedListener::default()
        }],
        static_secrets: vec![resource("s", SECRET, private)],
        static_endpoint_configs: vec![resource("up", CLUSTER, json!({"cluster_name": "up"}))],
        ..ConfigDump::default()
    }
}

fn get(query: &str) -> (u16, String) {
    let mut sources = sources().0;
    sources.config = Arc::new(dump);
    sources.to_json = Arc::new(|_, bytes| serde_json::from_slice(bytes).map_err(|e| e.to_string()));
    let reply = config_dump(&sources, &Params::parse(query));
    (reply.status.as_u16(), reply.body)
}

fn json_of(query: &str) -> Value {
    let (status, body) = get(query);
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

#[test]
fn everything() {
    let all = json_of("");
    let types: Vec<&str> = all["configs"].as_array().unwrap().iter().map(|c| c["@type"].as_str().unwrap()).collect();
    let names = ["Bootstrap", "Clusters", "Listeners", "Routes", "Secrets"];
    assert_eq!(types, names.map(|name| format!("type.googleapis.com/envoy.admin.v3.{name}ConfigDump")));
    let clusters = &all["configs"][1];
    let expected = json!({
        "cluster": {"@type": CLUSTER, "name": "up", "load_assignment": {"endpoints": [1]}},
        "last_updated": "1970-01-01T00:00:01Z",
    });
    assert_eq!(clusters["static_clusters"][0], expected);
    let expected = json!({
        "version_info": "7",
        "cluster": {"@type": CLUSTER, "name": "dyn", "type": "EDS"},
        "last_updated": "1970-01-01T00:00:01Z",
        "weft_ignored_fields": ["upstream_config"],
    });
    assert_eq!(clusters["dynamic_active_clusters"][0], expected);
    let listener = &all["configs"][2]["dynamic_listeners"][0];
    assert_eq!(listener["active_state"]["listener"]["name"], "l");
    assert_eq!(listener["error_state"]["details"], "bad");
    let secret = &all["configs"][4]["static_secrets"][0];
    assert_eq!(secret["name"], "s");
    assert_eq!(secret["secret"]["tls_certificate"]["private_key"]["inline_string"], "[redacted]");
    assert_eq!(json_of("include_eds")["configs"].as_array().unwrap().len(), 6);
}

#[test]
fn one_kind_of_resource() {
    let element = "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.StaticCluster";
    let expected = json!({"configs": [
        {"@type": element, "cluster": {"@type": CLUSTER, "name": "up"}},
        {"@type": element, "cluster": {"@type": CLUSTER, "name": "other"}},
    ]});
    assert_eq!(json_of("resource=static_clusters&mask=cluster.name"), expected);
    assert_eq!(json_of("resource=dynamic_warming_clusters"), json!({}));
    let (status, body) = get("resource=nope");
    assert_eq!((status, body.as_str()), (404, "nope not found in config dump\n"));
    let (status, body) = get("resource=static_endpoint_configs");
    assert_eq!((status, body.as_str()), (404, "static_endpoint_configs not found in config dump\n"));
    let (status, body) = get("resource=bootstrap");
    let usage = "bootstrap is not a repeated field. Use ?mask=bootstrap to get only this field\n";
    assert_eq!((status, body.as_str()), (400, usage));
    let (status, body) = get("resource=static_clusters&mask=cluster.load_assignment.endpoints.x");
    assert!(status == 400 && body.contains("could not be successfully used"), "{body}");
}

#[test]
fn masks_and_names() {
    let expected = json!({"configs": [{
        "@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump",
        "bootstrap": {"node": {"id": "n"}},
    }]});
    assert_eq!(json_of("mask=bootstrap.node.id"), expected);
    assert_eq!(json_of("mask=dynamic_active_clusters")["configs"].as_array().unwrap().len(), 1);
    for mask in ["nope", "static_clusters.cluster.name", "bootstrap.node.id,static_clusters"] {
        let (status, body) = get(&format!("mask={mask}"));
        let text = format!("FieldMask {mask} could not be successfully applied to any configs.");
        assert_eq!((status, body), (400, text));
    }
    let named = json_of("resource=static_clusters&name_regex=u.");
    assert_eq!(named["configs"].as_array().unwrap().len(), 1);
    assert_eq!(json_of("resource=static_clusters&name_regex=u"), json!({}), "the whole name must match");
    assert_eq!(get("name_regex=%5B").0, 400);
}
