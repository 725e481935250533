//! What the admin interface is told, and what it may ask for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use anyhow::Context;
use tokio::sync::mpsc;

use super::{Built, Options};
use crate::access_log::AccessLogs;
use crate::admin::{
    AdminServer, CertificateDetails, CertificateGroup, ClusterStatus, Command, CommandLineOptions, ConfigDump,
    DumpedResource, HealthFlags, HostStatus, Level, ListenerStatus, Loggers, OutlierThresholds, ServerInfo,
    ServerState, Sources, SubjectName, Thresholds,
};
use crate::cluster::{Cluster, Host};
use crate::config::{self, HealthStatus};
use crate::identity::Identity;
use crate::listener::{Listener, ListenerManager};
use crate::mesh::agent::Ready;
use crate::stream_info::PeerAddr;
use crate::transport::tls;
use crate::xds::{Phase, Xds};

/// Changes the levels of the process's log.
pub type ApplyLevels = Arc<dyn Fn(&str) + Send + Sync>;

/// The process as the admin interface describes it.
pub struct Description {
    /// Options as given.
    pub options: CommandLineOptions,
    /// Node.
    pub node: config::Node,
    /// The admin interface, if there is one.
    pub admin: Option<config::Admin>,
    /// The encoded bootstrap.
    pub bootstrap: bytes::Bytes,
    /// Draining, or failing health checks by order.
    pub draining: Arc<AtomicBool>,
}

/// Opens the admin interface, if one is configured, and serves it until the process ends.
///
/// # Errors
/// The address cannot be bound.
pub async fn start(
    built: &Built,
    options: &Options,
    listeners: &Arc<ListenerManager>,
    xds: &Xds,
    identity: Option<Identity>,
    commands: mpsc::UnboundedSender<Command>,
) -> anyhow::Result<Option<tokio::task::JoinHandle<()>>> {
    let Some(admin) = &built.description.admin else { return Ok(None) };
    let server =
        AdminServer::bind(&admin.address).await.with_context(|| format!("admin: cannot bind '{}'", admin.address))?;
    if let Some(path) = &options.admin_address_path {
        std::fs::write(path, server.local_address().to_string())
            .with_context(|| format!("--admin-address-path: cannot write {}", path.display()))?;
    }
    tracing::info!(address = %server.local_address(), "admin address");
    let logs = AccessLogs::compile(&admin.access_log, &built.parts.sinks, &built.parts.runtime)?;
    let sources = sources(built, options, listeners, xds, identity, commands);
    Ok(Some(tokio::spawn(server.serve(sources, logs, std::future::pending()))))
}

/// Whether the process serves, and if not why.
pub fn readiness(built: &Built, xds: &Xds, identity: Option<Identity>) -> Ready {
    let (draining, xds) = (built.description.draining.clone(), xds.clone());
    Arc::new(move || {
        let waits = identity.as_ref().and_then(Identity::waits);
        match state(draining.load(Ordering::Relaxed), xds.phase(), waits.is_some()) {
            ServerState::Live => Ok(()),
            ServerState::Draining => Err("it drains".to_owned()),
            _ => Err(waits.unwrap_or_else(|| "it waits for its configuration".to_owned())),
        }
    })
}

fn sources(
    built: &Built,
    options: &Options,
    listeners: &Arc<ListenerManager>,
    xds: &Xds,
    identity: Option<Identity>,
    commands: mpsc::UnboundedSender<Command>,
) -> Sources {
    let d = &built.description;
    let started = tokio::time::Instant::now();
    let (draining, server_options, node) = (d.draining.clone(), d.options.clone(), d.node.clone());
    let clusters = built.parts.clusters.clone();
    let listeners = listeners.clone();
    let (phases, discovered, dumped) = (xds.clone(), xds.clone(), xds.clone());
    let (waiting, held) = (xds.clone(), xds.clone());
    let secrets = built.parts.secrets.clone();
    let dump = dump(&d.bootstrap);
    let apply = options.apply_levels.clone();
    let level = d.options.log_level.parse().unwrap_or(Level::Info);
    Sources {
        stats: built.parts.stats.clone(),
        runtime: built.parts.runtime.clone(),
        sinks: built.parts.sinks.clone(),
        loggers: Arc::new(Loggers::new(level, move |directives| apply(directives))),
        server: Arc::new(move || {
            let waits = identity.as_ref().and_then(Identity::waits);
            ServerInfo {
                version: format!("weft/{}/Clean/RELEASE/aws-lc", env!("CARGO_PKG_VERSION")),
                state: state(draining.load(Ordering::Relaxed), phases.phase(), waits.is_some()),
                waits,
                uptime: started.elapsed(),
                options: server_options.clone(),
                node: node.clone(),
            }
        }),
        clusters: Arc::new(move || {
            clusters.all().iter().map(|c| cluster(c, discovered.is_discovered(&c.name))).collect()
        }),
        listeners: Arc::new(move || listeners.all().iter().map(listener).collect()),
        certificates: Arc::new(move || secrets.certificates(SystemTime::now()).iter().map(group).collect()),
        config: Arc::new(move || {
            let mut dump = dump.clone();
            dumped.dump(&mut dump);
            dump
        }),
        unready: Arc::new(move || waiting.unready()),
        status: Arc::new(move || held.status()),
        to_json: Arc::new(|url, bytes| {
            let name = weft_proto::schema::type_url_name(url);
            weft_proto::to_json::encoded(name, bytes, weft_proto::to_json::Options::default())
                .map_err(|e| e.to_string())
        }),
        commands,
    }
}

