//! Coming back after having been away: what was missed arrives first, in order and once, or the client is told plainly that it cannot.

use serde_json::json;

use super::{Client, notify, seqs};
use crate::support::{Setup, job, recipient};

#[tokio::test]
async fn what_was_missed_comes_first_and_then_what_is_new() {
    let mut setup = Setup::new();
    let daemon = setup.start().await;
    let (mut client, hello) = Client::open_v1(&daemon, "42", "").await;
    assert_eq!((&hello["seq"], &hello["unread"], &hello["user_id"]), (&json!(0), &json!(0), &json!(42)));
    let epoch = hello["epoch"].as_str().unwrap().to_owned();
    notify(&daemon, "first", "42").await;
    assert_eq!(seqs(&client.up_to("unread").await), [1]);
    client.close().await;
    for id in ["second", "third"] {
        notify(&daemon, id, "42").await;
    }
    let (mut client, hello) = Client::open_v1(&daemon, "42", &format!("&since=1&epoch={epoch}")).await;
    assert_eq!((&hello["seq"], &hello["unread"]), (&json!(3), &json!(3)));
    let frames = client.up_to("recovered").await;
    assert_eq!(seqs(&frames), [2, 3]);
    let recovered = frames.last().unwrap();
    assert_eq!((&recovered["recovered"], &recovered["from"], &recovered["to"]), (&json!(true), &json!(2), &json!(3)));
    notify(&daemon, "fourth", "42").await;
    assert_eq!(seqs(&client.up_to("unread").await), [4]);
    client.expect_silence().await;
    // Nothing was missed.
    let (mut client, _) = Client::open_v1(&daemon, "42", &format!("&since=4&epoch={epoch}")).await;
    let recovered = client.next().await;
    assert_eq!((&recovered["type"], &recovered["recovered"], &recovered["to"]), (&json!("recovered"), &json!(true), &json!(4)));
}

#[tokio::test]
async fn since_alone_is_enough_to_be_told() {
    let mut setup = Setup::new();
    let daemon = setup.start().await;
    notify(&daemon, "first", "42").await;
    let mut client = Client::try_open(&daemon, &format!("?since=0&token={}", crate::support::token("42")), None).await.unwrap();
    assert_eq!(client.next().await["type"], "hello");
    assert_eq!(seqs(&client.up_to("recovered").await), [1]);
}

#[tokio::test]
async fn what_cannot_be_recovered_is_told_plainly() {
    let mut setup = Setup::new().with("live.replay_limit", "3").with("store.inbox_limit", "6");
    let daemon = setup.start().await;
    for number in 1..=10 {
        notify(&daemon, &format!("job-{number}"), "42").await;
    }
    let (_, hello) = Client::open_v1(&daemon, "42", "").await;
    let epoch = hello["epoch"].as_str().unwrap();
    let not_recovered = async |since: i64, epoch: &str| {
        let (mut client, _) = Client::open_v1(&daemon, "42", &format!("&since={since}&epoch={epoch}")).await;
        let frame = client.next().await;
        assert_eq!((&frame["type"], &frame["recovered"]), (&json!("recovered"), &json!(false)), "{since} {epoch}: {frame}");
        assert_eq!(frame["seq"], 10);
        client
    };
    // Another history; a place that does not exist yet; further back than is told again; further back than is kept.
    not_recovered(9, "another").await;
    not_recovered(11, epoch).await;
    not_recovered(6, epoch).await;
    let mut client = not_recovered(3, epoch).await;
    // What comes from now on still does.
    notify(&daemon, "later", "42").await;
    assert_eq!(seqs(&client.up_to("unread").await), [11]);
    let (mut client, _) = Client::open_v1(&daemon, "42", &format!("&since=8&epoch={epoch}")).await;
    assert_eq!(seqs(&client.up_to("recovered").await), [9, 10, 11]);
}

