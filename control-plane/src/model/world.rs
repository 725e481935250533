//! The world: everything that is known, indexed, immutable.
//!
//! Owns what a change touches: one of endpoints alone leaves services and routes as they are, and names the hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use weft_proto::problem::{Problem, Severity};

use super::config::{Config, Problems};
use super::endpoint::{self, Endpoint, SLICE_SERVICE};
use super::kinds::meta::{Labels, contains_all};
use super::kinds::service::Service as KubeService;
use super::kinds::service_entry::{ServiceEntry, WorkloadEntry};
use super::kinds::workload::Pod;
use super::kinds::{Kind, Object, ObjectKey};
pub use super::objects::Objects;
use super::service::{self, Resolution, Service, ServiceKey};
use crate::generate::Changes;
use crate::source::Change;

/// Everything that is known. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct World {
    objects: Objects,
    derived: Arc<Derived>,
    endpoints: Arc<BTreeMap<ServiceKey, Arc<[Endpoint]>>>,
}

/// What does not depend on endpoints.
#[derive(Debug, Default)]
struct Derived {
    config: Config,
    services: BTreeMap<ServiceKey, Arc<Service>>,
    problems: Problems,
}

/// Two worlds are equal if they mean the same, wherever it was written.
impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        self.derived.config == other.derived.config
            && self.derived.services == other.derived.services
            && self.endpoints == other.endpoints
    }
}

impl World {
    /// A world of these objects.
    #[must_use]
    pub fn of(objects: impl IntoIterator<Item = Arc<Object>>) -> Self {
        Self::default().apply(objects.into_iter().map(Change::Applied)).0
    }

    /// The world after these changes, and what differs.
    #[must_use]
    pub fn apply(&self, changes: impl IntoIterator<Item = Change>) -> (Self, Changes) {
        let mut objects = self.objects.clone();
        let mut touched = Touched::default();
        for change in changes {
            let (before, after) = match change {
                Change::Applied(object) => (objects.insert(object.clone()), Some(object)),
                Change::Deleted(key) => (objects.remove(&key), None),
            };
            // One that was only moved to another line means what it meant.
            if before != after {
                touched.add(before.as_deref(), after.as_deref());
            }
        }
        if touched.all { (Self::build(objects), Changes::everything()) } else { self.with_endpoints(objects, &touched) }
    }

    fn build(objects: Objects) -> Self {
        let mut problems = Problems::new();
        let config = Config::new(&objects, &mut problems);
        let services = services(&objects, &config, &mut problems);
        let endpoints = services.values().map(|of| (of.key.clone(), endpoint::of_service(of, &objects))).collect();
        Self { objects, derived: Arc::new(Derived { config, services, problems }), endpoints: Arc::new(endpoints) }
    }

    /// Only workloads have changed.
    fn with_endpoints(&self, objects: Objects, touched: &Touched) -> (Self, Changes) {
        let mut changes = Changes { secrets: touched.secrets.clone(), ..Changes::default() };
        let mut endpoints = self.endpoints.clone();
        for service in self.derived.services.values().filter(|service| touched.concerns(service, &objects)) {
            let now = endpoint::of_service(service, &objects);
            if self.endpoints.get(&service.key) == Some(&now) {
                continue;
            }
            Arc::make_mut(&mut endpoints).insert(service.key.clone(), now);
            if service.resolution == Resolution::Endpoints {
                changes.endpoints.insert(service.key.host.clone());
            } else {
                // Their endpoints are in clusters and listeners.
                changes.everything = true;
            }
        }
        (Self { objects, derived: self.derived.clone(), endpoints }, changes)
    }

    /// The objects it is made of.
    #[must_use]
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// What steers traffic.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.derived.config
    }

    /// All services, sorted by host.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.derived.services.values()
    }

    /// A service.
    #[must_use]
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.derived.services.get(key)
    }

    /// The service of this host that a namespace sees: its own, else the first.
    #[must_use]
    pub fn service_of_host(&self, host: &str, namespace: &str) -> Option<&Arc<Service>> {
        let first = ServiceKey { host: host.into(), namespace: "".into() };
        let of_host = self.derived.services.range(first..).take_while(|(key, _)| &*key.host == host);
        let seen = of_host.map(|(_, service)| service).filter(|service| service.visibility.includes(namespace));
        seen.min_by_key(|service| &*service.key.namespace != namespace)
    }

    /// The endpoints of a service.
    #[must_use]
    pub fn endpoints(&self, key: &ServiceKey) -> &[Endpoint] {
        self.endpoints.get(key).map_or(&[], |endpoints| endpoints)
    }

    /// The labels of the workload with one of these addresses.
    #[must_use]
    pub fn labels_of(&self, ips: &[IpAddr], namespace: &str) -> Option<&Labels> {
        let pods = self.objects.in_namespace(Kind::Pod, namespace);
        let pod = pods
            .filter(|object| object.of::<Pod>().is_some_and(|pod| pod.addresses().iter().any(|ip| ips.contains(ip))));
        let pod = pod.map(|object| &object.meta.labels).next();
        pod.or_else(|| {
            let entries = self.objects.in_namespace(Kind::WorkloadEntry, namespace);
            entries.filter_map(|object| object.of::<WorkloadEntry>()).find_map(|entry| {
                let address: IpAddr = entry.spec.address.parse().ok()?;
                ips.contains(&address).then_some(&entry.spec.labels)
            })
        })
    }

    /// Everything that is wrong with the objects, or has no effect, sorted by where it was written.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let read = self.objects.iter().flat_map(|object| object.problems.iter());
        let mut all: Vec<Problem> = read.chain(self.derived.problems.values().flatten()).cloned().collect();
        all.sort_by(|a, b| (&a.source, a.at, &a.path).cmp(&(&b.source, b.at, &b.path)));
        all
    }

    /// What is wrong with one object, or has no effect.
    #[must_use]
    pub fn problems_of(&self, key: &ObjectKey) -> Vec<Problem> {
        let read = self.objects.by_key(key).into_iter().flat_map(|object| object.problems.iter());
        read.chain(self.derived.problems.get(key).into_iter().flatten()).cloned().collect()
    }
}

