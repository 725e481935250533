//! Configuration files to wire types: read, convert, merge, check.
//!
//! Owns the order of these steps and which problems refuse a configuration. Must not know: what a configuration means.

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use tests::SAMPLE;

use std::collections::HashSet;
use std::path::Path;

use prost::Name;

use crate::convert::{Converted, convert};
use crate::document::{Document, Format, MAX_BYTES};
use crate::message::Message;
use crate::pb::google::protobuf::Any;
use crate::problem::{Position, Problem, Problems, Severity};
use crate::schema::{MessageType, type_url_name};
use crate::spans::{Span, SpanTree};
use crate::{coverage, rules};

/// One text or file that a configuration is made of.
#[derive(Debug, Clone)]
pub struct Source {
    name: String,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Text(String, Format),
    Binary(Vec<u8>),
}

/// What may pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Envoy's `--allow-unknown-static-fields`: what is unknown or unsupported is a warning and has no effect.
    pub allow_unknown: bool,
}

/// A configuration that was accepted.
#[derive(Debug)]
pub struct Loaded<M> {
    /// The configuration.
    pub message: M,
    /// Where each of its fields was written, for problems found later.
    pub spans: SpanTree,
    /// What was accepted, but has no effect or is likely a mistake.
    pub warnings: Vec<Problem>,
}

impl Source {
    /// A text; `name` is what to call it in messages.
    pub fn text(name: impl Into<String>, text: impl Into<String>, format: Format) -> Self {
        Self { name: name.into(), content: Content::Text(text.into(), format) }
    }

    /// Reads a file, whose name tells its format.
    ///
    /// # Errors
    /// A file that cannot be read, is too large, is not UTF-8, or is of a format that is not supported.
    pub fn file(path: &Path) -> Result<Self, Problems> {
        let name = path.to_string_lossy().into_owned();
        let refused = |reason: String| Problem {
            source: Some(name.as_str().into()),
            ..Problem::new(Severity::Invalid, "", reason)
        };
        let format = Format::of_path(path)?;
        let bytes = read(path).map_err(|e| refused(format!("cannot be read: {e}")))?;
        if bytes.len() > MAX_BYTES {
            return Err(refused(format!("the file is larger than {MAX_BYTES} bytes")).into());
        }
        let content = if format == Format::Binary {
            Content::Binary(bytes)
        } else {
            Content::Text(String::from_utf8(bytes).map_err(|_| refused("is not UTF-8".to_owned()))?, format)
        };
        Ok(Self { name, content })
    }

    fn read(&self, ty: MessageType) -> Result<Converted, Problem> {
        match &self.content {
            Content::Text(text, format) => Document::parse(&self.name, text, *format).map(|d| convert(&d, ty)),
            Content::Binary(bytes) => {
                let message = Message::decode(ty, bytes).map_err(|e| Problem {
                    source: Some(self.name.as_str().into()),
                    ..Problem::new(Severity::Invalid, "", e.to_string())
                })?;
                let spans = SpanTree::new(self.name.as_str().into(), Span::new(Position::default()));
                Ok(Converted { message, spans, problems: Vec::new() })
            }
        }
    }
}

/// Reads no more than one byte past the limit.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Loads a configuration. Several sources are merged in their order, as Envoy merges `--config-yaml` over `--config-path`:
/// scalars are overwritten, messages merged, lists joined.
///
/// # Errors
/// Every problem that is found, in the order of the documents: unless `allow_unknown` is set, that includes all fields that
/// are unknown or not supported.
pub fn load<M>(sources: &[Source], options: Options) -> Result<Loaded<M>, Problems>
where
    M: prost::Message + Name + Default,
{
    let name = M::full_name();
    let unknown = || Problem::new(Severity::Invalid, "", format!("{name} is not in the schema"));
    let ty = MessageType::find(&name).ok_or_else(unknown)?;
    let merged = merge(sources, ty)?;
    let mut problems = merged.problems;
    let mut checks = coverage::check(&merged.message);
    checks.append(&mut rules::check(&merged.message));
    checks.iter_mut().for_each(|problem| merged.spans.place(problem));
    problems.append(&mut checks);
    let warnings = judge(problems, options)?;
    let message = M::decode(merged.message.encode().as_slice());
    let message = message.map_err(|e| Problem::new(Severity::Invalid, "", format!("cannot be decoded: {e}")))?;
    Ok(Loaded { message, spans: merged.spans, warnings })
}

fn merge(sources: &[Source], ty: MessageType) -> Result<Converted, Problems> {
    let mut merged: Option<Converted> = None;
    for source in sources {
        let mut over = source.read(ty)?;
        merged = Some(match merged {
            None => over,
            Some(mut base) => {
                // Decoding two encodings as one is what merging is.
                let mut bytes = base.message.encode();
                bytes.append(&mut over.message.encode());
                base.message = Message::decode(ty, &bytes)
                    .map_err(|e| Problem::new(Severity::Invalid, "", format!("cannot be merged: {e}")))?;
                base.spans.merge(over.spans);
                base.problems.append(&mut over.problems);
                base
            }
        });
    }
    Ok(merged.unwrap_or_else(|| Converted {
        message: Message::new(ty),
        spans: SpanTree::default(),
        problems: Vec::new(),
    }))
}

/// The warnings, or all problems if one of them refuses the configuration.
fn judge(mut problems: Vec<Problem>, options: Options) -> Result<Vec<Problem>, Problems> {
    let mut seen = HashSet::new();
    problems.retain(|problem| seen.insert((problem.path.clone(), problem.reason.clone())));
    problems.sort_by(|a, b| (&a.source, a.at).cmp(&(&b.source, b.at)));
    let refused = |problem: &Problem| match problem.severity {
        Severity::Warning => false,
        Severity::Unsupported | Severity::Unknown => !options.allow_unknown,
        Severity::Invalid => true,
    };
    if problems.iter().any(refused) {
        problems.retain(refused);
        return Err(Problems(problems));
    }
    Ok(problems)
}

/// Checks a message that came over the wire: everything in it that weft does not act on, and every broken rule.
///
/// Problems have paths and no lines. [`Severity::Invalid`] refuses the resource; whether the others do is the caller's
/// decision (`--reject-unknown-dynamic-fields`).
pub fn check_resource(resource: &Any) -> Vec<Problem> {
    let name = type_url_name(&resource.type_url);
    let message = match MessageType::find(name) {
        Some(ty) => {
            Message::decode(ty, &resource.value).map_err(|e| Problem::new(Severity::Invalid, "", e.to_string()))
        }
        None => Err(Problem::new(Severity::Unsupported, "", format!("{name} is not supported by weft"))),
    };
    match message {
        Ok(message) => {
            let mut problems = coverage::check(&message);
            problems.append(&mut rules::check(&message));
            problems
        }
        Err(problem) => vec![problem],
    }
}
