//! Clusters for tests.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Cluster, Clusters};
use crate::app::{Healthy, Parts};
use crate::config::from_file::{self, LoadOptions};

/// What compiling a cluster needs, with `workers` workers.
pub(crate) fn parts(workers: usize) -> Parts {
    let stats = crate::stats::Store::new(workers + 1, &Default::default());
    let root = stats.root();
    let runtime = crate::runtime::Runtime::new(&[], "", &root);
    Parts {
        clusters: Arc::new(Clusters::default()),
        workers,
        healthy: Healthy::default(),
        listeners: Arc::default(),
        connections: crate::listener::GlobalLimit::new(&runtime),
        routes: Arc::default(),
        filters: Arc::default(),
        network_filters: Arc::default(),
        listener_filters: Arc::default(),
        on_demand: Arc::default(),
        drain: crate::drain::Drain::new(std::time::Duration::from_secs(600)),
        runtime,
        sinks: crate::access_log::SinkRegistry::new(&root, crate::access_log::FlushOptions::default()).unwrap(),
        secrets: crate::transport::tls::SecretProvider::new(Vec::new(), Box::new(from_file::load_secrets), root),
        telemetry: crate::telemetry::Telemetry::new(&Default::default(), &stats),
        stats,
    }
}

/// A static cluster `c` with these fields beside its name and `endpoints`, a list of `LocalityLbEndpoints`.
pub(crate) fn cluster(fields: &Value, endpoints: &Value) -> Arc<Cluster> {
    let mut cluster = json!({
        "name": "c",
        "type": "STATIC",
        "load_assignment": { "cluster_name": "c", "endpoints": endpoints },
    });
    for (name, value) in fields.as_object().unwrap() {
        cluster[name] = value.clone();
    }
    let all = json!({ "static_resources": { "clusters": [cluster] } });
    let loaded = from_file::load(None, Some(&all.to_string()), &LoadOptions::default()).unwrap();
    Cluster::new(loaded.bootstrap.clusters.into_iter().next().unwrap(), &parts(1)).unwrap()
}

/// An endpoint at a loopback port.
pub(crate) fn endpoint(port: u16) -> Value {
    json!({ "endpoint": { "address": { "socket_address": { "address": "127.0.0.1", "port_value": port } } } })
}
