//! Reading what a TLS context is made of, and remembering what it was: to see change, and to know where to look for it.
//!
//! Runs on: the control thread. Reads files, and blocks for it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use bytes::Bytes;

use crate::config::{ConfigError, DataSource};

/// A file name moved into a directory that means: read again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Watch {
    /// The directory.
    pub(super) dir: PathBuf,
    /// The name; `None`: any.
    pub(super) file: Option<OsString>,
}

impl Watch {
    /// A file replaced by a rename.
    pub(super) fn file(path: &Path) -> Option<Watch> {
        Some(Watch { dir: path.parent()?.to_owned(), file: Some(path.file_name()?.to_owned()) })
    }

    /// Any rename within a directory, so the swap of a `..data` link too.
    pub(super) fn directory(path: &Path) -> Watch {
        Watch { dir: path.to_owned(), file: None }
    }

    /// Whether the arrival of `name` in `dir` is meant. `..data` always is: Kubernetes replaces a volume's files by it.
    pub(super) fn covers(&self, dir: &Path, name: &std::ffi::OsStr) -> bool {
        self.dir == dir && self.file.as_deref().is_none_or(|f| f == name || name == "..data")
    }
}

/// Reads data sources; the digest of all that was read tells two builds apart.
pub(super) struct Inputs {
    digest: digest::Context,
    /// Where change is to be looked for.
    pub(super) watches: Vec<Watch>,
    /// Whether plain files are watched too: those of a secret that came by SDS are, as in Envoy.
    pub(super) follow_files: bool,
}

impl Inputs {
    pub(super) fn new() -> Self {
        Inputs { digest: digest::Context::new(&digest::SHA256), watches: Vec::new(), follow_files: false }
    }

    /// The bytes of a source.
    ///
    /// # Errors
    /// The file cannot be read, or is empty.
    pub(super) fn read(&mut self, source: &DataSource, field: &str) -> Result<Bytes, ConfigError> {
        let bytes = match source {
            DataSource::Inline(bytes) => bytes.clone(),
            DataSource::File { path, watched_directory } => {
                if let Some(dir) = watched_directory {
                    self.watch_directory(dir);
                } else if self.follow_files {
                    self.watches.extend(Watch::file(Path::new(path)));
                }
                let bytes = std::fs::read(path)
                    .map_err(|e| ConfigError::at(field, format!("Invalid path: {path}: {}", e.kind())))?;
                if bytes.is_empty() {
                    return Err(ConfigError::at(field, format!("file {path} is empty")));
                }
                bytes.into()
            }
        };
        self.digest.update(field.as_bytes());
        self.digest.update(&bytes.len().to_be_bytes());
        self.digest.update(&bytes);
        Ok(bytes)
    }

    /// Any rename within `dir` is a change.
    pub(super) fn watch_directory(&mut self, dir: &str) {
        self.watches.push(Watch::directory(Path::new(dir)));
    }

    /// Takes something into the digest that is not read from a source.
    pub(super) fn note(&mut self, text: &str) {
        self.digest.update(text.as_bytes());
        self.digest.update(&[0]);
    }

    /// What was read, in short.
    pub(super) fn finish(self) -> ([u8; 32], Vec<Watch>) {
        let mut digest = [0; 32];
        // SHA-256 has 32 octets.
        digest.copy_from_slice(self.digest.finish().as_ref());
        let mut watches = self.watches;
        watches.sort();
        watches.dedup();
        (digest, watches)
    }
}

/// How errors and `/certs` call a source.
pub(super) fn name_of(source: &DataSource) -> &str {
    match source {
        DataSource::File { path, .. } => path,
        DataSource::Inline(_) => "<inline>",
    }
}
