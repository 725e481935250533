//! The bootstrap: everything a process starts with.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message as _;
use weft_proto::pb::envoy::config::bootstrap::v3 as pb;
use weft_proto::pb::envoy::config::cluster::v3::Cluster as PbCluster;
use weft_proto::pb::envoy::extensions::transport_sockets::tls::v3 as tls;

use super::ctx::{Ctx, Out};
use super::{access_log, address, cluster, endpoint, identity, listener, runtime, secret, source, stats, value};
use crate::config::{
    AccessLog, AccessLogSink, Address, Admin, ApplicationLogFormat, Bootstrap, Cluster, Listener, LogFormat,
    LogTemplate, Node, Secret, SecretKind,
};

/// A bootstrap. The environment already knows the names of clusters and secrets in it.
pub(super) fn bootstrap(c: &Ctx<'_>, b: &pb::Bootstrap, node: Node) -> Out<Bootstrap> {
    let resources = b.static_resources.clone().unwrap_or_default();
    let here = c.field("static_resources");
    let secrets = secrets(&here, &resources.secrets);
    let clusters = clusters(&here, &resources.clusters);
    let listeners = listeners(&here, &resources);
    let admin = c.opt("admin", &b.admin, admin);
    let dynamic = c.opt("dynamic_resources", &b.dynamic_resources, source::dynamic);
    let runtime_layers = runtime::layers(c, &b.layered_runtime);
    let stats = c.opt("stats_config", &b.stats_config, stats::stats_config);
    let manager = c.opt("cluster_manager", &b.cluster_manager, |c, m| cluster_manager(c, m, &resources.clusters));
    let application_log_format = match b.application_log_config.as_ref().and_then(|l| l.log_format.as_ref()) {
        None => None,
        Some(format) => {
            use pb::bootstrap::application_log_config::log_format::LogFormat as F;
            match &format.log_format {
                None => None,
                Some(F::TextFormat(text)) => Some(ApplicationLogFormat::Text(text.clone())),
                Some(F::JsonFormat(s)) => Some(ApplicationLogFormat::Json(serde_json::Value::Object(value::object(s)))),
            }
        }
    };
    let identity = identity::extensions(c, &b.bootstrap_extensions);
    let manager = manager?.unwrap_or_default();
    let mut clusters = clusters?;
    manager.bind_unbound(&resources.clusters, &mut clusters);
    Ok(Bootstrap {
        node,
        admin: admin?.flatten(),
        listeners: listeners?,
        clusters,
        secrets: secrets?,
        dynamic: dynamic?.unwrap_or_default(),
        runtime_layers: runtime_layers?,
        stats: stats?.unwrap_or_default(),
        local_cluster_name: manager.local_cluster_name,
        outlier_event_log: manager.outlier_event_log,
        application_log_format,
        identity: identity?,
        raw: Bytes::from(b.encode_to_vec()),
    })
}

/// The node, its parts replaced by what the command line says.
pub(super) fn node(b: &pb::Bootstrap, overrides: &super::NodeOverrides) -> Node {
    let n = b.node.clone().unwrap_or_default();
    let mut node = Node {
        id: n.id,
        cluster: n.cluster,
        metadata: serde_json::Value::Object(n.metadata.as_ref().map(value::object).unwrap_or_default()),
        locality: n.locality.as_ref().map(endpoint::locality).unwrap_or_default(),
    };
    let replace = |field: &mut String, by: &Option<String>| {
        if let Some(by) = by.as_ref().filter(|by| !by.is_empty()) {
            field.clone_from(by);
        }
    };
    replace(&mut node.id, &overrides.id);
    replace(&mut node.cluster, &overrides.cluster);
    replace(&mut node.locality.zone, &overrides.zone);
    node
}

fn secrets(c: &Ctx<'_>, secrets: &[tls::Secret]) -> Out<Vec<Secret>> {
    let secrets = c.each("secrets", secrets, secret::secret)?;
    let mut seen = BTreeSet::new();
    let mut all = Ok(());
    for (i, s) in secrets.iter().enumerate() {
        // A certificate and a validation context may share a name: they are asked for by kind.
        let kind = match &s.kind {
            SecretKind::Certificate(_) => "TlsCertificate",
            SecretKind::Validation(_) => "CertificateValidationContext",
            SecretKind::TicketKeys(_) => "TlsSessionTicketKeys",
            SecretKind::Generic(_) => "GenericSecret",
        };
        if !seen.insert((kind, s.name.as_str())) {
            all = c.index("secrets", i).field("name").refuse(format!("Duplicate static {kind} secret name {}", s.name));
        }
    }
    all.map(|()| secrets)
}

