//! A server of any kind, started for one measurement: where its sockets are, and how it is asked to send.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    process::Stdio,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    Fallible,
    clients::Target,
    frame::Mark,
    options::Kind,
    process::{Process, Usage, command},
    rivals,
};

pub const JWT_SECRET: &str = "the secret of the bench, of more than thirty-two bytes";
/// Room for every socket the bench opens, wherever the daemon has a limit. A limit that this version does not have is left out.
const ROOM: [(&str, &str); 3] =
    [("max_connections", "100000"), ("max_connections_per_user", "100000"), ("max_connections_per_address", "100000")];

pub struct Server {
    kind: Kind,
    sockets: SocketAddr,
    publish: SocketAddr,
    /// All that it needs to run, a broker of its own included.
    processes: Vec<Process>,
    _folder: TempDir,
}

/// Whom a message is for.
#[derive(Clone, Copy)]
pub enum To {
    All,
    User(u64),
}

impl Server {
    pub fn start(kind: Kind) -> Fallible<Self> {
        let folder = tempfile::Builder::new().prefix("tarishi-").tempdir()?;
        let (sockets, publish, processes) = match kind {
            Kind::Tarishi => tarishi(&folder)?,
            Kind::Bound => bound()?,
            Kind::Daphne | Kind::Uvicorn => rivals::channels(kind, &folder)?,
            Kind::Nchan => rivals::nchan(&folder)?,
        };
        Ok(Self { kind, sockets, publish, processes, _folder: folder })
    }

    pub fn publish_address(&self) -> SocketAddr {
        self.publish
    }

    /// Where each user connects to. The others join what messages are for, their user's or everyone's, and not both: what is cheapest.
    pub fn target(&self, to_all: bool) -> Target {
        let path = match self.kind {
            Kind::Daphne | Kind::Uvicorn if to_all => "/ws/notifications/?token={token}&all=1",
            Kind::Tarishi | Kind::Daphne | Kind::Uvicorn => "/ws/notifications/?token={token}",
            Kind::Nchan if to_all => "/sub/all",
            Kind::Bound | Kind::Nchan => "/sub/{user}",
        };
        Target { address: self.sockets, path: path.to_owned(), secret: JWT_SECRET.to_owned() }
    }

    /// The HTTP request that sends a message.
    pub fn publication(&self, to: To, mark: Mark) -> Vec<u8> {
        let (path, body) = match self.kind {
            Kind::Tarishi => ("/v1/jobs".to_owned(), job(to, mark)),
            Kind::Bound => (to.path("/all", "/user/"), notification(to, mark)),
            Kind::Daphne | Kind::Uvicorn => (to.path("/publish/all", "/publish/user."), notification(to, mark)),
            Kind::Nchan => (to.path("/pub/all", "/pub/"), notification(to, mark)),
        };
        let (host, length) = (self.publish, body.len());
        format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
            .into_bytes()
    }

    pub fn usage(&self) -> Usage {
        self.processes.iter().map(Process::usage).fold(Usage::default(), std::ops::Add::add)
    }

    pub fn cpu_seconds(&self) -> f64 {
        self.processes.iter().map(Process::cpu_seconds).sum()
    }
}

impl To {
    fn path(self, all: &str, user: &str) -> String {
        match self {
            Self::All => all.to_owned(),
            Self::User(number) => format!("{user}{number}"),
        }
    }
}

fn job(to: To, mark: Mark) -> String {
    let recipient = match to {
        To::All => r#""topic":"*""#.to_owned(),
        To::User(number) => format!(r#""to":[{{"user_id":{number}}}]"#),
    };
    format!(
        r#"{{"id":"bench-{}-{}",{recipient},"channels":["live"],"content":{{"title":"Habari","body":"Is the flat still free? {mark}"}}}}"#,
        mark.run, mark.index
    )
}

/// What the daemon makes of it, so that all servers write frames of one size.
fn notification(to: To, mark: Mark) -> String {
    let user = if let To::User(number) = to { number } else { 0 };
    format!(
        concat!(
            r#"{{"type":"notification","id":{id},"user":{user},"kind":"notification","title":"Habari","message":"Is the flat still free? {mark}","#,
            r#""severity":"info","is_read":false,"created_at":"2026-01-15T10:30:00.123Z","related_object_id":null,"related_object_type":null,"#,
            r#""data":{{}},"epoch":"0198c0de5f0e7d3c9a41b2c3d4e5f607"}}"#
        ),
        id = mark.index,
        user = user,
        mark = mark
    )
}

pub type Started = (SocketAddr, SocketAddr, Vec<Process>);

fn tarishi(folder: &TempDir) -> Fallible<Started> {
    let secret = folder.path().join("jwt.secret");
    fs::write(&secret, JWT_SECRET)?;
    fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let public = tarishi::config::DEFAULT_TOML.split("\n[").find(|section| section.starts_with("public]")).unwrap_or_default();
    let room = ROOM.iter().filter(|(key, _)| public.lines().any(|line| line.starts_with(&format!("{key} ="))));
    let mut process = Process::start(
        "tarishi",
        command(env!("CARGO_BIN_EXE_tarishi"))
            .args(["run", "--log-format", "json"])
            .current_dir(folder.path())
            .env("TARISHI__PUBLIC__LISTEN", "127.0.0.1:0")
            .env("TARISHI__ADMIN__LISTEN", "127.0.0.1:0")
            .env("TARISHI__STORE__URL", "sqlite:bench.db")
            .env("TARISHI__TEMPLATES__PATH", concat!(env!("CARGO_MANIFEST_DIR"), "/templates"))
            .env("TARISHI__AUTH__JWT__KEYS", format!(r#"[{{ algorithm = "HS256", secret_file = "{}" }}]"#, secret.display()))
            .envs(room.map(|(key, value)| (format!("TARISHI__PUBLIC__{}", key.to_uppercase()), value)))
            .stderr(Stdio::piped()),
    )?;
    let mut log = BufReader::new(process.child().stderr.take().ok_or("no stderr")?);
    let (mut public, mut admin, mut last) = (None, None, String::new());
    loop {
        let mut line = String::new();
        if log.read_line(&mut line)? == 0 {
            return Err(format!("tarishi ended at once: {last}").into());
        }
        let value: Value = serde_json::from_str(&line).unwrap_or_default();
        public = public.or_else(|| value["public"].as_str().map(str::to_owned));
        admin = admin.or_else(|| value["admin"].as_str().map(str::to_owned));
        if value["message"] == "daemon ready" {
            break;
        }
        last = line;
    }
    // Its log is read and thrown away, as by a service manager.
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while log.read(&mut buffer).is_ok_and(|length| length > 0) {}
    });
    let told = |address: Option<String>| -> Fallible<SocketAddr> { Ok(address.ok_or("tarishi did not say where it listens")?.parse()?) };
    Ok((told(public)?, told(admin)?, vec![process]))
}

fn bound() -> Fallible<Started> {
    let mut process =
        Process::start("the bound", command(std::env::current_exe()?).arg("bound").stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    let mut line = String::new();
    BufReader::new(process.child().stdout.take().ok_or("no stdout")?).read_line(&mut line)?;
    let told: Value = serde_json::from_str(&line)?;
    let address = |member: &str| -> Fallible<SocketAddr> { Ok(told[member].as_str().unwrap_or_default().parse()?) };
    Ok((address("sockets")?, address("publish")?, vec![process]))
}
