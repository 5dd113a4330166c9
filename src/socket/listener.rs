//! The accept loops of both listeners: HTTP/1.1 with upgrades, over TCP or Unix sockets, with or without TLS, behind proxies or not; time
//! limits for whatever a client has to send, and limits on connections.
//!
//! A connection is one task, whatever becomes of it. Most of them ask for a WebSocket with their first request: that one is read here
//! (`head.rs`) and goes to the same routes as any other, or to a socket beside them (`app.rs`), and the session follows without HTTP's own
//! machinery having been set up. All else is hyper's. No routes and no authentication here; what an upgraded socket says is its session's.

mod app;
mod client;
mod endpoint;
mod head;
mod lingering;
mod permit;
mod proxy_header;
mod rewound;
mod switch;
mod tls;

use std::{
    convert::Infallible,
    io,
    net::IpAddr,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{BoxError, body::Body};
use bytes::BytesMut;
use futures_util::future::join_all;
use hyper::{
    Request, Response, StatusCode,
    body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint},
    header::{CONNECTION, EXPECT, HeaderValue, UPGRADE},
    server::conn::http1,
    service::service_fn,
    upgrade::{OnUpgrade, Parts},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::AsyncRead,
    net::{TcpStream, UnixStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_rustls::server::TlsStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::{
    app::App,
    client::ProxyTrust,
    endpoint::{BindError, Endpoint},
    tls::{Tls, TlsFile, TlsProblem},
};
use self::{
    client::Peer,
    endpoint::Accepted,
    lingering::Lingering,
    permit::{AddressLimit, AddressPermit},
    rewound::Rewound,
    switch::Session,
};
pub(super) use self::{permit::ConnectionPermit, switch::Switch};
use super::{
    body::{LentBody, TimedBody},
    error_response,
    wire::{Duplex, Wire},
};

/// How long to wait after an accept that failed for want of something (descriptors, memory): long enough not to spin, short enough
/// that a freed descriptor is used at once as people see it.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// Bytes one connection may buffer while a request's head or body is read, and so the longest head.
const CONNECTION_BUFFER_LIMIT: usize = 64 * 1024;
/// How long a client that is answered early has to notice that nobody reads what it sends.
const LINGER: Duration = Duration::from_secs(2);
/// Room for the first head, to begin with: a browser's, with a token and some cookies.
const HEAD_CAPACITY: usize = 2 * 1024;

#[derive(Clone, Debug)]
pub struct ListenerSettings {
    /// From the opening of a connection, or the end of a response on it, until the next request's head is complete. What comes before
    /// the first one, a proxy's header and a TLS handshake, has as long again.
    pub header_timeout: Duration,
    /// From the first wait for a request's body until it is complete.
    pub body_timeout: Duration,
    /// Connections open at once, upgraded ones included. One more is closed as soon as it is accepted.
    pub max_connections: usize,
    /// The same for each client's address, an IPv6 one with its /64. One more is closed, or where a trusted proxy brings it, refused.
    pub max_connections_per_address: usize,
    pub trust: ProxyTrust,
    /// On TCP connections.
    pub tls: Option<Arc<Tls>>,
    pub counters: Arc<ListenerCounters>,
}

impl ListenerSettings {
    /// Without proxies and TLS, and with no other limit than the total.
    pub fn direct(header_timeout: Duration, body_timeout: Duration, max_connections: usize, counters: Arc<ListenerCounters>) -> Self {
        Self {
            header_timeout,
            body_timeout,
            max_connections,
            max_connections_per_address: max_connections,
            trust: ProxyTrust::nobody(),
            tls: None,
            counters,
        }
    }
}

/// What the accept loops met, from the start of the process.
#[derive(Debug, Default)]
pub struct ListenerCounters {
    pub accepted: AtomicU64,
    /// Closed at once because `max_connections` were open.
    pub over_limit: AtomicU64,
    /// Closed or refused because `max_connections_per_address` were open.
    pub over_address_limit: AtomicU64,
    /// Accepts that failed for want of something, such as descriptors.
    pub accept_errors: AtomicU64,
    /// Closed because they did not begin with a trusted proxy's header, in time.
    pub proxy_refused: AtomicU64,
    /// Closed because no TLS came about, in time.
    pub tls_failed: AtomicU64,
    /// Closed because no whole request head came in time, idle ones included.
    pub header_timeouts: AtomicU64,
    /// Requests whose body was not complete in time.
    pub body_timeouts: AtomicU64,
    refused: Notify,
}

impl ListenerCounters {
    /// Waits until somebody is turned away: one of `over_limit`, `over_address_limit` and `proxy_refused` has moved.
    pub async fn refused(&self) {
        self.refused.notified().await;
    }

    fn refuse(&self, counter: &AtomicU64) {
        count(counter);
        self.refused.notify_one();
    }
}

/// Who is at the other end of a request, as far as trusted proxies say; an extension of every request. Nobody's address is known who
/// comes over a Unix socket without a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddr(pub Option<IpAddr>);

/// Accepts and serves connections until `shutdown`, then lets each finish the request it is in, which takes two seconds more where its
/// client is still sending what nobody reads. Ends when no more are accepted; the connections are on `tracker`.
pub async fn serve(endpoints: Vec<Endpoint>, app: App, settings: ListenerSettings, shutdown: CancellationToken, tracker: TaskTracker) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(settings.header_timeout).max_buf_size(CONNECTION_BUFFER_LIMIT);
    let serving = Arc::new(Serving {
        http,
        app,
        places: Arc::new(Semaphore::new(settings.max_connections.min(Semaphore::MAX_PERMITS))),
        addresses: Arc::new(AddressLimit::new(settings.max_connections_per_address)),
        settings,
        shutdown,
        tracker,
    });
    join_all(endpoints.into_iter().map(|endpoint| serving.clone().accept(endpoint))).await;
}

/// What the accept loops and the connections of a listener share.
struct Serving {
    http: http1::Builder,
    app: App,
    places: Arc<Semaphore>,
    addresses: Arc<AddressLimit>,
    settings: ListenerSettings,
    shutdown: CancellationToken,
    tracker: TaskTracker,
}

impl Serving {
    async fn accept(self: Arc<Self>, endpoint: Endpoint) {
        let counters = &self.settings.counters;
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return,
                accepted = endpoint.accept() => accepted,
            };
            match accepted {
                Ok(accepted) => {
                    count(&counters.accepted);
                    match self.places.clone().try_acquire_owned() {
                        Ok(place) => drop(self.tracker.spawn(self.clone().connection(accepted, place))),
                        Err(_) => counters.refuse(&counters.over_limit),
                    }
                }
                Err(error) if is_about_one_connection(&error) => {}
                Err(_) => {
                    count(&counters.accept_errors);
                    tokio::select! {
                        () = self.shutdown.cancelled() => return,
                        () = sleep(ACCEPT_BACKOFF) => {}
                    }
                }
            }
        }
    }

    async fn connection(self: Arc<Self>, accepted: Accepted, place: OwnedSemaphorePermit) {
        match accepted {
            Accepted::Tcp(stream, address) => self.arrived(stream, Peer::Address(address.ip().to_canonical()), true, place).await,
            // Boxed, as TLS below, so that the many plain connections are not as large as the largest.
            Accepted::Unix(stream) => Box::pin(self.arrived(stream, Peer::Unix, false, place)).await,
        }
    }

    /// What comes before the first request: the proxy's header, the place among those of its address, TLS.
    async fn arrived<S: Stream>(self: Arc<Self>, mut stream: S, peer: Peer, is_tcp: bool, place: OwnedSemaphorePermit) {
        let counters = &self.settings.counters;
        let peer = if self.settings.trust.proxy_protocol {
            match Box::pin(self.told_by_proxy(&mut stream, peer)).await {
                Some(peer) => peer,
                None => return counters.refuse(&counters.proxy_refused),
            }
        } else {
            peer
        };
        let Ok(address) = self.take_place(peer) else { return };
        let permit = ConnectionPermit::new(place, address);
        let Some(tls) = self.settings.tls.as_ref().filter(|_| is_tcp) else { return self.clone().http(stream, peer, permit).await };
        let handshake = tls.acceptor().accept(stream);
        Box::pin(async {
            match self.in_time(handshake).await {
                Some(Ok(stream)) => self.clone().http(stream, peer, permit).await,
                _ => count(&counters.tls_failed),
            }
        })
        .await;
    }

    /// Whom the proxy speaks for; `None` when it is not trusted, or does not say so properly and in time.
    async fn told_by_proxy(&self, stream: &mut (impl AsyncRead + Unpin), peer: Peer) -> Option<Peer> {
        if !self.settings.trust.trusts(peer) {
            return None;
        }
        let client = self.in_time(proxy_header::read(stream)).await?.ok()?;
        Some(client.map_or(peer, |address| Peer::Address(address.to_canonical())))
    }

    async fn in_time<T>(&self, step: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = timeout(self.settings.header_timeout, step) => done.ok(),
            () = self.shutdown.cancelled() => None,
        }
    }

    /// A place for `client` among those of its address, where it has one and is no proxy itself; an error when they are all taken.
    fn take_place(&self, client: Peer) -> Result<Option<AddressPermit>, OverLimit> {
        let Some(address) = client.address().filter(|_| !self.settings.trust.trusts(client)) else { return Ok(None) };
        let taken = self.addresses.take(address);
        if taken.is_none() {
            self.settings.counters.refuse(&self.settings.counters.over_address_limit);
        }
        taken.map(Some).ok_or(OverLimit)
    }

    async fn http<S: Stream>(self: Arc<Self>, stream: S, peer: Peer, permit: ConnectionPermit) {
        // Boxed, so that a session, which may last for days, does not carry the room for how it began.
        let Some(Switched { next, wire, read }) = Box::pin(self.until_switched(stream, peer, permit)).await else { return };
        let Next { session, permit } = next;
        session(wire, read).await;
        drop(permit);
    }

    /// Serves requests until one of them switches protocols, which often is the first.
    async fn until_switched<S: Stream>(&self, stream: S, peer: Peer, permit: ConnectionPermit) -> Option<Switched> {
        match self.open(stream, peer, &permit).await {
            Opened::Switched(switched) => Some(switched),
            Opened::Http(stream, first) => Box::pin(self.serve(stream, first, peer, &permit)).await,
            Opened::Late => None,
        }
    }

    /// Reads the head of the first request, and answers it if it asks for a WebSocket.
    async fn open<S: Stream>(&self, mut stream: S, peer: Peer, permit: &ConnectionPermit) -> Opened<S> {
        let mut read = BytesMut::with_capacity(HEAD_CAPACITY);
        tokio::select! {
            biased;
            // That the stream has ended or failed is met again by whoever reads on.
            in_time = timeout(self.settings.header_timeout, head::read(&mut stream, &mut read, CONNECTION_BUFFER_LIMIT)) => {
                if in_time.is_err() {
                    count(&self.settings.counters.header_timeouts);
                    return Opened::Late;
                }
            }
            () = self.shutdown.cancelled() => {}
        }
        let read = read.freeze();
        let Some((request, length)) = head::upgrade_in(&read) else { return Opened::Http(Rewound::new(stream, read), None) };
        let (response, next) = self.answer(request.map(|()| Body::empty()), peer, permit).await;
        let Some(next) = next else { return Opened::Http(Rewound::new(stream, read), Some(response)) };
        let mut wire = stream.into_wire();
        wire.finish(head::written(&response));
        Opened::Switched(Switched { next, wire, read: read[length..].to_vec() })
    }

    /// Serves one request after the other, until one of them switches protocols. `first` is the answer to the first, where there is one.
    async fn serve<S: Stream>(
        &self,
        stream: Rewound<S>,
        first: Option<Response<HeldBody>>,
        peer: Peer,
        permit: &ConnectionPermit,
    ) -> Option<Switched> {
        let (first, next) = (Mutex::new(first), Mutex::new(None));
        let peer_is_sending = Arc::new(AtomicBool::new(false));
        let stream = Lingering::new(stream, peer_is_sending.clone(), LINGER);
        self.serve_http(stream, |request| self.answer_next(request, &first, &next, &peer_is_sending, peer, permit)).await;
        let (upgrade, next) = taken(&next)?;
        let Parts { io, read_buf, .. } = upgrade.await.ok()?.downcast::<TokioIo<Lingering<Rewound<S>>>>().ok()?;
        let (stream, unread) = io.into_inner().into_inner().into_parts();
        Some(Switched { next, wire: stream.into_wire(), read: [read_buf, unread].concat() })
    }

    async fn serve_http<S: Stream, F>(&self, stream: Lingering<Rewound<S>>, answer: impl Fn(Request<Incoming>) -> F)
    where
        F: Future<Output = Result<Response<HeldBody>, Infallible>>,
    {
        let mut connection = pin!(self.http.serve_connection(TokioIo::new(stream), service_fn(answer)).with_upgrades());
        // How a connection ended is the peer's affair: timeouts, resets and malformed heads are all answered by closing it.
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if ended.is_err_and(|error| error.is_timeout()) {
            count(&self.settings.counters.header_timeouts);
        }
    }

    /// Answers a request of hyper's, with what is in `first` if it is that one; what follows is left in `next`. `peer_is_sending` is set when
    /// the peer is answered before it has sent all.
    async fn answer_next(
        &self,
        mut request: Request<Incoming>,
        first: &Mutex<Option<Response<HeldBody>>>,
        next: &Mutex<Option<(OnUpgrade, Next)>>,
        peer_is_sending: &AtomicBool,
        peer: Peer,
        permit: &ConnectionPermit,
    ) -> Result<Response<HeldBody>, Infallible> {
        if let Some(response) = taken(first) {
            return Ok(response);
        }
        let upgrade = request.extensions_mut().remove::<OnUpgrade>();
        let ListenerSettings { body_timeout, ref counters, .. } = self.settings;
        // Reading asks such a peer to send.
        let may_read_on = !request.headers().contains_key(EXPECT);
        let (parts, body) = request.into_parts();
        let (body, rest) = LentBody::new(body);
        let request = Request::from_parts(parts, TimedBody::new(body, body_timeout, counters.clone()));
        let (mut response, follows) = self.answer(request, peer, permit).await;
        if follows.is_none() && !rest.comes_to_its_end(may_read_on).await {
            peer_is_sending.store(true, Relaxed);
            // A refused upgrade has listed there what it offers.
            response.headers_mut().append(CONNECTION, HeaderValue::from_static("close"));
        }
        *next.lock().unwrap_or_else(PoisonError::into_inner) = upgrade.zip(follows);
        Ok(response)
    }

    /// The answer of whoever's route it is, and what follows if that switches protocols.
    async fn answer<B>(&self, mut request: Request<B>, peer: Peer, permit: &ConnectionPermit) -> (Response<HeldBody>, Option<Next>)
    where
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let (mut client, mut permit) = (peer, permit.clone());
        if self.settings.trust.trusts(peer) {
            // A proxy's connection carries the requests of many.
            client = self.settings.trust.client(peer, request.headers());
            let Ok(place) = self.take_place(client) else {
                let refused = error_response(StatusCode::TOO_MANY_REQUESTS, "too many connections from this address");
                return (refused.map(|body| HeldBody { body, _place: None }), None);
            };
            permit = permit.with_client(place);
        }
        let switch = request.headers().contains_key(UPGRADE).then(Switch::default);
        let extensions = request.extensions_mut();
        extensions.insert(PeerAddr(client.address()));
        extensions.insert(permit.clone());
        if let Some(switch) = &switch {
            extensions.insert(switch.clone());
        }
        let response = self.app.answer(request, switch.is_some()).await;
        let session = switch.and_then(|switch| switch.take());
        let response = response.map(|body| HeldBody { body, _place: permit.client() });
        (response, session.map(|session| Next { session, permit }))
    }
}

