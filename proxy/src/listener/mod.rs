//! Listeners: sockets, accepting, and what a connection goes through before its filter chain takes it.

pub mod accept;
pub mod bind;
pub mod chain_match;
mod connection;
pub mod filters;
mod runtime;

pub use runtime::{Chain, End, Listener, ListenerStats};
