//! `weft proxy-status`.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Args;
use serde_json::Value as Json;

use super::output::{self, Format, Table};
use super::{Server, client};

/// The types that have a column.
const COLUMNS: [&str; 6] = ["CDS", "EDS", "LDS", "RDS", "SDS", "ECDS"];

#[derive(Debug, Args)]
#[command(after_help = "SYNCED    it has accepted the newest
STALE     something is on its way to it, or it has not answered
NACKED    it refused the newest; the reason stands below the table
NOT SENT  it has asked for nothing that exists
-         it has not asked for the type")]
pub(super) struct Options {
    /// Only this proxy: its id, name.namespace, or name
    proxy: Option<String>,
    #[command(flatten)]
    server: Server,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) async fn run(options: &Options) -> Result<String> {
    let status = client::get(&options.server.control_plane, "/debug/syncz").await?;
    let streams = status.as_array().cloned().unwrap_or_default();
    let found: Vec<Json> = streams.into_iter().filter(|stream| is(stream, options.proxy.as_deref())).collect();
    if found.is_empty()
        && let Some(proxy) = &options.proxy
    {
        anyhow::bail!("no proxy {proxy} is connected; leave the name out to see which are");
    }
    Ok(output::print(options.output, &Json::Array(found.clone()), || table(&found)))
}

fn is(stream: &Json, wanted: Option<&str>) -> bool {
    let text = |field: &str| stream[field].as_str().unwrap_or_default();
    wanted.is_none_or(|wanted| {
        [text("proxy"), text("name")].contains(&wanted) || format!("{}.{}", text("name"), text("namespace")) == wanted
    })
}

/// One row for each proxy, whatever number of streams it has.
pub(super) fn table(streams: &[Json]) -> String {
    let mut proxies: BTreeMap<String, Vec<&Json>> = BTreeMap::new();
    for stream in streams {
        let text = |field: &str| stream[field].as_str().unwrap_or_default();
        proxies.entry(format!("{}.{}", text("name"), text("namespace"))).or_default().push(stream);
    }
    let mut table = Table::new(&["NAME", "KIND", "CDS", "EDS", "LDS", "RDS", "SDS", "ECDS", "PROTOCOL", "CONNECTED"]);
    let mut reasons = String::new();
    for (name, streams) in &proxies {
        let text = |field: &str| streams[0][field].as_str().unwrap_or_default().to_owned();
        let [cds, eds, lds, rds, sds, ecds] = COLUMNS.map(|ty| status(streams, ty));
        let since = text("connectedAt").split('.').next().unwrap_or_default().trim_end_matches('Z').to_owned();
        table.row([name.clone(), text("kind"), cds, eds, lds, rds, sds, ecds, text("protocol"), since]);
        streams.iter().for_each(|stream| refusals(name, stream, &mut reasons));
    }
    if proxies.is_empty() {
        return "no proxy is connected".to_owned();
    }
    table.render() + &reasons
}

/// The worst of the streams that have the type.
fn status(streams: &[&Json], ty: &str) -> String {
    let found = streams.iter().filter_map(|stream| stream["types"][ty]["status"].as_str());
    let rank = |status: &&str| ["NACKED", "STALE", "NOT SENT", "SYNCED"].iter().position(|known| known == status);
    found.min_by_key(rank).unwrap_or("-").to_owned()
}

fn refusals(name: &str, stream: &Json, out: &mut String) {
    for (ty, state) in stream["types"].as_object().into_iter().flatten() {
        if let (Some("NACKED"), Some(reason)) = (state["status"].as_str(), state["refused"]["reason"].as_str()) {
            let at = state["refused"]["at"].as_str().unwrap_or_default();
            out.push_str(&format!("\n{name} refused {ty} at {at}: {reason}\n"));
            let objects: Vec<&str> =
                state["refused"]["objects"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
            if !objects.is_empty() {
                out.push_str(&format!("  made of {}\n", objects.join(", ")));
            }
        }
    }
}
