//! All objects, by kind, namespace and name.
//!
//! Owns what is looked for by something else than a name: pods by address, slices by service. What a change does not touch is
//! shared with the objects before it: each kind in each namespace is held by itself.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::endpoint::SLICE_SERVICE;
use super::kinds::workload::Pod;
use super::kinds::{AsSpec, Kind, Object, ObjectKey};

/// All objects.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    spaces: BTreeMap<(Kind, Arc<str>), Arc<Space>>,
}

/// The objects of a kind in a namespace.
#[derive(Debug, Clone, Default)]
struct Space {
    by_name: BTreeMap<Arc<str>, Arc<Object>>,
    /// Pods by each of their addresses, and the names of those that have it.
    by_address: BTreeMap<IpAddr, Vec<Arc<str>>>,
    /// Slices by the service they name.
    by_service: BTreeMap<String, Vec<Arc<str>>>,
}

impl Objects {
    /// The object of this kind and name; the namespace of a kind without is empty.
    #[must_use]
    pub fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Arc<Object>> {
        self.space(kind, namespace)?.by_name.get(name)
    }

    /// The object with this key.
    #[must_use]
    pub fn by_key(&self, key: &ObjectKey) -> Option<&Arc<Object>> {
        self.get(key.kind, &key.namespace, &key.name)
    }

    /// All objects, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.spaces.values().flat_map(|space| space.by_name.values())
    }

    /// All objects of a kind, sorted by namespace and name.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Object>> {
        let spaces = self.spaces.range((kind, "".into())..).take_while(move |((of, _), _)| *of == kind);
        spaces.flat_map(|(_, space)| space.by_name.values())
    }

    /// All objects of a kind in a namespace, sorted by name.
    pub fn in_namespace<'o>(&'o self, kind: Kind, namespace: &str) -> impl Iterator<Item = &'o Arc<Object>> {
        self.space(kind, namespace).into_iter().flat_map(|space| space.by_name.values())
    }

    /// The pods of a namespace that have an address, sorted by name.
    pub fn pods_at<'o>(&'o self, namespace: &str, address: IpAddr) -> impl Iterator<Item = &'o Arc<Object>> {
        self.space(Kind::Pod, namespace).into_iter().flat_map(move |space| space.named(space.by_address.get(&address)))
    }

    /// The slices of a service, sorted by name.
    pub fn slices_of<'o>(&'o self, namespace: &str, service: &str) -> impl Iterator<Item = &'o Arc<Object>> {
        let space = self.space(Kind::EndpointSlice, namespace);
        space
            .and_then(|space| Some((space, space.by_service.get(service)?)))
            .into_iter()
            .flat_map(|(space, names)| space.named(Some(names)))
    }

    /// All objects of a kind with their contents, the oldest first.
    pub fn by_age<T: AsSpec>(&self, kind: Kind) -> Vec<(&Arc<Object>, &T)> {
        let mut found: Vec<_> = self.of_kind(kind).filter_map(|object| Some((object, object.of::<T>()?))).collect();
        found.sort_by_key(|(object, _)| object.age());
        found
    }

    pub(super) fn insert(&mut self, object: Arc<Object>) -> Option<Arc<Object>> {
        let ObjectKey { kind, namespace, .. } = &object.key;
        let space = Arc::make_mut(self.spaces.entry((*kind, namespace.clone())).or_default());
        let replaced = space.remove(&object.key.name);
        space.insert(object);
        replaced
    }

    pub(super) fn remove(&mut self, key: &ObjectKey) -> Option<Arc<Object>> {
        let place = (key.kind, key.namespace.clone());
        let space = self.spaces.get_mut(&place)?;
        let removed = Arc::make_mut(space).remove(&key.name)?;
        if space.by_name.is_empty() {
            self.spaces.remove(&place);
        }
        Some(removed)
    }

    fn space(&self, kind: Kind, namespace: &str) -> Option<&Space> {
        self.spaces.get(&(kind, namespace.into())).map(|space| &**space)
    }
}

impl Space {
    fn insert(&mut self, object: Arc<Object>) {
        let name = &object.key.name;
        addresses(&object).for_each(|address| add(self.by_address.entry(address).or_default(), name));
        if let Some(service) = service(&object) {
            add(self.by_service.entry(service.to_owned()).or_default(), name);
        }
        self.by_name.insert(name.clone(), object);
    }

    fn remove(&mut self, name: &str) -> Option<Arc<Object>> {
        let removed = self.by_name.remove(name)?;
        for address in addresses(&removed) {
            if let Some(names) = self.by_address.get_mut(&address) {
                names.retain(|other| **other != *name);
                if names.is_empty() {
                    self.by_address.remove(&address);
                }
            }
        }
        if let Some(service) = service(&removed)
            && let Some(names) = self.by_service.get_mut(service)
        {
            names.retain(|other| **other != *name);
            if names.is_empty() {
                self.by_service.remove(service);
            }
        }
        Some(removed)
    }

    fn named<'s>(&'s self, names: Option<&'s Vec<Arc<str>>>) -> impl Iterator<Item = &'s Arc<Object>> + use<'s> {
        names.into_iter().flatten().filter_map(|name| self.by_name.get(name))
    }
}

/// Adds a name at its place in the order.
fn add(names: &mut Vec<Arc<str>>, name: &Arc<str>) {
    if let Err(at) = names.binary_search(name) {
        names.insert(at, name.clone());
    }
}

fn addresses(object: &Object) -> impl Iterator<Item = IpAddr> + use<> {
    object.of::<Pod>().map(Pod::addresses).unwrap_or_default().into_iter()
}

fn service(object: &Object) -> Option<&str> {
    if object.key.kind != Kind::EndpointSlice {
        return None;
    }
    object.meta.labels.get(SLICE_SERVICE).map(String::as_str)
}
