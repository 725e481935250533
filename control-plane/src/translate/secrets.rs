//! Certificates and keys, from Secrets and ConfigMaps.
//!
//! A proxy gets what its own listeners and clusters name, and nothing else: `kubernetes://name` is a Secret of its own
//! namespace, `kubernetes-gateway://namespace/name` one that a Gateway may refer to.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;

use super::cluster::Target;
use super::gateway;
use super::upstream_tls::{authority_name, secret_name};
use super::view::View;
use crate::model::kinds::Kind;
use crate::model::kinds::destination_rule::ClientTlsMode;
use crate::model::kinds::gateway::ServerTlsMode;
use crate::model::kinds::service::{ConfigMap, Secret};
use crate::node::ProxyKind;

/// The name of the secret that holds the roots of the mesh (Istio's).
pub const TRUST_BUNDLE: &str = "ROOTCA";
/// What ends the name of the certificates a Secret trusts.
const AUTHORITY: &str = "-cacert";

/// The secrets a proxy's listeners and clusters name, as far as they exist.
pub(super) fn all(view: &View<'_>, targets: &[Target<'_>]) -> Vec<pb::Secret> {
    let mut names: BTreeSet<String> = BTreeSet::new();
    for of in targets.iter().filter_map(|target| target.policy.tls) {
        let Some(credential) = of.credential_name.as_deref().filter(|name| !name.is_empty()) else { continue };
        names.insert(authority_name(credential));
        if of.mode == ClientTlsMode::Mutual {
            names.insert(secret_name(credential));
        }
    }
    if view.proxy.kind == ProxyKind::Gateway {
        for tls in gateway::servers(view).filter_map(|of| of.server.tls.as_ref()) {
            for credential in tls.credential_name.iter().chain(&tls.credential_names).filter(|name| !name.is_empty()) {
                names.insert(secret_name(credential));
                if matches!(tls.mode, ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual) {
                    names.insert(authority_name(credential));
                }
            }
            let authority = tls.ca_cert_credential_name.as_deref().filter(|name| !name.is_empty());
            names.extend(authority.map(authority_name));
        }
    }
    let named = names.iter().filter_map(|name| secret(view, name));
    let trust = view.world.trust().filter(|_| view.proxy.kind != ProxyKind::Grpc).map(|roots| trust_bundle(roots));
    named.chain(trust).collect()
}

/// The roots of the mesh as a secret.
pub(super) fn trust_bundle(roots: &str) -> pb::Secret {
    pb::Secret { name: TRUST_BUNDLE.to_owned(), r#type: Some(trusted(roots.as_bytes().to_vec())) }
}

/// The secret of this name.
fn secret(view: &View<'_>, name: &str) -> Option<pb::Secret> {
    let (scheme, rest) = name.split_once("://")?;
    let (namespace, object) = rest.split_once('/').unwrap_or((&view.proxy.namespace, rest));
    let authority = object.strip_suffix(AUTHORITY);
    let kind = match (scheme, authority) {
        ("configmap", Some(object)) => {
            let map = view.world.objects().get(Kind::ConfigMap, namespace, object)?;
            trusted(map.of::<ConfigMap>()?.data.get("ca.crt")?.clone().into_bytes())
        }
        (_, Some(object)) => {
            // One of its own, as Istio has it, else a key of the Secret itself.
            let own = Content::find(view, namespace, &format!("{object}{AUTHORITY}"));
            let content = own.or_else(|| Content::find(view, namespace, object))?;
            trusted(content.get(&["ca.crt", "cacert"])?)
        }
        (_, None) => {
            let content = Content::find(view, namespace, object)?;
            let certificate = pb::TlsCertificate {
                certificate_chain: Some(inline(content.get(&["tls.crt", "cert"])?)),
                private_key: Some(inline(content.get(&["tls.key", "key"])?)),
                ..Default::default()
            };
            pb::secret::Type::TlsCertificate(certificate)
        }
    };
    Some(pb::Secret { name: name.to_owned(), r#type: Some(kind) })
}

fn trusted(authorities: Vec<u8>) -> pb::secret::Type {
    let context = pb::CertificateValidationContext { trusted_ca: Some(inline(authorities)), ..Default::default() };
    pb::secret::Type::ValidationContext(context)
}

fn inline(bytes: Vec<u8>) -> core::DataSource {
    core::DataSource { specifier: Some(core::data_source::Specifier::InlineBytes(bytes)), ..Default::default() }
}

/// What a Secret holds.
struct Content<'w>(&'w Secret);

impl<'w> Content<'w> {
    fn find(view: &View<'w>, namespace: &str, name: &str) -> Option<Self> {
        view.world.objects().get(Kind::Secret, namespace, name)?.of::<Secret>().map(Self)
    }

    /// The value of the first of these keys that is there.
    fn get(&self, keys: &[&str]) -> Option<Vec<u8>> {
        keys.iter().find_map(|key| {
            let plain = self.0.string_data.get(*key).map(|text| text.clone().into_bytes());
            plain.or_else(|| {
                let text: String = self.0.data.get(*key)?.split_whitespace().collect();
                STANDARD.decode(text).ok()
            })
        })
    }
}
