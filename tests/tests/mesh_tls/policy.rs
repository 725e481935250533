//! Who may do what: Istio's documented AuthorizationPolicies, on both proxies.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use weft_tests::locate::Kind;
use weft_tests::wait::{PATIENCE, eventually};

use super::further::{more, tried_out};
use super::scene::{Caller, Mesh, Protocol, skipped};

/// A policy for the workload `echo`: its name, and the fields beside the selector.
pub(super) fn policy(name: &str, fields: &str) -> String {
    object("AuthorizationPolicy", &format!("name: {name}, namespace: shop"), ECHO, fields)
}

/// The workload as a selector.
pub(super) const ECHO: &str = "selector: {matchLabels: {app: echo}}";

/// A policy of any kind.
pub(super) fn object(kind: &str, meta: &str, selector: &str, fields: &str) -> String {
    let spec = [selector, "\n", &weft_tests::config::dedent(fields)].concat();
    format!(
        "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{{meta}}}\nspec:\n{}---\n",
        weft_tests::config::indent(spec.trim_matches('\n'), 2)
    )
}

/// Who calls, and with what.
pub(super) struct Callers {
    client: Caller,
    other: Caller,
    /// What stands for `$name` in a call.
    pub(super) words: BTreeMap<&'static str, String>,
}

impl Callers {
    pub(super) fn of(mesh: &Mesh) -> Result<Self> {
        let identity = |uri: &str| Ok::<_, anyhow::Error>(Caller::Tls(Some(mesh.root.identity(uri, false)?)));
        Ok(Self {
            client: identity("spiffe://cluster.local/ns/default/sa/client")?,
            other: identity("spiffe://cluster.local/ns/foo/sa/other")?,
            words: BTreeMap::new(),
        })
    }

    /// `client`, of namespace `default`; `other`, of namespace `foo`; `plain`, without an identity.
    fn named(&self, name: &str) -> Result<&Caller> {
        Ok(match name {
            "client" => &self.client,
            "other" => &self.other,
            "plain" => &Caller::Plaintext,
            _ => anyhow::bail!("no caller {name}"),
        })
    }
}

/// What comes of a call: `client GET /path [header: value | header: value]`, or `client tcp`, which is 200 or 403 as well.
pub(super) async fn call(mesh: &Mesh, callers: &Callers, text: &str) -> Result<u16> {
    let (who, what) = text.split_once(' ').context("a caller")?;
    let caller = callers.named(who)?;
    if what == "tcp" {
        return Ok(if mesh.answers(caller, Protocol::Tcp).await { 200 } else { 403 });
    }
    // The longest name first: one may be the beginning of another.
    let what = callers.words.iter().rev().fold(what.to_owned(), |text, (name, value)| text.replace(name, value));
    let mut words = what.splitn(3, ' ');
    let (method, path) = (words.next().context("a method")?, words.next().context("a path")?);
    let lines = words.next().unwrap_or_default().split(" | ").filter(|line| !line.is_empty());
    let headers: String = lines.map(|line| format!("{line}\r\n")).collect();
    mesh.prober.status(caller, method, path, &headers).await
}

/// Policies, calls that are let through, and calls that are not.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) policies: String,
    yes: &'static [&'static str],
    no: &'static [&'static str],
    /// Calls with other answers.
    others: Vec<(u16, &'static [&'static str])>,
}

impl Case {
    /// One with these policies.
    pub(super) fn new(
        name: &'static str,
        policies: String,
        yes: &'static [&'static str],
        no: &'static [&'static str],
    ) -> Self {
        Self { name, policies, yes, no, others: Vec::new() }
    }

    /// And these calls are answered with another status.
    pub(super) fn and(mut self, status: u16, calls: &'static [&'static str]) -> Self {
        self.others.push((status, calls));
        self
    }
}

pub(super) fn case(
    name: &'static str,
    fields: &str,
    yes: &'static [&'static str],
    no: &'static [&'static str],
) -> Case {
    Case::new(name, policy(name, fields), yes, no)
}

