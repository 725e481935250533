//! Configuration files: bootstraps, and secrets that files deliver.
//!
//! Owns the way from a path to validated configuration, and that every problem names its file, line and column. Reading, Envoy's
//! JSON mapping, and the table of what weft supports are `weft_proto`'s; what values mean is `from_xds`'s. There is no second
//! loader: what a management server sends is converted by the same code.
//!
//! Runs on: the control thread, at start and when a file of secrets is replaced.

use std::path::Path;

use prost::{Message as _, Name as _};
use weft_proto::any::unpack;
use weft_proto::convert::convert;
use weft_proto::document::{Data, Document, Entry, Format, Node as DocumentNode};
use weft_proto::load::{self, Options, Source};
use weft_proto::pb::envoy::config::bootstrap::v3::Bootstrap as PbBootstrap;
use weft_proto::pb::envoy::extensions::transport_sockets::tls::v3::Secret as PbSecret;
use weft_proto::pb::envoy::service::discovery::v3::{DiscoveryResponse, Resource};
use weft_proto::pb::google::protobuf::Any;
use weft_proto::problem::{Problem, Problems, Severity};
use weft_proto::schema::MessageType;
use weft_proto::spans::SpanTree;

use super::from_xds::{self, Environment, NodeOverrides};
use super::pending;
use super::{Bootstrap, ConfigError, Secret};

/// What the command line says about loading.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// `--service-node`, `--service-cluster`, `--service-zone`.
    pub node: NodeOverrides,
    /// `--allow-unknown-static-fields`: what is unknown or not supported is a warning.
    pub allow_unknown_fields: bool,
}

/// A bootstrap that was accepted.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub bootstrap: Bootstrap,
    /// What has no effect, or is likely not what was meant.
    pub warnings: Vec<Problem>,
}

/// Why no configuration was loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Neither a file nor a text was given.
    #[error("at least one of --config-path or --config-yaml should be non-empty")]
    Nothing,
    /// Problems, one a line: `file:line:column: field path: reason`.
    #[error(transparent)]
    Refused(#[from] Problems),
}

/// Loads a bootstrap from a file (`--config-path`), a YAML text that is merged over it (`--config-yaml`), or either alone.
///
/// # Errors
/// Every problem found. Where a document is malformed or breaks the API's own rules, only these are named: what its values
/// mean is looked at once they are sound.
pub fn load(path: Option<&Path>, overlay: Option<&str>, options: &LoadOptions) -> Result<Loaded, LoadError> {
    load_over(None, path, overlay, options)
}

/// The same, merged over a bootstrap of the program's own, as JSON.
///
/// # Errors
/// As those of [`load()`].
pub fn load_over(
    base: Option<&str>,
    path: Option<&Path>,
    overlay: Option<&str>,
    options: &LoadOptions,
) -> Result<Loaded, LoadError> {
    let mut sources = Vec::new();
    if let Some(text) = base {
        sources.push(Source::text("the role's bootstrap", text, Format::Json));
    }
    if let Some(path) = path {
        sources.push(Source::file(path)?);
    }
    if let Some(text) = overlay {
        sources.push(Source::text("--config-yaml", text, Format::Yaml));
    }
    if sources.is_empty() {
        return Err(LoadError::Nothing);
    }
    // Unknown and unsupported fields come as warnings here: whether they count is known after the conversion, which may have
    // left them out on purpose.
    let loaded = match load::load::<PbBootstrap>(&sources, Options { allow_unknown: true }) {
        Ok(loaded) => loaded,
        Err(invalid) => {
            let strict = Options { allow_unknown: options.allow_unknown_fields };
            return Err(load::load::<PbBootstrap>(&sources, strict).err().unwrap_or(invalid).into());
        }
    };
    let converted = from_xds::bootstrap(&loaded.message, &options.node);
    let (errors, skipped) = match &converted {
        Ok(converted) => (&[][..], &converted.skipped),
        Err(rejected) => (&rejected.errors[..], &rejected.skipped),
    };
    let (mut refused, mut warnings): (Vec<_>, Vec<_>) = loaded
        .warnings
        .into_iter()
        .filter(|p| p.severity == Severity::Warning || !within(&p.path, skipped))
        .partition(|p| p.severity > Severity::Warning && !options.allow_unknown_fields);
    refused.extend(placed(errors, Severity::Invalid, &loaded.spans));
    let inert = converted.as_ref().map_or_else(|_| Vec::new(), |c| pending::check(&c.value));
    let severity = if options.allow_unknown_fields { Severity::Warning } else { Severity::Unsupported };
    let inert = placed(&inert, severity, &loaded.spans);
    if options.allow_unknown_fields {
        warnings.extend(inert)
    } else {
        refused.extend(inert)
    }
    match converted {
        Ok(converted) if refused.is_empty() => {
            warnings.extend(placed(&converted.warnings, Severity::Warning, &loaded.spans));
            sort(&mut warnings);
            Ok(Loaded { bootstrap: converted.value, warnings })
        }
        _ => Err(in_order(refused).into()),
    }
}

