//! The world: everything that is known, indexed, immutable.
//!
//! Owns what a change touches: one of endpoints alone leaves services and routes as they are, and names the hosts. What is equal
//! in two worlds is held once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use weft_proto::problem::{Problem, Severity};

use super::check;
use super::config::{Config, Problems};
use super::difference;
use super::distinctions::{Distinctions, Told};
use super::endpoint::{self, Endpoint, SLICE_SERVICE};
use super::index::{Addresses, Selectors};
use super::key_sets::{self, KeySets, KeySource};
use super::kinds::meta::{Labels, contains_all};
use super::kinds::request_authentication::RequestAuthentication;
use super::kinds::service::Service as KubeService;
use super::kinds::service_entry::{ServiceEntry, WorkloadEntry};
use super::kinds::{Kind, Object, ObjectKey};
pub use super::objects::Objects;
use super::peer_authentication::has_identity;
use super::policy_check;
use super::service::{self, Resolution, Service, ServiceKey};
use crate::generate::Changes;
use crate::source::Change;

/// Everything that is known. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct World {
    objects: Objects,
    derived: Arc<Derived>,
    endpoints: Arc<BTreeMap<ServiceKey, Arc<[Endpoint]>>>,
    addresses: Addresses,
    /// Whom workloads are to trust, as PEM; `None`: there is no authority.
    trust: Option<Arc<str>>,
    /// Keys of tokens that are fetched.
    key_sets: KeySets,
}

/// What does not depend on endpoints.
#[derive(Debug, Default)]
struct Derived {
    config: Config,
    services: BTreeMap<ServiceKey, Arc<Service>>,
    selectors: Selectors,
    distinctions: Distinctions,
    problems: Problems,
}

