//! A provider that does not work: who makes up for it, who waits, and what never goes to another.

use serde_json::{Value, json};

use crate::support::{Clouds, Daemon, Setup, job, recipient};

/// Two ways out for mails: SendGrid, as the mock plays it, then the outbox.
fn two_ways(clouds: &Clouds) -> Setup {
    let setup = clouds.configure(Setup::new()).with_quick_retries();
    setup.with("channel.email.providers", "[\"sendgrid\", \"outbox\"]").with("breaker.open", "20ms")
}

async fn enqueue(daemon: &Daemon, id: &str) {
    daemon.api.post("/v1/jobs", &job(id, &[recipient("42")], &["email"])).await.expect(202);
}

/// Sends one mail and gives its delivery once it has ended.
async fn ended(daemon: &Daemon, id: &str) -> Value {
    enqueue(daemon, id).await;
    daemon.finished(id).await["deliveries"][0].clone()
}

fn attempts(delivery: &Value) -> Vec<String> {
    let attempts = delivery["attempts"].as_array().unwrap().iter();
    attempts.map(|attempt| format!("{} {}", attempt["provider"].as_str().unwrap(), attempt["outcome"].as_str().unwrap_or("open"))).collect()
}

async fn provider(daemon: &Daemon, lane: usize, provider: usize) -> Value {
    daemon.api.get("/v1/status").await.expect(200)["lanes"][lane]["providers"][provider].clone()
}

#[tokio::test]
async fn a_transient_failure_goes_to_the_next_provider_at_once() {
    let clouds = Clouds::start().await;
    clouds.answer(json!([{ "provider": "sendgrid", "answer": { "status": 503, "retry_after": "3600" } }]));
    // Were it to wait, the test would not end.
    let mut setup = two_ways(&clouds).with("channel.email.retry.steps", "[\"1h\"]");
    let daemon = setup.start().await;
    let sent = ended(&daemon, "a").await;
    assert_eq!((&sent["status"], &sent["provider"]), (&json!("sent"), &json!("outbox")), "{sent}");
    assert_eq!(attempts(&sent), ["sendgrid transient", "outbox sent"]);
    assert_eq!(daemon.events("delivery goes to the next provider").len(), 1);
    assert_eq!(daemon.api.get("/v1/audit").await.expect(200)["balanced"], true);
}

#[tokio::test]
async fn what_may_have_been_taken_goes_back_to_the_same_provider_and_to_no_other() {
    let clouds = Clouds::start().await;
    // Taken without a word; after that the provider is down for a while.
    clouds.answer(json!([
        { "provider": "sendgrid", "answer": "reset_after", "times": 1 },
        { "provider": "sendgrid", "answer": { "status": 503 } },
    ]));
    let mut setup = two_ways(&clouds);
    let daemon = setup.start().await;
    enqueue(&daemon, "unknown").await;
    daemon.job_when("unknown", |job| job["deliveries"][0]["attempts"].as_array().unwrap().len() > 4).await;
    // Whoever comes now goes the other way.
    assert_eq!(ended(&daemon, "next").await["provider"], "outbox");
    clouds.answer(json!([]));
    let sent = daemon.finished("unknown").await["deliveries"][0].clone();
    let attempts = attempts(&sent);
    assert!(attempts.iter().all(|attempt| attempt.starts_with("sendgrid")), "{attempts:?}");
    assert_eq!((attempts[0].as_str(), attempts.last().unwrap().as_str()), ("sendgrid unknown", "sendgrid sent"));
    assert_eq!(setup.record().len(), 1, "the other one's");
    let ids: Vec<_> = clouds.requests("sendgrid").iter().map(|request| request.body["headers"]["Message-ID"].clone()).collect();
    assert!(ids.len() > 2 && ids[0].is_string(), "{ids:?}");
    assert!(
        clouds
            .requests("sendgrid")
            .iter()
            .filter(|request| request.accepted)
            .all(|request| request.body["headers"]["Message-ID"] == ids[0])
    );
}

