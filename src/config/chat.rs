//! `[chat]`: what conversations may be like, and the keys their messages are sealed with.

use std::{collections::HashSet, fmt, path::PathBuf, str::FromStr, time::Duration};

use bytesize::ByteSize;
use fernet::Fernet;
use reqwest::Url;
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::{
    Secrets, Sources,
    check::Found,
    secret::{read_credential, read_private},
    units,
};
use crate::model::{Channel, Problem};

/// Longest text one message may be allowed, in characters: with its attachments it has to fit the largest frame.
const MESSAGE_LIMIT_MOST: u64 = 16_000;
/// Attachments one message may be allowed.
const ATTACHMENTS_LIMIT_MOST: u64 = 100;
/// Participants one conversation may be allowed: each message is a row's change for each of them.
const PARTICIPANTS_LIMIT_MOST: u64 = 1000;
/// The hook is asked while the sender waits.
const HOOK_TIMEOUT_MOST: Duration = Duration::from_secs(30);
const KEY_HINT: &str = "make one with `tarishi chat new-key`";

/// Conversations.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct ChatConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption_keys_file: Option<PathBuf>,
    /// Name of a file in systemd's `$CREDENTIALS_DIRECTORY`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption_keys_credential: Option<String>,
    /// Fernet keys, wherever they came from; the first seals, all of them open. Filled in by [`super::load`].
    #[serde(skip)]
    pub encryption_keys: Vec<SecretString>,
    /// Characters.
    pub message_limit: usize,
    /// Of one connection.
    pub messages_burst: u32,
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub messages_window: Duration,
    /// Of one user, over all connections.
    pub user_messages_burst: u32,
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub user_messages_window: Duration,
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub typing_interval: Duration,
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub typing_expiry: Duration,
    #[schemars(with = "Vec<String>")]
    pub attachment_hosts: Vec<AttachmentHost>,
    /// `type/subtype` or `type/*`; lower case once loaded.
    pub attachment_types: Vec<String>,
    #[serde(with = "units::size")]
    #[schemars(with = "String")]
    pub attachment_size_limit: ByteSize,
    pub attachments_limit: usize,
    pub participants_limit: usize,
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub notify_after: Duration,
    /// None: no notices.
    pub notify_channels: Vec<Channel>,
    /// Events told again after a reconnect, at most.
    pub replay_limit: u32,
    pub hook: ChatHookConfig,
}

/// Who is asked before a message is stored.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct ChatHookConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    pub on_failure: OnHookFailure,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// Name of a file in systemd's `$CREDENTIALS_DIRECTORY`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_credential: Option<String>,
    /// What requests are signed with, wherever it came from; filled in by [`super::load`].
    #[serde(skip)]
    pub secret: Option<SecretString>,
}

/// What becomes of a message when the hook does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnHookFailure {
    /// It goes through.
    Open,
    /// It is refused.
    Closed,
}

impl ChatConfig {
    /// Whether there is a chat: unless it is said otherwise, where there are keys.
    pub fn is_on(&self) -> bool {
        self.enabled.unwrap_or_else(|| self.has_keys())
    }

    /// Whether there is a place for keys, whatever is in it.
    pub fn has_keys(&self) -> bool {
        self.encryption_keys_file.is_some() || self.encryption_keys_credential.is_some()
    }

    /// The one form in which `url` is stored, when attachments may be there.
    pub fn attachment_url(&self, url: &str) -> Option<String> {
        let url = Url::parse(url).ok()?;
        self.attachment_hosts.iter().any(|host| host.holds(&url)).then(|| url.into())
    }

    /// Whether attachments may be of this media type. Parameters, such as a character set, do not matter.
    pub fn takes_type(&self, media_type: &str) -> bool {
        let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let Some((kind, _)) = essence.split_once('/').filter(|_| is_media_type(&essence)) else { return false };
        self.attachment_types.iter().any(|taken| *taken == essence || taken.strip_suffix("/*") == Some(kind))
    }

