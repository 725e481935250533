//! AuthorizationPolicies by more than Istio's examples have: further identities, templates, marks, dry runs, mistakes, and whom one is for.

use anyhow::{Result, ensure};
use weft_tests::locate::Kind;

use super::policy::{Callers, Case, ECHO, all_hold, case, object, policy};
use super::scene::Mesh;

/// Further identities, paths with templates, what is marked, what is invalid, and whom a policy is for.
pub(super) fn more() -> Vec<Case> {
    let from = |source: &str| format!("rules: [{{from: [{{source: {{{source}}}}}]}}]");
    let to = |operation: &str| format!("rules: [{{to: [{{operation: {{{operation}}}}}]}}]");
    let when = |key: &str, values: &str| format!("rules: [{{when: [{{key: {key}, {values}}}]}}]");
    let root = |name: &str, selector: &str, fields: &str| {
        object("AuthorizationPolicy", &format!("name: {name}, namespace: istio-system"), selector, fields)
    };
    vec![
        case(
            "service-accounts",
            &from("serviceAccounts: [default/client, other]"),
            &["client GET /", "client tcp"],
            &["other GET /", "plain GET /"],
        ),
        case(
            "not-service-accounts",
            &from("notServiceAccounts: [foo/other]"),
            &["client GET /", "plain GET /"],
            &["other GET /", "other tcp"],
        ),
        case("trust-domains", &from("trustDomains: [cluster.local]"), &["client GET /", "other tcp"], &["plain GET /"]),
        case(
            "trust-domains-wildcard",
            &from("trustDomains: [\"*.local\"]"),
            &["client GET /"],
            &["plain GET /", "plain tcp"],
        ),
        case("not-trust-domains", &from("notTrustDomains: [\"*\"]"), &["plain GET /"], &["client GET /", "client tcp"]),
        case(
            "source-service-account",
            &when("source.serviceAccount", "values: [foo/other]"),
            &["other GET /", "other tcp"],
            &["client GET /", "plain GET /"],
        ),
        case(
            "source-trust-domain",
            &when("source.trustDomain", "notValues: [cluster.local]"),
            &["plain GET /"],
            &["client GET /"],
        ),
        case(
            "path-template",
            &to("paths: [\"/a/{*}/c\"]"),
            &["plain GET /a/b/c", "plain GET /a/x/c?q"],
            &["plain GET /a/c", "plain GET /a/b/b/c", "plain tcp"],
        ),
        case(
            "path-template-rest",
            "action: DENY\nrules: [{to: [{operation: {paths: [\"/a/{*}/{**}\"]}}]}]",
            &["plain GET /a", "plain GET /b/c/d"],
            &["plain GET /a/b/c", "plain GET /a/b/c/d"],
        ),
        case("hosts-any", &to("hosts: [\"*\"], methods: [\"*\"]"), &["plain GET /", "client POST /x"], &["plain tcp"]),
        case(
            "header-any",
            &when("\"request.headers[x-token]\"", "values: [\"*\"]"),
            &["plain GET / x-token: a"],
            &["plain GET /"],
        ),
        case(
            "header-suffix",
            &when("\"request.headers[x-token]\"", "values: [\"*-ops\"]"),
            &["plain GET / x-token: a-ops"],
            &["plain GET / x-token: ops-a"],
        ),
        case("audit", "action: AUDIT\nrules: [{}]", &["client GET /", "plain GET /", "plain tcp"], &[]),
        Case::new(
            "audit-beside-allow",
            policy("one", "action: AUDIT\nrules: [{}]") + &policy("two", &to("methods: [GET]")),
            &["plain GET /"],
            &["plain POST /", "plain tcp"],
        ),
        // Of several `to` one that is for requests alone takes the rule away from connections, as in Istio.
        case(
            "requests-and-ports",
            "rules: [{to: [{operation: {methods: [GET]}}, {operation: {notPorts: [\"1\"]}}]}]",
            &["plain GET /", "plain POST /"],
            &["plain tcp"],
        ),
        case(
            "deny-hosts",
            "action: DENY\nrules: [{to: [{operation: {hosts: [bad.example]}}]}]",
            &["plain GET /"],
            &["plain GET / host: bad.example", "plain tcp"],
        ),
        // What means nothing does not let more in.
        case("allow-invalid-ip", &from("ipBlocks: [127.0.0.0/8, nonsense]"), &[], &["plain GET /", "plain tcp"]),
        case(
            "deny-invalid-ip",
            &format!("action: DENY\n{}", from("ipBlocks: [10.0.0.0/99]")),
            &[],
            &["plain GET /", "plain tcp"],
        ),
        case("allow-unknown-attribute", &when("request.colour", "values: [red]"), &[], &["plain GET /"]),
        case("allow-invalid-template", &to("paths: [\"/a/{b}\"]"), &[], &["plain GET /a/b", "plain GET /a/{b}"]),
        Case::new(
            "root-namespace",
            root("all", "action: DENY", &to("paths: [/admin]")),
            &["plain GET /"],
            &["plain GET /admin"],
        ),
        Case::new(
            "root-namespace-selects",
            root("echo", ECHO, "action: DENY\nrules: [{}]") + &root("none", "selector: {matchLabels: {app: x}}", "{}"),
            &[],
            &["plain GET /", "client tcp"],
        ),
        Case::new(
            "of-a-gateway",
            object(
                "AuthorizationPolicy",
                "name: gateway, namespace: shop",
                "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: echo}]",
                "rules: []",
            ),
            &["plain GET /", "plain tcp"],
            &[],
        ),
        Case::new(
            "trust-domain-aliases",
            format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    \
                 trustDomainAliases: [old-td]\n---\n{}",
                policy("aliases", &from("principals: [old-td/ns/default/sa/client]"))
            ),
            &["client GET /"],
            &["other GET /", "plain GET /"],
        ),
    ]
}

