//! `weft proxy-config`: what a proxy has, from its own admin interface or from the control plane.

mod cluster;
mod endpoint;
mod listener;
mod route;
mod secret;
#[cfg(test)]
mod tests;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value as Json;

use super::output::{self, Format};
use super::{Server, client};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft proxy-config cluster reviews-v1-7d.default           what the control plane gives it
  weft proxy-config route --admin 127.0.0.1:15000           what the proxy there has
  weft proxy-config listener reviews-v1-7d -o json          all of it")]
pub(super) struct Options {
    /// What to show
    #[arg(value_enum)]
    what: What,
    /// The proxy: its id, name.namespace, or name
    #[arg(required_unless_present = "admin")]
    proxy: Option<String>,
    /// Ask the proxy itself, at the address of its admin interface
    #[arg(long, value_name = "ADDRESS", conflicts_with = "proxy")]
    admin: Option<String>,
    #[command(flatten)]
    server: Server,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Where it listens, and where what comes in goes
    Listener,
    /// Which requests go to which clusters
    Route,
    /// Groups of endpoints and how they are used
    Cluster,
    /// Addresses behind clusters
    Endpoint,
    /// Certificates and trust
    Secret,
    /// All of these
    All,
}

pub(super) async fn run(options: &Options) -> Result<String> {
    let dump = match (&options.admin, &options.proxy) {
        (Some(admin), _) => client::get(admin, "/config_dump?include_eds").await?,
        (None, Some(proxy)) => {
            let path = format!("/debug/config_dump?proxyID={}", utf8_percent_encode(proxy, NON_ALPHANUMERIC));
            client::get(&options.server.control_plane, &path).await?
        }
        (None, None) => bail!("name a proxy, or give its --admin address"),
    };
    let dump = Dump::new(&dump).context("this is no config_dump")?;
    let parts: &[What] = match options.what {
        What::All => &[What::Listener, What::Route, What::Cluster, What::Endpoint, What::Secret],
        ref one => std::slice::from_ref(one),
    };
    let json = match parts {
        [one] => Json::Array(dump.of(*one).cloned().collect()),
        all => all.iter().flat_map(|part| dump.of(*part)).cloned().collect(),
    };
    Ok(output::print(options.output, &json, || {
        parts.iter().map(|part| table(&dump, *part)).collect::<Vec<_>>().join("\n")
    }))
}

fn table(dump: &Dump<'_>, what: What) -> String {
    let entries = dump.of(what);
    match what {
        What::Listener => listener::table(entries),
        What::Route => route::table(entries),
        What::Cluster => cluster::table(entries),
        What::Endpoint => endpoint::table(entries),
        What::Secret | What::All => secret::table(entries),
    }
}

/// An Envoy `/config_dump`.
struct Dump<'a> {
    configs: &'a [Json],
}

impl<'a> Dump<'a> {
    fn new(dump: &'a Json) -> Option<Self> {
        dump["configs"].as_array().map(|configs| Self { configs })
    }

    /// The entries of all lists of a part: the static ones and the dynamic ones.
    fn of(&self, what: What) -> impl Iterator<Item = &'a Json> + 'a {
        let (part, field) = match what {
            What::Listener => ("ListenersConfigDump", "listener"),
            What::Route => ("RoutesConfigDump", "route_config"),
            What::Cluster => ("ClustersConfigDump", "cluster"),
            What::Endpoint => ("EndpointsConfigDump", "endpoint_config"),
            What::Secret | What::All => ("SecretsConfigDump", "secret"),
        };
        let of_part = move |config: &&Json| config["@type"].as_str().is_some_and(|ty| ty.ends_with(part));
        let entries = self.configs.iter().filter(of_part).filter_map(Json::as_object);
        let entries = entries.flat_map(|config| config.values()).filter_map(Json::as_array).flatten();
        // Of a listener the state that serves.
        entries.map(|entry| entry.get("active_state").unwrap_or(entry)).filter_map(move |entry| entry.get(field))
    }
}

/// A text, or nothing.
fn text(json: &Json) -> &str {
    json.as_str().unwrap_or_default()
}

/// A list, or nothing.
fn list(json: &Json) -> &[Json] {
    json.as_array().map_or(&[], Vec::as_slice)
}

/// `-` for nothing.
fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

/// `address:port`, a path, or `-`.
fn address(json: &Json) -> String {
    let socket = &json["socket_address"];
    match (socket["address"].as_str(), socket["port_value"].as_u64()) {
        (Some(address), port) if address.contains(':') => format!("[{address}]:{}", port.unwrap_or_default()),
        (Some(address), port) => format!("{address}:{}", port.unwrap_or_default()),
        _ => or_dash(text(&json["pipe"]["path"]).to_owned()),
    }
}
