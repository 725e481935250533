//! URI templates: `/api/{version}/**/{file=*.txt}`, to match paths and to rewrite them.
//!
//! A template is a row of segments between slashes. A segment is a literal, `*` (one segment), `**` (any number), or a variable:
//! `{name}` or `{name=segments}`. **Source**: `envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig`.

use std::collections::BTreeSet;

use super::ctx::{Ctx, Out};
use crate::config::Pattern;

/// RFC 3986 `pchar`: what a glob takes.
const PCHAR: &str = r"a-zA-Z0-9\-._~%!$&'()+,;:@=*";
/// Envoy's bounds.
const MAX_VARIABLES: usize = 5;
const MAX_NAME: usize = 16;

/// Compiles a template into an expression in which variables are named groups.
pub(super) fn pattern(c: &Ctx<'_>, template: &str) -> Out<(Pattern, BTreeSet<String>)> {
    let parsed = Parser { rest: template, ..Parser::default() }.template();
    let compiled = parsed.and_then(|p| Ok((Pattern::full(&p.regex)?, p.variables)));
    compiled.or_else(|why| c.refuse(format!("path_match_policy.path_template {template} is invalid: {why}")))
}

/// Checks a rewrite template: literals, and variables that the pattern has (if those are known).
pub(super) fn check_rewrite(c: &Ctx<'_>, rewrite: &str, variables: Option<&BTreeSet<String>>) -> Out<()> {
    let invalid = || format!("path_rewrite_policy.path_template_rewrite {rewrite} is invalid");
    c.ensure(rewrite.starts_with('/') && !rewrite.contains("//"), invalid)?;
    let mut rest = rewrite;
    while !rest.is_empty() {
        let (literal, after) = rest.split_at(rest.find('{').unwrap_or(rest.len()));
        c.ensure(literal.bytes().all(|b| matches!(b, b'/' | b'*') || is_literal(b)), invalid)?;
        let Some(after) = after.strip_prefix('{') else { break };
        let Some((name, after)) = after.split_once('}') else {
            return c.refuse(invalid());
        };
        c.ensure(is_name(name), invalid)?;
        c.ensure(variables.is_none_or(|known| known.contains(name)), || {
            format!("mismatch between variables in path_match_policy and path_rewrite_policy {rewrite}: '{name}' is not in the former")
        })?;
        rest = after;
    }
    Ok(())
}

/// `*` is not one: Envoy takes it for the repetition of what stands before, which nobody can mean.
fn is_literal(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&b)
}

