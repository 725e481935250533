//! All objects, by kind, namespace and name.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::kinds::{AsSpec, Kind, Object, ObjectKey};

/// All objects.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    by_key: BTreeMap<ObjectKey, Arc<Object>>,
}

impl Objects {
    /// The object of this kind and name; the namespace of a kind without is empty.
    #[must_use]
    pub fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Arc<Object>> {
        self.by_key.get(&ObjectKey { kind, namespace: namespace.into(), name: name.into() })
    }

    /// The object with this key.
    #[must_use]
    pub fn by_key(&self, key: &ObjectKey) -> Option<&Arc<Object>> {
        self.by_key.get(key)
    }

    /// All objects, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.by_key.values()
    }

    /// All objects of a kind, sorted by namespace and name.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Object>> {
        let from = ObjectKey { kind, namespace: "".into(), name: "".into() };
        self.by_key.range(from..).take_while(move |(key, _)| key.kind == kind).map(|(_, object)| object)
    }

    /// All objects of a kind in a namespace, sorted by name.
    pub fn in_namespace<'o>(&'o self, kind: Kind, namespace: &str) -> impl Iterator<Item = &'o Arc<Object>> {
        let namespace: Arc<str> = namespace.into();
        let from = ObjectKey { kind, namespace: namespace.clone(), name: "".into() };
        let in_it = move |(key, _): &(&ObjectKey, &Arc<Object>)| key.kind == kind && key.namespace == namespace;
        self.by_key.range(from..).take_while(in_it).map(|(_, object)| object)
    }

    /// All objects of a kind with their contents, the oldest first.
    pub fn by_age<T: AsSpec>(&self, kind: Kind) -> Vec<(&Arc<Object>, &T)> {
        let mut found: Vec<_> = self.of_kind(kind).filter_map(|object| Some((object, object.of::<T>()?))).collect();
        found.sort_by_key(|(object, _)| object.age());
        found
    }

    pub(super) fn insert(&mut self, object: Arc<Object>) -> Option<Arc<Object>> {
        self.by_key.insert(object.key.clone(), object)
    }

    pub(super) fn remove(&mut self, key: &ObjectKey) -> Option<Arc<Object>> {
        self.by_key.remove(key)
    }
}
