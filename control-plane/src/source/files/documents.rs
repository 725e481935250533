//! A file's text as objects.
//!
//! Documents are told apart before they are parsed, as Kubernetes does it, so that a broken one takes no other with it.

use std::sync::Arc;

use weft_proto::document::{Data, Document, Format, Node};
use weft_proto::problem::{Position, Problem};

use crate::model::kinds::{Object, Outcome, text_of};

/// Reads every object of a text.
pub(super) fn read(source: &Arc<str>, text: &str, format: Format) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (line, part) in split(text, format) {
        match Document::parse(source, part, format) {
            Ok(mut document) => {
                shift(&mut document.root, line);
                let first = outcomes.len();
                objects(&document.root, source, &mut outcomes);
                if let Some(Outcome::Object(object)) = outcomes.get_mut(first) {
                    let warnings = document.warnings.into_iter();
                    object.problems.extend(warnings.map(|warning| Problem { at: moved(warning.at, line), ..warning }));
                }
            }
            Err(problem) => {
                let problem = Problem { at: moved(problem.at, line), ..problem };
                outcomes.push(Outcome::Rejected { key: None, problems: vec![problem] });
            }
        }
    }
    outcomes
}

/// The documents of a text, and how many lines are in front of each.
fn split(text: &str, format: Format) -> Vec<(u32, &str)> {
    if format != Format::Yaml {
        return vec![(0, text)];
    }
    let mut parts = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 0, 0);
    for (line, content) in (0u32..).zip(text.split_inclusive('\n')) {
        let separates =
            content.strip_prefix("---").is_some_and(|rest| rest.trim_end().is_empty() || rest.starts_with([' ', '\t']));
        if separates && at > start {
            parts.push((start_line, &text[start..at]));
            (start, start_line) = (at, line);
        }
        at += content.len();
    }
    parts.push((start_line, &text[start..]));
    parts.retain(|(_, part)| !is_blank(part));
    parts
}

/// Whether there is nothing but separators, comments and directives.
fn is_blank(part: &str) -> bool {
    part.lines().all(|line| {
        let line = line.strip_prefix("---").unwrap_or(line).trim();
        line.is_empty() || line.starts_with(['#', '%']) || line == "..."
    })
}

fn moved(at: Position, lines: u32) -> Position {
    Position { line: if at.line == 0 { 0 } else { at.line.saturating_add(lines) }, ..at }
}

fn shift(node: &mut Node, lines: u32) {
    node.at = moved(node.at, lines);
    match &mut node.data {
        Data::List(items) => items.iter_mut().for_each(|item| shift(item, lines)),
        Data::Map(entries) => {
            for entry in entries {
                entry.at = moved(entry.at, lines);
                shift(&mut entry.value, lines);
            }
        }
        Data::Null | Data::Bool(_) | Data::Number(_) | Data::String(_) => {}
    }
}

/// The object, or those of a list.
fn objects(node: &Node, source: &Arc<str>, outcomes: &mut Vec<Outcome>) {
    if node.data == Data::Null {
        return;
    }
    let is_list = text_of(node, "kind").is_some_and(|kind| kind.ends_with("List"));
    if is_list && let Some(items) = items(node) {
        items.iter().for_each(|item| outcomes.push(Object::read(item, source)));
        return;
    }
    outcomes.push(Object::read(node, source));
}

fn items(node: &Node) -> Option<&[Node]> {
    let Data::Map(entries) = &node.data else { return None };
    match &entries.iter().rfind(|entry| &*entry.key == "items")?.value.data {
        Data::List(items) => Some(items),
        _ => None,
    }
}
