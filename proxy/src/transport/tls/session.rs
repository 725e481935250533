//! What a finished handshake established.
//!
//! Runs on: workers.

use std::sync::Arc;

use rustls::pki_types::UnixTime;
use rustls::{CommonState, HandshakeKind, ProtocolVersion};

use super::names;
use super::observed::{Observed, within};
use super::validator::Verdict;
use super::verify::PeerVerifier;
use crate::stream_info::TlsInfo;

/// Checks the peer of a resumed session by today's rules, its handshake did not: `observed` is that handshake's exchange.
pub(super) fn check_resumed(
    observed: &mut Observed,
    session: &CommonState,
    verifier: &PeerVerifier,
) -> Result<(), rustls::Error> {
    let Some(chain) = session.peer_certificates().filter(|_| session.handshake_kind() == Some(HandshakeKind::Resumed))
    else {
        return Ok(());
    };
    within(observed, || verifier.check(chain, UnixTime::now()))
}

/// The facts of a session.
pub(super) fn info(session: &CommonState, sni: &str, observed: &Observed) -> Arc<TlsInfo> {
    let version = match session.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "TLSv1.2",
    };
    Arc::new(TlsInfo {
        version,
        cipher: session.negotiated_cipher_suite().map_or("", |s| names::suite(s.suite())).into(),
        alpn: session.alpn_protocol().map(String::from_utf8_lossy).unwrap_or_default().into(),
        sni: sni.into(),
        session_id: String::new(),
        peer: observed.peer.clone(),
        peer_validated: observed.verdict == Some(Verdict::Validated),
        local: observed.local.clone(),
    })
}
