//! A client of the admin interface.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::client::fetch;
use crate::message::Message;

/// The admin interface at a port.
#[derive(Clone, Copy, Debug)]
pub struct Admin {
    /// Its loopback port.
    pub port: u16,
}

impl Admin {
    /// Sends a request and returns the whole response.
    ///
    /// # Errors
    /// When there is none.
    pub async fn request(self, method: &str, path: &str) -> Result<Message> {
        let body = if method == "POST" { "content-length: 0\r\n" } else { "" };
        let text = format!("{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n{body}\r\n");
        fetch(self.port, text.as_bytes()).await
    }

    /// The body of a page that answers 200.
    ///
    /// # Errors
    /// When it answers anything else.
    pub async fn text(self, path: &str) -> Result<String> {
        let response = self.request("GET", path).await?;
        let body = String::from_utf8_lossy(&response.body).into_owned();
        ensure!(response.status() == 200, "{path}: {} {body}", response.start);
        Ok(body)
    }

    /// Counters and gauges by name.
    ///
    /// # Errors
    /// When the page is not what Envoy's is.
    pub async fn stats(self) -> Result<BTreeMap<String, u64>> {
        let text = self.text("/stats?format=json").await?;
        let page: Value = serde_json::from_str(&text).context("/stats?format=json")?;
        let stats = page.get("stats").and_then(Value::as_array).context("no `stats` in /stats?format=json")?;
        let named = stats.iter().filter_map(|stat| {
            let name = stat.get("name")?.as_str()?;
            Some((name.to_owned(), stat.get("value")?.as_u64()?))
        });
        Ok(named.collect())
    }
}
