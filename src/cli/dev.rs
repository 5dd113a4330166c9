//! `tarishi dev`: the daemon with everything a first look needs. A token that works, a console that may connect, messages captured.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write as _},
    net::{SocketAddr, TcpListener},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use secrecy::ExposeSecret as _;
use tokio::sync::oneshot;
use toml::Value;

use super::{
    failure::{Exit, Failure},
    log, mock,
    output::{self, Paint},
    samples::{self, Sample},
    serve::{self, Stop},
    settings::{self, GlobalArgs},
    token,
};
use crate::{
    chat::seal::ChatKeys,
    config::{self, Config, ListenAddress, Sources, reachable},
    daemon::{Mode, Ready},
    mock::{BoundMock, Mock, MockSettings},
    model::{Timestamp, UserId},
    socket::sign_development_token,
    template::Templates,
};

const FOLDER: &str = "var";
/// The development tokens' secret, made once.
pub const SECRET_FILE: &str = "var/dev-jwt.secret";
/// The keys that messages are sealed with, made once, beside the store's file: one is of no use without the other.
const CHAT_KEYS_FILE: &str = "dev-chat.keys";
const SECRET_BYTES: usize = 32;
/// So short that retries can be watched.
const CHAOS_STEPS: [&str; 3] = ["2s", "5s", "15s"];
const CHAOS_CHANNELS: [&str; 3] = ["email", "sms", "push"];
/// A working day and the night after it.
const TOKEN_LIFETIME: Duration = Duration::from_hours(24);

const AFTER_HELP: &str = "\
Examples:
  tarishi dev
  tarishi dev --samples                         with something to look at
  tarishi dev --samples --chaos 0.3             and with retries
  tarishi dev --samples --mock                  over SendGrid, Twilio and FCM as played by `tarishi mock`
  tarishi dev --log-format pretty --log-level debug

It runs the daemon of `tarishi run` with the same configuration, plus: tokens signed with var/dev-jwt.secret (made once), short secrets allowed, the chat on with a key of its own (dev-chat.keys beside the store, made once) unless one is configured, and the console allowed to connect to the sockets. Emails, SMS and pushes are captured by the outbox unless the configuration names other providers, or --mock puts SendGrid, Twilio and FCM in its place, played on a loopback port: nothing leaves this machine, and what they were sent is shown at /mock/requests there. Jobs and messages stay in the store (./var/) from one run to the next. Templates are read again whenever their files change.";

#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct DevArgs {
    /// Send some jobs of every template at start
    #[arg(long)]
    samples: bool,
    /// Make this share of captured attempts fail (0 to 1), and retry within seconds
    #[arg(long, value_name = "SHARE", value_parser = share)]
    chaos: Option<f64>,
    /// Send through SendGrid, Twilio and FCM, all played on this machine, callbacks included
    #[arg(long, conflicts_with = "chaos")]
    mock: bool,
}

fn share(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(|| "write a share from 0 to 1, such as 0.1".to_owned())
}

pub fn run(args: &DevArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let beneath = settings::load_without_secrets(global)?;
    settings::check_templates_folder(&beneath)?;
    make_secret(Path::new(FOLDER), Path::new(SECRET_FILE))?;
    let chat_keys = make_chat_keys(&beneath)?;
    let mut sources = Sources { development: true, ..global.sources() };
    sources.overrides.push(key());
    sources.overrides.extend(chat_keys);
    let admin = free_port(beneath.admin.listen);
    sources.overrides.extend(overrides(args, &beneath, admin));
    let mock = if args.mock { Some(bind_mock(&beneath)?) } else { None };
    if let Some((mock, public)) = &mock {
        sources.overrides.extend(mock_overrides(mock, *public));
    }
    let config = settings::load(&sources)?;
    let templates = settings::load_templates(&config)?;
    log::start(config.log.format, &config.log.level)?;
    for why in token::refusals(&config.auth.jwt) {
        output::note(&format!("warning: the daemon will refuse development tokens: {why}"));
    }
    let mock = mock.map(|(mock, _)| mock);
    serve::until_stopped(|stop| watched(config, &templates, args.samples, mock, stop))
}

