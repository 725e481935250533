//! `weft up` as its user sees it: the page, changes as files are saved, and nothing left behind.
//!
//! Each pod is a network namespace, so it needs root and the kernel's rules; where they are not to be had it is skipped.

#[path = "up/bookinfo.rs"]
mod bookinfo;
#[path = "up/capture.rs"]
mod capture;
#[path = "up/files.rs"]
mod files;
#[path = "up/life.rs"]
mod life;
#[path = "up/telemetry.rs"]
mod telemetry;

use std::path::Path;

use anyhow::{Context, Result};

/// The sample's files.
fn sample() -> Result<Vec<(&'static str, String)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/bookinfo");
    let read = |name: &'static str| {
        let text = std::fs::read_to_string(folder.join(name)).context(name)?;
        Ok((name, text))
    };
    ["bookinfo.yaml", "gateway.yaml", "reviews.yaml", "weft.yaml"].into_iter().map(read).collect()
}
