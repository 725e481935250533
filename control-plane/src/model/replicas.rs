//! Pods of Deployments, where no cluster makes them.

use std::net::IpAddr;

use super::kinds::workload::{Deployment, Pod, PodStatus};
use super::kinds::{Kind, Object, ObjectKey, Spec, StatefulSet};

/// The pods a Deployment or StatefulSet would have, one for each address: what a caller without a cluster applies to the
/// world beside the objects themselves. Empty for an object of another kind.
///
/// They are called `name-0`, `name-1`… and have the template's labels.
#[must_use]
pub fn pods(of: &Object, addresses: &[IpAddr]) -> Vec<Object> {
    let deployment = of.of::<Deployment>().or_else(|| of.of::<StatefulSet>().map(|set| &set.0));
    let Some(deployment) = deployment else { return Vec::new() };
    let template = &deployment.spec.template;
    let pod = |(index, address): (usize, &IpAddr)| {
        let mut meta = template.metadata.clone();
        meta.name = format!("{}-{index}", of.key.name);
        meta.namespace = of.key.namespace.to_string();
        let key = ObjectKey { kind: Kind::Pod, namespace: of.key.namespace.clone(), name: meta.name.as_str().into() };
        let status = PodStatus { pod_ip: Some(*address), ..PodStatus::default() };
        let spec = Pod { spec: template.spec.clone(), status, ..Pod::default() };
        Object {
            key,
            meta,
            spec: Spec::Pod(Box::new(spec)),
            source: of.source.clone(),
            at: of.at,
            problems: Vec::new(),
        }
    };
    addresses.iter().enumerate().map(pod).collect()
}

/// How many pods it wants. Default: 1.
#[must_use]
pub fn count(of: &Object) -> u32 {
    let deployment = of.of::<Deployment>().or_else(|| of.of::<StatefulSet>().map(|set| &set.0));
    deployment.map_or(0, |deployment| deployment.spec.replicas.unwrap_or(1))
}
