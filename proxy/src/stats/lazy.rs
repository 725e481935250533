//! Counters that are made when they first count something, as Envoy makes some.

use std::sync::OnceLock;

use super::metric::Counter;
use super::scope::Scope;

/// `<scope>.<name>` for each name.
pub struct LazyCounters<const N: usize> {
    scope: Scope,
    names: [&'static str; N],
    counters: [OnceLock<Counter>; N],
}

impl<const N: usize> LazyCounters<N> {
    /// None of them is there yet.
    pub fn new(scope: Scope, names: [&'static str; N]) -> Self {
        LazyCounters { scope, names, counters: std::array::from_fn(|_| OnceLock::new()) }
    }

    /// Counts in number `at`.
    pub fn inc(&self, at: usize) {
        if let (Some(counter), Some(name)) = (self.counters.get(at), self.names.get(at)) {
            counter.get_or_init(|| self.scope.counter(name)).inc();
        }
    }
}
