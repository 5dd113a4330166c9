//! The others: Django Channels on two servers, and Nchan. Each on ports and in folders of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    Fallible,
    options::Kind,
    process::{Process, command, free_address, log},
    server::{JWT_SECRET, Started},
};

const CHANNELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/sockets/channels");
const DEBIAN: &str = "apt-get install --no-install-recommends nginx libnginx-mod-nchan redis-server python3-venv";
const NCHAN_MODULES: [&str; 2] = ["/usr/lib/nginx/modules/ngx_nchan_module.so", "/usr/share/nginx/modules/ngx_nchan_module.so"];
/// As often as the daemon pings.
const PING_SECONDS: &str = "25";

/// One process that speaks ASGI, and Redis between its groups. Both are counted: neither works without the other.
pub fn channels(kind: Kind, folder: &TempDir) -> Fallible<Started> {
    let python = python()?;
    let redis_address = free_address()?;
    let port = redis_address.port().to_string();
    let mut redis = Process::start(
        "redis-server",
        command(installed("redis-server")?)
            .args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no", "--dir"])
            .arg(folder.path())
            .stderr(log(folder.path())?),
    )?;
    redis.listening(redis_address, folder.path())?;
    let address = free_address()?;
    let port = address.port().to_string();
    let mut command = command(python);
    command.stderr(log(folder.path())?).current_dir(CHANNELS).env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("BENCH_REDIS", format!("redis://{redis_address}")).env("BENCH_JWT_SECRET", JWT_SECRET);
    let name = if kind == Kind::Daphne {
        command.args(["-m", "daphne", "-v", "0", "-b", "127.0.0.1", "-p", &port, "--ping-interval", PING_SECONDS, "app:application"]);
        "daphne"
    } else {
        command.args(["-m", "uvicorn", "--host", "127.0.0.1", "--port", &port, "--no-access-log", "--log-level", "warning"]);
        command.args(["--loop", "uvloop", "--http", "httptools", "--timeout-keep-alive", "60", "--ws-ping-interval", PING_SECONDS]);
        command.arg("app:application");
        "uvicorn"
    };
    let mut server = Process::start(name, &mut command)?;
    server.listening(address, folder.path())?;
    Ok((address, address, vec![server, redis]))
}

/// The interpreter of an environment beside the build, made when it is not there yet.
fn python() -> Fallible<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sockets-venv");
    let (python, requirements) = (folder.join("bin/python"), Path::new(CHANNELS).join("requirements.txt"));
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

pub fn nchan(folder: &TempDir) -> Fallible<Started> {
    let module = NCHAN_MODULES.iter().find(|module| Path::new(module).exists());
    let module = module.ok_or_else(|| format!("Nchan is not installed; try {DEBIAN}"))?;
    let (sockets, publish) = (free_address()?, free_address()?);
    let at = folder.path().display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {at}/{kind};")).join("\n");
    let config = format!(
        "load_module {module};
daemon off;
user root;
worker_processes auto;
pid {at}/pid;
error_log {at}/log crit;
events {{ worker_connections 19000; }}
http {{
access_log off;
{temporary}
keepalive_requests 1000000000;
nchan_shared_memory_size 512M;
server {{
    listen {sockets} backlog=4096;
    location ~ ^/sub/(.+)$ {{
        nchan_subscriber websocket;
        nchan_channel_id $1;
        nchan_subscriber_first_message newest;
        nchan_websocket_ping_interval {PING_SECONDS};
    }}
}}
server {{
    listen {publish} backlog=4096;
    location ~ ^/pub/(.+)$ {{
        nchan_publisher http;
        nchan_channel_id $1;
        nchan_message_buffer_length 16;
        nchan_message_timeout 30s;
    }}
}}
}}
"
    );
    let file = folder.path().join("nginx.conf");
    fs::write(&file, config)?;
    let mut nginx = Process::start(
        "nginx",
        command(installed("nginx")?).arg("-p").arg(folder.path()).arg("-c").arg(&file).arg("-e").arg(folder.path().join("log")),
    )?;
    nginx.listening(sockets, folder.path())?;
    nginx.listening(publish, folder.path())?;
    // The workers begin when the master already listens.
    sleep(Duration::from_millis(300));
    Ok((sockets, publish, vec![nginx]))
}
