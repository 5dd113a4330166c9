//! The providers by their names in the configuration. A new provider is registered here.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use futures_util::{StreamExt as _, stream};

use crate::{
    channel::{
        ProbeFailure, Provider,
        email::{
            sender::Senders,
            sendgrid::{self, SendGrid},
            smtp::{self, Smtp},
        },
        outbox::{self, Outbox, OutboxSettings},
        push::fcm::{self, Fcm},
        sms::twilio::{self, Twilio},
    },
    config::Config,
    lane::{Pace, PaceSettings},
    model::{Channel, Problem},
};

/// Time one probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);
/// Probes under way at once.
const PROBE_CONCURRENCY: usize = 8;

/// An account: who speaks to it, and how fast. One for each name, however many channels use it.
pub(super) type Account = (Arc<dyn Provider>, Arc<Pace>);

/// What one provider came to when it was asked whether it would work.
#[derive(Debug)]
pub struct Probed {
    pub provider: &'static str,
    pub result: Result<(), ProbeFailure>,
    pub took: Duration,
}

/// Every provider that a channel names.
///
/// # Errors
/// What of a provider's configuration cannot be used.
pub(super) fn accounts(config: &Config, outbox: &Arc<Outbox>) -> anyhow::Result<HashMap<String, Account>> {
    let named =
        Channel::ALL.into_iter().filter(|channel| *channel != Channel::Live).flat_map(|channel| &config.channel.get(channel).providers);
    let mut accounts = HashMap::new();
    for name in named {
        if !accounts.contains_key(name) {
            let (provider, pace) = account(name, config, Some(outbox))?;
            accounts.insert(name.clone(), (provider, Arc::new(Pace::new(pace))));
        }
    }
    Ok(accounts)
}

fn account(name: &str, config: &Config, outbox: Option<&Arc<Outbox>>) -> anyhow::Result<(Arc<dyn Provider>, PaceSettings)> {
    let provider = &config.provider;
    let paced = |rate| PaceSettings { rate, ramp: None };
    let unusable = |problem: String| anyhow!(problem);
    Ok(match (name, outbox) {
        (outbox::NAME, Some(outbox)) => (outbox.clone(), PaceSettings::default()),
        (sendgrid::NAME, _) => (Arc::new(SendGrid::new(&provider.sendgrid).map_err(unusable)?), paced(provider.sendgrid.rate)),
        (smtp::NAME, _) => {
            let carried = Smtp::new(&provider.smtp).map_err(unusable)?.with_call_timeout(config.channel.email.call_timeout);
            (Arc::new(carried), paced(provider.smtp.rate))
        }
        (twilio::NAME, _) => {
            let twilio = Twilio::new(&provider.twilio, &config.public.base_url, config.channel.sms.call_timeout);
            (Arc::new(twilio.map_err(unusable)?), paced(provider.twilio.rate))
        }
        (fcm::NAME, _) => {
            let pace = PaceSettings { rate: Some(provider.fcm.rate), ramp: Some(provider.fcm.ramp) };
            (Arc::new(Fcm::new(&provider.fcm, config.channel.push.call_timeout).map_err(unusable)?), pace)
        }
        (name, _) => return Err(anyhow!("no provider is called `{name}`")),
    })
}

/// What of the providers' configuration would keep the daemon from starting: what only making them shows, such as a certificate that is
/// none.
pub fn account_problems(config: &Config) -> Vec<Problem> {
    // The outbox opens its file, which is the daemon's.
    let names =
        Channel::ALL.into_iter().filter(|channel| *channel != Channel::Live).flat_map(|channel| &config.channel.get(channel).providers);
    let names: BTreeSet<&str> = names.map(String::as_str).filter(|name| *name != outbox::NAME).collect();
    let unusable = names.into_iter().filter_map(|name| account(name, config, None).err().map(|error| (name, error.to_string())));
    let problem = |(name, told): (&str, String)| {
        let (told, hint) = told.split_once("; hint: ").unwrap_or((&told, ""));
        match told.split_once(": ") {
            Some((path, problem)) if path.starts_with("provider.") => Problem::new(path, problem, hint),
            _ => Problem::new(format!("provider.{name}"), told, hint),
        }
    };
    unusable.map(problem).collect()
}

/// Asks every provider that a channel names whether it would work, without sending anything to anybody.
///
/// # Errors
/// What of a provider's configuration cannot be used.
pub async fn probe(config: &Config) -> anyhow::Result<Vec<Probed>> {
    let outbox = Arc::new(self::outbox(config)?);
    let mut accounts: Vec<Account> = accounts(config, &outbox)?.into_values().collect();
    accounts.sort_by_key(|(provider, _)| provider.name());
    let probe = async |(provider, _): Account| {
        let started = Instant::now();
        let late = || ProbeFailure::new(format!("no answer within {PROBE_TIMEOUT:?}"), "check the network from here, then try again");
        let result = tokio::time::timeout(PROBE_TIMEOUT, provider.probe()).await.unwrap_or_else(|_| Err(late()));
        Probed { provider: provider.name(), result, took: started.elapsed() }
    };
    Ok(stream::iter(accounts).map(probe).buffered(PROBE_CONCURRENCY).collect().await)
}

/// The provider that captures; the console shows what it has.
///
/// # Errors
/// What of its configuration cannot be used.
pub(super) fn outbox(config: &Config) -> anyhow::Result<Outbox> {
    let settings = OutboxSettings {
        keep: config.provider.outbox.keep,
        chaos: config.provider.outbox.chaos,
        senders: Senders::new(&config.provider.outbox.from, &BTreeMap::new(), None)
            .map_err(|problem| anyhow!("provider.outbox.{problem}"))?,
        sms_from: config.provider.outbox.sms_from.clone(),
    };
    let record = config.provider.outbox.record_file.as_deref();
    Outbox::new(settings, record)
        .with_context(|| format!("provider.outbox.record_file: cannot append to {}", record.unwrap_or("".as_ref()).display()))
}
