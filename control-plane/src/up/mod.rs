//! `weft up`: a mesh on this machine, from the YAML for a cluster.
//!
//! Each pod is a network namespace with its own address, a proxy that its connections are led through, and processes in the place
//! of containers. The control plane runs in this process.
//!
//! | | |
//! |---|---|
//! | [`plan`], [`commands`] | which pods there should be, and what runs in them |
//! | [`local`] | the directory's objects as a cluster would have them |
//! | [`mesh`], [`pod`], [`process`] | what runs |
//! | [`probes`] | what containers are asked |
//! | [`fabric`], [`namespace`] | the network |
//! | [`relay`] | this machine's ports for gateways |
//! | [`state`], [`control`] | what other commands find |
//! | [`launch`] | the step from this process to one of a pod |

pub mod commands;
pub mod control;
pub mod fabric;
pub mod launch;
pub mod local;
pub mod mesh;
pub mod names;
pub mod namespace;
pub mod plan;
pub mod pod;
pub mod probes;
pub mod process;
pub mod relay;
pub mod run;
pub mod state;
#[cfg(test)]
mod tests;

pub use run::{Options, run};
