//! A TLS server whose certificate nobody vouches for. What is said to it all the same, it writes down.

use std::{collections::BTreeMap, net::SocketAddr, process::Command};

use super::Process;

pub struct Stranger {
    process: Process,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Stranger {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=127.0.0.1",
                "-addext",
                "subjectAltName=IP:127.0.0.1",
            ])
            .args(["-keyout", "key.pem", "-out", "cert.pem"])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let arguments = ["s_server", "-accept", "127.0.0.1:0", "-cert", "cert.pem", "-key", "key.pem"].map(str::to_owned);
        let process = Process::start("openssl", &arguments, &BTreeMap::new(), folder.path());
        let address = process.find_line(|line| line.strip_prefix("ACCEPT ")?.trim().parse().ok()).await.unwrap();
        Self { process, address, _folder: folder }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lines that are requests.
    pub fn requests(&self) -> usize {
        self.process.lines().iter().filter(|line| line.contains("HTTP/1.1") || line.contains("HTTP/2")).count()
    }
}
