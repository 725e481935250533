//! Which of a server's certificates a client gets.
//!
//! Runs on: workers, within a handshake.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::identity::{Identity, KeyKind};
use super::observed::with_current;

/// Chooses by server name, then by what the client can verify: the first certificate where nothing fits.
#[derive(Debug)]
pub(super) struct Certificates {
    /// In the order configured; never empty.
    all: Arc<[Identity]>,
    /// Name to certificates; `.example.com` is the wildcard below `example.com`.
    by_name: HashMap<String, Vec<usize>>,
    full_scan: bool,
}

impl Certificates {
    /// `full_scan`: `full_scan_certs_on_sni_mismatch`.
    pub(super) fn new(all: Arc<[Identity]>, full_scan: bool) -> Self {
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (i, identity) in all.iter().enumerate() {
            for name in &identity.names {
                let key = if name.starts_with("*.") { &name[1..] } else { name };
                let list = by_name.entry(key.to_owned()).or_default();
                // Of two with one kind of key, the earlier one is meant.
                let is_rsa = |i: usize| all[i].kind == KeyKind::Rsa;
                if !list.iter().any(|other| is_rsa(*other) == is_rsa(i)) {
                    list.push(i);
                }
            }
        }
        Certificates { all, by_name, full_scan }
    }

    fn choose(&self, name: Option<&str>, offered: &[SignatureScheme]) -> usize {
        if self.all.len() <= 1 {
            return 0;
        }
        if let Some(name) = name {
            let name = name.to_ascii_lowercase();
            let wildcard = name.find('.').filter(|dot| *dot > 0).map(|dot| &name[dot..]);
            let lists = [Some(name.as_str()), wildcard].into_iter().flatten().filter_map(|n| self.by_name.get(n));
            for list in lists {
                if let Some(i) = self.best(list.iter().copied(), offered) {
                    return i;
                }
            }
            if !self.full_scan {
                return 0;
            }
        }
        self.best(0..self.all.len(), offered).unwrap_or(0)
    }

    /// An elliptic curve certificate for a client that can verify it, or else the first RSA one.
    fn best(&self, candidates: impl Iterator<Item = usize>, offered: &[SignatureScheme]) -> Option<usize> {
        let mut rsa = None;
        for i in candidates {
            match self.all.get(i)?.kind {
                KeyKind::Ecdsa(curve) if offered.contains(&curve) => return Some(i),
                KeyKind::Rsa if rsa.is_none() => rsa = Some(i),
                _ => {}
            }
        }
        rsa
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let identity = self.all.get(self.choose(hello.server_name(), hello.signature_schemes()))?;
        with_current(|observed| observed.local = Some(Arc::clone(&identity.facts)));
        Some(Arc::clone(&identity.key))
    }
}

/// A client's one certificate, whatever authorities the server names: as Envoy.
#[derive(Debug)]
pub(super) struct ClientCertificate(pub(super) Option<Arc<[Identity]>>);

impl rustls::client::ResolvesClientCert for ClientCertificate {
    fn resolve(&self, _authorities: &[&[u8]], offered: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let identity = self.0.as_ref()?.first()?;
        identity.key.key.choose_scheme(offered)?;
        with_current(|observed| observed.local = Some(Arc::clone(&identity.facts)));
        Some(Arc::clone(&identity.key))
    }

    fn has_certs(&self) -> bool {
        self.0.as_ref().is_some_and(|list| !list.is_empty())
    }
}
