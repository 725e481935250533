//! Route matching, direct responses, redirects, rewrites, weighted clusters.

use anyhow::Result;
use weft_tests::config::Config;
use weft_tests::parity::{Group, get, h2, request, run, stats};

#[test]
fn matching() -> Result<()> {
    let config = Config::new()
        .http(
            "http",
            r#"
            route_config:
              name: local
              virtual_hosts:
              - name: exact
                domains: ["exact.test"]
                routes: [{match: {prefix: "/"}, name: exact, direct_response: {status: 201, body: {inline_string: exact}}}]
              - name: suffix
                domains: ["*.suffix.test"]
                routes: [{match: {prefix: "/"}, direct_response: {status: 202, body: {inline_string: suffix}}}]
              - name: long-suffix
                domains: ["*.long.suffix.test"]
                routes: [{match: {prefix: "/"}, direct_response: {status: 202, body: {inline_string: long suffix}}}]
              - name: prefix
                domains: ["prefix.*"]
                routes: [{match: {prefix: "/"}, direct_response: {status: 203, body: {inline_string: prefix}}}]
              - name: any
                domains: ["*"]
                routes:
                - {match: {path: "/exact"}, name: exact-path, direct_response: {status: 200, body: {inline_string: exact path}}}
                - {match: {path: "/Case", case_sensitive: false}, direct_response: {status: 200, body: {inline_string: any case}}}
                - {match: {path_separated_prefix: "/sep"}, direct_response: {status: 200, body: {inline_string: separated}}}
                - {match: {safe_regex: {regex: "/re/[0-9]+"}}, direct_response: {status: 200, body: {inline_string: regex}}}
                - match: {path_match_policy: {name: t, typed_config: {"@type": type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig, path_template: "/tpl/{a}/*/end"}}}
                  direct_response: {status: 200, body: {inline_string: template}}
                - {match: {prefix: "/h", headers: [{name: x-a, string_match: {exact: one}}]}, direct_response: {status: 200, body: {inline_string: header exact}}}
                - {match: {prefix: "/h", headers: [{name: x-a, string_match: {prefix: TWO, ignore_case: true}}]}, direct_response: {status: 200, body: {inline_string: header prefix}}}
                - {match: {prefix: "/h", headers: [{name: x-n, range_match: {start: 5, end: 10}}]}, direct_response: {status: 200, body: {inline_string: header range}}}
                - {match: {prefix: "/h", headers: [{name: x-p, present_match: true}]}, direct_response: {status: 200, body: {inline_string: header present}}}
                - {match: {prefix: "/h", headers: [{name: x-r, string_match: {safe_regex: {regex: "a+b"}}}]}, direct_response: {status: 200, body: {inline_string: header regex}}}
                - {match: {prefix: "/i", headers: [{name: x-a, string_match: {exact: one}, invert_match: true}]}, direct_response: {status: 200, body: {inline_string: inverted}}}
                - {match: {prefix: "/m", headers: [{name: x-a, string_match: {exact: ""}, treat_missing_header_as_empty: true}]}, direct_response: {status: 200, body: {inline_string: missing as empty}}}
                - {match: {prefix: "/meth", headers: [{name: ":method", string_match: {exact: POST}}]}, direct_response: {status: 200, body: {inline_string: post only}}}
                - {match: {prefix: "/q", query_parameters: [{name: a, string_match: {exact: "1"}}]}, direct_response: {status: 200, body: {inline_string: query exact}}}
                - {match: {prefix: "/q", query_parameters: [{name: b, present_match: true}]}, direct_response: {status: 200, body: {inline_string: query present}}}
                - {match: {prefix: "/q", query_parameters: [{name: c, string_match: {safe_regex: {regex: "x.*"}}}]}, direct_response: {status: 200, body: {inline_string: query regex}}}
                - {match: {prefix: "/grpc", grpc: {}}, direct_response: {status: 200, body: {inline_string: grpc}}}
                - {match: {prefix: "/never", runtime_fraction: {default_value: {numerator: 0}}}, direct_response: {status: 200, body: {inline_string: never}}}
                - {match: {prefix: "/always", runtime_fraction: {default_value: {numerator: 100}}}, direct_response: {status: 200, body: {inline_string: always}}}
                - {match: {prefix: "/empty"}, direct_response: {status: 204}}
                - {match: {prefix: "/json"}, direct_response: {status: 200, body: {inline_string: "{}"}}, response_headers_to_add: [{header: {key: content-type, value: application/json}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]}
                - {match: {prefix: "/teapot"}, direct_response: {status: 418, body: {inline_string: short and stout}}}
            "#,
        );
    let group = Group::new("matching", config)
        .step("domain-exact", get("http", "/", &["host: exact.test"]))
        .step("domain-exact-upper", get("http", "/", &["host: EXACT.Test"]))
        .step("domain-exact-port", get("http", "/", &["host: exact.test:8080"]))
        .step("domain-suffix", get("http", "/", &["host: a.suffix.test"]))
        .step("domain-suffix-longest", get("http", "/", &["host: a.long.suffix.test"]))
        .step("domain-prefix", get("http", "/", &["host: prefix.anything"]))
        .step("no-route", get("http", "/nothing-here", &[]))
        .step("path-exact", get("http", "/exact", &[]))
        .step("path-exact-query", get("http", "/exact?x=1", &[]))
        .step("path-exact-slash", get("http", "/exact/", &[]))
        .step("path-ignore-case", get("http", "/cASE", &[]))
        .step("separated-bare", get("http", "/sep", &[]))
        .step("separated-below", get("http", "/sep/x", &[]))
        .step("separated-query", get("http", "/sep?x", &[]))
        .step("separated-longer", get("http", "/separate", &[]))
        .step("regex", get("http", "/re/42", &[]))
        .step("regex-query", get("http", "/re/42?x=y", &[]))
        .step("regex-is-full", get("http", "/re/42/x", &[]))
        .step("template", get("http", "/tpl/x/y/end", &[]))
        .step("template-not", get("http", "/tpl/x/y/z/end", &[]))
        .step("header-exact", get("http", "/h", &["x-a: one"]))
        .step("header-prefix", get("http", "/h", &["x-a: twofold"]))
        .step("header-range", get("http", "/h", &["x-n: 5"]))
        .step("header-range-end", get("http", "/h", &["x-n: 10"]))
        .step("header-range-text", get("http", "/h", &["x-n: 5x"]))
        .step("header-present-empty", get("http", "/h", &["x-p:"]))
        .step("header-regex", get("http", "/h", &["x-r: aab"]))
        .step("header-repeated", get("http", "/h", &["x-a: zero", "x-a: one"]))
        .step("header-none", get("http", "/h", &["x-a: other"]))
        .step("inverted-missing", get("http", "/i", &[]))
        .step("inverted-equal", get("http", "/i", &["x-a: one"]))
        .step("missing-as-empty", get("http", "/m", &[]))
        .step("method-post", request("http", "POST", "/meth", &[], "x"))
        .step("method-get", get("http", "/meth", &[]))
        .step("query-exact", get("http", "/q?a=1", &[]))
        .step("query-second", get("http", "/q?z=2&a=1", &[]))
        .step("query-other", get("http", "/q?a=2", &[]))
        .step("query-present", get("http", "/q?b", &[]))
        .step("query-regex", get("http", "/q?c=xyz", &[]))
        .step("query-encoded", get("http", "/q?a=%31", &[]))
        .step("grpc-yes", request("http", "POST", "/grpc", &["content-type: application/grpc"], "x"))
        .step("grpc-proto", request("http", "POST", "/grpc", &["content-type: application/grpc+proto"], "x"))
        .step("grpc-no", request("http", "POST", "/grpc", &["content-type: application/json"], "x"))
        .step("fraction-never", get("http", "/never", &[]))
        .step("fraction-always", get("http", "/always", &[]))
        .step("direct-empty", get("http", "/empty", &[]))
        .step("direct-json", get("http", "/json", &[]))
        .step("direct-418", get("http", "/teapot", &[]))
        .step("direct-head", request("http", "HEAD", "/teapot", &[], ""))
        .step("direct-h2", h2("http", "/teapot", &[], b""))
        .step("direct-h2-body", h2("http", "/teapot", &[], b"body"))
        .step(
            "counters",
            stats(&[
                "http.http.downstream_rq_total",
                "http.http.downstream_rq_2xx",
                "http.http.downstream_rq_4xx",
                "http.http.downstream_cx_total",
                "http.http.downstream_cx_http1_total",
                "http.http.downstream_cx_http2_total",
                "http.http.no_route",
                "http.http.rq_direct_response",
                "http.http.rq_total",
                "http.http.downstream_rq_completed",
            ]),
        );
    run(&group)
}

#[test]
fn redirects() -> Result<()> {
    let config = Config::new().http(
        "http",
        r#"
        route_config:
          virtual_hosts:
          - name: all
            domains: ["*"]
            routes:
            - {match: {prefix: "/https"}, redirect: {https_redirect: true}}
            - {match: {prefix: "/scheme"}, redirect: {scheme_redirect: ftp}}
            - {match: {prefix: "/host"}, redirect: {host_redirect: other.test}}
            - {match: {prefix: "/port"}, redirect: {port_redirect: 8443}}
            - {match: {prefix: "/path"}, redirect: {path_redirect: /new}}
            - {match: {prefix: "/pathq"}, redirect: {path_redirect: "/new?own=1"}}
            - {match: {prefix: "/strip"}, redirect: {path_redirect: /new, strip_query: true}}
            - {match: {prefix: "/prefix"}, redirect: {prefix_rewrite: /changed}}
            - {match: {prefix: "/regex"}, redirect: {regex_rewrite: {pattern: {regex: "^/regex/(\\d+)"}, substitution: "/n\\1"}}}
            - {match: {prefix: "/302"}, redirect: {path_redirect: /x, response_code: FOUND}}
            - {match: {prefix: "/303"}, redirect: {path_redirect: /x, response_code: SEE_OTHER}}
            - {match: {prefix: "/307"}, redirect: {path_redirect: /x, response_code: TEMPORARY_REDIRECT}}
            - {match: {prefix: "/308"}, redirect: {path_redirect: /x, response_code: PERMANENT_REDIRECT}}
            - {match: {prefix: "/all"}, redirect: {https_redirect: true, host_redirect: other.test, port_redirect: 444, path_redirect: /all2}}
            - {match: {prefix: "/added"}, redirect: {path_redirect: /x}, response_headers_to_add: [{header: {key: x-added, value: "yes"}}]}
          - name: tls-only
            domains: ["secure.test"]
            require_tls: ALL
            routes: [{match: {prefix: "/"}, direct_response: {status: 200}}]
        "#,
    );
    let mut group = Group::new("redirects", config);
    for (name, path, host) in [
        ("https", "/https/a?b=c", "example.com"),
        ("https-port-80", "/https", "example.com:80"),
        ("https-port-443", "/https", "example.com:443"),
        ("https-port-8080", "/https", "example.com:8080"),
        ("https-ipv6", "/https", "[::1]:80"),
        ("scheme", "/scheme/a", "example.com"),
        ("host", "/host/a?q=1", "example.com:8080"),
        ("port", "/port/a", "example.com"),
        ("port-replaced", "/port/a", "example.com:81"),
        ("path", "/path/a?q=1", "example.com"),
        ("path-with-query", "/pathq?q=1", "example.com"),
        ("strip-query", "/strip?q=1", "example.com"),
        ("prefix", "/prefix/rest?q=1", "example.com"),
        ("regex", "/regex/12/tail?q=1", "example.com"),
        ("found", "/302", "example.com"),
        ("see-other", "/303", "example.com"),
        ("temporary", "/307", "example.com"),
        ("permanent", "/308", "example.com"),
        ("everything", "/all?q=1", "example.com:80"),
        ("header-added", "/added", "example.com"),
        ("require-tls", "/x?y=z", "secure.test"),
    ] {
        group = group.step(name, get("http", path, &[&format!("host: {host}")]));
    }
    group = group
        .step("post", request("http", "POST", "/https", &[], "body"))
        .step("forwarded-proto", get("http", "/", &["host: secure.test", "x-forwarded-proto: https"]))
        .step(
            "counters",
            stats(&["http.http.rq_direct_response", "http.http.rq_redirect", "http.http.downstream_rq_3xx"]),
        );
    run(&group)
}

#[test]
fn rewrites() -> Result<()> {
    let config = Config::new()
        .http(
            "http",
            r#"
            route_config:
              virtual_hosts:
              - name: all
                domains: ["*"]
                routes:
                - {match: {prefix: "/prefix/"}, route: {cluster: a, prefix_rewrite: /}}
                - {match: {path: "/exact"}, route: {cluster: a, prefix_rewrite: /whole}}
                - {match: {path_separated_prefix: "/sep"}, route: {cluster: a, prefix_rewrite: /other}}
                - {match: {prefix: "/regex"}, route: {cluster: a, regex_rewrite: {pattern: {regex: "/([a-z]+)"}, substitution: "/<\\1>"}}}
                - {match: {prefix: "/literal"}, route: {cluster: a, host_rewrite_literal: new.test}}
                - {match: {prefix: "/append"}, route: {cluster: a, host_rewrite_literal: new.test, append_x_forwarded_host: true}}
                - {match: {prefix: "/header"}, route: {cluster: a, host_rewrite_header: x-host}}
                - {match: {prefix: "/pathregex"}, route: {cluster: a, host_rewrite_path_regex: {pattern: {regex: "^/pathregex/(.+)$"}, substitution: "\\1.test"}}}
                - match: {path_match_policy: {name: t, typed_config: {"@type": type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig, path_template: "/tpl/{a}/{b}"}}}
                  route:
                    cluster: a
                    path_rewrite_policy: {name: r, typed_config: {"@type": type.googleapis.com/envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig, path_template_rewrite: "/{b}/{a}"}}
                - {match: {prefix: "/header-cluster"}, route: {cluster_header: x-cluster}}
                - {match: {prefix: "/missing-503"}, route: {cluster_header: x-cluster}}
                - {match: {prefix: "/missing-404"}, route: {cluster_header: x-cluster, cluster_not_found_response_code: NOT_FOUND}}
                - match: {prefix: "/weighted"}
                  route:
                    weighted_clusters:
                      clusters:
                      - {name: a, weight: 0}
                      - name: b
                        weight: 10
                        request_headers_to_add: [{header: {key: x-weighted, value: b}}]
                        response_headers_to_add: [{header: {key: x-from, value: b}}]
                        host_rewrite_literal: weighted.test
                - match: {prefix: "/weight-header"}
                  route: {weighted_clusters: {header_name: x-random, clusters: [{name: a, weight: 50}, {name: b, weight: 50}]}}
                - match: {prefix: "/mirror"}
                  route: {cluster: a, request_mirror_policies: [{cluster: b}]}
                - {match: {prefix: "/"}, route: {cluster: a}}
            "#,
        )
        .cluster("a", "")
        .cluster("b", "");
    let group = Group::new("rewrites", config)
        .step("prefix", get("http", "/prefix/rest?q=1", &[]))
        .step("prefix-nothing-left", get("http", "/prefix/", &[]))
        .step("exact", get("http", "/exact?q=1", &[]))
        .step("separated", get("http", "/sep/x", &[]))
        .step("separated-bare", get("http", "/sep?q", &[]))
        .step("regex", get("http", "/regex/abc?d=/e", &[]))
        .step("host-literal", get("http", "/literal", &[]))
        .step("host-append", get("http", "/append", &["x-forwarded-host: first.test"]))
        .step("host-header", get("http", "/header", &["x-host: from-header.test"]))
        .step("host-header-missing", get("http", "/header", &[]))
        .step("host-path-regex", get("http", "/pathregex/abc", &[]))
        .step("template", get("http", "/tpl/1/2?q", &[]))
        .step("cluster-header", get("http", "/header-cluster", &["x-cluster: b"]))
        .step("cluster-header-missing", get("http", "/header-cluster", &[]))
        .step("cluster-header-unknown", get("http", "/missing-503", &["x-cluster: nobody"]))
        .step("cluster-header-unknown-404", get("http", "/missing-404", &["x-cluster: nobody"]))
        .step("weighted", get("http", "/weighted", &[]))
        .step("weighted-header-low", get("http", "/weight-header", &["x-random: 10"]))
        .step("weighted-header-high", get("http", "/weight-header", &["x-random: 60"]))
        .step("weighted-header-wraps", get("http", "/weight-header", &["x-random: 149"]))
        .step("fragment", get("http", "/a#frag", &[]))
        .step("options-star", request("http", "OPTIONS", "*", &[], ""))
        .step("absolute-form", get("http", "http://absolute.test/path?x=1", &["host: other.test"]))
        .step("absolute-form-no-path", get("http", "http://absolute.test", &[]))
        .step("absolute-form-https", get("http", "https://absolute.test/path", &[]))
        .step("h2-simple", h2("http", "/prefix/rest", &[("x-a", "1"), ("x-a", "2")], b""))
        .step("h2-post", h2("http", "/post", &[], b"hello"))
        .step(
            "counters",
            stats(&[
                "cluster.a.upstream_rq_total",
                "cluster.b.upstream_rq_total",
                "cluster.a.upstream_rq_200",
                "cluster.a.upstream_rq_completed",
                "cluster.a.external.upstream_rq_200",
                "http.http.no_cluster",
                "http.http.no_route",
            ]),
        );
    run(&group)
}

#[test]
fn route_stats() -> Result<()> {
    let config = Config::new()
        .http(
            "http",
            r#"
            route_config:
              virtual_hosts:
              - name: v
                domains: ["*"]
                virtual_clusters:
                - {name: posts, headers: [{name: ":method", string_match: {exact: POST}}]}
                - {name: slow, headers: [{name: ":path", string_match: {prefix: /slow}}]}
                routes:
                - {match: {prefix: "/counted"}, stat_prefix: counted, route: {cluster: a, prefix_rewrite: "/"}}
                - {match: {prefix: "/slow"}, stat_prefix: slow, route: {cluster: a, timeout: 0.2s}}
                - match: {prefix: "/retried"}
                  stat_prefix: retried
                  route: {cluster: a, retry_policy: {retry_on: 5xx, num_retries: 1}}
                - {match: {prefix: "/direct"}, stat_prefix: direct, direct_response: {status: 200}}
                - {match: {prefix: "/"}, route: {cluster: a}}
        "#,
        )
        .cluster("a", "");
    let group = Group::new("route-stats", config)
        .step("counted", get("http", "/counted/x", &[]))
        .step("counted-404", get("http", "/counted/y", &["x-script: 404"]))
        .step("post", request("http", "POST", "/other", &[], "x"))
        .step("slow", get("http", "/slow", &["x-script: 200,delay=1000"]))
        .step("retried", get("http", "/retried", &["x-script: 503"]))
        .step("direct", get("http", "/direct", &[]))
        .step(
            "counters",
            stats(&[
                "vhost.v.route.counted.upstream_rq_total",
                "vhost.v.route.counted.upstream_rq_200",
                "vhost.v.route.counted.upstream_rq_404",
                "vhost.v.route.counted.upstream_rq_4xx",
                "vhost.v.route.counted.upstream_rq_completed",
                "vhost.v.route.slow.upstream_rq_timeout",
                "vhost.v.route.slow.upstream_rq_504",
                "vhost.v.route.retried.upstream_rq_total",
                "vhost.v.route.retried.upstream_rq_retry",
                "vhost.v.route.retried.upstream_rq_retry_limit_exceeded",
                "vhost.v.route.retried.upstream_rq_503",
                "vhost.v.route.direct.upstream_rq_total",
                "vhost.v.vcluster.posts.upstream_rq_total",
                "vhost.v.vcluster.posts.upstream_rq_200",
                "vhost.v.vcluster.posts.upstream_rq_completed",
                "vhost.v.vcluster.slow.upstream_rq_504",
                "vhost.v.vcluster.slow.upstream_rq_timeout",
                "vhost.v.vcluster.other.upstream_rq_total",
                "vhost.v.vcluster.other.upstream_rq_200",
            ]),
        );
    run(&group)
}
