//! What is known: the objects people write, and the world they make.
//!
//! Must not know: files, servers, xDS. No input or output; everything is plain data.

pub mod attribute;
pub mod authorizer;
mod check;
pub mod config;
mod convert;
mod delegate;
mod difference;
pub mod distinctions;
pub mod endpoint;
pub mod host;
mod index;
pub mod key_sets;
pub mod kinds;
pub mod objects;
pub mod patches;
pub mod peer_authentication;
pub(crate) mod policy_check;
pub mod read;
pub mod replicas;
pub mod service;
pub mod trust_domains;
pub mod visibility;
pub mod world;

pub(crate) use convert::{FULL_MARK, PREFIX_MARK};
pub use world::World;
