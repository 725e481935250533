//! Turns the descriptor set that the crate `envoy-types` ships into `schema.bin`: a flat, read-only table of the messages
//! this crate knows (names, numbers, types, validation rules, what weft supports), read in place at run time by
//! `src/schema/table.rs`. Nothing is decoded when the proxy starts and nothing of it lives on the heap. Our own messages, in
//! `proto/`, are in it beside Envoy's.

#[path = "build/descriptor.rs"]
mod descriptor;
#[path = "build/own.rs"]
mod own;
#[path = "build/supported.rs"]
mod supported;
#[path = "build/table.rs"]
mod table;
#[path = "build/writer.rs"]
mod writer;

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

type Result<T> = std::result::Result<T, String>;

fn main() {
    if let Err(problem) = build() {
        println!("cargo::error={}", problem.replace('\n', "\ncargo::error="));
        std::process::exit(1);
    }
}

fn build() -> Result<()> {
    for path in ["build.rs", "build", "proto", "src/roots.txt", "src/supported.txt"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let roots = read_text("src/roots.txt")?;
    let supported = supported::parse(&read_text("src/supported.txt")?)?;
    let set_path = descriptor_set_path()?;
    println!("cargo::rerun-if-changed={}", set_path.display());
    // The tests compare with the whole set.
    println!("cargo::rustc-env=WEFT_DESCRIPTOR_SET={}", set_path.display());
    let set = fs::read(&set_path).map_err(|e| format!("{}: {e}", set_path.display()))?;
    let mut universe = descriptor::Universe::decode(&set)?;
    let own = own::compile(&set)?;
    universe.add(&own)?;
    let table = table::build(&universe, &root_names(&roots), &supported)?;
    let dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    for (name, bytes) in [("schema.bin", writer::write(&table)), ("own.bin", own)] {
        let out = dir.join(name);
        fs::write(&out, bytes).map_err(|e| format!("{}: {e}", out.display()))?;
    }
    Ok(())
}

fn read_text(path: &str) -> Result<String> {
    fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))
}

/// The names in `roots.txt`: one per line, `#` starts a comment.
fn root_names(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Where cargo keeps the sources of `envoy-types`: the descriptor set is part of that package, not of this repository.
fn descriptor_set_path() -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Without the filter, cargo wants the packages of all platforms, which nobody has downloaded.
    let target = env::var("TARGET").map_err(|e| format!("TARGET: {e}"))?;
    // Offline is the rule: what is built has been downloaded. But cargo metadata resolves the whole workspace, and a fresh
    // machine that builds one of its packages has not got what only the others need; then it may download that.
    let run = |offline: &[&str]| {
        let output = Command::new(&cargo)
            .args(["metadata", "--format-version", "1", "--filter-platform", &target])
            .args(offline)
            .output()
            .map_err(|e| format!("cannot run cargo metadata: {e}"))?;
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr))),
        }
    };
    let stdout = run(&["--offline"]).or_else(|_| run(&[]))?;
    let metadata: serde_json::Value = serde_json::from_slice(&stdout).map_err(|e| format!("cargo metadata: {e}"))?;
    let manifest = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "envoy-types")
        .and_then(|package| package["manifest_path"].as_str())
        .ok_or("cargo metadata names no package envoy-types")?;
    let path = PathBuf::from(manifest).with_file_name("src/generated/types.bin");
    if path.is_file() { Ok(path) } else { Err(format!("envoy-types ships no {}", path.display())) }
}
