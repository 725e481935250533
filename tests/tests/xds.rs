//! Discovery: the same scenarios under a scripted management server on Envoy and on weft-proxy; what each saw is compared.
#![allow(clippy::large_futures, reason = "a test holds its buffers where it likes")]

#[path = "xds/admin.rs"]
mod admin;
#[path = "xds/basics.rs"]
mod basics;
#[path = "xds/cache.rs"]
mod cache;
#[path = "xds/csds.rs"]
mod csds;
#[path = "xds/drain.rs"]
mod drain;
#[path = "xds/extensions.rs"]
mod extensions;
#[path = "xds/files.rs"]
mod files;
#[path = "xds/l4_extensions.rs"]
mod l4_extensions;
#[path = "xds/on_demand.rs"]
mod on_demand;
#[path = "xds/outage.rs"]
mod outage;
#[path = "xds/refusals.rs"]
mod refusals;
#[path = "xds/runtime.rs"]
mod runtime;
#[path = "xds/secrets.rs"]
mod secrets;
#[path = "xds/streams.rs"]
mod streams;
#[path = "xds/warming.rs"]
mod warming;
#[path = "xds/yaml.rs"]
mod yaml;
