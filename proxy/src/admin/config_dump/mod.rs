//! `/config_dump`: the configuration as it was given, secrets redacted.

mod mask;
mod redact;
mod render;

use std::time::SystemTime;

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Map, Value, json};

use self::mask::Mask;
use super::body::{Params, Reply};
use super::sources::Sources;

/// Everything there is to dump. **Source**: `envoy.admin.v3.ConfigDump`.
#[derive(Debug, Clone, Default)]
pub struct ConfigDump {
    /// The encoded `envoy.config.bootstrap.v3.Bootstrap`.
    pub bootstrap: Bytes,
    /// When it was loaded.
    pub bootstrap_updated: Option<SystemTime>,
    /// Version of the last accepted cluster discovery; empty: none.
    pub clusters_version: String,
    /// Version of the last accepted listener discovery; empty: none.
    pub listeners_version: String,
    /// Clusters of the bootstrap.
    pub static_clusters: Vec<DumpedResource>,
    /// Discovered clusters in use.
    pub dynamic_active_clusters: Vec<DumpedResource>,
    /// Discovered clusters that are not ready.
    pub dynamic_warming_clusters: Vec<DumpedResource>,
    /// Discovered configurations of filters; absent: none was ever wanted.
    pub ecds_filters: Option<Vec<DumpedResource>>,
    /// Listeners of the bootstrap.
    pub static_listeners: Vec<DumpedResource>,
    /// Discovered listeners.
    pub dynamic_listeners: Vec<DumpedListener>,
    /// Route configurations within listeners.
    pub static_route_configs: Vec<DumpedResource>,
    /// Discovered route configurations.
    pub dynamic_route_configs: Vec<DumpedResource>,
    /// Secrets of the bootstrap.
    pub static_secrets: Vec<DumpedResource>,
    /// Discovered secrets in use.
    pub dynamic_active_secrets: Vec<DumpedResource>,
    /// Secrets asked for and not here yet.
    pub dynamic_warming_secrets: Vec<DumpedResource>,
    /// Endpoints of clusters that are configured with them (`include_eds`).
    pub static_endpoint_configs: Vec<DumpedResource>,
    /// Discovered endpoints (`include_eds`).
    pub dynamic_endpoint_configs: Vec<DumpedResource>,
}

/// One resource.
#[derive(Debug, Clone, Default)]
pub struct DumpedResource {
    /// Name, for `name_regex`.
    pub name: String,
    /// Type URL, with `type.googleapis.com/`.
    pub type_url: &'static str,
    /// The encoded resource.
    pub encoded: Bytes,
    /// Version as the control plane gave it; empty: static.
    pub version_info: String,
    /// When it was accepted.
    pub last_updated: Option<SystemTime>,
    /// The last update, if it was refused.
    pub error: Option<UpdateFailure>,
    /// When the cache was written that this came from, while no management server has answered since.
    pub cached: Option<SystemTime>,
    /// Paths of fields that were not understood and are not acted on.
    pub ignored_fields: Vec<String>,
}

/// An update that was refused. **Source**: `envoy.admin.v3.UpdateFailureState`.
#[derive(Debug, Clone)]
pub struct UpdateFailure {
    /// When.
    pub last_update_attempt: SystemTime,
    /// Why.
    pub details: String,
    /// The version refused.
    pub version_info: String,
}

/// A discovered listener, in each state it is in.
#[derive(Debug, Clone, Default)]
pub struct DumpedListener {
    /// Name.
    pub name: String,
    /// Serving.
    pub active: Option<DumpedResource>,
    /// Not ready yet.
    pub warming: Option<DumpedResource>,
    /// Replaced or removed, and finishing its connections.
    pub draining: Option<DumpedResource>,
    /// The last update, if it was refused.
    pub error: Option<UpdateFailure>,
}

/// One message of the dump: its type below `envoy.admin.v3.`, its fields that are no lists, and its lists.
struct Section {
    message: &'static str,
    fields: &'static [&'static str],
    /// Field, type of its elements, elements.
    lists: Vec<(&'static str, &'static str, Vec<Value>)>,
    values: Map<String, Value>,
}

