//! The trust domain of a mesh and those it had before: whoever has an identity of one is meant by another, too.

use super::kinds::mesh_config::MeshConfig;

/// What policies write for the mesh's own trust domain, whatever that is.
const LOCAL: &str = "cluster.local";

/// The trust domain, then its aliases.
#[derive(Debug, Clone, Copy)]
pub struct TrustDomains<'a> {
    own: &'a str,
    aliases: &'a [String],
}

impl<'a> TrustDomains<'a> {
    /// Those of a mesh.
    #[must_use]
    pub fn of(mesh: &'a MeshConfig) -> Self {
        Self { own: mesh.trust_domain(), aliases: &mesh.trust_domain_aliases }
    }

    fn all(self) -> impl Iterator<Item = &'a str> + Clone {
        std::iter::once(self.own).chain(self.aliases.iter().map(String::as_str))
    }

    /// A principal of a policy in every trust domain that it means.
    #[must_use]
    pub fn of_principal(self, principal: &str) -> Vec<String> {
        let parts: Vec<&str> = principal.split('/').collect();
        let ([domain, rest @ ..], 5) = (&parts[..], parts.len()) else { return vec![principal.to_owned()] };
        let ours = *domain == LOCAL || self.all().any(|own| fits(own, domain) || fits(domain, own));
        if *domain == "*" || !ours {
            return vec![principal.to_owned()];
        }
        let rest = rest.join("/");
        let mut made: Vec<String> = Vec::new();
        for own in self.all() {
            // One that is meant by a wildcard needs no principal of its own.
            let meant = domain.strip_prefix('*').is_some_and(|suffix| own.ends_with(suffix));
            let next = if meant { principal.to_owned() } else { format!("{own}/{rest}") };
            if !made.contains(&next) {
                made.push(next);
            }
        }
        made
    }

    /// A trust domain of a policy, with those it means as well.
    #[must_use]
    pub fn of_domain(self, domain: &str) -> Vec<String> {
        if self.all().any(|own| own == domain) {
            return self.all().map(str::to_owned).collect();
        }
        vec![domain.to_owned()]
    }
}

/// Whether a text is a pattern's: `*`, `*x`, `x*` or `x`.
fn fits(text: &str, pattern: &str) -> bool {
    pattern == text
        || pattern.strip_prefix('*').is_some_and(|suffix| text.ends_with(suffix))
        || pattern.strip_suffix('*').is_some_and(|prefix| text.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_is_meant_in_every_domain_of_the_mesh() {
        let aliases = ["old-td".to_owned(), "older-td".to_owned()];
        let domains = TrustDomains { own: "new-td", aliases: &aliases };
        let all = ["new-td/ns/a/sa/b", "old-td/ns/a/sa/b", "older-td/ns/a/sa/b"];
        assert_eq!(domains.of_principal("new-td/ns/a/sa/b"), all);
        assert_eq!(domains.of_principal("older-td/ns/a/sa/b"), all);
        assert_eq!(domains.of_principal("cluster.local/ns/a/sa/b"), all);
        for as_it_is in ["*/ns/a/sa/b", "other/ns/a/sa/b", "*", "*/sa/b", "*-td/ns/a/sa/b"] {
            assert_eq!(domains.of_principal(as_it_is), [as_it_is]);
        }
        assert_eq!(domains.of_domain("old-td"), ["new-td", "old-td", "older-td"]);
        assert_eq!(domains.of_domain("other"), ["other"]);
    }
}
