//! The listener: connections, which request is whose, and answers that are late, broken, or none.

use std::{
    convert::Infallible,
    io,
    net::TcpListener as StdListener,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, Limited};
use hyper::{
    Method, Request as HttpRequest, Response,
    body::Incoming,
    header::{CONTENT_LENGTH, HeaderValue},
    rt::Executor,
    service::service_fn,
};
use hyper_util::{rt::TokioIo, server::conn::auto};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    answer::{self, Plan, Way},
    callback::CallbackName,
    control,
    exchange::{self, Checked, Received},
    fcm,
    keys::{Keys, MockCredentials},
    record::{Answered, Record, Request, kept_headers},
    script::{Answer, Fault, Playing, Provider, Rule},
    sendgrid,
    socket::Socket,
    spec::Specs,
    token::{self, Tokens},
    twilio,
    webhook::Webhooks,
};
use crate::model::Timestamp;

/// SendGrid takes mails of less than 30 MB; the others take less.
const BODY_LIMIT: usize = 30 * 1000 * 1000;
/// Long enough that an acceptance is read before what follows from it.
const DEFAULT_WEBHOOK_DELAY: Duration = Duration::from_millis(50);
/// How long to wait after an accept that failed for want of something, such as descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
const HUGE_BODY: usize = 10 * 1024 * 1024;
const HUGE_CHUNK: usize = 64 * 1024;
const DRIP_INTERVAL: Duration = Duration::from_secs(1);
/// A body that drips is at least so long: blanks after it change nothing but the time it takes.
const DRIP_BYTES: usize = 60;
/// Time for half an answer to leave before the connection ends.
const CUT_DELAY: Duration = Duration::from_millis(20);

/// What the providers know.
pub(super) struct Clouds {
    pub credentials: MockCredentials,
    pub keys: Keys,
    pub specs: Specs,
    pub tokens: Tokens,
    pub token_uri: String,
}

/// One request, for whoever watches.
#[derive(Clone, Debug)]
pub struct Seen {
    pub at: Timestamp,
    pub provider: Provider,
    pub path: String,
    /// The recipient in full; empty when it is not known.
    pub to: String,
    pub answered: Answered,
    pub accepted: bool,
    pub refused: Option<String>,
}

/// Everything a request needs.
pub(super) struct Shared {
    pub clouds: Arc<Clouds>,
    pub playing: Playing,
    pub record: Arc<Record>,
    /// Connections so far.
    pub connections: AtomicU64,
    pub webhooks: Webhooks,
    /// Every accepted message gets its usual callbacks.
    pub calls_back: bool,
    pub seen: Option<mpsc::Sender<Seen>>,
    pub tracker: TaskTracker,
    pub shutdown: CancellationToken,
}

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
enum Route<'a> {
    Mail,
    Scopes,
    Sms(&'a str),
    Messages(&'a str),
    Account(&'a str),
    Push(&'a str),
    Token,
    Control,
    WrongMethod(Provider),
    Nowhere,
}

/// Answers until the shutdown.
pub(super) async fn serve(listener: StdListener, shared: Arc<Shared>) {
    // It was made ready for this when it was bound.
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                shared.tracker.spawn(connection(stream, Arc::clone(&shared)));
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {}
            Err(_) => sleep(ACCEPT_BACKOFF).await,
        }
    }
}

/// One connection, of HTTP/1.1 or HTTP/2, until its end, the shutdown or a reset.
async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    // It fails only on a socket already reset.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let reset = CancellationToken::new();
    let http = auto::Builder::new(Tracked(shared.tracker.clone()));
    let number = shared.connections.fetch_add(1, Relaxed) + 1;
    let (served, resetting) = (Arc::clone(&shared), reset.clone());
    let service = service_fn(move |request| {
        let (shared, reset) = (Arc::clone(&served), resetting.clone());
        async move { Ok::<_, Infallible>(handle(&shared, number, &reset, request).await) }
    });
    let mut connection = pin!(http.serve_connection(TokioIo::new(Socket::new(stream, reset.clone())), service));
    // How a connection ended is the peer's affair.
    tokio::select! {
        // First, so that what hangs at the shutdown goes without an answer.
        biased;
        () = shared.shutdown.cancelled() => {}
        () = reset.cancelled() => {}
        _ended = connection.as_mut() => {}
    }
}

/// Spawns what HTTP/2 needs where the shutdown waits for it.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F: Future<Output: Send + 'static> + Send + 'static> Executor<F> for Tracked {
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

