//! RabbitMQ for tests: the shared node that `tests/run` started, with a virtual host for each test, and private nodes for tests that
//! break theirs. How a node is started is in `tests/broker`.

use std::{
    io::Write as _,
    net::SocketAddr,
    ops::Deref,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use tempfile::TempDir;

use super::{Proxy, process::until};

/// Where `tests/run` says which folder its node lives in.
const SHARED: &str = "TARISHI_TEST_BROKER";
/// More than any disk has left.
const BEYOND_ANY_DISK: &str = "900000GB";
const DEFAULT_DISK_LIMIT: &str = "50MB";
const DEFAULT_MEMORY_LIMIT: &str = "0.4";

/// A node to talk to, whoever started it.
#[derive(Clone, Debug)]
pub struct Node {
    folder: PathBuf,
    port: u16,
    tls_port: u16,
}

/// A private node. Dropped, it is killed, and all of it removed.
pub struct Broker {
    node: Node,
    /// Maps the node's name to its port, so that `ctl` finds it; outlives the node.
    port_mapper: Child,
    /// Absent while it is killed.
    program: Option<Child>,
    // Last, so that it goes once nothing runs in it.
    _folder: TempDir,
}

/// A virtual host on the shared node. Dropped, it is deleted with everything in it.
pub struct Vhost {
    node: Node,
    name: String,
}

/// The files a client of a node with TLS needs, all PEM.
#[derive(Clone, Debug)]
pub struct Certificates {
    pub ca: PathBuf,
    pub client: PathBuf,
    pub client_key: PathBuf,
    /// An authority that signed none of these.
    pub stranger_ca: PathBuf,
}

impl Certificates {
    /// Makes them in a folder, with `server.pem` and `server.key` of `localhost`; says on which port nobody listens there.
    pub fn make(folder: &Path) -> (Self, u16) {
        output(&mut script("prepare", folder, &["tls"]));
        (Self::in_folder(folder), Node::in_folder(folder).tls_port)
    }

    fn in_folder(folder: &Path) -> Self {
        let file = |name: &str| folder.join(name);
        Self { ca: file("ca.pem"), client: file("client.pem"), client_key: file("client.key"), stranger_ca: file("stranger-ca.pem") }
    }
}

impl Node {
    fn in_folder(folder: &Path) -> Self {
        let text = std::fs::read_to_string(folder.join("ports")).unwrap();
        let port = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap();
        Self { folder: folder.to_owned(), port: port("AMQP_PORT="), tls_port: port("AMQPS_PORT=") }
    }

    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Of the user `guest`, who may do everything.
    pub fn url(&self, vhost: &str) -> String {
        amqp_url(self.address(), vhost)
    }

    /// Runs `rabbitmqctl` and gives what it says.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        self.run("ctl", arguments).await
    }

    pub async fn add_vhost(&self, name: &str) {
        self.eval(&added_vhost(name)).await;
    }

    /// Messages in a queue, ready and unacknowledged, at this moment. (What `rabbitmqctl list_queues` says can be seconds old.)
    pub async fn queue_depth(&self, vhost: &str, queue: &str) -> u64 {
        // After a start a queue has no leader for a moment, and then one of an older version.
        let code = format!(
            "{{ok, Queue}} = rabbit_amqqueue:lookup({}),
             case amqqueue:get_type(Queue) of
                 rabbit_quorum_queue ->
                     case ra:leader_query(amqqueue:get_pid(Queue), fun rabbit_fifo:query_messages_total/1) of
                         {{ok, {{_, Count}}, _}} -> Count;
                         _ -> unknown
                     end;
                 _ -> proplists:get_value(messages, rabbit_amqqueue:info(Queue, [messages]))
             end.",
            resource(vhost, queue)
        );
        until("the queue can be asked", async || self.eval(&code).await.parse().ok()).await
    }

    /// Deletes a queue with what is in it, as somebody else would: consumers are cancelled.
    pub async fn delete_queue(&self, vhost: &str, queue: &str) {
        self.ctl(&["delete_queue", "--vhost", vhost, queue]).await;
    }

    pub async fn close_all_connections(&self, reason: &str) {
        self.ctl(&["close_all_connections", "--global", reason]).await;
    }

    /// Evaluates Erlang in the node.
    async fn eval(&self, code: &str) -> String {
        let (folder, code) = (self.folder.clone(), code.to_owned());
        let evaluated = tokio::task::spawn_blocking(move || evaluate(&folder, &code)).await.unwrap();
        evaluated.unwrap_or_else(|problem| panic!("{problem}"))
    }

    async fn run(&self, verb: &str, arguments: &[&str]) -> String {
        let mut command = script(verb, &self.folder, arguments);
        tokio::task::spawn_blocking(move || output(&mut command)).await.unwrap()
    }
}

