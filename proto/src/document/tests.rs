use proptest::prelude::*;

use super::*;

fn yaml(text: &str) -> Document {
    Document::parse("t.yaml", text, Format::Yaml).unwrap()
}

fn refused(text: &str, format: Format) -> String {
    Document::parse("t", text, format).unwrap_err().to_string()
}

fn get<'n>(node: &'n Node, key: &str) -> &'n Node {
    let Data::Map(entries) = &node.data else { panic!("{key}: not a map") };
    &entries.iter().rev().find(|entry| &*entry.key == key).unwrap().value
}

/// The tree without positions.
fn plain(node: &Node) -> serde_json::Value {
    match &node.data {
        Data::Null => serde_json::Value::Null,
        Data::Bool(value) => (*value).into(),
        Data::Number(text) => serde_json::from_str(text).unwrap(),
        Data::String(text) => (**text).into(),
        Data::List(items) => items.iter().map(plain).collect(),
        Data::Map(entries) => entries.iter().map(|e| (e.key.to_string(), plain(&e.value))).collect(),
    }
}

#[test]
fn yaml_values_know_their_lines() {
    let document = yaml("# comment\na:\n  b: [1, \"2\"]\n  c: |\n    text\n    more\n  d: plain\n    folded\n");
    let a = get(&document.root, "a");
    assert_eq!(plain(a), serde_json::json!({"b": [1, "2"], "c": "text\nmore\n", "d": "plain folded"}));
    let Data::List(items) = &get(a, "b").data else { panic!() };
    assert_eq!(items[1].at, Position { line: 3, column: 10 });
    let Data::Map(entries) = &a.data else { panic!() };
    assert_eq!(entries[1].at, Position { line: 4, column: 3 });
}

#[test]
fn quoted_scalars_are_text() {
    let document = yaml("[yes, 'yes', \"5\", ! no, !!str no, ~, '~']");
    assert_eq!(plain(&document.root), serde_json::json!([true, "yes", "5", "no", false, null, "~"]));
}

#[test]
fn anchors_expand_and_ignored_keys_vanish() {
    let document = yaml("!ignore x:\n- &a {id: q}\nb: *a\n? *a\n: 1".split("\n?").next().unwrap());
    assert_eq!(plain(&document.root), serde_json::json!({"b": {"id": "q"}}));
    // An alias points to where its text stands.
    assert_eq!(get(&document.root, "b").at.line, 2);
}

#[test]
fn keys_keep_their_text() {
    assert_eq!(plain(&yaml("{yes: 1, 0x10: 2, ~: 3}").root), serde_json::json!({"yes": 1, "0x10": 2, "~": 3}));
    assert_eq!(refused("? [a]\n: b\n", Format::Yaml), "t:1:3: a map key must be text");
}

#[test]
fn a_repeated_key_and_a_second_document_are_warned_of() {
    let warnings: Vec<_> = yaml("a: 1\na: 2\n---\nb: 3\n").warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "t.yaml:2:1: `a` is given again (first in line 1): the last one counts",
            "t.yaml:3:1: only the first YAML document is read, and here a second one starts",
        ]
    );
}

#[test]
fn a_billion_laughs_end() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        let aliases = vec![format!("*a{}", i - 1); 10].join(", ");
        text.push_str(&format!("a{i}: &a{i} [{aliases}]\n"));
    }
    assert!(refused(&text, Format::Yaml).contains("aliases expand to more than"));
    assert!(refused("a: &a [*a]", Format::Yaml).contains("alias"));
}

#[test]
fn nesting_is_bounded() {
    for format in [Format::Yaml, Format::Json] {
        let deep = "[".repeat(100_000);
        assert!(refused(&deep, format).contains("nested") || refused(&deep, format).contains("recursion"));
        let fits = format!("{}1{}", "[".repeat(90), "]".repeat(90));
        assert!(Document::parse("t", &fits, format).is_ok());
    }
    let block = (0..5000).map(|i| format!("{}a:\n", " ".repeat(i))).collect::<String>();
    assert!(refused(&block, Format::Yaml).contains("nested more than 100"));
}

#[test]
fn empty_text_is_refused() {
    assert_eq!(refused("", Format::Yaml), "t:1:1: the document is empty");
    assert_eq!(refused("# x\n", Format::Yaml), "t:1:1: the document is empty");
    assert_eq!(refused(" ", Format::Json), "t:1:2: not JSON: the text ends where a value is expected");
}

#[test]
fn json_reads_as_protobuf_reads_it() {
    let text = "\u{feff}{'a': [1, 1.5e3, \"x\\u00e9\\ud83d\\ude00\\n\",], b: null,\n \"c\": true}";
    let document = Document::parse("t", text, Format::Json).unwrap();
    assert_eq!(plain(&document.root), serde_json::json!({"a": [1, 1.5e3, "xé😀\n"], "b": null, "c": true}));
    let Data::Map(entries) = &document.root.data else { panic!() };
    assert_eq!(entries[2].at, Position { line: 2, column: 2 });
    for (text, reason) in [
        ("01", "1:1: not JSON: `01` is no number"),
        ("{\n  \"a\": foo}", "2:8: not JSON: `foo` is no value (strings need quotes)"),
        ("{\"a\" 1}", "1:6: not JSON: `:` is expected"),
        ("[1 2]", "1:4: not JSON: `,` or `]` is expected"),
        ("\"\\x\"", "1:3: not JSON: no such escape in a string"),
        ("\"\\ud800\"", "1:3: not JSON: half of a surrogate pair in a string"),
        ("\"abc", "1:1: not JSON: the string does not end"),
        ("{} x", "1:4: not JSON: something follows the end of the value"),
        ("// x\n{}", "1:1: not JSON: a value is expected"),
    ] {
        assert_eq!(refused(text, Format::Json), format!("t:{reason}"));
    }
}

#[test]
fn the_format_follows_the_file_name() {
    let of = |path: &str| Format::of_path(Path::new(path));
    assert_eq!(of("a.YAML").unwrap(), Format::Yaml);
    assert_eq!(of("a.yml").unwrap(), Format::Yaml);
    assert_eq!(of("a.pb").unwrap(), Format::Binary);
    assert_eq!(of("a").unwrap(), Format::Json);
    assert!(of("a.pb_text").unwrap_err().to_string().starts_with("a.pb_text: the protobuf text format"));
}

proptest! {
    #[test]
    fn no_text_panics(text in "[ -~\n\t]{0,60}", structured in "[\\[\\]{}:,&*!|>'\"\\-a1 \n]{0,60}") {
        for text in [text, structured] {
            let _ = Document::parse("t", &text, Format::Yaml);
            let _ = Document::parse("t", &text, Format::Json);
        }
    }

    #[test]
    fn json_agrees_with_serde(text in "\\PC{0,20}", number: i32, flag: bool) {
        let value = serde_json::json!({"a": [text, number, flag, null], "b": {}});
        let document = Document::parse("t", &value.to_string(), Format::Json).unwrap();
        prop_assert_eq!(plain(&document.root), value);
    }
}
