//! The admin API, as the commands call it: one request, one answer, and the patience to ask again when the daemon says so.

use std::{fmt, time::Duration};

use reqwest::{Response, StatusCode, Url, header::RETRY_AFTER};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::failure::{Exit, Failure};
use crate::model::{Problem, cut};

/// Time to reach the daemon, and for one whole request.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);
/// An answer of the daemon's is never longer than this, in bytes.
const ANSWER_LIMIT: usize = 64 << 20;

/// How often to ask again, and how long to wait before the first time; each wait is twice the one before.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub attempts: u32,
    pub first_wait: Duration,
    pub longest_wait: Duration,
}

impl Default for Patience {
    /// About half a minute: a restart, not an outage.
    fn default() -> Self {
        Self { attempts: 9, first_wait: Duration::from_millis(250), longest_wait: Duration::from_secs(8) }
    }
}

impl Patience {
    /// The wait after this failed attempt, counted from 1. The daemon's own wish is honoured up to a minute.
    pub fn wait(self, attempt: u32, retry_after: Option<Duration>) -> Option<Duration> {
        const WISH_LIMIT: Duration = Duration::from_mins(1);
        if attempt >= self.attempts {
            return None;
        }
        let doubled = self.first_wait.saturating_mul(1 << (attempt - 1).min(16)).min(self.longest_wait);
        Some(retry_after.map_or(doubled, |wish| wish.min(WISH_LIMIT).max(doubled)))
    }
}

/// Why there is no answer to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiError {
    Unreachable {
        url: String,
        reason: String,
    },
    /// Something answered, and it is not a tarishi's admin listener.
    NotTarishi {
        url: String,
        status: u16,
    },
    Refused(Refusal),
}

/// What the daemon says when it does not do what it was asked (RFC 9457).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Refusal {
    pub title: String,
    pub status: u16,
    pub detail: String,
    pub code: String,
    pub problems: Vec<ToldProblem>,
    #[serde(skip)]
    pub retry_after: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ToldProblem {
    pub path: String,
    pub problem: String,
    pub hint: String,
}

impl ApiError {
    /// Whether the same request may go better later.
    const fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::NotTarishi { .. } => false,
            Self::Refused(refusal) => matches!(refusal.status, 429 | 503),
        }
    }

    /// The daemon answered that it does not have what was asked for.
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.status == 404)
    }

    const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            Self::Unreachable { .. } | Self::NotTarishi { .. } => None,
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { url, reason } => write!(f, "the daemon cannot be reached at {url}: {reason}"),
            Self::NotTarishi { url, status } => write!(f, "what answers at {url} is not tarishi's admin listener (HTTP {status})"),
            Self::Refused(refusal) => {
                let why = match (refusal.problems.len(), refusal.detail.is_empty()) {
                    (0, false) => refusal.detail.split("; hint: ").next().unwrap_or_default(),
                    (0, true) => &refusal.title,
                    // A detail would say one of them again.
                    (1, _) => "there is a problem",
                    (count, _) => return write!(f, "the daemon refused ({}): there are {count} problems", refusal.status),
                };
                write!(f, "the daemon refused ({}): {}", refusal.status, cut(why, 500))
            }
        }
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let message = error.to_string();
        match error {
            ApiError::Unreachable { .. } => {
                Self::new(Exit::Unreachable, message, "is it running? start it with `tarishi run`, or say where it is with --server URL")
            }
            ApiError::NotTarishi { .. } => {
                Self::new(Exit::Unreachable, message, "--server takes the URL of `admin.listen`, not of `public.listen`")
            }
            ApiError::Refused(refusal) => {
                let told = refusal.detail.split_once("; hint: ").map(|(_, hint)| hint);
                let hint = match refusal.status {
                    _ if !refusal.problems.is_empty() => "",
                    _ if told.is_some() => told.unwrap_or_default(),
                    401 => "give the API key with --api-key-file FILE, or in TARISHI_API_KEY",
                    403 => "this API key may not do that; see `scopes` of [[admin.api_keys]]",
                    409 => "the same id was sent with another body before; choose a new id",
                    429 | 503 => "it was asked several times; see `tarishi status`",
                    _ => "",
                };
                let problems = refusal.problems.into_iter().map(|told| Problem::new(told.path, told.problem, told.hint));
                Self::new(Exit::Refused, message, hint).with_problems(problems.collect())
            }
        }
    }
}

/// What became of one job that was handed over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    pub id: String,
    pub deliveries: u64,
    #[serde(default)]
    pub repeated: bool,
    /// The first ones; `skipped_total` counts all.
    #[serde(default)]
    pub skipped: Vec<SkippedView>,
    #[serde(default)]
    pub skipped_total: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedView {
    pub user_id: Option<String>,
    pub channel: String,
    pub reason: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    Many(Vec<Receipt>),
    One(Receipt),
}

/// The running daemon.
pub struct Client {
    http: reqwest::Client,
    base: Url,
    key: Option<SecretString>,
    patience: Patience,
}

