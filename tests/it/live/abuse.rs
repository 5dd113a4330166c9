//! Clients that mean harm, or are merely in a bad way: what they get, and that nobody else notices.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    Client, notify,
    raw::{CONTINUATION, PING, Raw, TEXT, frame, head},
    seqs, with_short_drain,
};
use crate::support::{Daemon, PATIENCE, Setup};

/// Sessions that ended for this reason, as the metrics count them.
async fn ended(daemon: &Daemon, reason: &str) -> u64 {
    let metrics = daemon.api.get("/metrics").await.text;
    let name = format!("tarishi_sockets_ended_total{{reason=\"{reason}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
}

/// Somebody else's notification comes as ever.
async fn expect_served(daemon: &Daemon, neighbour: &mut Client, id: &str) {
    notify(daemon, id, "43").await;
    assert_eq!(neighbour.next_of("notification").await["title"], format!("About {id}"));
}

/// Sends these bytes again and again until the daemon has ended the session for this reason.
async fn flood(daemon: &Daemon, raw: &mut Raw, bytes: &[u8], reason: &str) {
    let deadline = Instant::now() + PATIENCE;
    while ended(daemon, reason).await == 0 {
        raw.send(bytes).await;
        assert!(Instant::now() < deadline, "it is not ended");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_and_costs_nobody_anything() {
    // More than the kernel takes on top of the queue.
    const MOST: usize = 1000;
    let mut setup = with_short_drain().with("public.send_queue_limit", "64 KiB").with("socket.close_timeout", "2m");
    let daemon = setup.start().await;
    let mut slow = Raw::open_narrow(&daemon, "42").await;
    let (mut quick, _) = Client::open_v1(&daemon, "42", "").await;
    let (mut neighbour, _) = Client::open_v1(&daemon, "43", "").await;
    let message = "Habari ya leo ".repeat(3000);
    let mut count = 0;
    while ended(&daemon, "too_slow").await == 0 {
        count += 1;
        assert!(count < MOST, "it is never closed");
        let content = json!({ "title": "A long one", "body": message });
        let job = json!({ "id": format!("long-{count}"), "to": [{ "user_id": 42 }], "channels": ["live"], "content": content });
        daemon.api.post("/v1/jobs", &job).await.expect(202);
        assert_eq!(quick.next_of("notification").await["seq"], count);
    }
    expect_served(&daemon, &mut neighbour, "meanwhile").await;
    assert_eq!(daemon.api.get("/v1/status").await.expect(200)["sockets"], 2);
    // What was written before is there in order, and the rest after coming back.
    let (texts, code) = slow.rest().await;
    assert_eq!(code, Some(4408));
    let mut told = seqs(&texts);
    let last = *told.last().unwrap();
    let epoch = texts[0]["epoch"].as_str().unwrap();
    let (mut again, _) = Client::open_v1(&daemon, "42", &format!("&since={last}&epoch={epoch}")).await;
    told.extend(seqs(&again.up_to("recovered").await));
    assert!(last < i64::try_from(count).unwrap(), "nothing was held back: this proved nothing");
    assert_eq!(told, (1..=i64::try_from(count).unwrap()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_flood_of_pings_ends_the_one_who_sends_it() {
    let mut setup = with_short_drain();
    let daemon = setup.start().await;
    let (mut neighbour, _) = Client::open_v1(&daemon, "43", "").await;
    let mut raw = Raw::open(&daemon, "42").await;
    flood(&daemon, &mut raw, &frame(PING, true, b"").repeat(10_000), "too_many_messages").await;
    assert_eq!(raw.close_code().await, Some(4429));
    expect_served(&daemon, &mut neighbour, "meanwhile").await;
}

#[tokio::test]
async fn pings_that_are_allowed_are_answered_without_hoarding() {
    let mut setup = with_short_drain().with("socket.messages_per_second", "1000000").with("socket.messages_burst", "1000000");
    let daemon = setup.start().await;
    let (mut neighbour, _) = Client::open_v1(&daemon, "43", "").await;
    let mut raw = Raw::open_narrow(&daemon, "42").await;
    // The answers have nowhere to go until somebody reads them.
    assert!(raw.send(&frame(PING, true, &[7; 125]).repeat(50_000)).await);
    expect_served(&daemon, &mut neighbour, "meanwhile").await;
    raw.say(&json!({ "type": "ping" })).await;
    loop {
        let received = raw.next().await.expect("it is still open");
        if received.opcode == TEXT && serde_json::from_slice::<Value>(&received.payload).unwrap()["type"] == "pong" {
            break;
        }
    }
}

/// What is begun has to come to its end so soon; and no ping comes in between.
fn with_short_patience() -> Setup {
    with_short_drain().with("socket.pong_timeout", "300ms").with("socket.ping_interval", "1h")
}

#[tokio::test]
async fn a_message_that_is_begun_and_never_finished_is_given_up() {
    let mut setup = with_short_patience();
    let daemon = setup.start().await;
    let mut quiet = Raw::open(&daemon, "43").await;
    let half_a_frame = [head(0x80 | TEXT, 10), b"abc".to_vec()].concat();
    let half_a_head = vec![0x80 | TEXT];
    for begun in [half_a_frame, half_a_head, frame(TEXT, false, b"{\"type\":")] {
        let mut raw = Raw::open(&daemon, "42").await;
        raw.next_of("hello").await;
        raw.send(&begun).await;
        assert_eq!(raw.close_code().await, Some(1011), "{begun:?}");
    }
    assert_eq!(ended(&daemon, "silent").await, 3);
    // Who has begun nothing may say nothing.
    quiet.expect_answer().await;
}

#[tokio::test]
async fn fragments_without_an_end_are_given_up_however_many_come() {
    let mut setup = with_short_patience();
    let daemon = setup.start().await;
    let (mut neighbour, _) = Client::open_v1(&daemon, "43", "").await;
    let mut raw = Raw::open(&daemon, "42").await;
    raw.send(&frame(TEXT, false, b"")).await;
    // Empty ones: no limit on a message's size is ever reached.
    flood(&daemon, &mut raw, &frame(CONTINUATION, false, b"").repeat(1000), "silent").await;
    assert_eq!(raw.close_code().await, Some(1011));
    expect_served(&daemon, &mut neighbour, "meanwhile").await;
}

#[tokio::test]
async fn requests_whose_head_does_not_end_are_cut_off() {
    const CONNECTIONS: usize = 50;
    let mut setup = with_short_drain().with("public.header_timeout", "500ms");
    let daemon = setup.start().await;
    let (mut neighbour, _) = Client::open_v1(&daemon, "43", "").await;
    let mut slow = tokio::task::JoinSet::new();
    for number in 0..CONNECTIONS {
        let address = daemon.public;
        slow.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let deadline = Instant::now() + PATIENCE;
            stream.write_all(b"GET /ws/notifications/ HTTP/1.1\r\nHost: test\r\n").await.unwrap();
            // Some are silent from here on; the others go on for as long as they are let, a byte at a time.
            let mut rest = Vec::new();
            loop {
                let pause = Duration::from_millis(if number % 2 == 0 { 20 } else { 60_000 });
                match tokio::time::timeout(pause, stream.read_buf(&mut rest)).await {
                    Ok(Ok(0) | Err(_)) => return rest,
                    Ok(Ok(_)) => {}
                    Err(_) => {
                        let _cut_off = stream.write_all(b"x").await;
                    }
                }
                assert!(Instant::now() < deadline, "it is not cut off");
            }
        });
    }
    expect_served(&daemon, &mut neighbour, "meanwhile").await;
    while let Some(rest) = slow.join_next().await {
        let rest = rest.unwrap();
        assert!(!rest.starts_with(b"HTTP/1.1 1") && !rest.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&rest));
    }
    expect_served(&daemon, &mut neighbour, "afterwards").await;
}

#[tokio::test]
async fn pings_do_not_keep_an_unfinished_message_open() {
    let mut setup = with_short_patience();
    let daemon = setup.start().await;
    let mut raw = Raw::open(&daemon, "42").await;
    raw.next_of("hello").await;
    raw.send(&frame(TEXT, false, b"{\"type\":")).await;
    let begun = Instant::now();
    // One every 100 ms: less than anybody is allowed.
    while ended(&daemon, "silent").await == 0 {
        raw.send(&frame(PING, true, b"")).await;
        let _ = tokio::time::timeout(Duration::from_millis(100), std::future::pending::<()>()).await;
        assert!(begun.elapsed() < Duration::from_secs(5), "still open after {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn answering_pings_does_not_keep_an_unfinished_message_open() {
    let mut setup = with_short_drain().with("socket.pong_timeout", "300ms").with("socket.ping_interval", "100ms");
    let daemon = setup.start().await;
    let mut raw = Raw::open(&daemon, "42").await;
    raw.next_of("hello").await;
    raw.send(&frame(TEXT, false, b"{\"type\":")).await;
    let begun = Instant::now();
    while let Some(received) = raw.next().await {
        if received.opcode == PING {
            raw.send(&frame(super::raw::PONG, true, &received.payload)).await;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "still open after {:?}", begun.elapsed());
    }
}