fn is_name(name: &str) -> bool {
    name.starts_with(|ch: char| ch.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[derive(Default)]
struct Parser<'a> {
    rest: &'a str,
    regex: String,
    variables: BTreeSet<String>,
    /// Nothing but literals may follow `**`.
    seen_text_glob: bool,
}

impl<'a> Parser<'a> {
    fn template(mut self) -> Result<Self, String> {
        let graphic = self.rest.bytes().all(|b| b.is_ascii_graphic());
        let Some(rest) = self.rest.strip_prefix('/').filter(|_| graphic) else {
            return Err(format!(r#"Invalid pattern: "{}""#, self.rest));
        };
        self.rest = rest;
        self.regex.push('/');
        while !self.rest.is_empty() {
            self.segment(true)?;
            if self.rest.starts_with('{') {
                self.variable()?;
            }
            if let Some(rest) = self.rest.strip_prefix('/') {
                self.rest = rest;
                self.regex.push('/');
            } else if !self.rest.is_empty() {
                // What follows `*` or a variable without a slash is a literal suffix, and the end.
                self.literal(false)?;
                if !self.rest.is_empty() {
                    return Err("Prefix match not supported.".into());
                }
            }
        }
        Ok(self)
    }

    fn segment(&mut self, variable_allowed: bool) -> Result<(), String> {
        if let Some(rest) = self.rest.strip_prefix("**") {
            self.rest = rest;
            self.glob(true)
        } else if let Some(rest) = self.rest.strip_prefix('*') {
            self.rest = rest;
            self.glob(false)
        } else if variable_allowed && self.rest.starts_with('{') {
            self.variable()
        } else {
            self.literal(variable_allowed)
        }
    }

    fn glob(&mut self, text: bool) -> Result<(), String> {
        if self.seen_text_glob {
            return Err("Glob after text glob.".into());
        }
        self.seen_text_glob = text;
        self.regex.push_str(&if text { format!("[{PCHAR}/]*") } else { format!("[{PCHAR}]+") });
        Ok(())
    }

    /// A variable may follow in the same segment, unless the literal is a suffix or within a variable itself.
    fn literal(&mut self, before_variable: bool) -> Result<(), String> {
        let end = self.rest.find(|ch| ch == '/' || before_variable && ch == '{').unwrap_or(self.rest.len());
        let (literal, rest) = self.rest.split_at(end);
        if literal.is_empty() || !literal.bytes().all(is_literal) {
            return Err(format!(r#"Invalid literal: "{literal}""#));
        }
        self.regex.push_str(&regex::escape(literal));
        self.rest = rest;
        Ok(())
    }

    fn variable(&mut self) -> Result<(), String> {
        let Some((inside, rest)) = self.rest.strip_prefix('{').and_then(|r| r.split_once('}')) else {
            return Err(format!(r#"Unmatched variable bracket in "{}""#, self.rest));
        };
        let (name, segments) = inside.split_once('=').map_or((inside, None), |(n, s)| (n, Some(s)));
        if !is_name(name) {
            return Err(format!(r#"Invalid variable name: "{name}""#));
        }
        if name.len() > MAX_NAME {
            return Err(format!(
                r#"Invalid variable name length (length of "{name}" should be at least 1 and no more than {MAX_NAME})"#
            ));
        }
        if self.variables.len() == MAX_VARIABLES {
            return Err(format!("Exceeded variable count limit ({MAX_VARIABLES})"));
        }
        if !self.variables.insert(name.to_owned()) {
            return Err(format!(r#"Repeated variable name: "{name}""#));
        }
        self.regex.push_str(&format!("(?P<{name}>"));
        self.rest = segments.unwrap_or("*");
        if self.rest.is_empty() {
            return Err("Empty variable match".into());
        }
        loop {
            self.segment(false)?;
            match self.rest.strip_prefix('/') {
                None if self.rest.is_empty() => break,
                Some(more) if !more.is_empty() => self.rest = more,
                _ => return Err(format!(r#"Invalid variable match: "{}""#, self.rest)),
            }
            self.regex.push('/');
        }
        self.regex.push(')');
        self.rest = rest;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(template: &str) -> Result<Pattern, String> {
        Parser { rest: template, ..Parser::default() }.template().and_then(|p| Pattern::full(&p.regex))
    }

    #[test]
    fn templates_match_as_envoy_documents_them() {
        let yes = [
            ("/**", "/a/b/c"),
            ("/{country}", "/peru"),
            ("/api/*/v1", "/api/x/v1"),
            ("/videos/{file=**}.m4s", "/videos/a/b.m4s"),
            ("/{dir}/{file=a/*/b}", "/x/a/1/b"),
            ("/a.b$(c)", "/a.b$(c)"),
            ("/trailing/", "/trailing/"),
            ("/", "/"),
            ("/a{b}c", "/axyzc"),
            ("/a=b/*", "/a=b/*=x"),
        ];
        for (template, path) in yes {
            assert!(compile(template).unwrap().is_match(path), "{template} {path}");
        }
        let no =
            [("/*", "/a/b"), ("/{x}", "/"), ("/a.b", "/aXb"), ("/api/*/v1", "/api//v1"), ("/a{b}", "/a"), ("/*", "/{")];
        for (template, path) in no {
            assert!(!compile(template).unwrap().is_match(path), "{template} {path}");
        }
    }

    #[test]
    fn groups_are_named() {
        let p = compile("/{a}/{b=x/**}").unwrap();
        let found = p.regex().captures("/1/x/y/z").unwrap();
        assert_eq!((&found["a"], &found["b"]), ("1", "x/y/z"));
    }

    #[test]
    fn bad_templates_say_why() {
        let bad = [
            ("no-slash", "Invalid pattern"),
            ("/a b", "Invalid pattern"),
            ("/{1a}", "Invalid variable name"),
            ("/{a", "Unmatched"),
            ("/{a}/{a}", "Repeated"),
            ("/**/*", "Glob after text glob"),
            ("/{a=**}/{b}", "Glob after text glob"),
            ("/{a=}", "Empty variable match"),
            ("/{a=x/}", "Invalid variable match"),
            ("/a//b", "Invalid literal"),
            ("/a*b", "Invalid literal"),
            ("/*suffix/more", "Prefix match not supported"),
            ("/{a}/{b}/{c}/{d}/{e}/{f}", "Exceeded"),
            ("/{abcdefghijklmnopq}", "length"),
            ("/a{b}{c}", "Invalid literal"),
        ];
        for (template, why) in bad {
            let got = compile(template).unwrap_err();
            assert!(got.contains(why), "{template}: {got}");
        }
    }
}
