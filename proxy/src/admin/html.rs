//! The pages for people: the home page with a form for each endpoint, and `/stats` with its form.

use http::StatusCode;

use super::body::{Params, Reply};
use super::router::{ENDPOINTS, Endpoint, Input, Parameter};

const HEAD: &str = "<!DOCTYPE html>
<html lang='en'>
<head>
  <meta charset='utf-8'>
  <title>Weft Admin</title>
  <style>
    body { font-family: sans-serif; margin: 1em; color: #222 }
    table { border-collapse: collapse }
    td, th { padding: 4px 8px; text-align: left; vertical-align: top }
    tr.endpoint td { border-top: 1px solid #ccc; padding-top: 8px }
    form { margin: 0 }
    .link { background: none; border: none; padding: 0; color: #069; text-decoration: underline; cursor: pointer; font-size: 1em }
    pre { white-space: pre-wrap }
  </style>
</head>
<body>
";

const TAIL: &str = "</body>\n</html>\n";

fn page(body: String) -> Reply {
    Reply::new(StatusCode::OK, "text/html; charset=UTF-8", [HEAD, &body, TAIL].concat())
}

/// Text that is safe within elements and quoted attributes.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

pub(super) fn home() -> Reply {
    let rows: String = ENDPOINTS.iter().filter(|endpoint| endpoint.path != "/").map(row).collect();
    page(format!("<table>\n<tr><th>Command</th><th>Description</th></tr>\n{rows}</table>\n"))
}

fn row(endpoint: &Endpoint) -> String {
    let (path, name) = (&endpoint.path[1..], &endpoint.path[1..]);
    let help = escape(endpoint.help);
    let command = match (endpoint.post, endpoint.parameters.is_empty()) {
        (false, true) => format!("<a href='{path}'>{name}</a>"),
        (post, _) => {
            let (method, class) = if post { ("post", "") } else { ("get", " class='link'") };
            format!("<form action='{path}' method='{method}' id='{name}'><button{class}>{name}</button></form>")
        }
    };
    let inputs: String = endpoint.parameters.iter().map(|p| input(name, p, "", &Params::default())).collect();
    format!("<tr class='endpoint'><td>{command}</td><td>{help}</td></tr>\n{inputs}")
}

fn input(form: &str, parameter: &Parameter, submit: &str, given: &Params) -> String {
    let (name, help) = (parameter.name, escape(parameter.help));
    let value = escape(given.get(name).unwrap_or_default());
    let field = match parameter.input {
        Input::Flag => {
            let checked = if given.has(name) { " checked" } else { "" };
            format!("<input type='checkbox' name='{name}' form='{form}'{submit}{checked}>")
        }
        Input::Text => format!("<input type='text' name='{name}' form='{form}'{submit} value='{value}'>"),
        Input::Choice(choices) => {
            let option = |choice: &&str| {
                let selected = if *choice == value { " selected" } else { "" };
                format!("<option{selected}>{choice}</option>")
            };
            let options: String = choices.iter().map(option).collect();
            format!("<select name='{name}' form='{form}'{submit}>{options}</select>")
        }
    };
    format!("<tr><td>{field}</td><td>{help}</td></tr>\n")
}

/// `/stats` with its form above.
pub(super) fn stats(params: &Params, text: &str) -> Reply {
    let endpoint = ENDPOINTS.iter().find(|endpoint| endpoint.path == "/stats");
    let parameters = endpoint.map(|endpoint| endpoint.parameters).unwrap_or_default();
    let submit = " onchange='this.form.submit()'";
    let inputs: String = parameters.iter().map(|p| input("stats", p, submit, params)).collect();
    let form = "<form action='stats' method='get' id='stats'></form>";
    page(format!("{form}<table>\n{inputs}</table>\n<pre>\n{}</pre>\n", escape(text)))
}