/// The mock, and the address of the public listener, which it calls back.
fn bind_mock(beneath: &Config) -> Result<(BoundMock, SocketAddr), Failure> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let public = free_port(beneath.public.listen.iter().find_map(ListenAddress::tcp).unwrap_or(any));
    let webhook_url = format!("http://{}/webhooks/sendgrid", reachable(public));
    let bound = mock::bind(MockSettings { webhooks: true, webhook_url: Some(webhook_url), ..MockSettings::default() })?;
    mock::write_service_account(Path::new(mock::SERVICE_ACCOUNT_FILE), bound.credentials())?;
    Ok((bound, public))
}

/// What a daemon needs to send to `mock`, and to be called back by it.
fn mock_overrides(mock: &BoundMock, public: SocketAddr) -> Vec<(String, Value)> {
    let mut overrides = mock::configuration(mock.address(), mock.credentials(), Path::new(mock::SERVICE_ACCOUNT_FILE));
    overrides.push(("public.listen".to_owned(), public.to_string().into()));
    overrides.push(("public.base_url".to_owned(), format!("http://{}", reachable(public)).into()));
    overrides
}

/// The daemon, and beside it what happens once it is ready.
async fn watched(config: Config, templates: &Templates, with_samples: bool, mock: Option<BoundMock>, stop: Stop) -> Result<(), Failure> {
    // Answers until the daemon has drained.
    let mock = mock.map(mock::serve).transpose()?;
    let mock_address = mock.as_ref().map(Mock::address);
    let (ready, is_ready) = oneshot::channel();
    let shutdown = stop.shutdown.clone();
    let daemon = serve::serve(config.clone(), Mode::Dev, stop, |addresses| {
        // Nobody waits for it only when the daemon is stopping already.
        let _ = ready.send(addresses);
    });
    let afterwards = async {
        let Ok(Ready { public, admin }) = is_ready.await else { return };
        let program = std::env::args().next().unwrap_or_else(|| "tarishi".to_owned());
        let facts = Facts { mock: mock_address, ..Facts::new(&config, samples::to_try(templates), &public, admin, program) };
        let shown = output::print(&banner(&facts, Paint::stdout()));
        if let Err(failure) = shown {
            failure.print();
        }
        if with_samples {
            tokio::select! {
                sent = samples::send(templates, admin) => match sent {
                    Ok(told) => output::note(&told),
                    Err(failure) => failure.print(),
                },
                () = shutdown.cancelled() => {}
            }
        }
    };
    let (ended, ()) = tokio::join!(daemon, afterwards);
    ended
}

/// The key that development tokens are signed with, instead of any other.
pub fn key() -> (String, Value) {
    let key = [("algorithm".to_owned(), Value::from("HS256")), ("secret_file".to_owned(), Value::from(SECRET_FILE))];
    ("auth.jwt.keys".to_owned(), Value::Array(vec![Value::Table(key.into_iter().collect())]))
}

/// What `dev` lays over the configuration `beneath`.
fn overrides(args: &DevArgs, beneath: &Config, admin: SocketAddr) -> Vec<(String, Value)> {
    let origin = |host: &str| Value::from(format!("http://{host}:{}", admin.port()));
    let mut origins: Vec<Value> = beneath.public.allowed_origins.iter().cloned().map(Value::from).collect();
    let listen = reachable(admin);
    let listen = if listen.is_ipv6() { format!("[{}]", listen.ip()) } else { listen.ip().to_string() };
    for host in ["127.0.0.1", "localhost", &listen] {
        if !origins.contains(&origin(host)) {
            origins.push(origin(host));
        }
    }
    let mut overrides =
        vec![("admin.listen".to_owned(), admin.to_string().into()), ("public.allowed_origins".to_owned(), Value::Array(origins))];
    if let Some(chaos) = args.chaos {
        overrides.push(("provider.outbox.chaos".to_owned(), chaos.into()));
        let steps = Value::Array(CHAOS_STEPS.map(Value::from).to_vec());
        overrides.extend(CHAOS_CHANNELS.map(|channel| (format!("channel.{channel}.retry.steps"), steps.clone())));
    }
    overrides
}

/// Browsers' origins carry the port, so it has to be known before the daemon binds it.
fn free_port(listen: SocketAddr) -> SocketAddr {
    if listen.port() != 0 {
        return listen;
    }
    TcpListener::bind(listen).and_then(|listener| listener.local_addr()).unwrap_or(listen)
}

