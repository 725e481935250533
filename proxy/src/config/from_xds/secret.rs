//! Secrets: certificates with keys, trust, ticket keys and other secret text.

use weft_proto::pb::envoy::extensions::transport_sockets::tls::v3 as tls;

use super::ctx::{Ctx, Out};
use super::{SecretType, tls_validation, value};
use crate::config::{DataSource, Secret, SecretKind, TlsCertificate};

/// What a secret is asked for by; `None`: it is nothing.
pub(super) fn key(s: &tls::Secret) -> Option<(SecretType, String)> {
    use tls::secret::Type as T;
    let kind = match s.r#type.as_ref()? {
        T::TlsCertificate(_) => SecretType::Certificate,
        T::ValidationContext(_) => SecretType::Validation,
        T::SessionTicketKeys(_) => SecretType::TicketKeys,
        T::GenericSecret(_) => SecretType::Generic,
    };
    Some((kind, s.name.clone()))
}

/// What a secret is asked for as.
pub(super) fn kind(kind: &SecretKind) -> SecretType {
    match kind {
        SecretKind::Certificate(_) => SecretType::Certificate,
        SecretKind::Validation(_) => SecretType::Validation,
        SecretKind::TicketKeys(_) => SecretType::TicketKeys,
        SecretKind::Generic(_) => SecretType::Generic,
    }
}

/// A named secret.
pub(super) fn secret(c: &Ctx<'_>, s: &tls::Secret) -> Out<Secret> {
    use tls::secret::Type as T;
    let kind = match &s.r#type {
        None => {
            return c.refuse(
                "a secret is required: tls_certificate, validation_context, session_ticket_keys or generic_secret",
            );
        }
        Some(T::TlsCertificate(t)) => SecretKind::Certificate(certificate(&c.field("tls_certificate"), t)?),
        Some(T::ValidationContext(v)) => {
            SecretKind::Validation(Box::new(tls_validation::validation(&c.field("validation_context"), v)?))
        }
        Some(T::SessionTicketKeys(k)) => SecretKind::TicketKeys(ticket_keys(&c.field("session_ticket_keys"), k)?),
        Some(T::GenericSecret(g)) => {
            let c = c.field("generic_secret");
            if !g.secrets.is_empty() {
                return c.field("secrets").unsupported("a map of secrets");
            }
            SecretKind::Generic(c.required("secret", &g.secret, value::data_source)?)
        }
    };
    Ok(Secret { name: s.name.clone(), kind })
}

/// A certificate with its key.
pub(super) fn certificate(c: &Ctx<'_>, t: &tls::TlsCertificate) -> Out<TlsCertificate> {
    if t.pkcs12.is_some() {
        return c.field("pkcs12").unsupported("PKCS #12");
    }
    if t.private_key_provider.is_some() {
        return c.field("private_key_provider").unsupported("a private key provider");
    }
    let chain = c.required("certificate_chain", &t.certificate_chain, value::data_source);
    let private_key = c.required("private_key", &t.private_key, value::data_source);
    Ok(TlsCertificate {
        chain: chain?,
        private_key: private_key?,
        password: c.opt("password", &t.password, value::data_source)?,
        ocsp_staple: c.opt("ocsp_staple", &t.ocsp_staple, value::data_source)?,
        watched_directory: c.opt("watched_directory", &t.watched_directory, value::watched_directory)?,
    })
}

/// Ticket keys, of 80 bytes each; their length is checked where they are read.
pub(super) fn ticket_keys(c: &Ctx<'_>, k: &tls::TlsSessionTicketKeys) -> Out<Vec<DataSource>> {
    c.field("keys").ensure(!k.keys.is_empty(), || "value must contain at least 1 item(s)".into())?;
    c.each("keys", &k.keys, value::data_source)
}
