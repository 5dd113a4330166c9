//! Which variable becomes which key. Values are looked at before they are used, so that what is written is taken by `tarishi check`.

use std::path::{Path, PathBuf};

use reqwest::Url;
use secrecy::SecretString;
use toml::{Table, Value};

use super::file::Variables;
use crate::{
    config::{BusUrl, is_loopback, mailbox},
    model::{PhoneNumber, Problem},
};

/// What the daemon takes of a JWT secret, in bytes (RFC 7518, section 3.2, for HS256).
const JWT_SECRET_LEAST: usize = 32;
/// Every variable that is read.
const READ: [&str; 20] = [
    "SENDGRID_API_KEY",
    "SENDGRID_FROM_EMAIL",
    "DEFAULT_FROM_EMAIL",
    "EMAIL_HOST",
    "EMAIL_PORT",
    "EMAIL_HOST_USER",
    "EMAIL_HOST_PASSWORD",
    "EMAIL_USE_SSL",
    "EMAIL_USE_TLS",
    "TWILIO_ACCOUNT_SID",
    "TWILIO_AUTH_TOKEN",
    "TWILIO_PHONE_NUMBER",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "FIREBASE_CREDENTIALS_PATH",
    "FIREBASE_CREDENTIALS_FILE",
    "FIREBASE_CREDENTIALS",
    "SECRET_KEY",
    "MESSAGE_ENCRYPTION_KEY",
    "FRONTEND_URL",
    "REDIS_URL",
];
const IMPLICIT_TLS_PORT: u16 = 465;
const PLAIN_PORT: u16 = 25;
const FIREBASE: [&str; 4] =
    ["GOOGLE_APPLICATION_CREDENTIALS", "FIREBASE_CREDENTIALS_PATH", "FIREBASE_CREDENTIALS_FILE", "FIREBASE_CREDENTIALS"];

/// Where a variable went.
pub struct Moved {
    pub variable: &'static str,
    pub key: String,
    /// Where its value is, when it is a secret.
    pub file: Option<PathBuf>,
}

/// What is to be written, and what there is to tell.
pub struct Plan {
    pub config_file: PathBuf,
    pub config: String,
    pub secrets: Vec<(PathBuf, SecretString)>,
    pub moves: Vec<Moved>,
    /// Variables that were not there, and what that means.
    pub missing: Vec<(&'static str, &'static str)>,
    pub notes: Vec<String>,
    /// Variables that are there with nothing in them.
    pub blank: Vec<&'static str>,
    /// Variables that mean nothing alone, and what they go with.
    pub useless: Vec<(&'static str, &'static str)>,
}

struct Translation<'a> {
    variables: &'a Variables,
    out: &'a Path,
    prefixes: &'a [String],
    root: Table,
    plan: Plan,
    problems: Vec<Problem>,
}

/// The plan for these variables, with its files in `out`. `prefixes` are what phone numbers may begin with.
///
/// # Errors
/// Values that cannot be used; they are named, not shown.
pub fn translate(variables: &Variables, out: &Path, prefixes: &[String]) -> Result<Plan, Vec<Problem>> {
    let plan = Plan {
        config_file: out.join("tarishi.toml"),
        config: String::new(),
        secrets: Vec::new(),
        moves: Vec::new(),
        missing: Vec::new(),
        notes: Vec::new(),
        blank: READ.into_iter().filter(|name| variables.is_blank(name)).collect(),
        useless: Vec::new(),
    };
    let mut translation = Translation { variables, out, prefixes, root: Table::new(), plan, problems: Vec::new() };
    translation.email();
    translation.sms();
    translation.push();
    translation.users();
    translation.places();
    translation.finish()
}