    /// Fetches what is secret, or says what keeps it from being used.
    pub(super) fn resolve(&mut self, sources: &Sources) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.is_on() || sources.secrets == Secrets::Chat {
            match self.read_keys(sources) {
                Ok(keys) => self.encryption_keys = keys,
                Err(found) => problems.extend(found),
            }
        }
        if self.is_on() && sources.secrets == Secrets::All {
            match self.hook.read_secret(sources) {
                Ok(secret) => self.hook.secret = secret,
                Err(found) => problems.push(found),
            }
        }
        problems
    }

    fn read_keys(&self, sources: &Sources) -> Result<Vec<SecretString>, Vec<Problem>> {
        let one = |problem| vec![problem];
        match (&self.encryption_keys_file, &self.encryption_keys_credential) {
            // Told by the check.
            (Some(_), Some(_)) => Ok(Vec::new()),
            (None, None) if sources.secrets == Secrets::Chat => Ok(Vec::new()),
            (None, None) => {
                let hint = "run `tarishi chat new-key` and name its file in `chat.encryption_keys_file`, or set `chat.enabled = false`";
                Err(one(Problem::new("chat", "is on, and there is no key to seal messages with", hint)))
            }
            (Some(file), None) => {
                const PLACE: &str = "chat.encryption_keys_file";
                keys_of(&read_private(file, PLACE).map_err(one)?, PLACE)
            }
            (None, Some(name)) => {
                const PLACE: &str = "chat.encryption_keys_credential";
                keys_of(&read_credential(name, PLACE, sources).map_err(one)?, PLACE)
            }
        }
    }
}

impl ChatHookConfig {
    fn read_secret(&self, sources: &Sources) -> Result<Option<SecretString>, Problem> {
        let (secret, place) = match (&self.secret_file, &self.secret_credential) {
            (None, None) | (Some(_), Some(_)) => return Ok(None),
            (Some(file), None) => (read_private(file, "chat.hook.secret_file")?, "chat.hook.secret_file"),
            (None, Some(name)) => (read_credential(name, "chat.hook.secret_credential", sources)?, "chat.hook.secret_credential"),
        };
        if secret.expose_secret().trim().is_empty() {
            return Err(Problem::new(place, "the secret is empty", "put one in, such as the output of `openssl rand -hex 32`"));
        }
        Ok(Some(secret))
    }
}

/// The keys in a file outside the configuration, under the same rules; `place` is how the one who named it knows it.
///
/// # Errors
/// Everything wrong with it.
pub fn read_fernet_keys(file: &std::path::Path, place: &str) -> Result<Vec<SecretString>, Vec<Problem>> {
    keys_of(&read_private(file, place).map_err(|problem| vec![problem])?, place)
}

/// A secret in a file outside the configuration, under the rules that hold for those in it.
///
/// # Errors
/// It cannot be read, or everybody can read it.
pub fn read_secret(file: &std::path::Path, place: &str) -> Result<SecretString, Problem> {
    read_private(file, place)
}

/// One key a line. What is wrong is told by line, never by what it says.
fn keys_of(text: &SecretString, place: &str) -> Result<Vec<SecretString>, Vec<Problem>> {
    let (mut keys, mut seen, mut problems) = (Vec::new(), HashSet::new(), Vec::new());
    for (index, line) in text.expose_secret().lines().enumerate() {
        let key = line.split('#').next().unwrap_or_default().trim();
        if key.is_empty() {
            continue;
        }
        let number = index + 1;
        if Fernet::new(key).is_none() {
            let problem = format!("line {number} is not a key: 32 bytes in URL-safe Base64, and nothing else on the line");
            problems.push(Problem::new(place, problem, KEY_HINT));
        } else if !seen.insert(key.trim_end_matches('=')) {
            problems.push(Problem::new(place, format!("line {number} is the same key as an earlier line"), "remove one of them"));
        } else {
            keys.push(key.into());
        }
    }
    if keys.is_empty() && problems.is_empty() {
        problems.push(Problem::new(place, "there is no key in it", KEY_HINT));
    }
    if problems.is_empty() { Ok(keys) } else { Err(problems) }
}

