//! `weft diff`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::{Value as Json, json};

use super::output::{self, Format};
use super::translate::of_type;
use super::workloads::Directory;
use crate::resource::{ResourceType, Resources};
use crate::translate::generate;

/// The longest value that is printed whole.
const MAX_VALUE_BYTES: usize = 120;

#[derive(Debug, Args)]
#[command(after_help = "+ is new, - is gone, ~ has changed; below it each field, as `field: before -> after`.")]
pub(super) struct Options {
    /// The directory before
    old: PathBuf,
    /// The directory after
    new: PathBuf,
    /// Only this workload: name.namespace, or name
    #[arg(long, value_name = "WORKLOAD")]
    workload: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) fn run(options: &Options) -> Result<String> {
    let (old, new) = (Directory::read(&options.old)?, Directory::read(&options.new)?);
    let wanted = |name: &str| {
        options.workload.as_deref().is_none_or(|wanted| name == wanted || name.split(['.', ' ']).next() == Some(wanted))
    };
    let names: BTreeSet<&String> = old.proxies.keys().chain(new.proxies.keys()).filter(|name| wanted(name)).collect();
    let mut changes = Vec::new();
    for name in names {
        let of = |directory: &Directory| {
            directory.proxies.get(name).map(|proxy| generate(&directory.world, proxy)).unwrap_or_default()
        };
        changes.extend(differences(&of(&old), &of(&new)).into_iter().map(|mut change| {
            change["proxy"] = Json::from(name.as_str());
            change
        }));
    }
    let json = Json::Array(changes);
    Ok(output::print(options.output, &json, || text(&json)))
}

/// What differs between the resources of a proxy.
fn differences(old: &Resources, new: &Resources) -> Vec<Json> {
    let mut all = Vec::new();
    for ty in ResourceType::ALL {
        let changed = new.get(ty).changed_since(old.get(ty));
        if changed.is_empty() {
            continue;
        }
        let (before, after) = (of_type(old, ty), of_type(new, ty));
        for name in changed.iter() {
            let (was, is) = (before.get(&**name), after.get(&**name));
            let (change, fields) = match (was, is) {
                (None, _) => ("+", Vec::new()),
                (_, None) => ("-", Vec::new()),
                (Some(was), Some(is)) => {
                    let mut fields = Vec::new();
                    compare(was, is, "", &mut fields);
                    ("~", fields)
                }
            };
            all.push(json!({ "type": ty.short_name(), "name": **name, "change": change, "fields": fields }));
        }
    }
    all
}

/// Each field that differs, with its path.
fn compare(was: &Json, is: &Json, path: &str, out: &mut Vec<Json>) {
    match (was, is) {
        (Json::Object(before), Json::Object(after)) => {
            for key in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare(before.get(key).unwrap_or(&Json::Null), after.get(key).unwrap_or(&Json::Null), &below, out);
            }
        }
        (Json::Array(before), Json::Array(after)) => {
            for index in 0..before.len().max(after.len()) {
                let of = |list: &Vec<Json>| list.get(index).cloned().unwrap_or_default();
                compare(&of(before), &of(after), &format!("{path}[{index}]"), out);
            }
        }
        _ if was == is => {}
        _ => out.push(json!({ "field": path, "before": was, "after": is })),
    }
}

fn text(changes: &Json) -> String {
    let changes = changes.as_array().map_or(&[][..], Vec::as_slice);
    if changes.is_empty() {
        return "nothing changes for any proxy".to_owned();
    }
    let mut out = String::new();
    let mut proxy = "";
    let text = |json: &'_ Json| json.as_str().unwrap_or_default().to_owned();
    for change in changes {
        let of = change["proxy"].as_str().unwrap_or_default();
        if of != proxy {
            proxy = of;
            out += &format!("{proxy}\n");
        }
        out += &format!("  {} {} {}\n", text(&change["change"]), text(&change["type"]), text(&change["name"]));
        for field in change["fields"].as_array().into_iter().flatten() {
            out += &format!(
                "      {}: {} -> {}\n",
                text(&field["field"]),
                short(&field["before"]),
                short(&field["after"])
            );
        }
    }
    out
}

fn short(json: &Json) -> String {
    let text = if json.is_null() { "none".to_owned() } else { json.to_string() };
    match text.len() > MAX_VALUE_BYTES {
        true => format!("{}…", &text[..text.floor_char_boundary(MAX_VALUE_BYTES)]),
        false => text,
    }
}