fn clusters(c: &Ctx<'_>, clusters: &[PbCluster]) -> Out<Vec<Cluster>> {
    let mut seen = BTreeSet::new();
    let mut unique = Ok(());
    for (i, p) in clusters.iter().enumerate() {
        if !seen.insert(p.name.as_str()) {
            let here = c.index("clusters", i);
            unique = here.field("name").refuse(format!("cluster manager: duplicate cluster '{}'", p.name));
        }
    }
    let clusters = c.each("clusters", clusters, cluster::cluster)?;
    unique.map(|()| clusters)
}

fn listeners(c: &Ctx<'_>, resources: &pb::bootstrap::StaticResources) -> Out<Vec<Listener>> {
    let listeners = c.each("listeners", &resources.listeners, listener::listener)?;
    let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    let mut all = Ok(());
    for (i, l) in listeners.iter().enumerate() {
        let here = c.index("listeners", i);
        if !names.insert(l.name.as_str()) {
            all = here.field("name").refuse(format!("duplicate listener {} found", l.name));
        }
        for address in l.addresses.iter().filter(|_| l.bind_to_port) {
            // Port 0 is another port each time.
            let fixed = !matches!(address.address, Address::Ip(a) if a.port() == 0);
            if fixed && !addresses.insert(address.address.to_string()) {
                all = here.field("address").refuse(format!(
                    "error adding listener: '{}' has duplicate address '{}' as existing listener",
                    l.name, address.address
                ));
            }
        }
    }
    all.map(|()| listeners)
}

fn admin(c: &Ctx<'_>, a: &pb::Admin) -> Out<Option<Admin>> {
    let mut access_log = c.each("access_log", &a.access_log, access_log::access_log)?;
    if !a.access_log_path.is_empty() {
        let format = LogFormat {
            template: LogTemplate::Default,
            omit_empty_values: false,
            sort_properties: None,
            content_type: None,
        };
        let sink = AccessLogSink::File(a.access_log_path.clone());
        access_log.push(AccessLog { name: "envoy.access_loggers.file".into(), filter: None, sink, format });
    }
    let Some(address) = c.opt("address", &a.address, address::resolved)? else {
        return Ok(None);
    };
    Ok(Some(Admin { address, access_log, ignore_global_conn_limit: a.ignore_global_conn_limit }))
}

#[derive(Default)]
struct Manager {
    local_cluster_name: Option<String>,
    outlier_event_log: Option<String>,
    bind: (Option<std::net::SocketAddr>, Vec<crate::config::SocketOption>),
}

impl Manager {
    /// `cluster_manager.upstream_bind_config` counts for clusters that have none of their own.
    fn bind_unbound(&self, from: &[PbCluster], clusters: &mut [Cluster]) {
        for (_, cluster) in from.iter().zip(clusters).filter(|(p, _)| p.upstream_bind_config.is_none()) {
            cluster.bind_address = self.bind.0;
            cluster.socket_options.clone_from(&self.bind.1);
        }
    }
}

fn cluster_manager(c: &Ctx<'_>, m: &pb::ClusterManager, clusters: &[PbCluster]) -> Out<Manager> {
    let name = &m.local_cluster_name;
    let known = name.is_empty() || clusters.iter().any(|p| p.name == *name);
    c.field("local_cluster_name").ensure(known, || format!("local cluster '{name}' must be defined"))?;
    let log = m.outlier_detection.as_ref().map(|o| o.event_log_path.clone());
    Ok(Manager {
        local_cluster_name: Some(name.clone()).filter(|n| !n.is_empty()),
        outlier_event_log: log.filter(|path| !path.is_empty()),
        bind: c.opt("upstream_bind_config", &m.upstream_bind_config, cluster::bind)?.unwrap_or_default(),
    })
}