impl Found {
    pub(super) fn chat(&mut self, chat: &ChatConfig) {
        if chat.encryption_keys_file.is_some() && chat.encryption_keys_credential.is_some() {
            let hint = "keep one of `encryption_keys_file` and `encryption_keys_credential`";
            self.refuse("chat", "has more than one place for its keys", hint);
        }
        self.within("chat.message_limit", chat.message_limit, 1..=MESSAGE_LIMIT_MOST);
        self.count("chat.messages_burst", chat.messages_burst);
        self.duration("chat.messages_window", chat.messages_window);
        self.count("chat.user_messages_burst", chat.user_messages_burst);
        self.duration("chat.user_messages_window", chat.user_messages_window);
        self.duration("chat.typing_interval", chat.typing_interval);
        self.duration("chat.typing_expiry", chat.typing_expiry);
        if chat.typing_expiry <= chat.typing_interval {
            let hint = "write a longer one, or lower `chat.typing_interval`";
            self.refuse("chat.typing_expiry", "over before the next sign of typing may come (`chat.typing_interval`)", hint);
        }
        for (index, media_type) in chat.attachment_types.iter().enumerate() {
            if !is_media_type(media_type) {
                let hint = "write it like \"image/jpeg\", or \"image/*\" for all images";
                self.refuse(format!("chat.attachment_types[{index}]"), "not a media type", hint);
            }
        }
        self.size("chat.attachment_size_limit", chat.attachment_size_limit);
        self.within("chat.attachments_limit", chat.attachments_limit, 0..=ATTACHMENTS_LIMIT_MOST);
        self.within("chat.participants_limit", chat.participants_limit, 2..=PARTICIPANTS_LIMIT_MOST);
        self.duration_or_zero("chat.notify_after", chat.notify_after);
        for (index, channel) in chat.notify_channels.iter().enumerate() {
            if chat.notify_channels[..index].contains(channel) {
                self.refuse(format!("chat.notify_channels[{index}]"), "named before", "remove it");
            }
        }
        self.count("chat.replay_limit", chat.replay_limit);
        self.chat_hook(&chat.hook);
    }

    fn chat_hook(&mut self, hook: &ChatHookConfig) {
        if let Some(url) = &hook.url {
            self.url("chat.hook.url", url);
        }
        self.bounded("chat.hook.timeout", !hook.timeout.is_zero() && hook.timeout <= HOOK_TIMEOUT_MOST, "1ms", "30s");
        if hook.secret_file.is_some() && hook.secret_credential.is_some() {
            self.refuse("chat.hook", "has more than one secret", "keep one of `secret_file` and `secret_credential`");
        }
        if hook.url.is_none() && (hook.secret_file.is_some() || hook.secret_credential.is_some()) {
            self.refuse("chat.hook", "has a secret and nobody to show it to", "set `chat.hook.url`, or remove the secret");
        }
    }
}

/// `type/subtype` of RFC 9110, or `type/*`.
fn is_media_type(text: &str) -> bool {
    let is_token = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte));
    text.split_once('/').is_some_and(|(kind, subtype)| is_token(kind) && (subtype == "*" || is_token(subtype)))
}

/// Where attachments may be: all of a host over https, or what a URL begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AttachmentHost {
    written: String,
    /// Its path ends with `/`.
    beginning: Url,
}

impl AttachmentHost {
    /// Whether `url` is there. A path cannot lead out of it.
    fn holds(&self, url: &Url) -> bool {
        let (within, path) = (self.beginning.path(), url.path());
        // To some servers an escaped separator is one like any other.
        let is_escaped = || ["%2f", "%5c"].iter().any(|escaped| path.to_ascii_lowercase().contains(escaped));
        url.origin() == self.beginning.origin()
            && url.username().is_empty()
            && url.password().is_none()
            && path.starts_with(within)
            && (within == "/" || !is_escaped())
    }
}

impl FromStr for AttachmentHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const REFUSED: &str = "not a host or the beginning of a URL; hint: write it like \"cdn.example.com\", or \
                               \"https://cdn.example.com/media/\"";
        let is_url = text.contains("://");
        let whole = if is_url { text.to_owned() } else { format!("https://{text}") };
        let mut url = Url::parse(&whole).map_err(|_| REFUSED.to_owned())?;
        let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
        let is_host = !text.contains(|c: char| c.is_whitespace() || matches!(c, '/' | '\\' | '*'));
        if !matches!(url.scheme(), "http" | "https") || !is_plain || !(is_url || is_host) || text.contains('*') {
            return Err(REFUSED.to_owned());
        }
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        Ok(Self { written: text.to_owned(), beginning: url })
    }
}

impl TryFrom<String> for AttachmentHost {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<AttachmentHost> for String {
    fn from(host: AttachmentHost) -> Self {
        host.written
    }
}

impl fmt::Display for AttachmentHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

    use super::*;
    use crate::config::{
        load,
        tests::{check_line as check, defaults, refused, sources},
    };

    const KEYS: [&str; 2] = ["AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="];

    /// A key file with `text`, readable by its owner.
    fn key_file(folder: &Path, text: &str) -> String {
        let file = folder.join("chat.keys");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        format!("chat.encryption_keys_file = '{}'", file.display())
    }

