//! Reads `src/supported.txt`; its format is explained at the top of that file.

use std::collections::BTreeMap;

use crate::Result;

/// What the table says of one type.
#[derive(Default)]
pub(crate) struct Entry {
    /// The line of `supported.txt`, for messages.
    pub(crate) line: usize,
    /// `*`: every field (or enum value) is supported.
    pub(crate) all: bool,
    /// Supported fields of a message, supported values of an enum.
    pub(crate) names: Vec<String>,
    /// Accepted without effect, each with its reason.
    pub(crate) ignored: BTreeMap<String, String>,
}

pub(crate) type Supported = BTreeMap<String, Entry>;

pub(crate) fn parse(text: &str) -> Result<Supported> {
    let mut table = Supported::new();
    let mut current: Option<String> = None;
    for (index, raw) in text.lines().enumerate() {
        let number = index + 1;
        let line = raw.split_once('#').map_or(raw, |(before, _)| before).trim_end();
        if line.trim().is_empty() {
            continue;
        }
        let words = if line.starts_with(char::is_whitespace) {
            line.trim()
        } else {
            let (name, words) = line.split_once(':').ok_or_else(|| at(number, "expected `type.name: fields`"))?;
            let entry = Entry { line: number, ..Entry::default() };
            if table.insert(name.to_owned(), entry).is_some() {
                return Err(at(number, &format!("{name} is listed twice")));
            }
            current = Some(name.to_owned());
            words.trim()
        };
        let entry = current
            .as_ref()
            .and_then(|name| table.get_mut(name))
            .ok_or_else(|| at(number, "an indented line needs a type above it"))?;
        add_words(entry, words, number)?;
    }
    Ok(table)
}

fn add_words(entry: &mut Entry, words: &str, number: usize) -> Result<()> {
    if let Some(rest) = words.strip_prefix('!') {
        let (name, reason) = rest.split_once(':').ok_or_else(|| at(number, "`!field: reason` needs its reason"))?;
        entry.ignored.insert(name.trim().to_owned(), reason.trim().to_owned());
        return Ok(());
    }
    for word in words.split_whitespace() {
        match word {
            "*" => entry.all = true,
            _ if word.starts_with('!') => return Err(at(number, "`!field: reason` goes on a line of its own")),
            _ => entry.names.push(word.to_owned()),
        }
    }
    Ok(())
}

fn at(line: usize, reason: &str) -> String {
    format!("src/supported.txt:{line}: {reason}")
}