/// Whether a field is one of these, or below one.
pub(crate) fn within(path: &str, places: &[String]) -> bool {
    let below = |rest: &str| rest.is_empty() || rest.starts_with(['.', '[']);
    places.iter().any(|place| path.strip_prefix(place.as_str()).is_some_and(below))
}

/// Where the problems of a conversion are in the documents.
fn placed(errors: &[ConfigError], severity: Severity, spans: &SpanTree) -> Vec<Problem> {
    let place = |e: &ConfigError| {
        let mut problem = Problem::new(severity, e.field_path.clone(), e.reason.clone());
        spans.place(&mut problem);
        problem
    };
    errors.iter().map(place).collect()
}

/// As a reader of the documents meets them.
fn sort(problems: &mut [Problem]) {
    problems.sort_by(|a, b| (&a.source, a.at, &a.path).cmp(&(&b.source, b.at, &b.path)));
}

/// Sorted, and nothing twice: an unsupported field may be refused by its meaning as well.
fn in_order(mut problems: Vec<Problem>) -> Problems {
    sort(&mut problems);
    problems.dedup_by(|a, b| a.path == b.path && a.source == b.source);
    Problems(problems)
}

/// Loads the secrets of a file: a `DiscoveryResponse`, or the bare list of its resources.
///
/// # Errors
/// All problems in one error, whose resource is the file.
pub fn load_secrets(path: &Path) -> Result<Vec<Secret>, ConfigError> {
    secrets(path).map_err(|problems| ConfigError {
        resource: path.display().to_string(),
        field_path: String::new(),
        reason: problems.to_string().replace('\n', "; "),
    })
}

fn secrets(path: &Path) -> Result<Vec<Secret>, Problems> {
    let (response, spans) = discovery_response(path)?;
    let (mut secrets, mut refused) = (Vec::new(), Vec::new());
    for (i, any) in response.resources.iter().enumerate() {
        // A resource may come in a wrapper that names it.
        let wrapped = unpack::<Resource>(any).ok().and_then(|r| r.resource);
        let (any, within) = wrapped.as_ref().map_or((any, ""), |inner| (inner, "resource"));
        match resource(any) {
            Ok(secret) => secrets.push(secret),
            Err(problems) => refused.extend(problems.into_iter().map(|mut p| {
                p.path = join(&[&format!("resources[{i}]"), within, &p.path]);
                spans.place(&mut p);
                p
            })),
        }
    }
    if refused.is_empty() { Ok(secrets) } else { Err(in_order(refused)) }
}

/// A secret; problems have paths within it.
fn resource(any: &Any) -> Result<Secret, Vec<Problem>> {
    let invalid = |path: String, reason: String| Problem::new(Severity::Invalid, path, reason);
    let secret = unpack::<PbSecret>(any).map_err(|e| vec![invalid(String::new(), e.to_string())])?;
    let mut problems = load::check_resource(any);
    problems.retain(|p| p.severity > Severity::Warning);
    match from_xds::secret(&secret, &Environment::default()) {
        Ok(converted) if problems.is_empty() => return Ok(converted.value),
        Ok(_) => {}
        Err(rejected) => problems.extend(rejected.errors.into_iter().map(|e| invalid(e.field_path, e.reason))),
    }
    Err(problems)
}

/// Reads the resources of a file: a `DiscoveryResponse`, or the bare list of its resources.
///
/// # Errors
/// Every problem, each with its place.
pub fn resources(path: &Path) -> Result<DiscoveryResponse, Problems> {
    discovery_response(path).map(|(response, _)| response)
}

/// Reads a `DiscoveryResponse`. A list is taken for its `resources`.
fn discovery_response(path: &Path) -> Result<(DiscoveryResponse, SpanTree), Problems> {
    let format = Format::of_path(path)?;
    if format == Format::Binary {
        let loaded = load::load::<DiscoveryResponse>(&[Source::file(path)?], Options::default())?;
        return Ok((loaded.message, loaded.spans));
    }
    let name = path.to_string_lossy();
    let invalid = |reason: String| Problem::new(Severity::Invalid, "", reason);
    let in_file = |problem: Problem| Problem { source: Some((&*name).into()), ..problem };
    let text = std::fs::read_to_string(path).map_err(|e| in_file(invalid(format!("cannot be read: {e}"))))?;
    let mut document = Document::parse(&name, &text, format)?;
    if let Data::List(_) = document.root.data {
        let at = document.root.at;
        let list = std::mem::replace(&mut document.root, DocumentNode { at, data: Data::Null });
        document.root.data = Data::Map(vec![Entry { at, key: "resources".into(), value: list }]);
    }
    let ty = MessageType::find(&DiscoveryResponse::full_name()).ok_or_else(|| invalid("no schema".to_owned()))?;
    let converted = convert(&document, ty);
    let mut problems = converted.problems;
    problems.retain(|problem| problem.severity > Severity::Warning);
    if !problems.is_empty() {
        return Err(in_order(problems));
    }
    let message = DiscoveryResponse::decode(converted.message.encode().as_slice());
    Ok((message.map_err(|e| in_file(invalid(e.to_string())))?, converted.spans))
}

fn join(segments: &[&str]) -> String {
    segments.iter().filter(|s| !s.is_empty()).copied().collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests;
