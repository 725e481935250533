//! What configuration changes of the standard metrics, made ready for the making of a series.

use std::borrow::Cow;

use super::labels::Label;
use crate::config::{Attribute, Metric, MetricOverride};

/// Overrides of one configuration.
#[derive(Debug)]
pub struct Plan {
    /// Tells series of one configuration from those of another.
    pub(super) id: u64,
    /// As configured.
    pub(super) overrides: Vec<MetricOverride>,
    /// The attributes that labels are made of, each once.
    pub(super) attributes: Vec<Attribute>,
}

impl Plan {
    pub(super) fn new(id: u64, overrides: &[MetricOverride]) -> Self {
        let mut attributes: Vec<Attribute> = Vec::new();
        for (_, attribute) in overrides.iter().flat_map(|of| &of.set) {
            if !attributes.contains(attribute) {
                attributes.push(attribute.clone());
            }
        }
        Plan { id, overrides: overrides.to_vec(), attributes }
    }

    /// The values of attributes that a series is told by, in its order.
    pub fn values(&self, value: impl Fn(&Attribute) -> Option<String>) -> Vec<String> {
        self.attributes.iter().map(|attribute| value(attribute).unwrap_or_else(|| "unknown".to_owned())).collect()
    }

    /// Whether nothing differs.
    pub(super) fn is_standard(&self) -> bool {
        self.overrides.is_empty()
    }

    /// The labels of a metric; `None`: it is not counted.
    pub(super) fn labels<'a>(
        &self,
        metric: Metric,
        standard: &[Label<'a>],
        values: &[String],
    ) -> Option<Vec<(Cow<'static, str>, Cow<'a, str>)>> {
        let of = || self.overrides.iter().filter(|of| of.metric.is_none_or(|of| of == metric));
        if of().any(|of| of.drop) {
            return None;
        }
        let mut labels: Vec<(Cow<'static, str>, Cow<'a, str>)> =
            standard.iter().map(|(name, value)| (Cow::Borrowed(*name), value.clone())).collect();
        for of in of() {
            labels.retain(|(name, _)| !of.remove.iter().any(|removed| name == removed));
            for (name, attribute) in &of.set {
                let at = self.attributes.iter().position(|other| other == attribute);
                let value = at.and_then(|at| values.get(at)).cloned().unwrap_or_default();
                match labels.iter_mut().find(|(known, _)| known == name) {
                    Some((_, old)) => *old = Cow::Owned(value),
                    None => labels.push((Cow::Owned(name.clone()), Cow::Owned(value))),
                }
            }
        }
        Some(labels)
    }
}
