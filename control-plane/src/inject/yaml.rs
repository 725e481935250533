//! YAML that keeps the order of its keys, read and written.

use std::fmt::Write as _;

use weft_proto::document::{Data, Document, Format, Node};

/// A value.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Yaml {
    /// Nothing.
    #[default]
    Null,
    /// A boolean.
    Bool(bool),
    /// An integer.
    Number(String),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Yaml>),
    /// A map, in the order of its text.
    Map(Vec<(String, Yaml)>),
}

impl From<&Node> for Yaml {
    fn from(node: &Node) -> Self {
        match &node.data {
            Data::Null => Self::Null,
            Data::Bool(value) => Self::Bool(*value),
            Data::Number(text) => Self::Number(text.to_string()),
            Data::String(text) => Self::Text(text.to_string()),
            Data::List(items) => Self::List(items.iter().map(Self::from).collect()),
            Data::Map(entries) => {
                let mut map = Vec::new();
                for entry in entries {
                    set(&mut map, &entry.key, Self::from(&entry.value));
                }
                Self::Map(map)
            }
        }
    }
}

fn set(map: &mut Vec<(String, Yaml)>, key: &str, value: Yaml) {
    match map.iter_mut().find(|(held, _)| held == key) {
        Some((_, held)) => *held = value,
        None => map.push((key.to_owned(), value)),
    }
}

impl Yaml {
    /// Reads a document.
    ///
    /// # Errors
    /// What is wrong with the text, and where.
    pub fn parse(source: &str, text: &str) -> Result<Self, String> {
        Document::parse(source, text, Format::Yaml)
            .map(|of| Self::from(&of.root))
            .map_err(|problem| problem.to_string())
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Yaml> {
        let Self::Map(map) = self else { return None };
        map.iter().find(|(held, _)| held == key).map(|(_, value)| value)
    }

    /// The value at the end of a path of keys.
    #[must_use]
    pub fn at(&self, path: &[&str]) -> Option<&Yaml> {
        path.iter().try_fold(self, |of, key| of.get(key))
    }

    /// The text of a key.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Self::Text(text) | Self::Number(text) => Some(text),
            Self::Bool(true) => Some("true"),
            Self::Bool(false) => Some("false"),
            _ => None,
        }
    }

    /// The value of a key, to be changed; what is no map becomes one, and what is missing comes into being.
    pub fn entry(&mut self, key: &str) -> &mut Yaml {
        if !matches!(self, Self::Map(_)) {
            *self = Self::Map(Vec::new());
        }
        let Self::Map(map) = self else { unreachable!("it is one now") };
        let at = map.iter().position(|(held, _)| held == key).unwrap_or_else(|| {
            map.push((key.to_owned(), Self::Null));
            map.len() - 1
        });
        &mut map[at].1
    }

    /// Sets a key.
    pub fn set(&mut self, key: &str, value: Yaml) {
        *self.entry(key) = value;
    }

    /// The items of a list; none if it is something else.
    #[must_use]
    pub fn items(&self) -> &[Yaml] {
        if let Self::List(items) = self { items } else { &[] }
    }

    /// The items of a list, to be changed; what is none becomes one.
    pub fn items_mut(&mut self) -> &mut Vec<Yaml> {
        if !matches!(self, Self::List(_)) {
            *self = Self::List(Vec::new());
        }
        let Self::List(items) = self else { unreachable!("it is one now") };
        items
    }

    /// As JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        use serde_json::Value;
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Number(text) => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone())),
            Self::Text(text) => Value::String(text.clone()),
            Self::List(items) => items.iter().map(Self::json).collect(),
            Self::Map(map) => map.iter().map(|(key, value)| (key.clone(), value.json())).collect(),
        }
    }

    /// As a document.
    #[must_use]
    pub fn print(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, 0, false);
        out
    }

    /// `behind`: something stands on the line already.
    fn write(&self, out: &mut String, depth: usize, behind: bool) {
        let pad = "  ".repeat(depth);
        match self {
            Self::List(items) if !items.is_empty() => {
                line_end(out, behind);
                for item in items {
                    out.push_str(&pad);
                    out.push('-');
                    match item {
                        // The first key stands behind the dash.
                        Self::Map(map) if !map.is_empty() => {
                            let mut inner = String::new();
                            item.write(&mut inner, depth + 1, false);
                            out.push(' ');
                            out.push_str(&inner[(depth + 1) * 2..]);
                        }
                        other => other.write(out, depth + 1, true),
                    }
                }
            }
            Self::Map(map) if !map.is_empty() => {
                line_end(out, behind);
                for (key, value) in map {
                    out.push_str(&pad);
                    out.push_str(&scalar(key));
                    out.push(':');
                    // Kubernetes' own style: a list is no deeper than its key.
                    let deeper = usize::from(!matches!(value, Self::List(_)));
                    value.write(out, depth + deeper, true);
                }
            }
            Self::Text(text) if text.contains('\n') && is_block(text) => {
                out.push_str(if text.ends_with('\n') { " |\n" } else { " |-\n" });
                for line in text.trim_end_matches('\n').split('\n') {
                    if !line.is_empty() {
                        out.push_str(&pad);
                        out.push_str(line);
                    }
                    out.push('\n');
                }
            }
            flat => {
                out.push(' ');
                out.push_str(&flat.flat());
                out.push('\n');
            }
        }
    }

    fn flat(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Number(text) => text.clone(),
            Self::Text(text) => scalar(text),
            Self::List(_) => "[]".to_owned(),
            Self::Map(_) => "{}".to_owned(),
        }
    }
}

