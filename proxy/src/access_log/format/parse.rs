//! The syntax of formats: text, `%%`, and `%COMMAND(PARAMETERS):LENGTH%`.

/// A piece of a format before its command is looked up.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Literal(String),
    Command { name: &'a str, parameters: &'a str, limit: Option<usize> },
}

/// Splits a format into text and commands.
///
/// # Errors
/// Envoy's message, with the place where a command was expected.
pub(super) fn tokens(format: &str) -> Result<Vec<Token<'_>>, String> {
    let mut tokens = Vec::new();
    let mut text = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        let (before, from_percent) = rest.split_at(at);
        text.push_str(before);
        if let Some(after) = from_percent.strip_prefix("%%") {
            text.push('%');
            rest = after;
            continue;
        }
        let Some((token, after)) = command(from_percent) else {
            let position = format.len() - from_percent.len();
            return Err(format!(
                "Incorrect configuration: {format}. Couldn't find valid command at position {position}"
            ));
        };
        if !text.is_empty() {
            tokens.push(Token::Literal(std::mem::take(&mut text)));
        }
        tokens.push(token);
        rest = after;
    }
    text.push_str(rest);
    if !text.is_empty() {
        tokens.push(Token::Literal(text));
    }
    Ok(tokens)
}

/// The command that `text` begins with, and what follows it.
fn command(text: &str) -> Option<(Token<'_>, &str)> {
    let text = text.strip_prefix('%')?;
    let end = text.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))?;
    let (name, mut rest) = text.split_at(end);
    let mut parameters = "";
    if let Some(inner) = rest.strip_prefix('(') {
        (parameters, rest) = inner.split_once(')')?;
    }
    let mut limit = None;
    if let Some(length) = rest.strip_prefix(':') {
        let end = length.find('%')?;
        limit = Some(length[..end].parse().ok()?);
        rest = &length[end..];
    }
    let rest = rest.strip_prefix('%')?;
    (!name.is_empty()).then_some((Token::Command { name, parameters, limit }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pieces() {
        let command = |name, parameters, limit| Token::Command { name, parameters, limit };
        let text = |t: &str| Token::Literal(t.to_owned());
        assert_eq!(
            tokens("a%%b %REQ(X?:Y):12%%PROTOCOL%%%").unwrap(),
            [text("a%b "), command("REQ", "X?:Y", Some(12)), command("PROTOCOL", "", None), text("%")]
        );
        assert_eq!(tokens("%START_TIME(%s.%3f)%").unwrap(), [command("START_TIME", "%s.%3f", None)]);
    }

    #[test]
    fn where_it_is_wrong() {
        for (format, position) in
            [("100%", 3), ("%", 0), ("a %PROTOCOL", 2), ("%PROTOCOL% %", 11), ("%nope%", 0), ("%REQ(a%", 0)]
        {
            let error = tokens(format).unwrap_err();
            assert!(error.ends_with(&format!("valid command at position {position}")), "{format}: {error}");
        }
        for format in ["%REQ(a):%", "%REQ(a):x%", "%REQ(a)x%", "%REQ(X-A):3:4%", "%REQ(a):-1%"] {
            assert!(tokens(format).is_err(), "{format}");
        }
    }

    proptest! {
        #[test]
        fn text_without_percent_is_itself(text in "[^%]{0,40}") {
            let expected: Vec<Token> = if text.is_empty() { vec![] } else { vec![Token::Literal(text.clone())] };
            prop_assert_eq!(tokens(&text).unwrap(), expected);
        }

        #[test]
        fn never_panics(text in "[%A-Z(): é0-9]{0,40}") {
            let _ = tokens(&text);
        }
    }
}
