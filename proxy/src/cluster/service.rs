//! The service that a cluster stands for, as Istio's control plane says it.

use crate::config::Metadata;

/// A service. **Source**: the first of `Cluster.metadata.filter_metadata["istio"].services`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// `reviews.default.svc.cluster.local`
    pub host: Box<str>,
    /// `reviews`
    pub name: Box<str>,
    /// `default`; empty: it is not said.
    pub namespace: Box<str>,
}

impl Service {
    pub(super) fn of(metadata: &Metadata) -> Option<Self> {
        let first = metadata.get("istio")?.get("services")?.get(0)?;
        let text = |key: &str| first.get(key).and_then(serde_json::Value::as_str).filter(|text| !text.is_empty());
        let host = text("host")?;
        let name = text("name").or_else(|| host.split('.').next()).unwrap_or_default();
        Some(Service { host: host.into(), name: name.into(), namespace: text("namespace").unwrap_or_default().into() })
    }
}