/// Sources: who they are, and where.
fn sources() -> Vec<Case> {
    let from = |source: &str| format!("rules: [{{from: [{{source: {{{source}}}}}]}}]");
    vec![
        case(
            "principals",
            &from("principals: [cluster.local/ns/default/sa/client]"),
            &["client GET /", "client tcp"],
            &["other GET /", "other tcp", "plain GET /", "plain tcp"],
        ),
        case(
            "principals-suffix",
            &from("principals: [\"*/sa/client\"]"),
            &["client GET /"],
            &["other GET /", "plain GET /"],
        ),
        case(
            "principals-any",
            &from("principals: [\"*\"]"),
            &["client GET /", "other GET /"],
            &["plain GET /", "plain tcp"],
        ),
        case(
            "not-principals",
            &from("notPrincipals: [cluster.local/ns/default/sa/client]"),
            &["other GET /", "plain GET /", "plain tcp"],
            &["client GET /", "client tcp"],
        ),
        case(
            "deny-plaintext",
            "action: DENY\nrules: [{from: [{source: {notPrincipals: [\"*\"]}}]}]",
            &["client GET /", "client tcp"],
            &["plain GET /", "plain tcp"],
        ),
        case(
            "namespaces",
            &from("namespaces: [foo]"),
            &["other GET /", "other tcp"],
            &["client GET /", "plain GET /", "client tcp"],
        ),
        case("namespaces-prefix", &from("namespaces: [\"de*\"]"), &["client GET /"], &["other GET /", "plain GET /"]),
        case(
            "not-namespaces",
            &from("notNamespaces: [foo]"),
            &["client GET /", "plain GET /"],
            &["other GET /", "other tcp"],
        ),
        case("ip-blocks", &from("ipBlocks: [127.0.0.1, 10.0.0.0/8]"), &["client GET /", "plain tcp"], &[]),
        case("ip-blocks-other", &from("ipBlocks: [10.0.0.0/8]"), &[], &["client GET /", "plain tcp"]),
        case("not-ip-blocks", &from("notIpBlocks: [10.0.0.0/8]"), &["client GET /", "plain tcp"], &[]),
        case(
            "remote-ip-blocks",
            &from("remoteIpBlocks: [10.1.0.0/16]"),
            &["plain GET / x-forwarded-for: 10.1.2.3"],
            &["plain GET / x-forwarded-for: 10.2.2.3", "plain GET /"],
        ),
        case(
            "not-remote-ip-blocks",
            "action: DENY\nrules: [{from: [{source: {notRemoteIpBlocks: [10.1.0.0/16]}}]}]",
            &["plain GET / x-forwarded-for: 10.1.2.3"],
            &["plain GET / x-forwarded-for: 10.2.2.3"],
        ),
        case(
            "two-sources",
            "rules: [{from: [{source: {namespaces: [foo]}}, {source: {principals: [cluster.local/ns/default/sa/client]}}]}]",
            &["client GET /", "other GET /"],
            &["plain GET /"],
        ),
        case(
            "one-source-of-both",
            &from("namespaces: [default], notPrincipals: [\"*/sa/client\"]"),
            &[],
            &["client GET /", "other GET /", "plain GET /"],
        ),
    ]
}

/// Operations.
fn operations(mesh: &Mesh) -> Vec<Case> {
    let to = |operation: &str| format!("rules: [{{to: [{{operation: {{{operation}}}}}]}}]");
    let http = mesh.prober.target(Protocol::Http1);
    vec![
        case("methods", &to("methods: [GET, HEAD]"), &["plain GET /", "client HEAD /"], &["plain POST /", "plain tcp"]),
        case("not-methods", &to("notMethods: [POST]"), &["plain GET /"], &["plain POST /"]),
        case(
            "paths",
            &to("paths: [/info]"),
            &["plain GET /info", "plain GET /info?x=y"],
            &["plain GET /info/", "plain GET /x?/info"],
        ),
        case(
            "paths-prefix",
            &to("paths: [\"/info*\"]"),
            &["plain GET /info", "plain GET /info/x"],
            &["plain GET /", "plain GET /x/info"],
        ),
        case("paths-suffix", &to("paths: [\"*.txt\"]"), &["plain GET /a/b.txt?q"], &["plain GET /b.html"]),
        case(
            "not-paths",
            "action: DENY\nrules: [{to: [{operation: {notPaths: [/healthz]}}]}]",
            &["plain GET /healthz"],
            &["plain GET /"],
        ),
        case("paths-normalized", &to("paths: [/a/b]"), &["plain GET /a/x/../b"], &["plain GET /a/x"]),
        case(
            "hosts",
            &to("hosts: [\"*.example\"]"),
            &["plain GET / host: a.example", "plain GET / host: A.EXAMPLE"],
            &["plain GET /", "plain GET / host: example"],
        ),
        case("not-hosts", &to("notHosts: [a.example]"), &["plain GET /"], &["plain GET / host: a.example"]),
        case(
            "ports",
            &to(&format!("ports: [\"{http}\"]")),
            &["plain GET /", "client GET /"],
            &["plain tcp", "client tcp"],
        ),
        case("not-ports", &to(&format!("notPorts: [\"{http}\"]")), &["plain tcp"], &["plain GET /", "client GET /"]),
        case(
            "two-operations",
            "rules: [{to: [{operation: {methods: [GET], paths: [/a]}}, {operation: {methods: [POST], paths: [/b]}}]}]",
            &["plain GET /a", "plain POST /b"],
            &["plain POST /a", "plain GET /b"],
        ),
        // What is denied by what only requests have is denied to connections as a whole.
        case(
            "deny-methods",
            &format!("action: DENY\n{}", to("methods: [DELETE]")),
            &["plain GET /"],
            &["plain DELETE /", "plain tcp"],
        ),
    ]
}

