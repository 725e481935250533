//! The cache as bytes: a mark, a checksum, and a protobuf message. No input or output.
//!
//! ```text
//! "weftxds\n"   SHA-256 of all that follows   File { format, written, node, content: Content }
//! ```
//!
//! What is read was written by this program, but by which version of it, for whom, and whether to its end is not known: nothing is
//! believed that the checksum, the format and the node do not say.

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use bytes::Bytes;
use prost::Message;

/// How every cache begins.
const MAGIC: &[u8; 8] = b"weftxds\n";
/// Changes with the meaning of a field; a new field needs none.
const FORMAT: u32 = 1;
/// Bounds the file, and what is read of it: ten times what is usual for thousands of clusters.
pub(super) const MAX_BYTES: usize = 128 << 20;

/// Why a cache is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    /// Not a cache.
    #[error("it is no cache of discovered configuration")]
    Foreign,
    /// Cut short, or changed since.
    #[error("it is damaged: its checksum does not fit")]
    Damaged,
    /// It fits its checksum, and is no message.
    #[error("it cannot be decoded: {0}")]
    Undecodable(String),
    /// Of another version of this program.
    #[error("it is of format {0}, and this version reads {FORMAT}")]
    Format(u32),
    /// Of another proxy.
    #[error("it belongs to another node: id '{id}', cluster '{cluster}'")]
    Node {
        /// `node.id`
        id: String,
        /// `node.cluster`
        cluster: String,
    },
}

#[derive(Clone, PartialEq, Message)]
struct File {
    #[prost(uint32, tag = "1")]
    format: u32,
    /// Milliseconds since 1970.
    #[prost(uint64, tag = "2")]
    written: u64,
    #[prost(string, tag = "3")]
    node_id: String,
    #[prost(string, tag = "4")]
    node_cluster: String,
    #[prost(bytes = "bytes", tag = "5")]
    content: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Content {
    #[prost(message, repeated, tag = "1")]
    sections: Vec<Section>,
}

/// What one source said of one kind.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Section {
    /// The source, as [`super::label`] writes it.
    #[prost(string, tag = "1")]
    pub(super) source: String,
    #[prost(string, tag = "2")]
    pub(super) type_url: String,
    /// Version of the last response accepted.
    #[prost(string, tag = "3")]
    pub(super) version: String,
    #[prost(message, repeated, tag = "4")]
    pub(super) resources: Vec<Entry>,
}

/// A resource in force.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Entry {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) version: String,
    #[prost(string, repeated, tag = "3")]
    pub(super) aliases: Vec<String>,
    /// The encoded resource.
    #[prost(bytes = "bytes", tag = "4")]
    pub(super) body: Bytes,
    /// When the server said so, in milliseconds since 1970.
    #[prost(uint64, tag = "5")]
    pub(super) at: u64,
    /// The server was told that it is held (delta): it may be told so again.
    #[prost(bool, tag = "6")]
    pub(super) held: bool,
    /// It came because a request needed it.
    #[prost(bool, tag = "7")]
    pub(super) on_demand: bool,
}

/// Whose a cache is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) id: String,
    pub(super) cluster: String,
}

/// What a cache holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Decoded {
    /// Milliseconds since 1970.
    pub(super) written: u64,
    pub(super) sections: Vec<Section>,
}

/// The content alone, which is the same as long as nothing changes.
pub(super) fn content(sections: Vec<Section>) -> Bytes {
    Content { sections }.encode_to_vec().into()
}

/// A whole file.
pub(super) fn encode(owner: &Owner, written: u64, content: Bytes) -> Vec<u8> {
    let file =
        File { format: FORMAT, written, node_id: owner.id.clone(), node_cluster: owner.cluster.clone(), content };
    let payload = file.encode_to_vec();
    let mut out = Vec::with_capacity(MAGIC.len() + SHA256_OUTPUT_LEN + payload.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(digest(&SHA256, &payload).as_ref());
    out.extend_from_slice(&payload);
    out
}

/// What a file holds.
///
/// # Errors
/// Why it cannot be used.
pub(super) fn decode(owner: &Owner, bytes: &[u8]) -> Result<Decoded, Unusable> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(Unusable::Foreign)?;
    let (sum, payload) = rest.split_at_checked(SHA256_OUTPUT_LEN).ok_or(Unusable::Damaged)?;
    if digest(&SHA256, payload).as_ref() != sum {
        return Err(Unusable::Damaged);
    }
    let undecodable = |e: prost::DecodeError| Unusable::Undecodable(e.to_string());
    let file = File::decode(payload).map_err(undecodable)?;
    if file.format != FORMAT {
        return Err(Unusable::Format(file.format));
    }
    if file.node_id != owner.id || file.node_cluster != owner.cluster {
        return Err(Unusable::Node { id: file.node_id, cluster: file.node_cluster });
    }
    let content = Content::decode(file.content).map_err(undecodable)?;
    Ok(Decoded { written: file.written, sections: content.sections })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owner() -> Owner {
        Owner { id: "n".into(), cluster: "c".into() }
    }

    fn sections() -> Vec<Section> {
        let entry = Entry {
            name: "a".into(),
            version: "7".into(),
            aliases: vec!["b".into()],
            body: Bytes::from_static(b"\x0a\x01a"),
            at: 12,
            held: true,
            on_demand: false,
        };
        let type_url = crate::xds::Kind::Cluster.type_url().into();
        vec![Section { source: "ads".into(), type_url, version: "9".into(), resources: vec![entry] }]
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = encode(&owner(), 3, content(sections()));
        assert_eq!(decode(&owner(), &bytes), Ok(Decoded { written: 3, sections: sections() }));
    }

    #[test]
    fn what_is_not_ours_is_told_apart() {
        let bytes = encode(&owner(), 3, content(sections()));
        let other = Owner { id: "m".into(), cluster: "c".into() };
        let node = Unusable::Node { id: "n".into(), cluster: "c".into() };
        assert_eq!(decode(&other, &bytes), Err(node));
        assert_eq!(decode(&owner(), b""), Err(Unusable::Foreign));
        assert_eq!(decode(&owner(), b"{\"json\": 1}"), Err(Unusable::Foreign));
        assert_eq!(decode(&owner(), MAGIC), Err(Unusable::Damaged));
        for cut in MAGIC.len()..bytes.len() {
            assert_eq!(decode(&owner(), &bytes[..cut]), Err(Unusable::Damaged), "cut at {cut}");
        }
        for at in MAGIC.len()..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(decode(&owner(), &changed), Err(Unusable::Damaged), "changed at {at}");
        }
        let later = File { format: FORMAT + 1, ..File::default() };
        assert_eq!(decode(&owner(), &sealed(&later.encode_to_vec())), Err(Unusable::Format(FORMAT + 1)));
    }

    /// Bytes with a checksum that fits.
    fn sealed(payload: &[u8]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(digest(&SHA256, payload).as_ref());
        out.extend_from_slice(payload);
        out
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _any = decode(&owner(), &bytes);
            let _sealed = decode(&owner(), &sealed(&bytes));
            let file = File { format: FORMAT, node_id: "n".into(), node_cluster: "c".into(), content: bytes.into(), ..File::default() };
            let _content = decode(&owner(), &sealed(&file.encode_to_vec()));
        }
    }
}