pub(super) fn config_dump(sources: &Sources, params: &Params) -> Reply {
    let bad = |status, text: String| Reply::new(status, "text/plain", text);
    let names = match params.non_empty("name_regex").map(|regex| regex::Regex::new(&format!("^(?:{regex})$"))) {
        None => None,
        Some(Ok(regex)) => Some(regex),
        Some(Err(error)) => {
            let pattern = params.get("name_regex").unwrap_or_default();
            let text = format!("INVALID_ARGUMENT: Error while parsing name_regex from {pattern}: {error}");
            return bad(StatusCode::BAD_REQUEST, text);
        }
    };
    let dump = (sources.config)();
    let sections = render::sections(&dump, &*sources.to_json, names.as_ref(), params.has("include_eds"));
    let mask = params.non_empty("mask");
    let configs = match params.non_empty("resource") {
        Some(resource) => one_list(sections, resource, mask),
        None => all(sections, mask),
    };
    match configs {
        Ok(configs) if configs.is_empty() => Reply::json(&json!({})),
        Ok(configs) => Reply::json(&json!({ "configs": configs })),
        Err((status, text)) => bad(status, text),
    }
}

type Refusal = (StatusCode, String);

/// Every section, cut down to the mask; sections it does not fit are left out.
fn all(sections: Vec<Section>, mask: Option<&str>) -> Result<Vec<Value>, Refusal> {
    let Some(text) = mask else { return Ok(sections.into_iter().map(Section::into_json).collect()) };
    let mask = Mask::new(text);
    let fits = |section: &Section| {
        mask.first_segments().all(|(name, last)| {
            // A list can only be taken as a whole.
            section.fields.contains(&name) || (last && section.lists.iter().any(|(list, ..)| *list == name))
        })
    };
    let fitting: Vec<Section> = sections.into_iter().filter(fits).collect();
    if fitting.is_empty() {
        let text = format!("FieldMask {text} could not be successfully applied to any configs.");
        return Err((StatusCode::BAD_REQUEST, text));
    }
    let masked = fitting.into_iter().map(Section::into_json).map(|mut config| mask.apply(&mut config).map(|()| config));
    let unusable =
        |_| (StatusCode::BAD_REQUEST, format!("FieldMask {text} could not be successfully applied to any configs."));
    masked.collect::<Result<_, _>>().map_err(unusable)
}

/// The elements of one list, each cut down to the mask.
fn one_list(sections: Vec<Section>, resource: &str, mask: Option<&str>) -> Result<Vec<Value>, Refusal> {
    for section in sections {
        if section.fields.contains(&resource) {
            let text = format!("{resource} is not a repeated field. Use ?mask={resource} to get only this field\n");
            return Err((StatusCode::BAD_REQUEST, text));
        }
        let Section { message, lists, .. } = section;
        let Some((_, element, items)) = lists.into_iter().find(|(list, ..)| *list == resource) else { continue };
        let type_url = format!("type.googleapis.com/envoy.admin.v3.{message}.{element}");
        return items.into_iter().map(|item| element_json(item, &type_url, mask)).collect();
    }
    Err((StatusCode::NOT_FOUND, format!("{resource} not found in config dump\n")))
}

fn element_json(mut item: Value, type_url: &str, mask: Option<&str>) -> Result<Value, Refusal> {
    if let Some(text) = mask {
        let unusable = |()| (StatusCode::BAD_REQUEST, format!("FieldMask {text} could not be successfully used.\n"));
        Mask::new(text).apply(&mut item).map_err(unusable)?;
    }
    let mut fields = Map::from_iter([("@type".to_owned(), json!(type_url))]);
    if let Value::Object(item) = item {
        fields.extend(item);
    }
    Ok(Value::Object(fields))
}

impl Section {
    fn into_json(self) -> Value {
        let mut fields = self.values;
        fields.insert("@type".to_owned(), json!(format!("type.googleapis.com/envoy.admin.v3.{}", self.message)));
        let lists = self.lists.into_iter().filter(|(_, _, items)| !items.is_empty());
        fields.extend(lists.map(|(list, _, items)| (list.to_owned(), Value::Array(items))));
        Value::Object(fields)
    }
}

#[cfg(test)]
mod tests;
