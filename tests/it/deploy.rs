//! The proxies that `docs/deploy` shows, in front of real daemons: the shipped configurations themselves, with ports and files of the
//! tests in place of an operator's.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::{StreamExt as _, future::join_all};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message, client::IntoClientRequest as _, protocol::frame::coding::CloseCode},
};

use crate::support::{Certificate, Daemon, PATIENCE, Process, Setup, connect, connect_tls, job, own_host, recipient, token};

/// As Debian installs them. Not in everybody's PATH.
const NGINX: &str = "/usr/sbin/nginx";
const HAPROXY: &str = "/usr/sbin/haproxy";
/// Where both proxies connect from, as the daemons see it.
const PROXY: &str = "127.0.0.1";
const OVER_ADDRESS_LIMIT: &str = "tarishi_connections_over_address_limit_total{listener=\"public\"}";
/// The daemon pings sockets this often; a proxy has to bear two missed ones.
const PING_INTERVAL_SECONDS: u64 = 25;
/// Long enough to be idle; the rest is what the configured timeouts say.
const IDLE: Duration = Duration::from_secs(1);

type Socket = WebSocketStream<TlsStream<TcpStream>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Nginx,
    HaProxy,
}

/// A proxy in front of two daemons. Dropped, it is killed.
struct Front {
    kind: Kind,
    process: Process,
    plain: SocketAddr,
    tls: SocketAddr,
    certificate: Certificate,
    folder: TempDir,
}

/// The shipped file with each of these texts, which must be there, replaced.
fn rendered(name: &str, replaced: &[(&str, String)]) -> String {
    let mut text = shipped(name);
    for (from, to) in replaced {
        assert!(text.contains(from), "docs/deploy/{name} has no `{from}`");
        text = text.replace(from, to);
    }
    text
}

fn shipped(name: &str) -> String {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "docs/deploy", name].iter().collect();
    fs::read_to_string(path).unwrap()
}

impl Kind {
    /// What its daemons are told, as the comment at the head of its configuration says.
    fn setup(self) -> Setup {
        let setup = Setup::new().with("public.trusted_proxies", &format!("[\"{PROXY}\"]")).with("shutdown.drain", "200ms");
        match self {
            Self::Nginx => setup,
            Self::HaProxy => setup.with("public.proxy_protocol", "true"),
        }
    }

    fn render(self, folder: &Path, certificate: &Certificate, plain: SocketAddr, tls: SocketAddr, backends: [&Daemon; 2]) -> String {
        let inside = |name: &str| folder.join(name).display().to_string();
        let [first, second] = backends.map(|daemon| daemon.public.to_string());
        match self {
            Self::Nginx => {
                let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                    .map(|of| format!("    {of}_temp_path {};\n", inside(&format!("{of}.tmp"))))
                    .concat();
                rendered(
                    "nginx.conf",
                    &[
                        ("user www-data;", String::new()),
                        ("worker_rlimit_nofile 65536;", String::new()),
                        ("worker_connections 30000;", "worker_connections 500;".to_owned()),
                        ("pid /run/nginx.pid;", format!("pid {};", inside("pid"))),
                        ("/var/log/nginx/error.log", inside("error.log")),
                        ("/var/log/nginx/access.log", inside("access.log")),
                        ("http {\n", format!("http {{\n{temporary}")),
                        ("server 10.0.0.11:8000", format!("server {first}")),
                        ("server 10.0.0.12:8000", format!("server {second}")),
                        ("listen 80;", format!("listen {plain};")),
                        ("listen [::]:80;", String::new()),
                        ("listen 443 ssl", format!("listen {tls} ssl")),
                        ("listen [::]:443 ssl http2;", String::new()),
                        ("/etc/nginx/tls/fullchain.pem", certificate.file.display().to_string()),
                        ("/etc/nginx/tls/privkey.pem", certificate.key_file.display().to_string()),
                    ],
                )
            }
            Self::HaProxy => {
                let joined = folder.join("joined.pem");
                certificate.joined(&joined);
                rendered(
                    "haproxy.cfg",
                    &[
                        ("maxconn 30000", "maxconn 500".to_owned()),
                        ("log /dev/log local0", "log stdout format raw local0".to_owned()),
                        ("    user haproxy\n    group haproxy\n", String::new()),
                        ("stats socket /run/haproxy/admin.sock", format!("stats socket {}", inside("admin.sock"))),
                        ("bind :80", format!("bind {plain}")),
                        ("bind :443", format!("bind {tls}")),
                        ("/etc/haproxy/tls/notify.pem", joined.display().to_string()),
                        ("port 8001 inter 2s", format!("port {} inter 100ms", backends[0].admin.port())),
                        ("server tarishi-1 10.0.0.11:8000", format!("server tarishi-1 {first}")),
                        ("server tarishi-2 10.0.0.12:8000", format!("server tarishi-2 {second}")),
                    ],
                )
            }
        }
    }
}

