//! Path safety: normalisation (RFC 3986), merged slashes, escaped slashes.

use crate::config::{EscapedSlashes, HttpConnectionManager};

/// What became of a path.
#[derive(Debug, PartialEq, Eq)]
pub enum PathOutcome {
    /// Nothing to do.
    Same,
    /// Goes on like this.
    Changed(String),
    /// The client is to ask again like this.
    Redirect(String),
    /// Not acceptable.
    Reject,
}

/// Applies a connection manager's path rules to a path with query.
pub fn path(full: &str, m: &HttpConnectionManager) -> PathOutcome {
    if full == "*" || full.is_empty() {
        return PathOutcome::Same;
    }
    let at = full.find('?').unwrap_or(full.len());
    let (mut path, query) = (full[..at].to_owned(), &full[at..]);
    let mut redirect = false;
    if m.escaped_slashes != EscapedSlashes::Keep
        && let Some(unescaped) = unescape_slashes(&path)
    {
        match m.escaped_slashes {
            EscapedSlashes::Reject => return PathOutcome::Reject,
            EscapedSlashes::UnescapeAndRedirect => redirect = true,
            _ => {}
        }
        path = unescaped;
    }
    if m.normalize_path {
        match canonical(&path) {
            Some(p) => path = p,
            None => return PathOutcome::Reject,
        }
    }
    if m.merge_slashes {
        path = merge_slashes(&path);
    }
    if path.len() == at && path == full[..at] {
        return PathOutcome::Same;
    }
    let whole = path + query;
    if redirect { PathOutcome::Redirect(whole) } else { PathOutcome::Changed(whole) }
}

/// `%2F` and `%5C` as the characters they stand for; `None` where there are none.
fn unescape_slashes(path: &str) -> Option<String> {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        match bytes.get(i..i + 3) {
            Some([b'%', b'2', b'f' | b'F']) => {
                out.push(b'/');
                i += 3;
            }
            Some([b'%', b'5', b'c' | b'C']) => {
                out.push(b'\\');
                i += 3;
            }
            _ => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    (out.len() != bytes.len()).then(|| String::from_utf8_lossy(&out).into_owned())
}

/// Unescapes unreserved characters, turns backslashes round, resolves `.` and `..`; `None` where `..` leads out of the root or an
/// escape is malformed.
fn canonical(path: &str) -> Option<String> {
    let bytes = path.as_bytes();
    let mut text = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'%' => {
                let hex = |b: u8| (b as char).to_digit(16);
                let value = hex(*bytes.get(i + 1)?)? * 16 + hex(*bytes.get(i + 2)?)?;
                let c = value as u8;
                if c == 0 {
                    return None;
                }
                if c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_' | b'~') {
                    text.push(c);
                } else {
                    text.push(b'%');
                    text.extend(bytes[i + 1..i + 3].iter().map(u8::to_ascii_uppercase));
                }
                i += 3;
                continue;
            }
            b'\\' => text.push(b'/'),
            c => text.push(c),
        }
        i += 1;
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut out: Vec<&str> = Vec::new();
    let segments: Vec<&str> = text.split('/').collect();
    for (i, segment) in segments.iter().enumerate() {
        let last = i + 1 == segments.len();
        match *segment {
            "." => {
                if last {
                    out.push("");
                }
            }
            ".." => {
                // The empty segment before the first slash stays.
                if out.len() > 1 {
                    out.pop();
                }
                if last {
                    out.push("");
                }
            }
            s => out.push(s),
        }
    }
    Some(out.join("/"))
}

fn merge_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_paths() {
        for (from, to) in [
            ("/a/../b", Some("/b")),
            ("/a/./b/.", Some("/a/b/")),
            ("/../..", Some("/")),
            ("/a%41%2f", Some("/aA%2F")),
            ("/a\\..\\b", Some("/b")),
            ("/%zz", None),
            ("/%0", None),
            ("/%00", None),
            ("//a", Some("//a")),
        ] {
            assert_eq!(canonical(from).as_deref(), to, "{from}");
        }
        assert_eq!(merge_slashes("//a///b/"), "/a/b/");
        assert_eq!(unescape_slashes("/a%2Fb%5c"), Some("/a/b\\".into()));
        assert_eq!(unescape_slashes("/a"), None);
    }
}
