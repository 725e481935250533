//! The harness of the end-to-end tests.
//!
//! It starts a real proxy process, Envoy or weft-proxy, on the same bootstrap, puts scripted upstreams behind it and
//! scripted clients before it, and writes down what both sides saw. Nothing here knows how a proxy works inside.
//!
//! Every wait has a deadline and no test waits for time to pass: see [`wait::eventually`].
#![allow(clippy::large_futures, reason = "a test holds its buffers where it likes")]

pub mod admin;
pub mod ads;
pub mod bookinfo;
pub mod browser;
pub mod client;
pub mod config;
pub mod control_plane;
pub mod csds;
pub mod frames;
pub mod gaps;
pub mod h2_client;
pub mod load;
pub mod locate;
pub mod mesh;
pub mod message;
pub mod metrics;
pub mod parity;
pub mod ports;
pub mod proxy;
pub mod scene;
pub mod tls;
pub mod unary;
pub mod up;
pub mod upstream;
pub mod wait;
pub mod world;
