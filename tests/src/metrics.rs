//! Metrics in Prometheus' exposition format.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

/// A series: its name, its labels, its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// `istio_requests_total`
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

impl Series {
    /// A label; empty if it is not there.
    #[must_use]
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// Whether it has these labels, besides others.
    #[must_use]
    pub fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(name, value)| self.label(name) == *value)
    }
}

/// All series of a page.
///
/// # Errors
/// A line that is none.
pub fn parse(page: &str) -> Result<Vec<Series>> {
    let lines = page.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| series(line).with_context(|| format!("not a series: {line}"))).collect()
}

fn series(line: &str) -> Option<Series> {
    let (name, mut rest) = match line.find('{') {
        Some(brace) => (&line[..brace], &line[brace + 1..]),
        None => {
            let (name, value) = line.split_once(' ')?;
            return Some(Series { name: name.to_owned(), labels: BTreeMap::new(), value: value.trim().parse().ok()? });
        }
    };
    let mut labels = BTreeMap::new();
    while !rest.starts_with('}') {
        let (label, after) = rest.trim_start_matches(',').split_once("=\"")?;
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next()? {
                (_, '\\') => value.push(if chars.next()?.1 == 'n' { '\n' } else { '?' }),
                (at, '"') => break at + 1,
                (_, other) => value.push(other),
            }
        };
        labels.insert(label.to_owned(), value);
        rest = &after[end..];
    }
    Some(Series { name: name.to_owned(), labels, value: rest[1..].trim().parse().ok()? })
}

/// The sum of the series of a name that have these labels.
#[must_use]
pub fn sum(all: &[Series], name: &str, labels: &[(&str, &str)]) -> f64 {
    all.iter().filter(|series| series.name == name && series.has(labels)).map(|series| series.value).sum()
}
