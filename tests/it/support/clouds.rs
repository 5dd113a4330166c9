//! The three providers' clouds as `tarishi mock` plays them, and a daemon or a provider told to use them.

use std::sync::Arc;

use serde_json::Value;
use tarishi::{
    channel::{Provider, email::sendgrid::SendGrid, push::fcm::Fcm, sms::twilio::Twilio},
    config::{Config, Sources, load},
    mock::{Mock, MockSettings, Request, Script},
};

use super::Setup;

/// Which provider carries each channel here.
pub const CARRIERS: [(&str, &str); 3] = [("email", "sendgrid"), ("sms", "twilio"), ("push", "fcm")];

pub struct Clouds {
    pub mock: Mock,
    /// Holds the service account's file.
    folder: tempfile::TempDir,
}

impl Clouds {
    pub async fn start() -> Self {
        Self::with(MockSettings::default()).await
    }

    pub async fn with(settings: MockSettings) -> Self {
        super::install_cryptography();
        let mock = Mock::start(settings).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("service-account.json");
        std::fs::write(&file, &mock.credentials().service_account_json).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        Self { mock, folder }
    }

    /// The answers from now on; a list of rules as in a script's JSON.
    pub fn answer(&self, rules: Value) {
        self.mock.set_script(Script::from_json(rules).unwrap());
    }

    /// What was sent through one provider, in order.
    pub fn requests(&self, provider: &str) -> Vec<Arc<Request>> {
        self.mock.requests(None, 0).into_iter().filter(|request| request.provider.as_str() == provider).collect()
    }

    /// The keys of the configuration that lead here.
    pub fn keys(&self) -> Vec<(String, toml::Value)> {
        let credentials = self.mock.credentials();
        let base_url = self.mock.base_url();
        let text = |key: &str, value: &str| (key.to_owned(), toml::Value::from(value));
        let mut keys = vec![
            text("provider.sendgrid.api_key", &credentials.sendgrid_api_key),
            text("provider.sendgrid.webhook_public_key", &credentials.sendgrid_webhook_public_key),
            text("provider.sendgrid.from", "Tarishi <hello@tarishi.example>"),
            text("provider.sendgrid.base_url", &base_url),
            text("provider.twilio.account_sid", &credentials.twilio_account_sid),
            text("provider.twilio.api_key", &credentials.twilio_api_key),
            text("provider.twilio.api_secret", &credentials.twilio_api_secret),
            text("provider.twilio.auth_token", &credentials.twilio_auth_token),
            text("provider.twilio.from", "+15005550006"),
            text("provider.twilio.base_url", &base_url),
            text("provider.fcm.service_account_file", &self.folder.path().join("service-account.json").display().to_string()),
            text("provider.fcm.base_url", &base_url),
            ("provider.twilio.allowed_prefixes".to_owned(), toml::Value::Array(vec!["+255".into()])),
        ];
        for (channel, provider) in CARRIERS {
            keys.push((format!("channel.{channel}.providers"), toml::Value::Array(vec![provider.into()])));
        }
        keys
    }

    /// A configuration that leads here, with `more` over it.
    pub fn config(&self, more: &[(&str, toml::Value)]) -> Config {
        let more = more.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
        load(&Sources { overrides: self.keys().into_iter().chain(more).collect(), ..Sources::default() }).unwrap()
    }

    /// Leads a daemon here.
    pub fn configure(&self, mut setup: Setup) -> Setup {
        for (key, value) in self.keys() {
            match value {
                toml::Value::String(text) => setup.set(&key, &text),
                other => setup.set(&key, &other),
            }
        }
        setup
    }

    /// The provider of this name, as the daemon would make it.
    pub fn provider(&self, name: &str, more: &[(&str, toml::Value)]) -> Arc<dyn Provider> {
        let config = self.config(more);
        match name {
            "sendgrid" => Arc::new(SendGrid::new(&config.provider.sendgrid).unwrap()),
            "twilio" => Arc::new(Twilio::new(&config.provider.twilio, &config.public.base_url, config.channel.sms.call_timeout).unwrap()),
            _ => Arc::new(Fcm::new(&config.provider.fcm, config.channel.push.call_timeout).unwrap()),
        }
    }
}
