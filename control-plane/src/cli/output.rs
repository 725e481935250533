//! Tables, JSON and YAML.
//!
//! Must not know: what is printed.

use std::fmt::Write as _;

use clap::ValueEnum;
use serde_json::Value as Json;

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
    /// For both
    Yaml,
}

/// Prints a result; `table` is the form for people.
pub(super) fn print(format: Format, json: &Json, table: impl FnOnce() -> String) -> String {
    match format {
        Format::Table => table(),
        Format::Json => format!("{json:#}"),
        Format::Yaml => {
            let mut text = String::new();
            yaml(json, 0, &mut text);
            text.trim_start().to_owned()
        }
    }
}

/// Rows under a heading, each column as wide as its widest cell.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(heading: &[&str]) -> Self {
        Self { rows: vec![heading.iter().map(ToString::to_string).collect()] }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// The rows below the heading, sorted.
    pub(super) fn sorted(mut self) -> Self {
        if let Some((_, rows)) = self.rows.split_first_mut() {
            rows.sort();
        }
        self
    }

    pub(super) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width =
            |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
        let mut text = String::new();
        for row in &self.rows {
            let line = row.iter().zip(&widths).fold(String::new(), |mut line, (cell, width)| {
                // Writing into a string does not fail.
                let _ = write!(line, "{cell:width$}   ");
                line
            });
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Appends a value, beginning where the line is; lists and maps go on below, indented.
fn yaml(json: &Json, indent: usize, out: &mut String) {
    match json {
        Json::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                let _ = write!(out, "\n{:indent$}{}:", "", scalar(&Json::from(key.as_str())));
                yaml_below(value, indent, out);
            }
        }
        Json::Array(items) if !items.is_empty() => {
            for item in items {
                let _ = write!(out, "\n{:indent$}-", "");
                let mut inner = String::new();
                yaml(item, indent + 2, &mut inner);
                // The first field stands beside the dash.
                match inner.strip_prefix('\n') {
                    Some(below) => drop(write!(out, " {}", below.trim_start())),
                    None => drop(write!(out, " {inner}")),
                }
            }
        }
        scalar_or_empty => out.push_str(&scalar(scalar_or_empty)),
    }
}

fn yaml_below(value: &Json, indent: usize, out: &mut String) {
    let nested = matches!(value, Json::Object(fields) if !fields.is_empty());
    let listed = matches!(value, Json::Array(items) if !items.is_empty());
    if !nested && !listed {
        out.push(' ');
    }
    yaml(value, indent + if nested { 2 } else { 0 }, out);
}

/// Texts that could be read as something else are quoted as JSON does, which YAML reads too.
fn scalar(json: &Json) -> String {
    let Json::String(text) = json else { return json.to_string() };
    let words = ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "~"];
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_');
    let safe = |c: char| c.is_ascii_alphanumeric() || "/_.-".contains(c);
    if begins && text.chars().all(safe) && !words.contains(&text.to_ascii_lowercase().as_str()) {
        return text.clone();
    }
    json.to_string()
}
