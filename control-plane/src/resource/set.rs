//! Sets of resources, alone or over another one.
//!
//! A set over another one is what a workload has of its own besides what it has in common with others: the common part is held
//! once, whoever has it. Two sets are equal if they hold the same, whatever they are made of.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::btree_map::Values;
use std::iter::Peekable;
use std::sync::Arc;

use super::{Resource, Version};

/// The resources of one type that a proxy may have, by name.
///
/// Two sets have the same version exactly if they hold the same names at the same versions.
#[derive(Clone, Debug, Default)]
pub struct ResourceSet {
    /// What it lies over; a set that lies over none itself.
    base: Option<Arc<ResourceSet>>,
    /// What it has of its own. It hides those of the base that have the same name.
    own: BTreeMap<Arc<str>, Arc<Resource>>,
    /// How many there are.
    len: usize,
    /// A sum over the resources, so that a change costs what changed.
    sum: u64,
    /// How it differs from the set it replaced.
    step: Option<Step>,
}

/// The names that are not the same in a set and the one that it replaced.
#[derive(Clone, Debug)]
struct Step {
    from: Version,
    names: Arc<[Arc<str>]>,
}

impl ResourceSet {
    /// `base` with `own` over it.
    #[must_use]
    pub fn over(base: &Arc<Self>, own: &Self) -> Self {
        let base = if base.base.is_none() { base.clone() } else { Arc::new(base.flat()) };
        let mut set = Self { len: base.len, sum: base.sum, base: Some(base), ..Self::default() };
        own.iter().for_each(|resource| set.insert(resource.clone()));
        set
    }

    /// The version of the whole set.
    #[must_use]
    pub fn version(&self) -> Version {
        Version::of((self.sum, self.len))
    }

    /// How many resources there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The resource of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        self.own.get(name).or_else(|| self.base.as_ref()?.own.get(name))
    }

    /// All resources, sorted by name.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        let base = self.base.as_ref().map_or_else(Values::default, |base| base.own.values());
        Iter { own: self.own.values().peekable(), base: base.peekable(), left: self.len }
    }

    /// Adds a resource, or replaces the one of its name. One that is equal to what is there is dropped: the old `Arc` stays.
    pub fn insert(&mut self, resource: impl Into<Arc<Resource>>) {
        let resource = resource.into();
        let replaced = self.get(&resource.name).map(|held| (held.version, term(held)));
        if replaced.is_some_and(|(version, _)| version == resource.version) {
            return;
        }
        self.step = None;
        self.sum = self.sum.wrapping_add(term(&resource));
        match replaced {
            Some((_, term)) => self.sum = self.sum.wrapping_sub(term),
            None => self.len += 1,
        }
        self.own.insert(resource.name.clone(), resource);
    }

    /// Takes a resource out. If that is one of the set below, all of it is copied.
    pub fn remove(&mut self, name: &str) -> Option<Arc<Resource>> {
        if self.base.as_ref().is_some_and(|base| base.own.contains_key(name)) {
            *self = self.flat();
        }
        let removed = self.own.remove(name)?;
        self.step = None;
        self.len -= 1;
        self.sum = self.sum.wrapping_sub(term(&removed));
        Some(removed)
    }

    /// The same, over nothing.
    fn flat(&self) -> Self {
        let own = self.iter().map(|resource| (resource.name.clone(), resource.clone())).collect();
        Self { base: None, own, len: self.len, sum: self.sum, step: self.step.clone() }
    }

    /// Replaces each resource of its own by one that equals it: of `previous`, else what `known` finds for one that is new. It
    /// remembers which names differ from `previous`.
    pub fn reuse(&mut self, previous: &Self, mut known: impl FnMut(&Arc<Resource>) -> Arc<Resource>) {
        for (name, resource) in &mut self.own {
            let held = previous.get(name).filter(|held| held.version == resource.version).cloned();
            let equal = held.unwrap_or_else(|| known(resource));
            // Names that hash alike are not the same resource.
            if equal.name == resource.name && equal.version == resource.version {
                *resource = equal;
            }
        }
        self.step = Some(Step { from: previous.version(), names: self.compare(previous).into() });
    }

    /// The names that were added, changed or removed between `earlier` and this set, sorted.
    #[must_use]
    pub fn changed_since(&self, earlier: &Self) -> Arc<[Arc<str>]> {
        let version = earlier.version();
        match &self.step {
            _ if version == self.version() => Arc::default(),
            Some(step) if step.from == version => step.names.clone(),
            _ => self.compare(earlier).into(),
        }
    }

    fn compare(&self, earlier: &Self) -> Vec<Arc<str>> {
        let (Some(base), Some(earlier_base)) = (&self.base, &earlier.base) else {
            return differing(self.iter(), earlier.iter());
        };
        // What both lie over is not gone through, if it is the same or knows how it differs.
        let of_own = differing(self.own.values(), earlier.own.values());
        let mut names =
            if Arc::ptr_eq(base, earlier_base) { Vec::new() } else { base.changed_since(earlier_base).to_vec() };
        names.extend(of_own);
        names.sort_unstable();
        names.dedup();
        names.retain(|name| self.get(name).map(|of| of.version) != earlier.get(name).map(|of| of.version));
        names
    }
}

