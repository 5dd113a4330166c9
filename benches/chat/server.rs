//! A server with conversations, started for one measurement.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tarishi::chat::seal::ChatKeys;
use tempfile::TempDir;

use crate::{
    Fallible, Kind,
    process::{Process, command, free_address, log},
};

pub const JWT_SECRET: &str = "the secret of the bench, of more than thirty-two bytes";
const CHANNELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/chat/channels");
const DEBIAN: &str = "apt-get install --no-install-recommends redis-server python3-venv";
/// Room for whatever the bench says, wherever the daemon has a limit.
const ROOM: [(&str, &str); 7] = [
    ("PUBLIC__MAX_CONNECTIONS", "100000"),
    ("PUBLIC__MAX_CONNECTIONS_PER_USER", "100000"),
    ("PUBLIC__MAX_CONNECTIONS_PER_ADDRESS", "100000"),
    ("SOCKET__MESSAGES_PER_SECOND", "100000"),
    ("SOCKET__MESSAGES_BURST", "100000"),
    ("CHAT__MESSAGES_BURST", "1000000"),
    ("CHAT__USER_MESSAGES_BURST", "1000000"),
];

pub struct Server {
    sockets: SocketAddr,
    /// Where conversations are made; one that knows of none makes them by itself.
    admin: Option<SocketAddr>,
    processes: Vec<Process>,
    _folder: TempDir,
}

impl Server {
    pub fn start(kind: Kind) -> Fallible<Self> {
        let folder = tempfile::Builder::new().prefix("tarishi-").tempdir()?;
        let (sockets, admin, processes) = match kind {
            Kind::Tarishi => tarishi(folder.path())?,
            Kind::Daphne => daphne(folder.path())?,
        };
        Ok(Self { sockets, admin, processes, _folder: folder })
    }

    pub fn sockets(&self) -> SocketAddr {
        self.sockets
    }

    /// The id of a conversation of these users.
    pub fn conversation(&self, index: usize, users: &[u64]) -> Fallible<i64> {
        let Some(admin) = self.admin else { return Ok(i64::try_from(index)? + 1) };
        let participants: Vec<Value> = users.iter().map(|user| json!({ "user_id": user, "name": format!("User {user}") })).collect();
        let body = json!({ "key": format!("bench-{index}"), "participants": participants }).to_string();
        let mut stream = TcpStream::connect(admin)?;
        let length = body.len();
        write!(
            stream,
            "POST /v1/conversations HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)).unwrap_or_default();
        body["id"].as_i64().ok_or_else(|| format!("no conversation was made: {answer}").into())
    }

    pub fn cpu_seconds(&self) -> f64 {
        self.processes.iter().map(Process::cpu_seconds).sum()
    }
}

type Started = (SocketAddr, Option<SocketAddr>, Vec<Process>);

fn tarishi(folder: &Path) -> Fallible<Started> {
    let secret = |name: &str, text: &str| -> Fallible<PathBuf> {
        let file = folder.join(name);
        fs::write(&file, text)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        Ok(file)
    };
    let jwt = secret("jwt.secret", JWT_SECRET)?;
    let keys = secret("chat.keys", ChatKeys::new_key().expose_secret())?;
    let mut process = Process::start(
        "tarishi",
        command(env!("CARGO_BIN_EXE_tarishi"))
            .args(["run", "--log-format", "json"])
            .current_dir(folder)
            .env("TARISHI__PUBLIC__LISTEN", "127.0.0.1:0")
            .env("TARISHI__ADMIN__LISTEN", "127.0.0.1:0")
            .env("TARISHI__STORE__URL", "sqlite:bench.db")
            .env("TARISHI__TEMPLATES__PATH", concat!(env!("CARGO_MANIFEST_DIR"), "/templates"))
            .env("TARISHI__AUTH__JWT__KEYS", format!(r#"[{{ algorithm = "HS256", secret_file = "{}" }}]"#, jwt.display()))
            .env("TARISHI__CHAT__ENCRYPTION_KEYS_FILE", keys)
            .envs(ROOM.map(|(key, value)| (format!("TARISHI__{key}"), value)))
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
    Ok((told(public)?, Some(told(admin)?), vec![process]))
}

/// And Redis between its groups. Both are counted: neither works without the other.
fn daphne(folder: &Path) -> Fallible<Started> {
    let python = python()?;
    let redis_address = free_address()?;
    let port = redis_address.port().to_string();
    let mut redis = Process::start(
        "redis-server",
        command(installed("redis-server")?)
            .args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no", "--dir"])
            .arg(folder)
            .stderr(log(folder)?),
    )?;
    redis.listening(redis_address, folder)?;
    let address = free_address()?;
    let port = address.port().to_string();
    let mut command = command(python);
    command.stderr(log(folder)?).current_dir(CHANNELS).env("PYTHONDONTWRITEBYTECODE", "1").env("BENCH_JWT_SECRET", JWT_SECRET);
    command.env("BENCH_REDIS", format!("redis://{redis_address}")).env("BENCH_DATABASE", folder.join("bench.sqlite3"));
    command.args(["-m", "daphne", "-v", "0", "-b", "127.0.0.1", "-p", &port, "app:application"]);
    let mut server = Process::start("daphne", &mut command)?;
    server.listening(address, folder)?;
    Ok((address, None, vec![server, redis]))
}

/// The interpreter of an environment beside the build, made when it is not there yet.
fn python() -> Fallible<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sockets-venv");
    let (python, requirements) = (folder.join("bin/python"), Path::new(CHANNELS).join("../../sockets/channels/requirements.txt"));
    let stamp = folder.join("installed.txt");
    let wanted = fs::read(&requirements)?;
    if fs::read(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    eprintln!("installing {} into {}", requirements.display(), folder.display());
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(&requirements))?;
    fs::write(stamp, wanted)?;
    Ok(python)
}

fn run(command: &mut Command) -> Fallible<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{program}: {error}; try {DEBIAN}"))?;
    if output.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!("Channels cannot be installed: {program}: {}; try {DEBIAN}", error.lines().last().unwrap_or_default()).into())
}

fn installed(program: &str) -> Fallible<PathBuf> {
    let places = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"];
    let found = places.iter().map(|place| Path::new(place).join(program)).find(|path| path.exists());
    found.ok_or_else(|| format!("{program} is not installed; try {DEBIAN}").into())
}
