//! What every object has.

use std::collections::BTreeMap;

use crate::model::read::record;

/// A set of labels.
pub type Labels = BTreeMap<String, String>;

record! {
    /// An object's metadata. **Source**: `meta.k8s.io/v1.ObjectMeta`.
    pub struct Meta (foreign) {
        /// Unique in its kind and namespace.
        name: String,
        /// Empty for kinds without namespaces. Default: `default`.
        namespace: String,
        /// What selectors match.
        labels: Labels,
        /// Further settings.
        annotations: BTreeMap<String, String>,
        /// What made it.
        owner_references: Vec<OwnerReference>,
        /// When it was created, in RFC 3339's form: of two that conflict, the older one wins.
        creation_timestamp: Option<String>,
    }
}

/// The annotation that has a policy tried out.
pub const DRY_RUN: &str = "istio.io/dry-run";

/// Truth as Istio reads it in annotations.
#[must_use]
pub fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

impl Meta {
    /// Whether a policy is only tried out.
    #[must_use]
    pub fn is_dry_run(&self) -> bool {
        self.annotations.get(DRY_RUN).and_then(|value| go_bool(value)) == Some(true)
    }
}

record! {
    /// What has made an object. **Source**: `meta.k8s.io/v1.OwnerReference`.
    pub struct OwnerReference (foreign) {
        /// Its kind: `ReplicaSet`.
        kind: String,
        /// Its name.
        name: String,
        /// It is the one that looks after it.
        controller: bool,
    }
}

record! {
    /// A selector by labels. **Source**: `meta.k8s.io/v1.LabelSelector`.
    pub struct LabelSelector {
        /// Labels that must be there with these values.
        match_labels: Labels,
        /// Further conditions.
        match_expressions: Vec<LabelCondition>,
    }
}

record! {
    /// One condition of a [`LabelSelector`]. **Source**: `meta.k8s.io/v1.LabelSelectorRequirement`.
    pub struct LabelCondition {
        /// The label.
        key: String,
        /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
        operator: String,
        /// What `In` and `NotIn` compare with.
        values: Vec<String>,
    }
}

impl LabelSelector {
    /// Whether these labels fulfil all of it; an empty selector matches everything.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        contains_all(labels, &self.match_labels)
            && self.match_expressions.iter().all(|condition| condition.holds(labels))
    }
}

impl LabelCondition {
    fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match self.operator.as_str() {
            "In" => value.is_some_and(|value| self.values.contains(value)),
            "NotIn" => value.is_none_or(|value| !self.values.contains(value)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    }
}

/// Whether `labels` has every label of `wanted`.
#[must_use]
pub fn contains_all(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}