/// The names by which two lists differ, each sorted by name.
fn differing<'r>(
    ours: impl Iterator<Item = &'r Arc<Resource>>,
    theirs: impl Iterator<Item = &'r Arc<Resource>>,
) -> Vec<Arc<str>> {
    let (mut ours, mut theirs) = (ours.peekable(), theirs.peekable());
    let mut names = Vec::new();
    loop {
        let order = match (ours.peek(), theirs.peek()) {
            (None, None) => return names,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(our), Some(their)) if Arc::ptr_eq(our, their) => Ordering::Equal,
            (Some(our), Some(their)) => our.name.cmp(&their.name),
        };
        let our = if order.is_le() { ours.next() } else { None };
        let their = if order.is_ge() { theirs.next() } else { None };
        if our.map(|resource| resource.version) != their.map(|resource| resource.version)
            && let Some(resource) = our.or(their)
        {
            names.push(resource.name.clone());
        }
    }
}

/// The resources of a set, sorted by name.
#[derive(Clone, Debug)]
pub struct Iter<'s> {
    own: Peekable<Values<'s, Arc<str>, Arc<Resource>>>,
    base: Peekable<Values<'s, Arc<str>, Arc<Resource>>>,
    left: usize,
}

impl<'s> Iterator for Iter<'s> {
    type Item = &'s Arc<Resource>;

    fn next(&mut self) -> Option<Self::Item> {
        let order = match (self.own.peek(), self.base.peek()) {
            (Some(own), Some(base)) => own.name.cmp(&base.name),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        // One that is hidden is passed over.
        let below = if order.is_ge() { self.base.next() } else { None };
        let next = if order.is_le() { self.own.next() } else { below };
        self.left -= usize::from(next.is_some());
        next
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Iter<'_> {}

impl PartialEq for ResourceSet {
    fn eq(&self, other: &Self) -> bool {
        self.version() == other.version()
    }
}

impl Eq for ResourceSet {}

/// What a resource adds to the sum of a set.
fn term(resource: &Resource) -> u64 {
    resource.content().0
}

impl FromIterator<Resource> for ResourceSet {
    fn from_iter<I: IntoIterator<Item = Resource>>(resources: I) -> Self {
        resources.into_iter().map(Arc::new).collect()
    }
}

impl FromIterator<Arc<Resource>> for ResourceSet {
    fn from_iter<I: IntoIterator<Item = Arc<Resource>>>(resources: I) -> Self {
        let mut set = Self::default();
        resources.into_iter().for_each(|resource| set.insert(resource));
        set
    }
}
