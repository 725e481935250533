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
mod ext_authz;
pub mod filters;
mod guard;
mod http;
mod manager;
mod rate_limit;
mod rbac;
mod refusal;
mod runtime;

pub use admission::GlobalLimit;
pub use chain::{Body, Chain, End, Gate};
pub use directory::Directory;
pub use manager::{Assignment, DrainStyle, ListenerManager, Origin, Slot, Sockets};
pub use runtime::{Listener, ListenerStats};
