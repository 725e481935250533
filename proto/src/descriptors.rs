//! Envoy's API as its own descriptor set, for gRPC reflection.
//!
//! 3 MB; a binary that does not ask for it does not have it.

/// An encoded `google.protobuf.FileDescriptorSet` of all files of Envoy's API and what they import.
pub fn file_descriptor_set() -> &'static [u8] {
    static SET: &[u8] = include_bytes!(env!("WEFT_DESCRIPTOR_SET"));
    SET
}
