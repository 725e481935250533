//! Configuration by discovery: this proxy as a client of Envoy's xDS v3.
//!
//! | | |
//! |---|---|
//! | [`mux`] | one stream's protocol: state of the world or delta; no input or output |
//! | [`warming`] | what waits for what; no input or output |
//! | `state` and a file for each kind | what is known, and what becomes of an update; no input or output |
//! | [`client`], [`dial`], [`grpc`] | carrying bytes to and from a management server |
//! | `run` | the loop that joins them |
//!
//! Runs on: the control thread. Workers see only handles that it swaps.

pub mod client;
pub mod dial;
pub mod grpc;
pub mod mux;
pub mod warming;

mod cache;
mod check;
mod clusters;
mod dump;
mod endpoints;
mod files;
mod filters;
mod kind;
mod listeners;
mod needs;
mod node;
mod on_demand;
mod routes;
mod run;
mod runtime;
mod secrets;
mod sources;
mod stale;
mod state;
mod stats;
mod status;
#[cfg(test)]
mod tests;
mod vhosts;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

pub use kind::{Kind, resource_name};
pub use run::Discovery;
pub use state::{Phase, State};
pub use stats::{ControlPlaneStats, UpdateStats};

use crate::admin::{ClientStatus, ConfigDump, UnreadyTargets};
use crate::app::Parts;
use crate::cluster::dns::DnsTasks;
use crate::config::from_xds::Environment;
use crate::config::{self, ConfigError, DynamicResources};
use crate::identity::Identity;
use crate::listener::{Listener, ListenerManager, Sockets};
use cache::Cache;
use sources::Sources;

/// What discovery begins with.
pub struct Start {
    /// Everything that is compiled into.
    pub parts: Arc<Parts>,
    /// What is discovered.
    pub dynamic: DynamicResources,
    /// What discovered resources may refer to in the bootstrap.
    pub environment: Environment,
    /// The encoded bootstrap.
    pub bootstrap: Bytes,
    /// The node as the command line has it.
    pub node: config::Node,
    /// `--reject-unknown-dynamic-fields`
    pub reject_unknown_fields: bool,
    /// Listeners.
    pub listeners: Arc<ListenerManager>,
    /// Those of the bootstrap; they are opened when the start is over.
    pub statics: Vec<(Arc<Listener>, Sockets)>,
    /// Resolves names.
    pub dns: DnsTasks,
    /// `--xds-cache`: where the last good configuration is kept.
    pub cache: Option<PathBuf>,
    /// The identity of the workload.
    pub identity: Option<Identity>,
}

/// What the rest of the process sees of discovery. Cheap to clone.
#[derive(Clone)]
pub struct Xds(Arc<Mutex<State>>);

impl Xds {
    /// Prepares discovery. Where nothing is discovered the start is over at once, and the listeners of the bootstrap are open.
    ///
    /// # Errors
    /// A source that cannot be reached as it is configured, a directory for the cache that cannot be used.
    pub fn new(start: Start) -> Result<(Xds, Discovery), ConfigError> {
        if let Some(ads) = &start.dynamic.ads {
            dial::check(ads, &start.parts.clusters).map_err(|e| ConfigError {
                field_path: format!("dynamic_resources.ads_config.grpc_services[0].{}", e.field_path),
                ..e
            })?;
        }
        check_files(&start)?;
        let node = node::node(&start.bootstrap, &start.node);
        let sources = Sources::new(node, start.dynamic.ads.clone());
        let cache = match &start.cache {
            Some(directory) => Cache::open(directory, &start.node, &start.parts.stats.root())?,
            None => Cache::default(),
        };
        let mut state = State::new(
            start.parts.clone(),
            start.environment,
            start.reject_unknown_fields,
            start.dynamic,
            sources,
            start.listeners,
            start.statics,
        );
        state.cache = cache;
        state.secrets.identity = start.identity.clone();
        state.start(Instant::now());
        let xds = Xds(Arc::new(Mutex::new(state)));
        let discovery = Discovery::new(xds.0.clone(), start.parts, start.dns, start.identity);
        Ok((xds, discovery))
    }

    /// How far the start has come.
    pub fn phase(&self) -> Phase {
        self.0.lock().phase
    }

    /// Keeps what is in force before the process ends.
    pub async fn keep(&self) {
        let save = self.0.lock().save(Instant::now());
        if let Some(save) = save {
            // It panics in no way that could be helped here.
            let _ = tokio::task::spawn_blocking(|| save.write()).await;
        }
    }

    /// Listeners have finished: what only they needed is no longer asked for.
    pub fn listeners_let_go(&self) {
        self.0.lock().listeners_let_go();
    }

    /// What waits, for `/init_dump`.
    pub fn unready(&self) -> Vec<UnreadyTargets> {
        let unready = self.0.lock().unready();
        unready
            .into_iter()
            .map(|(name, targets)| UnreadyTargets { name, targets: targets.into_iter().collect() })
            .collect()
    }

    /// Adds what was discovered to `/config_dump`.
    pub fn dump(&self, dump: &mut ConfigDump) {
        dump::add(&self.0.lock(), dump);
    }

    /// What is held, pending and refused, for CSDS.
    pub fn status(&self) -> ClientStatus {
        status::of(&self.0.lock())
    }

    /// Names of discovered clusters.
    pub fn is_discovered(&self, cluster: &str) -> bool {
        self.0.lock().clusters.all.contains_key(cluster)
    }
}

/// Files that the bootstrap names must be there.
fn check_files(start: &Start) -> Result<(), ConfigError> {
    let own = [("lds_config", &start.dynamic.listeners), ("cds_config", &start.dynamic.clusters)];
    for (field, source) in own {
        if let Some(source) = source {
            files::check(&source.from).map_err(|e| ConfigError::at(format!("dynamic_resources.{field}"), e.reason))?;
        }
    }
    for (layer, _, source) in start.parts.runtime.discovered() {
        files::check(&source.from).map_err(|e| {
            ConfigError::at(format!("layered_runtime.layers[{layer}].rtds_layer.rtds_config"), e.reason)
        })?;
    }
    for cluster in start.parts.clusters.all().iter() {
        needs::check_cluster(&cluster.config).map_err(|e| ConfigError { resource: cluster.name.to_string(), ..e })?;
    }
    let delta = start.dynamic.ads.as_ref().is_some_and(|ads| ads.delta);
    for (listener, _) in &start.statics {
        if needs::listener_demands(&listener.config).iter().any(|s| s.from == config::Source::Ads && !delta) {
            let reason = "ADS must use DELTA_GRPC api_type where something is asked for on demand";
            return Err(ConfigError { resource: listener.config.name.clone(), ..ConfigError::at("", reason) });
        }
        needs::check_listener(&listener.config)
            .map_err(|e| ConfigError { resource: listener.config.name.clone(), ..e })?;
    }
    Ok(())
}
