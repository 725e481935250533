//! Network filters that let a connection's first bytes through, or do not, in their order.
//!
//! As in Envoy the judgement waits for the first bytes: what a connection leads to is opened meanwhile, and what that says first
//! reaches the client. Runs on: workers.

use std::sync::Arc;

use super::ext_authz::ExtAuthz;
use super::rbac::Rbac;
use crate::stream_info::ConnInfo;
use crate::transport::{Admission, Stream};

/// A filter that judges connections.
#[derive(Clone)]
pub(super) enum Guard {
    /// `envoy.filters.network.rbac`
    Rbac(Arc<Rbac>),
    /// `envoy.filters.network.ext_authz`
    ExtAuthz(Arc<ExtAuthz>),
}

/// The same stream, of which nothing gets through before `guards`, in their order, have let it.
pub(super) fn guard(stream: Stream, guards: &Arc<[Guard]>, conn: &Arc<ConnInfo>) -> Stream {
    if guards.is_empty() {
        return stream;
    }
    let (guards, conn, mut first) = (guards.clone(), conn.clone(), true);
    Stream::gated(stream, move || judge(&guards, &conn, 0, std::mem::take(&mut first), None))
}

/// Asks the guards from number `from` on; `first`: about the first bytes; `said`: what RBAC's shadow rules said so far.
fn judge(
    guards: &Arc<[Guard]>,
    conn: &Arc<ConnInfo>,
    from: usize,
    first: bool,
    mut said: Option<Arc<serde_json::Value>>,
) -> Admission {
    let (mut refused, mut again) = (None, false);
    for (at, guard) in guards.iter().enumerate().skip(from) {
        match guard {
            Guard::Rbac(rbac) => {
                refused = rbac.refuses(conn, first, &mut said);
                if refused.is_some() {
                    break;
                }
            }
            // One that says nothing is asked again, and says so again; the others are asked once.
            Guard::ExtAuthz(authz) if authz.is_disabled(conn, said.as_deref()) => again = true,
            Guard::ExtAuthz(_) if !first => {}
            Guard::ExtAuthz(authz) => {
                let (authz, guards, conn) = (authz.clone(), guards.clone(), conn.clone());
                // Those behind it are asked when it has answered.
                return Admission::Wait(Box::pin(async move {
                    if authz.allows(&conn).await {
                        judge(&guards, &conn, at + 1, first, said)
                    } else {
                        keep(&conn, said);
                        Admission::Refused(None)
                    }
                }));
            }
        }
    }
    keep(conn, said);
    let continuous = || guards.iter().any(|g| matches!(g, Guard::Rbac(rbac) if rbac.is_continuous()));
    match refused {
        Some(delay) => Admission::Refused(delay),
        None if again || continuous() => Admission::AskAgain,
        None => Admission::Open,
    }
}

fn keep(conn: &ConnInfo, said: Option<Arc<serde_json::Value>>) {
    if let Some(said) = said {
        // What is judged does not change, so neither does what was said first.
        conn.rbac.get_or_init(|| said);
    }
}
