//! Host names: short, full, with wildcards.

use std::sync::Arc;

/// The domain of Kubernetes' Services.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// The full name of a Kubernetes Service.
#[must_use]
pub fn service_host(name: &str, namespace: &str) -> String {
    format!("{name}.{namespace}.svc.{CLUSTER_DOMAIN}")
}

/// Completes a short name, as Istio does: one without dots is a Service of that namespace.
#[must_use]
pub fn resolve(host: &str, namespace: &str) -> Arc<str> {
    if host.contains(['.', '*']) || host.is_empty() { host.into() } else { service_host(host, namespace).into() }
}

/// Whether it stands for several hosts.
#[must_use]
pub fn is_wildcard(host: &str) -> bool {
    host.starts_with('*')
}

/// Whether `pattern` (`*`, `*.example.com` or a name) covers `host`, which may be a wildcard, too.
#[must_use]
pub fn covers(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => host.len() >= suffix.len() && host.strip_prefix('*').unwrap_or(host).ends_with(suffix),
        None => pattern.eq_ignore_ascii_case(host),
    }
}

/// Whether there are names that both cover.
#[must_use]
pub fn overlap(a: &str, b: &str) -> bool {
    covers(a, b) || covers(b, a)
}

/// What orders patterns by how much they say: full names first, then the longer wildcard, then `*`.
#[must_use]
pub fn specificity(host: &str) -> (bool, std::cmp::Reverse<usize>) {
    (is_wildcard(host), std::cmp::Reverse(host.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(&*resolve("reviews", "ns"), "reviews.ns.svc.cluster.local");
        assert_eq!(&*resolve("reviews.ns", "x"), "reviews.ns");
        assert_eq!(&*resolve("*", "ns"), "*");
        assert!(covers("*", "a.b") && covers("*.b", "a.b") && covers("*.b", "*.a.b") && covers("A.b", "a.b"));
        assert!(!covers("*.b", "b") && !covers("*.a.b", "*.b") && !covers("a", "*"));
        assert!(overlap("*.b", "*.a.b") && !overlap("*.a", "*.b"));
    }
}
