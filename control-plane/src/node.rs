//! Who asks: a proxy, as its xDS node describes it.
//!
//! Owns the reading of node ids (Istio's form: `sidecar~10.0.0.1~reviews-v1-7d.default~default.svc.cluster.local`), of the
//! metadata keys that Istio's agents and injectors set, and of what tells a proxyless gRPC client. Must not know: what a proxy
//! gets for it. Plain data.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde_json::{Map, Value as Json};
use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::google::protobuf::{Struct, Value, value::Kind};

/// The longest node id that is taken; it is shown in logs and tables.
const MAX_ID_BYTES: usize = 1024;
/// How deeply metadata may be nested; beyond it is dropped.
const MAX_METADATA_DEPTH: usize = 16;

/// What a proxy is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProxyKind {
    /// Beside one workload, for its traffic in and out. Also every node whose id says nothing.
    Sidecar,
    /// A gateway (`router~…`).
    Gateway,
    /// A gRPC library that reads xDS itself.
    Grpc,
}

impl fmt::Display for ProxyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Sidecar => "sidecar",
            Self::Gateway => "gateway",
            Self::Grpc => "grpc",
        })
    }
}

/// Where a proxy runs; empty where it does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    /// For example `eu-west`.
    pub region: String,
    /// Within the region.
    pub zone: String,
    /// Within the zone.
    pub sub_zone: String,
}

/// A proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// The node id, as it is.
    pub id: String,
    /// What it is there for.
    pub kind: ProxyKind,
    /// Its addresses, the one of its id first. Empty if it names none.
    pub ips: Vec<IpAddr>,
    /// The pod, or the whole id if that has no such part.
    pub name: String,
    /// The namespace: the id's, else metadata `NAMESPACE`, else `default`.
    pub namespace: String,
    /// The DNS domain it completes short names with: `default.svc.cluster.local`.
    pub domain: String,
    /// The node's `cluster`: Istio's `service.namespace`.
    pub cluster: String,
    /// The workload's labels: metadata `LABELS`.
    pub labels: BTreeMap<String, String>,
    /// Metadata `SERVICE_ACCOUNT`, empty if there is none.
    pub service_account: String,
    /// Metadata `NETWORK`, empty if there is none.
    pub network: String,
    /// Where it runs.
    pub locality: Locality,
    /// All of the metadata.
    pub metadata: Map<String, Json>,
    /// What it calls itself: `envoy`, `gRPC C-core linux Python`.
    pub user_agent: String,
    /// What it can do, as it says: `envoy.lb.does_not_support_overprovisioning`.
    pub client_features: BTreeSet<String>,
}

/// Why a node is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// It has no id.
    #[error(
        "node.id is empty; set node.id (or --service-node), for a sidecar sidecar~IP~POD.NAMESPACE~NAMESPACE.svc.cluster.local"
    )]
    NoId,
    /// Its id is too long.
    #[error("node.id has {0} bytes, more than the {MAX_ID_BYTES} that are taken; shorten it")]
    LongId(usize),
}

impl Proxy {
    /// Reads a node.
    ///
    /// # Errors
    /// A node without an id, or with one that is too long. Everything else has a default.
    pub fn from_node(node: &core::Node) -> Result<Self, NodeError> {
        if node.id.is_empty() {
            return Err(NodeError::NoId);
        }
        if node.id.len() > MAX_ID_BYTES {
            return Err(NodeError::LongId(node.id.len()));
        }
        let metadata = node.metadata.as_ref().map(|metadata| object(metadata, 0)).unwrap_or_default();
        let text = |key: &str| metadata.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
        let id = Id::parse(&node.id);
        let namespace = first_of([id.namespace.to_owned(), text("NAMESPACE"), "default".to_owned()]);
        Ok(Self {
            kind: kind(node, &id, &text("GENERATOR")),
            ips: addresses(id.ip, &text("INSTANCE_IPS")),
            name: first_of([id.name.to_owned(), text("NAME"), node.id.clone()]),
            domain: first_of([id.domain.to_owned(), format!("{namespace}.svc.cluster.local")]),
            namespace,
            labels: labels(&metadata),
            service_account: text("SERVICE_ACCOUNT"),
            network: text("NETWORK"),
            locality: node.locality.as_ref().map(Locality::from).unwrap_or_default(),
            user_agent: node.user_agent_name.clone(),
            client_features: node.client_features.iter().cloned().collect(),
            cluster: node.cluster.clone(),
            id: node.id.clone(),
            metadata,
        })
    }

