//! Path normalisation.

use anyhow::Result;
use weft_tests::config::Config;
use weft_tests::parity::{Group, get, h2, run};

#[test]
fn paths() -> Result<()> {
    let listener = |fields: &str| {
        format!(
            "route_config:\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n    routes:\n    - {{match: {{prefix: \"/\"}}, route: {{cluster: a}}}}\n{fields}"
        )
    };
    let listeners = [
        ("disabled", "normalize_path: false"),
        ("default", ""),
        ("enabled", "normalize_path: true"),
        ("merge", "normalize_path: true\nmerge_slashes: true"),
        ("reject", "normalize_path: true\npath_with_escaped_slashes_action: REJECT_REQUEST"),
        ("redirect", "normalize_path: true\npath_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT"),
        (
            "forward",
            "normalize_path: true\nmerge_slashes: true\npath_with_escaped_slashes_action: UNESCAPE_AND_FORWARD",
        ),
        ("keep", "normalize_path: true\npath_with_escaped_slashes_action: KEEP_UNCHANGED"),
    ];
    let mut config = Config::new().cluster("a", "");
    for (name, fields) in listeners {
        config = config.http(name, &listener(fields));
    }
    let mut group = Group::new("paths", config);
    for (name, _) in listeners {
        for (case, path) in [
            ("dots", "/a/./b/../c"),
            ("above-root", "/../../a"),
            ("slashes", "//a///b"),
            ("slashes-query", "/a//b?x=//y/../z"),
            ("escaped-slash", "/a%2fb%5Cc"),
            ("escaped-dots", "/a/%2e%2E/b"),
            ("escaped-letter", "/%41%zz%7e"),
            ("backslash", "/a\\b"),
            ("double-escape", "/a%252fb"),
            ("null", "/a%00b"),
            ("trailing", "/a/b/.."),
        ] {
            group = group.step(&format!("{name}-{case}"), get(name, path, &[]));
        }
    }
    let group = group
        .step("enabled-h2", h2("enabled", "/a/../b", &[], b""))
        .step("utf8", get("enabled", "/caf\u{e9}", &[]))
        .step("no-slash", get("enabled", "relative", &[]))
        .step("long", get("enabled", &format!("/{}", "x".repeat(4000)), &[]));
    run(&group)
}
