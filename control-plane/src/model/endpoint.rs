//! Endpoints: where the instances of services are.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::kinds::meta::{Labels, Meta, contains_all};
use super::kinds::service::{EndpointSlice, Endpoints, IpFamily, PortRef, TargetRef};
use super::kinds::service_entry::WorkloadEntrySpec;
use super::kinds::workload::{Node, Pod};
use super::kinds::{Kind, ObjectKey};
use super::objects::Objects;
use super::service::{Port, Service};
use crate::node::Locality;

/// An instance of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// An IP address, a DNS name, or `unix:///path`.
    pub address: String,
    /// Its port for each port of the service.
    pub ports: BTreeMap<u16, u16>,
    /// What subsets select by.
    pub labels: Labels,
    /// Where it is.
    pub locality: Locality,
    /// Its share among its like.
    pub weight: u32,
    /// Its identity, may be empty.
    pub service_account: String,
    /// The pod or WorkloadEntry it is, if that is known.
    pub workload: Option<ObjectKey>,
    /// What has made it: a Deployment's name; empty: that is not known.
    pub workload_name: Arc<str>,
}

impl Endpoint {
    /// Its IP address, if it has one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.address.parse().ok()
    }
}

/// The label a Service's slices name it with.
pub(super) const SLICE_SERVICE: &str = "kubernetes.io/service-name";

/// The endpoints of a service.
///
/// What is written down wins (EndpointSlices, else Endpoints, else a ServiceEntry's list); a selector without any of them is
/// answered from the pods and WorkloadEntries of the namespace, as Kubernetes' controllers would do it.
pub(super) fn of_service(service: &Service, objects: &Objects) -> Arc<[Endpoint]> {
    let mut found: Vec<Endpoint> = Vec::new();
    if let Some(name) = service.kubernetes_name() {
        found.extend(of_slices(service, name, objects));
        if found.is_empty() && !has_slices(service, name, objects) {
            found.extend(of_endpoints(service, name, objects));
        }
    }
    found.extend(service.listed.iter().map(|entry| of_entry_spec(service, entry, None)));
    if let Some(selector) = &service.selector {
        if !is_written(service, objects) {
            found.extend(of_pods(service, selector, objects));
        }
        found.extend(of_entries(service, selector, objects));
    }
    // One address once, in an order that does not depend on who came first.
    found.sort_by(|a, b| (&a.address, &a.ports, &a.workload).cmp(&(&b.address, &b.ports, &b.workload)));
    found.dedup_by(|a, b| a.address == b.address && a.ports == b.ports);
    found.into()
}

/// Whether somebody wrote down the endpoints of a Kubernetes Service.
pub(super) fn is_written(service: &Service, objects: &Objects) -> bool {
    service.kubernetes_name().is_some_and(|name| {
        objects.get(Kind::Endpoints, &service.key.namespace, name).is_some() || has_slices(service, name, objects)
    })
}

fn slices<'o>(service: &'o Service, name: &'o str, objects: &'o Objects) -> impl Iterator<Item = &'o EndpointSlice> {
    objects.slices_of(&service.key.namespace, name).filter_map(|object| object.of::<EndpointSlice>())
}

fn has_slices(service: &Service, name: &str, objects: &Objects) -> bool {
    slices(service, name, objects).next().is_some()
}

fn of_slices(service: &Service, name: &str, objects: &Objects) -> Vec<Endpoint> {
    let mut found = Vec::new();
    for slice in slices(service, name, objects) {
        let ports = ports(service, |port| {
            slice.ports.iter().find(|of| of.name.as_deref().unwrap_or_default() == port.name).map(|of| of.port)
        });
        for endpoint in &slice.endpoints {
            let serves = endpoint.conditions.ready.unwrap_or(true) || service.publish_not_ready;
            if !serves {
                continue;
            }
            for address in endpoint.addresses.iter().filter(|address| address.parse::<IpAddr>().is_ok()) {
                let pod = pod_of(endpoint.target_ref.as_ref(), address, &service.key.namespace, objects);
                let mut made = with_pod(address, ports.clone(), pod, objects, endpoint.node_name.as_deref());
                if let (Some(zone), true) = (&endpoint.zone, made.locality.zone.is_empty()) {
                    made.locality.zone.clone_from(zone);
                }
                found.push(made);
            }
        }
    }
    found
}

fn of_endpoints(service: &Service, name: &str, objects: &Objects) -> Vec<Endpoint> {
    let object = objects.get(Kind::Endpoints, &service.key.namespace, name);
    let Some(endpoints) = object.and_then(|object| object.of::<Endpoints>()) else { return Vec::new() };
    let mut found = Vec::new();
    for subset in &endpoints.subsets {
        let ports = ports(service, |port| {
            subset.ports.iter().find(|of| of.name.as_deref().unwrap_or_default() == port.name).map(|of| of.port)
        });
        for address in &subset.addresses {
            let Some(ip) = address.ip else { continue };
            let ip = ip.to_string();
            let pod = pod_of(address.target_ref.as_ref(), &ip, &service.key.namespace, objects);
            found.push(with_pod(&ip, ports.clone(), pod, objects, address.node_name.as_deref()));
        }
    }
    found
}

