//! TCP proxying.

mod demand;
pub mod proxy;
mod upstream;