impl Broker {
    /// Starts a node and waits until it takes connections.
    pub async fn start() -> Self {
        Self::start_as(&[]).await
    }

    /// The same, with a listener for TLS as well, which wants a certificate of its clients.
    pub async fn start_with_tls() -> Self {
        Self::start_as(&["tls"]).await
    }

    async fn start_as(more: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("tarishi-broker-").tempdir().unwrap();
        output(&mut script("prepare", folder.path(), more));
        let node = Node::in_folder(folder.path());
        let port_mapper = script("epmd", folder.path(), &[]).spawn().unwrap();
        let mut broker = Self { node, port_mapper, program: None, _folder: folder };
        broker.start_again().await;
        broker
    }

    pub fn tls_url(&self, vhost: &str) -> String {
        let address: SocketAddr = ([127, 0, 0, 1], self.tls_port).into();
        amqp_url(address, vhost).replacen("amqp:", "amqps:", 1)
    }

    pub fn certificates(&self) -> Certificates {
        Certificates::in_folder(&self.folder)
    }

    /// Stops and starts it in an orderly way: clients are told.
    pub async fn restart(&self) {
        self.ctl(&["stop_app"]).await;
        self.ctl(&["start_app"]).await;
    }

    /// Ends it at once, as a power cut would end it.
    pub async fn kill(&mut self) {
        // RabbitMQ 3.10 writes the name of a new quorum queue half a second late. Killed in between, it has confirmed messages in a
        // queue that it no longer finds, and that nobody can use or declare again. That is its own affair, not what is tested here.
        self.eval("dets:sync(ra_directory_reverse).").await;
        end(&mut self.program.take().expect("it runs"));
    }

    /// Starts the same node on the same port, after [`Self::kill`].
    pub async fn start_again(&mut self) {
        let program = script("node", &self.folder, &[]).spawn().unwrap();
        let pid = program.id().to_string();
        assert!(self.program.replace(program).is_none(), "it runs already");
        self.run("await", &[&pid]).await;
    }

    /// Takes all time from it: its connections stay, and nothing answers.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let pid = self.program.as_ref().expect("it runs").id();
        output(Command::new("sh").arg("-c").arg(format!("kill -{name} {pid}")));
    }

    /// Sets off the alarm of memory, or ends it: publishing connections are blocked. Returns once it is in effect.
    pub async fn memory_alarm(&self, on: bool) {
        let limit: &[&str] = if on { &["absolute", "1MB"] } else { &[DEFAULT_MEMORY_LIMIT] };
        self.ctl(&[&["set_vm_memory_high_watermark"], limit].concat()).await;
        self.alarm_is("memory", on).await;
    }

    /// The same with the alarm of free disk.
    pub async fn disk_alarm(&self, on: bool) {
        self.ctl(&["set_disk_free_limit", if on { BEYOND_ANY_DISK } else { DEFAULT_DISK_LIMIT }]).await;
        self.alarm_is("disk", on).await;
    }

    async fn alarm_is(&self, resource: &str, on: bool) {
        let is_so = async || (self.eval("rabbit_alarm:get_alarms().").await.contains(resource) == on).then_some(());
        until(&format!("the {resource} alarm is {on}"), is_so).await;
    }
}

