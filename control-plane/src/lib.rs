//! Weft's control plane: what people write about their services in, xDS v3 out.
//!
//! | | |
//! |---|---|
//! | [`source`] | where objects come from: a watched directory |
//! | [`model`] | the objects, and the world they make |
//! | [`translate`] | from the world to resources: pure functions |
//! | [`feed`] | from a source to the server |
//! | [`ca`] | identities of workloads: certificates, tokens, roots |
//! | [`analyze`] | what is likely wrong with a world |
//! | [`node`] | who asks |
//! | [`resource`] | what is served |
//! | [`generate`] | the seam between the two halves: a pure function from the world and a proxy to its resources |
//! | [`cache`] | what each proxy gets, generated once for all that get the same |
//! | [`server`] | xDS over gRPC; status, debugging and metrics over HTTP |
//! | [`jwks`] | keys of tokens of end users, fetched |
//! | [`metrics`] | what is counted |
//! | [`up`] | a mesh on this machine |
//! | [`capture`] | rules that lead a workload's connections to its proxy |
//! | [`demo`] | demo applications |
//! | [`cli`] | the command line |

pub mod analyze;
pub mod ca;
pub mod cache;
pub mod capture;
pub mod cli;
pub mod demo;
pub mod feed;
pub mod generate;
pub mod inject;
pub mod jwks;
pub mod metrics;
pub mod model;
pub mod node;
pub mod resource;
pub mod server;
pub mod source;
pub mod translate;
pub mod up;