/// What is tried out is judged and counted, and nothing comes of it.
pub(super) async fn tried_out(kind: Kind, mesh: &Mesh, callers: &Callers) -> Result<()> {
    let tried = |name: &str, value: &str, fields: &str| {
        let meta = format!("name: {name}, namespace: shop, annotations: {{istio.io/dry-run: \"{value}\"}}");
        object("AuthorizationPolicy", &meta, ECHO, fields)
    };
    let deny = "action: DENY\nrules: [{to: [{operation: {paths: [/tried]}}]}]";
    let allow = "rules: [{to: [{operation: {methods: [GET]}}]}]";
    let both: &[&str] = &["shadow_denied", "shadow_allowed"];
    let cases = [
        (
            "deny",
            both,
            Case::new("dry-run-deny", tried("a", "true", deny), &["plain GET /tried", "plain GET /", "plain tcp"], &[]),
        ),
        (
            "allow",
            both,
            Case::new("dry-run-allow", tried("a", "true", allow), &["plain POST /", "plain GET /", "plain tcp"], &[]),
        ),
        ("", &[], Case::new("dry-run-off", tried("a", "false", deny), &["plain GET /"], &["plain GET /tried"])),
        (
            "deny",
            &both[..1],
            Case::new(
                "dry-run-beside",
                tried("a", "true", "action: DENY\nrules: [{}]") + &policy("b", deny) + &policy("c", allow),
                &["plain GET /"],
                &["plain GET /tried", "plain POST /"],
            ),
        ),
    ];
    for (action, verdicts, case) in cases {
        all_hold(kind, mesh, callers, std::slice::from_ref(&case)).await?;
        let stats = mesh.server.proxy.admin().stats().await?;
        for verdict in verdicts {
            let counted = |name: &str| name.contains(&format!("istio_dry_run_{action}_")) && name.ends_with(verdict);
            let sum: u64 = stats.iter().filter(|(name, _)| counted(name)).map(|(_, value)| value).sum();
            let near: Vec<_> = stats.iter().filter(|(name, _)| name.contains("rbac")).collect();
            ensure!(sum > 0, "{}: {}: {verdict}: {near:?}", kind.name(), case.name);
        }
    }
    Ok(())
}
