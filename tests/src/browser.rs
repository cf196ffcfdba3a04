//! [`Browser`]: a real Chromium, driven by its driver.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use fantoccini::{
    Client, ClientBuilder, Locator,
    elements::Element,
    wd::{Capabilities, WebDriverCompatibleCommand},
};
use http::Method;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

use crate::PATIENCE;

/// The driver of Chromium. Dropping it ends the driver and its browsers.
#[derive(Debug)]
pub struct Driver {
    child: Child,
    url: String,
}

impl Driver {
    /// Starts Debian's chromedriver, or says why that is impossible.
    ///
    /// # Panics
    ///
    /// When chromedriver is installed, and does not start.
    pub fn start() -> Result<Self, &'static str> {
        let is_there = |program| {
            let version = Command::new(program).arg("--version").output();
            version.is_ok_and(|version| version.status.success())
        };
        if !is_there("chromedriver") || !is_there("chromium") {
            return Err("it needs chromium and chromedriver: apt install chromium chromium-driver");
        }
        let mut child = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it was there a moment ago");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let port = stdout.lines().map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            Some(port.trim_end_matches('.').to_owned())
        });
        let port = port.expect("chromedriver says its port");
        Ok(Self {
            child,
            url: format!("http://127.0.0.1:{port}"),
        })
    }

    /// Opens an empty window.
    ///
    /// # Panics
    ///
    /// When Chromium does not start.
    pub async fn open(&self) -> Browser {
        let options = json!({
            // Containers and CI have neither a user namespace for the sandbox nor much /dev/shm.
            "args": ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage"],
        });
        let capabilities = Capabilities::from_iter([
            ("goog:chromeOptions".to_owned(), options),
            (
                "goog:loggingPrefs".to_owned(),
                json!({"browser": "ALL", "performance": "ALL"}),
            ),
            // `goto` must not wait for the end of a streamed page.
            ("pageLoadStrategy".to_owned(), json!("none")),
        ]);
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&self.url)
            .await
            .expect("Chromium starts");
        Browser { client }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // On SIGTERM the driver ends its browsers as well.
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-s", "TERM", &pid]).status();
        let _ = self.child.wait();
    }
}

/// A window.
#[derive(Debug)]
pub struct Browser {
    client: Client,
}

/// Why a command to the browser may be expected to succeed.
const RESPONDS: &str = "the browser responds";

impl Browser {
    /// Begins to load a page.
    pub async fn goto(&self, url: &str) {
        self.client.goto(url).await.expect(RESPONDS);
    }

    /// The element with this CSS selector, as soon as it is there.
    pub async fn find(&self, css: &str) -> Element {
        let wait = self.client.wait().at_most(PATIENCE);
        wait.for_element(Locator::Css(css)).await.expect(css)
    }

    /// The text of an element, as soon as it is there.
    pub async fn text(&self, css: &str) -> String {
        self.find(css).await.text().await.expect(RESPONDS)
    }

    /// The number of elements now.
    pub async fn count(&self, css: &str) -> usize {
        let all = self.client.find_all(Locator::Css(css)).await;
        all.expect(RESPONDS).len()
    }

    /// Waits until a script returns true.
    ///
    /// # Panics
    ///
    /// When it does not in time.
    pub async fn wait_until(&self, script: &str) {
        let wait = async {
            while self.run(script).await != true {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "waited in vain for {script}");
    }

    /// Waits until there are that many elements.
    pub async fn wait_for_count(&self, css: &str, count: usize) {
        let script = format!("return document.querySelectorAll('{css}').length == {count}");
        self.wait_until(&script).await;
    }

    /// Runs a script and returns its value.
    pub async fn run(&self, script: &str) -> Value {
        self.client.execute(script, vec![]).await.expect(RESPONDS)
    }

    /// Presses a key where the focus is.
    pub async fn press(&self, key: &str) {
        let focus = self.client.active_element().await.expect(RESPONDS);
        focus.send_keys(key).await.expect(RESPONDS);
    }

    /// Whether a dialog is open, such as that of `alert`.
    pub async fn has_dialog(&self) -> bool {
        self.client.get_alert_text().await.is_ok()
    }

    /// The log of Chromium since the last call: `browser` is the console, `performance` has the
    /// events of the network, among others.
    ///
    /// # Panics
    ///
    /// When there is no such log.
    pub async fn log(&self, kind: &str) -> Vec<Value> {
        let log = self.command("se/log", json!({"type": kind})).await;
        log.as_array().expect("a list").clone()
    }

    /// Sends a command of the protocol of the developer tools.
    pub async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let body = json!({"cmd": command, "params": parameters});
        self.command("goog/cdp/execute", body).await
    }

    /// Takes a picture of the window, as PNG.
    pub async fn screenshot(&self) -> Vec<u8> {
        self.client.screenshot().await.expect(RESPONDS)
    }

    /// Closes the window.
    pub async fn close(self) {
        self.client.close().await.expect(RESPONDS);
    }

    async fn command(&self, path: &'static str, body: Value) -> Value {
        let command = VendorCommand { path, body };
        self.client.issue_cmd(command).await.expect(RESPONDS)
    }
}

/// A command that only Chromium has.
#[derive(Debug)]
struct VendorCommand {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for VendorCommand {
    fn endpoint(
        &self,
        base: &url::Url,
        session: Option<&str>,
    ) -> Result<url::Url, url::ParseError> {
        let session = session.unwrap_or_default();
        base.join(&format!("session/{session}/{}", self.path))
    }

    fn method_and_body(&self, _: &url::Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.body.to_string()))
    }
}
