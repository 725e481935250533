//! Who a workload is: its trust domain, namespace and service account, as a SPIFFE ID.

use std::fmt;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The longest SPIFFE ID (SPIFFE-ID 2.4).
const MAX_BYTES: usize = 2048;

/// An identity, as Istio names workloads: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// Who vouches for it.
    pub trust_domain: String,
    /// The namespace.
    pub namespace: String,
    /// The service account.
    pub service_account: String,
}

impl Identity {
    /// An identity of these parts; `None`: one of them cannot be part of a SPIFFE ID.
    #[must_use]
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Option<Self> {
        let segment = |text: &str| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
            !text.is_empty() && text != "." && text != ".." && text.bytes().all(plain)
        };
        // The characters of trust domains are those of segments, but lower case (SPIFFE-ID 2.1).
        let domain = segment(trust_domain) && !trust_domain.bytes().any(|b| b.is_ascii_uppercase());
        let identity = Self {
            trust_domain: trust_domain.to_owned(),
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
        };
        let short = trust_domain.len() + namespace.len() + service_account.len() < MAX_BYTES - 32;
        (domain && segment(namespace) && segment(service_account) && short).then_some(identity)
    }

    /// Reads a SPIFFE ID of this form.
    #[must_use]
    pub fn parse(uri: &str) -> Option<Self> {
        let mut parts = uri.strip_prefix("spiffe://")?.split('/');
        let (domain, ns, namespace, sa, account) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if ns != "ns" || sa != "sa" || parts.next().is_some() {
            return None;
        }
        Self::new(domain, namespace, account)
    }

    /// The identity in a certificate, which must have no other URI.
    ///
    /// # Errors
    /// Why there is none.
    pub fn of_certificate(der: &[u8]) -> Result<Self, String> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|_| "the certificate cannot be read".to_owned())?;
        let names = certificate.subject_alternative_name().map_err(|error| error.to_string())?;
        let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        let uris: Vec<&str> =
            names.iter().filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None }).collect();
        match uris[..] {
            [uri] => Self::parse(uri).ok_or_else(|| format!("the certificate is of {uri:?}, which is no workload")),
            [] => Err("the certificate has no SPIFFE ID".to_owned()),
            _ => Err("the certificate has more than one URI".to_owned()),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spiffe_ids() {
        let identity = Identity::parse("spiffe://cluster.local/ns/default/sa/bookinfo-reviews").unwrap();
        assert_eq!(identity.namespace, "default");
        assert_eq!(identity.to_string(), "spiffe://cluster.local/ns/default/sa/bookinfo-reviews");
        for bad in [
            "spiffe://cluster.local/ns/default/sa/a/b",
            "spiffe://cluster.local/ns/default/sa/",
            "spiffe://Cluster.local/ns/default/sa/a",
            "spiffe://cluster.local/ns/../sa/a",
            "spiffe:///ns/default/sa/a",
            "spiffe://cluster.local/sa/default/ns/a",
            "https://cluster.local/ns/default/sa/a",
            "spiffe://cluster.local/ns/default/sa/a b",
        ] {
            assert_eq!(Identity::parse(bad), None, "{bad}");
        }
    }
}
