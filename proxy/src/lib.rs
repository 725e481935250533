//! Weft's proxy: an L4/L7 proxy that takes Envoy's configuration and keeps Envoy's observable behaviour.

// That a connection's task may move between threads is proven through every future within it, and they are nested deeply.
#![recursion_limit = "256"]

pub mod access_log;
pub mod admin;
pub mod allocator;
pub mod app;
pub mod cli;
mod clock;
pub mod cluster;
pub mod config;
pub mod drain;
pub mod ext_authz;
pub mod http;
pub mod identity;
pub mod jwt;
pub mod listener;
pub mod logging;
pub mod mesh;
pub mod on_demand;
pub mod process;
pub mod rate_limit;
pub mod rbac;
pub mod runtime;
pub mod stats;
pub mod stream_info;
pub mod tcp;
pub mod telemetry;
pub mod timer;
pub mod transport;
pub mod upstream;
pub mod worker;
pub mod xds;
