//! A workload, as its proxy tells others of it and as the control plane tells of endpoints.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost::Message as _;
use serde_json::Value as Json;

/// The longest value that is taken from a peer: names of Kubernetes are no longer (RFC 1123).
const MAX_VALUE: usize = 253;
/// The longest metadata that is read: names and labels are far from it.
const MAX_HEADER: usize = 8 << 10;

const CANONICAL_NAME: &str = "service.istio.io/canonical-name";
const CANONICAL_REVISION: &str = "service.istio.io/canonical-revision";

/// Istio writes padding, and does without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A workload; what is not known is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Workload {
    hash: u64,
    /// The pod.
    pub instance: Box<str>,
    /// What made it.
    pub name: Box<str>,
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its cluster.
    pub cluster: Box<str>,
    /// `service.istio.io/canonical-name`.
    pub canonical_name: Box<str>,
    /// `service.istio.io/canonical-revision`.
    pub canonical_revision: Box<str>,
    /// Its label `app`.
    pub app: Box<str>,
    /// Its label `version`.
    pub version: Box<str>,
}

/// By content, which is summed up once.
impl Hash for Workload {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// A `google.protobuf.Struct` with its fields in order, of which texts and objects are looked at.
#[derive(Clone, PartialEq, prost::Message)]
struct Object {
    #[prost(btree_map = "string, message", tag = "1")]
    fields: BTreeMap<String, Value>,
}

/// A `google.protobuf.Value`.
#[derive(Clone, PartialEq, prost::Message)]
struct Value {
    #[prost(string, optional, tag = "3")]
    text: Option<String>,
    #[prost(message, optional, boxed, tag = "5")]
    object: Option<Box<Object>>,
}

impl Object {
    fn text(&self, key: &str) -> &str {
        let text = self.fields.get(key).and_then(|value| value.text.as_deref()).unwrap_or_default();
        if text.len() > MAX_VALUE { "" } else { text }
    }

    fn set(&mut self, key: &str, text: &str) {
        if !text.is_empty() {
            self.fields.insert(key.to_owned(), Value { text: Some(text.to_owned()), object: None });
        }
    }
}

impl Workload {
    /// The workload of a node, as Istio's agents describe it. **Source**: `envoy.config.core.v3.Node.metadata`.
    pub fn of_node(metadata: &Json) -> Self {
        let text = |key: &str| metadata.get(key).and_then(Json::as_str).unwrap_or_default();
        let label = |key: &str| metadata.get("LABELS").and_then(|all| all.get(key)?.as_str()).unwrap_or_default();
        Self {
            instance: text("NAME").into(),
            name: text("WORKLOAD_NAME").into(),
            namespace: text("NAMESPACE").into(),
            cluster: text("CLUSTER_ID").into(),
            // The injector makes labels of these; where it has not been, the same is made of what there is.
            canonical_name: first(&[
                label(CANONICAL_NAME),
                text("CANONICAL_SERVICE"),
                label("app.kubernetes.io/name"),
                label("app"),
                text("WORKLOAD_NAME"),
            ]),
            canonical_revision: first(&[
                label(CANONICAL_REVISION),
                text("CANONICAL_REVISION"),
                label("app.kubernetes.io/version"),
                label("version"),
            ]),
            app: label("app").into(),
            version: label("version").into(),
            ..Self::default()
        }
        .summed()
    }

    /// A peer, from its header `x-envoy-peer-metadata`; `None`: it is none.
    pub fn of_header(value: &[u8]) -> Option<Self> {
        let bytes = BASE64.decode(value.get(..MAX_HEADER.min(value.len()))?).ok()?;
        let object = Object::decode(bytes.as_slice()).ok()?;
        let labels = object.fields.get("LABELS").and_then(|value| value.object.as_deref());
        let label = |key: &str| labels.map(|labels| labels.text(key)).unwrap_or_default();
        let made = Self {
            instance: object.text("NAME").into(),
            name: object.text("WORKLOAD_NAME").into(),
            namespace: object.text("NAMESPACE").into(),
            cluster: object.text("CLUSTER_ID").into(),
            canonical_name: label(CANONICAL_NAME).into(),
            canonical_revision: label(CANONICAL_REVISION).into(),
            app: label("app").into(),
            version: label("version").into(),
            ..Self::default()
        };
        Some(made.summed())
    }

    /// An endpoint, as the control plane tells of it: `name;namespace;canonical name;canonical revision;cluster`.
    pub fn of_endpoint(text: &str) -> Option<Self> {
        let mut parts = text.split(';');
        let mut next = || parts.next().map(|part| if part.len() > MAX_VALUE { "" } else { part }.into());
        let made = Self {
            name: next()?,
            namespace: next()?,
            canonical_name: next()?,
            canonical_revision: next()?,
            cluster: next()?,
            ..Self::default()
        };
        Some(made.summed())
    }

    /// What peers are told of it: the same bytes for the same workload.
    pub fn to_header(&self) -> String {
        let mut labels = Object::default();
        labels.set("app", &self.app);
        labels.set("version", &self.version);
        labels.set(CANONICAL_NAME, &self.canonical_name);
        labels.set(CANONICAL_REVISION, &self.canonical_revision);
        let mut object = Object::default();
        object.set("NAME", &self.instance);
        object.set("NAMESPACE", &self.namespace);
        object.set("WORKLOAD_NAME", &self.name);
        object.set("CLUSTER_ID", &self.cluster);
        object.fields.insert("LABELS".to_owned(), Value { text: None, object: Some(Box::new(labels)) });
        BASE64.encode(object.encode_to_vec())
    }

    /// The same, with the words for what is not known of it.
    #[must_use]
    pub fn named(mut self) -> Self {
        for field in [&mut self.name, &mut self.namespace, &mut self.cluster, &mut self.app, &mut self.version] {
            or(field, "unknown");
        }
        or(&mut self.canonical_name, "unknown");
        or(&mut self.canonical_revision, "latest");
        self.summed()
    }

    fn summed(mut self) -> Self {
        let mut hasher = DefaultHasher::new();
        let Self { hash: _, instance, name, namespace, cluster, canonical_name, canonical_revision, app, version } =
            &self;
        // Not the pod: series are of workloads.
        let _ = instance;
        (name, namespace, cluster, canonical_name, canonical_revision, app, version).hash(&mut hasher);
        self.hash = hasher.finish();
        self
    }

    /// Whether both are called the same in all labels.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
            || (self.hash == other.hash
                && self.name == other.name
                && self.namespace == other.namespace
                && self.cluster == other.cluster
                && self.canonical_name == other.canonical_name
                && self.canonical_revision == other.canonical_revision
                && self.app == other.app
                && self.version == other.version)
    }
}

fn or(field: &mut Box<str>, word: &str) {
    if field.is_empty() {
        *field = word.into();
    }
}

fn first(all: &[&str]) -> Box<str> {
    all.iter().copied().find(|text| !text.is_empty()).unwrap_or_default().into()
}