/// Makes the folder, and the secret if there is none. Git sees neither.
fn make_secret(folder: &Path, file: &Path) -> Result<(), Failure> {
    let failed = |path: &Path, error: std::io::Error| cannot_be_made(path, &error);
    fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
    let ignore = folder.join(".gitignore");
    make_once(&ignore, 0o644, || Ok("*\n".to_owned())).map_err(|error| failed(&ignore, error))?;
    make_once(file, 0o600, new_secret).map_err(|error| failed(file, error))
}

fn cannot_be_made(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("{} cannot be made: {error}", path.display()), "run it where this user may write")
}

/// Where development's keys for messages are.
pub fn chat_keys_file(config: &Config) -> PathBuf {
    config.store.sqlite_path().with_file_name(CHAT_KEYS_FILE)
}

/// Makes a key to seal messages with, unless the configuration has its own or wants no chat; gives what leads to it.
fn make_chat_keys(beneath: &Config) -> Result<Option<(String, Value)>, Failure> {
    if beneath.chat.has_keys() || beneath.chat.enabled == Some(false) {
        return Ok(None);
    }
    let file = chat_keys_file(beneath);
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let made = folder.map_or(Ok(()), fs::create_dir_all).and_then(|()| make_once(&file, 0o600, || Ok(new_chat_key())));
    made.map_err(|error| cannot_be_made(&file, &error))?;
    Ok(Some(("chat.encryption_keys_file".to_owned(), file.to_string_lossy().into_owned().into())))
}

fn new_chat_key() -> String {
    format!("{}\n", ChatKeys::new_key().expose_secret())
}