/// Conditions, and what several policies say together.
fn conditions(mesh: &Mesh) -> Vec<Case> {
    let when = |key: &str, values: &str| format!("rules: [{{when: [{{key: {key}, {values}}}]}}]");
    let token = "\"request.headers[x-token]\"";
    let tcp = mesh.prober.target(Protocol::Tcp);
    let both = |name: &'static str, one: &str, two: &str, yes, no| {
        Case::new(name, policy("one", one) + &policy("two", two), yes, no)
    };
    vec![
        case(
            "header",
            &when(token, "values: [admin, \"ops-*\"]"),
            &["plain GET / x-token: admin", "plain GET / x-token: ops-1"],
            &["plain GET /", "plain GET / x-token: user"],
        ),
        case(
            "not-header",
            &format!("action: DENY\n{}", when(token, "notValues: [admin]")),
            &["plain GET / x-token: admin"],
            &["plain GET /", "plain GET / x-token: user"],
        ),
        case("source-ip", &when("source.ip", "values: [127.0.0.0/8]"), &["plain GET /", "client tcp"], &[]),
        case(
            "remote-ip",
            &when("remote.ip", "notValues: [10.1.0.0/16]"),
            &["plain GET /"],
            &["plain GET / x-forwarded-for: 10.1.2.3"],
        ),
        case(
            "source-namespace",
            &when("source.namespace", "values: [foo]"),
            &["other GET /"],
            &["client GET /", "plain tcp"],
        ),
        case(
            "source-principal",
            &when("source.principal", "values: [\"cluster.local/ns/foo/*\"]"),
            &["other GET /"],
            &["client GET /"],
        ),
        case("destination-ip", &when("destination.ip", "values: [127.77.0.0/16]"), &["plain GET /", "plain tcp"], &[]),
        case(
            "destination-port",
            &when("destination.port", &format!("values: [\"{tcp}\"]")),
            &["plain tcp"],
            &["plain GET /"],
        ),
        case("sni", &when("connection.sni", "values: [localhost]"), &["client GET /", "client tcp"], &["plain GET /"]),
        both(
            "deny-before-allow",
            "rules: [{}]",
            "action: DENY\nrules: [{to: [{operation: {paths: [\"/admin*\"]}}], from: [{source: {notNamespaces: [foo]}}]}]",
            &["client GET /", "other GET /admin"],
            &["client GET /admin", "plain GET /admin/x"],
        ),
        both(
            "allowed-by-either",
            "rules: [{to: [{operation: {methods: [GET]}}]}]",
            "rules: [{from: [{source: {namespaces: [foo]}}]}]",
            &["plain GET /", "other POST /", "other tcp"],
            &["plain POST /", "client POST /", "client tcp"],
        ),
        case(
            "documented",
            "action: ALLOW\nrules:\n- from:\n  - source: {principals: [cluster.local/ns/default/sa/client]}\n  - source: {namespaces: [foo]}\n  to:\n  - operation: {methods: [GET], paths: [\"/info*\"]}\n  - operation: {methods: [POST], paths: [/data]}\n  when:\n  - {key: \"request.headers[x-token]\", values: [v1, v2]}",
            &["client GET /info x-token: v1", "other POST /data x-token: v2"],
            &["client GET /info", "client POST /info x-token: v1", "plain GET /info x-token: v1"],
        ),
    ]
}