fn of_pods(service: &Service, selector: &Labels, objects: &Objects) -> Vec<Endpoint> {
    let mut found = Vec::new();
    for object in objects.in_namespace(Kind::Pod, &service.key.namespace) {
        let Some(pod) = object.of::<Pod>().filter(|_| contains_all(&object.meta.labels, selector)) else { continue };
        let serves = pod.is_ready() || (service.publish_not_ready && !pod.is_over());
        if !serves {
            continue;
        }
        let ports = ports(service, |port| match &port.target {
            PortRef::Number(number) => Some(*number),
            PortRef::Name(name) => pod.spec.named_port(name),
        });
        let addresses = pod.addresses();
        let first = addresses.first().copied().map(IpFamily::of);
        for ip in addresses {
            let family = IpFamily::of(ip);
            let counts =
                if service.families.is_empty() { Some(family) == first } else { service.families.contains(&family) };
            if !counts {
                continue;
            }
            let pod = Some((&object.key, &object.meta, pod));
            found.push(with_pod(&ip.to_string(), ports.clone(), pod, objects, None));
        }
    }
    found
}

fn of_entries(service: &Service, selector: &Labels, objects: &Objects) -> Vec<Endpoint> {
    let mut found = Vec::new();
    for object in objects.in_namespace(Kind::WorkloadEntry, &service.key.namespace) {
        let Some(entry) = object.of::<super::kinds::service_entry::WorkloadEntry>() else { continue };
        let mut labels = object.meta.labels.clone();
        labels.extend(entry.spec.labels.clone());
        if contains_all(&labels, selector) {
            found.push(Endpoint { labels, ..of_entry_spec(service, &entry.spec, Some(&object.key)) });
        }
    }
    found
}

fn of_entry_spec(service: &Service, entry: &WorkloadEntrySpec, workload: Option<&ObjectKey>) -> Endpoint {
    let ports = ports(service, |port| {
        let target = match &port.target {
            PortRef::Number(number) => *number,
            PortRef::Name(_) => port.number,
        };
        Some(entry.ports.get(&port.name).copied().unwrap_or(target))
    });
    Endpoint {
        address: entry.address.clone(),
        ports,
        labels: entry.labels.clone(),
        locality: parse_locality(entry.locality.as_deref().unwrap_or_default(), '/'),
        weight: entry.weight.filter(|weight| *weight > 0).unwrap_or(1),
        service_account: entry.service_account.clone().unwrap_or_default(),
        workload: workload.cloned(),
        workload_name: workload.map(|workload| workload.name.clone()).unwrap_or_default(),
    }
}

fn ports(service: &Service, target: impl Fn(&Port) -> Option<u16>) -> BTreeMap<u16, u16> {
    service.ports.iter().filter_map(|port| Some((port.number, target(port)?))).collect()
}

type PodOf<'o> = (&'o ObjectKey, &'o Meta, &'o Pod);

/// The pod that an address is: by name if it is told, else by the address.
fn pod_of<'o>(told: Option<&TargetRef>, address: &str, namespace: &str, objects: &'o Objects) -> Option<PodOf<'o>> {
    let object = match told.and_then(|told| told.name.as_deref()) {
        Some(name) => objects.get(Kind::Pod, told?.namespace.as_deref().unwrap_or(namespace), name),
        None => {
            let ip: IpAddr = address.parse().ok()?;
            objects.pods_at(namespace, ip).find(|object| object.of::<Pod>().is_some_and(|pod| !pod.is_over()))
        }
    }?;
    Some((&object.key, &object.meta, object.of::<Pod>()?))
}

fn with_pod(
    address: &str,
    ports: BTreeMap<u16, u16>,
    pod: Option<PodOf<'_>>,
    objects: &Objects,
    node: Option<&str>,
) -> Endpoint {
    let node = pod.and_then(|(_, _, pod)| pod.spec.node_name.as_deref()).or(node);
    let labels = pod.map(|(_, meta, _)| meta.labels.clone()).unwrap_or_default();
    let locality = match labels.get("istio-locality") {
        Some(told) => parse_locality(told, if told.contains('/') { '/' } else { '.' }),
        None => node.map(|node| locality_of_node(node, objects)).unwrap_or_default(),
    };
    Endpoint {
        address: address.to_owned(),
        ports,
        labels,
        locality,
        weight: 1,
        service_account: pod
            .map(|(_, _, pod)| pod.spec.service_account_name.clone().unwrap_or_else(|| "default".to_owned()))
            .unwrap_or_default(),
        workload: pod.map(|(key, _, _)| key.clone()),
        workload_name: pod.map(|(key, meta, _)| workload_name(key, meta)).unwrap_or_default(),
    }
}

/// What has made a pod, as Istio tells it: its controller; of a Deployment's pod that is a ReplicaSet, which is called after it
/// and its template. A pod of its own is its own.
fn workload_name(key: &ObjectKey, meta: &Meta) -> Arc<str> {
    let Some(owner) = meta.owner_references.iter().find(|owner| owner.controller) else { return key.name.clone() };
    let hash = meta.labels.get("pod-template-hash").filter(|_| owner.kind == "ReplicaSet");
    let of_deployment = hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
    of_deployment.unwrap_or(&owner.name).into()
}

fn locality_of_node(name: &str, objects: &Objects) -> Locality {
    let Some(object) = objects.get(Kind::Node, "", name).filter(|object| object.of::<Node>().is_some()) else {
        return Locality::default();
    };
    let label = |keys: [&str; 2]| keys.iter().find_map(|key| object.meta.labels.get(*key)).cloned().unwrap_or_default();
    Locality {
        region: label(["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"]),
        zone: label(["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"]),
        sub_zone: label(["topology.istio.io/subzone", ""]),
    }
}

/// Reads `region/zone/sub-zone`.
#[must_use]
pub fn parse_locality(text: &str, separator: char) -> Locality {
    let mut parts = text.split(separator).map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    Locality { region: next(), zone: next(), sub_zone: next() }
}
