//! What is wrong with a piece of configuration, and where.

use std::fmt;

/// One refused piece of configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The resource it is in (listener, cluster or file name); may be empty.
    pub resource: String,
    /// Field path below the root message, for instance `static_resources.listeners[0].address`.
    pub field_path: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

impl ConfigError {
    /// An error at a field path, its resource not yet known.
    pub fn at(field_path: impl Into<String>, reason: impl Into<String>) -> Self {
        ConfigError { resource: String::new(), field_path: field_path.into(), reason: reason.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.resource.is_empty() {
            write!(f, "{}: ", self.resource)?;
        }
        if !self.field_path.is_empty() {
            write!(f, "{}: ", self.field_path)?;
        }
        f.write_str(&self.reason)
    }
}

impl std::error::Error for ConfigError {}
