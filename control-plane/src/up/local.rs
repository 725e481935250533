//! The directory's objects as a cluster would have them: services with addresses, pods with theirs.
//!
//! Owns what is added to the YAML. What runs is somebody else's: this source says what should (`desired`), and is told of the
//! pods that do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use weft_proto::problem::Problem;

use super::commands::Commands;
use super::plan::{self, Desired};
use crate::model::kinds::service::{IpFamily, Service, ServiceSpec};
use crate::model::kinds::{Kind, Object, ObjectKey, Spec};
use crate::source::{Batch, Change, Source};

/// The first service address; there are 65,534.
const SERVICES: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 0);

/// A source, as a cluster.
pub struct Local<S> {
    source: S,
    /// What happens to pods.
    pods: mpsc::Receiver<Change>,
    plans: Plans,
    addresses: Addresses,
    desired: watch::Sender<Desired>,
    /// What is wrong with documents, as the source said last.
    problems: Arc<[Problem]>,
}

/// What each object asks for.
struct Plans {
    commands: Commands,
    by_object: BTreeMap<ObjectKey, Vec<Arc<plan::PodPlan>>>,
}

impl<S: Source> Local<S> {
    /// A source over `source`; `pods` tells what runs, `desired` is told what should.
    pub fn new(source: S, commands: Commands, pods: mpsc::Receiver<Change>, desired: watch::Sender<Desired>) -> Self {
        let plans = Plans { commands, by_object: BTreeMap::new() };
        Self { source, pods, plans, addresses: Addresses::default(), desired, problems: Arc::from([]) }
    }

    fn adapt(&mut self, batch: Batch) -> Batch {
        let mut changes = Vec::with_capacity(batch.changes.len());
        for change in batch.changes {
            self.plans.follow(&change);
            let change = match change {
                Change::Applied(object) if object.key.kind == Kind::Service => {
                    Change::Applied(self.addresses.give(object))
                }
                Change::Deleted(key) if key.kind == Kind::Service => {
                    self.addresses.take(&key);
                    Change::Deleted(key)
                }
                // A pod that is to run here is there when it runs.
                Change::Applied(object) if object.key.kind == Kind::Pod && self.plans.has(&object.key) => continue,
                other => other,
            };
            changes.push(change);
        }
        let desired = self.plans.desired();
        self.desired.send_if_modified(|before| {
            let differs = *before != desired;
            *before = desired;
            differs
        });
        self.problems = batch.problems.clone();
        Batch { changes, problems: batch.problems }
    }
}

impl<S: Source> Source for Local<S> {
    async fn next(&mut self) -> Option<Batch> {
        tokio::select! {
            batch = self.source.next() => {
                let batch = batch?;
                Some(self.adapt(batch))
            }
            Some(change) = self.pods.recv() => {
                let mut changes = vec![change];
                while let Ok(change) = self.pods.try_recv() {
                    changes.retain(|other| other.key() != change.key());
                    changes.push(change);
                }
                Some(Batch { changes, problems: self.problems.clone() })
            }
        }
    }
}

impl Plans {
    fn follow(&mut self, change: &Change) {
        match change {
            Change::Applied(object) => {
                let mut pods = plan::pods(object, &self.commands);
                if let Some(gateway) = gateway_of(object) {
                    pods.push(gateway);
                }
                if pods.is_empty() {
                    self.by_object.remove(&object.key);
                } else {
                    self.by_object.insert(object.key.clone(), pods.into_iter().map(Arc::new).collect());
                }
            }
            Change::Deleted(key) => {
                self.by_object.remove(key);
            }
        }
    }

    fn has(&self, key: &ObjectKey) -> bool {
        self.by_object.contains_key(key)
    }

    fn desired(&self) -> Desired {
        let all = self.by_object.values().flatten();
        all.map(|plan| (plan.full_name(), plan.clone())).collect()
    }
}

/// The gateway that an object asks for: Istio's one for all its Gateways, one of its own for each of the Gateway API's.
fn gateway_of(object: &Object) -> Option<plan::PodPlan> {
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    match &object.spec {
        Spec::IstioGateway(gateway) if !gateway.spec.selector.is_empty() => {
            let name = gateway.spec.selector.get("istio").or_else(|| gateway.spec.selector.get("app"));
            let name = name.map_or_else(|| object.key.name.to_string(), |name| format!("istio-{name}"));
            let mut labels = gateway.spec.selector.clone();
            labels
                .extend([label("app", &name)].into_iter().filter(|(key, _)| !gateway.spec.selector.contains_key(key)));
            Some(plan::gateway(&name, "istio-system", labels, &format!("{name}-service-account")))
        }
        Spec::Gateway(gateway) if gateway.spec.gateway_class_name != "istio-waypoint" => {
            let name = format!("{}-istio", object.key.name);
            let labels = [
                label("gateway.networking.k8s.io/gateway-name", &object.key.name),
                label("service.istio.io/canonical-name", &name),
            ];
            Some(plan::gateway(&name, &object.key.namespace, labels.into(), &name))
        }
        Spec::Ingress(_) => {
            let labels = [label("istio", "ingressgateway"), label("app", "istio-ingressgateway")];
            let name = "istio-ingressgateway";
            Some(plan::gateway(name, "istio-system", labels.into(), &format!("{name}-service-account")))
        }
        _ => None,
    }
}