#[tokio::test]
async fn a_pin_outlives_a_restart_and_ends_with_its_provider() {
    let clouds = Clouds::start().await;
    clouds.answer(
        json!([{ "provider": "sendgrid", "answer": "reset_after", "times": 1 }, { "provider": "sendgrid", "answer": { "status": 503 } }]),
    );
    let mut setup = two_ways(&clouds);
    let daemon = setup.start().await;
    enqueue(&daemon, "a").await;
    daemon.job_when("a", |job| job["deliveries"][0]["attempts"].as_array().unwrap().len() > 1).await;
    daemon.process.kill().await;
    let daemon = setup.start().await;
    daemon.job_when("a", |job| job["deliveries"][0]["attempts"].as_array().unwrap().len() > 3).await;
    daemon.terminate().await;
    // Nobody may try what somebody else may have taken.
    setup.set("channel.email.providers", "[\"outbox\"]");
    let daemon = setup.start().await;
    let failed = daemon.finished("a").await["deliveries"][0].clone();
    assert_eq!((&failed["status"], &failed["code"]), (&json!("failed"), &json!("unknown_outcome")), "{failed}");
    assert!(setup.record().is_empty());
    assert_eq!(daemon.api.get("/v1/audit").await.expect(200)["balanced"], true);
}

#[tokio::test]
async fn one_tenants_bad_sender_is_no_affair_of_the_others() {
    let clouds = Clouds::start().await;
    let unverified = json!({ "errors": [{ "message": "The from address does not match a verified Sender Identity.", "field": "from" }] });
    clouds.answer(json!([{ "provider": "sendgrid", "to": "bad*", "answer": { "status": 403, "body": unverified.to_string() } }]));
    let setup = clouds.configure(Setup::new()).with("channel.email.retry.steps", "[\"1ms\", \"1h\"]");
    let tenants = "{ bad = \"bad@bad.example\", good = \"Good <good@good.example>\" }";
    let mut setup = setup.with("provider.sendgrid.from_by_tenant", tenants).with("breaker.minimum_calls", "1");
    let daemon = setup.start().await;
    let send = async |id: &str, tenant: &str| {
        let mut job = job(id, &[recipient(id)], &["email"]);
        job["metadata"] = json!({ "tenant": tenant });
        daemon.api.post("/v1/jobs", &job).await.expect(202);
    };
    for id in ["bad-1", "bad-2", "bad-3"] {
        send(id, "bad").await;
        let waits = |delivery: &Value| delivery["status"] == "queued" && delivery["attempts"].as_array().unwrap().len() == 2;
        let waiting = daemon.job_when(id, |job| waits(&job["deliveries"][0])).await;
        assert_eq!(waiting["deliveries"][0]["code"], "sender_refused", "{waiting}");
    }
    for (id, tenant) in [("good", "good"), ("none", "nobody")] {
        send(id, tenant).await;
        assert_eq!(daemon.finished(id).await["deliveries"][0]["status"], "sent", "{tenant}");
    }
    assert_eq!(provider(&daemon, 0, 0).await["breaker"], "closed");
    assert!(daemon.process.lines().iter().all(|line| !line.contains("breaker opened")));
    // Everybody's sender is another matter.
    clouds.answer(json!([{ "provider": "sendgrid", "answer": { "status": 403, "body": unverified.to_string() }, "times": 1 }]));
    send("all", "nobody").await;
    daemon.process.until("the provider is paused", async || (provider(&daemon, 0, 0).await["breaker"] != "closed").then_some(())).await;
}

#[tokio::test]
async fn a_refused_content_is_refused_by_all() {
    let clouds = Clouds::start().await;
    clouds.answer(json!([{ "provider": "sendgrid", "answer": { "status": 400 } }]));
    let mut setup = two_ways(&clouds);
    let daemon = setup.start().await;
    let failed = ended(&daemon, "a").await;
    assert_eq!((&failed["status"], &failed["code"]), (&json!("failed"), &json!("payload_refused")), "{failed}");
    assert_eq!(attempts(&failed), ["sendgrid permanent"]);
}

