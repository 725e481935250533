//! Matching a certificate's alternative names.
//!
//! Runs on: workers, once per handshake that is checked.

use crate::config::{SanKind, SanMatcher, StringPattern};
use crate::stream_info::PeerCertificate;

/// Whether any name of the certificate matches any of the matchers.
pub(super) fn any_matches(matchers: &[SanMatcher], cert: &PeerCertificate) -> bool {
    matchers.iter().any(|m| match m.kind {
        SanKind::Dns => cert.dns_sans.iter().any(|n| dns_matches(m, n)),
        SanKind::Uri => cert.uri_sans.iter().any(|n| m.matcher.matches(n)),
        SanKind::Email => cert.email_sans.iter().any(|n| m.matcher.matches(n)),
        SanKind::Ip => cert.ip_sans.iter().any(|n| m.matcher.matches(n)),
        SanKind::Any => {
            cert.dns_sans.iter().any(|n| dns_matches(m, n))
                || [&cert.uri_sans, &cert.email_sans, &cert.ip_sans]
                    .iter()
                    .any(|l| l.iter().any(|n| m.matcher.matches(n)))
        }
    })
}

/// Whether any name of the certificate is one of `wanted`; DNS names may be wildcards.
pub(super) fn any_named<S: AsRef<str>>(wanted: &[S], cert: &PeerCertificate) -> bool {
    wanted.iter().map(AsRef::as_ref).any(|w| {
        names_dns(w, cert) || [&cert.uri_sans, &cert.email_sans, &cert.ip_sans].iter().any(|l| l.iter().any(|n| n == w))
    })
}

/// Whether a DNS name of the certificate covers `name`.
pub(super) fn names_dns(name: &str, cert: &PeerCertificate) -> bool {
    cert.dns_sans.iter().any(|pattern| dns_covers(pattern, name))
}

/// All names, as Envoy lists them in errors.
pub(super) fn listed(cert: &PeerCertificate) -> String {
    let lists = [&cert.uri_sans, &cert.dns_sans, &cert.ip_sans, &cert.email_sans];
    lists.iter().flat_map(|l| l.iter()).map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn dns_matches(matcher: &SanMatcher, name: &str) -> bool {
    match &matcher.matcher.pattern {
        StringPattern::Exact(wanted) => dns_covers(name, wanted),
        _ => matcher.matcher.matches(name),
    }
}

/// Whether the certificate's name `pattern` covers `name`: a `*` stands for part of the first label only (RFC 6125 6.4.3),
/// and not within an internationalised one.
pub(super) fn dns_covers(pattern: &str, name: &str) -> bool {
    if pattern.eq_ignore_ascii_case(name) {
        return true;
    }
    let (Some((first, rest)), Some((label, parent))) = (pattern.split_once('.'), name.split_once('.')) else {
        return false;
    };
    if !rest.eq_ignore_ascii_case(parent) || rest.contains('*') {
        return false;
    }
    let (first, label) = (first.as_bytes(), label.as_bytes());
    let Some(star) = first.iter().position(|b| *b == b'*') else { return false };
    let (head, tail) = (&first[..star], &first[star + 1..]);
    if first.len() == 1 {
        return true;
    }
    let international = first.len() >= 4 && first[..4].eq_ignore_ascii_case(b"xn--");
    !international
        && !tail.contains(&b'*')
        && first.len() <= label.len() + 1
        && label[..head.len()].eq_ignore_ascii_case(head)
        && label[label.len() - tail.len()..].eq_ignore_ascii_case(tail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StringMatcher;

    #[test]
    fn wildcards_cover_one_label() {
        for (pattern, name, covers) in [
            ("a.example.com", "A.example.COM", true),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "a.b.example.com", false),
            ("*.example.com", "example.com", false),
            ("b*r.example.com", "bar.example.com", true),
            ("b*r.example.com", "br.example.com", true),
            ("b*r.example.com", "b.example.com", false),
            ("*.*.com", "a.b.com", false),
            ("**.example.com", "a.example.com", false),
            ("xn--*.example.com", "xn--a.example.com", false),
            ("*", "localhost", false),
            ("a.*.com", "a.b.com", false),
        ] {
            assert_eq!(dns_covers(pattern, name), covers, "{pattern} {name}");
        }
    }

    #[test]
    fn kinds_are_kept_apart() {
        let cert = PeerCertificate {
            dns_sans: vec!["*.example.com".into()],
            uri_sans: vec!["spiffe://td/a".into()],
            ..PeerCertificate::default()
        };
        let m = |kind, text: &str| SanMatcher { kind, matcher: StringMatcher::exact(text) };
        assert!(any_matches(&[m(SanKind::Dns, "x.example.com")], &cert));
        assert!(!any_matches(&[m(SanKind::Uri, "x.example.com")], &cert));
        assert!(any_matches(&[m(SanKind::Email, "x"), m(SanKind::Uri, "spiffe://td/a")], &cert));
        assert!(any_matches(&[m(SanKind::Any, "spiffe://td/a")], &cert));
        assert!(any_named(&["y.example.com"], &cert) && !any_named(&["example.com"], &cert));
    }
}
