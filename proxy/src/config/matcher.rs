//! String, header and address matchers.

use std::net::IpAddr;

/// A compiled regular expression that remembers its source. **Source**: `envoy.type.matcher.v3.RegexMatcher` (RE2 syntax).
#[derive(Clone)]
pub struct Pattern {
    source: String,
    regex: regex::Regex,
}

impl Pattern {
    /// Compiles `source` so that it matches anywhere in a text.
    ///
    /// # Errors
    /// The regular expression's own error text.
    pub fn search(source: &str) -> Result<Self, String> {
        Self::compile(source, source.to_owned())
    }

    /// Compiles `source` so that it must match a whole text, as Envoy's matchers do.
    ///
    /// # Errors
    /// The regular expression's own error text.
    pub fn full(source: &str) -> Result<Self, String> {
        Self::compile(source, format!("^(?:{source})$"))
    }

    fn compile(source: &str, regex: String) -> Result<Self, String> {
        // 1 MiB of program: far beyond any sane route and far below what would hurt.
        let regex =
            regex::RegexBuilder::new(&regex).size_limit(1 << 20).build().map_err(|e| format!("invalid regex: {e}"))?;
        Ok(Pattern { source: source.to_owned(), regex })
    }

    /// The expression as configured.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The compiled expression.
    pub fn regex(&self) -> &regex::Regex {
        &self.regex
    }

    /// Whether it matches.
    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.regex.as_str() == other.regex.as_str()
    }
}

impl std::fmt::Debug for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "/{}/", self.source)
    }
}

/// **Source**: `envoy.type.matcher.v3.StringMatcher`. `ignore_case` folds ASCII only.
#[derive(Debug, Clone, PartialEq)]
pub struct StringMatcher {
    /// What must match.
    pub pattern: StringPattern,
    /// Compare without ASCII case (not for regular expressions).
    pub ignore_case: bool,
}

/// The alternatives of a string matcher.
#[derive(Debug, Clone, PartialEq)]
pub enum StringPattern {
    /// The whole text.
    Exact(String),
    /// Its beginning.
    Prefix(String),
    /// Its end.
    Suffix(String),
    /// Any part of it.
    Contains(String),
    /// The whole text against an expression.
    Regex(Pattern),
}

impl StringMatcher {
    /// Matches exactly `text`.
    pub fn exact(text: impl Into<String>) -> Self {
        StringMatcher { pattern: StringPattern::Exact(text.into()), ignore_case: false }
    }

    /// Whether `text` matches.
    pub fn matches(&self, text: &str) -> bool {
        let (t, ci) = (text.as_bytes(), self.ignore_case);
        let same = |a: &[u8], b: &[u8]| if ci { a.eq_ignore_ascii_case(b) } else { a == b };
        match &self.pattern {
            StringPattern::Exact(p) => same(t, p.as_bytes()),
            StringPattern::Prefix(p) => t.len() >= p.len() && same(&t[..p.len()], p.as_bytes()),
            StringPattern::Suffix(p) => t.len() >= p.len() && same(&t[t.len() - p.len()..], p.as_bytes()),
            StringPattern::Contains(p) if !ci => memchr::memmem::find(t, p.as_bytes()).is_some(),
            StringPattern::Contains(p) => p.is_empty() || t.windows(p.len()).any(|w| same(w, p.as_bytes())),
            StringPattern::Regex(p) => p.is_match(text),
        }
    }
}

/// **Source**: `envoy.config.route.v3.HeaderMatcher`. Repeated headers match if the values, tried one by one, match.
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderMatcher {
    /// Lower-case name; `:path`, `:method`, `:authority`, `:scheme` and `host` name the request's own parts.
    pub name: String,
    /// What the value must be.
    pub value: HeaderValueMatcher,
    /// Turns the result round.
    pub invert: bool,
    /// A missing header counts as an empty value instead of as no match.
    pub treat_missing_as_empty: bool,
}

/// What a header's value must be.
#[derive(Debug, Clone, PartialEq)]
pub enum HeaderValueMatcher {
    /// Present (`true`) or absent (`false`).
    Present(bool),
    /// A string matcher.
    String(StringMatcher),
    /// A whole decimal integer within `start..end`.
    Range {
        /// Inclusive.
        start: i64,
        /// Exclusive.
        end: i64,
    },
}

/// **Source**: `envoy.config.core.v3.CidrRange`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    /// Network address; bits beyond the prefix are zero.
    pub address: IpAddr,
    /// Prefix length, at most 32 or 128.
    pub prefix: u8,
}

impl Cidr {
    /// A range with the host bits cleared; `None` if the prefix is too long for the address family.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(a) if prefix <= 32 => IpAddr::V4((u32::from(a) & mask32(prefix)).into()),
            IpAddr::V6(a) if prefix <= 128 => IpAddr::V6((u128::from(a) & mask128(prefix)).into()),
            _ => return None,
        };
        Some(Cidr { address, prefix })
    }

    /// Whether `ip` lies within; an IPv4 address never matches an IPv6 range.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip) {
            (IpAddr::V4(n), IpAddr::V4(a)) => u32::from(a) & mask32(self.prefix) == u32::from(n),
            (IpAddr::V6(n), IpAddr::V6(a)) => u128::from(a) & mask128(self.prefix) == u128::from(n),
            _ => false,
        }
    }
}

fn mask32(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

fn mask128(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cidr_edges() {
        let all = Cidr::new("10.1.2.3".parse().unwrap(), 0).unwrap();
        assert!(all.contains("255.0.0.1".parse().unwrap()));
        let one = Cidr::new("10.1.2.3".parse().unwrap(), 32).unwrap();
        assert!(one.contains("10.1.2.3".parse().unwrap()) && !one.contains("10.1.2.2".parse().unwrap()));
        let six = Cidr::new("2001:db8::1".parse().unwrap(), 64).unwrap();
        assert!(six.contains("2001:db8::ffff".parse().unwrap()) && !six.contains("10.0.0.1".parse().unwrap()));
        assert!(Cidr::new("10.0.0.1".parse().unwrap(), 33).is_none());
    }

    #[test]
    fn string_matchers() {
        let m = |pattern, ignore_case| StringMatcher { pattern, ignore_case };
        assert!(m(StringPattern::Prefix("Ab".into()), true).matches("aBc"));
        assert!(!m(StringPattern::Prefix("Ab".into()), false).matches("aBc"));
        assert!(m(StringPattern::Suffix("".into()), false).matches(""));
        assert!(m(StringPattern::Contains("BC".into()), true).matches("abcd"));
        assert!(m(StringPattern::Regex(Pattern::full("a.c").unwrap()), false).matches("abc"));
        assert!(!m(StringPattern::Regex(Pattern::full("a.c").unwrap()), false).matches("xabc"));
    }
}