impl Deref for Broker {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the broker's log is lost with its folder; its last lines ---");
            let log = std::fs::read_to_string(self.folder.join("log/node")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            lines[lines.len().saturating_sub(30)..].iter().for_each(|line| eprintln!("{line}"));
        }
        self.program.iter_mut().for_each(end);
        end(&mut self.port_mapper);
    }
}

impl Vhost {
    /// A new one, on the node that all tests share.
    pub fn new() -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let Some(folder) = std::env::var_os(SHARED) else { panic!("{SHARED} is not set: run tests/run, which starts a broker") };
        let node = Node::in_folder(Path::new(&folder));
        let test = std::thread::current().name().unwrap_or_default().replace("::", ".");
        // The slash makes every test one of percent-encoding as well.
        let name = format!("{test}/{}-{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed));
        evaluate(&node.folder, &added_vhost(&name)).unwrap();
        Self { node, name }
    }

    pub fn url(&self) -> String {
        self.node.url(&self.name)
    }

    /// Through a proxy that stands before the node.
    pub fn url_through(&self, proxy: &Proxy) -> String {
        amqp_url(proxy.address(), &self.name)
    }

    pub fn address(&self) -> SocketAddr {
        self.node.address()
    }

    pub async fn queue_depth(&self, queue: &str) -> u64 {
        self.node.queue_depth(&self.name, queue).await
    }

    pub async fn delete_queue(&self, queue: &str) {
        self.node.delete_queue(&self.name, queue).await;
    }

    /// Closes the connections to this virtual host.
    pub async fn close_connections(&self, reason: &str) {
        self.node.ctl(&["close_all_connections", "--vhost", &self.name, reason]).await;
    }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        let code = format!("rabbit_vhost:delete({}, <<\"tests\">>).", binary(&self.name));
        // Without the node, nothing is left to delete; and a test that failed has said why.
        let _ = evaluate(&self.node.folder, &code);
    }
}

fn amqp_url(address: SocketAddr, vhost: &str) -> String {
    let vhost: String = vhost
        .bytes()
        .map(
            |byte| {
                if byte.is_ascii_alphanumeric() || b"-._".contains(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
            },
        )
        .collect();
    format!("amqp://guest:guest@{address}/{vhost}")
}

/// Erlang for a virtual host in which `guest` may do everything.
fn added_vhost(name: &str) -> String {
    let name = binary(name);
    format!(
        "rabbit_vhost:add({name}, <<\"tests\">>), All = <<\".*\">>,
         rabbit_auth_backend_internal:set_permissions(<<\"guest\">>, {name}, All, All, All, <<\"tests\">>)."
    )
}

fn resource(vhost: &str, queue: &str) -> String {
    format!("rabbit_misc:r({}, queue, {})", binary(vhost), binary(queue))
}

/// Text as Erlang writes a binary, whatever is in it.
fn binary(text: &str) -> String {
    let bytes: Vec<String> = text.bytes().map(|byte| byte.to_string()).collect();
    format!("<<{}>>", bytes.join(","))
}

fn script(verb: &str, folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/broker"));
    // It says what it has to say in its folder.
    command.arg(verb).arg(folder).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Evaluates Erlang in the node of this folder, and gives the value as Erlang writes it.
fn evaluate(folder: &Path, code: &str) -> Result<String, String> {
    let said = try_output(&mut script("eval", folder, &[]), &format!("{code}\n"))?;
    let value = said.strip_prefix("{ok, ").and_then(|rest| rest.strip_suffix('}'));
    value.map(str::to_owned).ok_or_else(|| format!("{code}\nsaid {said}"))
}

#[track_caller]
fn output(command: &mut Command) -> String {
    try_output(command, "").unwrap_or_else(|problem| panic!("{problem}"))
}

fn try_output(command: &mut Command, input: &str) -> Result<String, String> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may end without reading.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{command:?}: {}\n{}\n{}", output.status, text(&output.stdout), text(&output.stderr)))
    }
}

fn end(child: &mut Child) {
    // It may have ended by itself, which is an end as well.
    let _ = child.kill();
    child.wait().unwrap();
}