#[tokio::test]
async fn a_long_replay_comes_in_pages_and_new_ones_wait_for_it() {
    let mut setup = Setup::new().with("live.replay_limit", "1000");
    let daemon = setup.start().await;
    let jobs: Vec<_> = (1..=450).map(|number| job(&format!("old-{number}"), &[recipient("42")], &["live"])).collect();
    daemon.api.post("/v1/jobs", &json!(jobs)).await.expect(202);
    daemon.drained().await;
    let jobs: Vec<_> = (1..=50).map(|number| job(&format!("new-{number}"), &[recipient("42")], &["live"])).collect();
    let jobs = json!(jobs);
    let (posted, opened) = tokio::join!(daemon.api.post("/v1/jobs", &jobs), Client::open_v1(&daemon, "42", "&since=0"));
    posted.expect(202);
    let mut client = opened.0;
    let mut seen = Vec::new();
    while seen.last() != Some(&500) {
        seen.extend(seqs(&[client.next().await]));
    }
    assert_eq!(seen, (1..=500).collect::<Vec<_>>());
}

#[tokio::test]
async fn replaced_and_deleted_items_leave_holes_and_changes_are_named() {
    let mut setup = Setup::new();
    let daemon = setup.start().await;
    let collapsing = |id: &str| {
        let mut job = job(id, &[recipient("42")], &["live"]);
        job["collapse_key"] = json!("conversation-7");
        job
    };
    notify(&daemon, "first", "42").await;
    notify(&daemon, "second", "42").await;
    let (mut phone, _) = Client::open_v1(&daemon, "42", "&since=0").await;
    let frames = phone.up_to("recovered").await;
    let id = frames[0]["id"].as_i64().unwrap();
    for number in 3..=5 {
        daemon.api.post("/v1/jobs", &collapsing(&format!("about-7-{number}"))).await.expect(202);
        daemon.finished(&format!("about-7-{number}")).await;
    }
    // Whoever is connected is told of each.
    let mut told = Vec::new();
    while told.len() < 3 {
        told.extend(seqs(&[phone.next().await]));
    }
    assert_eq!(told, [3, 4, 5]);
    // Whoever was away, of the last; and of what happened to what it had.
    phone.send(&json!({ "type": "read", "id": id })).await;
    assert_eq!(phone.next_of("changed").await["ids"], json!([id]));
    let (mut laptop, hello) = Client::open_v1(&daemon, "42", "&since=2").await;
    assert_eq!(hello["unread"], 2, "the second, and the last about 7");
    let frames = laptop.up_to("recovered").await;
    assert_eq!(seqs(&frames), [5]);
    let recovered = frames.last().unwrap();
    assert_eq!((&recovered["from"], &recovered["to"], &recovered["changed"]), (&json!(3), &json!(5), &json!([id])));
}

#[tokio::test]
async fn a_crash_loses_nothing_and_doubles_nothing() {
    let mut setup = Setup::new();
    let mut seen = Vec::new();
    let mut epoch = None;
    for life in 0..3 {
        let daemon = setup.start().await;
        let since = seen.last().copied().unwrap_or(0);
        let more = epoch.as_ref().map_or_else(String::new, |epoch| format!("&since={since}&epoch={epoch}"));
        let (mut client, hello) = Client::open_v1(&daemon, "42", &more).await;
        epoch = hello["epoch"].as_str().map(str::to_owned);
        if life > 0 {
            let frames = client.up_to("recovered").await;
            assert_eq!(frames.last().unwrap()["recovered"], true);
            seen.extend(seqs(&frames));
        }
        for number in 0..20 {
            daemon.api.post("/v1/jobs", &job(&format!("{life}-{number}"), &[recipient("42")], &["live"])).await.expect(202);
        }
        // Some have arrived; the rest is on its way or not even in the inbox.
        while seqs(&[client.next().await]).pop().is_none_or(|seq| {
            seen.push(seq);
            false
        }) {}
        daemon.process.kill().await;
    }
    let daemon = setup.start().await;
    daemon.drained().await;
    let since = seen.last().copied().unwrap();
    let (mut client, _) = Client::open_v1(&daemon, "42", &format!("&since={since}&epoch={}", epoch.unwrap())).await;
    seen.extend(seqs(&client.up_to("recovered").await));
    assert_eq!(seen, (1..=60).collect::<Vec<_>>());
}