fn make_once(file: &Path, mode: u32, text: impl FnOnce() -> std::io::Result<String>) -> std::io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(mode).open(file) {
        Ok(mut opened) => opened.write_all(text()?.as_bytes()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn new_secret() -> std::io::Result<String> {
    let mut bytes = [0_u8; SECRET_BYTES];
    let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    random.fill(&mut bytes).map_err(|_| std::io::Error::other("the system has no random numbers"))?;
    Ok(bytes.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}")))
}

/// What the banner says.
struct Facts {
    /// What the sockets' URLs begin with.
    sockets: String,
    admin: SocketAddr,
    token: String,
    program: String,
    /// Whether the admin listener asks for a key.
    has_keys: bool,
    /// Whether commands have to be told where the daemon is.
    elsewhere: bool,
    template: Option<Sample>,
    /// Where the providers are played.
    mock: Option<SocketAddr>,
}

impl Facts {
    fn new(config: &Config, template: Option<Sample>, public: &[ListenAddress], admin: SocketAddr, program: String) -> Self {
        let user: UserId = samples::USER.parse().expect("a user id");
        let key = &config.auth.jwt.keys[0];
        let secret = key.secret().expect("`key` is one with a secret");
        let token = sign_development_token(secret, key.kid.as_deref(), &user, TOKEN_LIFETIME, Timestamp::now());
        let default = config::load(&Sources::default()).expect("the defaults are good, which a test holds");
        Self {
            sockets: config.public.socket_base(public),
            admin: reachable(admin),
            token,
            program,
            has_keys: !config.admin.api_keys.is_empty(),
            elsewhere: admin != default.admin.listen,
            template,
            mock: None,
        }
    }
}

/// Where to look, what to paste, how to stop.
fn banner(facts: &Facts, paint: Paint) -> String {
    let Facts { sockets, admin, token, program, .. } = facts;
    let key = if facts.has_keys { " -H \"Authorization: Bearer $TARISHI_API_KEY\"" } else { "" };
    let job = r#"{"content":{"title":"Habari","body":"It works."},"to":[{"user_id":"42","email":"asha@example.com"}]}"#;
    let curl = format!("curl -sS http://{admin}/v1/jobs{key} -H 'Content-Type: application/json' -d '{job}'");
    let server = if facts.elsewhere { format!(" --server http://{admin}") } else { String::new() };
    let send = facts.template.as_ref().map(|Sample { template, data }| {
        let data = data.iter().fold(String::new(), |data, pair| format!("{data} --data {}", quoted(pair)));
        format!("{} send --template {template} --to 42,email=asha@example.com{data}{server} --wait", quoted(program))
    });
    let row = |name: &str, value: &str| format!("  {} {value}", paint.bold(&format!("{name:<9}")));
    let mut lines = vec![
        String::new(),
        paint.green("tarishi is ready."),
        row("console", &paint.cyan(&format!("http://{admin}/"))),
        row("templates", &paint.cyan(&format!("http://{admin}/templates"))),
        row("socket", &paint.cyan(&format!("{sockets}/ws/notifications/?token={token}"))),
        row("", &paint.dim("for user 42, for 24 hours; another: tarishi token --user ID")),
    ];
    lines.extend(facts.mock.map(|mock| {
        let requests = paint.cyan(&format!("http://{mock}/mock/requests"));
        row("mock", &format!("{requests}  {}", paint.dim("what the providers were sent")))
    }));
    lines.extend([String::new(), "Try it:".to_owned(), format!("  {curl}")]);
    lines.extend(send.map(|send| format!("  {send}")));
    if facts.has_keys {
        lines.push(paint.dim("  (the admin listener asks for a key: set TARISHI_API_KEY first)"));
    }
    lines.extend([String::new(), "Ctrl-C stops it; jobs not finished go on at the next start.".to_owned(), String::new()]);
    lines.join("\n")
}

/// As a shell reads it back.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./=:@,+%".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn facts() -> Facts {
        Facts {
            sockets: "ws://127.0.0.1:8000".to_owned(),
            admin: "127.0.0.1:8001".parse().unwrap(),
            token: "a.b.c".to_owned(),
            program: "./target/release/tarishi".to_owned(),
            has_keys: false,
            elsewhere: false,
            template: Some(Sample {
                template: "new_message".to_owned(),
                data: vec!["sender_name=Juma".to_owned(), "preview=Is it still free?".to_owned()],
            }),
            mock: None,
        }
    }

    #[test]
    fn the_banner_says_where_to_look_and_what_to_paste() {
        assert_eq!(
            banner(&facts(), Paint::OFF),
            r#"
tarishi is ready.
  console   http://127.0.0.1:8001/
  templates http://127.0.0.1:8001/templates
  socket    ws://127.0.0.1:8000/ws/notifications/?token=a.b.c
            for user 42, for 24 hours; another: tarishi token --user ID

Try it:
  curl -sS http://127.0.0.1:8001/v1/jobs -H 'Content-Type: application/json' -d '{"content":{"title":"Habari","body":"It works."},"to":[{"user_id":"42","email":"asha@example.com"}]}'
  ./target/release/tarishi send --template new_message --to 42,email=asha@example.com --data sender_name=Juma --data 'preview=Is it still free?' --wait

Ctrl-C stops it; jobs not finished go on at the next start.
"#
        );
        let elsewhere = Facts { admin: "127.0.0.1:9001".parse().unwrap(), elsewhere: true, has_keys: true, ..facts() };
        let banner = banner(&elsewhere, Paint::OFF);
        assert!(banner.contains(" --server http://127.0.0.1:9001 --wait"), "{banner}");
        assert!(banner.contains("-H \"Authorization: Bearer $TARISHI_API_KEY\""), "{banner}");
        let with_mock = super::banner(&Facts { mock: Some("127.0.0.1:9002".parse().unwrap()), ..facts() }, Paint::OFF);
        assert!(with_mock.contains("\n  mock      http://127.0.0.1:9002/mock/requests  what the providers were sent\n"), "{with_mock}");
    }

    #[test]
    fn the_secret_is_made_once_for_this_user_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (var, file) = (folder.path().join("var"), folder.path().join("var/dev-jwt.secret"));
        make_secret(&var, &file).unwrap();
        let made = fs::read_to_string(&file).unwrap();
        assert!(made.len() == 64 && made.bytes().all(|byte| byte.is_ascii_hexdigit()), "{made}");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(var.join(".gitignore")).unwrap(), "*\n");
        make_secret(&var, &file).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), made);
    }

    #[test]
    fn a_key_for_messages_is_made_once_beside_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("data/tarishi.db").display());
        let beneath = |more: &[(&str, Value)]| {
            let mut overrides = vec![("store.url".to_owned(), Value::from(url.clone()))];
            overrides.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
            config::load(&Sources { overrides, secrets: config::Secrets::None, ..Sources::default() }).unwrap()
        };
        let (key, file) = make_chat_keys(&beneath(&[])).unwrap().unwrap();
        assert_eq!(
            (key.as_str(), &file),
            ("chat.encryption_keys_file", &folder.path().join("data/dev-chat.keys").to_str().unwrap().into())
        );
        let file = folder.path().join("data/dev-chat.keys");
        let made = fs::read_to_string(&file).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        make_chat_keys(&beneath(&[("chat.enabled", true.into())])).unwrap().unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), made);
        let with_keys = config::load(&Sources { overrides: vec![(key, file.to_str().unwrap().into())], ..Sources::default() }).unwrap();
        assert!(with_keys.chat.is_on() && with_keys.chat.encryption_keys.len() == 1);

        assert!(make_chat_keys(&beneath(&[("chat.enabled", false.into())])).unwrap().is_none());
        assert!(make_chat_keys(&beneath(&[("chat.encryption_keys_file", "mine".into())])).unwrap().is_none());
    }

    #[test]
    fn dev_lays_itself_over_the_users_configuration() {
        let mine = vec![("public.allowed_origins".to_owned(), Value::Array(vec!["http://localhost:3000".into()]))];
        let mut sources = Sources { overrides: mine, ..Sources::default() };
        let beneath = config::load(&sources).unwrap();
        let args = DevArgs { samples: false, chaos: Some(0.1), mock: false };
        sources.overrides.extend(overrides(&args, &beneath, beneath.admin.listen));
        let config = config::load(&sources).unwrap();
        assert_eq!(config.public.allowed_origins, ["http://localhost:3000", "http://127.0.0.1:8001", "http://localhost:8001"]);
        assert!((config.provider.outbox.chaos - 0.1).abs() < f64::EPSILON);
        assert_eq!(config.channel.sms.retry.steps, [2, 5, 15].map(Duration::from_secs));
        assert_eq!(config.channel.live.retry.steps, beneath.channel.live.retry.steps);
    }

    #[test]
    fn the_mock_takes_the_place_of_the_providers_and_calls_back() {
        let bound = mock::bind(MockSettings::default()).unwrap();
        let laid = mock_overrides(&bound, "127.0.0.1:8000".parse().unwrap());
        let value = |key: &str| laid.iter().find(|(path, _)| path == key).unwrap_or_else(|| panic!("no {key}")).1.clone();
        for (channel, provider) in [("email", "sendgrid"), ("sms", "twilio"), ("push", "fcm")] {
            assert_eq!(value(&format!("channel.{channel}.providers")), Value::Array(vec![provider.into()]));
            assert_eq!(value(&format!("provider.{provider}.base_url")), Value::from(format!("http://{}", bound.address())));
        }
        assert_eq!(value("provider.fcm.service_account_file"), Value::from("var/mock-service-account.json"));
        assert_eq!(value("provider.twilio.allowed_prefixes"), Value::Array(vec!["+".into()]));
        assert_eq!(value("public.base_url"), Value::from("http://127.0.0.1:8000"));
        assert!(DevArgs::augment_args(clap::Command::new("dev")).try_get_matches_from(["dev", "--mock", "--chaos", "0.1"]).is_err());
    }

    #[test]
    fn the_console_may_connect_wherever_it_is_shown() {
        let beneath = config::load(&Sources::default()).unwrap();
        let origins_of = |admin: &str| {
            let laid = overrides(&DevArgs { samples: false, chaos: None, mock: false }, &beneath, admin.parse().unwrap());
            let origins = laid.into_iter().find(|(path, _)| path == "public.allowed_origins").unwrap().1;
            origins.as_array().unwrap().iter().map(|origin| origin.as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(origins_of("127.0.0.2:9001"), ["http://127.0.0.1:9001", "http://localhost:9001", "http://127.0.0.2:9001"]);
        assert_eq!(origins_of("[::1]:9001"), ["http://127.0.0.1:9001", "http://localhost:9001", "http://[::1]:9001"]);
        assert_eq!(origins_of("0.0.0.0:9001"), ["http://127.0.0.1:9001", "http://localhost:9001"]);
    }

    #[test]
    fn words_are_quoted_for_the_shell() {
        for (text, expected) in [("a=b", "a=b"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("", "''"), ("$x", "'$x'")] {
            assert_eq!(quoted(text), expected);
        }
    }
}
