//! Listeners: sockets, accepting, and what a connection goes through before its filter chain takes it.

pub mod accept;
mod admission;
mod balance;
pub mod bind;
mod chain;
pub mod chain_match;
mod connection;
mod connection_limit;
mod directory;
pub mod discovered;
pub mod filters;
mod http;
mod manager;
mod rbac;
mod refusal;
mod runtime;

pub use admission::GlobalLimit;
pub use chain::{Body, Chain, End, Gate};
pub use directory::Directory;
pub use manager::{Assignment, DrainStyle, ListenerManager, Origin, Slot, Sockets};
pub use runtime::{Listener, ListenerStats};
