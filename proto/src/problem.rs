//! What is wrong with a document or a message, and where.
//!
//! Owns the paths (`static_resources.listeners[0].name`, `filter_metadata["envoy.lb"]`) that every check here uses.
//! Must not know: which check found a problem.

use std::fmt::{self, Write as _};
use std::sync::Arc;

/// How bad a problem is, and so which switch lets it pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Accepted, but likely not what was meant.
    Warning,
    /// A field, enum value or extension that weft does not support: refused, unless unknown fields are allowed.
    Unsupported,
    /// A field or enum value that Envoy's API does not have: refused, unless unknown fields are allowed.
    Unknown,
    /// Wrong in itself: always refused.
    Invalid,
}

/// A place in a document: lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The line, from 1; 0: not known.
    pub line: u32,
    /// The column, from 1; 0: not known.
    pub column: u32,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The document it is in, if it is in one.
    pub source: Option<Arc<str>>,
    /// Where in the document.
    pub at: Position,
    /// The field it is about, empty for the whole document.
    pub path: String,
    /// What is wrong, and what would be right.
    pub reason: String,
}

impl Problem {
    /// A problem with no place in a document (yet).
    pub fn new(severity: Severity, path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { severity, source: None, at: Position::default(), path: path.into(), reason: reason.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(source) = &self.source {
            f.write_str(source)?;
            if self.at.line > 0 {
                write!(f, ":{}:{}", self.at.line, self.at.column)?;
            }
            f.write_str(": ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.reason)
    }
}

/// Why a document was refused: one problem or more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_char('\n')?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

/// The path of the place a walk is at. Going down and up again moves an end in one buffer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Path {
    text: String,
}

impl Path {
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The length to [`Path::truncate`] to on the way up.
    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        self.text.truncate(len);
    }

    pub(crate) fn push_field(&mut self, name: &str) {
        if !self.text.is_empty() {
            self.text.push('.');
        }
        self.text.push_str(name);
    }

    pub(crate) fn push_index(&mut self, index: usize) {
        // Writing to a string does not fail.
        let _ = write!(self.text, "[{index}]");
    }

    pub(crate) fn push_key(&mut self, key: &str) {
        let _ = write!(self.text, "[{key:?}]");
    }
}