#[tokio::test]
async fn refused_credentials_pause_the_provider_and_wake_somebody_once() {
    let clouds = Clouds::start().await;
    clouds.answer(json!([{ "provider": "sendgrid", "answer": "auth" }]));
    let mut setup = two_ways(&clouds);
    let daemon = setup.start().await;
    for id in ["a", "b", "c", "d", "e"] {
        assert_eq!(ended(&daemon, id).await["provider"], "outbox");
    }
    let errors: Vec<Value> = daemon.process.events().into_iter().filter(|event| event["level"] == "ERROR").collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0]["reason"].as_str().unwrap().contains("authentication_failed"), "{errors:?}");
    let paused = provider(&daemon, 0, 0).await;
    assert!(paused["breaker"] != "closed" && paused["reason"].as_str().unwrap().contains("401"), "{paused}");
    // A probe finds out that it has been mended.
    clouds.answer(json!([]));
    let mut number = 0;
    daemon
        .process
        .until("SendGrid is used again", async || {
            number += 1;
            (ended(&daemon, &format!("later-{number}")).await["provider"] == "sendgrid").then_some(())
        })
        .await;
    assert_eq!(daemon.events("breaker closed").len(), 1);
}

#[tokio::test]
async fn when_all_are_down_deliveries_wait_and_use_nothing_up() {
    let clouds = Clouds::start().await;
    clouds.answer(json!([{ "provider": "twilio", "answer": "auth" }]));
    let mut setup = clouds.configure(Setup::new()).with_quick_retries().with("breaker.open", "20ms").with("channel.sms.retry.attempts", &1);
    let daemon = setup.start().await;
    let people: Vec<Value> = (0..20).map(|user| recipient(&user.to_string())).collect();
    daemon.api.post("/v1/jobs", &job("wait", &people, &["sms"])).await.expect(202);
    daemon.process.until("it has been tried for a while", async || (clouds.requests("twilio").len() > 25).then_some(())).await;
    let status = daemon.api.get("/v1/status").await.expect(200);
    assert_eq!(status["lanes"][1]["statuses"]["failed"], 0, "{status}");
    clouds.answer(json!([]));
    daemon.finished("wait").await;
    let status = daemon.api.get("/v1/status").await.expect(200);
    assert_eq!(status["lanes"][1]["statuses"]["sent"], 20, "{status}");
}

#[tokio::test]
async fn a_provider_that_asks_for_fewer_gets_fewer() {
    const CONCURRENCY: usize = 8;
    let clouds = Clouds::start().await;
    let complaint = json!({ "status": 429, "retry_after": "1", "code": 20429 });
    clouds.answer(json!([{ "provider": "twilio", "answer": complaint, "times": CONCURRENCY }]));
    let mut setup = clouds.configure(Setup::new()).with_quick_retries().with("channel.sms.concurrency", &CONCURRENCY);
    let daemon = setup.start().await;
    let people: Vec<Value> = (0..20).map(|user| recipient(&user.to_string())).collect();
    daemon.api.post("/v1/jobs", &job("burst", &people, &["sms"])).await.expect(202);
    daemon.process.until("the pace is lowered", async || daemon.events("pace lowered: the provider asks for fewer a second").pop()).await;
    let paced = provider(&daemon, 1, 0).await;
    assert!(paced["rate"].is_number() && paced["breaker"] == "closed", "{paced}");
    daemon.finished("burst").await;
    let requests = clouds.requests("twilio");
    assert_eq!(requests.iter().filter(|request| request.accepted).count(), 20, "each once");
    // What was under way when it first complained, and then nobody for as long as it wished.
    let mut at: Vec<i64> = requests.iter().map(|request| request.at.as_millis()).collect();
    at.sort_unstable();
    let wished = at[0] + 1000;
    let early = at.iter().filter(|at| **at < wished).count();
    assert!((1..=CONCURRENCY).contains(&early), "{early} within its wish: {at:?}");
    // And then half as many a second as there were, which grows by little in the time that this takes: 4, 4.2, 4.4…
    assert!(at[at.len() - 1] - wished >= 3000, "20 in less than 3 s: {at:?}");
}