impl Client {
    pub fn new(server: &str, key: Option<SecretString>, patience: Patience) -> Result<Self, Failure> {
        let bad_url = || Failure::usage(format!("`{server}` is not a URL of a daemon"), "write it like http://127.0.0.1:8001");
        let base = Url::parse(server).map_err(|_| bad_url())?;
        if !matches!(base.scheme(), "http" | "https") || base.port_or_known_default() == Some(0) {
            return Err(bad_url());
        }
        // Neither a proxy nor a redirect has any business with the key.
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .user_agent(concat!("tarishi/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Failure::new(Exit::Failed, format!("the HTTP client cannot start: {error}"), ""))?;
        Ok(Self { http, base, key, patience })
    }

    /// Asks once.
    pub async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, ApiError> {
        self.once(self.http.get(self.url(path))).await
    }

    /// Asks until there is an answer or patience ends; `on_wait` hears why it takes longer.
    pub async fn get_patiently<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        on_wait: impl FnMut(&str),
    ) -> Result<T, ApiError> {
        self.patiently(|| self.http.get(self.url(path)).query(query), on_wait).await
    }

    /// Hands over `body`, one job or an array of them. Every job has its id, so repeating the request sends nothing twice.
    pub async fn post_jobs(&self, body: String, on_wait: impl FnMut(&str)) -> Result<Vec<Receipt>, ApiError> {
        let body = bytes::Bytes::from(body);
        let request = || {
            let request = self.http.post(self.url(&["v1", "jobs"]));
            request.header(reqwest::header::CONTENT_TYPE, "application/json").body(body.clone())
        };
        Ok(match self.patiently(request, on_wait).await? {
            OneOrMany::One(receipt) => vec![receipt],
            OneOrMany::Many(receipts) => receipts,
        })
    }

    /// Sends `body` as JSON, for what may be repeated without harm.
    pub async fn send<T: DeserializeOwned>(
        &self,
        method: reqwest::Method,
        path: &[&str],
        body: &impl Serialize,
        on_wait: impl FnMut(&str),
    ) -> Result<T, ApiError> {
        self.patiently(|| self.http.request(method.clone(), self.url(path)).json(body), on_wait).await
    }

    async fn patiently<T: DeserializeOwned>(
        &self,
        request: impl Fn() -> reqwest::RequestBuilder,
        mut on_wait: impl FnMut(&str),
    ) -> Result<T, ApiError> {
        let mut attempt = 1;
        loop {
            let error = match self.once(request()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let wait = self.patience.wait(attempt, error.retry_after()).filter(|_| error.may_pass());
            let Some(wait) = wait else { return Err(error) };
            on_wait(&format!("{error}; trying again in {}", humantime::format_duration(wait)));
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    async fn once<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, ApiError> {
        let request = match &self.key {
            Some(key) => request.bearer_auth(key.expose_secret()),
            None => request,
        };
        let mut response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let body = read(&mut response).await.map_err(|error| self.unreachable(&error))?;
        let not_tarishi = || ApiError::NotTarishi { url: self.base.to_string(), status: response.status().as_u16() };
        if response.status().is_success() {
            return serde_json::from_slice(&body).map_err(|_| not_tarishi());
        }
        Err(refusal(&response, &body).map_or_else(not_tarishi, ApiError::Refused))
    }

    fn unreachable(&self, error: &reqwest::Error) -> ApiError {
        let reason = if error.is_timeout() { "no answer in time".to_owned() } else { innermost(error) };
        ApiError::Unreachable { url: self.base.to_string(), reason }
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }
}

async fn read(response: &mut Response) -> reqwest::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_LIMIT {
            // Cut short it does not parse, which is told as what it is: not our daemon.
            break;
        }
    }
    Ok(body)
}

/// The refusal in an answer, if it is one of ours.
fn refusal(response: &Response, body: &[u8]) -> Option<Refusal> {
    let mut refusal: Refusal = serde_json::from_slice(body).ok()?;
    if refusal.title.is_empty() && refusal.detail.is_empty() {
        return None;
    }
    refusal.status = response.status().as_u16();
    let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let retryable = matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    refusal.retry_after = seconds.filter(|_| retryable).map(Duration::from_secs);
    Some(refusal)
}

/// reqwest's own words wrap those of the system, which are the ones that help.
fn innermost(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => innermost(source),
        None => error.to_string(),
    }
}

#[cfg(test)]
pub mod tests {
    use std::sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    use axum::{
        Router,
        body::Bytes,
        extract::State,
        http::{HeaderMap, header},
        response::IntoResponse,
        routing::any,
    };
    use serde_json::{Value, json};

    use super::*;

    type Answer = (u16, Option<u64>, Value);

    /// A daemon that gives the answers it is told to, in order, and remembers what it was asked.
    #[derive(Clone)]
    struct Script {
        answers: Arc<Vec<Answer>>,
        place: Arc<AtomicUsize>,
        asked: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
    }

    async fn answer(State(script): State<Script>, headers: HeaderMap, body: Bytes) -> impl IntoResponse {
        let place = script.place.fetch_add(1, Ordering::Relaxed).min(script.answers.len() - 1);
        script.asked.lock().unwrap().push((headers, body));
        let (status, retry_after, body) = script.answers[place].clone();
        let mut headers = HeaderMap::new();
        headers.extend(retry_after.map(|seconds| (header::RETRY_AFTER, seconds.into())));
        (axum::http::StatusCode::from_u16(status).unwrap(), headers, body.to_string())
    }

