//! The accept loop of both listeners: HTTP/1.1 with upgrades, a time limits for head and body, and a limit on connections.
//!
//! No routes and no authentication here; what an upgraded socket says is its session's.

use std::{
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::Router;
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use super::body::TimedBody;

/// How long to wait after an accept that failed for want of something (descriptors, memory): long enough not to spin, short enough
/// that a freed descriptor is used at once as people see it.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// Bytes one connection may buffer while a request's head or body is read, and so the longest head.
const CONNECTION_BUFFER_LIMIT: usize = 64 * 1024;

#[derive(Clone, Debug)]
pub struct ListenerSettings {
    /// From the opening of a connection, or the end of a response on it, until the next request's head is complete.
    pub header_timeout: Duration,
    /// From the first wait for a request's body until it is complete.
    pub body_timeout: Duration,
    /// Connections open at once, upgraded ones included. One more is closed as soon as it is accepted.
    pub max_connections: usize,
    pub counters: Arc<ListenerCounters>,
}

/// What the accept loop met, from the start of the process.
#[derive(Debug, Default)]
pub struct ListenerCounters {
    pub accepted: AtomicU64,
    /// Closed at once because `max_connections` were open.
    pub over_limit: AtomicU64,
    /// Accepts that failed for want of something, such as descriptors.
    pub accept_errors: AtomicU64,
}

/// Who is at the other end of the connection; an extension of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddr(pub SocketAddr);

/// A connection's place among `max_connections`; an extension of every request. Whoever keeps an upgraded socket keeps this with it.
#[derive(Clone, Debug)]
pub(super) struct ConnectionPermit(#[expect(dead_code, reason = "held, and given back on drop")] Arc<OwnedSemaphorePermit>);

/// Accepts and serves connections until `shutdown`, then lets each finish the request it is in. Ends when no more are accepted; the
/// connections are on `tracker`.
pub async fn serve(listener: TcpListener, app: Router, settings: ListenerSettings, shutdown: CancellationToken, tracker: TaskTracker) {
    let permits = Arc::new(Semaphore::new(settings.max_connections.min(Semaphore::MAX_PERMITS)));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(settings.header_timeout).max_buf_size(CONNECTION_BUFFER_LIMIT);
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                settings.counters.accepted.fetch_add(1, Relaxed);
                match Arc::clone(&permits).try_acquire_owned() {
                    Ok(permit) => {
                        tracker.spawn(connection(
                            http.clone(),
                            settings.body_timeout,
                            stream,
                            peer,
                            app.clone(),
                            shutdown.clone(),
                            ConnectionPermit(Arc::new(permit)),
                        ));
                    }
                    Err(_) => {
                        settings.counters.over_limit.fetch_add(1, Relaxed);
                    }
                }
            }
            Err(error) if is_about_one_connection(&error) => {}
            Err(_) => {
                settings.counters.accept_errors.fetch_add(1, Relaxed);
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = sleep(ACCEPT_BACKOFF) => {}
                }
            }
        }
    }
}

/// A peer that left before we took it says nothing about the next one.
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset)
}

async fn connection(
    http: http1::Builder,
    body_timeout: Duration,
    stream: TcpStream,
    peer: SocketAddr,
    app: Router,
    shutdown: CancellationToken,
    permit: ConnectionPermit,
) {
    // Without it small frames wait for the peer's delayed ACK (SOCKETS.md, section 3). It fails only on a socket already reset.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(PeerAddr(peer));
        request.extensions_mut().insert(permit.clone());
        app.clone().oneshot(request.map(|body| TimedBody::new(body, body_timeout)))
    });
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
    // How a connection ended is the peer's affair: timeouts, resets and malformed heads are all answered by closing it.
    tokio::select! {
        _ended = connection.as_mut() => return,
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ended = connection.await;
}

#[cfg(test)]
mod tests {
    use axum::{
        Extension,
        extract::rejection::StringRejection,
        routing::{get, post},
    };
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::{super::BodyTimedOut, *};

    struct Running {
        addr: SocketAddr,
        counters: Arc<ListenerCounters>,
        shutdown: CancellationToken,
        tracker: TaskTracker,
    }

    async fn start(timeout: Duration, max_connections: usize) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let app = Router::new()
            .route("/peer", get(|Extension(PeerAddr(peer)): Extension<PeerAddr>| async move { peer.to_string() }))
            .route("/body", post(async |body: Result<String, StringRejection>| body.map_err(|rejected| told(&rejected))));
        let counters = Arc::new(ListenerCounters::default());
        let settings =
            ListenerSettings { header_timeout: timeout, body_timeout: timeout, max_connections, counters: Arc::clone(&counters) };
        let (shutdown, tracker) = (CancellationToken::new(), TaskTracker::new());
        tracker.spawn(serve(listener, app, settings, shutdown.clone(), tracker.clone()));
        Running { addr, counters, shutdown, tracker }
    }

    fn told(rejected: &StringRejection) -> String {
        BodyTimedOut::find(rejected).map_or_else(|| "something else".to_owned(), |timed_out| timed_out.to_string())
    }

    async fn get_peer(stream: &mut TcpStream) -> String {
        stream.write_all(b"GET /peer HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
        let expected = stream.local_addr().unwrap().to_string();
        let mut answer = Vec::new();
        while !answer.ends_with(expected.as_bytes()) {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "closed early: {}", String::from_utf8_lossy(&answer));
        }
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn serves_and_tells_the_peers_address_and_drains() {
        let running = start(Duration::from_mins(1), 10).await;
        let mut stream = TcpStream::connect(running.addr).await.unwrap();
        assert!(get_peer(&mut stream).await.starts_with("HTTP/1.1 200 OK\r\n"));
        running.shutdown.cancel();
        running.tracker.close();
        running.tracker.wait().await;
        assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0, "an idle connection is closed at shutdown");
    }

    #[tokio::test]
    async fn a_silent_connection_is_closed_after_the_header_timeout() {
        let running = start(Duration::from_millis(20), 10).await;
        let mut stream = TcpStream::connect(running.addr).await.unwrap();
        stream.write_all(b"GET /peer HTTP/1.1\r\nHo").await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!(!rest.starts_with(b"HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_given_up() {
        let running = start(Duration::from_millis(20), 10).await;
        for (sent, expected) in [("whole", "whole"), ("half", "the body was not complete within 20ms")] {
            let mut stream = TcpStream::connect(running.addr).await.unwrap();
            let request = format!("POST /body HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n{sent}");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.ends_with(expected), "{answer}");
        }
    }

    #[tokio::test]
    async fn one_connection_too_many_is_closed_at_once_and_counted() {
        let running = start(Duration::from_mins(1), 1).await;
        let mut first = TcpStream::connect(running.addr).await.unwrap();
        get_peer(&mut first).await;
        let mut second = TcpStream::connect(running.addr).await.unwrap();
        assert_eq!(second.read(&mut [0; 16]).await.unwrap_or(0), 0);
        assert_eq!(running.counters.over_limit.load(Relaxed), 1);
        assert_eq!(running.counters.accepted.load(Relaxed), 2);
        get_peer(&mut first).await;
    }
}