    #[track_caller]
    fn check_keys(text: &str, expected: &[&str]) {
        let folder = tempfile::tempdir().unwrap();
        check(&key_file(folder.path(), text), expected);
    }

    #[test]
    fn the_chat_is_on_where_there_are_keys() {
        assert!(!defaults().chat.is_on());
        let folder = tempfile::tempdir().unwrap();
        let text = key_file(folder.path(), &format!("# since November\n{}\n\n  {} # the old one\n", KEYS[0], KEYS[1]));
        let config = load(&sources(&text, &[])).unwrap();
        let keys: Vec<&str> = config.chat.encryption_keys.iter().map(ExposeSecret::expose_secret).collect();
        assert!(config.chat.is_on());
        assert_eq!(keys, KEYS);
        assert!(!format!("{:?}{}", config.chat, config.to_toml_masked()).contains("AQEB"));

        let off = load(&sources(&format!("{text}\nchat.enabled = false"), &[])).unwrap();
        assert!(!off.chat.is_on() && off.chat.encryption_keys.is_empty());
        let chat_only = Sources { secrets: Secrets::Chat, ..sources(&format!("{text}\nchat.enabled = false"), &[]) };
        assert_eq!(load(&chat_only).unwrap().chat.encryption_keys.len(), 2);
        let none = Sources { secrets: Secrets::None, ..sources(&text, &[]) };
        assert!(load(&none).unwrap().chat.encryption_keys.is_empty());
    }

    #[test]
    fn a_chat_without_a_key_does_not_start() {
        check(
            "chat.enabled = true",
            &["chat: is on, and there is no key to seal messages with (hint: run `tarishi chat new-key` and name its file in \
               `chat.encryption_keys_file`, or set `chat.enabled = false`)"],
        );
        check("chat.enabled = false", &[]);
        refused("chat.encryption_keys_file = '/nowhere/chat.keys'", "chat.encryption_keys_file: /nowhere/chat.keys cannot be read");
        refused("chat.encryption_keys_credential = 'chat'", "chat.encryption_keys_credential: there are no systemd credentials here");
        refused("chat.encryption_keys_file = 'a'\nchat.encryption_keys_credential = 'a'", "chat: has more than one place for its keys");
    }

    #[test]
    fn key_files_are_checked_line_by_line() {
        check_keys("# none yet\n", &["chat.encryption_keys_file: there is no key in it (hint: make one with `tarishi chat new-key`)"]);
        let not_a_key = |line: usize| {
            format!(
                "chat.encryption_keys_file: line {line} is not a key: 32 bytes in URL-safe Base64, and nothing else on the line (hint: make \
                 one with `tarishi chat new-key`)"
            )
        };
        check_keys(&format!("{}\npassword\n{} {}", KEYS[0], KEYS[1], KEYS[0]), &[&not_a_key(2), &not_a_key(3)]);
        check_keys(
            &format!("{}\n{}", KEYS[0], KEYS[0].trim_end_matches('=')),
            &["chat.encryption_keys_file: line 2 is the same key as an earlier line (hint: remove one of them)"],
        );
        let folder = tempfile::tempdir().unwrap();
        let line = key_file(folder.path(), KEYS[0]);
        fs::set_permissions(folder.path().join("chat.keys"), fs::Permissions::from_mode(0o644)).unwrap();
        refused(&line, "everyone on this machine may use");
    }

    #[test]
    fn limits_are_checked() {
        check("chat.message_limit = 0", &["chat.message_limit: out of bounds (hint: between 1 and 16000)"]);
        refused("chat.messages_burst = 0", "chat.messages_burst: out of bounds");
        refused("chat.messages_window = '0s'", "chat.messages_window: out of bounds");
        refused("chat.user_messages_burst = 0", "chat.user_messages_burst: out of bounds");
        refused("chat.user_messages_window = '0s'", "chat.user_messages_window: out of bounds");
        refused("chat.typing_interval = '0s'", "chat.typing_interval: out of bounds");
        refused("chat.typing_interval = '5s'", "chat.typing_expiry: over before the next sign of typing may come");
        refused("chat.attachments_limit = 101", "chat.attachments_limit: out of bounds");
        refused("chat.attachment_size_limit = '0 B'", "chat.attachment_size_limit: out of bounds");
        refused("chat.participants_limit = 1", "chat.participants_limit: out of bounds");
        refused("chat.replay_limit = 0", "chat.replay_limit: out of bounds");
        refused("chat.notify_after = 'soon'", "chat.notify_after: not a duration");
        refused("chat.notify_channels = ['push', 'push']", "chat.notify_channels[1]: named before");
        refused("chat.notify_channels = ['pigeon']", "chat.notify_channels");
        check("chat.notify_channels = []", &[]);
        check("chat.notify_after = '0s'\nchat.attachments_limit = 0", &[]);
    }

