//! Secrets: fetched from where the configuration says, and never shown.

use std::{
    collections::HashSet,
    fs::File,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use secrecy::{ExposeSecret, SecretString};
use serde::Serializer;

use super::{AmqpConfig, BusConfig, BusUrl, Config, ProviderConfig, SmtpUrl, Sources};
use crate::model::{Channel, Problem};

/// Largest secret read, in bytes; a file beyond it is the wrong file.
const SECRET_LIMIT: u64 = 64 * 1024;
/// Permission bits that let everyone on the machine at a file.
const OTHERS: u32 = 0o007;
/// Where the values of these tables could be secrets, or contain them.
const SECRET_TABLES: [&str; 5] = ["auth", "admin.api_keys", "amqp", "bus", "provider"];

/// Which secrets are fetched, beside those of `auth.jwt.keys`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Secrets {
    #[default]
    All,
    /// The broker's password alone.
    Broker,
    /// The keys of the chat alone, whether or not it is on.
    Chat,
    None,
}

/// Fills in every secret, or says what keeps it from being used.
pub(super) fn resolve(config: &mut Config, sources: &Sources) -> Vec<Problem> {
    let keys = config.auth.jwt.keys.iter_mut().enumerate();
    let mut problems: Vec<Problem> = keys.filter_map(|(index, key)| key.resolve(index, sources).err()).collect();
    if matches!(sources.secrets, Secrets::All | Secrets::Broker) {
        match broker_password(&config.amqp, sources) {
            Ok(password) => config.amqp.password = password,
            Err(problem) => problems.push(problem),
        }
    }
    if matches!(sources.secrets, Secrets::All | Secrets::Chat) {
        problems.extend(config.chat.resolve(sources));
    }
    if sources.secrets == Secrets::All {
        problems.extend(resolve_bus(&mut config.bus, sources));
        problems.extend(resolve_providers(config, sources));
    }
    problems
}

/// Those of the bus, where it is one that asks for any.
fn resolve_bus(bus: &mut BusConfig, sources: &Sources) -> Vec<Problem> {
    let BusUrl::Redis(url) = &bus.url else { return Vec::new() };
    let password = Places::new("bus", "password", url.password.as_ref(), &bus.password_file, &bus.password_credential).fetch(sources);
    let sentinel = Places::new("bus", "sentinel_password", None, &bus.sentinel_password_file, &bus.sentinel_password_credential);
    let (problems, [password, sentinel_password]) = split([password, sentinel.fetch(sources)]);
    (bus.password, bus.sentinel_password) = (password, sentinel_password);
    problems
}

fn split(fetched: [Result<Option<SecretString>, Problem>; 2]) -> (Vec<Problem>, [Option<SecretString>; 2]) {
    let mut problems = Vec::new();
    let secrets = fetched.map(|fetched| {
        fetched.unwrap_or_else(|problem| {
            problems.push(problem);
            None
        })
    });
    (problems, secrets)
}