    /// A sidecar of a workload, for tools that ask without a connection.
    #[must_use]
    pub fn sidecar(ip: IpAddr, name: &str, namespace: &str, labels: BTreeMap<String, String>) -> Self {
        Self::of_kind("sidecar", ip, name, namespace, labels)
    }

    /// A gateway, for tools that ask without a connection.
    #[must_use]
    pub fn gateway(ip: IpAddr, name: &str, namespace: &str, labels: BTreeMap<String, String>) -> Self {
        Self::of_kind("router", ip, name, namespace, labels)
    }

    fn of_kind(kind: &str, ip: IpAddr, name: &str, namespace: &str, labels: BTreeMap<String, String>) -> Self {
        let domain = format!("{namespace}.svc.cluster.local");
        Self {
            id: format!("{kind}~{ip}~{name}.{namespace}~{domain}"),
            kind: if kind == "router" { ProxyKind::Gateway } else { ProxyKind::Sidecar },
            ips: vec![ip],
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            domain,
            cluster: String::new(),
            labels,
            service_account: String::new(),
            network: String::new(),
            locality: Locality::default(),
            metadata: Map::new(),
            user_agent: String::new(),
            client_features: BTreeSet::new(),
        }
    }

    /// A text of the metadata, empty if it is not there or no text.
    #[must_use]
    pub fn metadata_text(&self, key: &str) -> &str {
        self.metadata.get(key).and_then(Json::as_str).unwrap_or_default()
    }
}

impl From<&core::Locality> for Locality {
    fn from(locality: &core::Locality) -> Self {
        Self { region: locality.region.clone(), zone: locality.zone.clone(), sub_zone: locality.sub_zone.clone() }
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [&self.region, &self.zone, &self.sub_zone];
        let given = parts.iter().rposition(|part| !part.is_empty()).map_or(0, |last| last + 1);
        f.write_str(&parts[..given].iter().map(|part| part.as_str()).collect::<Vec<_>>().join("/"))
    }
}

/// The parts of an id in Istio's form; of another one all are empty.
#[derive(Default)]
struct Id<'a> {
    kind: &'a str,
    ip: &'a str,
    name: &'a str,
    namespace: &'a str,
    domain: &'a str,
}

impl<'a> Id<'a> {
    fn parse(id: &'a str) -> Self {
        let mut parts = id.split('~');
        let (Some(kind), Some(ip), Some(pod), Some(domain), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Self::default();
        };
        // A pod's name may have dots, a namespace has none.
        let (name, namespace) = pod.rsplit_once('.').unwrap_or((pod, ""));
        Self { kind, ip, name, namespace, domain }
    }
}

fn kind(node: &core::Node, id: &Id<'_>, generator: &str) -> ProxyKind {
    if generator == "grpc" || node.user_agent_name.starts_with("gRPC") || node.user_agent_name.starts_with("grpc") {
        ProxyKind::Grpc
    } else if id.kind == "router" {
        ProxyKind::Gateway
    } else {
        ProxyKind::Sidecar
    }
}

fn first_of<const N: usize>(texts: [String; N]) -> String {
    texts.into_iter().find(|text| !text.is_empty()).unwrap_or_default()
}

fn addresses(of_id: &str, instance_ips: &str) -> Vec<IpAddr> {
    let mut ips = Vec::new();
    for ip in std::iter::once(of_id).chain(instance_ips.split(',')).filter_map(|text| text.trim().parse().ok()) {
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    ips
}

fn labels(metadata: &Map<String, Json>) -> BTreeMap<String, String> {
    let Some(Json::Object(labels)) = metadata.get("LABELS") else { return BTreeMap::new() };
    labels.iter().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

fn object(fields: &Struct, depth: usize) -> Map<String, Json> {
    fields.fields.iter().map(|(key, value)| (key.clone(), json(value, depth))).collect()
}

fn json(value: &Value, depth: usize) -> Json {
    if depth > MAX_METADATA_DEPTH {
        return Json::Null;
    }
    match &value.kind {
        Some(Kind::BoolValue(value)) => Json::from(*value),
        Some(Kind::NumberValue(value)) => Json::from(*value),
        Some(Kind::StringValue(text)) => Json::from(text.as_str()),
        Some(Kind::StructValue(fields)) => Json::Object(object(fields, depth + 1)),
        Some(Kind::ListValue(list)) => list.values.iter().map(|value| json(value, depth + 1)).collect(),
        Some(Kind::NullValue(_)) | None => Json::Null,
    }
}
