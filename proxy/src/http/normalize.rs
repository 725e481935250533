//! Path safety: normalisation (RFC 3986), merged slashes, escaped slashes.

use std::borrow::Cow;

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

/// Applies a connection manager's path rules to a path with query. A path on which there is nothing to do costs one look at
/// its bytes.
pub fn path(full: &str, m: &HttpConnectionManager) -> PathOutcome {
    if full == "*" || full.is_empty() {
        return PathOutcome::Same;
    }
    let at = full.find('?').unwrap_or(full.len());
    let (given, query) = (&full[..at], &full[at..]);
    let escaped = m.escaped_slashes != EscapedSlashes::Keep;
    if is_plain(given) || !(escaped || m.normalize_path || m.merge_slashes) {
        return PathOutcome::Same;
    }
    let mut path = given.to_owned();
    let mut redirect = false;
    if escaped && let Some(unescaped) = unescape_slashes(&path) {
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
    if path == given {
        return PathOutcome::Same;
    }
    let whole = path + query;
    if redirect { PathOutcome::Redirect(whole) } else { PathOutcome::Changed(whole) }
}

/// Whether no rule changes anything of a path: no escapes, no dots or slashes behind a slash, no byte to be escaped.
fn is_plain(path: &str) -> bool {
    let mut after_slash = false;
    path.bytes().all(|b| {
        let plain = match b {
            b'.' | b'/' => !after_slash,
            b'%' | b'\\' => false,
            _ => !is_escaped(b),
        };
        after_slash = b == b'/';
        plain
    })
}

/// Bytes that a canonical path has only as escapes (the WHATWG URL standard's path percent-encode set, and `|`).
fn is_escaped(b: u8) -> bool {
    !(0x21..0x7f).contains(&b) || matches!(b, b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}')
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

/// Unescapes unreserved characters, escapes what may not stand there, turns backslashes round, resolves `.` and `..`; `None`
/// where a NUL is escaped. Escapes that are none stay as they are.
fn canonical(path: &str) -> Option<String> {
    let text = rewrite_bytes(&drop_dot_parameters(path))?;
    let mut out: Vec<&str> = Vec::new();
    let mut segments = text.split('/').peekable();
    while let Some(segment) = segments.next() {
        let dots = match segment {
            "." => 1,
            ".." => 2,
            s => {
                out.push(s);
                continue;
            }
        };
        // The empty segment before the first slash stays.
        if dots == 2 && out.len() > 1 {
            out.pop();
        }
        if segments.peek().is_none() {
            out.push("");
        }
    }
    Some(out.join("/"))
}

/// `.;x` and `..;x` are the segments `.` and `..`: servers that take parameters off segments would see them so.
fn drop_dot_parameters(path: &str) -> Cow<'_, str> {
    if !path.contains(".;") {
        return Cow::Borrowed(path);
    }
    let segment = |s: &'_ str| match s.split_once(';') {
        Some((dots @ ("." | ".."), _)) => dots.to_owned(),
        _ => s.to_owned(),
    };
    Cow::Owned(path.split('/').map(segment).collect::<Vec<_>>().join("/"))
}

fn rewrite_bytes(path: &str) -> Option<String> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let bytes = path.as_bytes();
    let hex = |at: usize| (*bytes.get(at)? as char).to_digit(16);
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let b = bytes[i];
        i += 1;
        match b {
            b'%' => match hex(i).zip(hex(i + 1)).map(|(high, low)| (high * 16 + low) as u8) {
                Some(0) => return None,
                Some(c) if c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_' | b'~') => {
                    out.push(c);
                    i += 2;
                }
                Some(_) => {
                    out.extend_from_slice(&bytes[i - 1..i + 2]);
                    i += 2;
                }
                None => out.push(b'%'),
            },
            b'\\' => out.push(b'/'),
            b if is_escaped(b) => out.extend([b'%', HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]),
            b => out.push(b),
        }
    }
    String::from_utf8(out).ok()
}

/// One slash for several; a path of nothing else keeps two, as in Envoy.
fn merge_slashes(path: &str) -> String {
    if !path.contains("//") {
        return path.to_owned();
    }
    let middle = path.split('/').filter(|s| !s.is_empty()).collect::<Vec<_>>().join("/");
    let slash = |there: bool| if there { "/" } else { "" };
    format!("{}{middle}{}", slash(path.starts_with('/')), slash(path.ends_with('/')))
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
            ("/a%41%2f", Some("/aA%2f")),
            ("/a\\..\\b", Some("/b")),
            ("/%zz", Some("/%zz")),
            ("/%0", Some("/%0")),
            ("/%00", None),
            ("//a", Some("//a")),
            ("/a//../b", Some("/a/b")),
            ("/a/%2e%2E/b", Some("/b")),
            ("/a\"<>^`{|}", Some("/a%22%3C%3E%5E%60%7B%7C%7D")),
            ("/a/..;x/b", Some("/b")),
            ("/a/.;", Some("/a/")),
            ("/a/..;x\\b", Some("/")),
            ("/a/...;x/b", Some("/a/...;x/b")),
            ("/a/%2e%2e;x/b", Some("/a/..;x/b")),
            ("/a/b;c/../d", Some("/a/d")),
        ] {
            assert_eq!(canonical(from).as_deref(), to, "{from}");
            if is_plain(from) {
                assert_eq!(to, Some(from));
            }
        }
        assert!(is_plain("/a.b/c-d/e;f/") && !is_plain("/a/.b") && !is_plain("//") && !is_plain("/%41"));
        for (from, to) in [("//a///b/", "/a/b/"), ("//", "//"), ("/", "/"), ("/a//", "/a/")] {
            assert_eq!(merge_slashes(from), to);
        }
        assert_eq!(unescape_slashes("/a%2Fb%5c"), Some("/a/b\\".into()));
        assert_eq!(unescape_slashes("/a"), None);
    }
}