/// A connection after its first request was read.
enum Opened<S> {
    Switched(Switched),
    /// With the answer to the first request, where that is known.
    Http(Rewound<S>, Option<Response<HeldBody>>),
    /// There was none in time.
    Late,
}

/// A connection that speaks HTTP no longer.
struct Switched {
    next: Next,
    wire: Wire,
    /// What came with the request.
    read: Vec<u8>,
}

/// What follows an answer that switches protocols, and the places that are held by it.
struct Next {
    session: Session,
    permit: ConnectionPermit,
}

/// All places of an address are taken.
struct OverLimit;

/// What connections consist of.
trait Stream: Duplex {
    fn into_wire(self) -> Wire;
}

impl Stream for TcpStream {
    fn into_wire(self) -> Wire {
        Wire::tcp(self)
    }
}

impl Stream for UnixStream {
    fn into_wire(self) -> Wire {
        Wire::other(self)
    }
}

impl<S: Stream> Stream for TlsStream<S> {
    fn into_wire(self) -> Wire {
        Wire::other(self)
    }
}

/// A response's body, and the place of the client it goes to, for as long as it takes: a stream of events takes hours.
struct HeldBody {
    body: Body,
    _place: Option<Arc<AddressPermit>>,
}

impl HttpBody for HeldBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn taken<T>(place: &Mutex<Option<T>>) -> Option<T> {
    place.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// A peer that left before we took it says nothing about the next one.
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests;