fn services(objects: &Objects, config: &Config, problems: &mut Problems) -> BTreeMap<ServiceKey, Arc<Service>> {
    let default_export_to = &config.mesh.default_service_export_to;
    let mut services: BTreeMap<ServiceKey, Arc<Service>> = BTreeMap::new();
    for object in objects.of_kind(Kind::Service) {
        if let Some(spec) = object.of::<KubeService>() {
            let service = service::of_kubernetes(object, spec, default_export_to);
            services.insert(service.key.clone(), Arc::new(service));
        }
    }
    for (object, spec) in objects.by_age::<ServiceEntry>(Kind::ServiceEntry) {
        let (made, mut found) = service::of_entry(object, spec, default_export_to);
        for service in made {
            if let Some(first) = services.get(&service.key) {
                let reason =
                    format!("{} is a host of {} already, which is older and counts", service.key.host, first.object);
                found.push(object.problem(Severity::Invalid, spec.spec.at.0, "spec.hosts", reason));
                continue;
            }
            services.insert(service.key.clone(), Arc::new(service));
        }
        if !found.is_empty() {
            problems.entry(object.key.clone()).or_default().extend(found);
        }
    }
    services
}

/// What changes of objects touch.
#[derive(Debug, Default)]
struct Touched {
    /// Anything.
    all: bool,
    /// Services by namespace and name.
    named: BTreeSet<(Arc<str>, String)>,
    /// Labels of workloads, by namespace: services that select them.
    labels: Vec<(Arc<str>, Labels)>,
    /// Namespaces with pods that changed: Endpoints there may refer to any of them.
    namespaces: BTreeSet<Arc<str>>,
    /// Every service's endpoints.
    endpoints: bool,
    /// Secrets, as xDS names them.
    secrets: BTreeSet<Arc<str>>,
}

impl Touched {
    fn add(&mut self, before: Option<&Object>, after: Option<&Object>) {
        for object in before.into_iter().chain(after) {
            let namespace = object.key.namespace.clone();
            match object.key.kind {
                Kind::Pod => {
                    self.namespaces.insert(namespace.clone());
                    self.labels.push((namespace, object.meta.labels.clone()));
                }
                Kind::WorkloadEntry => {
                    let mut labels = object.meta.labels.clone();
                    labels.extend(
                        object.of::<WorkloadEntry>().map(|entry| entry.spec.labels.clone()).unwrap_or_default(),
                    );
                    self.labels.push((namespace, labels));
                }
                Kind::Endpoints => {
                    self.named.insert((namespace, object.key.name.to_string()));
                }
                Kind::EndpointSlice => {
                    let name = object.meta.labels.get(SLICE_SERVICE).cloned().unwrap_or_default();
                    self.named.insert((namespace, name));
                }
                Kind::Node => self.endpoints = true,
                // What a Deployment runs shows in its pods, what an account may in its workloads.
                Kind::Deployment | Kind::StatefulSet | Kind::ServiceAccount => {}
                Kind::Secret => {
                    self.secrets.insert(format!("kubernetes://{namespace}/{}", object.key.name).into());
                }
                _ => self.all = true,
            }
        }
    }

    fn concerns(&self, service: &Service, objects: &Objects) -> bool {
        let namespace = &service.key.namespace;
        let named =
            service.kubernetes_name().is_some_and(|name| self.named.contains(&(namespace.clone(), name.to_owned())));
        // Endpoints that are written down have their labels from pods.
        let written = || self.namespaces.contains(namespace) && endpoint::is_written(service, objects);
        let selects = |(of, labels): &(Arc<str>, Labels)| {
            of == namespace && service.selector.as_ref().is_some_and(|selector| contains_all(labels, selector))
        };
        self.endpoints || named || self.labels.iter().any(selects) || written()
    }
}
