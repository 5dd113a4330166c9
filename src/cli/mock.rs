//! `tarishi mock`: the providers' clouds on this machine, and what a daemon has to be told to send to them.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    net::SocketAddr,
    ops::ControlFlow,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::json;
use tokio::sync::mpsc;
use toml::{Table, Value};

use super::{
    failure::{Exit, Failure},
    output::{self, Paint},
    serve::{self, Stop},
};
use crate::{
    config::reachable,
    mock::{BoundMock, DEFAULT_KEEP, Mock, MockCredentials, MockSettings, Script, Seen},
    model::mask,
};

/// Where the service account goes unless told otherwise; Git does not see the folder of `tarishi dev`.
pub const SERVICE_ACCOUNT_FILE: &str = "var/mock-service-account.json";
/// One of Twilio's numbers for trials (twilio.com/docs/iam/test-credentials).
const FROM_NUMBER: &str = "+15005550006";
const FROM_EMAIL: &str = "tarishi@example.com";
/// Lines that wait to be printed. When nobody reads them, the mock waits too.
const LINES_LIMIT: usize = 1_000;

const AFTER_HELP: &str = "\
Examples:
  tarishi mock
  tarishi mock --webhooks                       every message gets its usual callbacks
  tarishi mock --script faults.toml --json
  tarishi dev --mock                            a daemon and its mock with one command
  curl -sS http://127.0.0.1:8090/mock/requests

It answers as SendGrid, Twilio and FCM would, holds every request against their published specifications, and sends nothing to anybody. At start it prints what a daemon's configuration needs. What it was sent is at /mock/requests, how often at /mock/counts; PUT /mock/script changes what it does while it runs. A script is a list of rules:

  [[rule]]
  provider = \"twilio\"            # sendgrid, twilio, fcm, token
  to = \"+2557*\"                  # one recipient, or all that begin like this
  times = 3                      # then the rule is used up
  answer = { status = 429, retry_after = \"5\" }

All answers: docs/mock.md.

Exit codes: 0 stopped as asked, 1 failed, 3 problems in the script.";

#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct MockArgs {
    /// IP address and port to answer on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// TOML file of rules: which requests are answered otherwise than they deserve
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Where SendGrid's events go; Twilio is told with each message
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000/webhooks/sendgrid", value_parser = web_url)]
    webhook_url: String,
    /// Call back about every accepted message: processed and delivered, sent and delivered
    #[arg(long)]
    webhooks: bool,
    /// Requests kept for /mock/requests; with 0 there are only counts
    #[arg(long, value_name = "N", default_value_t = DEFAULT_KEEP)]
    keep: usize,
    /// Where to write the service account for provider.fcm, for this user alone
    #[arg(long, value_name = "FILE", default_value = SERVICE_ACCOUNT_FILE)]
    service_account: PathBuf,
    /// Print JSON Lines
    #[arg(long)]
    json: bool,
}

fn web_url(text: &str) -> Result<String, String> {
    let url: reqwest::Url = text.parse().map_err(|error| format!("{error}; write one like http://127.0.0.1:8000/webhooks/sendgrid"))?;
    if matches!(url.scheme(), "http" | "https") { Ok(text.to_owned()) } else { Err("write one with http:// or https://".to_owned()) }
}

pub fn run(args: &MockArgs) -> Result<(), Failure> {
    let script = args.script.as_deref().map(read_script).transpose()?.unwrap_or_default();
    let (seen, lines) = mpsc::channel(LINES_LIMIT);
    let settings = MockSettings {
        listen: args.listen,
        script,
        webhooks: args.webhooks,
        webhook_url: Some(args.webhook_url.clone()),
        keep: args.keep,
        seen: Some(seen),
    };
    let bound = bind(settings)?;
    write_service_account(&args.service_account, bound.credentials())?;
    let told = told(args, &bound);
    serve::until_stopped(|stop| answer(bound, told, lines, args.json, stop))
}

/// Makes a mock that does not answer yet.
pub fn bind(settings: MockSettings) -> Result<BoundMock, Failure> {
    let listen = settings.listen;
    BoundMock::new(settings).map_err(|error| {
        let hint = "is another mock running? choose another port, or 0 for a free one";
        Failure::new(Exit::Failed, format!("the mock cannot listen on {listen}: {error}"), hint)
    })
}

