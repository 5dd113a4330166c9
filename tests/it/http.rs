//! The two listeners over real HTTP: what producers, operators, apps and web pages are answered.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tarishi::model::Timestamp;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Answer, Api, Daemon, Setup, job, problems, recipient, token};

const PUSH_TOKENS: &str = "/api/v1/communications/push_tokens/";

async fn start() -> (Setup, Daemon) {
    let mut setup = Setup::new();
    let daemon = setup.start().await;
    (setup, daemon)
}

/// How long from now, as jobs say it.
fn in_future(duration: Duration) -> String {
    Timestamp::now().saturating_add(duration).to_string()
}

/// Sends bytes as they are and reads the answer's status and the rest.
async fn raw(daemon: &Daemon, request: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(daemon.admin).await.unwrap();
    stream.write_all(request).await.unwrap();
    read_answer(&mut stream).await
}

async fn read_answer(stream: &mut TcpStream) -> (u16, String) {
    let mut answer = Vec::new();
    // Some refusals close the connection, others leave it to the client: the end of the document is the end.
    while !(answer.ends_with(b"}") || answer.ends_with(b"]")) {
        if stream.read_buf(&mut answer).await.unwrap_or(0) == 0 {
            break;
        }
    }
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap_or_default().parse().unwrap_or_default();
    (status, answer)
}

#[tokio::test]
async fn a_job_is_answered_once_it_is_committed() {
    let (_setup, daemon) = start().await;
    let incomplete = json!({ "user_id": "7" });
    let sent = job("order-1", &[recipient("42"), incomplete], &["email", "live"]);
    let answer = daemon.api.post("/v1/jobs", &sent).await.expect(202);
    assert_eq!(
        answer,
        json!({
            "id": "order-1",
            "deliveries": 3,
            "repeated": false,
            "skipped": [{ "user_id": "7", "channel": "email", "reason": "no_address" }],
            "skipped_total": 1,
        })
    );
    let job = daemon.finished("order-1").await;
    assert_eq!((&job["status"], &job["template"], &job["deliveries_total"]), (&json!("finished"), &json!("generic"), &json!(3)));
    assert!(job["accepted_at"].is_string() && job["finished_at"].is_string());
    assert_eq!(job["skipped"], answer["skipped"]);
    let email = job["deliveries"].as_array().unwrap().iter().find(|delivery| delivery["channel"] == "email").unwrap();
    assert_eq!((&email["status"], &email["provider"], &email["address"]), (&json!("sent"), &json!("outbox"), &json!("4***@p***.example")));
    let attempt = &email["attempts"][0];
    assert_eq!((&attempt["number"], &attempt["outcome"]), (&json!(1), &json!("sent")));
    let moment = |member: &str| attempt[member].as_str().unwrap().parse::<Timestamp>().unwrap();
    assert!(moment("started_at") <= moment("finished_at"), "{attempt}");
    // Without an id one is made; literal content needs no template.
    let made = json!({ "content": { "title": "Habari", "body": "Ya leo" }, "to": [recipient("42")] });
    let answer = daemon.api.post("/v1/jobs", &made).await.expect(202);
    assert_eq!(answer["deliveries"], 4, "every channel: {answer}");
    daemon.finished(answer["id"].as_str().unwrap()).await;
}

#[tokio::test]
async fn an_array_is_taken_whole_or_not_at_all() {
    let (_setup, daemon) = start().await;
    let good = |id: &str| job(id, &[recipient("42")], &["email"]);
    let answers = daemon.api.post("/v1/jobs", &json!([good("a"), good("b"), good("c")])).await.expect(202);
    let ids: Vec<&Value> = answers.as_array().unwrap().iter().map(|answer| &answer["id"]).collect();
    assert_eq!(ids, ["a", "b", "c"]);

    let mut bad = good("e");
    bad["to"][0]["email"] = json!("not an address");
    let refused = daemon.api.post("/v1/jobs", &json!([good("d"), bad, { "template": "generic" }])).await.expect_problem(422, "invalid");
    let told = problems(&refused);
    assert!(told[0].starts_with("$[1].to[0].email: not an email address"), "{told:?}");
    assert!(told[1].starts_with("$[2].id: `id` is missing"), "{told:?}");
    let unknown = daemon.api.get("/v1/jobs/d").await.expect_problem(404, "job_not_found");
    assert!(unknown["detail"].as_str().unwrap().contains("never accepted"));
    // One conflict refuses the others too.
    let mut other = good("a");
    other["data"]["title"] = json!("Another");
    let refused = daemon.api.post("/v1/jobs", &json!([good("f"), other])).await.expect_problem(409, "id_conflict");
    assert!(problems(&refused)[0].contains("`a` was accepted with another body"));
    daemon.api.get("/v1/jobs/f").await.expect_problem(404, "job_not_found");
    // A repeat beside a new one is answered as before.
    let answers = daemon.api.post("/v1/jobs", &json!([good("a"), good("f")])).await.expect(202);
    assert_eq!((&answers[0]["repeated"], &answers[1]["repeated"]), (&json!(true), &json!(false)));
}

