//! `weft translate`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value as Json};
use weft_proto::to_json::{Options as ToJson, encoded};

use super::output::{self, Format};
use super::workloads::{Directory, as_grpc};
use crate::resource::{ResourceType, Resources};
use crate::translate::generate;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft translate mesh/ reviews-v1-0                      the sidecar of a Deployment's pod
  weft translate mesh/ bookinfo-gateway --type route     the routes of a gateway
  weft translate mesh/ client-0.default --grpc           what a gRPC library gets")]
pub(super) struct Options {
    /// The directory
    dir: PathBuf,
    /// A pod (of a Deployment NAME without pods it is NAME-0) or a Gateway: name.namespace, or name
    workload: String,
    /// As a gRPC library that reads xDS itself
    #[arg(long)]
    grpc: bool,
    /// Only this type: CDS, EDS, LDS, RDS, SDS
    #[arg(long = "type", value_name = "TYPE", value_parser = resource_type)]
    ty: Option<ResourceType>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Json)]
    output: Format,
}

/// `CDS` or `cluster`.
fn resource_type(text: &str) -> Result<ResourceType, String> {
    let names = [
        ("listener", ResourceType::Listener),
        ("route", ResourceType::Route),
        ("cluster", ResourceType::Cluster),
        ("endpoint", ResourceType::Endpoints),
        ("secret", ResourceType::Secret),
    ];
    let long = names.iter().find(|(name, _)| text.eq_ignore_ascii_case(name)).map(|(_, ty)| *ty);
    let short = || ResourceType::ALL.into_iter().find(|ty| text.eq_ignore_ascii_case(ty.short_name()));
    long.or_else(short).ok_or_else(|| "one of listener, route, cluster, endpoint, secret is needed".to_owned())
}

pub(super) fn run(options: &Options) -> Result<String> {
    let directory = Directory::read(&options.dir)?;
    let found = directory.proxy(&options.workload)?;
    let proxy = if options.grpc { as_grpc(found)? } else { found.clone() };
    let resources = generate(&directory.world, &proxy);
    let types = ResourceType::ALL.into_iter().filter(|ty| options.ty.is_none_or(|only| only == *ty));
    let json: Map<_, _> = types.map(|ty| (ty.short_name().to_owned(), of_type(&resources, ty))).collect();
    let json = Json::Object(json);
    Ok(output::print(options.output, &json, || summary(&json)))
}

/// The resources of a type by name. Secrets are redacted.
pub(super) fn of_type(resources: &Resources, ty: ResourceType) -> Json {
    let resource = |of: &std::sync::Arc<crate::resource::Resource>| {
        let json = encoded(ty.type_url(), &of.message(), ToJson::default());
        (of.name().to_string(), json.unwrap_or_else(|error| Json::from(error.to_string())))
    };
    Json::Object(resources.get(ty).iter().map(resource).collect())
}

fn summary(json: &Json) -> String {
    let mut table = output::Table::new(&["TYPE", "NAME"]);
    for (ty, resources) in json.as_object().into_iter().flatten() {
        for name in resources.as_object().into_iter().flat_map(|of| of.keys()) {
            table.row([ty.clone(), name.clone()]);
        }
    }
    table.render()
}
