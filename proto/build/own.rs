//! Our own `.proto` files, compiled against Envoy's.

use prost::Message as _;
use protox::Compiler;
use protox::file::{ChainFileResolver, DescriptorSetFileResolver, GoogleFileResolver, IncludeFileResolver};

use crate::Result;

/// The files, under `proto/`.
const FILES: [&str; 4] = [
    "istio/peer_metadata/config.proto",
    "istio/stats/config.proto",
    "istio/v1/auth/ca.proto",
    "weft/identity/v1/workload_identity.proto",
];

/// Their descriptor set, without what they import.
pub(crate) fn compile(envoy: &[u8]) -> Result<Vec<u8>> {
    let mut resolver = ChainFileResolver::new();
    resolver.add(IncludeFileResolver::new("proto".into()));
    resolver.add(DescriptorSetFileResolver::decode(envoy).map_err(|e| format!("types.bin: {e}"))?);
    resolver.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler.open_files(FILES).map_err(|e| format!("proto/: {e:?}"))?;
    Ok(compiler.file_descriptor_set().encode_to_vec())
}