impl Translation<'_> {
    fn set(&mut self, key: &str, value: impl Into<Value>) {
        let mut table = &mut self.root;
        let mut parts = key.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                table.insert(part.to_owned(), value.into());
                return;
            }
            let inner = table.entry(part).or_insert_with(|| Value::Table(Table::new()));
            let Value::Table(inner) = inner else { return };
            table = inner;
        }
    }

    fn moved(&mut self, variable: &'static str, key: &str, value: impl Into<Value>) {
        self.set(key, value);
        self.plan.moves.push(Moved { variable, key: key.to_owned(), file: None });
    }

    /// Puts a secret into a file of its own; gives where that is.
    fn keep(&mut self, variable: &'static str, key: &str, name: &str, secret: &str) -> String {
        let file = self.out.join("secrets").join(name);
        let path = file.display().to_string();
        self.plan.secrets.push((file.clone(), secret.into()));
        self.plan.moves.push(Moved { variable, key: key.to_owned(), file: Some(file) });
        path
    }

    fn moved_secret(&mut self, variable: &'static str, key: &str, name: &str, secret: &str) {
        let path = self.keep(variable, key, name, secret);
        self.set(key, path);
    }

    fn wrong(&mut self, variable: &str, problem: &str, hint: &str) {
        self.problems.push(Problem::new(variable, problem, hint));
    }

    fn is_true(&self, name: &str) -> bool {
        self.variables.get(name).is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on"))
    }

    /// The sender of mail, whatever it is called there.
    fn sender(&mut self) -> Option<(&'static str, String)> {
        let (variable, from) = ["SENDGRID_FROM_EMAIL", "DEFAULT_FROM_EMAIL"]
            .into_iter()
            .find_map(|name| Some((name, self.variables.get(name)?.to_owned())))?;
        if mailbox(&from).is_err() {
            self.wrong(variable, "not a sender of mail", "write it like hello@example.com or Tarishi <hello@example.com>");
            return None;
        }
        Some((variable, from))
    }

    fn email(&mut self) {
        let sender = self.sender();
        let mut providers = Vec::new();
        if let Some(key) = self.variables.get("SENDGRID_API_KEY") {
            self.moved_secret("SENDGRID_API_KEY", "provider.sendgrid.api_key_file", "sendgrid.key", key);
            if let Some((variable, from)) = &sender {
                self.moved(variable, "provider.sendgrid.from", from.clone());
                providers.push(Value::from("sendgrid"));
            }
        } else {
            self.plan.missing.push(("SENDGRID_API_KEY", "no mail through SendGrid"));
        }
        if let Some(host) = self.variables.get("EMAIL_HOST") {
            let is_set_up = self.mail_server(host);
            if let Some((variable, from)) = sender.as_ref().filter(|_| is_set_up) {
                self.moved(variable, "provider.smtp.from", from.clone());
                providers.push(Value::from("smtp"));
            }
        }
        if let Some((variable, _)) = sender.as_ref().filter(|_| providers.is_empty() && self.problems.is_empty()) {
            self.plan.useless.push((variable, "it is a sender of mail: bring SENDGRID_API_KEY or EMAIL_HOST too"));
            self.plan.notes.push(format!("{variable} is there, and neither SENDGRID_API_KEY nor EMAIL_HOST: mail stays in the outbox"));
        }
        if sender.is_none() && self.problems.is_empty() {
            self.plan.missing.push(("DEFAULT_FROM_EMAIL", "mail has no sender, and stays in the outbox"));
        }
        if !providers.is_empty() {
            self.set("channel.email.providers", providers);
        }
    }

    /// Whether it can be used.
    fn mail_server(&mut self, host: &str) -> bool {
        let is_implicit = self.is_true("EMAIL_USE_SSL");
        if is_implicit && self.is_true("EMAIL_USE_TLS") {
            let hint = "Django takes one of them: EMAIL_USE_SSL for TLS from the first byte (port 465), EMAIL_USE_TLS for STARTTLS (587)";
            self.wrong("EMAIL_USE_SSL", "on, and so is EMAIL_USE_TLS", hint);
            return false;
        }
        let Some(port) = self.mail_port(is_implicit) else { return false };
        let scheme = if is_implicit { "smtps" } else { "smtp" };
        let Some(mut url) = Url::parse(&format!("{scheme}://{host}:{port}")).ok().filter(|url| is_host_alone(url, port)) else {
            self.wrong("EMAIL_HOST", "no mail server's name", "write the name alone, like mail.example.com");
            return false;
        };
        let user = self.variables.get("EMAIL_HOST_USER").map(str::to_owned);
        let password = self.variables.get("EMAIL_HOST_PASSWORD").map(str::to_owned);
        match (&user, &password) {
            (Some(user), Some(password)) => {
                let _ = url.set_username(user);
                self.plan.moves.push(Moved { variable: "EMAIL_HOST_USER", key: "provider.smtp.url".to_owned(), file: None });
                self.moved_secret("EMAIL_HOST_PASSWORD", "provider.smtp.password_file", "smtp.password", password);
            }
            (Some(_), None) => {
                self.wrong("EMAIL_HOST_PASSWORD", "missing, and EMAIL_HOST_USER is there", "add it, or take EMAIL_HOST_USER out");
                return false;
            }
            (None, _) => {}
        }
        if !is_implicit && !self.is_true("EMAIL_USE_TLS") {
            if is_loopback(host) && user.is_none() {
                self.set("provider.smtp.tls", "none");
            } else {
                let note =
                    "EMAIL_USE_TLS was off; here TLS is required of every mail server that is not on this machine (provider.smtp.tls)";
                self.plan.notes.push(note.to_owned());
            }
        }
        self.moved("EMAIL_HOST", "provider.smtp.url", url.as_str().trim_end_matches('/'));
        true
    }

    /// Django's is 25 whatever the TLS; nobody speaks TLS from the first byte there.
    fn mail_port(&mut self, is_implicit: bool) -> Option<u16> {
        match self.variables.get("EMAIL_PORT").map(str::parse::<u16>) {
            Some(Ok(port)) if port > 0 => Some(port),
            Some(_) => {
                self.wrong("EMAIL_PORT", "no port", "a number from 1 to 65535, such as 587");
                None
            }
            None if is_implicit => {
                let note =
                    format!("EMAIL_USE_SSL is on without EMAIL_PORT: port {IMPLICIT_TLS_PORT} is taken, where Django takes {PLAIN_PORT}");
                self.plan.notes.push(note);
                Some(IMPLICIT_TLS_PORT)
            }
            None => Some(PLAIN_PORT),
        }
    }

    fn sms(&mut self) {
        let Some(account) = self.variables.get("TWILIO_ACCOUNT_SID").map(str::to_owned) else {
            self.plan.missing.push(("TWILIO_ACCOUNT_SID", "no SMS through Twilio"));
            return;
        };
        let is_sid = account.strip_prefix("AC").is_some_and(|rest| rest.len() == 32 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if !is_sid {
            self.wrong("TWILIO_ACCOUNT_SID", "not the SID of an account", "AC and 32 hexadecimal digits, as Twilio's console shows it");
            return;
        }
        self.moved("TWILIO_ACCOUNT_SID", "provider.twilio.account_sid", account);
        let token = self.variables.get("TWILIO_AUTH_TOKEN").map(str::to_owned);
        match &token {
            Some(token) => self.moved_secret("TWILIO_AUTH_TOKEN", "provider.twilio.auth_token_file", "twilio.token", token),
            None => self.plan.missing.push(("TWILIO_AUTH_TOKEN", "no SMS through Twilio")),
        }
        let number = self.variables.get("TWILIO_PHONE_NUMBER").map(str::to_owned);
        match &number {
            Some(number) if number.parse::<PhoneNumber>().is_ok() => {
                self.moved("TWILIO_PHONE_NUMBER", "provider.twilio.from", number.clone());
            }
            Some(_) => self.wrong("TWILIO_PHONE_NUMBER", "not a phone number", "write it like +255712345678"),
            None => self.plan.missing.push(("TWILIO_PHONE_NUMBER", "SMS have no sender, and stay in the outbox")),
        }
        if self.prefixes.is_empty() {
            let note = "SMS stay in the outbox until `provider.twilio.allowed_prefixes` says what phone numbers may begin with; run this \
                        again with --sms-prefix +255, or set it and `channel.sms.providers = [\"twilio\"]`";
            self.plan.notes.push(note.to_owned());
        } else if token.is_some() && number.is_some() {
            let prefixes: Vec<Value> = self.prefixes.iter().map(|prefix| Value::from(prefix.as_str())).collect();
            self.set("provider.twilio.allowed_prefixes", prefixes);
            self.set("channel.sms.providers", vec![Value::from("twilio")]);
        }
    }

    fn push(&mut self) {
        let given = FIREBASE.into_iter().find_map(|name| Some((name, self.variables.get(name)?.to_owned())));
        let Some((variable, given)) = given else {
            self.plan.missing.push((FIREBASE[0], "no push through Firebase"));
            return;
        };
        // Some keep the document itself in the variable.
        let text = if given.starts_with('{') { Ok(given) } else { std::fs::read_to_string(&given) };
        let is_account = |text: &str| {
            let document: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
            ["project_id", "client_email", "private_key"].iter().all(|member| document[*member].is_string())
        };
        match text {
            Ok(text) if is_account(&text) => {
                self.moved_secret(variable, "provider.fcm.service_account_file", "firebase.json", text.trim());
                self.set("channel.push.providers", vec![Value::from("fcm")]);
            }
            Ok(_) => self.wrong(variable, "leads to no service account", "the JSON file that the Firebase console makes"),
            Err(error) => self.wrong(variable, &format!("the file cannot be read: {error}"), "run this where the file is, or copy it here"),
        }
    }

    fn users(&mut self) {
        match self.variables.get("SECRET_KEY").map(str::to_owned) {
            Some(secret) if secret.len() >= JWT_SECRET_LEAST => {
                let file = self.keep("SECRET_KEY", "auth.jwt.keys[0].secret_file", "jwt.secret", &secret);
                let key = Table::from_iter([("algorithm".to_owned(), Value::from("HS256")), ("secret_file".to_owned(), Value::from(file))]);
                self.set("auth.jwt.keys", vec![Value::Table(key)]);
            }
            Some(_) => {
                let hint = format!("sign tokens with a longer one there (SIMPLE_JWT's SIGNING_KEY): at least {JWT_SECRET_LEAST} bytes");
                self.wrong("SECRET_KEY", "too short to sign tokens with", &hint);
            }
            None => self.plan.missing.push(("SECRET_KEY", "nobody can sign in: add a key under auth.jwt.keys")),
        }
        match self.variables.get("MESSAGE_ENCRYPTION_KEY").map(str::to_owned) {
            Some(key) if fernet::Fernet::new(&key).is_some() => {
                self.moved_secret("MESSAGE_ENCRYPTION_KEY", "chat.encryption_keys_file", "chat.keys", &key);
                let note = "the chat goes on with the key it had, which opens what `tarishi chat import` brings; `tarishi chat new-key` and \
                            `tarishi chat rotate-keys` change it later";
                self.plan.notes.push(note.to_owned());
            }
            Some(_) => {
                self.wrong(
                    "MESSAGE_ENCRYPTION_KEY",
                    "not a Fernet key",
                    "44 characters of URL-safe Base64, as Fernet.generate_key() makes",
                );
            }
            None => self.plan.missing.push(("MESSAGE_ENCRYPTION_KEY", "no chat; `tarishi chat new-key` makes a key")),
        }
    }

    fn places(&mut self) {
        match self.variables.get("FRONTEND_URL").map(str::to_owned) {
            Some(text) => match Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
                Some(url) if is_one_site(&url) => {
                    self.moved("FRONTEND_URL", "templates.link_base_url", text.trim_end_matches('/'));
                    self.moved("FRONTEND_URL", "public.allowed_origins", vec![Value::from(url.origin().ascii_serialization())]);
                }
                _ => self.wrong("FRONTEND_URL", "not the http(s) address of one site", "write it like https://app.example.com"),
            },
            None => self.plan.missing.push(("FRONTEND_URL", "links in messages lead to http://127.0.0.1:3000")),
        }
        let Some(text) = self.variables.get("REDIS_URL").map(str::to_owned) else {
            self.plan.missing.push(("REDIS_URL", "nothing, for one daemon; several need a bus"));
            return;
        };
        let Some(mut url) = Url::parse(&text).ok().filter(|_| text.parse::<BusUrl>().is_ok_and(|url| url != BusUrl::Memory)) else {
            self.wrong("REDIS_URL", "not the URL of a Redis", "write it like redis://user@host:6379/0");
            return;
        };
        if let Some(password) =
            url.password().map(|password| percent_encoding::percent_decode_str(password).decode_utf8_lossy().into_owned())
        {
            let _ = url.set_password(None);
            self.moved_secret("REDIS_URL", "bus.password_file", "redis.password", &password);
        }
        self.moved("REDIS_URL", "bus.url", url.to_string());
    }

    fn finish(mut self) -> Result<Plan, Vec<Problem>> {
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        for name in READ {
            if let Some(line) = self.variables.repeated.get(name) {
                self.plan.notes.push(format!("{name} is there more than once: line {line} counts"));
            }
        }
        let tables = toml::to_string(&self.root).unwrap_or_default();
        self.plan.config = format!(
            "# Made by `tarishi import-env`. Every key and its meaning: `tarishi schema config`, or config/default.toml.\n\n{tables}"
        );
        Ok(self.plan)
    }
}

/// Whether `url` names a host and `port` and nothing else.
fn is_host_alone(url: &Url, port: u16) -> bool {
    let is_bare = url.query().is_none() && url.fragment().is_none() && url.username().is_empty() && url.password().is_none();
    is_bare && url.port() == Some(port) && url.has_host() && matches!(url.path(), "" | "/")
}

/// Whether `url` is the address of a site and nothing else: no list of several, no password.
fn is_one_site(url: &Url) -> bool {
    let is_bare = url.query().is_none() && url.fragment().is_none() && url.username().is_empty() && url.password().is_none();
    is_bare && !url.as_str().contains([',', ' '])
}
