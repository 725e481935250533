//! What a certificate verifier needs to know of its connection, and what the connection wants to know from it.
//!
//! The library's verifiers are shared by all connections of a context and are given nothing but a chain. While a handshake is
//! polled, its own [`Observed`] lies in a thread-local: the verifier runs within the poll, on the same thread. Runs on: workers.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;

use rustls::SignatureScheme;

use super::validator::{NameRules, Refusal, Verdict};
use crate::stream_info::PeerCertificate;

/// One handshake's exchange with the verifier.
#[derive(Debug, Default)]
pub(super) struct Observed {
    /// In: names the peer's certificate must have.
    pub(super) names: NameRules,
    /// Out: what the peer presented.
    pub(super) peer: Option<Arc<PeerCertificate>>,
    /// Out: how the peer's certificate was accepted.
    pub(super) verdict: Option<Verdict>,
    /// Out: why it was refused.
    pub(super) refusal: Option<Refusal>,
    /// Out: what the peer signed with.
    pub(super) signature: Option<SignatureScheme>,
    /// Out: the certificate we presented.
    pub(super) local: Option<Arc<PeerCertificate>>,
}

thread_local! {
    static CURRENT: RefCell<Observed> = RefCell::new(Observed::default());
}

/// Gives access to the exchange of the handshake being polled.
pub(super) fn with_current<R>(f: impl FnOnce(&mut Observed) -> R) -> R {
    CURRENT.with_borrow_mut(f)
}

/// Runs `f`, which may call verifiers and resolvers, with the exchange in place.
pub(super) fn within<R>(observed: &mut Observed, f: impl FnOnce() -> R) -> R {
    CURRENT.with_borrow_mut(|current| std::mem::swap(current, observed));
    let result = f();
    CURRENT.with_borrow_mut(|current| std::mem::swap(current, observed));
    result
}

/// Runs a handshake with its exchange in place whenever it is polled.
pub(super) async fn observe<F: Future + Unpin>(mut handshake: F, observed: &mut Observed) -> F::Output {
    std::future::poll_fn(|cx| within(observed, || Pin::new(&mut handshake).poll(cx))).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_handshake_sees_its_own() {
        let handshake = |dns: &'static str| {
            Box::pin(async move {
                for _ in 0..3 {
                    with_current(|o| {
                        assert_eq!(o.names.dns.as_deref(), Some(dns));
                        o.verdict = Some(Verdict::Unchecked);
                    });
                    tokio::task::yield_now().await;
                }
            })
        };
        let named = |dns: &str| Observed {
            names: NameRules { dns: Some(dns.to_owned()), ..NameRules::default() },
            ..Observed::default()
        };
        let (mut a, mut b) = (named("a"), named("b"));
        tokio::join!(observe(handshake("a"), &mut a), observe(handshake("b"), &mut b));
        assert!(a.verdict.is_some() && b.verdict.is_some());
        assert!(with_current(|o| o.names.dns.is_none() && o.verdict.is_none()), "nothing is left behind");
    }
}
