//! A real mail server, Python's `aiosmtpd`, which behaves as badly as the recipient's address asks it to (`tests/tools/mail_server.py`).

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::Value;

use super::{Process, python};

pub struct MailServer {
    process: Process,
    ports: Value,
    folder: tempfile::TempDir,
}

impl MailServer {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/mail_server.py").to_owned();
        let process = python(&[script, folder.path().display().to_string()], &BTreeMap::new());
        let ports = process.find_line(|line| serde_json::from_str::<Value>(line).ok()?.get("ports").cloned()).await.unwrap();
        Self { process, ports, folder }
    }

    /// The URL of one of its doors: for those without TLS `user` is empty.
    pub fn url(&self, door: &str, user: &str) -> String {
        let scheme = if door.contains("implicit") { "smtps" } else { "smtp" };
        let at = if user.is_empty() { "" } else { "@" };
        format!("{scheme}://{user}{at}localhost:{}", self.ports[door])
    }

    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The mails it took, as Python read them.
    pub fn mails(&self) -> Vec<Value> {
        self.told("mail")
    }

    /// The commands it was given.
    pub fn said(&self) -> Vec<String> {
        self.told("said").iter().map(|said| said.as_str().unwrap().to_owned()).collect()
    }

    /// Waits for so many mails.
    pub async fn wait_mails(&self, count: usize) -> Vec<Value> {
        self.process.until(&format!("{count} mails came"), async || Some(self.mails()).filter(|mails| mails.len() >= count)).await
    }

    fn told(&self, member: &str) -> Vec<Value> {
        let lines = self.process.lines();
        lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok()?.get(member).cloned()).collect()
    }
}