async fn handle(shared: &Arc<Shared>, connection: u64, reset: &CancellationToken, request: HttpRequest<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_LIMIT).collect().await else {
        return exchange::json(413, &serde_json::json!({ "errors": [{ "message": "payload too large", "field": null }] })).map(Body::from);
    };
    let (path, query) = (head.uri.path().to_owned(), head.uri.query().unwrap_or_default().to_owned());
    let (version, method, headers) = (head.version, head.method, head.headers);
    let received = Received { connection, version, method, path, query, headers, body: body.to_bytes() };
    let clouds = &shared.clouds;
    let (provider, is_probe, checked) = match route(&received.method, &received.path) {
        Route::Mail => (Provider::Sendgrid, false, sendgrid::send(&received, clouds)),
        Route::Scopes => (Provider::Sendgrid, true, sendgrid::scopes(&received, clouds)),
        Route::Sms(account) => (Provider::Twilio, false, twilio::send(account, &received, clouds)),
        Route::Messages(account) => (Provider::Twilio, true, twilio::messages(account, &received, clouds)),
        Route::Account(account) => (Provider::Twilio, true, twilio::account(account, &received, clouds)),
        Route::Push(project) => (Provider::Fcm, false, fcm::send(project, &received, clouds)),
        Route::Token => (Provider::Token, false, token::exchange_assertion(&received, clouds)),
        Route::Control => return control::answer(&received, shared).map(Body::from),
        Route::WrongMethod(provider) => return answer::failure(provider, 405, None, "").map(Body::from),
        Route::Nowhere => {
            let hint = "the mock answers /v3/…, /2010-04-01/…, /v1/projects/…, /token and /mock/…";
            return exchange::json(404, &serde_json::json!({ "error": "nothing is here", "hint": hint })).map(Body::from);
        }
    };
    let (way, delay) = shared.answer(provider, is_probe, received, checked).await;
    let answer = async {
        if let Some(delay) = delay {
            sleep(delay).await;
        }
        on_the_wire(way, reset).await
    };
    tokio::select! {
        response = answer => response,
        // Over HTTP/2 this outlives its connection, and has to end.
        () = shared.shutdown.cancelled() => exchange::empty(503).map(Body::from),
    }
}

impl Shared {
    /// Decides, keeps what there is to keep, and sets going what follows.
    async fn answer(&self, provider: Provider, is_probe: bool, received: Received, checked: Checked) -> (Way, Option<Duration>) {
        let Checked { to, delivery_id, body, outcome } = checked;
        let (plan, rule, subject, refused) = match outcome {
            Err(refused) => (Plan { accepted: false, way: Way::Whole(refused.reply) }, None, None, Some(refused.reason)),
            Ok(taken) => {
                let rule = self.playing.next(provider, is_probe, &to);
                let answer = rule.as_ref().map(|rule| rule.answer.clone()).unwrap_or_default();
                if answer == Answer::Named(Fault::Unauthenticated)
                    && let Some(token) = received.bearer().filter(|_| provider == Provider::Fcm)
                {
                    self.clouds.tokens.revoke(token);
                }
                let mut plan = answer::plan(provider, &answer, &to, taken.reply, Timestamp::now());
                plan.accepted &= taken.is_counted;
                (plan, rule, taken.subject, None)
            }
        };
        let fault = rule.as_ref().and_then(|rule| rule.answer.name());
        let answered = Answered { status: plan.way.status(), fault };
        let (at, accepted) = (Timestamp::now(), plan.accepted);
        if let Some(seen) = &self.seen {
            let (to, answered, refused) = (to.join(", "), answered.clone(), refused.clone());
            // Whoever stopped watching does not mind.
            let _ = seen.send(Seen { at, provider, path: received.path.clone(), to, answered, accepted, refused }).await;
        }
        self.record.add(provider, accepted, refused.is_some(), answered.fault.is_some(), |n| Request {
            n,
            at,
            provider,
            connection: received.connection,
            version: format!("{:?}", received.version),
            method: received.method.to_string(),
            path: received.path,
            headers: kept_headers(&received.headers),
            body,
            raw: String::from_utf8_lossy(&received.body).into_owned(),
            to: to.join(", "),
            delivery_id,
            answered,
            accepted,
            refused,
        });
        if let Some(subject) = subject.filter(|_| accepted) {
            let names = self.callbacks(provider, rule.as_ref());
            if !names.is_empty() {
                let delay = rule.as_ref().and_then(|rule| rule.webhook_delay).unwrap_or(DEFAULT_WEBHOOK_DELAY);
                self.webhooks.follow(subject, names, delay);
            }
        }
        (plan.way, rule.and_then(|rule| rule.delay))
    }

    fn callbacks(&self, provider: Provider, rule: Option<&Rule>) -> Vec<CallbackName> {
        match rule.and_then(|rule| rule.webhooks.clone()) {
            Some(names) => names,
            None if self.calls_back => CallbackName::usual(provider),
            None => Vec::new(),
        }
    }
}

