//! What was asked and answered, as far as it is kept, and how often.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use hyper::{HeaderMap, header::AUTHORIZATION};
use serde::Serialize;
use serde_json::Value;

use super::script::Provider;
use crate::model::Timestamp;

/// One request and its answer.
#[derive(Clone, Debug, Serialize)]
pub struct Request {
    /// Counts up from 1, over all providers.
    pub n: u64,
    pub at: Timestamp,
    pub provider: Provider,
    /// Counts up from 1: which requests came over the same one.
    pub connection: u64,
    /// `HTTP/1.1`, `HTTP/2.0`.
    pub version: String,
    pub method: String,
    pub path: String,
    /// Without the value of `Authorization`.
    pub headers: BTreeMap<String, String>,
    /// JSON as it was, a form as its pairs.
    pub body: Value,
    /// The body's bytes as they came, read as UTF-8.
    #[serde(skip)]
    pub raw: String,
    /// The recipient; several are joined by `, `.
    pub to: String,
    pub delivery_id: Option<String>,
    pub answered: Answered,
    /// Whether the message is taken, whatever the client learnt of it.
    pub accepted: bool,
    /// Why it is no good request, where it is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answered {
    /// Absent where nothing was answered.
    pub status: Option<u16>,
    /// The script's answer, by name.
    pub fault: Option<String>,
}

/// How often, since the start or since the last `DELETE /mock/requests`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Messages taken; tokens given out.
    pub accepted: u64,
    /// Requests with wrong credentials, or that break the provider's rules.
    pub refused: u64,
    /// Requests answered by the script otherwise than `ok`. Some of these are accepted too.
    pub faulted: u64,
    /// Callbacks that were taken: events of SendGrid, statuses of Twilio.
    pub webhooks_sent: u64,
    /// Callbacks that were given up.
    pub webhooks_failed: u64,
}

#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    refused: AtomicU64,
    faulted: AtomicU64,
    webhooks_sent: AtomicU64,
    webhooks_failed: AtomicU64,
}

/// What is kept.
#[derive(Debug)]
pub(super) struct Record {
    keep: usize,
    last: AtomicU64,
    counters: [Counters; Provider::ALL.len()],
    requests: Mutex<VecDeque<Arc<Request>>>,
}

impl Record {
    /// Keeps the last `keep` requests.
    pub fn new(keep: usize) -> Self {
        Self { keep, last: AtomicU64::new(0), counters: Default::default(), requests: Mutex::default() }
    }

    /// Counts, and keeps what `request` makes with its number, where anything is kept.
    pub fn add(&self, provider: Provider, accepted: bool, refused: bool, faulted: bool, request: impl FnOnce(u64) -> Request) {
        let counters = self.counters(provider);
        for (counter, counts) in [(&counters.accepted, accepted), (&counters.refused, refused), (&counters.faulted, faulted)] {
            counter.fetch_add(u64::from(counts), Relaxed);
        }
        if self.keep == 0 {
            return;
        }
        // Numbered outside the lock, where the request is made: in the list, neighbours may have changed places.
        let request = Arc::new(request(self.last.fetch_add(1, Relaxed) + 1));
        let mut requests = self.requests();
        if requests.len() == self.keep {
            requests.pop_front();
        }
        requests.push_back(request);
    }

    pub fn webhooks(&self, provider: Provider, number: usize, sent: bool) {
        let counters = self.counters(provider);
        let counter = if sent { &counters.webhooks_sent } else { &counters.webhooks_failed };
        counter.fetch_add(number as u64, Relaxed);
    }

    /// What is kept of a provider, or of all, after this number.
    pub fn since(&self, provider: Option<Provider>, since: u64) -> Vec<Arc<Request>> {
        let wanted = |request: &&Arc<Request>| request.n > since && provider.is_none_or(|provider| request.provider == provider);
        let mut found: Vec<Arc<Request>> = self.requests().iter().filter(wanted).cloned().collect();
        found.sort_unstable_by_key(|request| request.n);
        found
    }

    pub fn counts(&self, provider: Provider) -> Counts {
        let counters = self.counters(provider);
        Counts {
            accepted: counters.accepted.load(Relaxed),
            refused: counters.refused.load(Relaxed),
            faulted: counters.faulted.load(Relaxed),
            webhooks_sent: counters.webhooks_sent.load(Relaxed),
            webhooks_failed: counters.webhooks_failed.load(Relaxed),
        }
    }

    /// Forgets the requests and the counts. Numbers go on.
    pub fn clear(&self) {
        self.requests().clear();
        for counters in &self.counters {
            for counter in [&counters.accepted, &counters.refused, &counters.faulted, &counters.webhooks_sent, &counters.webhooks_failed] {
                counter.store(0, Relaxed);
            }
        }
    }

    fn counters(&self, provider: Provider) -> &Counters {
        &self.counters[provider as usize]
    }

    fn requests(&self) -> std::sync::MutexGuard<'_, VecDeque<Arc<Request>>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Headers as they are kept.
pub(super) fn kept_headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    let shown = headers.iter().map(|(name, value)| {
        let value = if name == AUTHORIZATION { "***".to_owned() } else { String::from_utf8_lossy(value.as_bytes()).into_owned() };
        (name.as_str().to_owned(), value)
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(n: u64) -> Request {
        Request {
            n,
            at: Timestamp::default(),
            provider: Provider::Fcm,
            connection: 1,
            version: "HTTP/2.0".to_owned(),
            method: "POST".to_owned(),
            path: "/".to_owned(),
            headers: BTreeMap::new(),
            body: Value::Null,
            raw: String::new(),
            to: String::new(),
            delivery_id: None,
            answered: Answered { status: Some(200), fault: None },
            accepted: true,
            refused: None,
        }
    }

    fn numbers(record: &Record, since: u64) -> Vec<u64> {
        record.since(None, since).iter().map(|request| request.n).collect()
    }

    #[test]
    fn the_last_are_kept_and_all_are_counted() {
        let record = Record::new(3);
        for _ in 0..5 {
            record.add(Provider::Fcm, true, false, true, request);
        }
        assert_eq!(numbers(&record, 0), [3, 4, 5]);
        assert_eq!(numbers(&record, 4), [5]);
        assert!(record.since(Some(Provider::Twilio), 0).is_empty());
        assert_eq!(record.counts(Provider::Fcm), Counts { accepted: 5, faulted: 5, ..Counts::default() });
        assert_eq!(record.counts(Provider::Twilio), Counts::default());
        record.clear();
        assert_eq!((numbers(&record, 0).len(), record.counts(Provider::Fcm)), (0, Counts::default()));
        record.add(Provider::Fcm, true, false, false, request);
        assert_eq!(numbers(&record, 0), [6]);
    }

    #[test]
    fn without_room_nothing_is_made() {
        let record = Record::new(0);
        record.add(Provider::Token, false, true, false, |_| panic!("made for nothing"));
        assert_eq!(record.counts(Provider::Token).refused, 1);
    }
}
