//! Requests to a listener, and answers easy to look at.

use reqwest::{Method, RequestBuilder, header::HeaderMap};
use serde_json::Value;

/// A client of one listener.
#[derive(Clone, Debug)]
pub struct Api {
    client: reqwest::Client,
    base: String,
    headers: HeaderMap,
}

/// What was answered.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
    /// The text as JSON; null when it is none.
    pub body: Value,
}

impl Api {
    pub fn new(base: impl Into<String>) -> Self {
        super::install_cryptography();
        Self { client: reqwest::Client::builder().no_proxy().build().unwrap(), base: base.into(), headers: HeaderMap::new() }
    }

    /// The same, with one more header on every request.
    pub fn with_header(&self, name: &'static str, value: &str) -> Self {
        let mut changed = self.clone();
        changed.headers.insert(name, value.parse().unwrap());
        changed
    }

    /// A client of what lies below `path`.
    pub fn below(&self, path: &str) -> Self {
        Self { base: format!("{}{path}", self.base), ..self.clone() }
    }

    pub fn with_bearer(&self, token: &str) -> Self {
        self.with_header("authorization", &format!("Bearer {token}"))
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base)).headers(self.headers.clone())
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await.unwrap()
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.request(Method::POST, path).json(body)).await.unwrap()
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.request(Method::PUT, path).json(body)).await.unwrap()
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.request(Method::PATCH, path).json(body)).await.unwrap()
    }

    pub async fn delete(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::DELETE, path)).await.unwrap()
    }
}

impl Answer {
    /// # Errors
    /// Nobody answered, or the answer broke off.
    pub async fn of(request: RequestBuilder) -> Result<Self, reqwest::Error> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        let body = serde_json::from_str(&text).unwrap_or_default();
        Ok(Self { status, headers, text, body })
    }

    /// The body, once the status is as it should be.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        self.body
    }

    /// Problem details (RFC 9457) with this status and code; gives the whole document.
    #[track_caller]
    pub fn expect_problem(self, status: u16, code: &str) -> Value {
        assert_eq!((self.status, self.body["code"].as_str()), (status, Some(code)), "{}", self.text);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(self.body["status"], status);
        assert!(self.body["title"].is_string() && self.body["detail"].is_string(), "{}", self.text);
        self.body
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// The problems of problem details, as `path: problem (hint)` each.
pub fn problems(document: &Value) -> Vec<String> {
    let text = |problem: &Value, member: &str| problem[member].as_str().unwrap_or_default().to_owned();
    document["problems"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|problem| format!("{}: {} ({})", text(problem, "path"), text(problem, "problem"), text(problem, "hint")))
        .collect()
}
