//! Who sees an object: Istio's `exportTo`.

use std::collections::BTreeSet;
use std::sync::Arc;

/// The namespaces that see something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visibility {
    /// All.
    Everywhere,
    /// These; none of them: nobody.
    Namespaces(BTreeSet<Arc<str>>),
}

impl Visibility {
    /// Reads `exportTo`: `*` is everywhere, `.` is `own`, `~` is nowhere. Empty: the mesh's `default`, else everywhere.
    #[must_use]
    pub fn of<'t>(export_to: impl IntoIterator<Item = &'t str>, default: &[String], own: &str) -> Self {
        let given: Vec<&str> = export_to.into_iter().map(str::trim).filter(|entry| !entry.is_empty()).collect();
        let entries = if given.is_empty() { default.iter().map(String::as_str).collect() } else { given };
        if entries.is_empty() || entries.contains(&"*") {
            return Self::Everywhere;
        }
        let named = entries.iter().filter(|entry| **entry != "~");
        Self::Namespaces(named.map(|entry| if *entry == "." { own.into() } else { (*entry).into() }).collect())
    }

    /// Whether this namespace sees it.
    #[must_use]
    pub fn includes(&self, namespace: &str) -> bool {
        match self {
            Self::Everywhere => true,
            Self::Namespaces(namespaces) => namespaces.contains(namespace),
        }
    }
}
