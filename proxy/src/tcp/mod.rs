//! TCP proxying.

mod demand;
pub mod proxy;
mod tunnel;
mod upstream;
