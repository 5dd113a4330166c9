//! Key sets (RFC 7517), from a file or a URL: which of their keys are used, and when they are fetched again.
//!
//! A fetch that fails keeps the keys there are. It is told once, and tried again with growing waits.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use aws_lc_rs::hmac;
use jsonwebtoken::{
    DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use reqwest::{Client, redirect};
use serde_json::Value;
use tokio::{
    io::AsyncReadExt as _,
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Algorithm, KeySource},
    event::{Event, emit},
};

/// Time one fetch may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest key set, in bytes. Those of the large providers are under 10 KiB.
const SET_LIMIT: usize = 256 * 1024;
/// Keys used of one set.
const KEYS_LIMIT: usize = 100;
/// Between two fetches because of unknown keys: anybody can name one.
const WANTED_INTERVAL: Duration = Duration::from_secs(10);
/// The wait after the first failure; each further one doubles it, up to the regular interval.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// A key and the one algorithm it is for.
#[derive(Debug)]
pub(super) struct Key {
    pub kid: Option<String>,
    pub algorithm: Algorithm,
    pub material: Material,
}

/// What signatures are checked with.
#[derive(Debug)]
pub(super) enum Material {
    /// Made ready once: that is nearly a third of checking a short token's signature.
    Secret(Box<hmac::Key>),
    Public(DecodingKey),
}

/// The keys of one set, as it was fetched last.
#[derive(Debug)]
pub(super) struct KeySet {
    source: Source,
    algorithms: Vec<Algorithm>,
    keys: RwLock<Arc<[Key]>>,
    wanted: Notify,
    schedule: Mutex<Schedule>,
}

#[derive(Debug)]
enum Source {
    File(PathBuf),
    Url { url: String, client: Client },
}

impl KeySet {
    /// Empty until it is loaded. The error says why it never could be.
    pub fn new(source: &KeySource, algorithms: Vec<Algorithm>, interval: Duration) -> Result<Self, String> {
        let source = match source {
            KeySource::JwksFile(file) => Source::File(file.clone()),
            KeySource::JwksUrl(url) => Source::Url { url: url.clone(), client: client(url)? },
            KeySource::Secret(_) | KeySource::PublicKey(_) => return Err("it is no set".to_owned()),
        };
        let schedule = Mutex::new(Schedule::new(interval, Instant::now()));
        Ok(Self { source, algorithms, keys: RwLock::default(), wanted: Notify::new(), schedule })
    }

    pub fn keys(&self) -> Arc<[Key]> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks for a fetch before the regular one: somebody has used a key that is not here.
    pub fn want(&self) {
        self.wanted.notify_one();
    }

    /// Fetches it, and keeps what there is when that fails.
    pub async fn load(&self) {
        let fetched = match timeout(FETCH_TIMEOUT, self.source.fetch()).await {
            Ok(fetched) => fetched.and_then(|document| read_set(&document, &self.algorithms)),
            Err(_) => Err(format!("no answer within {}s", FETCH_TIMEOUT.as_secs())),
        };
        let failed_before = {
            let mut schedule = self.schedule.lock().unwrap_or_else(PoisonError::into_inner);
            let failed_before = schedule.failures > 0;
            schedule.fetched(fetched.is_ok(), Instant::now(), fastrand::f64());
            failed_before
        };
        match fetched {
            Ok(keys) => {
                let names = |keys: &[Key]| keys.iter().map(|key| key.kid.clone().unwrap_or_default()).collect::<Vec<_>>().join(" ");
                let kids = names(&keys);
                let changed = failed_before || kids != names(&self.keys());
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys.into();
                if changed {
                    emit(&Event::KeysFetched { from: &self.source.name(), kids: &kids });
                }
            }
            Err(reason) if !failed_before => {
                emit(&Event::KeysNotFetched { from: &self.source.name(), reason: &reason, kept: self.keys().len() });
            }
            Err(_) => {}
        }
    }

    /// Fetches it again and again, at its times and when it is wanted, until `stop`. One fetch at a time.
    pub async fn keep(&self, stop: &CancellationToken) {
        let mut is_wanted = false;
        loop {
            let at = self.schedule.lock().unwrap_or_else(PoisonError::into_inner).next(is_wanted);
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep_until(at) => {}
                () = self.wanted.notified(), if !is_wanted => {
                    is_wanted = true;
                    continue;
                }
            }
            if std::mem::take(&mut is_wanted) {
                self.schedule.lock().unwrap_or_else(PoisonError::into_inner).wanted_at = Some(Instant::now());
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.load() => {}
            }
        }
    }
}

/// When a set is fetched next.
#[derive(Debug)]
struct Schedule {
    interval: Duration,
    regular_at: Instant,
    /// Failures since it last went well.
    failures: u32,
    /// The last fetch because of an unknown key.
    wanted_at: Option<Instant>,
}

