//! Writing session secrets for debugging, where configuration asks for it.
//!
//! Runs on: workers, within a handshake. The only place secrets leave the process.

use std::fs::{File, OpenOptions};
use std::io::Write;

use super::facts::hex;
use crate::config::{Cidr, ConfigError, KeyLog as Config};
use crate::stream_info::PeerAddr;

/// An NSS key log file, and the connections it is for.
#[derive(Debug)]
pub(super) struct KeyLogFile {
    file: File,
}

impl KeyLogFile {
    /// # Errors
    /// The file cannot be opened.
    pub(super) fn open(config: &Config) -> Result<Self, ConfigError> {
        let file = OpenOptions::new().append(true).create(true).open(&config.path).map_err(|e| {
            ConfigError::at("common_tls_context.key_log.path", format!("unable to open file '{}': {e}", config.path))
        })?;
        Ok(KeyLogFile { file })
    }
}

/// Whether a connection between these ends is to be logged.
pub(super) fn covers(config: &Config, local: Option<&PeerAddr>, remote: Option<&PeerAddr>) -> bool {
    let within = |ranges: &[Cidr], end: Option<&PeerAddr>| {
        ranges.is_empty() || end.and_then(PeerAddr::ip).is_some_and(|ip| ranges.iter().any(|r| r.contains(ip)))
    };
    within(&config.local_ranges, local) && within(&config.remote_ranges, remote)
}

impl rustls::KeyLog for KeyLogFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let line = format!("{label} {} {}\n", hex(client_random), hex(secret));
        // One write of a file in append mode: lines of several workers do not mix. Nothing to be done if it fails.
        let _ = (&self.file).write_all(line.as_bytes());
    }
}
