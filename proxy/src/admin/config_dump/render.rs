//! Turning what is dumped into the messages of `envoy.admin.v3`.

use serde_json::{Map, Value, json};

use super::redact::redact;
use super::{ConfigDump, DumpedListener, DumpedResource, Section, UpdateFailure};
use crate::admin::body::timestamp;
use crate::admin::sources::ToJson;

const BOOTSTRAP: &str = "type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap";

/// What is wanted of the dump.
struct Render<'a> {
    to_json: &'a ToJson,
    names: Option<&'a regex::Regex>,
}

/// The messages of the dump, in Envoy's order.
pub(super) fn sections(
    dump: &ConfigDump,
    to_json: &ToJson,
    names: Option<&regex::Regex>,
    include_eds: bool,
) -> Vec<Section> {
    let render = Render { to_json, names };
    let mut sections = vec![render.bootstrap(dump), render.clusters(dump)];
    sections.extend(render.filters(dump));
    if include_eds {
        sections.push(render.endpoints(dump));
    }
    sections.extend([render.listeners(dump), render.routes(dump), render.secrets(dump)]);
    sections
}

impl Render<'_> {
    fn bootstrap(&self, dump: &ConfigDump) -> Section {
        let bootstrap = match (self.to_json)(BOOTSTRAP, &dump.bootstrap) {
            Ok(mut bootstrap) => {
                redact(&mut bootstrap);
                without_type(bootstrap)
            }
            Err(error) => json!({ "error": error }),
        };
        let mut values = Map::from_iter([("bootstrap".to_owned(), bootstrap)]);
        if let Some(time) = dump.bootstrap_updated {
            values.insert("last_updated".to_owned(), json!(timestamp(time)));
        }
        Section { message: "BootstrapConfigDump", fields: &["bootstrap", "last_updated"], lists: Vec::new(), values }
    }

    fn clusters(&self, dump: &ConfigDump) -> Section {
        let list = |resources: &[DumpedResource]| self.list(resources, "cluster", false);
        Section {
            message: "ClustersConfigDump",
            fields: &["version_info"],
            lists: vec![
                ("static_clusters", "StaticCluster", list(&dump.static_clusters)),
                ("dynamic_active_clusters", "DynamicCluster", list(&dump.dynamic_active_clusters)),
                ("dynamic_warming_clusters", "DynamicCluster", list(&dump.dynamic_warming_clusters)),
            ],
            values: version(&dump.clusters_version),
        }
    }

    fn filters(&self, dump: &ConfigDump) -> Option<Section> {
        let filters = dump.ecds_filters.as_ref()?;
        Some(Section {
            message: "EcdsConfigDump",
            fields: &[],
            lists: vec![("ecds_filters", "EcdsFilterConfig", self.list(filters, "ecds_filter", false))],
            values: Map::new(),
        })
    }

    fn endpoints(&self, dump: &ConfigDump) -> Section {
        let list = |resources: &[DumpedResource]| self.list(resources, "endpoint_config", false);
        Section {
            message: "EndpointsConfigDump",
            fields: &[],
            lists: vec![
                ("static_endpoint_configs", "StaticEndpointConfig", list(&dump.static_endpoint_configs)),
                ("dynamic_endpoint_configs", "DynamicEndpointConfig", list(&dump.dynamic_endpoint_configs)),
            ],
            values: Map::new(),
        }
    }

    fn listeners(&self, dump: &ConfigDump) -> Section {
        let dynamic = dump.dynamic_listeners.iter().filter(|listener| self.wants(&listener.name));
        let dynamic = dynamic.map(|listener| self.listener(listener)).collect();
        Section {
            message: "ListenersConfigDump",
            fields: &["version_info"],
            lists: vec![
                ("static_listeners", "StaticListener", self.list(&dump.static_listeners, "listener", false)),
                ("dynamic_listeners", "DynamicListener", dynamic),
            ],
            values: version(&dump.listeners_version),
        }
    }

    fn routes(&self, dump: &ConfigDump) -> Section {
        let list = |resources: &[DumpedResource]| self.list(resources, "route_config", false);
        Section {
            message: "RoutesConfigDump",
            fields: &[],
            lists: vec![
                ("static_route_configs", "StaticRouteConfig", list(&dump.static_route_configs)),
                ("dynamic_route_configs", "DynamicRouteConfig", list(&dump.dynamic_route_configs)),
            ],
            values: Map::new(),
        }
    }

    fn secrets(&self, dump: &ConfigDump) -> Section {
        let list = |resources: &[DumpedResource]| self.list(resources, "secret", true);
        Section {
            message: "SecretsConfigDump",
            fields: &[],
            lists: vec![
                ("static_secrets", "StaticSecret", list(&dump.static_secrets)),
                ("dynamic_active_secrets", "DynamicSecret", list(&dump.dynamic_active_secrets)),
                ("dynamic_warming_secrets", "DynamicSecret", list(&dump.dynamic_warming_secrets)),
            ],
            values: Map::new(),
        }
    }

    fn wants(&self, name: &str) -> bool {
        self.names.is_none_or(|names| names.is_match(name))
    }

    /// Resources under the field that holds them; `named`: with their names beside them.
    fn list(&self, resources: &[DumpedResource], field: &str, named: bool) -> Vec<Value> {
        let wanted = resources.iter().filter(|resource| self.wants(&resource.name));
        let one = |resource| {
            let mut fields = self.resource(resource, field);
            if named {
                fields.insert("name".to_owned(), json!(resource.name));
            }
            Value::Object(fields)
        };
        wanted.map(one).collect()
    }

    fn resource(&self, resource: &DumpedResource, field: &str) -> Map<String, Value> {
        let mut fields = version(&resource.version_info);
        if !resource.encoded.is_empty() {
            let message = match (self.to_json)(resource.type_url, &resource.encoded) {
                Ok(mut message) => {
                    redact(&mut message);
                    with_type(message, resource.type_url)
                }
                Err(error) => json!({ "@type": resource.type_url, "error": error }),
            };
            fields.insert(field.to_owned(), message);
        }
        if let Some(time) = resource.last_updated {
            fields.insert("last_updated".to_owned(), json!(timestamp(time)));
        }
        if let Some(error) = &resource.error {
            fields.insert("error_state".to_owned(), failure(error));
        }
        if let Some(saved) = resource.cached {
            // Not Envoy's, which keeps nothing.
            let age = saved.elapsed().unwrap_or_default().as_secs();
            fields.insert("weft_cached".to_owned(), json!({ "saved": timestamp(saved), "age": format!("{age}s") }));
        }
        if !resource.ignored_fields.is_empty() {
            // Not Envoy's: it says nowhere what it does not act on.
            fields.insert("weft_ignored_fields".to_owned(), json!(resource.ignored_fields));
        }
        fields
    }

    fn listener(&self, listener: &DumpedListener) -> Value {
        let mut fields = Map::from_iter([("name".to_owned(), json!(listener.name))]);
        let states = [
            ("active_state", &listener.active),
            ("warming_state", &listener.warming),
            ("draining_state", &listener.draining),
        ];
        for (state, resource) in states {
            if let Some(resource) = resource {
                fields.insert(state.to_owned(), Value::Object(self.resource(resource, "listener")));
            }
        }
        if let Some(error) = &listener.error {
            fields.insert("error_state".to_owned(), failure(error));
        }
        Value::Object(fields)
    }
}

fn version(version: &str) -> Map<String, Value> {
    let version = (!version.is_empty()).then(|| ("version_info".to_owned(), json!(version)));
    version.into_iter().collect()
}

fn failure(error: &UpdateFailure) -> Value {
    json!({
        "last_update_attempt": timestamp(error.last_update_attempt),
        "details": error.details,
        "version_info": error.version_info,
    })
}

fn with_type(mut message: Value, type_url: &str) -> Value {
    if let Value::Object(fields) = &mut message {
        fields.insert("@type".to_owned(), json!(type_url));
    }
    message
}

fn without_type(mut message: Value) -> Value {
    if let Value::Object(fields) = &mut message {
        fields.remove("@type");
    }
    message
}
