//! Small documents in, field paths and reasons out.

mod access_log;
mod authz;
mod bootstrap;
mod cluster;
mod document;
mod filters;
mod hcm;
mod limits;
mod listener;
mod rbac;
mod robust;
mod route;
mod tls;

use serde_json::{Value, json};

use super::{Converted, Rejected};
use crate::config::{Bootstrap, Cluster, HttpConnectionManager, Listener, NetworkFilterKind, Route};

/// Short names of places in the document of [`Doc::new`]; the longer ones first.
const PLACES: [(&str, &str); 7] = [
    ("$listener", "static_resources.listeners[0]"),
    ("$chain", "static_resources.listeners[0].filter_chains[0]"),
    ("$hcm", "static_resources.listeners[0].filter_chains[0].filters[0].typed_config"),
    ("$routes", "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config"),
    ("$vhost", "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0]"),
    (
        "$route",
        "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0].routes[0]",
    ),
    ("$cluster", "static_resources.clusters[0]"),
];

/// A typed extension: its name, its message's name, and its fields.
fn ext(name: &str, message: &str, fields: Value) -> Value {
    json!({ "name": name, "typed_config": any(message, fields) })
}

/// An `Any`.
fn any(message: &str, mut fields: Value) -> Value {
    fields["@type"] = format!("type.googleapis.com/{message}").into();
    fields
}

fn router() -> Value {
    ext("router", "envoy.extensions.filters.http.router.v3.Router", json!({}))
}

fn endpoint(address: &str) -> Value {
    json!({ "endpoint": { "address": { "socket_address": { "address": address, "port_value": 8080 } } } })
}

/// A bootstrap with one HTTP listener, one route and one cluster, to be changed.
#[derive(Clone)]
struct Doc(Value);

impl Doc {
    fn new() -> Self {
        let manager = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
        Doc(json!({
            "node": { "id": "node-1", "cluster": "here" },
            "static_resources": {
                "listeners": [{
                    "name": "l",
                    "address": { "socket_address": { "address": "127.0.0.1", "port_value": 10000 } },
                    "filter_chains": [{ "filters": [ext("hcm", manager, json!({
                        "stat_prefix": "h",
                        "route_config": { "name": "r", "virtual_hosts": [{
                            "name": "v",
                            "domains": ["*"],
                            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "c" } }],
                        }] },
                        "http_filters": [router()],
                    }))] }],
                }],
                "clusters": [{
                    "name": "c",
                    "load_assignment": {
                        "cluster_name": "c",
                        "endpoints": [{ "lb_endpoints": [endpoint("127.0.0.1")] }],
                    },
                }],
            },
        }))
    }

    /// Puts a value at a field path; `null` removes what is there.
    fn set(mut self, path: &str, value: Value) -> Self {
        let path = expand(path);
        let mut place = &mut self.0;
        for step in steps(&path) {
            place = match step {
                Step::Field(name) => &mut place[name],
                Step::Index(i) => {
                    if place.is_null() {
                        *place = json!([]);
                    }
                    let list = place.as_array_mut().unwrap();
                    while list.len() <= i {
                        list.push(Value::Null);
                    }
                    &mut list[i]
                }
            };
        }
        *place = value;
        self
    }

    fn get(&self, path: &str) -> Value {
        let path = expand(path);
        steps(&path)
            .into_iter()
            .fold(&self.0, |v, step| match step {
                Step::Field(name) => &v[name],
                Step::Index(i) => &v[i],
            })
            .clone()
    }

    fn convert(&self) -> Result<Converted<Bootstrap>, Rejected> {
        super::bootstrap(&document::bootstrap(&without_nulls(self.0.clone())), &super::NodeOverrides::default())
    }

    fn bootstrap(&self) -> Bootstrap {
        let converted = self.convert().unwrap_or_else(|e| panic!("refused: {e:#?}"));
        assert_eq!(document::unsupported(&without_nulls(self.0.clone()), &converted.skipped), [""; 0]);
        converted.value
    }

    fn listener(&self) -> Listener {
        self.bootstrap().listeners.remove(0)
    }

    fn cluster(&self) -> Cluster {
        self.bootstrap().clusters.remove(0)
    }

    fn hcm(&self) -> HttpConnectionManager {
        let filters = self.listener().filter_chains.remove(0).filters;
        match filters.into_iter().next_back().map(|f| f.kind) {
            Some(NetworkFilterKind::Http(h)) => *h,
            other => panic!("no connection manager: {other:?}"),
        }
    }

    fn route(&self) -> Route {
        self.hcm().routes.virtual_hosts.remove(0).routes.remove(0)
    }

    /// It is refused for exactly one reason at one place.
    #[track_caller]
    fn refused(&self, path: &str, reason: &str) {
        let rejected = self.convert().map(|_| ()).expect_err(&format!("accepted, not refused at {path}"));
        let errors = rejected.errors;
        let found: Vec<_> = errors.iter().map(|e| (e.field_path.as_str(), e.reason.as_str())).collect();
        assert_eq!(found, [(expand(path).as_str(), reason)]);
    }

    /// It is accepted with exactly one warning.
    #[track_caller]
    fn warned(&self, path: &str, reason: &str) {
        let warnings = self.convert().expect("accepted").warnings;
        let found: Vec<_> = warnings.iter().map(|e| (e.field_path.as_str(), e.reason.as_str())).collect();
        assert_eq!(found, [(expand(path).as_str(), reason)]);
    }
}