/// Those of the providers that carry a channel; the others' may be anything.
fn resolve_providers(config: &mut Config, sources: &Sources) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut fetch = |places: Places<'_>, needed: bool| match places.fetch(sources) {
        Ok(None) if needed => {
            problems.push(places.missing());
            None
        }
        Ok(secret) => secret,
        Err(problem) => {
            problems.push(problem);
            None
        }
    };
    let is_used = Channel::ALL.into_iter().flat_map(|channel| config.channel.get(channel).providers.clone()).collect::<HashSet<_>>();
    let ProviderConfig { sendgrid, smtp, twilio, fcm, .. } = &mut config.provider;
    if is_used.contains("sendgrid") {
        let places =
            Places::new("provider.sendgrid", "api_key", sendgrid.api_key.as_ref(), &sendgrid.api_key_file, &sendgrid.api_key_credential);
        sendgrid.key = fetch(places, true).unwrap_or_default();
    }
    if is_used.contains("smtp") {
        let written = smtp.url.as_ref().and_then(SmtpUrl::password);
        let needed = smtp.url.as_ref().is_some_and(|url| url.user().is_some());
        let places = Places::new("provider.smtp", "password", written.as_ref(), &smtp.password_file, &smtp.password_credential);
        smtp.password = fetch(places, needed);
    }
    if is_used.contains("twilio") {
        let has_key = twilio.api_key.is_some();
        let places = Places::new(
            "provider.twilio",
            "api_secret",
            twilio.api_secret.as_ref(),
            &twilio.api_secret_file,
            &twilio.api_secret_credential,
        );
        twilio.secret = fetch(places, has_key);
        let places = Places::new(
            "provider.twilio",
            "auth_token",
            twilio.auth_token.as_ref(),
            &twilio.auth_token_file,
            &twilio.auth_token_credential,
        );
        twilio.token = fetch(places, !has_key);
    }
    if is_used.contains("fcm") {
        let places = Places::new("provider.fcm", "service_account", None, &fcm.service_account_file, &fcm.service_account_credential);
        fcm.service_account = fetch(places, true).unwrap_or_default();
    }
    problems
}

/// The places one of a provider's secrets may be in.
struct Places<'a> {
    section: &'static str,
    name: &'static str,
    written: Option<&'a SecretString>,
    file: Option<&'a Path>,
    credential: Option<&'a str>,
}

impl<'a> Places<'a> {
    #[expect(clippy::ref_option, reason = "called with the fields as they are")]
    fn new(
        section: &'static str,
        name: &'static str,
        written: Option<&'a SecretString>,
        file: &'a Option<PathBuf>,
        credential: &'a Option<String>,
    ) -> Self {
        Self { section, name, written, file: file.as_deref(), credential: credential.as_deref() }
    }

    fn fetch(&self, sources: &Sources) -> Result<Option<SecretString>, Problem> {
        let Self { section, name, .. } = self;
        let (secret, place) = match (self.written, self.file, self.credential) {
            (None, None, None) => return Ok(None),
            (Some(written), None, None) => (written.clone(), format!("{section}.{name}")),
            // A password in a URL gives way, as the broker's does.
            (_, Some(file), None) if self.written.is_none() || *name == "password" => {
                let place = format!("{section}.{name}_file");
                (read_private(file, &place)?, place)
            }
            (_, None, Some(credential)) if self.written.is_none() || *name == "password" => {
                let place = format!("{section}.{name}_credential");
                (read_credential(credential, &place, sources)?, place)
            }
            _ => {
                let hint = format!("keep one of `{name}`, `{name}_file` and `{name}_credential`");
                return Err(Problem::new(*section, format!("has more than one `{name}`"), hint));
            }
        };
        if secret.expose_secret().trim().is_empty() {
            return Err(Problem::new(place, "the secret is empty", "put in what the provider's console gave you"));
        }
        Ok(Some(secret))
    }

    fn missing(&self) -> Problem {
        let Self { section, name, .. } = self;
        Problem::new(*section, format!("has no `{name}`"), format!("add one of `{name}_file` and `{name}_credential`"))
    }
}

/// How a secret is serialized: present, and nothing more.
#[expect(clippy::ref_option, reason = "serde's `serialize_with` calls it with the field")]
pub(super) fn masked<S: Serializer>(_: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("***")
}

/// serde's complaints quote the value they are about; where that could be a secret, the quote goes.
pub(super) fn without_quotes(problem: Problem) -> Problem {
    let secret = SECRET_TABLES.iter().any(|table| problem.path.starts_with(table));
    if secret && problem.problem.starts_with("invalid ") {
        return Problem { problem: "a value of the wrong kind".to_owned(), ..problem };
    }
    problem
}

