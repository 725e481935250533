//! `/listeners`, and addresses in JSON.

use serde::Serialize;

use super::body::{Params, Reply};
use super::sources::Sources;
use super::status::ListenerStatus;
use crate::stream_info::PeerAddr;

/// **Source**: `envoy.config.core.v3.Address`.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum AddressJson {
    SocketAddress { address: String, port_value: u16 },
    Pipe { path: String },
}

impl From<&PeerAddr> for AddressJson {
    fn from(address: &PeerAddr) -> Self {
        match address {
            PeerAddr::Ip(ip) => AddressJson::SocketAddress { address: ip.ip().to_string(), port_value: ip.port() },
            PeerAddr::Pipe(path) => AddressJson::Pipe { path: path.to_string() },
        }
    }
}

#[derive(Serialize)]
struct Json<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    listener_statuses: Vec<ListenerJson<'a>>,
}

#[derive(Serialize)]
struct ListenerJson<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    local_address: Option<AddressJson>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    additional_local_addresses: Vec<AddressJson>,
}

impl<'a> ListenerJson<'a> {
    fn new(listener: &'a ListenerStatus) -> Self {
        let mut addresses = listener.addresses.iter().map(AddressJson::from);
        ListenerJson {
            name: &listener.name,
            local_address: addresses.next(),
            additional_local_addresses: addresses.collect(),
        }
    }
}

pub(super) fn listeners(sources: &Sources, params: &Params) -> Reply {
    let listeners = (sources.listeners)();
    if params.get("format") == Some("json") {
        return Reply::json(&Json { listener_statuses: listeners.iter().map(ListenerJson::new).collect() });
    }
    let lines = listeners.iter().map(|listener| {
        let addresses: Vec<String> = listener.addresses.iter().map(PeerAddr::to_string).collect();
        format!("{}::{}\n", listener.name, addresses.join(","))
    });
    Reply::text(lines.collect::<String>())
}
