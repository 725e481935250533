//! `weft analyze`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;
use weft_proto::problem::{Problem, Severity};

use super::output::{self, Format};
use super::workloads::Directory;

#[derive(Debug, Args)]
#[command(
    after_help = "It fails if something is invalid or unknown; with --strict also on warnings and on fields that are not supported."
)]
pub(super) struct Options {
    /// The directory
    dir: PathBuf,
    /// Fail on everything that is said
    #[arg(long)]
    strict: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) fn run(options: &Options) -> Result<()> {
    let directory = Directory::read(&options.dir)?;
    let mut problems = directory.world.problems();
    problems.extend(directory.problems);
    problems.sort_by(|a, b| (&a.source, a.at, &a.path).cmp(&(&b.source, b.at, &b.path)));
    problems.dedup();
    let json = problems.iter().map(to_json).collect();
    let table = || problems.iter().map(|problem| format!("{}: {problem}\n", name(problem.severity))).collect();
    super::say(output::print(options.output, &json, table))?;
    let bad = problems.iter().filter(|of| options.strict || of.severity >= Severity::Unknown).count();
    if bad > 0 {
        bail!("{bad} of {} to be corrected", problems.len());
    }
    Ok(())
}

fn name(severity: Severity) -> &'static str {
    match severity {
        Severity::Warning => "warning",
        Severity::Unsupported => "unsupported",
        Severity::Unknown => "unknown",
        Severity::Invalid => "invalid",
    }
}

fn to_json(problem: &Problem) -> serde_json::Value {
    json!({
        "severity": name(problem.severity),
        "file": problem.source.as_deref(),
        "line": problem.at.line,
        "column": problem.at.column,
        "path": problem.path,
        "reason": problem.reason,
    })
}
