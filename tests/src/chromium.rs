//! A headless Chromium in a namespace, to see pages as people do.
//!
//! It is spoken to by its DevTools protocol over a pipe: JSON objects, each with a zero byte at its end.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{Netns, interrupt, until};

/// For an answer of the browser, which on a small machine takes its time to start.
const LIMIT: Duration = Duration::from_secs(30);
/// The protocol is read from descriptor 3 and written to 4; what the browser prints goes to its errors' file.
const START: &str = "exec chromium \"$@\" 3<&0 4>&1 0</dev/null 1>&2";

/// A running browser with one page. Dropping it ends it.
#[derive(Debug)]
pub struct Chromium {
    child: Child,
    commands: ChildStdin,
    messages: mpsc::Receiver<Value>,
    /// Of the page, in messages.
    session: Option<String>,
    n_commands: u64,
    complaints: Vec<String>,
    errors: tempfile::NamedTempFile,
    _profile: tempfile::TempDir,
}

impl Chromium {
    /// Starts a browser with an empty page of this many CSS pixels.
    ///
    /// # Errors
    /// It cannot be started, or does not answer.
    pub fn start(netns: &Netns, width: u32, height: u32) -> Result<Self> {
        let profile = tempfile::tempdir()?;
        let errors = tempfile::NamedTempFile::new()?;
        let mut command = netns.command("sh");
        command.args(["-c", START, "chromium", "--headless", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu"]);
        // Its sandbox refuses root; what it looks at is ours.
        command.args(["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking", "--hide-scrollbars"]);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        command.env("HOME", profile.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors.reopen()?);
        command.process_group(0);
        let _admission = interrupt::admission();
        let mut child = command.spawn().context("chromium: cannot start")?;
        let commands = child.stdin.take().context("chromium: no way in")?;
        let messages = receive(BufReader::new(child.stdout.take().context("chromium: no way out")?));
        let mut browser =
            Self { child, commands, messages, session: None, n_commands: 0, complaints: Vec::new(), errors, _profile: profile };
        browser.open_page(width, height)?;
        Ok(browser)
    }

    fn open_page(&mut self, width: u32, height: u32) -> Result<()> {
        let target = self.call("Target.createTarget", json!({ "url": "about:blank" }))?;
        let attached = self.call("Target.attachToTarget", json!({ "targetId": target["targetId"], "flatten": true }))?;
        self.session = Some(attached["sessionId"].as_str().context("chromium: no session")?.to_owned());
        for domain in ["Runtime", "Log", "Page"] {
            self.call(&format!("{domain}.enable"), json!({}))?;
        }
        self.resize(width, height)
    }

    /// Another size, in CSS pixels; below 500 as a phone.
    ///
    /// # Errors
    /// The browser is gone.
    pub fn resize(&mut self, width: u32, height: u32) -> Result<()> {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.call("Emulation.setDeviceMetricsOverride", size).map(drop)
    }

    /// Whether the system that it runs on prefers dark colours.
    ///
    /// # Errors
    /// The browser is gone.
    pub fn prefer_dark(&mut self, is_dark: bool) -> Result<()> {
        let scheme = if is_dark { "dark" } else { "light" };
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", features).map(drop)
    }

    /// Goes to a page.
    ///
    /// # Errors
    /// It cannot be loaded.
    pub fn open(&mut self, url: &str) -> Result<()> {
        let navigated = self.call("Page.navigate", json!({ "url": url }))?;
        ensure!(navigated["errorText"].is_null(), "{url}: {}", navigated["errorText"]);
        Ok(())
    }

    /// The value of a JavaScript expression in the page.
    ///
    /// # Errors
    /// It throws.
    pub fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let answer = self.call("Runtime.evaluate", json!({ "expression": expression, "returnByValue": true }))?;
        ensure!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        Ok(answer["result"]["value"].clone())
    }

    /// All text that the page shows.
    ///
    /// # Errors
    /// The browser is gone.
    pub fn text(&mut self) -> Result<String> {
        Ok(self.evaluate("document.body.innerText")?.as_str().unwrap_or_default().to_owned())
    }

    /// Waits until an expression is true.
    ///
    /// # Errors
    /// It is not within `limit`; the error holds what the page shows and complains of.
    pub fn wait_for(&mut self, expression: &str, limit: Duration) -> Result<()> {
        let waited = until(limit, expression, || Ok((self.evaluate(expression)? == true).then_some(())));
        waited.with_context(|| {
            let text = self.text().unwrap_or_default();
            format!("complaints: {:?}; the browser's log:\n{}\nthe page:\n{text}", self.complaints, self.log())
        })
    }

    /// Errors and warnings on the page's console, uncaught exceptions, and what its policy forbade, so far.
    pub fn complaints(&mut self) -> &[String] {
        while let Ok(message) = self.messages.try_recv() {
            self.note(&message);
        }
        &self.complaints
    }

    /// The whole page as PNG, base64.
    ///
    /// # Errors
    /// The browser is gone.
    pub fn screenshot(&mut self) -> Result<String> {
        let shot = self.call("Page.captureScreenshot", json!({ "format": "png", "captureBeyondViewport": true }))?;
        Ok(shot["data"].as_str().context("no picture")?.to_owned())
    }

    fn log(&self) -> String {
        let read = |path: &Path| std::fs::read(path).map(|log| String::from_utf8_lossy(&log).into_owned());
        read(self.errors.path()).unwrap_or_default()
    }

    fn call(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.n_commands += 1;
        let mut command = json!({ "id": self.n_commands, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        self.commands.write_all(format!("{command}\0").as_bytes()).with_context(|| format!("{method}: {}", self.log()))?;
        let deadline = Instant::now() + LIMIT;
        loop {
            let rest = deadline.saturating_duration_since(Instant::now());
            let Ok(message) = self.messages.recv_timeout(rest) else {
                bail!("chromium: no answer to {method}; its log:\n{}", self.log());
            };
            if message["id"] == self.n_commands {
                ensure!(message["error"].is_null(), "{method}: {}", message["error"]);
                return Ok(message["result"].clone());
            }
            self.note(&message);
        }
    }

    fn note(&mut self, message: &Value) {
        let parameters = &message["params"];
        let complaint = match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => parameters["exceptionDetails"].to_string(),
            Some("Runtime.consoleAPICalled") if ["error", "warning", "assert"].iter().any(|kind| parameters["type"] == *kind) => {
                parameters["args"].to_string()
            }
            Some("Log.entryAdded") if ["error", "warning"].iter().any(|level| parameters["entry"]["level"] == *level) => {
                parameters["entry"]["text"].to_string()
            }
            _ => return,
        };
        self.complaints.push(complaint);
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Messages as they come, until the browser ends.
fn receive(mut output: impl BufRead + Send + 'static) -> mpsc::Receiver<Value> {
    let (sender, messages) = mpsc::channel();
    thread::spawn(move || {
        let mut message = Vec::new();
        while matches!(output.read_until(0, &mut message), Ok(1..)) {
            let parsed = serde_json::from_slice(message.strip_suffix(&[0]).unwrap_or(&message));
            message.clear();
            if parsed.is_ok_and(|message| sender.send(message).is_err()) {
                return;
            }
        }
    });
    messages
}