/// `None` when the URL's own is to be used.
fn broker_password(amqp: &AmqpConfig, sources: &Sources) -> Result<Option<SecretString>, Problem> {
    match (&amqp.password_file, &amqp.password_credential) {
        (None, None) => Ok(None),
        (Some(file), None) => read_private(file, "amqp.password_file").map(Some),
        (None, Some(name)) => read_credential(name, "amqp.password_credential", sources).map(Some),
        (Some(_), Some(_)) => {
            Err(Problem::new("amqp", "has more than one password", "keep one of `password_file` and `password_credential`"))
        }
    }
}

pub(super) fn read_credential(name: &str, place: &str, sources: &Sources) -> Result<SecretString, Problem> {
    let file = credential(name, place, sources)?;
    Ok(read(&file, place, "check `LoadCredential=` in the unit and the credential's name")?.0)
}

fn credential(name: &str, place: &str, sources: &Sources) -> Result<PathBuf, Problem> {
    if name.is_empty() || name == "." || name == ".." || name.contains('/') {
        return Err(Problem::new(place, "not the name of a credential", "write the name alone, as in `LoadCredential=jwt:/etc/…`"));
    }
    match sources.env.iter().find(|(variable, _)| variable == "CREDENTIALS_DIRECTORY") {
        Some((_, directory)) => Ok(Path::new(directory).join(name)),
        None => Err(Problem::new(
            place,
            "there are no systemd credentials here: CREDENTIALS_DIRECTORY is not set",
            "run under systemd with `LoadCredential=`, or use `secret_file`",
        )),
    }
}

pub(super) fn read_private(file: &Path, place: &str) -> Result<SecretString, Problem> {
    let (secret, mode) = read(file, place, "check that the file exists and this user may read it")?;
    if mode & OTHERS != 0 {
        let problem = format!("everyone on this machine may use {} (mode {:o})", file.display(), mode & 0o777);
        return Err(Problem::new(place, problem, format!("chmod 600 {}", file.display())));
    }
    Ok(secret)
}

/// The secret in `file`, without the newline editors leave behind, and the file's mode.
pub(super) fn read(file: &Path, place: &str, hint: &str) -> Result<(SecretString, u32), Problem> {
    let refused = |what: &str| Problem::new(place, format!("{} {what}", file.display()), hint);
    let unreadable = |error: std::io::Error| refused(&format!("cannot be read: {error}"));
    let opened = File::open(file).map_err(unreadable)?;
    let mode = opened.metadata().map_err(unreadable)?.permissions().mode();
    let mut text = String::new();
    let length = opened.take(SECRET_LIMIT + 1).read_to_string(&mut text).map_err(unreadable)?;
    if length as u64 > SECRET_LIMIT {
        return Err(refused("is too large for a secret"));
    }
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    Ok((SecretString::from(secret.strip_suffix('\r').unwrap_or(secret)), mode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{load, tests::sources};

    const GOOD: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn secrets_are_shown_nowhere() {
        let text = format!("[[auth.jwt.keys]]\nalgorithm = \"HS256\"\nsecret = \"{GOOD}\"");
        let config = load(&sources(&text, &[])).unwrap();
        assert_eq!(config.auth.jwt.keys[0].secret().unwrap().expose_secret(), GOOD);
        let masked = config.to_toml_masked();
        assert!(masked.contains("secret = \"***\""), "{masked}");
        assert!(!masked.contains(GOOD), "{masked}");
        assert!(!format!("{config:?}").contains(GOOD));
    }

    #[test]
    fn secrets_of_the_wrong_kind_are_not_quoted() {
        for text in ["keys = [{ algorithm = \"HS256\", secret = 271828182 }]", "keys = \"271828182\"", "keys = [271828182]"] {
            let problems = load(&sources(&format!("[auth.jwt]\n{text}"), &[])).unwrap_err();
            assert_eq!(problems.len(), 1);
            assert!(!format!("{problems:?}").contains("271828182"), "{problems:?}");
        }
    }
}