/// Lets it answer, and prints what it is asked, until the end or until nobody reads any more.
async fn answer(bound: BoundMock, told: String, lines: mpsc::Receiver<Seen>, json: bool, stop: Stop) -> Result<(), Failure> {
    let mock = serve(bound)?;
    output::print(&told)?;
    let reading = tokio::task::spawn_blocking(move || print_lines(lines, json));
    tokio::select! {
        () = stop.shutdown.cancelled() => {}
        ended = reading => ended.map_err(|error| Failure::new(Exit::Failed, error.to_string(), ""))??,
    }
    mock.stop().await;
    Ok(())
}

pub fn serve(bound: BoundMock) -> Result<Mock, Failure> {
    bound.serve().map_err(|error| Failure::new(Exit::Failed, format!("the mock cannot start: {error}"), ""))
}

fn print_lines(mut lines: mpsc::Receiver<Seen>, json: bool) -> Result<(), Failure> {
    let paint = Paint::stdout();
    while let Some(seen) = lines.blocking_recv() {
        if let ControlFlow::Break(()) = output::print_to_reader(&if json { json_line(&seen) } else { line(&seen, paint) })? {
            break;
        }
    }
    Ok(())
}

/// `12:00:01.250 sendgrid a***@e***.com 202 accepted`.
fn line(seen: &Seen, paint: Paint) -> String {
    let time = seen.at.to_string();
    let time = time.split_once('T').map_or(time.as_str(), |(_, time)| time).trim_end_matches('Z');
    let status = seen.answered.status.map_or_else(|| "-".to_owned(), |status| status.to_string());
    let taken = match (&seen.refused, seen.accepted) {
        (Some(why), _) => paint.red(&format!("refused: {}", output::safe(why))),
        (None, true) => paint.green("accepted"),
        // Asked about the credentials, or sent for validation only.
        (None, false) if seen.answered.fault.is_none() => "answered".to_owned(),
        (None, false) => paint.yellow("not accepted"),
    };
    let fault = seen.answered.fault.as_ref().map(|fault| format!(" ({fault})")).unwrap_or_default();
    let to = if seen.to.is_empty() { output::safe(&seen.path) } else { output::safe(&masked(&seen.to)) };
    format!("{} {:<8} {to} {status} {taken}{fault}", paint.dim(&format!("{time:<12}")), seen.provider.as_str())
}

fn json_line(seen: &Seen) -> String {
    json!({
        "at": seen.at,
        "provider": seen.provider,
        "path": seen.path,
        "to": masked(&seen.to),
        "status": seen.answered.status,
        "fault": seen.answered.fault,
        "accepted": seen.accepted,
        "refused": seen.refused,
    })
    .to_string()
}

fn masked(to: &str) -> String {
    to.split(", ").map(mask).collect::<Vec<_>>().join(", ")
}

/// What is said at start: where it is, and what to paste.
fn told(args: &MockArgs, bound: &BoundMock) -> String {
    let address = reachable(bound.address());
    let configuration = configuration(address, bound.credentials(), &args.service_account);
    if args.json {
        return json!({ "listening": format!("http://{address}"), "configuration": nested(configuration) }).to_string();
    }
    let paint = Paint::stdout();
    [
        format!("{} on {}", paint.green("the mock answers"), paint.cyan(&format!("http://{address}"))),
        paint.dim("what it was sent: /mock/requests; how often: /mock/counts; Ctrl-C stops it"),
        String::new(),
        "# In the configuration of the daemon; the keys are made anew with every start.".to_owned(),
        nested(configuration).to_string(),
    ]
    .join("\n")
}

