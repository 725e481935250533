//! What runs for an image: `weft.yaml` beside the YAML, and what is built in.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use weft_proto::document::{Document, Format};
use weft_proto::problem::{Problem, Severity};

use crate::model::read::{Read as _, Reader, record};

/// The file's name.
pub const FILE: &str = "weft.yaml";

/// Which command runs for which image; the first that fits counts.
#[derive(Debug, Clone, Default)]
pub struct Commands(Vec<ImageCommand>);

record! {
    /// `weft.yaml`.
    struct Table {
        /// What runs for images.
        images: Vec<ImageCommand>,
    }
}

record! {
    /// What runs for an image.
    pub struct ImageCommand {
        /// The image's name without registry and tag; `*` stands for anything.
        image: String = "match",
        /// Program and arguments; a program called `weft` is this one.
        command: Vec<String>,
        /// Environment.
        env: BTreeMap<String, String>,
    }
}

/// `BookInfo`'s applications, and two for trying things out.
const BUILT_IN: &[(&str, &[&str])] = &[
    ("examples-bookinfo-productpage-*", &["productpage"]),
    ("examples-bookinfo-details-v1", &["details"]),
    ("examples-bookinfo-details-v2", &["details", "--version", "v2"]),
    ("examples-bookinfo-reviews-v1", &["reviews", "--version", "v1"]),
    ("examples-bookinfo-reviews-v2", &["reviews", "--version", "v2"]),
    ("examples-bookinfo-reviews-v3", &["reviews", "--version", "v3"]),
    ("examples-bookinfo-ratings-v1", &["ratings"]),
    ("examples-bookinfo-ratings-v2", &["ratings", "--version", "v2"]),
    ("examples-bookinfo-mysqldb", &["mysqldb"]),
    ("examples-bookinfo-mongodb", &["mongodb"]),
    ("weft-echo", &["echo"]),
    ("weft-load", &["load"]),
];

impl Commands {
    /// Those of `weft.yaml` in these directories, and the built-in ones after them.
    ///
    /// # Errors
    /// A file that cannot be read or understood.
    pub fn load<'p>(directories: impl IntoIterator<Item = &'p Path>) -> Result<Self> {
        let mut all = Vec::new();
        for directory in directories {
            let path = directory.join(FILE);
            if path.is_file() {
                all.extend(read(&path)?.images);
            }
        }
        let built_in = |(image, command): &(&str, &[&str])| ImageCommand {
            image: (*image).to_owned(),
            command: ["weft", "demo-app"].iter().chain(*command).map(|&word| word.to_owned()).collect(),
            ..ImageCommand::default()
        };
        all.extend(BUILT_IN.iter().map(built_in));
        Ok(Self(all))
    }

    /// What runs for an image.
    #[must_use]
    pub fn of(&self, image: &str) -> Option<&ImageCommand> {
        let name = base(image);
        self.0.iter().find(|of| fits(&of.image, name))
    }
}

fn read(path: &Path) -> Result<Table> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let source: Arc<str> = path.to_string_lossy().into();
    let document = Document::parse(&source, &text, Format::Yaml);
    let document = document.map_err(|problem| anyhow::anyhow!("{problem}"))?;
    let mut reader = Reader::default();
    let table = Table::read(&document.root, &mut reader);
    let problems = reader.into_problems().into_iter().filter(|problem| problem.severity > Severity::Warning);
    let said: Vec<_> =
        problems.map(|problem| Problem { source: Some(source.clone()), ..problem }.to_string()).collect();
    match table {
        Some(table) if said.is_empty() => Ok(table),
        _ => bail!("{}", said.join("\n")),
    }
}

/// An image's name without registry, tag and digest.
#[must_use]
pub fn base(image: &str) -> &str {
    let name = image.rsplit('/').next().unwrap_or(image);
    let name = name.split('@').next().unwrap_or(name);
    name.split(':').next().unwrap_or(name)
}

/// Whether a name fits a pattern in which `*` stands for anything.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == name };
    let Some(rest) = name.strip_prefix(before) else { return false };
    (0..=rest.len()).any(|at| rest.is_char_boundary(at) && fits(after, &rest[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_known_by_its_name() {
        let commands = Commands::load([]).unwrap();
        let of = |image| commands.of(image).map(|of| of.command.join(" "));
        let reviews = of("registry.example.org:5000/release/examples-bookinfo-reviews-v2:1.20.3@sha256:00").unwrap();
        assert_eq!(reviews, "weft demo-app reviews --version v2");
        assert_eq!(of("examples-bookinfo-productpage-v1").unwrap(), "weft demo-app productpage");
        assert_eq!(of("postgres:16"), None);
    }

    #[test]
    fn a_file_comes_before_what_is_built_in_and_a_mistake_in_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "images:\n- {match: weft-*, command: [cat, '-']}\n").unwrap();
        let commands = Commands::load([dir.path()]).unwrap();
        assert_eq!(commands.of("weft-echo:1").unwrap().command, ["cat", "-"]);
        std::fs::write(dir.path().join(FILE), "images:\n- {match: a, comand: [cat]}\n").unwrap();
        let error = format!("{:#}", Commands::load([dir.path()]).unwrap_err());
        assert!(error.contains("weft.yaml") && error.contains("comand"), "{error}");
    }
}
