//! Services by what leads to them: an address of an endpoint, the labels of a workload.
//!
//! Owns answers to "whose is this", which every proxy asks in every state of the world: they must not cost what the world holds.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::IpAddr;
use std::sync::Arc;

use super::endpoint::Endpoint;
use super::kinds::meta::{Labels, contains_all};
use super::service::{Service, ServiceKey};

/// Into how many parts addresses fall, so that a change copies one of them.
const PARTS: usize = 32;

type Part = HashMap<IpAddr, Vec<ServiceKey>>;

/// Services by the addresses of their endpoints.
#[derive(Debug, Clone, Default)]
pub(super) struct Addresses {
    parts: [Arc<Part>; PARTS],
}

impl Addresses {
    /// The services that have an endpoint at an address, sorted.
    pub(super) fn services_at(&self, address: IpAddr) -> &[ServiceKey] {
        self.parts[part(address)].get(&address).map_or(&[], |services| services)
    }

    /// The endpoints of a service are others now.
    pub(super) fn replace(&mut self, service: &ServiceKey, before: &[Endpoint], after: &[Endpoint]) {
        let ips = |of: &[Endpoint]| of.iter().filter_map(Endpoint::ip).collect::<std::collections::BTreeSet<_>>();
        let (before, after) = (ips(before), ips(after));
        for gone in before.difference(&after) {
            let part = Arc::make_mut(&mut self.parts[part(*gone)]);
            if let Some(services) = part.get_mut(gone) {
                services.retain(|other| other != service);
                if services.is_empty() {
                    part.remove(gone);
                }
            }
        }
        for new in after.difference(&before) {
            let services = Arc::make_mut(&mut self.parts[part(*new)]).entry(*new).or_default();
            if let Err(at) = services.binary_search(service) {
                services.insert(at, service.clone());
            }
        }
    }
}

fn part(address: IpAddr) -> usize {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(address);
    usize::try_from(hash % PARTS as u64).unwrap_or_default()
}

/// Services by the labels they select.
#[derive(Debug, Default)]
pub(super) struct Selectors {
    namespaces: HashMap<Arc<str>, OfNamespace>,
}

#[derive(Debug, Default)]
struct OfNamespace {
    /// By the first label of the selector: a workload without it is not selected.
    by_label: HashMap<(String, String), Vec<Arc<Service>>>,
    /// With a selector of no labels.
    of_all: Vec<Arc<Service>>,
}

impl Selectors {
    /// Of all services.
    pub(super) fn of<'s>(services: impl IntoIterator<Item = &'s Arc<Service>>) -> Self {
        let mut made = Self::default();
        for service in services {
            let Some(selector) = &service.selector else { continue };
            let of = made.namespaces.entry(service.key.namespace.clone()).or_default();
            match selector.iter().next() {
                Some((key, value)) => {
                    of.by_label.entry((key.clone(), value.clone())).or_default().push(service.clone());
                }
                None => of.of_all.push(service.clone()),
            }
        }
        made
    }

    /// The services of a namespace that select a workload with these labels.
    pub(super) fn selecting<'s>(
        &'s self,
        namespace: &str,
        labels: &'s Labels,
    ) -> impl Iterator<Item = &'s Arc<Service>> + use<'s> {
        let of = self.namespaces.get(namespace);
        let by_label = of.into_iter().flat_map(move |of| {
            labels.iter().filter_map(|(key, value)| of.by_label.get(&(key.clone(), value.clone()))).flatten()
        });
        let selects =
            |service: &&Arc<Service>| service.selector.as_ref().is_some_and(|selector| contains_all(labels, selector));
        by_label.filter(selects).chain(of.into_iter().flat_map(|of| &of.of_all))
    }
}
