//! Stats of TLS handshakes: `<scope>.ssl.*`, as Envoy names them.
//!
//! Runs on: workers count; the control thread makes the handles.

use std::sync::OnceLock;

use rustls::{CommonState, HandshakeKind, ProtocolVersion};

use super::error::{TlsError, TlsErrorKind};
use super::names;
use super::observed::Observed;
use super::validator::{Stage, Verdict};
use crate::stats::{Counter, Gauge, Scope};

/// Counters of one side of TLS.
#[derive(Debug)]
pub(super) struct TlsStats {
    scope: Scope,
    handshake: Counter,
    connection_error: Counter,
    session_reused: Counter,
    no_certificate: Counter,
    fail_verify_no_cert: Counter,
    fail_verify_error: Counter,
    fail_verify_san: Counter,
    fail_verify_cert_hash: Counter,
    /// The library does not say which clients ask for an OCSP response: shown for completeness.
    _ocsp: [Counter; 4],
    /// A context was replaced because of new secrets.
    pub(super) context_update_by_sds: Counter,
    downstream_not_ready: Counter,
    upstream_not_ready: Counter,
    /// `ciphers.<name>` and the like exist from their first use.
    named: Named,
}

/// Slots of counters by name, made when first used.
#[derive(Debug, Default)]
struct Named {
    versions: [OnceLock<Counter>; 2],
    by_name: parking_lot::RwLock<Vec<((&'static str, &'static str), Counter)>>,
}

impl TlsStats {
    /// `factory`: `server_ssl_socket_factory` or `client_ssl_socket_factory`.
    pub(super) fn new(scope: &Scope, factory: &str) -> Self {
        let ssl = scope.scope("ssl");
        let factory = scope.scope(factory);
        TlsStats {
            handshake: ssl.counter("handshake"),
            connection_error: ssl.counter("connection_error"),
            session_reused: ssl.counter("session_reused"),
            no_certificate: ssl.counter("no_certificate"),
            fail_verify_no_cert: ssl.counter("fail_verify_no_cert"),
            fail_verify_error: ssl.counter("fail_verify_error"),
            fail_verify_san: ssl.counter("fail_verify_san"),
            fail_verify_cert_hash: ssl.counter("fail_verify_cert_hash"),
            _ocsp: ["requests", "responses", "omitted", "failed"].map(|n| ssl.counter(&format!("ocsp_staple_{n}"))),
            context_update_by_sds: factory.counter("ssl_context_update_by_sds"),
            downstream_not_ready: factory.counter("downstream_context_secrets_not_ready"),
            upstream_not_ready: factory.counter("upstream_context_secrets_not_ready"),
            named: Named::default(),
            scope: ssl,
        }
    }

    /// A handshake ended well.
    pub(super) fn succeeded(&self, session: &CommonState, observed: &Observed) {
        self.handshake.inc();
        if session.handshake_kind() == Some(HandshakeKind::Resumed) {
            self.session_reused.inc();
        }
        if session.peer_certificates().is_none() {
            self.no_certificate.inc();
        }
        if let Some(suite) = session.negotiated_cipher_suite() {
            self.count("ciphers", names::suite(suite.suite()));
        }
        if let Some(group) = session.negotiated_key_exchange_group() {
            self.count("curves", names::group(group.name()));
        }
        if let Some(scheme) = observed.signature {
            self.count("sigalgs", names::signature(scheme));
        }
        if let Some(Verdict::Tolerated(stage)) = observed.verdict {
            self.refused(stage);
        }
        let (slot, name) = match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => (1, "versions.TLSv1.3"),
            _ => (0, "versions.TLSv1.2"),
        };
        self.named.versions[slot].get_or_init(|| self.scope.counter(name)).inc();
    }

    /// A handshake did not end well.
    pub(super) fn failed(&self, error: &TlsError, client: bool) {
        match error.kind {
            TlsErrorKind::Closed => {}
            TlsErrorKind::Protocol => self.connection_error.inc(),
            TlsErrorKind::NoCertificate => self.fail_verify_no_cert.inc(),
            TlsErrorKind::CertificateChain => self.refused(Stage::Chain),
            TlsErrorKind::CertificateName => self.refused(Stage::San),
            TlsErrorKind::CertificateHash => self.refused(Stage::Hash),
            TlsErrorKind::SecretNotReady if client => self.upstream_not_ready.inc(),
            TlsErrorKind::SecretNotReady => self.downstream_not_ready.inc(),
        }
    }

    /// When the certificate of this name ends, in seconds since 1970.
    pub(super) fn expiration(&self, name: &str, seconds: u64) -> Gauge {
        let gauge = self.scope.scope("certificate").scope(name).gauge("expiration_unix_time_seconds");
        gauge.set(seconds);
        gauge
    }

    fn refused(&self, stage: Stage) {
        match stage {
            Stage::Chain => self.fail_verify_error.inc(),
            Stage::San => self.fail_verify_san.inc(),
            Stage::Hash => self.fail_verify_cert_hash.inc(),
        }
    }

    /// A dozen names at most: a short list beats a map.
    fn count(&self, group: &'static str, name: &'static str) {
        let key = (group, name);
        if let Some((_, counter)) = self.named.by_name.read().iter().find(|(k, _)| *k == key) {
            counter.inc();
            return;
        }
        let counter = self.scope.scope(group).counter(name);
        counter.inc();
        let mut list = self.named.by_name.write();
        if !list.iter().any(|(k, _)| *k == key) {
            list.push((key, counter));
        }
    }
}