/// Each: what is put where, and at which place it is refused for what.
#[track_caller]
fn refuses(cases: &[(&str, Value, &str, &str)]) {
    for (path, value, at, reason) in cases {
        Doc::new().set(path, value.clone()).refused(at, reason);
    }
}

fn expand(path: &str) -> String {
    let found = PLACES.iter().find(|(short, _)| {
        path.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    });
    found.map_or_else(|| path.to_owned(), |(short, long)| path.replacen(short, long, 1))
}

enum Step<'a> {
    Field(&'a str),
    Index(usize),
}

fn steps(path: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(key) = rest.strip_prefix("[\"") {
            let (key, after) = key.split_once("\"]").unwrap();
            steps.push(Step::Field(key));
            rest = after;
        } else if let Some(index) = rest.strip_prefix('[') {
            let (index, after) = index.split_once(']').unwrap();
            steps.push(Step::Index(index.parse().unwrap()));
            rest = after;
        } else {
            let text = rest.strip_prefix('.').unwrap_or(rest);
            let end = text.find(['.', '[']).unwrap_or(text.len());
            steps.push(Step::Field(&text[..end]));
            rest = &text[end..];
        }
    }
    steps
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(o) => o.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_nulls(v))).collect(),
        Value::Array(a) => a.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

#[test]
fn the_document_itself_is_accepted() {
    let b = Doc::new().bootstrap();
    assert_eq!((b.listeners.len(), b.clusters.len()), (1, 1));
    assert!(Doc::new().convert().unwrap().warnings.is_empty());
}

#[test]
fn all_problems_of_a_document_are_named() {
    let errors = Doc::new()
        .set("$listener.address.socket_address.address", json!("localhost"))
        .set("$hcm.stat_prefix", json!(""))
        .set("$vhost.routes[0].route.cluster", json!("gone"))
        .set("$vhost.routes[1]", json!({ "match": {}, "route": { "cluster": "c" } }))
        .set("$cluster.connect_timeout", json!("0s"))
        .convert()
        .map(|_| ())
        .unwrap_err()
        .errors;
    let mut paths: Vec<_> = errors.into_iter().map(|e| e.field_path).collect();
    paths.sort();
    assert_eq!(
        paths,
        [
            "$cluster.connect_timeout",
            "$listener.address.socket_address.address",
            "$hcm.route_config.virtual_hosts[0].routes[0].route.cluster",
            "$hcm.route_config.virtual_hosts[0].routes[1].match",
            "$hcm.stat_prefix",
        ]
        .map(expand)
    );
}
