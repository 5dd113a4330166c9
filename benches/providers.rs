//! How fast each provider sends, beside the bare client posting the same bytes; and what one provider that hangs does to the others.
//!
//! The peer is the clouds as `tarishi mock` plays them, in a process of its own on the same machine: it keeps nothing and answers at once.
//! For SMTP it is a sink that takes every mail, and the bare client lettre's own connections. Rounds alternate; medians are shown.
//!
//! `cargo bench --bench providers -- [--sends 5000] [--rounds 5] [--only sendgrid|twilio|fcm|smtp|hung]`

use std::{
    io::{BufRead as _, BufReader, Lines, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use lettre::{
    address::Envelope,
    transport::smtp::{client::AsyncSmtpConnection, extension::ClientId},
};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::{Value, json};
use tarishi::{
    channel::{
        Provider,
        email::{self, sendgrid::SendGrid, smtp::Smtp},
        push,
        push::fcm::Fcm,
        sms::twilio::Twilio,
    },
    config::{Config, Sources},
    mock::{Mock, MockSettings},
    model::{Body, DeliveryId, Email, Message, Outcome, Push, PushTarget, Sms, Timestamp},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Sends under way at once, by the provider and by the bare client.
const CONCURRENCY: usize = 64;
/// What one send may take; nothing here comes near it.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// This process again, as the peer.
const PEER: &str = "TARISHI_BENCH_PEER";

fn main() -> ExitCode {
    // There is one, or there was one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let done = if std::env::var_os(PEER).is_some() { on_runtime(serve_clouds()) } else { on_runtime(compare()) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn on_runtime(part: impl Future<Output = Fallible<()>>) -> Fallible<()> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(part)
}

struct Options {
    sends: u64,
    rounds: usize,
    only: Option<String>,
}

impl Options {
    /// Whatever else cargo passes is ignored.
    fn parse() -> Self {
        let arguments: Vec<String> = std::env::args().collect();
        let value = |name: &str| arguments.iter().position(|argument| argument == name).and_then(|place| arguments.get(place + 1).cloned());
        let number = |name: &str| value(name).and_then(|text| text.parse().ok());
        Self { sends: number("--sends").unwrap_or(5000), rounds: number("--rounds").map_or(5, as_usize), only: value("--only") }
    }

    fn wants(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == name)
    }
}

async fn compare() -> Fallible<()> {
    let options = Options::parse();
    let peer = Peer::start()?;
    println!("{CONCURRENCY} sends at once, {} a round, {} rounds; the ratio is provider to bare client\n", options.sends, options.rounds);
    println!("{:<10}{:>12}{:>12}{:>8}{:>14}{:>14}{:>8}", "", "sends/s", "bare", "ratio", "CPU us/send", "bare", "ratio");
    for name in ["sendgrid", "twilio", "fcm", "smtp"] {
        if options.wants(name) {
            measure(name, &peer, &options).await?;
        }
    }
    if options.wants("hung") {
        println!();
        hung(peer)?;
    }
    Ok(())
}

/// One round's figures: sends per second, and this process's CPU for one.
type Figures = (f64, f64);

async fn measure(name: &str, peer: &Peer, options: &Options) -> Fallible<()> {
    let config = peer.config()?;
    let provider: Arc<dyn Provider> = match name {
        "sendgrid" => Arc::new(SendGrid::new(&config.provider.sendgrid)?),
        "twilio" => Arc::new(Twilio::new(&config.provider.twilio, &config.public.base_url, CALL_TIMEOUT)?),
        "smtp" => Arc::new(Smtp::new(&config.provider.smtp)?),
        _ => Arc::new(Fcm::new(&config.provider.fcm, CALL_TIMEOUT)?),
    };
    let bare = Arc::new(Bare::new(name, peer, &config).await?);
    // Rendering is not what is compared: every message is there before its send.
    let messages: Arc<Vec<Message>> = Arc::new((0..options.sends).map(|number| message(name, number)).collect());
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..=options.rounds {
        let of_provider = timed(options.sends, |number| {
            let (provider, messages) = (provider.clone(), messages.clone());
            async move {
                match provider.send(&messages[as_usize(number)]).await {
                    Outcome::Sent { .. } => Ok(()),
                    other => Err(format!("{other:?}").into()),
                }
            }
        });
        let of_provider = of_provider.await.map_err(|error| format!("{name}: {error}"))?;
        let of_bare = timed(options.sends, |_| {
            let bare = bare.clone();
            async move { bare.post().await }
        });
        let of_bare = of_bare.await?;
        // The first opens the connections.
        if round > 0 {
            ours.push(of_provider);
            theirs.push(of_bare);
        }
    }
    let (rate, cpu) = medians(&ours);
    let (bare_rate, bare_cpu) = medians(&theirs);
    println!("{name:<10}{rate:>12.0}{bare_rate:>12.0}{:>8.2}{cpu:>14.1}{bare_cpu:>14.1}{:>8.2}", rate / bare_rate, cpu / bare_cpu);
    Ok(())
}

/// Each send is a task of its own, as in a lane.
async fn timed<F>(sends: u64, send: impl Fn(u64) -> F) -> Fallible<Figures>
where
    F: Future<Output = Fallible<()>> + Send + 'static,
{
    let (cpu, started) = (cpu_seconds()?, Instant::now());
    let mut sending = stream::iter(0..sends).map(|number| tokio::spawn(send(number))).buffer_unordered(CONCURRENCY);
    while let Some(sent) = sending.next().await {
        sent??;
    }
    let (elapsed, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
    Ok((as_f64(sends) / elapsed, cpu / as_f64(sends) * 1e6))
}

fn message(provider: &str, number: u64) -> Message {
    let body = match provider {
        "sendgrid" | "smtp" => Body::Email(mail()),
        "twilio" => Body::Sms(sms()),
        _ => Body::Push(notification()),
    };
    Message {
        delivery_id: DeliveryId::new([7; 12], u32::try_from(number).unwrap_or(u32::MAX)),
        job_id: "bench".parse().expect("a job's id"),
        user_id: None,
        template: Some("generic".parse().expect("a template's name")),
        tenant: None,
        collapse_key: None,
        expires_at: Timestamp::now().saturating_add(Duration::from_hours(1)),
        body,
    }
}

fn mail() -> Email {
    let paragraph = "Is the flat in Mikocheni still free? Juma would like to see it tomorrow at ten. ".repeat(20);
    Email {
        to: "asha@people.example".parse().expect("an address"),
        subject: "Habari ya nyumba".to_owned(),
        html: Some(format!("<html><body><p>{paragraph}</p></body></html>")),
        text: Some(paragraph),
        unsubscribe_url: None,
    }
}

fn sms() -> Sms {
    Sms { to: "+255712345678".parse().expect("a number"), text: "Habari! Is the flat in Mikocheni still free?".to_owned() }
}

fn notification() -> Push {
    Push {
        target: PushTarget::Token("device-of-asha:APA91bE".parse().expect("a token")),
        title: "Juma".to_owned(),
        body: "Is the flat in Mikocheni still free?".to_owned(),
        data: [("url".to_owned(), "https://app.example/conversations/7".to_owned())].into(),
        platform: serde_json::Map::new(),
    }
}

/// The client that providers are held against: the same request, made once, posted again and again.
enum Bare {
    Http {
        client: reqwest::Client,
        url: String,
        body: bytes::Bytes,
    },
    /// lettre's own connections, each used by one send at a time.
    Smtp {
        address: (&'static str, u16),
        idle: Mutex<Vec<AsyncSmtpConnection>>,
        envelope: Envelope,
        mail: Vec<u8>,
    },
}

impl Bare {
    fn smtp(peer: &Peer, config: &Config) -> Fallible<Self> {
        let message = message("smtp", 1);
        let Body::Email(mail) = &message.body else { return Err("not a mail".into()) };
        let from = config.provider.smtp.from.as_deref().unwrap_or_default();
        let senders = email::sender::Senders::new(from, &config.provider.smtp.from_by_tenant, None)?;
        let composed = email::compose(&message, mail, &senders)?;
        let (address, envelope) = (("127.0.0.1", peer.smtp_port), composed.envelope().clone());
        Ok(Self::Smtp { address, idle: Mutex::default(), envelope, mail: composed.formatted() })
    }

    async fn new(name: &str, peer: &Peer, config: &Config) -> Fallible<Self> {
        if name == "smtp" {
            return Self::smtp(peer, config);
        }
        let text = |member: &str| peer.credentials[member].as_str().unwrap_or_default().to_owned();
        let message = message(name, 1);
        let (authorization, content_type, path, body) = match &message.body {
            Body::Email(mail) => {
                let body = SendGrid::new(&config.provider.sendgrid)?.compose(&message, mail).map_err(|outcome| format!("{outcome:?}"))?;
                (format!("Bearer {}", text("sendgrid_api_key")), "application/json", "/v3/mail/send".to_owned(), body)
            }
            Body::Sms(sms) => {
                let twilio = Twilio::new(&config.provider.twilio, &config.public.base_url, CALL_TIMEOUT)?;
                let form = twilio.compose(&message, sms, Timestamp::now()).map_err(|outcome| format!("{outcome:?}"))?;
                let body = form.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect::<Vec<_>>().join("&");
                let user = base64(&format!("{}:{}", text("twilio_api_key"), text("twilio_api_secret")));
                let path = format!("/2010-04-01/Accounts/{}/Messages.json", text("twilio_account_sid"));
                (format!("Basic {user}"), "application/x-www-form-urlencoded", path, body.into_bytes())
            }
            Body::Push(notification) => {
                let body = push::compose(&message, notification, false, Timestamp::now())?;
                let path = format!("/v1/projects/{}/messages:send", text("fcm_project"));
                (format!("Bearer {}", peer.access_token(config).await?), "application/json", path, body)
            }
            Body::Live(_) => return Err("nobody posts it".into()),
        };
        let headers = [
            (AUTHORIZATION, HeaderValue::from_str(&authorization)?),
            (ACCEPT, HeaderValue::from_static("application/json")),
            (CONTENT_TYPE, HeaderValue::from_static(content_type)),
        ];
        let builder = reqwest::Client::builder().no_proxy().tcp_nodelay(true).default_headers(HeaderMap::from_iter(headers));
        let builder = if name == "fcm" { builder.http2_prior_knowledge() } else { builder };
        Ok(Self::Http { client: builder.build()?, url: format!("{}{path}", peer.base_url), body: body.into() })
    }

    async fn post(&self) -> Fallible<()> {
        match self {
            Self::Http { client, url, body } => {
                let response = client.post(url).body(body.clone()).send().await?.error_for_status()?;
                response.bytes().await?;
            }
            Self::Smtp { address, idle, envelope, mail } => {
                let kept = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let mut connection = match kept {
                    Some(connection) => connection,
                    None => AsyncSmtpConnection::connect_tokio1(*address, None, &ClientId::default(), None, None).await?,
                };
                connection.send(envelope, mail).await?;
                idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            }
        }
        Ok(())
    }
}

fn escaped(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// The clouds in a process of their own; it ends with its standard input.
struct Peer {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    base_url: String,
    smtp_port: u16,
    credentials: Value,
    folder: tempfile::TempDir,
}

impl Peer {
    fn start() -> Fallible<Self> {
        let mut child = Command::new(std::env::current_exe()?).env(PEER, "1").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut output = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
        let told: Value = serde_json::from_str(&output.next().ok_or("the peer did not start")??)?;
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("service-account.json");
        std::fs::write(&file, told["service_account_json"].as_str().unwrap_or_default())?;
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let base_url = told["base_url"].as_str().unwrap_or_default().to_owned();
        let smtp_port = u16::try_from(told["smtp_port"].as_u64().unwrap_or_default())?;
        let input = child.stdin.take().ok_or("no stdin")?;
        Ok(Self { child, input, output, base_url, smtp_port, credentials: told, folder })
    }

    fn keys(&self) -> Vec<(&'static str, String)> {
        let text = |member: &str| self.credentials[member].as_str().unwrap_or_default().to_owned();
        vec![
            ("channel.email.providers", "[\"sendgrid\"]".to_owned()),
            ("channel.sms.providers", "[\"twilio\"]".to_owned()),
            ("channel.push.providers", "[\"fcm\"]".to_owned()),
            ("provider.sendgrid.api_key", text("sendgrid_api_key")),
            ("provider.sendgrid.from", "hello@tarishi.example".to_owned()),
            ("provider.sendgrid.base_url", self.base_url.clone()),
            ("provider.twilio.account_sid", text("twilio_account_sid")),
            ("provider.twilio.api_key", text("twilio_api_key")),
            ("provider.twilio.api_secret", text("twilio_api_secret")),
            ("provider.twilio.from", "+15005550006".to_owned()),
            ("provider.twilio.allowed_prefixes", "[\"+\"]".to_owned()),
            ("provider.twilio.velocity.limit", "10000000".to_owned()),
            ("provider.twilio.base_url", self.base_url.clone()),
            ("provider.fcm.service_account_file", self.folder.path().join("service-account.json").display().to_string()),
            ("provider.fcm.base_url", self.base_url.clone()),
            ("provider.fcm.rate", "1000000".to_owned()),
            ("provider.smtp.url", format!("smtp://127.0.0.1:{}", self.smtp_port)),
            ("provider.smtp.tls", "none".to_owned()),
            ("provider.smtp.from", "hello@tarishi.example".to_owned()),
            ("provider.smtp.idle_connections", CONCURRENCY.to_string()),
        ]
    }

    fn environment(&self) -> Vec<(String, String)> {
        self.keys().into_iter().map(|(key, value)| (format!("TARISHI__{}", key.replace('.', "__").to_uppercase()), value)).collect()
    }

    fn config(&self) -> Fallible<Config> {
        let sources = Sources { env: self.environment(), ..Sources::default() };
        tarishi::config::load(&sources).map_err(|problems| format!("{problems:?}").into())
    }

    /// A token of the kind that FCM's provider gets for itself.
    async fn access_token(&self, config: &Config) -> Fallible<String> {
        use secrecy::ExposeSecret as _;
        let account = push::access_token::ServiceAccount::parse(config.provider.fcm.service_account.expose_secret())?;
        let tokens = push::access_token::AccessTokens::new(account, CALL_TIMEOUT)?;
        let token = tokens.get().await.map_err(|outcome| format!("{outcome:?}"))?;
        Ok(token.authorization.to_str()?.trim_start_matches("Bearer ").to_owned())
    }

    /// Answers from now on as this script says.
    fn answer(&mut self, script: &Value) -> Fallible<()> {
        writeln!(self.input, "{script}")?;
        self.output.next().ok_or("the peer has ended")??;
        Ok(())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The peer's process: tells where it is and with what credentials, then takes a script a line.
async fn serve_clouds() -> Fallible<()> {
    let mock = Mock::start(MockSettings { keep: 0, ..MockSettings::default() }).await?;
    let credentials = mock.credentials();
    println!(
        "{}",
        json!({
            "base_url": mock.base_url(),
            "smtp_port": sink().await?,
            "sendgrid_api_key": credentials.sendgrid_api_key,
            "twilio_account_sid": credentials.twilio_account_sid,
            "twilio_api_key": credentials.twilio_api_key,
            "twilio_api_secret": credentials.twilio_api_secret,
            "fcm_project": credentials.fcm_project,
            "service_account_json": credentials.service_account_json,
        })
    );
    let (lines, mut scripts) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| lines.blocking_send(line)));
    while let Some(line) = scripts.recv().await {
        let script = tarishi::mock::Script::from_json(serde_json::from_str(&line)?).map_err(|problems| format!("{problems:?}"))?;
        mock.set_script(script);
        println!("done");
    }
    Ok(())
}

/// Jobs of an email, an SMS and a push each, and how many are being handed over at once: as fast as the daemon takes them.
const HUNG_JOBS: usize = 4000;
const HUNG_PRODUCERS: usize = 16;
/// Time that all emails and pushes of a run have.
const HUNG_PATIENCE: Duration = Duration::from_mins(3);

/// How long mails and pushes take from accept to the provider's answer, with Twilio well and with Twilio hung; every job has all three.
fn hung(mut peer: Peer) -> Fallible<()> {
    println!("{HUNG_JOBS} jobs of one email, one SMS and one push each, from {HUNG_PRODUCERS} producers as fast as they are taken; in ms");
    println!(
        "{:<18}{:>8}{:>11}{:>8}{:>11}{:>8}{:>11}{:>8}{:>11}{:>8}",
        "", "jobs/s", "accept p50", "p99", "email p50", "p99", "push p50", "p99", "both p50", "p99"
    );
    let mut of_both = Vec::new();
    for (name, script) in [("all well", json!([])), ("Twilio hangs", json!([{ "provider": "twilio", "answer": "hang" }]))] {
        peer.answer(&script)?;
        let run = full_load(&peer)?;
        print!("{name:<18}{:>8.0}", run.rate);
        for waits in [&run.accept, &run.email, &run.push, &run.both()] {
            print!("{:>11.1}{:>8.1}", percentile(waits, 0.50), percentile(waits, 0.99));
        }
        println!();
        of_both.push(run.both());
    }
    println!("p99 of email and push together, hung to well: {:.2}", percentile(&of_both[1], 0.99) / percentile(&of_both[0], 0.99));
    Ok(())
}

/// What one run took, in milliseconds.
struct Run {
    rate: f64,
    accept: Vec<f64>,
    email: Vec<f64>,
    push: Vec<f64>,
}

impl Run {
    fn both(&self) -> Vec<f64> {
        self.email.iter().chain(&self.push).copied().collect()
    }
}

/// The least value that this share of all is not above (nearest rank).
fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place among some thousands"
    )]
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// A daemon under as much as it takes; fails unless every email and every push was sent once.
fn full_load(peer: &Peer) -> Fallible<Run> {
    let folder = tempfile::tempdir()?;
    let mut child = Command::new(env!("CARGO_BIN_EXE_tarishi"))
        .args(["run", "--log-format", "json"])
        .current_dir(folder.path())
        .env("TARISHI__PUBLIC__LISTEN", "127.0.0.1:0")
        .env("TARISHI__ADMIN__LISTEN", "127.0.0.1:0")
        .env("TARISHI__STORE__URL", "sqlite:bench.db")
        .env("TARISHI__TEMPLATES__PATH", concat!(env!("CARGO_MANIFEST_DIR"), "/templates"))
        .envs(peer.environment())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stderr.take().ok_or("no stderr")?).lines();
    let mut admin = None;
    for line in lines.by_ref() {
        let line: Value = serde_json::from_str(&line?)?;
        admin = admin.or_else(|| line["admin"].as_str().map(str::to_owned));
        if line["message"] == "daemon ready" {
            break;
        }
    }
    let (log, said) = std::sync::mpsc::channel::<Value>();
    std::thread::spawn(move || {
        lines.map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok()).try_for_each(|line| log.send(line))
    });
    let url = format!("http://{}/v1/jobs", admin.ok_or("the daemon did not say where it listens")?);
    let started = Instant::now();
    let posted = std::thread::spawn(move || {
        let mut accept = Vec::new();
        on_runtime(async {
            accept = post_all(url).await?;
            Ok(())
        })
        .map(|()| (accept, started.elapsed()))
    });
    let sent = collect(&said);
    child.kill()?;
    child.wait()?;
    let (accept, elapsed) = posted.join().map_err(|_| "the producer panicked")??;
    let [email, push] = sent?;
    Ok(Run { rate: as_f64(HUNG_JOBS as u64) / elapsed.as_secs_f64(), accept, email, push })
}

/// From accept to sent, of every email and every push, from the daemon's own log.
fn collect(said: &std::sync::mpsc::Receiver<Value>) -> Fallible<[Vec<f64>; 2]> {
    let at = |line: &Value| line["timestamp"].as_str().and_then(|text| text.parse::<Timestamp>().ok()).map(Timestamp::as_millis);
    let mut accepted = std::collections::HashMap::new();
    let mut sent = [Vec::new(), Vec::new()];
    let deadline = Instant::now() + HUNG_PATIENCE;
    while accepted.len() < HUNG_JOBS || sent.iter().any(|sent| sent.len() < HUNG_JOBS) {
        let line = said.recv_timeout(deadline.saturating_duration_since(Instant::now())).map_err(|_| {
            format!("of {HUNG_JOBS} jobs {} were accepted, {} emails and {} pushes sent", accepted.len(), sent[0].len(), sent[1].len())
        })?;
        let (Some(job), Some(at)) = (line["job"].as_str(), at(&line)) else { continue };
        match (line["message"].as_str(), line["channel"].as_str()) {
            (Some("job accepted"), _) => drop(accepted.insert(job.to_owned(), at)),
            (Some("delivery sent"), Some("email")) => sent[0].push((job.to_owned(), at)),
            (Some("delivery sent"), Some("push")) => sent[1].push((job.to_owned(), at)),
            (Some("delivery given up" | "delivery retried"), Some("email" | "push")) => {
                return Err(format!("not sent at once: {line}").into());
            }
            _ => {}
        }
    }
    let mut waits = [Vec::new(), Vec::new()];
    for (sent, waits) in sent.iter().zip(&mut waits) {
        let jobs: std::collections::HashSet<&str> = sent.iter().map(|(job, _)| job.as_str()).collect();
        if jobs.len() != HUNG_JOBS || sent.len() != HUNG_JOBS {
            return Err(format!("{} sent for {} of {HUNG_JOBS} jobs", sent.len(), jobs.len()).into());
        }
        for (job, at) in sent {
            #[expect(clippy::cast_precision_loss, reason = "milliseconds of minutes")]
            waits.push((at - accepted.get(job).ok_or("sent and never accepted")?).max(0) as f64);
        }
    }
    Ok(waits)
}

/// Hands all jobs over; says how long each took to be accepted.
async fn post_all(url: String) -> Fallible<Vec<f64>> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let post = async |number: usize| -> Fallible<f64> {
        let person = json!({ "user_id": number, "email": format!("u{number}@people.example"), "phone": format!("+25571{:07}", number * 137 % 10_000_000), "push_tokens": [format!("device-{number}")] });
        let job = json!({ "id": format!("bench-{number}"), "template": "generic", "channels": ["email", "sms", "push"], "to": [person], "data": { "title": "Habari", "message": "Is the flat still free?" } });
        let started = Instant::now();
        client.post(&url).json(&job).send().await?.error_for_status()?;
        Ok(started.elapsed().as_secs_f64() * 1000.0)
    };
    let mut posting = stream::iter(0..HUNG_JOBS).map(post).buffer_unordered(HUNG_PRODUCERS);
    let mut accept = Vec::new();
    while let Some(took) = posting.next().await {
        accept.push(took?);
    }
    Ok(accept)
}

