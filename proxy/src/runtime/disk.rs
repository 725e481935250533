//! Disk layers: a directory tree whose file names are keys.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::entry::Entry;

/// Envoy's limit: a tree deeper than this is a loop of links.
const MAX_DEPTH: u32 = 16;

/// Reads every file below `path`.
///
/// # Errors
/// A directory or file that cannot be read, or a tree that is too deep.
pub(super) fn read(path: &Path) -> io::Result<BTreeMap<String, Entry>> {
    let mut values = BTreeMap::new();
    walk(path, "", 1, &mut values)?;
    Ok(values)
}

fn walk(path: &Path, prefix: &str, depth: u32, values: &mut BTreeMap<String, Entry>) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other(format!("Walk recursion depth exceeded {MAX_DEPTH}")));
    }
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let key = if prefix.is_empty() { name } else { [prefix, &name].join(".") };
        // Follows links, as Kubernetes mounts files by them.
        let kind = std::fs::metadata(entry.path())?;
        if kind.is_dir() {
            walk(&entry.path(), &key, depth + 1, values)?;
        } else if kind.is_file() {
            let text = std::fs::read_to_string(entry.path())?;
            values.insert(key, Entry::parse(&without_comments(&text)));
        }
    }
    Ok(())
}

/// Lines that begin with `#` are comments, and the last line's trailing white space does not count.
fn without_comments(text: &str) -> String {
    let lines: Vec<&str> = text.split('\n').filter(|line| !line.is_empty()).collect();
    let mut value = String::new();
    for (i, line) in lines.iter().enumerate().filter(|(_, line)| !line.starts_with('#')) {
        if i + 1 == lines.len() {
            value.push_str(line.trim_end());
        } else {
            value.push_str(line);
            value.push('\n');
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_seen_on_envoy() {
        for (text, value) in
            [(" 30 \n", " 30"), ("# comment\n5\n# x\n", "5\n"), ("a\nb\n", "a\nb"), ("", ""), ("7", "7")]
        {
            assert_eq!(without_comments(text), value);
        }
    }
}
