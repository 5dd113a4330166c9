//! PostgreSQL for tests: a cluster of its own, made and started by `tests/database`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::process::Process;

const DATABASE: &str = "smartdalali";

/// A server. Dropped, it is killed, and all of it removed.
pub struct Postgres {
    port: String,
    // Before the folder it works in.
    _server: Process,
    folder: TempDir,
}

impl Postgres {
    /// Starts one, with an empty database.
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("tarishi-postgres-").tempdir().unwrap();
        run("prepare", folder.path()).await;
        let server = script("serve", folder.path());
        run("await", folder.path()).await;
        let port = std::fs::read_to_string(folder.path().join("port")).unwrap().trim().to_owned();
        let postgres = Self { port, _server: server, folder };
        postgres.client("createdb", &[DATABASE]).await;
        postgres
    }

    /// What its own programs, and others, connect by.
    pub fn env(&self) -> BTreeMap<String, String> {
        let env = [("PGHOST", "127.0.0.1"), ("PGPORT", &self.port), ("PGUSER", "tests"), ("PGDATABASE", DATABASE)];
        env.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    /// Runs one of its own programs (`pg_dump`) to its end.
    pub async fn client(&self, program: &str, arguments: &[&str]) {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let process = Process::start(program, &arguments, &self.env(), self.folder.path());
        assert_eq!(process.end().await.code, Some(0), "{program}: {:?}", process.lines());
    }

    /// Over TLS, to the name that its certificate has.
    pub fn url(&self) -> String {
        format!("postgres://tests@localhost:{}/{DATABASE}?hostaddr=127.0.0.1&sslmode=require", self.port)
    }

    /// Who signed its certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }
}

fn script(verb: &str, folder: &Path) -> Process {
    let script = [env!("CARGO_MANIFEST_DIR"), "tests/database"].iter().collect::<PathBuf>();
    Process::start(script, &[verb.to_owned(), folder.display().to_string()], &BTreeMap::new(), folder)
}

async fn run(verb: &str, folder: &Path) {
    let process = script(verb, folder);
    assert_eq!(process.end().await.code, Some(0), "{verb}: {:?}", process.lines());
}
