//! TCP proxying.

pub mod proxy;
