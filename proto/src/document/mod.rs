//! A YAML or JSON text as a tree of values that know their lines.
//!
//! Owns the reading of both formats the way Envoy reads them: YAML scalars are typed by yaml-cpp's rules, not by YAML 1.2's.
//! Must not know: protobuf, or what any name means.
//!
//! Everything is bounded: size, nesting, and what aliases expand to.

mod json;
mod scalar;
#[cfg(test)]
mod tests;
mod yaml;

use std::path::Path;
use std::sync::Arc;

use crate::problem::{Position, Problem, Severity};

/// The largest document that is read: far above any real configuration, below what would hurt.
pub const MAX_BYTES: usize = 64 << 20;
/// How deeply lists and maps may be nested; protobuf's JSON readers have the same limit.
pub const MAX_DEPTH: usize = 100;
/// How many values aliases may add to a document (a "billion laughs" ends here). The text itself is bounded by its size.
pub const MAX_EXPANDED: usize = 1 << 20;

/// The format of a configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// YAML as yaml-cpp reads it.
    Yaml,
    /// JSON, with the liberties protobuf's reader takes.
    Json,
    /// The encoded message itself.
    Binary,
}

impl Format {
    /// The format a file name asks for: `.yaml`, `.yml` and `.pb` by name, anything else is JSON, as in Envoy.
    ///
    /// # Errors
    /// `.pb_text`, which is not supported.
    pub fn of_path(path: &Path) -> Result<Self, Problem> {
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        match extension.as_str() {
            "yaml" | "yml" => Ok(Self::Yaml),
            "pb" => Ok(Self::Binary),
            "pb_text" => {
                let reason = "the protobuf text format is not supported: write YAML, JSON, or the binary `.pb`";
                let source = Some(path.to_string_lossy().into());
                Err(Problem { source, ..Problem::new(Severity::Invalid, "", reason) })
            }
            _ => Ok(Self::Json),
        }
    }
}

/// A parsed text.
#[derive(Debug, Clone)]
pub struct Document {
    /// What to call the text in messages: its file name, or the flag it came by.
    pub source: Arc<str>,
    /// The outermost value.
    pub root: Node,
    /// What was accepted though it is likely a mistake.
    pub warnings: Vec<Problem>,
}

/// A value and where it starts.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it starts.
    pub at: Position,
    /// What it is.
    pub data: Data,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// `null`, `~` or nothing.
    Null,
    /// A boolean.
    Bool(bool),
    /// A number, in JSON's notation.
    Number(Box<str>),
    /// Text; in YAML also every number that does not fit 32 bits or is not an integer.
    String(Box<str>),
    /// A list.
    List(Vec<Node>),
    /// A map, in the order of the text. A key may occur more than once: the last one counts.
    Map(Vec<Entry>),
}

/// An entry of a map.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Where the key starts.
    pub at: Position,
    /// The key; what is not text was made text.
    pub key: Box<str>,
    /// The value.
    pub value: Node,
}

impl Document {
    /// Parses a text.
    ///
    /// # Errors
    /// A text that is not of the format, or too large or too deeply nested. [`Format::Binary`] is no text.
    pub fn parse(source: &str, text: &str, format: Format) -> Result<Self, Problem> {
        let source: Arc<str> = source.into();
        let parsed = if text.len() > MAX_BYTES {
            Err(Refusal::new(Position::default(), format!("the document is larger than {MAX_BYTES} bytes")))
        } else {
            // A byte order mark says nothing in UTF-8.
            let text = text.strip_prefix('\u{feff}').unwrap_or(text);
            match format {
                Format::Yaml => yaml::parse(text),
                Format::Json => json::parse(text),
                Format::Binary => Err(Refusal::new(Position::default(), "a binary message is not text")),
            }
        };
        let problem = |severity, refusal: Refusal| Problem {
            source: Some(Arc::clone(&source)),
            at: refusal.at,
            ..Problem::new(severity, "", refusal.reason)
        };
        match parsed {
            Ok((root, warnings)) => {
                let warnings = warnings.into_iter().map(|w| problem(Severity::Warning, w)).collect();
                Ok(Self { root, warnings, source: Arc::clone(&source) })
            }
            Err(refusal) => Err(problem(Severity::Invalid, refusal)),
        }
    }
}

impl Data {
    /// What to call it in a message.
    pub(crate) fn describe(&self) -> String {
        const SHOWN: usize = 40;
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => format!("the boolean {value}"),
            Self::Number(text) => format!("the number {text}"),
            Self::String(text) if text.chars().count() > SHOWN => "a string".to_owned(),
            Self::String(text) => format!("the string {text:?}"),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "a map".to_owned(),
        }
    }
}

/// What is wrong with a text, or odd about it.
#[derive(Debug)]
struct Refusal {
    at: Position,
    reason: String,
}

impl Refusal {
    fn new(at: Position, reason: impl Into<String>) -> Self {
        Self { at, reason: reason.into() }
    }
}

type Parsed = Result<(Node, Vec<Refusal>), Refusal>;