impl Schedule {
    fn new(interval: Duration, now: Instant) -> Self {
        Self { interval, regular_at: now + interval, failures: 0, wanted_at: None }
    }

    /// `jitter` is in 0..1: daemons that failed together do not come back together.
    fn fetched(&mut self, went_well: bool, now: Instant, jitter: f64) {
        let wait = if went_well {
            self.failures = 0;
            self.interval
        } else {
            self.failures += 1;
            let doubled = FIRST_RETRY.saturating_mul(1 << (self.failures - 1).min(16));
            doubled.min(self.interval).mul_f64(0.5 + jitter / 2.0)
        };
        self.regular_at = now + wait;
    }

    fn next(&self, is_wanted: bool) -> Instant {
        match self.wanted_at {
            // While it fails, the growing waits hold for everybody.
            _ if !is_wanted || self.failures > 0 => self.regular_at,
            // In the past, which is at once.
            None => self.regular_at.checked_sub(self.interval).unwrap_or(self.regular_at),
            Some(at) => self.regular_at.min(at + WANTED_INTERVAL),
        }
    }
}

impl Source {
    /// For the log. A URL of ours has no password in it.
    fn name(&self) -> String {
        match self {
            Self::File(file) => file.display().to_string(),
            Self::Url { url, .. } => url.split('?').next().unwrap_or_default().to_owned(),
        }
    }

    async fn fetch(&self) -> Result<Vec<u8>, String> {
        let mut document = Vec::new();
        match self {
            Self::File(file) => {
                let opened = tokio::fs::File::open(file).await.map_err(|error| error.to_string())?;
                opened.take(SET_LIMIT as u64 + 1).read_to_end(&mut document).await.map_err(|error| error.to_string())?;
            }
            Self::Url { url, client } => {
                let mut response = client.get(url).send().await.map_err(|error| innermost(&error.without_url()))?;
                if response.status() != reqwest::StatusCode::OK {
                    return Err(format!("it answers {}", response.status().as_u16()));
                }
                while document.len() <= SET_LIMIT
                    && let Some(chunk) = response.chunk().await.map_err(|error| innermost(&error.without_url()))?
                {
                    document.extend_from_slice(&chunk);
                }
            }
        }
        if document.len() > SET_LIMIT { Err(format!("larger than {} KiB", SET_LIMIT / 1024)) } else { Ok(document) }
    }
}

