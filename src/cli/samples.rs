//! What there is to try: every template's sample data, made into jobs for user 42 in every language the template speaks.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    client::{Client, Patience},
    failure::Failure,
    output::count,
    server::ServerArgs,
};
use crate::{config::reachable, template::Templates};

/// Whom the documentation tells everything.
pub const USER: &str = "42";
/// The template to try first, where there is one.
const FIRST: &str = "new_message";
/// More `--data` than this nobody reads in one line.
const DATA_LIMIT: usize = 5;
/// The language of the parts that are for everyone.
const DEFAULT_LOCALE: &str = "en";

/// Sends samples of every template to the daemon that has just become ready. Says what it did.
pub async fn send(templates: &Templates, admin: SocketAddr) -> Result<String, Failure> {
    let jobs = jobs(templates, &Uuid::now_v7().simple().to_string());
    let patience = Patience { attempts: 6, first_wait: Duration::from_millis(100), longest_wait: Duration::from_secs(2) };
    let client = Client::new(&format!("http://{}", reachable(admin)), ServerArgs::default().api_key()?, patience)?;
    let receipts = client.post_jobs(Value::Array(jobs).to_string(), |_| {}).await?;
    let deliveries = receipts.iter().map(|receipt| receipt.deliveries).sum();
    Ok(format!("samples: {}, {} for user {USER}", count(receipts.len() as u64, "job"), count(deliveries, "delivery")))
}

/// One job per template and language. `run` makes their ids new.
fn jobs(templates: &Templates, run: &str) -> Vec<Value> {
    let mut jobs = Vec::new();
    for info in templates.list() {
        for locale in [DEFAULT_LOCALE].into_iter().chain(info.locales.iter().copied().filter(|locale| *locale != DEFAULT_LOCALE)) {
            jobs.push(json!({
                "v": 1,
                "id": format!("sample-{run}-{}-{locale}", info.name),
                "template": info.name,
                "to": [{
                    "user_id": USER,
                    "email": "asha@example.com",
                    "phone": "+255712345678",
                    "push_tokens": ["sample-device-of-user-42"],
                    "locale": locale,
                    "timezone": "Africa/Dar_es_Salaam",
                }],
                "data": info.sample,
            }));
        }
    }
    jobs
}

/// A template whose sample fits on a command line, with its `--data`.
#[derive(Debug)]
pub struct Sample {
    pub template: String,
    pub data: Vec<String>,
}

pub fn to_try(templates: &Templates) -> Option<Sample> {
    let short = |sample: &serde_json::Map<String, Value>| {
        sample.len() <= DATA_LIMIT
            && sample.values().all(|value| !value.is_object() && !value.is_array() && !value.to_string().contains("\\n"))
    };
    let mut candidates: Vec<_> = templates.list().filter(|info| short(info.sample)).collect();
    candidates.sort_by_key(|info| info.name.as_str() != FIRST);
    let info = candidates.first()?;
    let data = info.sample.iter().map(|(name, value)| match value {
        Value::String(text) => format!("{name}={text}"),
        other => format!("{name}:={other}"),
    });
    Some(Sample { template: info.name.to_string(), data: data.collect() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{super::settings, *};
    use crate::{
        config::{self, Sources},
        intake::decode::{MissingId, decode_body},
        model::Channel,
    };

    #[test]
    fn samples_are_good_jobs_for_every_channel_and_language() {
        let config = config::load(&Sources::default()).unwrap();
        let templates = settings::load_templates(&config).unwrap();
        let jobs = jobs(&templates, "run");
        let body = Value::Array(jobs).to_string();
        let decoded = decode_body(body.as_bytes(), &config.intake, MissingId::Make).unwrap().jobs;
        let locales: BTreeSet<_> = decoded.iter().filter_map(|one| one.job.to[0].locale.clone()).map(|locale| locale.to_string()).collect();
        assert_eq!(locales, BTreeSet::from(["en".to_owned(), "sw".to_owned()]));
        let channels: BTreeSet<Channel> = templates.list().flat_map(|info| info.channels.iter().collect::<Vec<_>>()).collect();
        assert_eq!(channels.len(), Channel::ALL.len());
    }

    #[test]
    fn there_is_something_to_paste() {
        let config = config::load(&Sources::default()).unwrap();
        let Sample { template, data } = to_try(&settings::load_templates(&config).unwrap()).unwrap();
        assert_eq!(template, "new_message");
        assert!(data.contains(&"unread_count:=3".to_owned()), "{data:?}");
    }
}