async fn policies(kind: Kind) -> Result<()> {
    if skipped(kind) {
        return Ok(());
    }
    let mesh = Mesh::start(kind, 3600, true, "").await?;
    let callers = Callers::of(&mesh)?;
    let mut cases = vec![
        case("allow-nothing", "{}", &[], &["client GET /", "plain GET /", "plain tcp"]),
        case("allow-all", "rules: [{}]", &["client GET /", "plain GET /", "plain tcp"], &[]),
        case("deny-all", "action: DENY\nrules: [{}]", &[], &["client GET /", "plain GET /", "plain tcp"]),
        case("deny-nothing", "action: DENY", &["client GET /", "plain tcp"], &[]),
    ];
    cases[0].policies = policy("allow-nothing", "");
    cases.extend(sources().into_iter().chain(operations(&mesh)).chain(conditions(&mesh)).chain(more()));
    all_hold(kind, &mesh, &callers, &cases).await?;
    tried_out(kind, &mesh, &callers).await?;
    // A policy for others changes nothing here, and none at all lets everybody in.
    let elsewhere = policy("elsewhere", "").replace("app: echo", "app: nobody");
    for text in [elsewhere.as_str(), ""] {
        mesh.policy(text).await?;
        let all = Case::new("none", String::new(), &["client GET /", "plain GET /", "plain tcp"], &[]);
        holds(&mesh, &callers, &all).await.with_context(|| format!("{}: {text}", kind.name()))?;
    }
    through_the_sidecar(&mesh).await.with_context(|| kind.name())
}

/// Each case in turn.
pub(super) async fn all_hold(kind: Kind, mesh: &Mesh, callers: &Callers, cases: &[Case]) -> Result<()> {
    for case in cases {
        mesh.policy(&case.policies).await?;
        let nacks = mesh.plane.debug("/debug/push_status").await?["byState"]["nacked"].clone();
        ensure!(nacks == 0, "{}: {} is refused: {}\n{}", kind.name(), case.name, case.policies, mesh.plane.log());
        holds(mesh, callers, case)
            .await
            .with_context(|| format!("{}: {}\n{}", kind.name(), case.name, case.policies))?;
    }
    Ok(())
}

/// Waits until every call of a case ends as it should: a listener that was replaced takes connections for a moment longer.
pub(super) async fn holds(mesh: &Mesh, callers: &Callers, case: &Case) -> Result<()> {
    let last = std::cell::RefCell::new(String::new());
    let all = [(200, case.yes), (403, case.no)].into_iter().chain(case.others.iter().copied());
    let calls: Vec<_> = all.flat_map(|(status, calls)| calls.iter().map(move |call| (call, status))).collect();
    let look = || async {
        for &(text, wanted) in &calls {
            let found = call(mesh, callers, text).await;
            if found.as_ref().ok() != Some(&wanted) {
                *last.borrow_mut() = format!("{text}: {found:?}, not {wanted}");
                return None;
            }
        }
        Some(())
    };
    let outcome = eventually(case.name, PATIENCE, look).await;
    outcome.with_context(|| last.borrow().clone())
}

/// What a sidecar shows is the identity of its workload; a refusal is in the log of the one that refuses, by policy and caller.
async fn through_the_sidecar(mesh: &Mesh) -> Result<()> {
    let deny = "action: DENY\nrules: [{from: [{source: {principals: [cluster.local/ns/default/sa/client]}}]}]";
    mesh.policy(&policy("no-client", deny)).await?;
    let look = || async { (mesh.prober.status(&Caller::Sidecar, "GET", "/", "").await.ok()? == 403).then_some(()) };
    eventually("the sidecar of client is refused", PATIENCE * 2, look).await?;
    let dump = mesh.server.proxy.admin().text("/config_dump").await?;
    ensure!(dump.contains("ns[shop]-policy[no-client]-rule[0]"), "{dump}");
    let stats = mesh.server.proxy.admin().stats().await?;
    let denied: u64 = stats.iter().filter(|(name, _)| name.ends_with(".rbac.denied")).map(|(_, n)| n).sum();
    ensure!(denied > 0, "{stats:?}");
    mesh.policy("").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weft_enforces_policies() -> Result<()> {
    policies(Kind::Weft).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_enforces_policies() -> Result<()> {
    policies(Kind::Envoy).await
}
