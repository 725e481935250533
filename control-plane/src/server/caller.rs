//! Who calls, as far as they have proven it.
//!
//! Owns which proof counts: a certificate of the mesh, or a token of a service account. Must not know: what is asked for.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use tonic::Status;
use tonic::transport::server::TcpConnectInfo;

use super::secure::Peer;
use crate::ca::{Ca, Identity};
use crate::node::Proxy;

/// Which port a call came by, and who is let in there.
#[derive(Clone, Debug)]
pub(super) enum Door {
    /// Nobody is asked.
    Open,
    /// Everybody must prove who they are, but for health checks.
    Guarded {
        /// Whose tokens count.
        ca: Option<Arc<Ca>>,
        /// Who proves nothing is let in as well.
        any_client: bool,
    },
}

/// A caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// Nobody has asked, or it need not say.
    Anybody,
    /// It has proven to be this workload.
    Proven(Identity),
}

/// From where a call came, with what was proven on the way.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) address: Option<SocketAddr>,
    peer: Option<Peer>,
}

impl Origin {
    /// The origin of a request.
    pub(super) fn of(extensions: &http::Extensions) -> Self {
        let peer = extensions.get::<Peer>().cloned();
        let tcp = extensions.get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
        Self { address: peer.as_ref().map(|peer| peer.address).or(tcp), peer }
    }
}

impl Door {
    /// Who calls.
    ///
    /// # Errors
    /// UNAUTHENTICATED, with the reason: nothing is proven, or what is shown proves nothing.
    pub(super) fn caller(&self, origin: &Origin, headers: &HeaderMap) -> Result<Caller, Status> {
        let Self::Guarded { ca, any_client } = self else { return Ok(Caller::Anybody) };
        match proven(ca.as_deref(), origin, headers) {
            Ok(identity) => Ok(Caller::Proven(identity)),
            Err(_) if *any_client => Ok(Caller::Anybody),
            Err(reason) => Err(Status::unauthenticated(reason)),
        }
    }
}

/// Who a call is of.
///
/// # Errors
/// Why that is not known.
pub(super) fn proven(ca: Option<&Ca>, origin: &Origin, headers: &HeaderMap) -> Result<Identity, String> {
    let certificate = origin.peer.as_ref().and_then(|peer| peer.certificate.as_ref());
    let of_certificate = certificate.map(|der| Identity::of_certificate(der));
    if let Some(Ok(identity)) = of_certificate {
        return Ok(identity);
    }
    let why_not = of_certificate.and_then(Result::err);
    match (bearer(headers), ca) {
        (Some(token), Some(ca)) => ca.verify_token(token),
        (Some(_), None) => Err("tokens are not taken here, as there is no authority; show a certificate".to_owned()),
        (None, _) => Err(why_not.unwrap_or_else(|| {
            "neither a certificate of the mesh nor a token (metadata authorization: Bearer …) was shown".to_owned()
        })),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

impl Caller {
    /// Whether the caller may have what this proxy gets.
    ///
    /// # Errors
    /// PERMISSION_DENIED: its node says it is somebody else.
    pub(super) fn check(&self, proxy: &Proxy) -> Result<(), Status> {
        let Self::Proven(identity) = self else { return Ok(()) };
        let denied = |what: &str, said: &str, proven: &str| {
            let text =
                format!("the node's {what} is {said:?}, but the caller has proven to be {identity} (of {proven:?})");
            Err(Status::permission_denied(text))
        };
        if proxy.namespace != identity.namespace {
            return denied("namespace", &proxy.namespace, &identity.namespace);
        }
        let told = proxy.metadata_text("NAMESPACE");
        if !told.is_empty() && told != identity.namespace {
            return denied("metadata NAMESPACE", told, &identity.namespace);
        }
        if !proxy.service_account.is_empty() && proxy.service_account != identity.service_account {
            return denied("metadata SERVICE_ACCOUNT", &proxy.service_account, &identity.service_account);
        }
        Ok(())
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anybody => f.write_str("anybody"),
            Self::Proven(identity) => identity.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use weft_proto::pb::envoy::config::core::v3::Node;

    use super::*;

    fn headers(value: &str) -> HeaderMap {
        [(AUTHORIZATION, value.parse().unwrap())].into_iter().collect()
    }

    fn origin() -> Origin {
        Origin { address: None, peer: None }
    }

    #[tokio::test]
    async fn a_token_proves_who_calls() {
        let dir = tempfile::tempdir().unwrap();
        let ca = crate::ca::tests::authority(dir.path());
        let token = ca.mint_token("shop", "web", Duration::from_secs(60)).unwrap();
        let door = Door::Guarded { ca: Some(ca.clone()), any_client: false };
        let web = Identity::new("cluster.local", "shop", "web").unwrap();
        assert_eq!(door.caller(&origin(), &headers(&format!("Bearer {token}"))).unwrap(), Caller::Proven(web));
        for (headers, reason) in [
            (HeaderMap::new(), "neither a certificate"),
            (headers("Bearer x.y.z"), "no JWT"),
            (headers("Basic abc"), "neither a certificate"),
        ] {
            let status = door.caller(&origin(), &headers).unwrap_err();
            assert_eq!(status.code(), tonic::Code::Unauthenticated);
            assert!(status.message().contains(reason), "{status}");
        }
        let any = Door::Guarded { ca: Some(ca), any_client: true };
        assert_eq!(any.caller(&origin(), &HeaderMap::new()).unwrap(), Caller::Anybody);
    }

    #[test]
    fn a_node_must_be_the_callers() {
        let proxy = |id: &str, account: &str| {
            let text = |text: &str| weft_proto::pb::google::protobuf::Value {
                kind: Some(weft_proto::pb::google::protobuf::value::Kind::StringValue(text.to_owned())),
            };
            let fields = [("SERVICE_ACCOUNT".to_owned(), text(account))].into();
            let metadata = Some(weft_proto::pb::google::protobuf::Struct { fields });
            Proxy::from_node(&Node { id: id.to_owned(), metadata, ..Node::default() }).unwrap()
        };
        let caller = Caller::Proven(Identity::new("cluster.local", "shop", "web").unwrap());
        let in_shop = "sidecar~10.0.0.1~web-1.shop~shop.svc.cluster.local";
        assert!(caller.check(&proxy(in_shop, "web")).is_ok());
        assert!(caller.check(&proxy(in_shop, "")).is_ok());
        let denied = caller.check(&proxy(in_shop, "admin")).unwrap_err();
        assert_eq!(denied.code(), tonic::Code::PermissionDenied);
        assert!(denied.message().contains("SERVICE_ACCOUNT is \"admin\""), "{denied}");
        let elsewhere = "sidecar~10.0.0.1~web-1.bank~bank.svc.cluster.local";
        assert!(caller.check(&proxy(elsewhere, "web")).unwrap_err().message().contains("namespace is \"bank\""));
        assert!(Caller::Anybody.check(&proxy(elsewhere, "web")).is_ok());
    }
}