    pub fn install_cryptography() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }

    pub fn impatient(server: &str, key: Option<&str>) -> Client {
        install_cryptography();
        let patience = Patience { attempts: 3, first_wait: Duration::ZERO, longest_wait: Duration::ZERO };
        Client::new(server, key.map(SecretString::from), patience).unwrap()
    }

    async fn daemon(answers: Vec<Answer>) -> (Client, Script) {
        let script = Script { answers: Arc::new(answers), place: Arc::default(), asked: Arc::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = impatient(&format!("http://{}/", listener.local_addr().unwrap()), Some("hush"));
        let app = Router::new().fallback(any(answer)).with_state(script.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (client, script)
    }

    fn receipt() -> Value {
        json!({ "id": "a", "deliveries": 2, "repeated": false, "skipped": [], "skipped_total": 0, "later": "ignored" })
    }

    fn busy() -> Answer {
        (429, Some(0), json!({ "title": "Too many jobs at once", "status": 429, "detail": "try later", "code": "busy", "problems": [] }))
    }

    #[tokio::test]
    async fn asks_again_when_told_to_wait_and_sends_the_same() {
        let (client, script) = daemon(vec![busy(), busy(), (202, None, receipt())]).await;
        let mut waits = Vec::new();
        let receipts = client.post_jobs("{}".to_owned(), |why| waits.push(why.to_owned())).await.unwrap();
        assert_eq!((receipts[0].id.as_str(), receipts[0].deliveries), ("a", 2));
        assert_eq!(waits[0], "the daemon refused (429): try later; trying again in 0s");
        let asked = script.asked.lock().unwrap();
        assert!(asked.len() == 3 && asked.iter().all(|(headers, body)| headers["authorization"] == "Bearer hush" && body == "{}"));
    }

    #[tokio::test]
    async fn patience_ends() {
        let (client, script) = daemon(vec![busy()]).await;
        let failure = Failure::from(client.post_jobs("{}".to_owned(), |_| {}).await.unwrap_err());
        assert_eq!((failure.exit, script.place.load(Ordering::Relaxed)), (Exit::Refused, 3));
    }

    #[tokio::test]
    async fn a_refusal_is_told_with_its_problems_and_not_repeated() {
        let problems = json!([{ "path": "$.to", "problem": "nobody to tell", "hint": "add one" }]);
        let body = json!({ "title": "The job is not good", "status": 422, "detail": "1 problem", "code": "invalid", "problems": problems });
        let (client, script) = daemon(vec![(422, None, body)]).await;
        let ApiError::Refused(refusal) = client.post_jobs("{}".to_owned(), |_| {}).await.unwrap_err() else { panic!("not refused") };
        assert_eq!((refusal.status, refusal.problems[0].path.as_str()), (422, "$.to"));
        assert_eq!(script.place.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn what_is_not_tarishi_is_told() {
        for answer in [(404, None, json!("<html>")), (200, None, json!("welcome")), (404, None, json!({ "error": "no" }))] {
            let (client, _) = daemon(vec![answer]).await;
            let failure = Failure::from(client.get::<Receipt>(&["v1", "status"]).await.unwrap_err());
            assert_eq!(failure.exit, Exit::Unreachable);
        }
    }

    #[tokio::test]
    async fn nobody_there_is_told() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut waits = 0;
        let error = impatient(&format!("http://{free}"), None).post_jobs("{}".to_owned(), |_| waits += 1).await.unwrap_err();
        assert!(error.to_string().contains("Connection refused"), "{error}");
        assert_eq!((Failure::from(error).exit, waits), (Exit::Unreachable, 2));
    }

    #[test]
    fn waits_double_and_honour_the_daemons_wish() {
        let patience = Patience::default();
        let seconds = |attempt, wish: Option<u64>| patience.wait(attempt, wish.map(Duration::from_secs)).map(|wait| wait.as_secs_f64());
        assert_eq!(seconds(1, None), Some(0.25));
        assert_eq!(seconds(2, Some(0)), Some(0.5));
        assert_eq!(seconds(8, None), Some(8.0));
        assert_eq!(seconds(1, Some(3)), Some(3.0));
        assert_eq!(seconds(1, Some(86_400)), Some(60.0));
        assert_eq!(seconds(9, None), None);
    }

    #[test]
    fn urls_are_of_daemons_and_paths_are_escaped() {
        let client = impatient("http://127.0.0.1:8001/base/", None);
        assert_eq!(client.url(&["v1", "jobs", "a/b c?"]).as_str(), "http://127.0.0.1:8001/base/v1/jobs/a%2Fb%20c%3F");
        for bad in ["127.0.0.1:8001", "ftp://x", "localhost", ""] {
            assert_eq!(Client::new(bad, None, Patience::default()).err().map(|failure| failure.exit), Some(Exit::Usage), "{bad}");
        }
    }
}
