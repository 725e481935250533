//! Scopes: where in the tree of names a component's stats are.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::histogram::{Histogram, Unit};
use super::metric::{Counter, Gauge, TextReadout};
use super::registry::{Kind, Meta, TaggedName, Tags};
use super::store::Store;

/// A prefix of stat names, and the tags that go with it. Cheap to clone.
#[derive(Clone)]
pub struct Scope {
    pub(super) store: Arc<Store>,
    pub(super) inner: Arc<ScopeInner>,
}

pub(super) struct ScopeInner {
    /// Empty, or with a dot at its end: `cluster.foo.`.
    pub(super) prefix: Box<str>,
    /// Tags, outermost first, and where in the prefix their values are; a dot follows each.
    pub(super) tags: Vec<(&'static str, Range<usize>)>,
}

impl Scope {
    pub(super) fn root(store: Arc<Store>) -> Self {
        let inner = ScopeInner { prefix: "".into(), tags: Vec::new() };
        Scope { store, inner: Arc::new(inner) }
    }

    /// The scope below this one: `listener_manager` has the prefix `listener_manager.`. Dots within `name` are levels. An
    /// empty name is this scope.
    pub fn scope(&self, name: &str) -> Scope {
        if name.is_empty() {
            return self.clone();
        }
        self.child(&sanitize(name), self.inner.tags.clone())
    }

    /// A scope for one of many, for instance `root.tagged("cluster", "envoy.cluster_name", "foo")`: text prefix
    /// `cluster.foo.`, Prometheus prefix `envoy_cluster_` with the label `envoy_cluster_name="foo"`. An empty `part` leaves
    /// only the value in the text.
    pub fn tagged(&self, part: &str, tag: &'static str, value: &str) -> Scope {
        let value = sanitize(value);
        let below = if part.is_empty() { value.clone() } else { [part, ".", &value].concat() };
        let end = self.inner.prefix.len() + below.len();
        let mut tags = self.inner.tags.clone();
        tags.push((tag, end - value.len()..end));
        self.child(&below, tags)
    }

    fn child(&self, below: &str, tags: Vec<(&'static str, Range<usize>)>) -> Scope {
        let prefix = [&*self.inner.prefix, below, "."].concat().into_boxed_str();
        Scope { store: self.store.clone(), inner: Arc::new(ScopeInner { prefix, tags }) }
    }

    /// The text prefix, with its dot.
    pub fn prefix(&self) -> &str {
        &self.inner.prefix
    }

    /// The counter of this name, the same cells for the same full name.
    pub fn counter(&self, name: &str) -> Counter {
        self.counter_tagged(name, name, &[])
    }

    /// A counter whose name itself holds tag values: `counter_tagged("upstream_rq_503", "upstream_rq",
    /// &[("envoy.response_code", "503")])`; `metric` is the name without them.
    pub fn counter_tagged(&self, name: &str, metric: &str, tags: &[(&'static str, &str)]) -> Counter {
        Counter(self.meta(name, metric, tags, Kind::Counter).and_then(|meta| self.store.cell(meta)))
    }

    /// The gauge of this name.
    pub fn gauge(&self, name: &str) -> Gauge {
        self.gauge_tagged(name, name, &[])
    }

    /// A gauge whose name itself holds tag values; see [`Scope::counter_tagged`].
    pub fn gauge_tagged(&self, name: &str, metric: &str, tags: &[(&'static str, &str)]) -> Gauge {
        Gauge(self.meta(name, metric, tags, Kind::Gauge).and_then(|meta| self.store.cell(meta)))
    }

    /// The histogram of this name. The unit of the first one to ask for it stays.
    pub fn histogram(&self, name: &str, unit: Unit) -> Histogram {
        self.histogram_tagged(name, name, &[], unit)
    }

    /// A histogram whose name itself holds tag values; see [`Scope::counter_tagged`].
    pub fn histogram_tagged(&self, name: &str, metric: &str, tags: &[(&'static str, &str)], unit: Unit) -> Histogram {
        Histogram(self.meta(name, metric, tags, Kind::Histogram).map(|meta| self.store.histogram(meta, unit)))
    }

    /// The text readout of this name.
    pub fn text_readout(&self, name: &str) -> TextReadout {
        TextReadout(self.meta(name, name, &[], Kind::Text).map(|meta| self.store.text_cell(meta)))
    }

    /// `None`: the stat is rejected.
    fn meta(&self, name: &str, metric: &str, tags: &[(&'static str, &str)], kind: Kind) -> Option<Meta> {
        if self.store.rejects(&self.inner.prefix, name) {
            return None;
        }
        let own = |(tag, value): &(&'static str, &str)| (Cow::Borrowed(*tag), (*value).into());
        let tagged = (!tags.is_empty()).then(|| {
            let (metric, tags) = (self.store.intern(metric), tags.iter().map(own).collect());
            Box::new(TaggedName { metric, tags, labels: false })
        });
        Some(Meta { scope: self.inner.clone(), name: self.store.intern(name), kind, tagged })
    }

    /// A counter that is one of many of the scope's name, told from the others by `labels`. `name` is the labels as text.
    pub fn labelled_counter(&self, name: &str, labels: &Tags) -> Counter {
        Counter(self.labelled(name, labels, Kind::Counter).and_then(|meta| self.store.cell(meta)))
    }

    /// A histogram that is one of many; see [`Scope::labelled_counter`].
    pub fn labelled_histogram(&self, name: &str, labels: &Tags, unit: Unit) -> Histogram {
        Histogram(self.labelled(name, labels, Kind::Histogram).map(|meta| self.store.histogram(meta, unit)))
    }

    fn labelled(&self, name: &str, labels: &Tags, kind: Kind) -> Option<Meta> {
        if self.store.rejects(&self.inner.prefix, name) {
            return None;
        }
        let tagged = Some(Box::new(TaggedName { metric: self.store.intern(""), tags: labels.clone(), labels: true }));
        Some(Meta { scope: self.inner.clone(), name: self.store.intern(name), kind, tagged })
    }
}

impl std::fmt::Debug for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Scope({:?})", self.inner.prefix)
    }
}

/// As Envoy does to the parts of names it does not choose itself: colons, which statsd cannot have, become underscores.
fn sanitize(name: &str) -> String {
    name.replace("://", "_").replace(":/", "_").replace([':', '\0'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colons_become_underscores() {
        assert_eq!(sanitize("[::1]:80"), "[__1]_80");
        assert_eq!(sanitize("http://a:/b"), "http_a_b");
    }
}