fn route<'a>(method: &Method, path: &'a str) -> Route<'a> {
    let only = |wanted: &Method, provider: Provider, route: Route<'a>| if method == wanted { route } else { Route::WrongMethod(provider) };
    if path == "/v3/mail/send" {
        return only(&Method::POST, Provider::Sendgrid, Route::Mail);
    }
    if let Some(project) = path.strip_prefix("/v1/projects/").and_then(|rest| rest.strip_suffix("/messages:send")) {
        return only(&Method::POST, Provider::Fcm, Route::Push(project));
    }
    if let Some(rest) = path.strip_prefix("/2010-04-01/Accounts/") {
        return match (rest.strip_suffix("/Messages.json"), rest.strip_suffix(".json")) {
            (Some(account), _) if method == Method::GET => Route::Messages(account),
            (Some(account), _) => only(&Method::POST, Provider::Twilio, Route::Sms(account)),
            (None, Some(account)) if !account.contains('/') => only(&Method::GET, Provider::Twilio, Route::Account(account)),
            _ => Route::Nowhere,
        };
    }
    match path {
        "/v3/scopes" => only(&Method::GET, Provider::Sendgrid, Route::Scopes),
        "/token" => only(&Method::POST, Provider::Token, Route::Token),
        _ if path.starts_with("/mock/") => Route::Control,
        _ => Route::Nowhere,
    }
}

/// The answer as the client gets it, if it gets one.
async fn on_the_wire(way: Way, reset: &CancellationToken) -> Response<Body> {
    match way {
        Way::Whole(reply) => reply.map(Body::from),
        Way::Cut(reply) => cut(reply),
        Way::Drip(reply) => drip(reply),
        Way::Huge => huge(),
        Way::Hang => std::future::pending().await,
        Way::Reset => {
            reset.cancel();
            std::future::pending().await
        }
    }
}

/// Announces all of it, sends half.
fn cut(reply: exchange::Reply) -> Response<Body> {
    let (mut head, mut body) = reply.into_parts();
    if body.is_empty() {
        body = Bytes::from_static(b"{}");
    }
    head.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    let half = body.slice(..body.len() / 2);
    let parts = stream::unfold(Some(half), |half| async move {
        match half {
            Some(half) if !half.is_empty() => Some((Ok(half), Some(Bytes::new()))),
            Some(_) => {
                sleep(CUT_DELAY).await;
                Some((Err(io::Error::other("cut")), None))
            }
            None => None,
        }
    });
    Response::from_parts(head, Body::from_stream(parts))
}

fn drip(reply: exchange::Reply) -> Response<Body> {
    let (mut head, body) = reply.into_parts();
    let mut bytes = body.to_vec();
    bytes.resize(bytes.len().max(DRIP_BYTES), b' ');
    head.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    let drops = stream::unfold(Bytes::from(bytes), |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        sleep(DRIP_INTERVAL).await;
        let drop = rest.split_to(1);
        Some((Ok::<_, Infallible>(drop), rest))
    });
    Response::from_parts(head, Body::from_stream(drops))
}

fn huge() -> Response<Body> {
    const CHUNK: &[u8] = &[b'x'; HUGE_CHUNK];
    let (mut head, _) = exchange::html(500, Bytes::new()).into_parts();
    head.headers.insert(CONTENT_LENGTH, HeaderValue::from(HUGE_BODY));
    let chunks = stream::iter((0..HUGE_BODY / HUGE_CHUNK).map(|_| Ok::<_, Infallible>(Bytes::from_static(CHUNK))));
    Response::from_parts(head, Body::from_stream(chunks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: &Method, path: &str, expected: &Route<'_>) {
        assert_eq!(route(method, path), *expected);
    }

    #[test]
    fn requests_find_their_provider() {
        check(&Method::POST, "/v3/mail/send", &Route::Mail);
        check(&Method::GET, "/v3/mail/send", &Route::WrongMethod(Provider::Sendgrid));
        check(&Method::GET, "/v3/scopes", &Route::Scopes);
        check(&Method::POST, "/2010-04-01/Accounts/AC1/Messages.json", &Route::Sms("AC1"));
        check(&Method::GET, "/2010-04-01/Accounts/AC1/Messages.json", &Route::Messages("AC1"));
        check(&Method::PUT, "/2010-04-01/Accounts/AC1/Messages.json", &Route::WrongMethod(Provider::Twilio));
        check(&Method::GET, "/2010-04-01/Accounts/AC1.json", &Route::Account("AC1"));
        check(&Method::GET, "/2010-04-01/Accounts/AC1/Calls.json", &Route::Nowhere);
        check(&Method::POST, "/v1/projects/p/messages:send", &Route::Push("p"));
        check(&Method::POST, "/token", &Route::Token);
        check(&Method::PUT, "/mock/script", &Route::Control);
        check(&Method::GET, "/", &Route::Nowhere);
    }
}
