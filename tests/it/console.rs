//! The console in a real browser: what an operator sees a minute after `tarishi dev --samples`.
//!
//! Debian's Chromium, driven by the driver that comes with it, in the protocol of <https://www.w3.org/TR/webdriver2/>.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Api, Daemon, Process, Setup, job, recipient};

/// A browser window.
struct Browser {
    driver: Process,
    session: Api,
    /// Of the browser itself: it outlives a driver that is killed.
    pid: u64,
    _profile: TempDir,
}

impl Browser {
    async fn open() -> Self {
        let profile = tempfile::Builder::new().prefix("tarishi-browser-").tempdir().unwrap();
        let folder = profile.path().display().to_string();
        let env = BTreeMap::from([("TMPDIR".to_owned(), folder.clone()), ("HOME".to_owned(), folder.clone())]);
        let driver = Process::start("chromedriver", &["--port=0".to_owned()], &env, profile.path());
        let port = driver
            .find_line(|line| line.strip_prefix("ChromeDriver was started successfully on port ")?.strip_suffix('.').map(str::to_owned));
        let api = Api::new(format!("http://127.0.0.1:{}", port.await.unwrap()));
        let arguments = [
            "--headless=new",
            // The tests may run as root, in a container without user namespaces; all it loads is our own page.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--window-size=1400,1600",
            &format!("--user-data-dir={folder}/profile"),
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": { "args": arguments } } } });
        let session = api.post("/session", &wanted).await.expect(200);
        let pid = session["value"]["capabilities"]["goog:processID"].as_u64().unwrap();
        let session = api.below(&format!("/session/{}", session["value"]["sessionId"].as_str().unwrap()));
        Self { driver, session, pid, _profile: profile }
    }

    async fn go_to(&self, url: &str) {
        self.session.post("/url", &json!({ "url": url })).await.expect(200);
    }

    /// Runs the body of a function in the page.
    async fn evaluate(&self, script: &str) -> Value {
        self.session.post("/execute/sync", &json!({ "script": script, "args": [] })).await.expect(200)["value"].clone()
    }

    /// Waits until the shown text of what `selector` finds has all of these words.
    async fn shows(&self, daemon: &Daemon, selector: &str, words: &[&str]) {
        let script = format!("return [...document.querySelectorAll({selector:?})].map((found) => found.innerText).join('\\n')");
        let what = format!("{selector} shows {words:?}");
        daemon
            .process
            .until(&what, async || {
                let shown = self.evaluate(&script).await.as_str().unwrap().to_lowercase();
                words.iter().all(|word| shown.contains(&word.to_lowercase())).then_some(())
            })
            .await;
    }

    /// Closes the window, which ends the browser, and ends the driver.
    async fn close(mut self) {
        self.session.delete("").await.expect(200);
        self.pid = 0;
        self.driver.signal("TERM");
        self.driver.end().await;
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if self.pid != 0 {
            let _ = std::process::Command::new("sh").arg("-c").arg(format!("kill -KILL {}", self.pid)).status();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_shows_lanes_deliveries_outbox_and_live() {
    let mut setup = Setup::new().with_command(&["dev", "--samples", "--log-format", "json"]).with("shutdown.drain", "200ms");
    let daemon = setup.start().await;
    // The line after the samples, on stderr.
    daemon.process.find_line(|line| line.starts_with("samples: ").then_some(())).await.unwrap();
    daemon.drained().await;
    let browser = Browser::open().await;
    browser.go_to(&format!("http://{}/", daemon.admin)).await;

    browser.shows(&daemon, "#ready", &["ready"]).await;
    for channel in ["email", "sms", "push", "live"] {
        let card = format!("#lane-cards article[aria-label='{channel} lane']");
        browser.shows(&daemon, &card, &[channel, "queued", "sent"]).await;
    }
    browser.shows(&daemon, "#delivery-table", &["sent", "new_message", "a***@e***.com"]).await;
    browser.shows(&daemon, "#outbox-list", &["email to asha@example.com"]).await;
    browser.shows(&daemon, "#live-state", &["connected as user 42"]).await;
    // One more, while somebody looks.
    daemon.api.post("/v1/jobs", &job("while-watched", &[recipient("42")], &["live", "email"])).await.expect(202);
    browser.shows(&daemon, "#live-list", &["About while-watched", "Habari ya leo"]).await;
    browser.shows(&daemon, "#delivery-table", &["delivered", "while-watched"]).await;
    browser.shows(&daemon, "#outbox-list", &["About while-watched"]).await;
    // A mail is shown in a frame that may run nothing.
    let open_mail =
        "[...document.querySelectorAll('#outbox-list button')].find((message) => message.innerText.startsWith('email')).click()";
    browser.evaluate(open_mail).await;
    browser.shows(&daemon, "#outbox-detail", &["About while-watched"]).await;
    let frame = browser.evaluate("return document.querySelector('#outbox-detail iframe')?.getAttribute('sandbox') ?? null").await;
    assert_eq!(frame, json!(""));
    // A job sent from the page, as a person would.
    browser.evaluate("document.querySelector('#send-details').open = true; document.querySelector('#send-button').click()").await;
    browser.shows(&daemon, "#send-result", &["sent"]).await;
    let log = browser.session.post("/se/log", &json!({ "type": "browser" })).await.expect(200);
    let complaints: Vec<&Value> = log["value"].as_array().unwrap().iter().filter(|entry| entry["level"] == "SEVERE").collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    browser.close().await;
    assert_eq!(daemon.terminate().await.code, Some(0));
}