impl Front {
    async fn start(kind: Kind, backends: [&Daemon; 2]) -> Self {
        let folder = tempfile::Builder::new().prefix("tarishi-front-").tempdir().unwrap();
        let certificate = Certificate::make(folder.path(), "tls");
        let host = own_host();
        let (plain, tls) = (format!("{host}:18080").parse().unwrap(), format!("{host}:18443").parse().unwrap());
        let file = folder.path().join("config");
        fs::write(&file, kind.render(folder.path(), &certificate, plain, tls, backends)).unwrap();
        let file = file.display().to_string();
        // One process, in the foreground: killed, it leaves none behind.
        let (program, arguments) = match kind {
            Kind::Nginx => (NGINX, vec!["-c", &file, "-p", folder.path().to_str().unwrap(), "-g", "daemon off; master_process off;"]),
            Kind::HaProxy => (HAPROXY, vec!["-db", "-f", &file]),
        };
        let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        let process = Process::start(program, &arguments, &BTreeMap::new(), folder.path());
        let up = async || {
            assert_eq!(process.has_ended(), None);
            TcpStream::connect(tls).await.ok()
        };
        drop(process.until("the proxy listens", up).await);
        let front = Self { kind, process, plain, tls, certificate, folder };
        // HAProxy sends nobody anywhere before its first check has come back.
        front.process.until("a daemon answers through it", async || (front.status("/nowhere").await == Some(404)).then_some(())).await;
        front
    }

    async fn open(&self, from: &str, user: &str) -> Result<Socket, tungstenite::Error> {
        let mut request = format!("wss://localhost/ws/notifications/?token={}", token(user)).into_client_request().unwrap();
        request.headers_mut().insert("x-forwarded-for", "192.0.2.99".parse().unwrap());
        let stream = connect_tls(self.tls, from, &self.certificate).await?;
        client_async(request, stream).await.map(|(socket, _)| socket)
    }

    async fn status(&self, path: &str) -> Option<u16> {
        let mut stream = connect_tls(self.tls, PROXY, &self.certificate).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        String::from_utf8_lossy(&answer).split(' ').nth(1)?.parse().ok()
    }

    /// Everything it wrote into logs.
    fn logs(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        [read("access.log"), read("error.log"), self.process.lines().join("\n")].concat()
    }

    /// Requests were logged, and no token with them.
    async fn logged_without_tokens(&self) {
        let logged = async || Some(self.logs()).filter(|logs| logs.contains("/ws/notifications/"));
        let logs = self.process.until("the request is in the log", logged).await;
        assert!(!logs.contains("token=") && !logs.contains("eyJ"), "{logs}");
    }
}

async fn next(socket: &mut Socket) -> Message {
    tokio::time::timeout(PATIENCE, socket.next()).await.expect("a frame in time").unwrap().unwrap()
}

/// The next frame that is a notification.
async fn next_notification(socket: &mut Socket) -> Value {
    loop {
        if let Message::Text(text) = next(socket).await
            && let Ok(frame @ Value::Object(_)) = serde_json::from_str::<Value>(&text)
            && frame["type"] == "notification"
        {
            return frame;
        }
    }
}

async fn sockets(daemon: &Daemon) -> u64 {
    daemon.api.get("/v1/status").await.expect(200)["sockets"].as_u64().unwrap()
}

async fn sockets_stay_open_while_nothing_happens(kind: Kind) {
    let (mut setup, mut other_setup) = (kind.setup(), kind.setup());
    let daemons = [setup.start().await, other_setup.start().await];
    let front = Front::start(kind, daemons.each_ref()).await;
    let mut socket = front.open(PROXY, "42").await.unwrap();
    let (first, second) = (sockets(&daemons[0]).await, sockets(&daemons[1]).await);
    assert_eq!(first + second, 1);
    let holder = if first == 1 { &daemons[0] } else { &daemons[1] };
    let nothing = tokio::time::timeout(IDLE, async { while !matches!(next(&mut socket).await, Message::Close(_)) {} });
    assert!(nothing.await.is_err(), "an idle socket was closed");
    holder.api.post("/v1/jobs", &job("after-idling", &[recipient("42")], &["live"])).await.expect(202);
    assert_eq!(next_notification(&mut socket).await["title"], "About after-idling");
    let mut plain = connect(front.plain, PROXY).await.unwrap();
    plain.write_all(b"GET /ws/notifications/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 301") && answer.contains("https://localhost/ws/notifications/"), "{answer}");
    drop(socket);
    front.logged_without_tokens().await;
}