/// What the process is doing; `waits`: the workload has no certificate yet, so nobody can be served as it should.
fn state(draining: bool, phase: Phase, waits: bool) -> ServerState {
    match phase {
        Phase::Runtime | Phase::StaticClusters | Phase::Clusters => ServerState::PreInitializing,
        Phase::Listeners => ServerState::Initializing,
        Phase::Live if waits => ServerState::Initializing,
        Phase::Live if draining => ServerState::Draining,
        Phase::Live => ServerState::Live,
    }
}

fn listener(l: &Arc<Listener>) -> ListenerStatus {
    ListenerStatus { name: l.config.name.clone(), addresses: l.bound().iter().map(|a| (*a).into()).collect() }
}

fn cluster(c: &Arc<Cluster>, added_via_api: bool) -> ClusterStatus {
    let thresholds = |t: &config::CircuitBreaker| Thresholds {
        max_connections: t.max_connections,
        max_pending_requests: t.max_pending_requests,
        max_requests: t.max_requests,
        max_retries: t.max_retries,
    };
    ClusterStatus {
        name: c.name.to_string(),
        observability_name: c.config.stat_name.clone(),
        added_via_api,
        eds_service_name: eds_service_name(c),
        outlier: c.config.outlier.as_ref().map(|_| OutlierThresholds::default()),
        default_priority: thresholds(&c.config.breakers_default),
        high_priority: thresholds(&c.config.breakers_high),
        hosts: c.hosts().all().map(|h| host(h)).collect(),
    }
}

/// As configured: empty, if it is the cluster's own name.
fn eds_service_name(c: &Cluster) -> String {
    match &c.config.discovery {
        config::Discovery::Eds { service_name, .. } if **service_name != *c.name => service_name.clone(),
        _ => String::new(),
    }
}

fn host(h: &Host) -> HostStatus {
    let address = match &h.address {
        config::Address::Ip(a) => PeerAddr::Ip(*a),
        other => PeerAddr::Pipe(other.to_string().into()),
    };
    let n = |a: &std::sync::atomic::AtomicU64| a.load(Ordering::Relaxed);
    HostStatus {
        hostname: h.hostname.to_string(),
        counters: vec![
            ("cx_connect_fail", n(&h.cx_connect_fail)),
            ("cx_total", n(&h.cx_total)),
            ("rq_error", n(&h.rq_error)),
            ("rq_success", n(&h.rq_success)),
            ("rq_timeout", n(&h.rq_timeout)),
            ("rq_total", n(&h.rq_total)),
        ],
        gauges: vec![
            ("cx_active", u64::from(h.cx_active.load(Ordering::Relaxed))),
            ("rq_active", u64::from(h.active.load(Ordering::Relaxed))),
        ],
        health: HealthFlags {
            failed_active_hc: h.failed_check.load(Ordering::Relaxed),
            failed_outlier_check: h.outlier.is_ejected(),
            failed_eds_health: matches!(h.told, HealthStatus::Unhealthy | HealthStatus::Timeout),
            degraded_eds_health: h.told == HealthStatus::Degraded,
            eds_status_draining: h.told == HealthStatus::Draining,
            ..HealthFlags::default()
        },
        weight: h.weight,
        locality: (*h.locality).clone(),
        canary: h.metadata.get("envoy.lb").and_then(|m| m.get("canary")?.as_bool()) == Some(true),
        priority: h.priority,
        ..HostStatus::new(address)
    }
}

fn group(c: &tls::ContextCertificates) -> CertificateGroup {
    let convert = |list: &[tls::CertificateDetails]| {
        list.iter()
            .map(|d| CertificateDetails {
                path: d.path.clone(),
                serial: d.serial.clone(),
                names: d
                    .names
                    .iter()
                    .map(|(kind, v)| match *kind {
                        "dns" => SubjectName::Dns(v.clone()),
                        "uri" => SubjectName::Uri(v.clone()),
                        _ => SubjectName::IpAddress(v.clone()),
                    })
                    .collect(),
                not_before: d.valid_from.unwrap_or(SystemTime::UNIX_EPOCH),
                not_after: d.expires.unwrap_or(SystemTime::UNIX_EPOCH),
            })
            .collect()
    };
    CertificateGroup { ca: convert(&c.ca), chain: convert(&c.own) }
}

/// The static part of `/config_dump`: all there is without a management server.
fn dump(bootstrap: &bytes::Bytes) -> ConfigDump {
    use prost::Message;
    let now = Some(SystemTime::now());
    let resource = |name: &str, type_url: &'static str, encoded: Vec<u8>| DumpedResource {
        name: name.to_owned(),
        type_url,
        encoded: encoded.into(),
        last_updated: now,
        ..DumpedResource::default()
    };
    let decoded =
        weft_proto::pb::envoy::config::bootstrap::v3::Bootstrap::decode(bootstrap.as_ref()).unwrap_or_default();
    let statics = decoded.static_resources.unwrap_or_default();
    ConfigDump {
        bootstrap: bootstrap.clone(),
        bootstrap_updated: now,
        static_clusters: statics
            .clusters
            .iter()
            .map(|c| resource(&c.name, "type.googleapis.com/envoy.config.cluster.v3.Cluster", c.encode_to_vec()))
            .collect(),
        static_listeners: statics
            .listeners
            .iter()
            .map(|l| resource(&l.name, "type.googleapis.com/envoy.config.listener.v3.Listener", l.encode_to_vec()))
            .collect(),
        ..ConfigDump::default()
    }
}
