//! Listeners: sockets, accepting, and what a connection goes through before its filter chain takes it.

pub mod accept;
pub mod bind;
mod chain;
pub mod chain_match;
mod connection;
mod connection_limit;
pub mod filters;
mod http;
mod runtime;

pub use chain::{Chain, End, Gate};
pub use runtime::{Listener, ListenerStats};
