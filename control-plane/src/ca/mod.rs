//! The certificate authority of the mesh: who a workload is, certificates that say so, and whom to trust for it.
//!
//! Owns the keys that sign certificates and tokens, and the replacement of roots. Must not know: gRPC, proxies' configuration.
//!
//! | | |
//! |---|---|
//! | [`Identity`] | who a workload is |
//! | `token` | proof of a service account |
//! | `csr`, `authority` | from a request to a certificate |
//! | [`Phase`], `rotation` | which root signs, and which are trusted |
//! | `files` | what is kept, for its owner only |
//! | `limit` | how often one may ask |
//! | `tend` | what happens in time |

mod authority;
mod csr;
mod files;
mod identity;
mod limit;
mod rotation;
mod store;
mod tend;
#[cfg(test)]
pub(crate) mod tests;
mod token;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value as Json, json};
use tokio::sync::watch;
use tokio::time::Instant;

pub use csr::CsrError;
pub use identity::Identity;
pub use rotation::Phase;
pub use tend::Acknowledged;
pub use token::TokenIssuer;

use authority::{Subject, to_pem};
use files::Directory;
use limit::Limiter;
use rotation::Rotation;
use token::{Account, Tokens};

use crate::metrics::Counter;

/// The trust domain if nobody says (Istio's).
pub const TRUST_DOMAIN: &str = "cluster.local";
/// For whom tokens must be made if nobody says (Istio's).
pub const AUDIENCE: &str = "istio-ca";

/// How an authority works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it keeps its keys and its state.
    pub directory: PathBuf,
    /// The operator's own authority: a directory with Istio's files `ca-cert.pem`, `ca-key.pem`, `root-cert.pem` and
    /// `cert-chain.pem`. `None`: a root of our own.
    pub plugged: Option<PathBuf>,
    /// The trust domain of all workloads.
    pub trust_domain: String,
    /// For whom tokens must be made.
    pub audience: String,
    /// Whose tokens are taken besides our own.
    pub issuer: Option<TokenIssuer>,
    /// For how long certificates are good if their request does not say.
    pub ttl: Duration,
    /// For how long at most.
    pub max_ttl: Duration,
    /// How long all proxies must have been connected and have answered before a new root signs.
    pub settle: Duration,
    /// The names and addresses of this server.
    pub server_names: Vec<String>,
}

impl Options {
    /// The usual, in `directory`.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        let names = ["istiod.istio-system.svc", "weft.weft-system.svc", "localhost", "127.0.0.1", "::1"];
        Self {
            directory,
            plugged: None,
            trust_domain: TRUST_DOMAIN.to_owned(),
            audience: AUDIENCE.to_owned(),
            issuer: None,
            ttl: Duration::from_secs(24 * 3600),
            max_ttl: Duration::from_secs(90 * 24 * 3600),
            settle: Duration::from_secs(10),
            server_names: names.into_iter().map(str::to_owned).collect(),
        }
    }
}

/// Why an authority cannot work.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Its directory or a file in it cannot be used.
    #[error("{}: {reason}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// A certificate or key cannot be used.
    #[error("{file} {reason}")]
    Material {
        /// Its file, by Istio's name.
        file: &'static str,
        /// Why.
        reason: String,
    },
    /// A name cannot be part of an identity.
    #[error("{0:?} cannot be part of a SPIFFE ID; letters, digits, '-', '_' and '.' can")]
    Name(String),
    /// A request is refused.
    #[error(transparent)]
    Request(#[from] CsrError),
    /// Signing failed.
    #[error("cannot sign: {0}")]
    Signing(String),
}

/// What an authority counts.
#[derive(Debug, Default)]
pub struct Counts {
    /// Certificates made.
    pub issued: Counter,
    /// Callers that did not prove who they are.
    pub unauthenticated: Counter,
    /// Requests for what their caller may not have, or that are malformed.
    pub refused: Counter,
    /// Requests that came too often.
    pub limited: Counter,
    /// Replacements of a root that are complete.
    pub rotations: Counter,
}

