//! What waits for what, without input or output: things that cannot be used before others are there.
//!
//! A cluster waits for its endpoints and secrets, a listener for its routes and secrets, routes for clusters that are on their
//! way. Each need may have a deadline, past which what waits goes on without it. Must not know: what the things are.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

#[cfg(test)]
mod tests;

/// Things that wait (`I`) and what they need (`N`).
#[derive(Debug)]
pub struct Warming<I, N> {
    items: BTreeMap<I, BTreeMap<N, Option<Instant>>>,
    by_need: BTreeMap<N, BTreeSet<I>>,
    deadlines: BTreeSet<(Instant, I, N)>,
}

impl<I, N> Default for Warming<I, N> {
    fn default() -> Self {
        Warming { items: BTreeMap::new(), by_need: BTreeMap::new(), deadlines: BTreeSet::new() }
    }
}

impl<I: Ord + Clone, N: Ord + Clone> Warming<I, N> {
    /// `item` waits for `needs`, each until its deadline, and no longer for what it waited for before. Whether it needs nothing.
    pub fn begin(&mut self, item: &I, needs: impl IntoIterator<Item = (N, Option<Instant>)>) -> bool {
        self.cancel(item);
        let needs: BTreeMap<N, Option<Instant>> = needs.into_iter().collect();
        if needs.is_empty() {
            return true;
        }
        for (need, deadline) in &needs {
            self.by_need.entry(need.clone()).or_default().insert(item.clone());
            if let Some(at) = deadline {
                self.deadlines.insert((*at, item.clone(), need.clone()));
            }
        }
        self.items.insert(item.clone(), needs);
        false
    }

    /// `item` waits for further needs, if it waits at all.
    pub fn extend(&mut self, item: &I, needs: impl IntoIterator<Item = (N, Option<Instant>)>) {
        if let Some(before) = self.items.get(item) {
            let all: Vec<_> = before.iter().map(|(need, at)| (need.clone(), *at)).chain(needs).collect();
            self.begin(item, all);
        }
    }

    /// `item` waits for nothing any more; whether it did.
    pub fn cancel(&mut self, item: &I) -> bool {
        let Some(needs) = self.items.remove(item) else { return false };
        for (need, deadline) in needs {
            self.forget(item, &need, deadline);
        }
        true
    }

    fn forget(&mut self, item: &I, need: &N, deadline: Option<Instant>) {
        if let Some(at) = deadline {
            self.deadlines.remove(&(at, item.clone(), need.clone()));
        }
        if let Some(items) = self.by_need.get_mut(need) {
            items.remove(item);
            if items.is_empty() {
                self.by_need.remove(need);
            }
        }
    }

    /// `need` is there: what waits for nothing else.
    pub fn met(&mut self, need: &N) -> Vec<I> {
        self.met_if(need, |_| true)
    }

    /// `need` is there for those of which `wanted` says so; what of them waits for nothing else.
    pub fn met_if(&mut self, need: &N, wanted: impl Fn(&I) -> bool) -> Vec<I> {
        let items = self.by_need.get(need).cloned().unwrap_or_default();
        items.into_iter().filter(|item| wanted(item) && self.settle(item, need)).collect()
    }

    /// `item` no longer waits for `need`; whether it waits for nothing else.
    fn settle(&mut self, item: &I, need: &N) -> bool {
        let Some(needs) = self.items.get_mut(item) else { return false };
        let Some(deadline) = needs.remove(need) else { return false };
        let done = needs.is_empty();
        if done {
            self.items.remove(item);
        }
        self.forget(item, need, deadline);
        done
    }

    /// What has waited for too long, and then what therefore waits for nothing any more.
    pub fn expired(&mut self, now: Instant) -> (Vec<(I, N)>, Vec<I>) {
        let (mut late, mut done) = (Vec::new(), Vec::new());
        while let Some((at, item, need)) = self.deadlines.first().cloned() {
            if at > now {
                break;
            }
            if self.settle(&item, &need) {
                done.push(item.clone());
            }
            late.push((item, need));
        }
        (late, done)
    }

    /// When to look again.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, ..)| *at)
    }

    /// Whether `item` waits.
    pub fn is_waiting(&self, item: &I) -> bool {
        self.items.contains_key(item)
    }

    /// What waits, and for what.
    pub fn waiting(&self) -> impl Iterator<Item = (&I, impl Iterator<Item = &N>)> {
        self.items.iter().map(|(item, needs)| (item, needs.keys()))
    }

    /// The latest moment until which `item` may wait; `None`: it does not, or for ever.
    pub fn deadline(&self, item: &I) -> Option<Instant> {
        let needs = self.items.get(item)?;
        needs.values().copied().collect::<Option<Vec<_>>>()?.into_iter().max()
    }
}
