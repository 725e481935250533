//! Equal sets and resources are kept once, whoever generated them.
//!
//! Proxies of different scopes get mostly the same: all clusters of the mesh, say. Must not know: scopes, worlds.

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
        set.reuse(previous, |resource| self.resources.lock().get_or_insert((ty, resource.content()), resource));
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
