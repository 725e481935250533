//! From a document tree to the types of [`kinds`](super::kinds).
//!
//! Owns the path of the place a reader is at, and what is wrong there. What an object sets and its type does not list is
//! reported: nothing set is silently ignored. Must not know: which file or server a document came from.

mod duration;
mod record;
mod scalar;
#[cfg(test)]
mod tests;

use std::fmt::{self, Write as _};

use weft_proto::document::{Data, Node};
use weft_proto::problem::{Position, Problem, Severity};

pub use duration::parse as parse_duration;
pub(crate) use record::{choice, is_key, record};

/// A value that can be read from a document.
pub trait Read: Sized {
    /// Reads the value. `None`: it cannot be read, and why is recorded.
    fn read(node: &Node, reader: &mut Reader) -> Option<Self>;
}

/// Where something was written. Two things that differ only in this are equal, and are printed alike.
#[derive(Clone, Copy, Default)]
pub struct At(pub Position);

impl fmt::Debug for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("At")
    }
}

impl PartialEq for At {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for At {}

/// What a record does with fields it does not list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Others {
    /// Reported as not supported.
    Reported,
    /// Left to whom they concern: most of a Pod is the kubelet's business, not the mesh's.
    Foreign,
}

/// A walk over a document.
#[derive(Debug, Default)]
pub struct Reader {
    path: String,
    problems: Vec<Problem>,
}

impl Reader {
    /// All that was found.
    #[must_use]
    pub fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// Records a problem at the current path.
    pub(crate) fn problem(&mut self, severity: Severity, at: Position, reason: impl Into<String>) {
        self.problems.push(Problem { at, ..Problem::new(severity, self.path.clone(), reason) });
    }

    /// Records what cannot be accepted.
    pub(crate) fn refuse<T>(&mut self, at: Position, reason: impl Into<String>) -> Option<T> {
        self.problem(Severity::Invalid, at, reason);
        None
    }

    /// Records a value of the wrong type.
    pub(crate) fn wrong<T>(&mut self, node: &Node, expected: &str) -> Option<T> {
        self.refuse(node.at, format!("expected {expected}, found {}", describe(&node.data)))
    }

    /// Runs `f` with the path one step further down.
    pub(crate) fn within<T>(&mut self, step: std::fmt::Arguments<'_>, f: impl FnOnce(&mut Self) -> T) -> T {
        let up = self.path.len();
        // Writing to a string does not fail.
        let _ = self.path.write_fmt(step);
        let result = f(self);
        self.path.truncate(up);
        result
    }

    /// Runs `f` inside the field `key`.
    pub(crate) fn field<T>(&mut self, key: &str, f: impl FnOnce(&mut Self) -> T) -> T {
        let dot = if self.path.is_empty() { "" } else { "." };
        self.within(format_args!("{dot}{key}"), f)
    }

    /// Walks the entries of a map: `take` says whether it knows the key. Null is "not set".
    ///
    /// `None` if the node is no map.
    pub(crate) fn entries(
        &mut self,
        node: &Node,
        others: Others,
        known: &[&str],
        mut take: impl FnMut(&mut Self, &str, &Node) -> bool,
    ) -> Option<()> {
        let Data::Map(entries) = &node.data else { return self.wrong(node, "a map") };
        for entry in entries.iter().filter(|entry| entry.value.data != Data::Null) {
            self.field(&entry.key, |reader| {
                if !take(reader, &entry.key, &entry.value) && others == Others::Reported {
                    reader.problem(Severity::Unsupported, entry.at, unsupported(&entry.key, known));
                }
            });
        }
        Some(())
    }
}

/// Why a field has no effect, with the name that was likely meant.
fn unsupported(key: &str, known: &[&str]) -> String {
    let names: Vec<String> = known.iter().map(|name| record::camel(name)).collect();
    let near = weft_proto::schema::nearest(key, names.iter().map(String::as_str));
    match near {
        Some(name) => format!("not supported: it has no effect (did you mean `{name}`?)"),
        None => "not supported: it has no effect".to_owned(),
    }
}

/// What to call a value in a message.
fn describe(data: &Data) -> String {
    const SHOWN: usize = 40;
    match data {
        Data::Null => "null".to_owned(),
        Data::Bool(value) => format!("the boolean {value}"),
        Data::Number(text) => format!("the number {text}"),
        Data::String(text) if text.chars().count() > SHOWN => "a string".to_owned(),
        Data::String(text) => format!("the string {text:?}"),
        Data::List(_) => "a list".to_owned(),
        Data::Map(_) => "a map".to_owned(),
    }
}