#[tokio::test]
async fn a_repeat_is_answered_as_before_and_sends_nothing_twice() {
    let (setup, daemon) = start().await;
    let body = job("once", &[recipient("42"), json!({ "user_id": "7" })], &["email"]);
    let first = daemon.api.post("/v1/jobs", &body).await.expect(202);
    daemon.finished("once").await;
    // The same document in other words.
    let spaced = format!("\n {}  ", serde_json::to_string_pretty(&body).unwrap());
    let request = daemon.api.request(Method::POST, "/v1/jobs").header("content-type", "application/json; charset=utf-8").body(spaced);
    let again = Answer::of(request).await.unwrap().expect(202);
    assert_eq!((&again["id"], &again["deliveries"], &again["skipped"]), (&first["id"], &first["deliveries"], &first["skipped"]));
    assert_eq!((&first["repeated"], &again["repeated"]), (&json!(false), &json!(true)));
    // The id may come beside the document.
    let mut bare = job("", &[recipient("42")], &["email"]);
    bare.as_object_mut().unwrap().remove("id");
    for repeated in [false, true] {
        let keyed = daemon.api.with_header("idempotency-key", "beside").post("/v1/jobs", &bare).await.expect(202);
        assert_eq!((&keyed["id"], &keyed["repeated"]), (&json!("beside"), &json!(repeated)));
    }
    let bad = daemon.api.with_header("idempotency-key", " ").post("/v1/jobs", &bare).await.expect_problem(422, "invalid");
    assert!(problems(&bad)[0].starts_with("Idempotency-Key: not a job id"));
    // And survives a restart.
    daemon.finished("beside").await;
    daemon.process.kill().await;
    let mut setup = setup;
    let daemon = setup.start().await;
    assert_eq!(daemon.api.post("/v1/jobs", &body).await.expect(202)["repeated"], true);
    daemon.drained().await;
    assert!(setup.record().values().all(|(messages, _)| *messages == 1));
    let mut other = body;
    other["data"]["title"] = json!("Another");
    daemon.api.post("/v1/jobs", &other).await.expect_problem(409, "id_conflict");
}

#[tokio::test]
async fn a_bad_job_is_told_everything_that_is_wrong_with_it() {
    let (_setup, daemon) = start().await;
    let bad = json!({
        "template": "generic",
        "to": [{ "user_id": "42", "phone": "0712345678", "emial": "asha@example.com" }],
        "channels": ["email", "fax"],
        "priority": "urgent",
        "send_at": "tomorrow",
        "v": 2,
    });
    let refused = daemon.api.post("/v1/jobs", &bad).await.expect_problem(422, "invalid");
    let mut told = problems(&refused);
    told.sort();
    for (found, wanted) in told.iter().zip(["$.channels[1]", "$.priority", "$.send_at", "$.to[0].emial", "$.to[0].phone", "$.v"]) {
        assert!(found.starts_with(&format!("{wanted}: ")), "{found} is not about {wanted}");
    }
    assert_eq!(told.len(), 6, "{told:#?}");
    assert!(told[3].contains("did you mean `email`?"), "{}", told[3]);

    let unknown = daemon.api.post("/v1/jobs", &json!({ "template": "genric", "to": [recipient("42")] })).await;
    let told = problems(&unknown.expect_problem(422, "invalid"));
    assert_eq!(told, ["$.template: no template is called `genric` (did you mean `generic`?)"]);

    let poor = json!({ "template": "generic", "to": [recipient("42")], "data": { "title": 7 } });
    let mut told = problems(&daemon.api.post("/v1/jobs", &poor).await.expect_problem(422, "invalid"));
    told.sort();
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told[0].starts_with("$.data.message: is missing"), "{told:#?}");
    assert!(told[1].starts_with("$.data.title: has the wrong type: string is expected"), "{told:#?}");
    let rich = json!({ "id": "rich", "template": "generic", "to": [recipient("42")], "data": { "title": "a", "message": "b" } });
    let mut both = json!([rich, poor]);
    both[1]["id"] = json!("poor");
    let told = problems(&daemon.api.post("/v1/jobs", &both).await.expect_problem(422, "invalid"));
    assert!(told.iter().all(|problem| problem.starts_with("$[1].data.")), "{told:#?}");
    daemon.api.get("/v1/jobs/rich").await.expect_problem(404, "job_not_found");

    let request = daemon.api.request(Method::POST, "/v1/jobs").header("content-type", "application/json").body("{\"to\": ");
    Answer::of(request).await.unwrap().expect_problem(422, "malformed");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let request = daemon.api.request(Method::POST, "/v1/jobs").header("content-type", "application/json").body(deep);
    Answer::of(request).await.unwrap().expect_problem(422, "malformed");
    let request =
        daemon.api.request(Method::POST, "/v1/jobs").header("content-type", "application/json").body(&b"{\"id\":\"\xff\xfe\"}"[..]);
    Answer::of(request).await.unwrap().expect_problem(422, "malformed");
    assert_eq!(daemon.api.get("/v1/status").await.expect(200)["accepted"], 0);
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_read() {
    let mut setup = Setup::new().with("intake.data_limit", "1 KiB").with("intake.job_limit", "2 KiB").with("intake.request_limit", "4 KiB");
    setup.set("intake.in_flight_limit", "4 KiB");
    let daemon = setup.start().await;
    let head = format!("POST /v1/jobs HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n", daemon.admin);
    // Announced: refused without a byte of it.
    let (status, answer) = raw(&daemon, format!("{head}Content-Length: 5000\r\n\r\n").as_bytes()).await;
    assert_eq!(status, 413, "{answer}");
    assert!(answer.contains("intake.request_limit") && answer.contains("too_large"), "{answer}");
    // Not announced: refused once it is more than may be.
    let chunk = format!("1000\r\n{}\r\n", " ".repeat(0x1000));
    let (status, answer) = raw(&daemon, format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}{chunk}").as_bytes()).await;
    assert_eq!(status, 413, "{answer}");
    // One job in a request that is not too large.
    let large = json!({ "template": "generic", "to": vec![json!({ "user_id": "1" }); 200] });
    let refused = daemon.api.post("/v1/jobs", &large).await.expect_problem(413, "too_large");
    assert!(refused["detail"].as_str().unwrap().contains("intake.job_limit"), "{refused}");
    let wordy = json!({ "template": "generic", "to": [recipient("1")], "data": { "message": "x".repeat(1100) } });
    let told = problems(&daemon.api.post("/v1/jobs", &wordy).await.expect_problem(422, "invalid"));
    assert!(told[0].starts_with("$.data: ") && told[0].contains("intake.data_limit"), "{told:?}");
    // A chunked job that fits is taken.
    let body = job("chunked", &[recipient("42")], &["email"]).to_string();
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    assert_eq!(raw(&daemon, chunked.as_bytes()).await.0, 202);
}

