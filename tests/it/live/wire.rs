//! Frames as bytes: what the Autobahn suite (`autobahn.rs`) leaves to be shown of the daemon itself.

use serde_json::{Value, json};

use super::raw::{BINARY, CLOSE, CONTINUATION, PING, PONG, Raw, TEXT, frame, head};
use crate::support::{Daemon, Setup};

/// Of one message, as the daemon is set up here.
const MESSAGE_LIMIT: usize = 64 * 1024;
const FIN: u8 = 0x80;

async fn open(daemon: &Daemon) -> Raw {
    let mut raw = Raw::open(daemon, "42").await;
    raw.next_of("hello").await;
    raw
}

/// A ping in JSON, filled up with spaces to this size.
fn padded(size: usize) -> Vec<u8> {
    let mut text = json!({ "type": "ping" }).to_string().into_bytes();
    text.resize(size, b' ');
    text
}

async fn start() -> (Setup, Daemon) {
    let mut setup = Setup::new()
        .with("socket.messages_per_second", "100000")
        .with("socket.messages_burst", "100000")
        .with("socket.message_limit", &MESSAGE_LIMIT)
        .with("shutdown.drain", "200ms");
    let daemon = setup.start().await;
    (setup, daemon)
}

#[tokio::test]
async fn messages_of_every_length_are_read_whole() {
    let (_setup, daemon) = start().await;
    let mut raw = open(&daemon).await;
    // About each place where the length is written in another way, and the limit.
    for size in [20, 124, 125, 126, 127, 128, 65_534, 65_535, MESSAGE_LIMIT] {
        raw.send(&frame(TEXT, true, &padded(size))).await;
        assert_eq!(raw.next_of("pong").await, json!({ "type": "pong" }), "{size}");
        // Not a message we understand, but a whole one: what follows is.
        raw.send(&frame(BINARY, true, &vec![0xfe; size])).await;
        raw.expect_answer().await;
    }
    // Octet by octet, and in frames of one octet with pings in between.
    for byte in frame(TEXT, true, &padded(500)) {
        raw.send(&[byte]).await;
    }
    raw.next_of("pong").await;
    let text = padded(500);
    let mut bytes = Vec::new();
    for (place, byte) in text.iter().enumerate() {
        bytes.extend(frame(if place == 0 { TEXT } else { CONTINUATION }, place + 1 == text.len(), &[*byte]));
        bytes.extend(frame(PING, true, &place.to_be_bytes()));
    }
    raw.send(&bytes).await;
    let mut answered = 0;
    loop {
        let received = raw.next().await.unwrap();
        match received.opcode {
            PONG => {
                // One that was not sent in time may be left out for the one after it (RFC 6455, section 5.5.3).
                let place = usize::from_be_bytes(received.payload.try_into().unwrap());
                assert!(place >= answered, "{place} after {answered}");
                answered = place;
            }
            TEXT => break,
            opcode => panic!("{opcode}"),
        }
    }
    raw.expect_answer().await;
}

/// What is sent, and the code it must be closed with.
async fn check_refused(daemon: &Daemon, what: &str, bytes: &[u8], code: u16) {
    let mut raw = open(daemon).await;
    raw.send(bytes).await;
    let (texts, closed) = raw.rest().await;
    assert_eq!(closed, Some(code), "{what}");
    // What followed it was not obeyed.
    assert_eq!(texts, Vec::<Value>::new(), "{what}");
}

#[tokio::test]
async fn what_is_no_message_closes_the_connection_with_the_reason() {
    let (_setup, daemon) = start().await;
    let ping = padded(20);
    let after = frame(TEXT, true, &ping);
    let unmasked = [&[FIN | TEXT, 20][..], &ping].concat();
    let cases: [(&str, Vec<u8>, u16); 16] = [
        ("a frame that is not masked", unmasked.clone(), 1002),
        ("one that is not masked, after one that is", [frame(BINARY, true, &ping), unmasked].concat(), 1002),
        ("a close that is not masked", vec![FIN | CLOSE, 2, 3, 0xe8], 1002),
        ("compressed, which nobody agreed on", head(FIN | 0x40 | TEXT, 0), 1002),
        ("a reserved opcode", frame(3, true, &ping), 1002),
        ("a reserved opcode of a control frame", frame(11, true, b""), 1002),
        ("a ping of 126 bytes", frame(PING, true, &[0; 126]), 1002),
        ("a ping in two parts", [frame(PING, false, b"a"), frame(CONTINUATION, true, b"b")].concat(), 1002),
        ("a continuation of nothing", frame(CONTINUATION, true, &ping), 1002),
        ("a message within another", [frame(TEXT, false, b"{"), frame(TEXT, true, &ping)].concat(), 1002),
        ("bad UTF-8", frame(TEXT, true, b"{\"type\":\"\xff\"}"), 1007),
        ("bad UTF-8 over two frames", [frame(TEXT, false, b"\xce"), frame(CONTINUATION, true, b"\xce")].concat(), 1007),
        ("one byte beyond the limit", frame(TEXT, true, &padded(MESSAGE_LIMIT + 1)), 1009),
        // Not a byte of it needs to come.
        ("a length that nobody has room for", head(FIN | TEXT, usize::try_from(i64::MAX).unwrap()), 1009),
        (
            "parts that together are beyond the limit",
            [frame(BINARY, false, &vec![0; MESSAGE_LIMIT]), frame(CONTINUATION, true, &[0])].concat(),
            1009,
        ),
        ("a close code that does not exist", frame(CLOSE, true, &[0x03, 0xec]), 1002),
    ];
    for (what, bytes, code) in cases {
        check_refused(&daemon, what, &[bytes, after.clone()].concat(), code).await;
    }
    // Nothing of it has harmed the daemon, nor is anything left of it.
    open(&daemon).await.expect_answer().await;
    daemon.process.until("all are gone", async || (daemon.api.get("/v1/status").await.expect(200)["sockets"] == 0).then_some(())).await;
    assert!(daemon.process.lines().iter().all(|line| !line.contains("panicked")));
}

#[tokio::test]
async fn a_close_is_answered_and_nothing_after_it_is_obeyed() {
    let (_setup, daemon) = start().await;
    for code in [1000_u16, 1001, 3000, 4999] {
        let close = frame(CLOSE, true, &code.to_be_bytes());
        check_refused(&daemon, "a close by the client", &[close, frame(TEXT, true, &padded(20))].concat(), code).await;
    }
    // Without a code it is answered without one.
    let mut raw = open(&daemon).await;
    raw.send(&frame(CLOSE, true, b"")).await;
    let answer = raw.next().await.unwrap();
    assert_eq!((answer.opcode, &answer.payload[..]), (CLOSE, &b""[..]));
    assert!(raw.next().await.is_none());
}
