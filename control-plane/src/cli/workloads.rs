//! A directory without a cluster: its world, and the proxies it would have.
//!
//! Must not know: what they get.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use weft_proto::problem::Problem;

use crate::model::kinds::gateway::IstioGateway;
use crate::model::kinds::workload::Pod;
use crate::model::kinds::{Kind, Object};
use crate::model::{World, replicas};
use crate::node::{Proxy, ProxyKind};
use crate::source::Change;
use crate::source::files::Files;

/// A directory, as a cluster would have it.
pub(super) struct Directory {
    pub(super) world: World,
    /// What is wrong with documents that are no objects.
    pub(super) problems: Vec<Problem>,
    /// The proxies it would have: `name.namespace` and `name.namespace (gateway)`.
    pub(super) proxies: BTreeMap<String, Proxy>,
}

impl Directory {
    /// Reads a directory. Deployments without pods get one each, at an address that is nobody's (RFC 5737).
    pub(super) fn read(path: &Path) -> Result<Self> {
        let batch = Files::read_once(path)?;
        let problems = batch.problems.to_vec();
        let mut objects: Vec<Arc<Object>> = batch.changes.into_iter().filter_map(applied).collect();
        let pods: Vec<Object> =
            objects.iter().enumerate().flat_map(|(place, of)| pod_of(of, place, &objects)).collect();
        objects.extend(pods.into_iter().map(Arc::new));
        let proxies = objects.iter().flat_map(proxies_of).collect();
        Ok(Self { world: World::of(objects), problems, proxies })
    }

    /// The proxy of this name: `name.namespace`, or `name` where that is only one.
    pub(super) fn proxy(&self, wanted: &str) -> Result<&Proxy> {
        let is = |name: &str| name == wanted || name.split(['.', ' ']).next() == Some(wanted);
        let found: Vec<_> = self.proxies.iter().filter(|(name, _)| is(name)).collect();
        let names = |of: &mut dyn Iterator<Item = &String>| of.cloned().collect::<Vec<_>>().join(", ");
        match found.as_slice() {
            [(_, proxy)] => Ok(proxy),
            [] => bail!("no workload {wanted}; there are: {}", names(&mut self.proxies.keys())),
            several => bail!("{wanted} is several: {}", names(&mut several.iter().map(|(name, _)| *name))),
        }
    }
}

fn applied(change: Change) -> Option<Arc<Object>> {
    match change {
        Change::Applied(object) => Some(object),
        Change::Deleted(_) => None,
    }
}

/// A pod for a Deployment that has none.
fn pod_of(deployment: &Arc<Object>, place: usize, objects: &[Arc<Object>]) -> Vec<Object> {
    let address = IpAddr::V4(Ipv4Addr::from(0xC000_0200 + u32::try_from(place % 256).unwrap_or_default()));
    let mut pods = replicas::pods(deployment, &[address]);
    pods.retain(|pod| {
        let same = |other: &&Arc<Object>| {
            other.key.kind == Kind::Pod
                && other.key.namespace == pod.key.namespace
                && pod.meta.labels.iter().all(|label| other.meta.labels.get(label.0) == Some(label.1))
        };
        !objects.iter().any(|other| same(&other))
    });
    pods
}

fn proxies_of(object: &Arc<Object>) -> Vec<(String, Proxy)> {
    let (name, namespace) = (&*object.key.name, &*object.key.namespace);
    let nowhere = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 255));
    let gateway = |labels| {
        let proxy = Proxy::gateway(nowhere, name, namespace, labels);
        vec![(format!("{name}.{namespace} (gateway)"), proxy)]
    };
    if let Some(pod) = object.of::<Pod>() {
        let ip = pod.addresses().first().copied().unwrap_or(nowhere);
        let proxy = Proxy::sidecar(ip, name, namespace, object.meta.labels.clone());
        return vec![(format!("{name}.{namespace}"), proxy)];
    }
    if let Some(istio) = object.of::<IstioGateway>() {
        return gateway(istio.spec.selector.clone());
    }
    if object.key.kind == Kind::Gateway {
        let label = ("gateway.networking.k8s.io/gateway-name".to_owned(), name.to_owned());
        return gateway([label].into());
    }
    Vec::new()
}

/// The same proxy as a gRPC library.
pub(super) fn as_grpc(proxy: &Proxy) -> Result<Proxy> {
    let sidecar =
        (proxy.kind == ProxyKind::Sidecar).then_some(proxy).context("--grpc is for pods, not for gateways")?;
    Ok(Proxy { kind: ProxyKind::Grpc, ..sidecar.clone() })
}