#[tokio::test]
async fn one_who_does_not_send_what_was_announced_keeps_nobody_out_for_long() {
    let mut setup =
        Setup::new().with("intake.request_limit", "4 MiB").with("intake.in_flight_limit", "4 MiB").with("admin.body_timeout", "1s");
    let daemon = setup.start().await;
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{{",
        daemon.admin,
        4 << 20
    );
    let body = job("patient", &[recipient("42")], &["email"]);
    // All the room there is goes to the one who is slow: the others are asked to come back.
    let mut slow = Vec::new();
    loop {
        let mut stalled = TcpStream::connect(daemon.admin).await.unwrap();
        stalled.write_all(head.as_bytes()).await.unwrap();
        slow.push(stalled);
        let answer = daemon.api.post("/v1/jobs", &body).await;
        // Whoever was quicker than the slow one's head tells nothing: once more.
        if answer.status == 429 {
            assert_eq!(answer.header("retry-after"), "1");
            answer.expect_problem(429, "busy");
            break;
        }
    }
    // They are let in once its time is over.
    daemon
        .process
        .until("the job is taken", async || {
            let answer = daemon.api.post("/v1/jobs", &body).await;
            (answer.status != 429).then(|| answer.expect(202))
        })
        .await;
    let mut answers = Vec::new();
    for mut stalled in slow {
        answers.push(read_answer(&mut stalled).await.0);
    }
    // One had the room; those that came while it did, if any, were asked to come back too.
    assert_eq!(answers.iter().filter(|status| **status == 408).count(), 1, "{answers:?}");
    assert!(answers.iter().all(|status| matches!(status, 408 | 429)), "{answers:?}");
}

#[tokio::test]
async fn a_web_page_cannot_drive_the_admin_listener() {
    let (_setup, daemon) = start().await;
    let body = job("forged", &[recipient("42")], &["email"]);
    let misdirected = daemon.api.with_header("host", "rebound.example:8001").get("/v1/status").await;
    let refused = misdirected.expect_problem(421, "host_not_allowed");
    assert!(refused["detail"].as_str().unwrap().contains("admin.hosts"));
    daemon.api.with_header("host", "rebound.example").post("/v1/jobs", &body).await.expect_problem(421, "host_not_allowed");
    daemon.api.with_header("host", "localhost").get("/v1/status").await.expect(200);
    let foreign = daemon.api.with_header("origin", "https://evil.example");
    foreign.post("/v1/jobs", &body).await.expect_problem(403, "origin_not_allowed");
    foreign.get("/v1/deliveries").await.expect_problem(403, "origin_not_allowed");
    daemon.api.with_header("origin", "null").post("/v1/jobs", &body).await.expect_problem(403, "origin_not_allowed");
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
        let request = daemon.api.request(Method::POST, "/v1/jobs").header("content-type", content_type).body(body.to_string());
        Answer::of(request).await.unwrap().expect_problem(415, "not_json");
    }
    assert_eq!(daemon.api.get("/v1/status").await.expect(200)["accepted"], 0);
    let own = daemon.api.with_header("origin", &format!("http://{}", daemon.admin));
    own.post("/v1/jobs", &body).await.expect(202);
    // Nothing here may be framed, sniffed or kept.
    let page = daemon.api.get("/").await;
    assert!(page.header("content-security-policy").contains("default-src 'none'"));
    assert!(page.header("content-security-policy").contains("frame-ancestors 'none'"));
    assert_eq!((page.header("x-content-type-options"), page.header("referrer-policy")), ("nosniff", "no-referrer"));
}

#[tokio::test]
async fn beyond_loopback_keys_are_asked_for_and_scoped() {
    let keys = [("producer", "enqueue"), ("reader", "read"), ("operator", "operate")].map(|(key, scope)| {
        use sha2::Digest as _;
        format!("{{ name = \"{key}\", sha256 = \"{:x}\", scopes = [\"{scope}\"] }}", sha2::Sha256::digest(key))
    });
    let mut setup = Setup::new().with("admin.listen", "0.0.0.0:0");
    let Err((process, ended)) = setup.try_start(&[]).await else { panic!("open to everybody, and it runs") };
    assert_eq!(ended.code, Some(3));
    assert!(process.lines().join("\n").contains("api_keys"), "{:?}", process.lines());

    setup.set("admin.api_keys", &format!("[{}]", keys.join(", ")));
    let daemon = setup.start().await;
    let api = Api::new(format!("http://127.0.0.1:{}", daemon.admin.port()));
    let body = job("keyed", &[recipient("42")], &["email"]);
    let missing = api.post("/v1/jobs", &body).await;
    missing.expect_problem(401, "key_missing");
    api.get("/v1/status").await.expect_problem(401, "key_missing");
    api.get("/metrics").await.expect_problem(401, "key_missing");
    api.with_bearer("guess").get("/v1/status").await.expect_problem(401, "key_unknown");
    let (producer, reader, operator) = (api.with_bearer("producer"), api.with_bearer("reader"), api.with_bearer("operator"));
    let refused = reader.post("/v1/jobs", &body).await.expect_problem(403, "scope_missing");
    assert_eq!(refused["detail"], "the API key `reader` has no scope `enqueue`");
    producer.post("/v1/jobs", &body).await.expect(202);
    producer.get("/v1/jobs/keyed").await.expect_problem(403, "scope_missing");
    reader.get("/v1/jobs/keyed").await.expect(200);
    reader.delete("/v1/jobs/keyed").await.expect_problem(403, "scope_missing");
    operator.delete("/v1/jobs/keyed").await.expect(200);
    producer.put("/v1/users/42", &json!({ "name": "Asha" })).await.expect(200);
    producer.delete("/v1/users/42").await.expect_problem(403, "scope_missing");
    operator.delete("/v1/users/42").await.expect(204);
    // Probes need none.
    assert_eq!(api.get("/livez").await.status, 200);
    api.get("/readyz").await.expect(200);
    let cancelled = daemon.process.find_line(|line| line.contains("\"job cancelled\"").then(|| line.to_owned())).await.unwrap();
    assert!(cancelled.contains("\"by\":\"operator\""), "{cancelled}");
    assert!(!daemon.process.lines().iter().any(|line| line.contains("guess")), "a key in the log");
}

