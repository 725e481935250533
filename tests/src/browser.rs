//! A headless Chromium, by the WebDriver protocol (<https://www.w3.org/TR/webdriver2/>).

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::client::Client;
use crate::locate::skipped;

/// A browser on a slow machine takes long to start, and a page may wait for a service.
const PATIENCE: Duration = Duration::from_secs(60);
/// What an element is called in answers.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser with one page; it ends with this value.
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
    /// The browser's own process.
    pid: Option<u64>,
    _profile: TempDir,
}

impl Browser {
    /// Starts one. `None` where there is none, which is said.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(test: &str) -> Result<Option<Self>> {
        let found =
            ["/usr/bin/chromedriver", "/usr/local/bin/chromedriver"].into_iter().find(|path| Path::new(path).is_file());
        let Some(driver) = found else {
            skipped(test, "chromedriver is not installed (Debian: chromium-driver)");
            return Ok(None);
        };
        let mut command = Command::new(driver);
        command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let out = child.stdout.take().context("no output")?;
        let port = tokio::time::timeout(PATIENCE, port_of(BufReader::new(out))).await.context("chromedriver")??;
        let profile = tempfile::tempdir()?;
        let mut browser = Self { driver: child, port, session: String::new(), pid: None, _profile: profile };
        let args = [
            "--headless=new",
            // The tests may run as root, where the sandbox does not; all pages are their own.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--window-size=1100,880",
            &format!("--user-data-dir={}", browser._profile.path().display()),
        ];
        let options = json!({ "browserName": "chrome", "goog:chromeOptions": { "args": args } });
        let made = browser.ask("POST", "", &json!({ "capabilities": { "alwaysMatch": options } })).await?;
        browser.session = made["sessionId"].as_str().context("no session")?.to_owned();
        browser.pid = made["capabilities"]["goog:processID"].as_u64();
        Ok(Some(browser))
    }

    /// Opens a page, and waits until it is there.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn open(&self, url: &str) -> Result<()> {
        self.ask("POST", "/url", &json!({ "url": url })).await.map(drop)
    }

    /// The text of what a CSS selector finds, as a user sees it.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub async fn texts(&self, selector: &str) -> Result<Vec<String>> {
        let mut texts = Vec::new();
        for element in self.elements(selector).await? {
            let text = self.ask("GET", &format!("/element/{element}/text"), &Value::Null).await?;
            texts.push(text.as_str().unwrap_or_default().to_owned());
        }
        Ok(texts)
    }

    /// A style of the first element that a CSS selector finds.
    ///
    /// # Errors
    /// When there is none.
    pub async fn style(&self, selector: &str, property: &str) -> Result<String> {
        let element = self.first(selector).await?;
        let value = self.ask("GET", &format!("/element/{element}/css/{property}"), &Value::Null).await?;
        Ok(value.as_str().unwrap_or_default().to_owned())
    }

    /// Types into a field.
    ///
    /// # Errors
    /// When there is no such field.
    pub async fn fill(&self, selector: &str, text: &str) -> Result<()> {
        let element = self.first(selector).await?;
        self.ask("POST", &format!("/element/{element}/value"), &json!({ "text": text })).await.map(drop)
    }

    /// Clicks.
    ///
    /// # Errors
    /// When there is nothing to click.
    pub async fn click(&self, selector: &str) -> Result<()> {
        let element = self.first(selector).await?;
        self.ask("POST", &format!("/element/{element}/click"), &json!({})).await.map(drop)
    }

    /// What is on the screen, as PNG in base64.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub async fn screenshot(&self) -> Result<String> {
        let image = self.ask("GET", "/screenshot", &Value::Null).await?;
        image.as_str().map(str::to_owned).context("no image")
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn close(mut self) -> Result<()> {
        self.ask("DELETE", "", &Value::Null).await?;
        self.pid = None;
        self.driver.kill().await.context("chromedriver")
    }

    async fn first(&self, selector: &str) -> Result<String> {
        self.elements(selector).await?.into_iter().next().with_context(|| format!("there is no {selector}"))
    }

    async fn elements(&self, selector: &str) -> Result<Vec<String>> {
        let found = self.ask("POST", "/elements", &json!({ "using": "css selector", "value": selector })).await?;
        let id = |element: &Value| element[ELEMENT].as_str().map(str::to_owned);
        Ok(found.as_array().into_iter().flatten().filter_map(id).collect())
    }

    async fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut at = "/session".to_owned();
        if !self.session.is_empty() {
            at += &format!("/{}{path}", self.session);
        }
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
        let mut client = Client::over(Box::new(stream));
        let head = format!(
            "{method} {at} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        client.send((head + &body).as_bytes()).await;
        let answer = client.responses(method, PATIENCE).await?.pop().context("chromedriver closed")?;
        let json: Value = serde_json::from_slice(&answer.body)?;
        ensure!(answer.status() == 200, "{method} {path}: {}", json["value"]["message"]);
        Ok(json["value"].clone())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // For a test that has failed: the browser does not end with its driver.
        let pids = [self.pid, self.driver.id().map(u64::from)];
        for pid in pids.into_iter().flatten() {
            let _ = std::process::Command::new("kill").arg(pid.to_string()).status();
        }
        let _ = self.driver.try_wait();
    }
}

/// Reads on until the driver has said where it listens; what it says later is thrown away.
async fn port_of(out: BufReader<tokio::process::ChildStdout>) -> Result<u16> {
    let mut lines = out.lines();
    while let Some(line) = lines.next_line().await? {
        if let Some(rest) = line.split("successfully on port ").nth(1) {
            let port = rest.trim_end_matches('.').parse()?;
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok(port);
        }
    }
    bail!("chromedriver ended")
}