/// What a daemon's configuration needs to send to a mock at `address`: key paths and their values.
pub fn configuration(address: SocketAddr, credentials: &MockCredentials, service_account: &Path) -> Vec<(String, Value)> {
    let base_url = format!("http://{address}");
    let list = |one: &str| Value::Array(vec![one.into()]);
    let text = |text: &str| Value::from(text);
    [
        ("channel.email.providers", list("sendgrid")),
        ("channel.sms.providers", list("twilio")),
        ("channel.push.providers", list("fcm")),
        ("provider.sendgrid.api_key", text(&credentials.sendgrid_api_key)),
        ("provider.sendgrid.base_url", text(&base_url)),
        ("provider.sendgrid.from", text(FROM_EMAIL)),
        ("provider.sendgrid.webhook_public_key", text(&credentials.sendgrid_webhook_public_key)),
        ("provider.twilio.account_sid", text(&credentials.twilio_account_sid)),
        ("provider.twilio.api_key", text(&credentials.twilio_api_key)),
        ("provider.twilio.api_secret", text(&credentials.twilio_api_secret)),
        ("provider.twilio.auth_token", text(&credentials.twilio_auth_token)),
        ("provider.twilio.from", text(FROM_NUMBER)),
        ("provider.twilio.allowed_prefixes", list("+")),
        ("provider.twilio.base_url", text(&base_url)),
        ("provider.fcm.service_account_file", text(&service_account.display().to_string())),
        ("provider.fcm.base_url", text(&base_url)),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// Key paths as tables.
fn nested(configuration: Vec<(String, Value)>) -> Table {
    let mut tables = Table::new();
    for (path, value) in configuration {
        let mut steps: Vec<&str> = path.split('.').collect();
        let last = steps.pop().unwrap_or_default().to_owned();
        let mut at = &mut tables;
        for step in steps {
            let next = at.entry(step).or_insert_with(|| Value::Table(Table::new()));
            at = next.as_table_mut().expect("a key is a table or a value, not both");
        }
        at.insert(last, value);
    }
    tables
}

/// Reads a script, or tells everything that is wrong with it.
fn read_script(file: &Path) -> Result<Script, Failure> {
    let text = fs::read_to_string(file).map_err(|error| Failure::unreadable(file, &error))?;
    let shown = file.display().to_string();
    Script::from_toml(&text, &shown).map_err(|problems| Failure::configuration(&format!("the script {shown}"), problems))
}

/// Writes the service account where a daemon can read it, and no other user.
pub fn write_service_account(file: &Path, credentials: &MockCredentials) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        let hint = "run it where this user may write, or name another file with --service-account";
        Failure::new(Exit::Failed, format!("{} cannot be written: {error}", file.display()), hint)
    };
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file).map_err(failed)?;
    // One that was there before keeps the mode it had.
    opened.set_permissions(fs::Permissions::from_mode(0o600)).map_err(failed)?;
    opened.write_all(credentials.service_account_json.as_bytes()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        mock::{Answered, Provider},
        model::Timestamp,
    };

    fn seen() -> Seen {
        Seen {
            at: "2026-01-15T10:30:00.25Z".parse::<Timestamp>().unwrap(),
            provider: Provider::Sendgrid,
            path: "/v3/mail/send".to_owned(),
            to: "asha@example.com, juma@example.org".to_owned(),
            answered: Answered { status: Some(202), fault: None },
            accepted: true,
            refused: None,
        }
    }

    #[test]
    fn lines_name_nobody() {
        assert_eq!(line(&seen(), Paint::OFF), "10:30:00.250 sendgrid a***@e***.com, j***@e***.org 202 accepted");
        let reset = Answered { status: None, fault: Some("reset_after".to_owned()) };
        assert_eq!(
            line(&Seen { answered: reset, ..seen() }, Paint::OFF),
            "10:30:00.250 sendgrid a***@e***.com, j***@e***.org - accepted (reset_after)"
        );
        let refused = Some("no API key".to_owned());
        let answered = Answered { status: Some(401), fault: None };
        let refused = Seen { to: String::new(), answered, accepted: false, refused, ..seen() };
        assert_eq!(line(&refused, Paint::OFF), "10:30:00.250 sendgrid /v3/mail/send 401 refused: no API key");
        assert!(!json_line(&seen()).contains("asha"));
    }

    #[test]
    fn the_service_account_is_for_this_user_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("var/account.json");
        let credentials = |text: &str| MockCredentials {
            sendgrid_api_key: String::new(),
            sendgrid_webhook_public_key: String::new(),
            twilio_account_sid: String::new(),
            twilio_api_key: String::new(),
            twilio_api_secret: String::new(),
            twilio_auth_token: String::new(),
            fcm_project: String::new(),
            service_account_json: text.to_owned(),
        };
        write_service_account(&file, &credentials("longer than the next")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        write_service_account(&file, &credentials("{}")).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "{}");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let tables = nested(configuration("127.0.0.1:8090".parse().unwrap(), &credentials(""), &file));
        assert_eq!(tables["provider"]["fcm"]["service_account_file"].as_str(), Some(file.display().to_string().as_str()));
        assert_eq!(tables["provider"]["twilio"]["base_url"].as_str(), Some("http://127.0.0.1:8090"));
        assert_eq!(tables["channel"]["push"]["providers"].as_array().unwrap()[0].as_str(), Some("fcm"));
        let pasted: Table = tables.to_string().parse().unwrap();
        assert_eq!(pasted, tables);
    }
}