/// Redirects are not followed: whoever could make one could make tokens.
fn client(url: &str) -> Result<Client, String> {
    let builder = Client::builder()
        .user_agent(concat!("tarishi/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_max_idle_per_host(0);
    // Without https it is on this machine, which a proxy would take for its own.
    let builder = if url.starts_with("http:") { builder.no_proxy() } else { builder.https_only(true) };
    builder.build().map_err(|error| format!("no HTTP client can be made: {}", innermost(&error)))
}

/// reqwest's own words wrap those of the system, which are the ones that help.
fn innermost(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => innermost(source),
        None => error.to_string(),
    }
}

/// The keys of a set that are for signatures, and for one of these algorithms. A set with none at all is taken for a mistake: whoever
/// really means it takes it out of the configuration.
fn read_set(document: &[u8], algorithms: &[Algorithm]) -> Result<Vec<Key>, String> {
    let document: Value = serde_json::from_slice(document).map_err(|_| "it is not JSON".to_owned())?;
    let listed = document["keys"].as_array().ok_or("it is no JSON Web Key Set")?;
    let keys: Vec<Key> = listed.iter().filter_map(|key| read_key(key, algorithms)).take(KEYS_LIMIT).collect();
    if keys.is_empty() {
        let pinned = algorithms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Err(format!("none of its {} keys is for signatures with {pinned}", listed.len()));
    }
    Ok(keys)
}

fn read_key(key: &Value, algorithms: &[Algorithm]) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(key.clone()).ok()?;
    // Each kind of key is for exactly one algorithm we know. Secrets (`oct`) have no place in a set that others may read.
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(parameters) if parameters.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(parameters) if parameters.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        _ => return None,
    };
    let common = &jwk.common;
    let is_for_signatures = common.public_key_use.as_ref().is_none_or(|purpose| *purpose == PublicKeyUse::Signature)
        && common.key_operations.as_ref().is_none_or(|operations| operations.contains(&KeyOperations::Verify));
    let is_for_it = common.key_algorithm.is_none_or(|said| said.to_string() == algorithm.to_string());
    if !is_for_signatures || !is_for_it || !algorithms.contains(&algorithm) {
        return None;
    }
    Some(Key { kid: common.key_id.clone(), algorithm, material: Material::Public(DecodingKey::from_jwk(&jwk).ok()?) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ALL: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

    fn rsa(more: &Value) -> Value {
        with(json!({ "kty": "RSA", "kid": "rsa", "n": "AQAB", "e": "AQAB" }), more)
    }

    fn with(mut key: Value, more: &Value) -> Value {
        for (name, value) in more.as_object().unwrap() {
            key[name] = value.clone();
        }
        key
    }

    #[track_caller]
    fn check(keys: &Value, algorithms: &[Algorithm], expected: Result<&[(&str, Algorithm)], &str>) {
        let set = read_set(json!({ "keys": keys }).to_string().as_bytes(), algorithms);
        match expected {
            Ok(expected) => {
                let found: Vec<_> =
                    set.as_ref().unwrap().iter().map(|key| (key.kid.as_deref().unwrap_or_default(), key.algorithm)).collect();
                assert_eq!(found, expected, "{keys}");
            }
            Err(part) => assert!(set.as_ref().is_err_and(|told| told.contains(part)), "{keys}: {set:?}"),
        }
    }

    #[test]
    fn only_keys_for_the_pinned_algorithms_are_used() {
        let ec = json!({ "kty": "EC", "kid": "ec", "crv": "P-256", "x": "AQAB", "y": "AQAB" });
        let ed = json!({ "kty": "OKP", "kid": "ed", "crv": "Ed25519", "x": "AQAB" });
        let several = json!([rsa(&json!({})), ec, ed]);
        check(&several, &ALL, Ok(&[("rsa", Algorithm::RS256), ("ec", Algorithm::ES256), ("ed", Algorithm::EdDSA)]));
        check(&several, &[Algorithm::ES256], Ok(&[("ec", Algorithm::ES256)]));
        check(&json!([rsa(&json!({ "use": "sig", "alg": "RS256", "key_ops": ["verify"] }))]), &ALL, Ok(&[("rsa", Algorithm::RS256)]));
        for passed_over in [
            rsa(&json!({ "use": "enc" })),
            rsa(&json!({ "use": "tls" })),
            rsa(&json!({ "key_ops": ["encrypt"] })),
            rsa(&json!({ "alg": "RS512" })),
            rsa(&json!({ "alg": "PS256" })),
            rsa(&json!({ "alg": "RSA-OAEP" })),
            rsa(&json!({ "alg": "HS256" })),
            rsa(&json!({ "alg": "XY1" })),
            rsa(&json!({ "n": "not base64!" })),
            with(ec.clone(), &json!({ "crv": "P-384" })),
            json!({ "kty": "oct", "kid": "secret", "k": "AQAB" }),
            json!({ "kty": "LMS", "kid": "new" }),
            json!("a string"),
        ] {
            check(&json!([passed_over]), &ALL, Err("none of its 1 keys is for signatures with RS256, ES256, EdDSA"));
            check(&json!([passed_over, ed]), &ALL, Ok(&[("ed", Algorithm::EdDSA)]));
        }
    }

    #[test]
    fn what_is_no_set_is_told() {
        for (document, expected) in [("", "not JSON"), ("[]", "no JSON Web Key Set"), (r#"{"keys":{}}"#, "no JSON Web Key Set")] {
            assert!(read_set(document.as_bytes(), &ALL).is_err_and(|told| told.contains(expected)), "{document}");
        }
        let many: Vec<Value> = (0..=KEYS_LIMIT).map(|_| rsa(&json!({}))).collect();
        assert_eq!(read_set(json!({ "keys": many }).to_string().as_bytes(), &ALL).unwrap().len(), KEYS_LIMIT);
    }

    #[test]
    fn unknown_keys_hurry_a_fetch_but_not_often_and_not_while_it_fails() {
        let interval = Duration::from_mins(10);
        let start = Instant::now() + interval;
        let mut schedule = Schedule::new(interval, start);
        schedule.fetched(true, start, 0.5);
        assert_eq!(schedule.next(false), start + interval);
        assert!(schedule.next(true) <= start, "at once");
        schedule.wanted_at = Some(start);
        assert_eq!(schedule.next(true), start + WANTED_INTERVAL);
        schedule.fetched(false, start, 1.0);
        assert_eq!((schedule.next(false), schedule.next(true)), (start + FIRST_RETRY, start + FIRST_RETRY));
        schedule.fetched(false, start, 0.0);
        assert_eq!(schedule.next(true), start + FIRST_RETRY);
        for _ in 0..40 {
            schedule.fetched(false, start, 1.0);
        }
        assert_eq!(schedule.next(true), start + interval);
        schedule.fetched(true, start, 0.5);
        assert_eq!(schedule.next(false), start + interval);
    }
}
