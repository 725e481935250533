use std::collections::BTreeMap;
use std::time::Duration;

use weft_proto::document::{Document, Format};

use super::*;

choice! {
    /// A colour.
    enum Colour {
        /// The default.
        #[default]
        Red = "RED",
        /// The other.
        Blue = "BLUE",
    }
}

record! {
    /// A thing.
    struct Thing {
        /// A list.
        port_numbers: Vec<u32>,
        /// With a key of its own.
        cluster_ip: Option<String> = "clusterIP",
        /// A keyword.
        r#type: Option<String>,
        /// A choice.
        colour: Colour,
        /// Nested.
        inner: BTreeMap<String, Thing>,
        /// A time.
        fixed_delay: Option<Duration>,
    }
}

fn read(text: &str) -> (Option<Thing>, Vec<String>) {
    let document = Document::parse("t.yaml", text, Format::Yaml).unwrap();
    let mut reader = Reader::default();
    let thing = Thing::read(&document.root, &mut reader);
    let line = |p: &Problem| format!("{}:{} {}: {}", p.at.line, p.at.column, p.path, p.reason);
    (thing, reader.into_problems().iter().map(line).collect())
}

#[test]
fn fields_are_read_by_their_names() {
    let (thing, problems) = read("portNumbers: [1, 2]\nclusterIP: x\ntype: t\ncolour: BLUE\nfixed_delay: 1.5s\n");
    let thing = thing.unwrap();
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(thing.port_numbers, [1, 2]);
    assert_eq!(thing.cluster_ip.as_deref(), Some("x"));
    assert_eq!(thing.r#type.as_deref(), Some("t"));
    assert_eq!(thing.colour, Colour::Blue);
    assert_eq!(thing.fixed_delay, Some(Duration::from_millis(1500)));
}

#[test]
fn what_is_not_known_or_wrong_is_named_with_its_place() {
    let (_, problems) = read("colour: GREEN\ninner:\n  a.b:\n    portNumber: 1\n    portNumbers: [x]\ntype: 3\n");
    assert_eq!(
        problems,
        [
            "1:9 colour: \"GREEN\" is not known; write one of RED, BLUE",
            "4:5 inner[\"a.b\"].portNumber: not supported: it has no effect (did you mean `portNumbers`?)",
            "5:19 inner[\"a.b\"].portNumbers[0]: expected an integer from 0 to 4294967295, found the string \"x\"",
            "6:7 type: expected a string (write it in quotes), found the number 3",
        ]
    );
}

#[test]
fn durations() {
    assert_eq!(parse_duration("1h30m0.5s"), Some(Duration::from_millis(5_400_500)));
    assert_eq!(parse_duration("0.1s"), Some(Duration::from_millis(100)));
    assert_eq!(parse_duration("0"), Some(Duration::ZERO));
    for wrong in ["", "7", "s", "-1s", "1d", "1.2.3s", "1s2", "99999999999999999999h"] {
        assert_eq!(parse_duration(wrong), None, "{wrong}");
    }
}
