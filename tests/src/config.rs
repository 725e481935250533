//! Bootstraps from few words.

/// The access log line of every listener made by [`Config::http`].
pub const LOG_FORMAT: &str = "%PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% in=%BYTES_RECEIVED% \
out=%BYTES_SENT% cluster=%UPSTREAM_CLUSTER% route=%ROUTE_NAME% attempts=%UPSTREAM_REQUEST_ATTEMPT_COUNT%";

/// A bootstrap being written. Text that goes in may use the placeholders of [`crate::world::World`].
#[derive(Clone, Debug, Default)]
pub struct Config {
    listeners: String,
    clusters: String,
    extra: String,
}

/// Moves a block of YAML to the right.
#[must_use]
pub fn indent(text: &str, by: usize) -> String {
    let margin = " ".repeat(by);
    let lines = text.lines().map(|line| if line.trim().is_empty() { String::new() } else { format!("{margin}{line}") });
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

/// Takes the common margin off a block of YAML, so that it can stand indented in a Rust file.
#[must_use]
pub fn dedent(text: &str) -> String {
    let filled = || text.lines().filter(|line| !line.trim().is_empty());
    let margin = filled().map(|line| line.len() - line.trim_start().len()).min().unwrap_or(0);
    text.lines().map(|line| line.get(margin..).unwrap_or("").to_owned() + "\n").collect()
}

/// A `file_access_log` into the world's directory, as an item of `access_log`.
#[must_use]
pub fn access_log(format: &str) -> String {
    let quoted = serde_json::Value::from(format!("{format}\n")).to_string();
    format!(
        "- name: envoy.access_loggers.file\n  typed_config:\n    \"@type\": \
         type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\n    path: \"{{{{dir}}}}/access.log\"\n    \
         log_format: {{text_format_source: {{inline_string: {quoted}}}}}\n"
    )
}

/// An HTTP connection manager as an item of `filters`: `fields` are its fields; the statistics prefix, the access log
/// and the router are filled in where they are missing.
#[must_use]
pub fn connection_manager(stat_prefix: &str, fields: &str) -> String {
    let fields = dedent(fields);
    let mut all = String::new();
    if !fields.lines().any(|line| line.starts_with("stat_prefix:")) {
        all += &format!("stat_prefix: {stat_prefix}\n");
    }
    if !fields.lines().any(|line| line.starts_with("access_log:")) {
        all += &format!("access_log:\n{}", access_log(LOG_FORMAT));
    }
    if !fields.lines().any(|line| line.starts_with("delayed_close_timeout:")) {
        all += "delayed_close_timeout: 0.1s\n";
    }
    all += &fields;
    let router = "- name: envoy.filters.http.router\n  typed_config: {\"@type\": \
                  type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}\n";
    if !fields.lines().any(|line| line.starts_with("http_filters:")) {
        all += "http_filters:\n";
        all += router;
    } else if !fields.contains("filters.http.router.v3.Router") {
        all = all.replace("http_filters:\n", "http_filters:\n{{filters}}\n");
        let start = all.find("{{filters}}\n").unwrap_or(0);
        let after = start + "{{filters}}\n".len();
        let rest = &all[after..];
        let end = rest
            .lines()
            .take_while(|line| line.starts_with([' ', '-']) || line.is_empty())
            .map(|line| line.len() + 1)
            .sum::<usize>()
            .min(rest.len());
        all = format!("{}{}{}{}", &all[..start], &rest[..end], router, &rest[end..]);
    }
    let typed = "\"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.\
                 HttpConnectionManager\n";
    format!(
        "- name: envoy.filters.network.http_connection_manager\n  typed_config:\n{}{}",
        indent(typed, 4),
        indent(&all, 4)
    )
}

impl Config {
    /// An empty bootstrap with an admin interface.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A listener at `{{port:<name>}}` with one connection manager.
    #[must_use]
    pub fn http(self, name: &str, fields: &str) -> Self {
        let chain = format!("filter_chains:\n- filters:\n{}", indent(&connection_manager(name, fields), 2));
        self.listener(name, &chain)
    }

    /// A listener at `{{port:<name>}}` with these fields.
    #[must_use]
    pub fn listener(mut self, name: &str, fields: &str) -> Self {
        self.listeners += &format!(
            "  - name: {name}\n    address: {{socket_address: {{address: 127.0.0.1, port_value: {{{{port:{name}}}}}}}}}\n{}",
            indent(&dedent(fields), 4)
        );
        self
    }

    /// A listener at an address that it does not bind to, as `ip:port`, with these fields.
    #[must_use]
    pub fn unbound(mut self, name: &str, address: &str, fields: &str) -> Self {
        let (ip, port) = address.rsplit_once(':').unwrap_or((address, "0"));
        self.listeners += &format!(
            "  - name: {name}\n    bind_to_port: false\n    address: {{socket_address: {{address: '{ip}', port_value: {port}}}}}\n{}",
            indent(&dedent(fields), 4)
        );
        self
    }

    /// A static cluster of the upstream with the same name; see [`crate::world::World`] for what names mean.
    #[must_use]
    pub fn cluster(self, name: &str, fields: &str) -> Self {
        self.cluster_of(name, &[name], fields)
    }

    /// A static cluster of these upstreams.
    #[must_use]
    pub fn cluster_of(self, name: &str, upstreams: &[&str], fields: &str) -> Self {
        let mut text = String::new();
        for upstream in upstreams {
            text += &format!(
                "    - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {{{{upstream:{upstream}}}}}}}}}}}\n"
            );
        }
        let endpoints = if upstreams.is_empty() {
            "  - lb_endpoints: []\n".to_owned()
        } else {
            format!("  - lb_endpoints:\n{text}")
        };
        self.cluster_raw(&format!(
            "name: {name}\ntype: STATIC\nconnect_timeout: 2s\n{}load_assignment:\n  cluster_name: {name}\n  endpoints:\n{endpoints}",
            dedent(fields)
        ))
    }

    /// A cluster with exactly these fields.
    #[must_use]
    pub fn cluster_raw(mut self, fields: &str) -> Self {
        let block = indent(&dedent(fields), 4);
        self.clusters += &block.replacen("    ", "  - ", 1);
        self
    }

    /// Fields beside `static_resources`.
    #[must_use]
    pub fn top(mut self, fields: &str) -> Self {
        self.extra += &dedent(fields);
        self
    }

    /// The bootstrap's text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = "admin: {address: {socket_address: {address: 127.0.0.1, port_value: {{admin}}}}}\n".to_owned();
        text += &self.extra;
        text += "static_resources:\n";
        if !self.listeners.is_empty() {
            text += &format!("  listeners:\n{}", self.listeners);
        }
        if !self.clusters.is_empty() {
            text += &format!("  clusters:\n{}", self.clusters);
        }
        text
    }
}