    #[test]
    fn hooks_are_checked() {
        check("chat.hook.url = 'https://app.example.com/moderate'\nchat.hook.on_failure = 'closed'", &[]);
        refused("chat.hook.url = 'app.example.com'", "chat.hook.url: not an http(s) URL");
        refused("chat.hook.timeout = '31s'", "chat.hook.timeout: out of bounds");
        refused("chat.hook.on_failure = 'maybe'", "chat.hook.on_failure: not a known value: `maybe`");
        refused("chat.hook.secret_file = 'a'", "chat.hook: has a secret and nobody to show it to");
        refused("chat.hook.secret_file = 'a'\nchat.hook.secret_credential = 'b'", "chat.hook: has more than one secret");
    }

    fn allowing(hosts: &str) -> ChatConfig {
        load(&sources(&format!("chat.attachment_hosts = {hosts}"), &[])).unwrap().chat
    }

    #[test]
    fn attachments_are_where_they_may_be() {
        let chat = allowing("['cdn.example.com', 'https://files.example.com:8443/media', 'http://127.0.0.1:9000/']");
        let stored = |url: &str| chat.attachment_url(url);
        assert_eq!(stored("https://CDN.example.com/a b.jpg?w=1").unwrap(), "https://cdn.example.com/a%20b.jpg?w=1");
        assert!(stored("https://cdn.example.com:443/a").is_some());
        assert!(stored("https://files.example.com:8443/media/a").is_some());
        assert!(stored("http://127.0.0.1:9000/a").is_some());
        for elsewhere in [
            "http://cdn.example.com/a",
            "https://cdn.example.com:8443/a",
            "https://cdn.example.com.evil.example/a",
            "https://evil.example/cdn.example.com",
            "https://cdn.example.com@evil.example/a",
            "https://user@cdn.example.com/a",
            "https://cdn.example.com\\@evil.example/a ",
            "https://files.example.com:8443/mediathek/a",
            "https://files.example.com:8443/media/../private",
            "https://files.example.com:8443/media/%2e%2E/private",
            "https://files.example.com:8443/media/..%2fprivate",
            "https://files.example.com/media/a",
            "javascript:alert(1)",
            "data:text/html,x",
            "//cdn.example.com/a",
            "cdn.example.com/a",
            "",
        ] {
            // A backslash is a slash to browsers and to the parser: still the host that is allowed.
            let expected = elsewhere.contains('\\');
            assert_eq!(stored(elsewhere).is_some_and(|url| url.starts_with("https://cdn.example.com/")), expected, "{elsewhere}");
            assert!(expected || stored(elsewhere).is_none(), "{elsewhere}");
        }
        assert!(defaults().chat.attachment_url("https://cdn.example.com/a").is_none());
    }

    #[test]
    fn attachment_hosts_are_hosts() {
        for host in
            ["*.example.com", "cdn.example.com/media", "https://u:p@cdn.example.com/", "ftp://cdn.example.com/", "", "a b", "https://"]
        {
            refused(&format!("chat.attachment_hosts = ['{host}']"), "chat.attachment_hosts[0]: not a host or the beginning of a URL");
        }
        let masked = load(&sources("chat.attachment_hosts = ['cdn.example.com:8443']", &[])).unwrap().to_toml_masked();
        assert!(masked.contains("attachment_hosts = [\"cdn.example.com:8443\"]"), "{masked}");
    }

    #[test]
    fn attachments_are_of_types() {
        let chat = load(&sources("chat.attachment_types = ['image/*', 'Application/PDF']", &[])).unwrap().chat;
        for taken in ["image/jpeg", "IMAGE/PNG", "application/pdf", "application/pdf; charset=binary"] {
            assert!(chat.takes_type(taken), "{taken}");
        }
        for not_taken in ["text/html", "image", "image/", "/jpeg", "", "imagery/png", "image/a b", "application/pdfx"] {
            assert!(!chat.takes_type(not_taken), "{not_taken}");
        }
        refused("chat.attachment_types = ['images']", "chat.attachment_types[0]: not a media type");
    }
}
