//! TCP proxying.

pub mod proxy;
mod upstream;