async fn the_clients_own_address_counts(kind: Kind) {
    let mut setup = kind.setup().with("public.max_connections_per_address", "1");
    let daemon = setup.start().await;
    let front = Front::start(kind, [&daemon, &daemon]).await;
    let before = daemon.metric(OVER_ADDRESS_LIMIT).await;
    let _first = front.open("127.0.0.9", "42").await.unwrap();
    let _other = front.open("127.0.0.8", "43").await.unwrap();
    assert_eq!(daemon.metric(OVER_ADDRESS_LIMIT).await, before);
    let refused = front.open("127.0.0.9", "44").await;
    assert!(matches!(refused, Err(tungstenite::Error::Http(_))), "{refused:?}");
    assert!(daemon.metric(OVER_ADDRESS_LIMIT).await > before);
    assert_eq!(sockets(&daemon).await, 2);
}

async fn clients_of_a_daemon_that_ends_find_the_other(kind: Kind) {
    const CLIENTS: usize = 6;
    let (mut setup, mut other_setup) = (kind.setup(), kind.setup());
    let (ending, staying) = (setup.start().await, other_setup.start().await);
    let front = Front::start(kind, [&ending, &staying]).await;
    let mut clients = Vec::new();
    for client in 0..CLIENTS {
        clients.push(front.open(PROXY, &client.to_string()).await.unwrap());
    }
    assert!(sockets(&ending).await > 0 && sockets(&staying).await > 0, "one of two daemons has all the sockets");
    let moving = sockets(&ending).await;
    ending.process.signal("TERM");
    // Those of the other daemon hear of nothing but what is sent to them afterwards.
    let is_asked_to_move = async |mut socket: Socket| loop {
        match next(&mut socket).await {
            Message::Close(frame) => {
                assert_eq!(frame.unwrap().code, CloseCode::Restart);
                return true;
            }
            Message::Text(text) if text.contains("\"notification\"") => return false,
            _ => {}
        }
    };
    let everybody: Vec<Value> = (0..CLIENTS).map(|client| recipient(&client.to_string())).collect();
    let ends = async {
        assert_eq!(ending.process.end().await.code, Some(0));
        staying.api.post("/v1/jobs", &job("to-those-who-stay", &everybody, &["live"])).await.expect(202);
    };
    let ((), moving_clients) = tokio::join!(ends, join_all(clients.into_iter().map(is_asked_to_move)));
    assert_eq!(moving_clients.iter().filter(|is_moving| **is_moving).count() as u64, moving);
    let mut moved = front.open(PROXY, "0").await.unwrap();
    staying.api.post("/v1/jobs", &job("moved", &[recipient("0")], &["live"])).await.expect(202);
    while next_notification(&mut moved).await["title"] != "About moved" {}
    drop(moved);
    // With nobody left, failures are logged without tokens too.
    staying.process.kill().await;
    let refused = front.open(PROXY, "42").await;
    assert!(
        matches!(refused, Err(tungstenite::Error::Http(ref response)) if response.status().is_server_error()),
        "{:?} {refused:?}",
        front.kind
    );
    front.logged_without_tokens().await;
}

macro_rules! both {
    ($($scenario:ident),+) => {
        mod nginx {
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario(super::Kind::Nginx).await;
            })+
        }

        mod haproxy {
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario(super::Kind::HaProxy).await;
            })+
        }
    };
}

both!(sockets_stay_open_while_nothing_happens, the_clients_own_address_counts, clients_of_a_daemon_that_ends_find_the_other);

/// The seconds of a line's last word: `120s`, with nginx's semicolon or without.
#[track_caller]
fn seconds(text: &str, setting: &str) -> u64 {
    let line = text.lines().map(str::trim).find(|line| line.strip_prefix(setting).is_some_and(|rest| rest.starts_with(' ')));
    let value = line.unwrap_or_else(|| panic!("no {setting}")).trim_end_matches(';').rsplit(' ').next().unwrap();
    value.strip_suffix('s').unwrap().parse().unwrap()
}

#[test]
fn idle_sockets_and_streams_outlast_missed_pings() {
    let nginx = shipped("nginx.conf");
    for location in ["/ws/", "/sse/"] {
        let (_, block) = nginx.split_once(&format!("location {location} {{")).unwrap();
        let (block, _) = block.split_once('}').unwrap();
        assert!(block.contains("proxy_buffering off;"), "{block}");
        assert!(seconds(block, "proxy_read_timeout") > 2 * PING_INTERVAL_SECONDS, "{block}");
        assert!(seconds(block, "proxy_send_timeout") > 2 * PING_INTERVAL_SECONDS, "{block}");
    }
    let haproxy = shipped("haproxy.cfg");
    for timeout in ["timeout tunnel", "timeout server", "timeout client"] {
        assert!(seconds(&haproxy, timeout) > 2 * PING_INTERVAL_SECONDS, "{timeout}");
    }
}
