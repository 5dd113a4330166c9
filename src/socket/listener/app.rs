//! What a listener serves: a router, and beside it the sockets that need none.

use axum::{BoxError, Router, response::Response};
use futures_util::future::BoxFuture;
use hyper::{
    Request,
    body::{Body as HttpBody, Bytes},
    http::request::Parts,
};
use tower::ServiceExt as _;

type Answer = Box<dyn Fn(Parts) -> BoxFuture<'static, Response> + Send + Sync>;

/// Routes, and the sockets beside them.
pub struct App {
    router: Router,
    sockets: Vec<(&'static str, Answer)>,
}

impl From<Router> for App {
    fn from(router: Router) -> Self {
        Self { router, sockets: Vec::new() }
    }
}

impl App {
    /// Whoever asks for another protocol at `path` is answered by `answer`, past the router and its layers. The router has the path too, for
    /// all others.
    #[must_use]
    pub fn with_socket<F>(mut self, path: &'static str, answer: impl Fn(Parts) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response> + Send + 'static,
    {
        self.sockets.push((path, Box::new(move |parts| Box::pin(answer(parts)))));
        self
    }

    pub(super) async fn answer<B>(&self, request: Request<B>, asks_for_socket: bool) -> Response
    where
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let path = request.uri().path();
        if asks_for_socket && let Some((_, answer)) = self.sockets.iter().find(|(socket, _)| *socket == path) {
            return answer(request.into_parts().0).await;
        }
        let Ok(response) = self.router.clone().oneshot(request).await;
        response
    }
}