/// Two worlds are equal if they mean the same, wherever it was written.
impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        self.derived.config == other.derived.config
            && self.derived.services == other.derived.services
            && self.endpoints == other.endpoints
            && self.trust == other.trust
            && self.key_sets == other.key_sets
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
        if touched.all { self.rebuilt(objects, &touched) } else { self.with_endpoints(objects, &touched) }
    }

    /// More than workloads has changed.
    fn rebuilt(&self, objects: Objects, touched: &Touched) -> (Self, Changes) {
        let mut problems = Problems::new();
        let config = Config::new(&objects, &mut problems);
        let mut services = services(&objects, &config, &mut problems);
        for (key, service) in &mut services {
            if let Some(held) = self.derived.services.get(key).filter(|held| *held == service) {
                *service = held.clone();
            }
        }
        let before = (&self.derived.config, &self.derived.services);
        let mut changes = difference::changes(before, (&config, &services));
        let distinctions = Distinctions::of(&config);
        changes.everything |= touched.everything || distinctions != self.derived.distinctions;
        changes.secrets.extend(touched.secrets.iter().cloned());
        let selectors = Selectors::of(services.values());
        let derived = Arc::new(Derived { config, services, selectors, distinctions, problems });
        let old = |key: &ServiceKey| self.derived.services.get(key);
        let gone: Vec<ServiceKey> =
            self.endpoints.keys().filter(|key| !derived.services.contains_key(*key)).cloned().collect();
        let mut world = Self { objects, derived: derived.clone(), ..self.clone() };
        let is_new = |service: &Arc<Service>| old(&service.key).is_none_or(|held| !Arc::ptr_eq(held, service));
        for service in derived.services.values() {
            if is_new(service) || touched.concerns(service, &world.objects) {
                world.find_endpoints(service, &mut changes);
            }
        }
        gone.iter().for_each(|key| world.set_endpoints(key, None));
        (world, changes.settled())
    }

    /// Only workloads have changed.
    fn with_endpoints(&self, objects: Objects, touched: &Touched) -> (Self, Changes) {
        let mut changes = Changes { secrets: touched.secrets.clone(), ..Changes::default() };
        let mut world = Self { objects, ..self.clone() };
        for service in self.derived.services.values() {
            if touched.concerns(service, &world.objects) {
                world.find_endpoints(service, &mut changes);
            }
        }
        (world, changes.settled())
    }

    /// Looks for the endpoints of a service.
    fn find_endpoints(&mut self, service: &Service, changes: &mut Changes) {
        let now = endpoint::of_service(service, &self.objects);
        if self.endpoints.get(&service.key) == Some(&now) {
            return;
        }
        // Who may serve, and whether all of them speak mutual TLS, is in clusters.
        let known = self.endpoints(&service.key);
        if self.trust.is_some() && identities(known) != identities(&now) {
            changes.hosts.insert(service.key.host.clone());
        }
        self.set_endpoints(&service.key, Some(now));
        changes.endpoints.insert(service.key.host.clone());
        if service.resolution != Resolution::Endpoints {
            // They are in clusters and listeners.
            changes.hosts.insert(service.key.host.clone());
            changes.routes = true;
        }
    }

    fn set_endpoints(&mut self, key: &ServiceKey, now: Option<Arc<[Endpoint]>>) {
        let endpoints = Arc::make_mut(&mut self.endpoints);
        let before = match &now {
            Some(now) => endpoints.insert(key.clone(), now.clone()),
            None => endpoints.remove(key),
        };
        self.addresses.replace(key, before.as_deref().unwrap_or_default(), now.as_deref().unwrap_or_default());
    }

    /// The same world with another set of roots to trust, as PEM.
    #[must_use]
    pub fn trusting(&self, roots: Arc<str>) -> Self {
        Self { trust: Some(roots), ..self.clone() }
    }

    /// Whom workloads are to trust, as PEM; `None`: there is no authority, and so no identities.
    #[must_use]
    pub fn trust(&self) -> Option<&Arc<str>> {
        self.trust.as_ref()
    }

    /// The same world with these keys of tokens.
    #[must_use]
    pub fn with_keys(&self, key_sets: KeySets) -> Self {
        Self { key_sets, ..self.clone() }
    }

    /// Keys of tokens that were fetched.
    #[must_use]
    pub fn key_sets(&self) -> &KeySets {
        &self.key_sets
    }

    /// Where keys of tokens are to be fetched, and how long that may take.
    #[must_use]
    pub fn wanted_keys(&self) -> BTreeMap<KeySource, Duration> {
        let mut wanted: BTreeMap<KeySource, Duration> = BTreeMap::new();
        let policies = self.objects.of_kind(Kind::RequestAuthentication);
        let policies = policies.filter_map(|object| object.of::<RequestAuthentication>());
        for rule in policies.flat_map(|policy| &policy.spec.jwt_rules) {
            if let Some(source) = KeySource::of(rule) {
                let timeout = rule.timeout.filter(|timeout| !timeout.is_zero()).unwrap_or(key_sets::TIMEOUT);
                let known = wanted.entry(source).or_insert(timeout);
                *known = timeout.max(*known);
            }
        }
        wanted
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
        let seen = self.services_at(host).filter(|service| service.visibility.includes(namespace));
        seen.min_by_key(|service| &*service.key.namespace != namespace)
    }

    /// The services of this host, whoever sees them.
    pub fn services_at<'w, 'h>(&'w self, host: &'h str) -> impl Iterator<Item = &'w Arc<Service>> + use<'w, 'h> {
        let first = ServiceKey { host: host.into(), namespace: "".into() };
        let of_host = self.derived.services.range(first..).take_while(move |(key, _)| &*key.host == host);
        of_host.map(|(_, service)| service)
    }

    /// The endpoints of a service.
    #[must_use]
    pub fn endpoints(&self, key: &ServiceKey) -> &[Endpoint] {
        self.endpoints.get(key).map_or(&[], |endpoints| endpoints)
    }

    /// The services that have an endpoint at one of these addresses, or select these labels in this namespace, sorted.
    #[must_use]
    pub fn services_of<'w>(&'w self, ips: &[IpAddr], namespace: &str, labels: &'w Labels) -> BTreeSet<&'w ServiceKey> {
        let by_address = ips.iter().flat_map(|ip| self.addresses.services_at(*ip));
        let selecting = self.derived.selectors.selecting(namespace, labels).map(|service| &service.key);
        by_address.chain(selecting).collect()
    }

    /// What the configuration tells of a workload that calls others. Two of whom it tells the same, in one namespace and beside
    /// one Sidecar, see the same.
    #[must_use]
    pub fn told_of(&self, labels: &Labels) -> Told {
        self.derived.distinctions.tell(labels)
    }

    /// The labels of the workload with one of these addresses.
    #[must_use]
    pub fn labels_of(&self, ips: &[IpAddr], namespace: &str) -> Option<&Labels> {
        let pods = ips.iter().flat_map(|ip| self.objects.pods_at(namespace, *ip));
        let pod = pods.min_by_key(|object| &object.key.name).map(|object| &object.meta.labels);
        pod.or_else(|| {
            let entries = self.objects.in_namespace(Kind::WorkloadEntry, namespace);
            entries.filter_map(|object| object.of::<WorkloadEntry>()).find_map(|entry| {
                let address: IpAddr = entry.spec.address.parse().ok()?;
                ips.contains(&address).then_some(&entry.spec.labels)
            })
        })
    }

    /// The object that people call so: `VirtualService default/reviews`.
    #[must_use]
    pub fn called(&self, called: &str) -> Option<&Arc<Object>> {
        let (kind, name) = called.split_once(' ')?;
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        let kinds = Kind::ALL.iter().filter(|known| known.group_and_name().1 == kind);
        kinds.filter_map(|kind| self.objects.get(*kind, namespace, name)).next()
    }

    /// Everything that is wrong with the objects, or has no effect, sorted by where it was written.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let read = self.objects.iter().flat_map(|object| object.problems.iter());
        let mut all: Vec<Problem> = read.chain(self.derived.problems.values().flatten()).cloned().collect();
        all.extend(check::identities(self).into_iter().map(|(_, problem)| problem));
        all.extend(policy_check::of_all(self).into_iter().map(|(_, problem)| problem));
        all.sort_by(|a, b| (&a.source, a.at, &a.path).cmp(&(&b.source, b.at, &b.path)));
        all
    }

    /// What is wrong with one object, or has no effect.
    #[must_use]
    pub fn problems_of(&self, key: &ObjectKey) -> Vec<Problem> {
        let read = self.objects.by_key(key).into_iter().flat_map(|object| object.problems.iter());
        let mut all: Vec<Problem> = read.chain(self.derived.problems.get(key).into_iter().flatten()).cloned().collect();
        if key.kind == Kind::DestinationRule {
            all.extend(check::identities(self).into_iter().filter(|(of, _)| of == key).map(|(_, problem)| problem));
        }
        all.extend(self.objects.by_key(key).into_iter().flat_map(|object| policy_check::of_world(self, object)));
        all
    }
}

/// What clusters say of endpoints: whom they are, and the labels of those that have no identity.
fn identities(endpoints: &[Endpoint]) -> BTreeSet<(Option<&str>, &str, Option<&Labels>)> {
    endpoints.iter().map(identity).collect()
}

fn identity(endpoint: &Endpoint) -> (Option<&str>, &str, Option<&Labels>) {
    let namespace = endpoint.workload.as_ref().map(|workload| &*workload.namespace);
    (namespace, &endpoint.service_account, Some(&endpoint.labels).filter(|labels| !has_identity(labels)))
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
    /// More than workloads.
    all: bool,
    /// What is read while generating, by anything.
    everything: bool,
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
                Kind::ConfigMap | Kind::AuthorizationPolicy | Kind::RequestAuthentication | Kind::Telemetry => {
                    self.all = true;
                    self.everything = true;
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