/// The certificate authority. Any thread.
pub struct Ca {
    options: Options,
    directory: Directory,
    tokens: Tokens,
    rotation: Mutex<Rotation>,
    limiter: Mutex<Limiter>,
    /// Whom to trust, as PEM.
    bundle: watch::Sender<Arc<str>>,
    /// What it counts.
    pub counts: Counts,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ca({}, {})", self.options.trust_domain, self.options.directory.display())
    }
}

impl Ca {
    /// Opens an authority, or makes a new one. Reads and writes files.
    ///
    /// # Errors
    /// A directory that others may look into, files that cannot be used, a trust domain that is none.
    pub fn open(options: Options) -> Result<Arc<Self>, CaError> {
        if Identity::new(&options.trust_domain, "a", "a").is_none() {
            return Err(CaError::Name(options.trust_domain));
        }
        let directory = Directory::open(&options.directory)?;
        let tokens = open_tokens(&directory, options.audience.clone(), options.issuer.clone())?;
        let rotation = store::load(&directory, &options)?;
        let bundle: Arc<str> = to_pem(&rotation.bundle()).into();
        directory.write_public(store::BUNDLE, &bundle)?;
        Ok(Arc::new(Self {
            directory,
            tokens,
            rotation: Mutex::new(rotation),
            limiter: Mutex::default(),
            bundle: watch::Sender::new(bundle),
            counts: Counts::default(),
            options,
        }))
    }

    /// Only makes tokens with the key in a directory: what a command needs beside a control plane that runs.
    ///
    /// # Errors
    /// As for [`Ca::open`].
    pub fn token_of(options: &Options, namespace: &str, account: &str, ttl: Duration) -> Result<String, CaError> {
        let directory = Directory::open(&options.directory)?;
        let tokens = open_tokens(&directory, options.audience.clone(), None)?;
        mint(&tokens, &options.trust_domain, namespace, account, ttl)
    }

    /// Asks for another root: the control plane on this directory makes it. Of a plugged authority the operator replaces the
    /// files instead.
    ///
    /// # Errors
    /// When the directory cannot be used, or has no authority.
    pub fn request_rotation(directory: &std::path::Path) -> Result<(), CaError> {
        store::request_rotation(&Directory::open(directory)?)
    }

