//! Objects as people name them on the command line: `virtualservice/reviews.default`, `vs/reviews`.

use std::fmt;

use anyhow::{Result, bail};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::model::kinds::Kind;

/// Short names, as in kubectl and istioctl.
const SHORT: [(&str, Kind); 12] = [
    ("vs", Kind::VirtualService),
    ("dr", Kind::DestinationRule),
    ("gw", Kind::IstioGateway),
    ("se", Kind::ServiceEntry),
    ("we", Kind::WorkloadEntry),
    ("ef", Kind::EnvoyFilter),
    ("ap", Kind::AuthorizationPolicy),
    ("svc", Kind::Service),
    ("cm", Kind::ConfigMap),
    ("ep", Kind::Endpoints),
    ("ing", Kind::Ingress),
    ("po", Kind::Pod),
];

/// The name of an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ObjectName {
    kind: Kind,
    namespace: String,
    name: String,
}

impl ObjectName {
    /// Reads `KIND/NAME`, or `KIND/NAME.NAMESPACE` if the namespace is not told; it is `default` if nobody tells.
    ///
    /// # Errors
    /// A kind that is not known, or no name.
    pub(super) fn parse(text: &str, namespace: Option<&str>) -> Result<Self> {
        let Some((kind, name)) = text.split_once('/').filter(|(_, name)| !name.is_empty()) else {
            bail!("{text:?} names no object; KIND/NAME.NAMESPACE does, for example virtualservice/reviews.default");
        };
        let kind = find(kind)?;
        let (name, namespace) = match (namespace, name.rsplit_once('.')) {
            (Some(namespace), _) => (name, namespace),
            (None, Some((name, namespace))) if kind.is_namespaced() => (name, namespace),
            (None, _) => (name, "default"),
        };
        let namespace = if kind.is_namespaced() { namespace } else { "" };
        Ok(Self { kind, namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// It, in a query.
    pub(super) fn query(&self) -> String {
        utf8_percent_encode(&self.to_string(), NON_ALPHANUMERIC).to_string()
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name } = self;
        if namespace.is_empty() { write!(f, "{kind} {name}") } else { write!(f, "{kind} {namespace}/{name}") }
    }
}

/// A kind by its name in any case, in the plural, or short.
fn find(text: &str) -> Result<Kind> {
    let wanted = text.to_ascii_lowercase();
    let is = |kind: &Kind| {
        let name = kind.group_and_name().1.to_ascii_lowercase();
        let plural = match name.strip_suffix('y').filter(|stem| !stem.ends_with('a')) {
            Some(stem) => format!("{stem}ies"),
            None if name.ends_with('s') && !name.ends_with("ss") => name.clone(),
            None if name.ends_with('s') => format!("{name}es"),
            None => format!("{name}s"),
        };
        wanted == name || wanted == plural
    };
    let short = SHORT.iter().find(|(short, _)| *short == wanted).map(|(_, kind)| *kind);
    match short.or_else(|| Kind::ALL.iter().copied().find(is)) {
        Some(kind) => Ok(kind),
        None => bail!("{text:?} is not a kind that configures the mesh; virtualservice, destinationrule, gateway are"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_people_write_them() {
        let read = |text: &str, namespace| ObjectName::parse(text, namespace).map(|name| name.to_string());
        for (text, namespace, expected) in [
            ("virtualservice/reviews", None, "VirtualService default/reviews"),
            ("VirtualService/reviews.shop", None, "VirtualService shop/reviews"),
            ("vs/a.b", Some("shop"), "VirtualService shop/a.b"),
            ("authorizationpolicies/all.x", None, "AuthorizationPolicy x/all"),
            ("gateways/main", None, "Gateway default/main"),
            ("httproute/r", None, "HTTPRoute default/r"),
            ("serviceentries/e", None, "ServiceEntry default/e"),
            ("ingresses/e", None, "Ingress default/e"),
            ("gatewayclass/weft.io", None, "GatewayClass weft.io"),
        ] {
            assert_eq!(read(text, namespace).unwrap(), expected);
        }
        assert!(read("reviews", None).unwrap_err().to_string().contains("virtualservice/reviews.default"));
        assert!(read("thing/reviews", None).is_err() && read("vs/", None).is_err());
        assert_eq!(ObjectName::parse("vs/a", None).unwrap().query(), "VirtualService%20default%2Fa");
    }
}