/// A mail server that takes everything and keeps nothing; its port.
async fn sink() -> Fallible<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(take_mails(stream));
        }
    });
    Ok(port)
}

async fn take_mails(stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (input, mut output) = stream.into_split();
    let mut lines = tokio::io::BufReader::new(input).lines();
    let mut in_mail = false;
    output.write_all(b"220 sink\r\n").await?;
    while let Some(line) = lines.next_line().await? {
        let answer: &[u8] = match (in_mail, line.get(..4).unwrap_or(&line)) {
            (true, ".") => {
                in_mail = false;
                b"250 2.0.0 Ok: queued as 4ZxYb21k3Lz\r\n"
            }
            (true, _) => continue,
            (false, "EHLO") => b"250-sink\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n",
            (false, "DATA") => {
                in_mail = true;
                b"354 go on\r\n"
            }
            (false, _) => b"250 2.0.0 OK\r\n",
        };
        output.write_all(answer).await?;
    }
    Ok(())
}

fn cpu_seconds() -> Fallible<f64> {
    /// Clock ticks a second (`getconf CLK_TCK`), the same on every Linux that this runs on.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / TICKS)
}

fn medians(figures: &[Figures]) -> Figures {
    (median(figures.iter().map(|figures| figures.0)), median(figures.iter().map(|figures| figures.1)))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^52")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

fn as_usize(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