#[tokio::test]
async fn jobs_and_deliveries_are_paged_and_filtered() {
    let (_setup, daemon) = start().await;
    let people: Vec<Value> = (0..230).map(|number| recipient(&format!("u{number}"))).collect();
    daemon.api.post("/v1/jobs", &job("many", &people, &["email"])).await.expect(202);
    let literal = json!({ "id": "literal", "content": { "title": "T", "body": "B" }, "to": [recipient("u7")], "channels": ["sms"] });
    daemon.api.post("/v1/jobs", &literal).await.expect(202);
    daemon.drained().await;

    let first = daemon.api.get("/v1/jobs/many").await.expect(200);
    assert_eq!((first["deliveries"].as_array().unwrap().len(), &first["next_cursor"]), (100, &json!("100")));
    let last = daemon.api.get("/v1/jobs/many?cursor=200").await.expect(200);
    assert_eq!((last["deliveries"].as_array().unwrap().len(), &last["next_cursor"]), (30, &Value::Null));
    let all = daemon.deliveries("many").await;
    let mut ids: Vec<&str> = all.iter().map(|delivery| delivery["id"].as_str().unwrap()).collect();
    ids.dedup();
    assert_eq!((ids.len(), ids.is_sorted()), (230, true));

    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = daemon.api.get(&format!("/v1/deliveries?limit=50{cursor}")).await.expect(200);
        seen.extend(page["deliveries"].as_array().unwrap().iter().map(|delivery| delivery["id"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 231);
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 231, "nothing is listed twice");

    let count = async |query: &str| {
        let page = daemon.api.get(&format!("/v1/deliveries?limit=500&{query}")).await.expect(200);
        page["deliveries"].as_array().unwrap().len()
    };
    assert_eq!(count("channel=sms").await, 1);
    assert_eq!(count("user=u7").await, 2);
    assert_eq!(count("user=u7&channel=email").await, 1);
    assert_eq!(count("template=generic").await, 230);
    assert_eq!(count("status=sent").await, 231);
    assert_eq!(count("status=failed").await, 0);
    assert_eq!(count("status=queued").await, 0);
    assert_eq!(count("status=sent&template=generic&user=u7").await, 1);
    assert_eq!(count("since=2020-01-01T00:00:00Z").await, 231);
    assert_eq!(count("since=2120-01-01T00:00:00Z").await, 0);

    let refused = daemon.api.get("/v1/deliveries?stauts=sent&limit=0&since=yesterday&channel=fax").await.expect_problem(422, "invalid");
    let told = problems(&refused);
    assert!(told.iter().any(|problem| problem == "stauts: unknown parameter `stauts` (did you mean `status`?)"), "{told:?}");
    assert!(told.iter().any(|problem| problem.starts_with("limit: not a number of rows")), "{told:?}");
    assert!(told.iter().any(|problem| problem.starts_with("since: not an RFC 3339")), "{told:?}");
    assert_eq!(told.len(), 4, "{told:?}");
    daemon.api.get("/v1/deliveries?cursor=nonsense").await.expect_problem(422, "invalid");
    daemon.api.get("/v1/jobs/many?cursor=x").await.expect_problem(422, "invalid");
    daemon.api.get("/v1/deliveries?status=sent&status=failed").await.expect(200);
}

#[tokio::test]
async fn a_job_is_sent_neither_before_its_time_nor_after_it() {
    let (setup, daemon) = start().await;
    let mut later = job("later", &[recipient("42")], &["email", "live"]);
    later["send_at"] = json!(in_future(Duration::from_secs(2)));
    daemon.api.post("/v1/jobs", &later).await.expect(202);
    let waiting = daemon.api.get("/v1/jobs/later").await.expect(200);
    for delivery in waiting["deliveries"].as_array().unwrap() {
        assert_eq!((&delivery["status"], &delivery["next_at"]), (&json!("queued"), &later["send_at"]));
    }
    let status = daemon.api.get("/v1/status").await.expect(200);
    assert!(status["lanes"].as_array().unwrap().iter().any(|lane| lane["next_due_at"] == later["send_at"]), "{status:#}");
    let sent = daemon.finished("later").await;
    let send_at: Timestamp = later["send_at"].as_str().unwrap().parse().unwrap();
    for delivery in sent["deliveries"].as_array().unwrap() {
        let started: Timestamp = delivery["attempts"][0]["started_at"].as_str().unwrap().parse().unwrap();
        assert!(started >= send_at, "{delivery:#}");
        assert_eq!(delivery["status"], "sent");
    }
    let mut stale = job("stale", &[recipient("42")], &["email", "sms", "live"]);
    stale["expires_at"] = json!("2020-01-01T00:00:00Z");
    daemon.api.post("/v1/jobs", &stale).await.expect(202);
    let expired = daemon.finished("stale").await;
    for delivery in expired["deliveries"].as_array().unwrap() {
        assert_eq!((&delivery["status"], &delivery["code"], &delivery["attempts"]), (&json!("expired"), &json!("expired"), &json!([])));
    }
    assert_eq!(setup.record().len(), 1);
    // Scheduled for a time after a restart.
    later["id"] = json!("after-restart");
    later["send_at"] = json!(in_future(Duration::from_secs(1)));
    daemon.api.post("/v1/jobs", &later).await.expect(202);
    assert_eq!(daemon.terminate().await.code, Some(0));
    let mut setup = setup;
    let daemon = setup.start().await;
    assert_eq!(daemon.finished("after-restart").await["deliveries"][0]["status"], "sent");
}

#[tokio::test]
async fn a_newer_delivery_takes_the_place_of_an_older_one_still_queued() {
    let (_setup, daemon) = start().await;
    let collapsing = |id: &str, user: &str| {
        let mut body = job(id, &[recipient(user)], &["push", "email"]);
        body["collapse_key"] = json!("conversation-7");
        body["send_at"] = json!(in_future(Duration::from_mins(10)));
        body
    };
    daemon.api.post("/v1/jobs", &collapsing("older", "42")).await.expect(202);
    daemon.api.post("/v1/jobs", &collapsing("others", "43")).await.expect(202);
    let mut newer = collapsing("newer", "42");
    newer["channels"] = json!(["push"]);
    daemon.api.post("/v1/jobs", &newer).await.expect(202);
    let older = daemon.api.get("/v1/jobs/older").await.expect(200);
    for delivery in older["deliveries"].as_array().unwrap() {
        let expected =
            if delivery["channel"] == "push" { (json!("cancelled"), json!("collapsed")) } else { (json!("queued"), Value::Null) };
        assert_eq!((delivery["status"].clone(), delivery["code"].clone()), expected, "per user and channel");
    }
    assert_eq!(daemon.api.get("/v1/jobs/others").await.expect(200)["open"], 2);
    assert_eq!(daemon.api.get("/v1/audit").await.expect(200)["balanced"], true);
}

#[tokio::test]
async fn a_cancelled_job_says_what_was_in_time() {
    let (setup, daemon) = start().await;
    let people: Vec<Value> = (0..1200).map(|number| recipient(&format!("u{number}"))).collect();
    let mut planned = job("planned", &people, &["email"]);
    planned["send_at"] = json!(in_future(Duration::from_mins(10)));
    daemon.api.post("/v1/jobs", &planned).await.expect(202);
    let cancelled = daemon.api.delete("/v1/jobs/planned").await.expect(200);
    assert_eq!(cancelled, json!({ "cancelled": 1200, "too_late": 0 }));
    let job_then = daemon.finished("planned").await;
    assert_eq!((&job_then["status"], &job_then["deliveries_total"]), (&json!("cancelled"), &json!(1200)));
    assert!(daemon.deliveries("planned").await.iter().all(|delivery| delivery["code"] == "cancelled_by_request"));
    let again = daemon.api.delete("/v1/jobs/planned").await.expect(200);
    assert_eq!(again, json!({ "cancelled": 0, "too_late": 0 }));
    daemon.api.post("/v1/jobs", &job("gone", &[recipient("42")], &["email"])).await.expect(202);
    daemon.finished("gone").await;
    assert_eq!(daemon.api.delete("/v1/jobs/gone").await.expect(200), json!({ "cancelled": 0, "too_late": 0 }));
    daemon.api.delete("/v1/jobs/never").await.expect_problem(404, "job_not_found");
    assert_eq!(setup.record().len(), 1);
    assert_eq!(daemon.api.get("/v1/audit").await.expect(200)["balanced"], true);
}

#[tokio::test]
async fn contacts_complete_what_a_job_leaves_out() {
    let (_setup, daemon) = start().await;
    let path = "/v1/users/42";
    daemon.api.get(path).await.expect_problem(404, "contact_not_found");
    let contact = json!({
        "name": "Asha",
        "email": "asha@contact.example",
        "locale": "sw",
        "timezone": "Africa/Dar_es_Salaam",
        "push_tokens": [{ "token": "phone-of-42", "platform": "android" }],
    });
    let put = daemon.api.put(path, &contact).await.expect(200);
    assert_eq!((&put["email"], &put["push_tokens"][0]["token"]), (&contact["email"], &json!("phone-of-42")));
    let patched = daemon.api.patch(path, &json!({ "phone": "+255700000042", "timezone": null })).await.expect(200);
    assert_eq!((&patched["name"], &patched["phone"], patched.get("timezone")), (&json!("Asha"), &json!("+255700000042"), None));
    let told = problems(&daemon.api.patch(path, &json!({ "email": "x", "fax": "1" })).await.expect_problem(422, "invalid"));
    assert!(told[0].starts_with("$.email: ") && told[1].starts_with("$.fax: "), "{told:?}");
    let mut kept = daemon.api.get(path).await.expect(200);
    let presence = kept.as_object_mut().unwrap().remove("presence");
    assert_eq!(kept, patched, "a refused change changes nothing");
    assert_eq!(presence, Some(json!({ "online": false, "connections": 0 })));

    let bare = json!({ "user_id": 42 });
    daemon.api.post("/v1/jobs", &job("known", std::slice::from_ref(&bare), &["email", "sms", "push", "live"])).await.expect(202);
    let known = daemon.finished("known").await;
    assert_eq!((&known["deliveries_total"], &known["skipped"]), (&json!(4), &json!([])));
    let sent_to = async |job: &str, channel: &str| {
        let outbox = daemon.api.get(&format!("/v1/outbox?user=42&channel={channel}")).await.expect(200);
        let messages = outbox["messages"].as_array().unwrap().clone();
        messages.into_iter().find(|message| message["job_id"] == job).unwrap()
    };
    assert_eq!(sent_to("known", "email").await["to"], "asha@contact.example");
    assert_eq!(sent_to("known", "sms").await["to"], "+255700000042");
    assert_eq!(sent_to("known", "push").await["to"], "phone-of-42");
    // What the job brings wins.
    let own = json!({ "user_id": "42", "email": "work@job.example" });
    daemon.api.post("/v1/jobs", &job("own", &[own], &["email"])).await.expect(202);
    daemon.finished("own").await;
    assert_eq!(sent_to("own", "email").await["to"], "work@job.example");

    daemon.api.delete(path).await.expect(204);
    daemon.api.delete(path).await.expect_problem(404, "contact_not_found");
    let answer = daemon.api.post("/v1/jobs", &job("unknown", &[bare], &["email", "push"])).await.expect(202);
    assert_eq!((&answer["deliveries"], &answer["skipped_total"]), (&json!(0), &json!(2)));
    assert_eq!(daemon.api.get("/v1/jobs/unknown").await.expect(200)["status"], "finished");
    for line in daemon.process.lines() {
        assert!(!line.contains("@contact.example") && !line.contains("+255700000042") && !line.contains("Asha"), "{line}");
    }
}

#[tokio::test]
async fn devices_register_themselves_for_their_own_user() {
    let (_setup, daemon) = start().await;
    let public = daemon.public_api();
    let (asha, juma) = (public.with_bearer(&token("42")), public.with_bearer(&token("43")));
    let device = json!({ "token": "a-phone", "platform": "android" });
    assert_eq!(public.post(PUSH_TOKENS, &device).await.status, 401);
    assert_eq!(public.with_bearer("nonsense").post(PUSH_TOKENS, &device).await.status, 401);
    asha.post(PUSH_TOKENS, &device).await.expect(201);
    let told = asha.post(PUSH_TOKENS, &json!({ "token": "a-phone", "platform": "toaster" })).await.expect(400);
    assert!(told["error"].as_str().unwrap().contains("$.platform"), "{told}");
    assert_eq!(daemon.api.get("/v1/users/42").await.expect(200)["push_tokens"][0]["token"], "a-phone");
    // Not hers to take away, but a phone that changes hands goes with its new owner.
    juma.request(Method::DELETE, PUSH_TOKENS).json(&device).send().await.unwrap();
    assert_eq!(daemon.api.get("/v1/users/42").await.expect(200)["push_tokens"].as_array().unwrap().len(), 1);
    juma.post(PUSH_TOKENS, &device).await.expect(201);
    daemon.api.get("/v1/users/42").await.expect_problem(404, "contact_not_found");
    assert_eq!(daemon.api.get("/v1/users/43").await.expect(200)["push_tokens"][0]["platform"], "android");
    daemon.api.post("/v1/jobs", &job("to-juma", &[json!({ "user_id": "43" })], &["push"])).await.expect(202);
    assert_eq!(daemon.finished("to-juma").await["deliveries_total"], 1);
    let forget = async |api: &Api| Answer::of(api.request(Method::DELETE, PUSH_TOKENS).json(&device)).await.unwrap().status;
    assert_eq!((forget(&asha).await, forget(&juma).await, forget(&juma).await), (404, 204, 404));
    // The public listener has nothing of the admin's.
    for path in ["/v1/jobs/to-juma", "/v1/status", "/metrics", "/"] {
        assert_eq!(asha.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn health_and_metrics_are_for_machines() {
    let (_setup, daemon) = start().await;
    let live = daemon.api.get("/livez").await;
    assert_eq!((live.status, live.text.as_str()), (200, "ok\n"));
    let ready = daemon.api.get("/readyz").await.expect(200);
    assert_eq!((&ready["ready"], &ready["captures"]), (&json!(true), &json!(["email", "sms", "push"])));
    assert!(ready["note"].as_str().unwrap().contains("they send nothing"));
    for channel in ["email", "sms", "push"] {
        assert!(daemon.events("channel only captures").is_empty());
        let told = |line: &str| (line.contains("channel only captures") && line.contains(channel)).then_some(());
        daemon.process.find_line(told).await.unwrap();
    }
    daemon.api.post("/v1/jobs", &job("counted", &[recipient("42")], &["email", "live"])).await.expect(202);
    daemon.finished("counted").await;
    // What is committed is told a moment later.
    daemon.process.until("both are told", async || (daemon.events("delivery sent").len() == 2).then_some(())).await;
    let metrics = daemon.api.get("/metrics").await;
    assert!(metrics.header("content-type").starts_with("text/plain; version=0.0.4"));
    let samples = parse_metrics(&metrics.text);
    let value = |name: &str, labels: &[&str]| {
        let found: Vec<f64> = samples
            .iter()
            .filter(|(sample, found, _)| sample == name && labels.iter().all(|label| found.contains(&(*label).to_owned())))
            .map(|(_, _, value)| *value)
            .collect();
        assert_eq!(found.len(), 1, "{name} {labels:?}: {found:?}\n{}", metrics.text);
        format!("{}", found[0])
    };
    assert_eq!(value("tarishi_jobs_total", &["result=accepted"]), "1");
    assert_eq!(value("tarishi_deliveries", &["channel=email", "status=sent"]), "1");
    assert_eq!(value("tarishi_deliveries", &["channel=email", "status=queued"]), "0");
    assert_eq!(value("tarishi_attempts_total", &["channel=email", "outcome=sent"]), "1");
    assert_eq!(value("tarishi_attempt_seconds_count", &["channel=live"]), "1");
    assert_eq!(value("tarishi_ready", &[]), "1");
    assert!(!metrics.text.contains("42@") && !metrics.text.contains("counted"), "ids and addresses are no labels");
}

/// The text format 0.0.4: every line a comment or a sample, each sample of a family announced by `# TYPE`.
fn parse_metrics(text: &str) -> Vec<(String, Vec<String>, f64)> {
    let mut families = Vec::new();
    let mut samples = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix("# ") {
            let words: Vec<&str> = comment.splitn(3, ' ').collect();
            assert!(matches!(words[0], "TYPE" | "HELP"), "{line}");
            if words[0] == "TYPE" {
                assert!(matches!(words[2], "counter" | "gauge" | "histogram" | "summary"), "{line}");
                assert!(!families.contains(&words[1]), "announced twice: {line}");
                families.push(words[1]);
            }
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = match sample.split_once('{') {
            None => (sample, Vec::new()),
            Some((name, labels)) => {
                let labels = labels.strip_suffix('}').unwrap();
                (name, labels.split("\",").map(|label| label.trim_end_matches('"').replacen("=\"", "=", 1)).collect())
            }
        };
        let family = families.last().unwrap();
        let rest = name.strip_prefix(family).unwrap_or_else(|| panic!("{line} is not of {family}"));
        assert!(matches!(rest, "" | "_bucket" | "_sum" | "_count"), "{line}");
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{line}");
        samples.push((name.to_owned(), labels, value.parse().unwrap()));
    }
    samples
}

#[tokio::test]
async fn the_outbox_shows_what_would_have_been_sent() {
    let (_setup, daemon) = start().await;
    let mut body = job("shown", &[recipient("42")], &["email", "sms", "push"]);
    body["data"] = json!({ "title": "A <b>title</b>", "message": "<script>alert(1)</script>", "url": "/bookings/18" });
    daemon.api.post("/v1/jobs", &body).await.expect(202);
    daemon.finished("shown").await;
    let outbox = daemon.api.get("/v1/outbox").await.expect(200);
    assert_eq!(outbox["messages"].as_array().unwrap().len(), 3);
    let mails = daemon.api.get("/v1/outbox?channel=email&limit=1").await.expect(200);
    let mail = &mails["messages"][0];
    assert_eq!((&mail["to"], &mail["has_html"], &mail["job_id"]), (&json!("42@people.example"), &json!(true), &json!("shown")));
    let header = |name: &str| mail["headers"].as_array().unwrap().iter().find(|header| header[0] == name).map(|header| header[1].clone());
    assert!(header("Message-ID").is_some() && header("From").is_some() && header("Date").is_some(), "{mail:#}");
    assert!(mail["raw"].as_str().unwrap().contains("multipart/alternative"));
    let html = daemon.api.get(&format!("/v1/outbox/{}/html", mail["id"])).await;
    assert_eq!(html.status, 200);
    assert!(html.header("content-type").starts_with("text/html"));
    let policy = html.header("content-security-policy");
    assert!(
        policy.starts_with("sandbox;") && policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'self'"),
        "{policy}"
    );
    assert!(html.text.contains("&lt;script&gt;") && !html.text.contains("<script>alert"), "data is escaped");
    assert!(html.text.contains("/bookings/18"));
    daemon.api.get("/v1/outbox/999/html").await.expect_problem(404, "not_found");
    let texts = daemon.api.get("/v1/outbox?channel=sms").await.expect(200);
    assert!(texts["messages"][0]["text"].as_str().unwrap().contains("<script>alert(1)</script>"), "plain text is not escaped");
}

#[tokio::test]
async fn what_is_not_there_is_told_in_problem_details() {
    let (_setup, daemon) = start().await;
    daemon.api.get("/v1/nothing").await.expect_problem(404, "not_found");
    daemon.api.get("/favicon.ico").await.expect_problem(404, "not_found");
    daemon.api.get("/v1/jobs/nobody-sent-this").await.expect_problem(404, "job_not_found");
    daemon.api.delete("/v1/status").await.expect_problem(405, "method_not_allowed");
    let dev = daemon.api.get("/v1/dev/token?user=42").await.expect_problem(404, "not_found");
    assert!(dev["detail"].as_str().unwrap().contains("tarishi dev"), "{dev}");
    let templates = daemon.api.get("/v1/templates").await.expect(200);
    let names: Vec<&Value> = templates["templates"].as_array().unwrap().iter().map(|template| &template["name"]).collect();
    assert!(names.contains(&&json!("generic")), "{names:?}");
    let status = daemon.api.get("/v1/status").await.expect(200);
    assert_eq!((&status["mode"], &status["ready"]), (&json!("run"), &json!(true)));
    let channels: Vec<&Value> = status["lanes"].as_array().unwrap().iter().map(|lane| &lane["channel"]).collect();
    assert_eq!(channels, ["email", "sms", "push", "live"]);
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_told_alike_everywhere() {
    let mut setup = Setup::new().with("intake.job_limit", "8 KiB").with("intake.data_limit", "4 KiB");
    let daemon = setup.start().await;
    let send = async |method: Method, path: &str, headers: &[(&'static str, &str)], body: &str| {
        let mut request = daemon.api.request(method, path).body(body.to_owned());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::of(request).await.unwrap()
    };
    // What is not there is told before anything is said of a body.
    for (method, path, allow) in [(Method::PUT, "/v1/jobs", "POST"), (Method::PATCH, "/livez", "GET,HEAD")] {
        let answer = send(method, path, &[], "x").await;
        assert_eq!(answer.header("allow"), allow, "{path}");
        assert!(answer.expect_problem(405, "method_not_allowed")["detail"].as_str().unwrap().contains("`Allow`"), "{path}");
    }
    let missing = send(Method::POST, "/nowhere", &[], "x").await.expect_problem(404, "not_found");
    assert!(missing["detail"].as_str().unwrap().contains("/openapi.json"), "{missing}");
    send(Method::POST, "/v1/jobs", &[], "{}").await.expect_problem(415, "not_json");
    let json = ("content-type", "application/json");
    let large = format!("{{\"name\": \"{}\"}}", "x".repeat(9000));
    let paths = [
        (Method::POST, "/v1/jobs"),
        (Method::POST, "/v1/templates/generic/preview"),
        (Method::PUT, "/v1/users/42"),
        (Method::PATCH, "/v1/users/42"),
        (Method::POST, "/v1/suppressions"),
        (Method::DELETE, "/v1/suppressions"),
        (Method::POST, "/v1/revocations"),
        (Method::POST, "/v1/conversations"),
    ];
    for (method, path) in paths {
        let malformed = send(method.clone(), path, &[json], "{\"a\":}").await.expect_problem(422, "malformed");
        assert_eq!(problems(&malformed), ["$: not JSON: expected value (look at line 1, column 6)"], "{path}");
        let encoded = send(method.clone(), path, &[json, ("content-encoding", "gzip")], "{}").await;
        let encoded = encoded.expect_problem(415, "encoding_not_taken");
        assert!(encoded["detail"].as_str().unwrap().contains("`Content-Encoding: gzip` is not taken here; hint: "), "{encoded}");
        if path.ends_with("/preview") || path.starts_with("/v1/users") {
            let refused = send(method, path, &[json], &large).await.expect_problem(413, "too_large");
            assert_eq!(refused["detail"], "the body is larger than 8.0 KiB (intake.job_limit); hint: send less at once");
        }
    }
    let id = daemon.api.get("/v1/outbox/x/html").await.expect_problem(422, "invalid");
    assert!(problems(&id)[0].starts_with("id: not the number of a message"), "{id}");
    // An array of one is an array.
    let one = json!([{ "id": "one", "template": "generic", "to": [recipient("42")], "data": { "title": "T" } }]);
    let refused = daemon.api.post("/v1/jobs", &one).await.expect_problem(422, "invalid");
    assert!(problems(&refused)[0].starts_with("$[0].data.message: is missing"), "{refused}");
    let good =
        |title: &str| json!([{ "id": "two", "template": "generic", "to": [recipient("42")], "data": { "title": title, "message": "M" } }]);
    daemon.api.post("/v1/jobs", &good("a")).await.expect(202);
    let conflict = daemon.api.post("/v1/jobs", &good("b")).await.expect_problem(409, "id_conflict");
    assert!(problems(&conflict)[0].starts_with("$[0].id: "), "{conflict}");
    // Previews hold data to the schema, as jobs do.
    let preview = async |body: Value| daemon.api.post("/v1/templates/generic/preview", &body).await;
    let refused = preview(json!({ "data": { "title": 7, "message": "M" } })).await.expect_problem(422, "invalid");
    assert!(problems(&refused)[0].starts_with("$.data.title: has the wrong type"), "{refused}");
    let all = preview(json!({ "channels": [] })).await.expect(200);
    assert_eq!(all["bodies"].as_array().unwrap().len(), 4, "none is all of them, as in a job");
}

#[tokio::test]
async fn the_public_listener_names_what_is_wrong_too() {
    let (_setup, daemon) = start().await;
    let api = daemon.public_api().with_bearer(&token("42"));
    let send = async |method: Method, path: &str, body: &str| {
        let request = api.request(method, path).header("content-type", "application/json").body(body.to_owned());
        Answer::of(request).await.unwrap()
    };
    let problem = |answer: Answer, status: u16, code: &str, path: &str| {
        assert_eq!((answer.status, answer.body["code"].as_str()), (status, Some(code)), "{}", answer.text);
        assert_eq!(answer.body["problems"][0]["path"], path, "{}", answer.text);
    };
    problem(send(Method::POST, "/v1/inbox/read", "{").await, 422, "malformed", "$");
    problem(send(Method::POST, PUSH_TOKENS, "{").await, 422, "malformed", "$");
    problem(send(Method::POST, "/v1/inbox/read", "{\"ids\": [\"a\"]}").await, 422, "invalid", "$.ids[0]");
    problem(api.get("/v1/inbox?limit=many").await, 400, "invalid", "limit");
    problem(api.get("/v1/inbox?limti=1").await, 400, "invalid", "limti");
    problem(api.get("/v1/inbox/items/x").await, 400, "invalid", "id");
    problem(api.get("/api/v1/communications/notifications/x/").await, 400, "invalid", "id");
    for path in ["/v1/inbox", "/sse/notifications"] {
        let answer = daemon.public_api().get(path).await;
        assert_eq!(answer.header("www-authenticate"), "Bearer", "{path}");
        answer.expect_problem(401, "unauthenticated");
    }
    for (path, key) in [("/webhooks/sendgrid", "webhook_public_key"), ("/webhooks/twilio", "provider.twilio.auth_token")] {
        let answer = Answer::of(daemon.public_api().request(Method::POST, path).body("{}")).await.unwrap();
        assert!(answer.status == 403 && answer.body["detail"].as_str().unwrap().contains(key), "{}", answer.text);
    }
}
