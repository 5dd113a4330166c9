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
    let clouds = Clouds::start().await;
    clouds.answer(json!([{ "provider": "twilio", "answer": { "status": 429, "retry_after": "1", "code": 20429 }, "times": 3 }]));
    let mut setup = clouds.configure(Setup::new()).with_quick_retries();
    let daemon = setup.start().await;
    let people: Vec<Value> = (0..40).map(|user| recipient(&user.to_string())).collect();
    daemon.api.post("/v1/jobs", &job("burst", &people, &["sms"])).await.expect(202);
    daemon.process.until("the pace is lowered", async || daemon.events("pace lowered: the provider asks for fewer a second").pop()).await;
    let paced = provider(&daemon, 1, 0).await;
    assert!(paced["rate"].is_number() && paced["breaker"] == "closed", "{paced}");
    daemon.finished("burst").await;
    let sent = clouds.requests("twilio").iter().filter(|request| request.accepted).count();
    assert_eq!(sent, 40, "each once");
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
