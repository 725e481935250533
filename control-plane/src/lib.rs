//! Weft's control plane: what people write about their services in, xDS v3 out.
