//! The head of a connection's first request, and the head of the answer that switches protocols.
//!
//! Only what is beyond doubt is taken: a whole, well-formed `GET` that asks for a WebSocket and brings no body. All else, every error
//! included, is for hyper to read.

use std::{io, mem::MaybeUninit};

use axum::http::{
    HeaderName, HeaderValue, Request, Response, Uri,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};
use bytes::{BufMut as _, Bytes, BytesMut};
use memchr::memchr_iter;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::super::upgrade;

/// Header lines of a head, at most; hyper's limit too.
const LINES_LIMIT: usize = 100;
/// Room for the answer: its own lines and a subprotocol's.
const ANSWER_CAPACITY: usize = 192;

/// Reads into `bytes` until they hold the whole head of a request, or `limit` bytes, or the stream has ended.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin), bytes: &mut BytesMut, limit: usize) -> io::Result<()> {
    let mut searched = 0;
    while !ends_after(bytes, searched) && bytes.len() < limit {
        searched = bytes.len();
        if stream.read_buf(bytes).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// Whether there is an empty line, the end of a head, in what follows the first `searched` bytes. Nothing is searched twice, so that a
/// head that comes byte by byte costs no more than another.
fn ends_after(bytes: &[u8], searched: usize) -> bool {
    let from = searched.saturating_sub(2);
    let mut feeds = memchr_iter(b'\n', &bytes[from..]).map(|at| &bytes[from + at + 1..]);
    feeds.any(|rest| rest.starts_with(b"\n") || rest.starts_with(b"\r\n"))
}

/// The request that asks for a WebSocket, if that is what `bytes` begin with, and how many of them are its head.
pub(super) fn upgrade_in(bytes: &Bytes) -> Option<(Request<()>, usize)> {
    let mut lines = [const { MaybeUninit::uninit() }; LINES_LIMIT];
    let mut head = httparse::Request::new(&mut []);
    let parsed = head.parse_with_uninit_headers(bytes, &mut lines).ok()?;
    let (httparse::Status::Complete(length), Some("GET"), Some(1), Some(path)) = (parsed, head.method, head.version, head.path) else {
        return None;
    };
    let mut request = Request::new(());
    *request.uri_mut() = Uri::from_maybe_shared(bytes.slice_ref(path.as_bytes())).ok()?;
    let headers = request.headers_mut();
    headers.reserve(head.headers.len());
    for line in head.headers.iter() {
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(line.value)).ok()?;
        headers.append(HeaderName::from_bytes(line.name.as_bytes()).ok()?, value);
    }
    let has_body = [CONTENT_LENGTH, TRANSFER_ENCODING].iter().any(|name| headers.contains_key(name));
    (upgrade::is_asked_for(headers) && !has_body).then_some((request, length))
}

/// The answer as it goes over the wire. It has no body, nor says how long that is (RFC 9110, section 8.6).
pub(super) fn written(answer: &Response<impl Sized>) -> Bytes {
    let mut bytes = BytesMut::with_capacity(ANSWER_CAPACITY);
    let reason = answer.status().canonical_reason().unwrap_or_default();
    for part in ["HTTP/1.1 ", answer.status().as_str(), " ", reason, "\r\n"] {
        bytes.put_slice(part.as_bytes());
    }
    for (name, value) in answer.headers().iter().filter(|(name, _)| *name != CONTENT_LENGTH) {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            bytes.put_slice(part);
        }
    }
    bytes.put_slice(b"\r\n");
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    const GOOD: &str = "GET /ws?v=1 HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n";

    /// What is taken of `sent`, in pieces of every size the same: the target, and what is left.
    #[track_caller]
    fn check(sent: &str, expected: Option<(&str, &str)>) {
        let found = upgrade_in(&Bytes::copy_from_slice(sent.as_bytes()));
        let found = found.as_ref().map(|(request, length)| (request.uri().to_string(), &sent[*length..]));
        assert_eq!(found.as_ref().map(|(target, rest)| (target.as_str(), *rest)), expected, "{sent:?}");
    }

    #[test]
    fn only_plain_upgrades_are_taken() {
        check(GOOD, Some(("/ws?v=1", "")));
        check(&format!("{GOOD}more"), Some(("/ws?v=1", "more")));
        check(&GOOD.replace("\r\n", "\n"), Some(("/ws?v=1", "")));
        check(&GOOD.replace("Host: test\r\n", "Host: test\r\nHost: other\r\n"), Some(("/ws?v=1", "")));
        check(&GOOD.replace("Host: test\r\n", ""), Some(("/ws?v=1", "")));
        // Whether the rest is as it should be is the handshake's to judge.
        check(&GOOD.replace("keep-alive, Upgrade", "close"), Some(("/ws?v=1", "")));
        check(&GOOD.replace("GET", "POST"), None);
        check(&GOOD.replace("HTTP/1.1", "HTTP/1.0"), None);
        check(&GOOD.replace("WebSocket", "h2c"), None);
        check(&GOOD.replace("Host: test", "Content-Length: 0"), None);
        check(&GOOD.replace("Host: test", "Transfer-Encoding: chunked"), None);
        check(&GOOD.replace("Host: test", "Host : test"), None);
        check(&GOOD.replace("/ws", "http://["), None);
        check(&GOOD[..GOOD.len() - 1], None);
        check("\r\n\r\n", None);
        check("", None);
        let lines = |count| GOOD.replace("Host: test\r\n", &"A: b\r\n".repeat(count));
        check(&lines(LINES_LIMIT - 2), Some(("/ws?v=1", "")));
        check(&lines(LINES_LIMIT - 1), None);
    }

    /// How much of `sent` is read that arrives in pieces of so many bytes, then ends.
    async fn check_read(sent: &str, size: usize, limit: usize, expected: usize) {
        let (mut client, mut stream) = tokio::io::duplex(size);
        let sending = async move { client.write_all(sent.as_bytes()).await };
        let mut bytes = BytesMut::new();
        let (_, done) = tokio::join!(sending, async move {
            read(&mut stream, &mut bytes, limit).await.unwrap();
            bytes.len()
        });
        assert_eq!(done, expected, "{sent:?} in pieces of {size}");
    }

    #[tokio::test]
    async fn a_head_is_read_to_its_end_and_no_further_than_the_limit() {
        let with_feeds_alone = GOOD.replace("\r\n", "\n");
        for size in 1..=GOOD.len() {
            check_read(GOOD, size, 1024, GOOD.len()).await;
            check_read(&with_feeds_alone, size, 1024, with_feeds_alone.len()).await;
        }
        check_read(&format!("{GOOD}frames"), 1, 1024, GOOD.len()).await;
        check_read(GOOD, 1, 10, 10).await;
        check_read(&GOOD[..20], 1, 1024, 20).await;
        check_read("", 1, 1024, 0).await;
    }

    #[test]
    fn an_answer_is_written_without_a_body() {
        let answer = Response::builder().status(101).header("upgrade", "websocket").header("content-length", "0").header("x-more", "one");
        let answer = answer.body(()).unwrap();
        assert_eq!(written(&answer), "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nx-more: one\r\n\r\n");
    }
}