/// The addresses of services: the same as long as they are there.
#[derive(Default)]
struct Addresses {
    by_key: BTreeMap<ObjectKey, Ipv4Addr>,
    taken: BTreeSet<Ipv4Addr>,
}

impl Addresses {
    /// The service with an address of its own, unless it has one or wants none.
    fn give(&mut self, object: Arc<Object>) -> Arc<Object> {
        let Some(service) = object.of::<Service>().filter(|service| wants_address(&service.spec)) else {
            return object;
        };
        let Some(address) = self.address(&object.key) else { return object };
        let mut service = service.clone();
        let families = service.spec.families();
        let own = |family: &IpFamily| match family {
            IpFamily::V4 => address.to_string(),
            IpFamily::V6 => v6(address).to_string(),
        };
        let addresses: Vec<_> =
            if families.is_empty() { vec![address.to_string()] } else { families.iter().map(own).collect() };
        service.spec.cluster_ip = addresses.first().cloned();
        service.spec.cluster_ips = addresses;
        Arc::new(Object { spec: Spec::Service(Box::new(service)), ..(*object).clone() })
    }

    fn address(&mut self, key: &ObjectKey) -> Option<Ipv4Addr> {
        if let Some(address) = self.by_key.get(key) {
            return Some(*address);
        }
        // By name, so that a restart gives the same; from there on the first that is free.
        let start = hash(&format!("{}/{}", key.namespace, key.name));
        let candidate = |n: u32| Ipv4Addr::from(u32::from(SERVICES) + 10 + (start.wrapping_add(n) % 65_000));
        let address = (0..65_000).map(candidate).find(|address| !self.taken.contains(address))?;
        self.taken.insert(address);
        self.by_key.insert(key.clone(), address);
        Some(address)
    }

    fn take(&mut self, key: &ObjectKey) {
        if let Some(address) = self.by_key.remove(key) {
            self.taken.remove(&address);
        }
    }
}

/// The same address in IPv6.
fn v6(address: Ipv4Addr) -> Ipv6Addr {
    let [.., high, low] = address.octets();
    Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, u16::from_be_bytes([high, low]))
}

fn wants_address(spec: &ServiceSpec) -> bool {
    let has = |ip: &String| !ip.is_empty();
    spec.r#type.as_deref() != Some("ExternalName")
        && !spec.cluster_ip.as_ref().is_some_and(has)
        && !spec.cluster_ips.iter().any(has)
}

/// FNV-1a: the same in every process.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// A pod that runs, as an object.
#[must_use]
pub fn running(plan: &plan::PodPlan, addresses: &[IpAddr], ready: bool) -> Object {
    use crate::model::kinds::meta::OwnerReference;
    use crate::model::kinds::workload::{Condition, Pod, PodIp, PodStatus};
    let mut meta = crate::model::kinds::meta::Meta::default();
    meta.name.clone_from(&plan.name);
    meta.namespace.clone_from(&plan.namespace);
    meta.labels = plan.labels.clone();
    let (kind, name) = ("Deployment".to_owned(), plan.workload.clone());
    meta.owner_references = vec![OwnerReference { kind, name, controller: true, ..OwnerReference::default() }];
    let mut status =
        PodStatus { pod_ip: addresses.first().copied(), phase: Some("Running".to_owned()), ..PodStatus::default() };
    status.pod_ips = addresses.iter().map(|ip| PodIp { ip: Some(*ip), ..PodIp::default() }).collect();
    let condition = if ready { "True" } else { "False" };
    status.conditions =
        vec![Condition { r#type: "Ready".to_owned(), status: condition.to_owned(), ..Condition::default() }];
    let pod = Pod { spec: plan.spec.clone(), status, ..Pod::default() };
    Object {
        key: pod_key(plan),
        meta,
        spec: Spec::Pod(Box::new(pod)),
        source: "weft up".into(),
        at: Default::default(),
        problems: Vec::new(),
    }
}

/// The key of a pod.
#[must_use]
pub fn pod_key(plan: &plan::PodPlan) -> ObjectKey {
    ObjectKey { kind: Kind::Pod, namespace: plan.namespace.as_str().into(), name: plan.name.as_str().into() }
}
