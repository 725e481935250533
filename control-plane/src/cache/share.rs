//! Equal sets and resources are kept once, whoever generated them.
//!
//! Proxies of different keys get mostly the same: all clusters of the mesh, say. Must not know: keys, worlds.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::resource::{Resource, ResourceSet, ResourceType, Resources, Version};

/// What is in use somewhere, by content.
#[derive(Default)]
pub(super) struct Shared {
    sets: Mutex<Pool<ResourceSet>>,
    resources: Mutex<Pool<Resource>>,
}

impl Shared {
    /// `fresh` with every set and resource replaced by an equal one that is in use, first by those of `previous`. Sets that are
    /// new know how they differ from those of `previous`.
    pub(super) fn share(&self, fresh: Resources, previous: Option<&Resources>) -> Resources {
        let mut shared = previous.cloned().unwrap_or_default();
        for ty in ResourceType::ALL {
            let set = fresh.get(ty);
            if set.version() != shared.get(ty).version() {
                let set = self.share_set(ty, set, shared.get(ty));
                shared.set(ty, set);
            }
        }
        shared
    }

    fn share_set(&self, ty: ResourceType, fresh: &Arc<ResourceSet>, previous: &ResourceSet) -> Arc<ResourceSet> {
        let key = (ty, fresh.version());
        if let Some(set) = self.sets.lock().get(&key) {
            return set;
        }
        let mut set = ResourceSet::clone(fresh);
        set.reuse(previous);
        let changed = set.changed_since(previous);
        let mut pool = self.resources.lock();
        for resource in changed.iter().filter_map(|name| set.get(name).cloned()).collect::<Vec<_>>() {
            let known = pool.get_or_insert((ty, resource.content()), &resource);
            // Names that hash alike are not the same resource.
            if known.name() == resource.name() {
                set.replace(&known);
            }
        }
        drop(pool);
        self.sets.lock().get_or_insert(key, &Arc::new(set))
    }
}

/// Values that are in use, by the hash of their content.
struct Pool<T> {
    values: HashMap<(ResourceType, Version), Weak<T>>,
    /// When there are so many, those no longer in use are let go.
    sweep_at: usize,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self { values: HashMap::new(), sweep_at: 1024 }
    }
}

impl<T> Pool<T> {
    fn get(&self, key: &(ResourceType, Version)) -> Option<Arc<T>> {
        self.values.get(key)?.upgrade()
    }

    fn get_or_insert(&mut self, key: (ResourceType, Version), value: &Arc<T>) -> Arc<T> {
        if let Some(known) = self.get(&key) {
            return known;
        }
        if self.values.len() >= self.sweep_at {
            self.values.retain(|_, value| value.strong_count() > 0);
            self.sweep_at = (self.values.len() * 2).max(1024);
        }
        self.values.insert(key, Arc::downgrade(value));
        value.clone()
    }
}
