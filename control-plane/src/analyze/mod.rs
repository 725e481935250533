//! What is likely wrong with a world: a lint of everything that is configured, without a cluster or a proxy.
//!
//! Owns the judgement over objects together; what is wrong with one alone the model knows already and is part of the answer.
//! Pure. Must not know: files, output.

mod references;
mod shadowed;
#[cfg(test)]
mod tests;

use weft_proto::problem::{Position, Problem, Severity};

use crate::model::World;
use crate::model::kinds::{Object, ObjectKey};

/// Something that is wrong, or likely so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind of thing it is: stable, for scripts.
    pub code: &'static str,
    /// The object, if it could be read.
    pub object: Option<ObjectKey>,
    /// How bad it is, where it is, and what to do.
    pub problem: Problem,
}

/// Everything that is wrong, sorted by where it was written. `of_documents` is what the source told: documents that are no
/// objects ([`Batch::problems`](crate::source::Batch::problems)).
#[must_use]
pub fn analyze(world: &World, of_documents: &[Problem]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = of_documents
        .iter()
        .map(|problem| Finding { code: code_of(problem), object: None, problem: problem.clone() })
        .collect();
    for object in world.objects().iter() {
        let told = world.problems_of(&object.key).into_iter();
        findings.extend(told.map(|problem| Finding {
            code: code_of(&problem),
            object: Some(object.key.clone()),
            problem,
        }));
        let mut lint = Lint { world, object, findings: &mut findings };
        references::check(&mut lint);
        shadowed::check(&mut lint);
    }
    findings.sort_by(|a, b| {
        let place = |of: &Finding| (of.problem.source.clone(), of.problem.at, of.problem.path.clone(), of.code);
        place(a).cmp(&place(b))
    });
    findings.dedup();
    findings
}

fn code_of(problem: &Problem) -> &'static str {
    match problem.severity {
        Severity::Invalid => "invalid",
        Severity::Unsupported | Severity::Unknown => "not-supported",
        Severity::Warning => "odd",
    }
}

/// The object that is looked at.
struct Lint<'a> {
    world: &'a World,
    object: &'a Object,
    findings: &'a mut Vec<Finding>,
}

impl Lint<'_> {
    fn find(&mut self, code: &'static str, severity: Severity, at: Position, path: String, reason: String) {
        let problem = self.object.problem(severity, at, path, reason);
        self.findings.push(Finding { code, object: Some(self.object.key.clone()), problem });
    }
}