    /// The trust domain of all workloads.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.options.trust_domain
    }

    /// Where the roots are that clients of this control plane are to trust: a file that is always current.
    #[must_use]
    pub fn bundle_path(&self) -> PathBuf {
        self.directory.path(store::BUNDLE)
    }

    /// A token of ours that proves a service account, good for `ttl`.
    ///
    /// # Errors
    /// Names that no SPIFFE ID can have.
    pub fn mint_token(&self, namespace: &str, service_account: &str, ttl: Duration) -> Result<String, CaError> {
        mint(&self.tokens, &self.options.trust_domain, namespace, service_account, ttl)
    }

    /// Who a token is of.
    ///
    /// # Errors
    /// Why it proves nothing; nothing of the token is in it.
    pub fn verify_token(&self, token: &str) -> Result<Identity, String> {
        let account = self.tokens.verify(token)?;
        Identity::new(&self.options.trust_domain, &account.namespace, &account.name)
            .ok_or_else(|| "the token's service account has a name that no certificate can have".to_owned())
    }

    /// Whom to trust, as PEM; it changes while a root is replaced.
    #[must_use]
    pub fn bundle(&self) -> watch::Receiver<Arc<str>> {
        self.bundle.subscribe()
    }

    /// Whether one more request of an address is taken.
    #[must_use]
    pub fn admits(&self, address: IpAddr) -> bool {
        self.limiter.lock().take(address, Instant::now())
    }

    /// A certificate for the key of a request: `caller` has proven to be it. `ttl` zero: the usual one. `process` tells
    /// processes of one identity apart, so that a certificate is known to replace another.
    ///
    /// As Istio answers: the certificate, what lies between it and the roots, and last the roots, each PEM.
    ///
    /// # Errors
    /// A request that is malformed or for somebody else, or when signing fails.
    pub fn sign(
        &self,
        caller: &Identity,
        csr: &str,
        ttl: Duration,
        process: Option<&str>,
    ) -> Result<Vec<String>, CaError> {
        let key = csr::verified_key(csr, caller)?;
        let ttl = if ttl.is_zero() { self.options.ttl } else { ttl }.min(self.options.max_ttl);
        let mut rotation = self.rotation.lock();
        let authority = rotation.issuing.clone();
        let now = SystemTime::now();
        let issued = authority.issue(&Subject::Workload(caller), &key, ttl, now)?;
        let process = process.map_or_else(|| authority::fingerprint(&issued.der), str::to_owned);
        if rotation.issued((caller.to_string(), process), issued.not_after, now) {
            store::save_issued_until(&self.directory, rotation.issued_until)?;
        }
        drop(rotation);
        self.counts.issued.add(1);
        let mut chain = vec![to_pem(&[issued.der])];
        chain.extend(authority.chain.iter().map(|between| to_pem(std::slice::from_ref(between))));
        chain.push(self.bundle.borrow().to_string());
        Ok(chain)
    }

    /// A certificate of this server with its key, and when it is to be replaced.
    ///
    /// # Errors
    /// When signing fails, or a name is none.
    pub fn server_certificate(
        &self,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, Duration), CaError> {
        let key = KeyPair::generate().map_err(|error| CaError::Signing(error.to_string()))?;
        let authority = self.rotation.lock().issuing.clone();
        let life = self.options.ttl;
        let issued = authority.issue(&Subject::Server(&self.options.server_names), &key, life, SystemTime::now())?;
        let chain = std::iter::once(issued.der).chain(authority.chain.iter().cloned()).collect();
        Ok((chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into(), life / 2))
    }

    /// Who signs, what is trusted, and how far the replacement of a root is.
    #[must_use]
    pub fn status(&self) -> Json {
        let rotation = self.rotation.lock();
        let root = |der: &CertificateDer<'_>| json!(authority::fingerprint(der));
        let seconds = |at: SystemTime| at.duration_since(SystemTime::now()).unwrap_or_default().as_secs();
        json!({
            "trustDomain": self.options.trust_domain,
            "plugged": self.options.plugged.is_some(),
            "phase": rotation.phase().as_str(),
            "issuing": rotation.issuing.name,
            "next": rotation.next.as_ref().map(|next| next.name.clone()),
            "trusted": rotation.bundle().iter().map(root).collect::<Vec<_>>(),
            "retiring": rotation.retiring.iter().map(|old| json!({
                "name": old.name,
                "certificatesLeft": rotation.outstanding(&old.name),
                "atTheLatestInSeconds": seconds(old.until),
            })).collect::<Vec<_>>(),
            "issued": self.counts.issued.value(),
        })
    }

    /// The replacement of a root, in numbers: its phase and how many roots are trusted.
    pub(crate) fn phase(&self) -> (Phase, usize) {
        let rotation = self.rotation.lock();
        (rotation.phase(), rotation.bundle().len())
    }

    /// Tells everybody what is trusted now.
    fn publish(&self) -> Result<(), CaError> {
        let pem: Arc<str> = to_pem(&self.rotation.lock().bundle()).into();
        self.directory.write_public(store::BUNDLE, &pem)?;
        self.bundle.send_if_modified(|held| {
            let differs = *held != pem;
            *held = pem;
            differs
        });
        Ok(())
    }
}

fn open_tokens(directory: &Directory, audience: String, issuer: Option<TokenIssuer>) -> Result<Tokens, CaError> {
    let key = match directory.read(store::TOKEN_KEY)? {
        Some(key) => key,
        None => {
            let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256);
            let key = key.map_err(|error| CaError::Signing(error.to_string()))?.serialize_pem();
            directory.write(store::TOKEN_KEY, &key)?;
            key
        }
    };
    Tokens::new(&key, audience, issuer)
}

fn mint(tokens: &Tokens, domain: &str, namespace: &str, account: &str, ttl: Duration) -> Result<String, CaError> {
    if Identity::new(domain, namespace, account).is_none() {
        return Err(CaError::Name(format!("{namespace}/{account}")));
    }
    let account = Account { namespace: namespace.to_owned(), name: account.to_owned() };
    tokens.mint(&account, ttl, SystemTime::now())
}