fn line_end(out: &mut String, behind: bool) {
    if behind {
        out.push('\n');
    }
}

/// Whether a text of several lines can stand as it is.
fn is_block(text: &str) -> bool {
    !text.starts_with([' ', '\n']) && !text.ends_with("\n\n") && text.chars().all(|c| c == '\n' || is_printable(c))
}

/// Text on one line: as it is where nothing else could be meant, else in quotes.
fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let word = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_' || c == '.');
    let reserved = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let is_plain = word
        && text.chars().all(plain)
        && !reserved.contains(&text.to_ascii_lowercase().as_str())
        && !text.starts_with("...")
        // `.5` and `.inf` are numbers.
        && !text.starts_with('.');
    if is_plain { text.to_owned() } else { quoted(text) }
}

/// Whether YAML takes a character as it is.
fn is_printable(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

/// Text in quotes: as in JSON, which leaves more characters as they are than YAML takes.
fn quoted(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if is_printable(c) {
            out.push(c);
        } else {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_as_it_was() {
        let text = "a: 1\nb: {c: [x, {d: e, f: [1, 2]}, [], {}], \"true\": \"true\", yes: 'no', ~: ~}\n\
                    t: |\n  two\n  lines\nu: |-\n  two\n\n   lines\nv: \"#x: y\"\nw: \" \\n\"\nx: \"0644\"\ny: [[1], [[2]]]\nz: \"\"\n";
        let read = Yaml::parse("t", text).expect("YAML");
        let printed = read.print();
        assert_eq!(Yaml::parse("p", &printed).as_ref(), Ok(&read), "{printed}");
        assert!(printed.contains("t: |\n  two\n  lines\nu: |-\n  two\n\n   lines\n"), "{printed}");
        assert!(printed.contains("  c:\n  - x\n  - d: e\n    f:\n    - 1\n    - 2\n  - []\n"), "{printed}");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_kept(text in "(?s).{0,40}", key in "[ -~]{1,12}") {
            let made = Yaml::Map(vec![(key, Yaml::List(vec![Yaml::Text(text.clone()), Yaml::Map(vec![("k".into(), Yaml::Text(text))])]))]);
            proptest::prop_assert_eq!(Yaml::parse("p", &made.print()), Ok(made.clone()), "{}", made.print());
        }
    }
}