#[tokio::test]
async fn how_long_a_provider_wished_to_be_left_alone_is_kept_when_another_makes_up_for_it() {
    let clouds = Clouds::start().await;
    clouds.answer(json!([{ "provider": "sendgrid", "answer": { "status": 503, "retry_after": "3600" }, "times": 1 }]));
    let mut setup = two_ways(&clouds);
    let daemon = setup.start().await;
    assert_eq!(ended(&daemon, "first").await["provider"], "outbox");
    for number in 0..10 {
        assert_eq!(ended(&daemon, &format!("later-{number}")).await["provider"], "outbox");
    }
    assert_eq!(clouds.requests("sendgrid").len(), 1, "asked again within the hour it wished for");
    let held = provider(&daemon, 0, 0).await;
    assert!(held["held_until"].is_string() && held["breaker"] == "closed", "{held}");
}

#[tokio::test]
async fn a_rate_of_our_own_is_waited_for_and_sends_nobody_elsewhere() {
    let clouds = Clouds::start().await;
    let mut setup = two_ways(&clouds).with("provider.sendgrid.rate", &20);
    let daemon = setup.start().await;
    let people: Vec<Value> = (0..30).map(|user| recipient(&user.to_string())).collect();
    daemon.api.post("/v1/jobs", &job("paced", &people, &["email"])).await.expect(202);
    daemon.finished("paced").await;
    assert_eq!(clouds.requests("sendgrid").len(), 30);
    assert!(setup.record().is_empty());
}

#[tokio::test]
async fn an_open_breaker_lets_nothing_through() {
    let clouds = Clouds::start().await;
    clouds.answer(json!([{ "provider": "sendgrid", "answer": { "status": 503 } }]));
    let mut setup = two_ways(&clouds).with("breaker.open", "1h").with("breaker.minimum_calls", &5);
    let daemon = setup.start().await;
    for number in 0..5 {
        assert_eq!(ended(&daemon, &format!("down-{number}")).await["provider"], "outbox");
    }
    assert_eq!(provider(&daemon, 0, 0).await["breaker"], "open");
    // It would do now, and nobody knows.
    clouds.answer(json!([]));
    let before = clouds.requests("sendgrid").len();
    for number in 0..20 {
        assert_eq!(attempts(&ended(&daemon, &format!("open-{number}")).await), ["outbox sent"]);
    }
    assert_eq!(clouds.requests("sendgrid").len(), before);
}

#[tokio::test]
async fn who_does_not_answer_in_time_may_have_taken_it() {
    let clouds = Clouds::start().await;
    clouds.answer(json!([{ "provider": "twilio", "answer": "hang" }]));
    let mut setup = clouds
        .configure(Setup::new())
        .with_quick_retries()
        .with("channel.sms.providers", "[\"twilio\", \"outbox\"]")
        .with("channel.sms.call_timeout", "200ms")
        .with("breaker.open", "20ms");
    let daemon = setup.start().await;
    daemon.api.post("/v1/jobs", &job("hung", &[recipient("42")], &["sms"])).await.expect(202);
    let found = daemon.job_when("hung", |job| job["deliveries"][0]["attempts"].as_array().unwrap().len() > 2).await;
    for attempt in found["deliveries"][0]["attempts"].as_array().unwrap().iter().filter(|attempt| attempt["outcome"].is_string()) {
        assert_eq!((&attempt["provider"], &attempt["outcome"], &attempt["code"]), (&json!("twilio"), &json!("unknown"), &json!("timeout")));
    }
    clouds.answer(json!([]));
    assert_eq!(daemon.finished("hung").await["deliveries"][0]["provider"], "twilio");
    assert!(setup.record().is_empty(), "no other provider was asked");
}

