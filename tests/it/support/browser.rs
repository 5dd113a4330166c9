//! A real browser: Debian's Chromium, driven by the driver that comes with it, in the protocol of <https://www.w3.org/TR/webdriver2/>.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Api, Daemon, Process};

/// A driver, and its port. It chooses one that is free for one version of IP, and ends if somebody has it for the other.
async fn start_driver(env: &BTreeMap<String, String>, folder: &Path) -> (Process, String) {
    for _ in 0..10 {
        let driver = Process::start("chromedriver", &["--port=0".to_owned()], env, folder);
        let port = driver
            .find_line(|line| line.strip_prefix("ChromeDriver was started successfully on port ")?.strip_suffix('.').map(str::to_owned));
        if let Ok(port) = port.await {
            return (driver, port);
        }
    }
    panic!("chromedriver does not start");
}

/// A browser window.
pub struct Browser {
    driver: Process,
    session: Api,
    /// Of the browser itself: it outlives a driver that is killed.
    pid: u64,
    _profile: TempDir,
}

impl Browser {
    pub async fn open() -> Self {
        let profile = tempfile::Builder::new().prefix("tarishi-browser-").tempdir().unwrap();
        let folder = profile.path().display().to_string();
        let env = BTreeMap::from([("TMPDIR".to_owned(), folder.clone()), ("HOME".to_owned(), folder.clone())]);
        let (driver, port) = start_driver(&env, profile.path()).await;
        let api = Api::new(format!("http://127.0.0.1:{port}"));
        let arguments = [
            "--headless=new",
            // The tests may run as root, in a container without user namespaces; all it loads is our own pages.
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

    pub async fn go_to(&self, url: &str) {
        self.session.post("/url", &json!({ "url": url })).await.expect(200);
    }

    /// Runs the body of a function in the page.
    pub async fn evaluate(&self, script: &str) -> Value {
        self.session.post("/execute/sync", &json!({ "script": script, "args": [] })).await.expect(200)["value"].clone()
    }

    /// Waits until the shown text of what `selector` finds has all of these words.
    pub async fn shows(&self, daemon: &Daemon, selector: &str, words: &[&str]) {
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

    /// What went wrong in the page, as its own log has it.
    pub async fn complaints(&self) -> Vec<Value> {
        let log = self.session.post("/se/log", &json!({ "type": "browser" })).await.expect(200);
        log["value"].as_array().unwrap().iter().filter(|entry| entry["level"] == "SEVERE").cloned().collect()
    }

    /// Closes the window, which ends the browser, and ends the driver.
    pub async fn close(mut self) {
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
