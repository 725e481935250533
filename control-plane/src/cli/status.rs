//! `weft status`.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::Value as Json;

use super::object::ObjectName;
use super::output::{self, Format, Table};
use super::{Server, client};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft status                            every object that something is wrong with
  weft status --all                      every object
  weft status virtualservice/reviews     one object")]
pub(super) struct Options {
    /// Only this object: KIND/NAME or KIND/NAME.NAMESPACE
    object: Option<String>,
    /// The namespace of the object; then dots are part of its name
    #[arg(short, long, requires = "object")]
    namespace: Option<String>,
    /// Objects that nothing is wrong with, too
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    server: Server,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) async fn run(options: &Options) -> Result<String> {
    let wanted = options.object.as_deref().map(|text| ObjectName::parse(text, options.namespace.as_deref()));
    let wanted = wanted.transpose()?.map(|name| name.to_string());
    let all = client::get(&options.server.control_plane, "/debug/configz").await?;
    let shown = |object: &&Json| match &wanted {
        Some(wanted) => object["object"].as_str() == Some(wanted),
        None => options.all || is_bad(object),
    };
    let found: Vec<Json> = all.as_array().into_iter().flatten().filter(shown).cloned().collect();
    if let (Some(wanted), true) = (&wanted, found.is_empty()) {
        bail!("{wanted} is not there; weft status --all shows what is");
    }
    Ok(output::print(options.output, &Json::Array(found.clone()), || table(&found)))
}

fn list<'j>(object: &'j Json, field: &str) -> &'j [Json] {
    object[field].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn is_bad(object: &Json) -> bool {
    !list(object, "problems").is_empty() || !list(object, "refusedBy").is_empty()
}

/// A row for each object, and under the table what is wrong.
pub(super) fn table(objects: &[Json]) -> String {
    if objects.is_empty() {
        return "nothing is wrong with any object".to_owned();
    }
    let mut table = Table::new(&["OBJECT", "WRITTEN AT", "PROBLEMS", "REFUSED BY"]);
    let mut details = String::new();
    for object in objects {
        let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
        let (problems, refusals) = (list(object, "problems"), list(object, "refusedBy"));
        table.row([text("object"), text("at"), problems.len().to_string(), refusals.len().to_string()]);
        for problem in problems.iter().filter_map(Json::as_str) {
            details += &format!("\n{problem}");
        }
        details += &reasons(&text("object"), refusals);
    }
    if !details.is_empty() {
        details.push('\n');
    }
    table.render() + &details
}

/// Each reason once, with the first proxy that gave it and how many more did.
fn reasons(object: &str, refusals: &[Json]) -> String {
    let mut by_reason: BTreeMap<(&str, &str), Vec<&Json>> = BTreeMap::new();
    for refusal in refusals {
        let text = |field: &str| refusal[field].as_str().unwrap_or_default();
        by_reason.entry((text("type"), text("reason"))).or_default().push(refusal);
    }
    let line = |((ty, reason), by): (&(&str, &str), &Vec<&Json>)| {
        let text = |field: &str| by.first().and_then(|first| first[field].as_str()).unwrap_or_default();
        let others = if by.len() > 1 { format!(" and {} others", by.len() - 1) } else { String::new() };
        format!("\n{object}: {}{others} refused {ty} at {}: {reason}", text("proxy"), text("at"))
    };
    by_reason.iter().map(line).collect()
}