#[tokio::test]
async fn a_token_that_does_not_come_in_time_leaves_nothing_open() {
    let clouds = Clouds::start().await;
    clouds.answer(json!([{ "provider": "token", "answer": "hang" }]));
    let mut setup = clouds.configure(Setup::new()).with("channel.push.call_timeout", "800ms");
    let daemon = setup.start().await;
    daemon.api.post("/v1/jobs", &job("push", &[recipient("42")], &["push"])).await.expect(202);
    let found = daemon.job_when("push", |job| job["deliveries"][0]["attempts"][0]["outcome"].is_string()).await;
    let attempt = &found["deliveries"][0]["attempts"][0];
    assert_eq!((&attempt["outcome"], &attempt["code"]), (&json!("transient"), &json!("timeout")), "{attempt}");
    assert!(clouds.requests("fcm").is_empty());
}

#[tokio::test]
async fn with_two_providers_down_deliveries_wait_until_one_is_back() {
    let clouds = Clouds::start().await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    clouds.answer(json!([{ "provider": "sendgrid", "answer": { "status": 503 } }]));
    let mut setup = two_ways(&clouds)
        .with("channel.email.providers", "[\"sendgrid\", \"smtp\"]")
        .with("channel.email.retry.attempts", &100_000)
        .with("provider.smtp.url", &format!("smtp://{nobody}"))
        .with("provider.smtp.tls", "none")
        .with("provider.smtp.from", "hello@tarishi.example");
    let daemon = setup.start().await;
    let people: Vec<Value> = (0..20).map(|user| recipient(&user.to_string())).collect();
    daemon.api.post("/v1/jobs", &job("wait", &people, &["email"])).await.expect(202);
    daemon
        .process
        .until("both are left alone", async || {
            let both = [provider(&daemon, 0, 0).await, provider(&daemon, 0, 1).await];
            both.iter().all(|provider| provider["breaker"] != "closed").then_some(())
        })
        .await;
    let before = clouds.requests("sendgrid").len();
    daemon.process.until("single probes go on", async || (clouds.requests("sendgrid").len() > before + 3).then_some(())).await;
    let lane = daemon.api.get("/v1/status").await.expect(200)["lanes"][0].clone();
    assert_eq!((&lane["statuses"]["failed"], &lane["statuses"]["sent"]), (&json!(0), &json!(0)), "{lane}");
    clouds.answer(json!([]));
    daemon.finished("wait").await;
    assert_eq!(clouds.requests("sendgrid").iter().filter(|request| request.accepted).count(), 20, "each once");
    assert_eq!(daemon.api.get("/v1/status").await.expect(200)["lanes"][0]["statuses"]["sent"], 20);
}

#[tokio::test]
async fn one_platforms_credentials_hold_up_that_platform_alone() {
    let clouds = Clouds::start().await;
    clouds.answer(json!([{ "provider": "fcm", "to": "device-of-apple*", "answer": "third_party_auth" }]));
    let mut setup = clouds.configure(Setup::new()).with("channel.push.retry.attempts", &1);
    let daemon = setup.start().await;
    let people: Vec<Value> = (0..10).flat_map(|user| [recipient(&format!("apple{user}")), recipient(&format!("android{user}"))]).collect();
    daemon.api.post("/v1/jobs", &job("both", &people, &["push"])).await.expect(202);
    let found = daemon
        .job_when("both", |job| {
            let deliveries = job["deliveries"].as_array().unwrap();
            deliveries.iter().all(|delivery| delivery["attempts"][0]["outcome"].is_string())
        })
        .await;
    let statuses = |status: &str| found["deliveries"].as_array().unwrap().iter().filter(|delivery| delivery["status"] == status).count();
    assert_eq!((statuses("sent"), statuses("queued")), (10, 10), "{found}");
    assert_eq!(provider(&daemon, 2, 0).await["breaker"], "closed");
    let errors: Vec<Value> = daemon.process.events().into_iter().filter(|event| event["level"] == "ERROR").collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0]["reason"].as_str().unwrap().contains("APNs"), "{errors:?}");
}

