//! What a condition of an AuthorizationPolicy looks at.

/// A key of a condition. **Source**: `security.istio.io/v1.Condition.key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute<'a> {
    /// `source.ip`
    SourceIp,
    /// `remote.ip`
    RemoteIp,
    /// `source.namespace`
    SourceNamespace,
    /// `source.principal`
    SourcePrincipal,
    /// `source.serviceAccount`
    SourceServiceAccount,
    /// `source.trustDomain`
    SourceTrustDomain,
    /// `destination.ip`
    DestinationIp,
    /// `destination.port`
    DestinationPort,
    /// `connection.sni`
    Sni,
    /// `request.headers[name]`
    Header(&'a str),
    /// `request.auth.principal`
    RequestPrincipal,
    /// `request.auth.audiences`
    Audiences,
    /// `request.auth.presenter`
    Presenter,
    /// `request.auth.claims[outer][inner]`
    Claims(Vec<String>),
    /// `experimental.envoy.filters.name[key]`: what a filter left in the dynamic metadata.
    Metadata {
        /// The filter.
        filter: &'a str,
        /// The key of what it left.
        key: &'a str,
    },
}

impl<'a> Attribute<'a> {
    /// Reads a key. `None`: there is no such attribute.
    #[must_use]
    pub fn parse(key: &'a str) -> Option<Self> {
        Some(match key {
            "source.ip" => Self::SourceIp,
            "remote.ip" => Self::RemoteIp,
            "source.namespace" => Self::SourceNamespace,
            "source.principal" => Self::SourcePrincipal,
            "source.serviceAccount" => Self::SourceServiceAccount,
            "source.trustDomain" => Self::SourceTrustDomain,
            "destination.ip" => Self::DestinationIp,
            "destination.port" => Self::DestinationPort,
            "connection.sni" => Self::Sni,
            "request.auth.principal" => Self::RequestPrincipal,
            "request.auth.audiences" => Self::Audiences,
            "request.auth.presenter" => Self::Presenter,
            _ => return Self::with_name(key),
        })
    }

    fn with_name(key: &'a str) -> Option<Self> {
        let open = key.find('[')?;
        let inner = key[open..].strip_prefix('[')?.strip_suffix(']').filter(|inner| !inner.is_empty())?;
        match &key[..open] {
            "request.headers" => {
                let name = inner.strip_prefix(':').unwrap_or(inner);
                http::HeaderName::try_from(name).is_ok().then_some(Self::Header(inner))
            }
            "request.auth.claims" => Some(Self::Claims(levels(inner))),
            other => {
                let filter = other.strip_prefix("experimental.")?;
                filter.starts_with("envoy.filters.").then_some(Self::Metadata { filter, key: inner })
            }
        }
    }

    /// Whether only tokens have it.
    #[must_use]
    pub fn is_of_token(&self) -> bool {
        matches!(self, Self::RequestPrincipal | Self::Audiences | Self::Presenter | Self::Claims(_))
    }
}

/// `outer][inner` by its levels; brackets that do not fit are part of one name, as in Istio.
fn levels(inner: &str) -> Vec<String> {
    let parts: Vec<&str> = inner.split("][").collect();
    if parts.iter().any(|part| part.is_empty() || part.contains(['[', ']'])) {
        return vec![inner.to_owned()];
    }
    parts.into_iter().map(str::to_owned).collect()
}

/// Whether a header of a VirtualService's match means claims of a token.
#[must_use]
pub fn is_claims(header: &str) -> bool {
    header.starts_with('@')
}

/// The claims that a header of a VirtualService's match means: `@request.auth.claims.outer.inner`, `@request.auth.claims[outer][inner]`.
#[must_use]
pub fn routing_claims(header: &str) -> Option<Vec<String>> {
    const PREFIX: &str = "@request.auth.claims";
    let rest = header.get(PREFIX.len()..).filter(|_| header[..PREFIX.len()].eq_ignore_ascii_case(PREFIX))?;
    if let Some(dotted) = rest.strip_prefix('.').filter(|dotted| !dotted.is_empty()) {
        return Some(dotted.split('.').map(str::to_owned).collect());
    }
    let inner = rest.strip_prefix('[')?.strip_suffix(']').filter(|inner| !inner.is_empty())?;
    Some(inner.split("][").map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read() {
        let claims = |path: &[&str]| Some(Attribute::Claims(path.iter().map(|&of| of.to_owned()).collect()));
        assert_eq!(Attribute::parse("source.ip"), Some(Attribute::SourceIp));
        assert_eq!(Attribute::parse("request.headers[X-A]"), Some(Attribute::Header("X-A")));
        assert_eq!(Attribute::parse("request.auth.claims[a]"), claims(&["a"]));
        assert_eq!(Attribute::parse("request.auth.claims[a][b]"), claims(&["a", "b"]));
        assert_eq!(Attribute::parse("request.auth.claims[a[b]]"), claims(&["a[b]"]));
        let metadata = Attribute::Metadata { filter: "envoy.filters.network.mysql_proxy", key: "db" };
        assert_eq!(Attribute::parse("experimental.envoy.filters.network.mysql_proxy[db]"), Some(metadata));
        for unknown in [
            "",
            "source",
            "request.headers",
            "request.headers[]",
            "request.headers[a b]",
            "request.auth.claims[",
            "experimental.x[y]",
        ] {
            assert_eq!(Attribute::parse(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn headers_of_claims_are_read() {
        let path = |of: &[&str]| Some(of.iter().map(|&of| of.to_owned()).collect::<Vec<_>>());
        assert_eq!(routing_claims("@request.auth.claims.group.id"), path(&["group", "id"]));
        assert_eq!(routing_claims("@request.auth.claims[a.b][c]"), path(&["a.b", "c"]));
        for none in
            ["x-a", "@request.auth.claims", "@request.auth.claims.", "@request.auth.claims[]", "@request.auth.claimsé"]
        {
            assert_eq!(routing_claims(none), None, "{none}");
        }
    }
}
