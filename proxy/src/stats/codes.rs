//! Counters by response code, made when a code is first seen, as Envoy makes them.

use std::sync::OnceLock;

use super::metric::Counter;
use super::scope::Scope;

/// `<prefix>completed`, `<prefix>2xx` and, if wanted, `<prefix>200` below one scope.
///
/// Recording takes no lock and allocates only for a code not seen before.
pub struct CodeStats {
    scope: Scope,
    prefix: &'static str,
    per_code: bool,
    completed: Counter,
    classes: [OnceLock<Counter>; 5],
    codes: OnceLock<Box<Node>>,
}

/// A list that only grows: an upstream answers with a handful of codes, the common ones seen first.
struct Node {
    code: u16,
    counter: Counter,
    next: OnceLock<Box<Node>>,
}

impl CodeStats {
    /// Counters per code and per class, for instance with the prefix `upstream_rq_`; each is made when first needed, but for
    /// `completed`.
    pub fn new(scope: &Scope, prefix: &'static str) -> Self {
        Self::with(scope, prefix, true)
    }

    /// Counters per class only, all made at once: `downstream_rq_`.
    pub fn classes(scope: &Scope, prefix: &'static str) -> Self {
        let stats = Self::with(scope, prefix, false);
        for class in 1..=5 {
            stats.class(class);
        }
        stats
    }

    fn with(scope: &Scope, prefix: &'static str, per_code: bool) -> Self {
        CodeStats {
            scope: scope.clone(),
            prefix,
            per_code,
            completed: scope.counter(&[prefix, "completed"].concat()),
            classes: Default::default(),
            codes: OnceLock::new(),
        }
    }

    /// Counts a response of this status; a status outside of 100..=599 counts as completed only.
    pub fn record(&self, status: u16) {
        self.completed.inc();
        if let Some(class) = self.class(status / 100) {
            class.inc();
            if self.per_code {
                self.code(status).inc();
            }
        }
    }

    fn class(&self, class: u16) -> Option<&Counter> {
        let place = self.classes.get(usize::from(class).checked_sub(1)?)?;
        Some(place.get_or_init(|| {
            let digit = class.to_string();
            let name = [self.prefix, &digit, "xx"].concat();
            let metric = [self.prefix, "xx"].concat();
            self.scope.counter_tagged(&name, &metric, &[("envoy.response_code_class", &digit)])
        }))
    }

    fn code(&self, status: u16) -> &Counter {
        let mut place = &self.codes;
        loop {
            let node = place.get_or_init(|| {
                let code = status.to_string();
                let name = [self.prefix, &code].concat();
                let metric = self.prefix.trim_end_matches('_');
                let counter = self.scope.counter_tagged(&name, metric, &[("envoy.response_code", &code)]);
                Box::new(Node { code: status, counter, next: OnceLock::new() })
            });
            if node.code == status {
                return &node.counter;
            }
            place = &node.next;
        }
    }
}

impl std::fmt::Debug for CodeStats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CodeStats").field("scope", &self.scope).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Store;

    #[test]
    fn counts_by_code_and_class() {
        let store = Store::new(1, &Default::default());
        let stats = CodeStats::new(&store.root(), "upstream_rq_");
        [200, 200, 503, 204, 0, 999].into_iter().for_each(|code| stats.record(code));
        let value = |name: &str| store.root().counter(name).value();
        assert_eq!(value("upstream_rq_completed"), 6);
        assert_eq!((value("upstream_rq_200"), value("upstream_rq_204"), value("upstream_rq_2xx")), (2, 1, 3));
        assert_eq!((value("upstream_rq_503"), value("upstream_rq_5xx")), (1, 1));
    }
}