#[tokio::test]
async fn a_text_that_cannot_be_sent_says_nothing_about_the_provider() {
    let clouds = Clouds::start().await;
    clouds.answer(json!([{ "provider": "twilio", "answer": "auth" }]));
    let mut setup = clouds.configure(Setup::new()).with_quick_retries().with("breaker.open", "20ms");
    setup.set("provider.twilio.allowed_prefixes", "[\"+25570\"]");
    let daemon = setup.start().await;
    daemon.api.post("/v1/jobs", &job("opens", &[recipient("1")], &["sms"])).await.expect(202);
    daemon.process.until("it is paused", async || (provider(&daemon, 1, 0).await["breaker"] != "closed").then_some(())).await;
    // Of those that may be probes from now on, these are not sent at all.
    let elsewhere: Vec<Value> = (0..10).map(|user| json!({ "user_id": user, "phone": format!("+25471234567{user}") })).collect();
    daemon.api.post("/v1/jobs", &job("elsewhere", &elsewhere, &["sms"])).await.expect(202);
    let refused = daemon.finished("elsewhere").await;
    assert!(refused["deliveries"].as_array().unwrap().iter().all(|delivery| delivery["code"] == "destination_not_allowed"), "{refused}");
    assert!(daemon.events("breaker closed").is_empty());
    clouds.answer(json!([]));
    daemon.finished("opens").await;
    assert_eq!(daemon.events("breaker closed").len(), 1);
}

#[tokio::test]
async fn dev_plays_everything_on_this_machine_and_hears_that_it_arrived() {
    let mut setup = Setup::new().with_command(&["dev", "--mock", "--samples", "--log-format", "json"]);
    let daemon = setup.start().await;
    let lanes = daemon
        .process
        .until("samples are delivered", async || {
            let status = daemon.api.get("/v1/status").await.expect(200);
            let count = |lane: usize, status_: &str| status["lanes"][lane]["statuses"][status_].as_u64().unwrap();
            (count(0, "delivered") > 0 && count(1, "delivered") > 0 && count(2, "sent") > 0).then(|| status["lanes"].clone())
        })
        .await;
    let names: Vec<&Value> = (0..3).map(|lane| &lanes[lane]["providers"][0]["name"]).collect();
    assert_eq!(names, ["sendgrid", "twilio", "fcm"]);
    assert!(setup.record().is_empty(), "nothing was only captured");
}

#[tokio::test]
async fn one_channels_provider_that_hangs_is_nobody_elses_trouble() {
    let clouds = Clouds::start().await;
    clouds.answer(json!([{ "provider": "twilio", "answer": "hang" }]));
    let mut setup = clouds.configure(Setup::new());
    let daemon = setup.start().await;
    let people: Vec<Value> = (0..100).map(|user| recipient(&user.to_string())).collect();
    daemon.api.post("/v1/jobs", &job("all", &people, &["email", "sms", "push"])).await.expect(202);
    daemon
        .process
        .until("the other channels are done", async || {
            let status = daemon.api.get("/v1/status").await.expect(200);
            let sent = |lane: usize| status["lanes"][lane]["statuses"]["sent"].clone();
            (sent(0) == 100 && sent(2) == 100).then_some(())
        })
        .await;
    let status = daemon.api.get("/v1/status").await.expect(200);
    assert_eq!((&status["lanes"][1]["statuses"]["sent"], &status["lanes"][1]["sending"]), (&json!(0), &json!(64)), "{status}");
}
