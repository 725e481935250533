//! Stats of the listener filters. They belong to the server, not to a listener, as in Envoy.

use super::client_hello::ClientHello;
use super::http_inspector::Version;
use super::proxy_protocol::HeaderError;
use crate::stats::{Counter, Scope};

/// `tls_inspector.*`
#[derive(Debug)]
pub(super) struct TlsInspectorStats {
    client_hello_too_large: Counter,
    tls_found: Counter,
    tls_not_found: Counter,
    alpn_found: Counter,
    alpn_not_found: Counter,
    sni_found: Counter,
    sni_not_found: Counter,
}

impl TlsInspectorStats {
    pub(super) fn new(root: &Scope) -> Self {
        let scope = root.scope("tls_inspector");
        TlsInspectorStats {
            client_hello_too_large: scope.counter("client_hello_too_large"),
            tls_found: scope.counter("tls_found"),
            tls_not_found: scope.counter("tls_not_found"),
            alpn_found: scope.counter("alpn_found"),
            alpn_not_found: scope.counter("alpn_not_found"),
            sni_found: scope.counter("sni_found"),
            sni_not_found: scope.counter("sni_not_found"),
        }
    }

    pub(super) fn found(&self, hello: &ClientHello) {
        self.tls_found.inc();
        if hello.sni.is_empty() { &self.sni_not_found } else { &self.sni_found }.inc();
        if hello.alpn.is_empty() { &self.alpn_not_found } else { &self.alpn_found }.inc();
    }

    pub(super) fn not_found(&self) {
        self.tls_not_found.inc();
    }

    pub(super) fn too_large(&self) {
        self.client_hello_too_large.inc();
    }
}

/// `http_inspector.*`
#[derive(Debug)]
pub(super) struct HttpInspectorStats {
    read_error: Counter,
    http10_found: Counter,
    http11_found: Counter,
    http2_found: Counter,
    http_not_found: Counter,
}

impl HttpInspectorStats {
    pub(super) fn new(root: &Scope) -> Self {
        let scope = root.scope("http_inspector");
        HttpInspectorStats {
            read_error: scope.counter("read_error"),
            http10_found: scope.counter("http10_found"),
            http11_found: scope.counter("http11_found"),
            http2_found: scope.counter("http2_found"),
            http_not_found: scope.counter("http_not_found"),
        }
    }

    pub(super) fn found(&self, version: Version) {
        match version {
            Version::Http10 => self.http10_found.inc(),
            Version::Http11 => self.http11_found.inc(),
            Version::H2c => self.http2_found.inc(),
        }
    }

    pub(super) fn not_found(&self) {
        self.http_not_found.inc();
    }

    pub(super) fn read_error(&self) {
        self.read_error.inc();
    }
}

/// `proxy_proto.<prefix>.*`
#[derive(Debug)]
pub(super) struct ProxyProtocolStats {
    /// The one counter there was before the others.
    error: Counter,
    not_found_allowed: Counter,
    not_found_disallowed: Counter,
    versions: [VersionStats; 2],
}

#[derive(Debug)]
struct VersionStats {
    found: Counter,
    disallowed: Counter,
    error: Counter,
}

impl ProxyProtocolStats {
    pub(super) fn new(root: &Scope, prefix: &str) -> Self {
        let scope = root.scope("proxy_proto").scope(prefix);
        let version = |name| {
            let scope = scope.scope("versions").scope(name);
            VersionStats {
                found: scope.counter("found"),
                disallowed: scope.counter("disallowed"),
                error: scope.counter("error"),
            }
        };
        ProxyProtocolStats {
            error: root.counter("downstream_cx_proxy_proto_error"),
            not_found_allowed: scope.counter("not_found_allowed"),
            not_found_disallowed: scope.counter("not_found_disallowed"),
            versions: [version("v1"), version("v2")],
        }
    }

    fn version(&self, version: u8) -> &VersionStats {
        &self.versions[usize::from(version == 2)]
    }

    pub(super) fn absent(&self) {
        self.not_found_allowed.inc();
    }

    pub(super) fn found(&self, version: u8) {
        self.version(version).found.inc();
    }

    pub(super) fn failed(&self, error: HeaderError) {
        match error {
            HeaderError::Missing => {
                self.not_found_disallowed.inc();
                self.error.inc();
            }
            HeaderError::Disallowed(version) => {
                self.version(version).found.inc();
                self.version(version).disallowed.inc();
            }
            HeaderError::Malformed(version) => {
                self.version(version).error.inc();
                self.error.inc();
            }
        }
    }
}
