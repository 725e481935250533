//! The identity of the workload: `weft.identity.v1.WorkloadIdentity` among `bootstrap_extensions`.

use std::time::Duration;

use prost::Name as _;
use weft_proto::own::identity as own;
use weft_proto::pb::envoy::config::core::v3::TypedExtensionConfig;

use super::ctx::{Ctx, Out, type_name};
use super::source;
use crate::config::{ApiConfigSource, GrpcTarget, KeyType, WorkloadIdentity};

/// Istio's.
const TRUST_DOMAIN: &str = "cluster.local";
const TTL: Duration = Duration::from_secs(24 * 3600);
const SDS_CLUSTER: &str = "sds-grpc";
/// A certificate that lives shorter is renewed without end.
const MIN_TTL: Duration = Duration::from_secs(2);

/// The extensions of a bootstrap; there is one kind.
pub(super) fn extensions(c: &Ctx<'_>, all: &[TypedExtensionConfig]) -> Out<Option<WorkloadIdentity>> {
    let mut found = None;
    for (i, extension) in all.iter().enumerate() {
        let at = c.index("bootstrap_extensions", i);
        let c = at.field("typed_config");
        let any = extension.typed_config.as_ref();
        match any {
            Some(any) if type_name(any) == own::WorkloadIdentity::full_name() => {
                c.ensure(found.is_none(), || "a proxy has one identity".into())?;
                found = Some(identity(&c, &c.unpack(any)?)?);
            }
            _ => return c.unknown_extension(&extension.name, any),
        }
    }
    Ok(found)
}

fn identity(c: &Ctx<'_>, i: &own::WorkloadIdentity) -> Out<WorkloadIdentity> {
    let ca = c.required("ca", &i.ca, |c, service| {
        source::without_effect(c, service);
        let (target, (back_off_base, back_off_max)) = source::target(c, service)?;
        if !matches!(target, GrpcTarget::Envoy { .. }) {
            return c.field("google_grpc").unsupported("an authority outside the clusters of the bootstrap");
        }
        Ok(ApiConfigSource {
            delta: false,
            target,
            set_node_on_first_message_only: false,
            back_off_base,
            back_off_max,
            rate_limit: None,
            metadata: source::metadata(c, service)?,
        })
    });
    let ttl = c.duration("ttl", &i.ttl)?.unwrap_or(TTL);
    c.field("ttl").ensure(ttl >= MIN_TTL, || format!("value must be at least {MIN_TTL:?}"))?;
    let key = match c.enumeration::<own::KeyType>("key_type", i.key_type)? {
        own::KeyType::EcdsaP256 => KeyType::P256,
        own::KeyType::EcdsaP384 => KeyType::P384,
    };
    let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
    let trust_domain = segment(c, "trust_domain", or(&i.trust_domain, TRUST_DOMAIN))?;
    let namespace = segment(c, "namespace", i.namespace.clone())?;
    let account = segment(c, "service_account", or(&i.service_account, "default"))?;
    Ok(WorkloadIdentity {
        ca: ca?,
        token_path: Some(i.token_path.clone()).filter(|path| !path.is_empty()),
        spiffe_id: format!("spiffe://{trust_domain}/ns/{namespace}/sa/{account}"),
        ttl,
        key,
        sds_cluster: or(&i.sds_cluster_name, SDS_CLUSTER),
    })
}

/// A part of a SPIFFE ID (SPIFFE-ID 2.1, 2.2).
fn segment(c: &Ctx<'_>, field: &'static str, text: String) -> Out<String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let good = !text.is_empty() && text != "." && text != ".." && text.len() <= 253 && text.bytes().all(plain);
    c.field(field).ensure(good, || format!("'{text}' cannot be part of a SPIFFE ID"))?;
    Ok(text)
}
