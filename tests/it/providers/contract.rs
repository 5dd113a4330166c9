//! One script that every provider in the clouds passes: what each answer comes to, and when it is tried again.

use std::time::Duration;

use serde_json::{Value, json};
use tarishi::model::{Body, Code, DeliveryId, Email, Message, Outcome, PermanentKind, Push, PushTarget, Sms, Timestamp};

use crate::support::{CARRIERS, Clouds, Commands, Setup, job, recipient};

/// A message on `channel`, to `to`.
pub fn message(channel: &str, to: &str) -> Message {
    let body = match channel {
        "email" => Body::Email(Email {
            to: to.parse().unwrap(),
            subject: "Habari ya nyumba".to_owned(),
            html: Some("<p>Habari <b>Asha</b></p>".to_owned()),
            text: Some("Habari Asha".to_owned()),
            unsubscribe_url: Some("https://notify.example/unsubscribe/token".to_owned()),
        }),
        "sms" => Body::Sms(Sms { to: to.parse().unwrap(), text: "Habari, Asha & Juma: 100 % + tax".to_owned() }),
        _ => Body::Push(Push {
            target: PushTarget::Token(to.parse().unwrap()),
            title: "Habari".to_owned(),
            body: "Asha".to_owned(),
            data: [("url".to_owned(), "https://app.example/7".to_owned())].into(),
            platform: serde_json::Map::new(),
        }),
    };
    Message {
        delivery_id: DeliveryId::new([7; 12], 1),
        job_id: "job-1".parse().unwrap(),
        user_id: Some("42".parse().unwrap()),
        template: Some("generic".parse().unwrap()),
        tenant: None,
        collapse_key: None,
        expires_at: Timestamp::now().saturating_add(Duration::from_hours(1)),
        body,
    }
}

pub fn address(channel: &str) -> &'static str {
    match channel {
        "email" => "asha@people.example",
        "sms" => "+255712345678",
        // As long as a real one.
        _ => concat!(
            "dAsha-Phone-0123456789:APA91bHqXz7vTnK2mLwRj4sYcP8eGfUoDiVxQ1hBtN6kSaWyZ3rEpJ5gMuCl0FdOb",
            "9XvTnK2mLwRj4sYcP8eGfUoDiVxQ1hBtN6kSaWyZ3rEpJ5gMuCl0FdOb_Asha"
        ),
    }
}

/// An outcome in a few words: `transient rate_limited 60`.
pub fn told(outcome: &Outcome) -> String {
    let code = outcome.code().map_or("", Code::as_str);
    match outcome {
        Outcome::Sent { provider_id } => format!("sent{}", if provider_id.is_some() { "" } else { " without id" }),
        Outcome::Transient { retry_after, .. } => format!("transient {code} {}", retry_after.map_or(0, |wait| wait.as_secs())),
        Outcome::Permanent { kind: PermanentKind::Address, .. } => format!("address {code}"),
        Outcome::Permanent { kind: PermanentKind::Payload, .. } => format!("payload {code}"),
        Outcome::Permanent { kind: PermanentKind::Config, .. } => format!("config {code}"),
        Outcome::Unknown { .. } => format!("unknown {code}"),
    }
}

/// An answer, and what it comes to for SendGrid, Twilio and FCM.
type Case = (Value, [&'static str; 3]);

fn same(answer: Value, expected: &'static str) -> Case {
    (answer, [expected; 3])
}

/// What all of them can meet: slow, cut, lying, huge and nonsensical answers among them.
fn common() -> Vec<Case> {
    vec![
        same(json!("ok"), "sent"),
        same(json!("reset_before"), "unknown connection_lost"),
        same(json!("reset_after"), "unknown connection_lost"),
        same(json!("error_after"), "unknown provider_unavailable"),
        same(json!("html"), "unknown provider_unavailable"),
        same(json!("huge"), "unknown provider_unavailable"),
        same(json!("empty"), "unknown provider_unavailable"),
        same(json!("nonsense"), "unknown unexpected_answer"),
        same(json!("redirect"), "config config_refused"),
        same(json!("auth"), "config authentication_failed"),
        // Its status says that it was taken, and SendGrid says no more than that.
        (json!("cut"), ["sent", "sent without id", "sent without id"]),
        // One device alone is refused here, and FCM has a rate for each.
        (
            json!({ "status": 429, "retry_after": "7" }),
            ["transient rate_limited 7", "transient rate_limited 7", "transient recipient_rate_limited 7"],
        ),
        (
            json!({ "status": 429, "retry_after": "90" }),
            ["transient rate_limited 90", "transient rate_limited 90", "transient recipient_rate_limited 90"],
        ),
        (json!({ "status": 429 }), ["transient rate_limited 0", "transient rate_limited 0", "transient recipient_rate_limited 60"]),
        (
            json!({ "status": 429, "retry_after": "soon" }),
            ["transient rate_limited 0", "transient rate_limited 0", "transient recipient_rate_limited 60"],
        ),
        (
            json!({ "status": 429, "retry_after": "-5" }),
            ["transient rate_limited 0", "transient rate_limited 0", "transient recipient_rate_limited 60"],
        ),
        same(json!({ "status": 503, "retry_after": "20" }), "transient provider_unavailable 20"),
        same(json!({ "status": 503, "html": true }), "transient provider_unavailable 0"),
        same(json!({ "status": 402 }), "config quota_exceeded"),
        same(json!({ "status": 409 }), "transient provider_unavailable 0"),
        same(json!({ "status": 421 }), "transient provider_unavailable 0"),
        same(json!({ "status": 423 }), "transient provider_unavailable 0"),
        same(json!({ "status": 424 }), "transient provider_unavailable 0"),
        same(json!({ "status": 428 }), "transient provider_unavailable 0"),
        same(json!({ "status": 500 }), "unknown provider_unavailable"),
        same(json!({ "status": 502, "html": true }), "unknown provider_unavailable"),
        same(json!({ "status": 504, "html": true }), "unknown provider_unavailable"),
        same(json!({ "status": 400 }), "payload payload_refused"),
        same(json!({ "status": 400, "html": true }), "payload payload_refused"),
        same(json!({ "status": 413 }), "payload too_large"),
        same(json!({ "status": 405 }), "config config_refused"),
    ]
}

/// What only one of them says.
fn own(provider: &str) -> Vec<(Value, &'static str)> {
    let coded = |status: u16, code: u32| json!({ "status": status, "code": code });
    match provider {
        "sendgrid" => vec![
            (json!("credits"), "config quota_exceeded"),
            (json!({ "status": 429, "rate_limit_reset": 40 }), "transient rate_limited 4x"),
            (json!({ "status": 403 }), "config authentication_failed"),
            (json!({ "status": 404 }), "config config_refused"),
            (json!({ "status": 406 }), "config config_refused"),
        ],
        "twilio" => vec![
            (json!("opted_out"), "address opted_out"),
            (json!("invalid_to"), "address address_refused"),
            (json!("queue_full"), "transient carrier_queue_full 600"),
            (coded(401, 20_003), "config authentication_failed"),
            (coded(403, 20_003), "config authentication_failed"),
            (coded(429, 20_429), "transient rate_limited 0"),
            (coded(429, 63_017), "transient rate_limited 0"),
            (coded(400, 21_211), "address address_refused"),
            (coded(400, 21_212), "config sender_refused"),
            (coded(400, 21_408), "payload region_not_enabled"),
            (coded(400, 21_602), "payload payload_refused"),
            (coded(400, 21_603), "config sender_refused"),
            (coded(400, 21_606), "config sender_refused"),
            (coded(400, 21_608), "config sender_refused"),
            (coded(400, 21_609), "config config_refused"),
            (coded(400, 21_612), "payload sender_refused"),
            (coded(400, 21_614), "address address_refused"),
            (coded(400, 21_617), "payload too_large"),
            (coded(400, 21_635), "address address_refused"),
            (coded(400, 21_658), "payload too_large"),
            (coded(400, 21_659), "config sender_refused"),
            (coded(400, 21_660), "config sender_refused"),
            (coded(400, 21_701), "config sender_refused"),
            (coded(400, 21_703), "config sender_refused"),
            (coded(400, 21_705), "config sender_refused"),
            (coded(400, 29_999), "payload payload_refused"),
        ],
        _ => vec![
            (json!("unregistered"), "address unregistered"),
            (json!("sender_mismatch"), "payload sender_mismatch"),
            (json!("third_party_auth"), "config platform_credentials_refused"),
            (json!("quota"), "transient recipient_rate_limited 60"),
            (json!("unavailable"), "transient provider_unavailable 0"),
            (json!({ "status": 404 }), "config config_refused"),
            (json!({ "status": 403 }), "config authentication_failed"),
        ],
    }
}

#[tokio::test]
async fn every_answer_comes_to_what_it_should() {
    let clouds = Clouds::start().await;
    for (place, (channel, name)) in CARRIERS.into_iter().enumerate() {
        let provider = clouds.provider(name, &[]);
        let cases = common().into_iter().map(|(answer, expected)| (answer, expected[place])).chain(own(name));
        for (answer, expected) in cases {
            clouds.answer(json!([{ "provider": name, "answer": answer }]));
            let outcome = provider.send(&message(channel, address(channel))).await;
            let told = told(&outcome);
            // A wait until a moment is a second shorter by the time it is read.
            let fits = match expected.strip_suffix("4x") {
                Some(start) => told == format!("{start}40") || told == format!("{start}39"),
                None => told == expected,
            };
            assert!(fits, "{name}, answered {answer}: {told}, expected {expected}: {outcome:?}");
            let detail = outcome.detail().unwrap_or_default();
            assert!(!detail.contains(address(channel)) && detail.len() <= 400, "{name}, answered {answer}: {detail}");
        }
    }
}

#[tokio::test]
async fn only_what_is_said_of_an_address_suppresses_it() {
    let clouds = Clouds::start().await;
    // Twilio and FCM ask for waits that nobody has here.
    let mut setup = clouds.configure(Setup::new()).with_quick_retries().with("breaker.open", "1ms");
    let daemon = setup.start().await;
    let mut suppressed = 0;
    for (channel, name) in CARRIERS {
        for (number, (answer, expected)) in own(name).into_iter().enumerate() {
            let is_final = expected.starts_with("address") || expected.starts_with("payload");
            if !is_final && !expected.starts_with("config") {
                continue;
            }
            clouds.answer(json!([{ "provider": name, "answer": answer, "times": 1 }]));
            let id = format!("{name}-{number}");
            daemon.api.post("/v1/jobs", &job(&id, &[recipient(&id)], &[channel])).await.expect(202);
            let delivery = daemon.finished(&id).await["deliveries"][0].clone();
            let first = &delivery["attempts"][0];
            assert_eq!(first["code"].as_str(), expected.split(' ').nth(1), "{answer}: {delivery}");
            assert_eq!(delivery["status"], if is_final { "failed" } else { "sent" }, "{answer}: {delivery}");
            // The push token of another project, the refused text, the empty account: all of them may work tomorrow.
            suppressed += usize::from(expected.starts_with("address"));
            let listed = daemon.api.get("/v1/suppressions").await.expect(200)["suppressions"].as_array().unwrap().clone();
            assert_eq!(listed.len(), suppressed, "{name}, answered {answer}: {listed:?}");
        }
    }
    assert!(suppressed > 5);
    assert_eq!(daemon.api.get("/v1/audit").await.expect(200)["balanced"], true);
}

#[tokio::test]
async fn a_provider_that_never_answers_is_waited_for_and_a_slow_one_is_not() {
    let clouds = Clouds::start().await;
    for (channel, name) in CARRIERS {
        let provider = clouds.provider(name, &[]);
        // FCM's access token comes first, and is not what is tried here.
        assert_eq!(told(&provider.send(&message(channel, address(channel))).await), "sent");
        clouds.answer(json!([{ "provider": name, "answer": "hang" }]));
        let before = clouds.requests(name).len();
        let message = message(channel, address(channel));
        let mut sending = provider.send(&message);
        tokio::select! {
            outcome = &mut sending => panic!("{name}: {outcome:?}"),
            () = async { while clouds.requests(name).len() == before { tokio::task::yield_now().await } } => {}
        }
        // It has all of it now, and goes on saying nothing while many others are answered.
        let other = Message { delivery_id: DeliveryId::new([8; 12], 2), ..message.clone() };
        for number in 0..50 {
            clouds.answer(json!([{ "provider": name, "answer": if number % 2 == 0 { "ok" } else { "error_after" } }]));
            tokio::select! {
                outcome = &mut sending => panic!("{name}, after {number} others: {outcome:?}"),
                outcome = provider.send(&other) => assert_eq!(outcome.as_str(), if number % 2 == 0 { "sent" } else { "unknown" }),
            }
        }
        drop(sending);
        // The head of the answer is there at once, and what it says holds.
        clouds.answer(json!([{ "provider": name, "answer": "drip" }]));
        assert!(told(&provider.send(&message).await).starts_with("sent"), "{name}");
    }
}

#[tokio::test]
async fn nobody_there_is_no_loss() {
    let clouds = Clouds::start().await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (channel, name) in CARRIERS {
        let base_url = toml::Value::from(format!("http://{free}"));
        let provider = clouds.provider(name, &[(&format!("provider.{name}.base_url"), base_url)]);
        let outcome = provider.send(&message(channel, address(channel))).await;
        assert_eq!(told(&outcome), "transient connection_failed 0", "{name}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_stranger_behind_tls_gets_nothing() {
    let clouds = Clouds::start().await;
    let stranger = crate::support::Stranger::start().await;
    for (channel, name) in CARRIERS {
        let base_url = toml::Value::from(format!("https://{}", stranger.address()));
        let provider = clouds.provider(name, &[(&format!("provider.{name}.base_url"), base_url)]);
        let outcome = provider.send(&message(channel, address(channel))).await;
        assert!(told(&outcome).starts_with("transient connection_failed"), "{name}: {outcome:?}");
    }
    assert_eq!(stranger.requests(), 0, "nothing was said before the certificate was checked");
}

#[tokio::test]
async fn an_access_token_is_had_once_and_renewed_when_it_is_withdrawn() {
    let clouds = Clouds::start().await;
    let provider = clouds.provider("fcm", &[]);
    let message = message("push", "device");
    let sends = futures_util::future::join_all((0..50).map(|_| provider.send(&message))).await;
    assert!(sends.iter().all(|outcome| told(outcome) == "sent"), "{sends:?}");
    assert_eq!(clouds.requests("token").len(), 1, "one flight for all of them");
    clouds.answer(json!([{ "provider": "fcm", "answer": "unauthenticated", "times": 1 }]));
    assert_eq!(told(&provider.send(&message).await), "sent", "refreshed and sent again");
    assert_eq!(clouds.requests("token").len(), 2);
    // Another token does not help against bad credentials of ours: one more try, not a loop.
    clouds.answer(json!([{ "provider": "fcm", "answer": "unauthenticated" }]));
    let before = clouds.requests("fcm").len();
    assert_eq!(told(&provider.send(&message).await), "config authentication_failed");
    assert_eq!(clouds.requests("fcm").len(), before + 2);
    // And nothing has left when there is no token to be had.
    clouds.answer(
        json!([{ "provider": "fcm", "answer": "unauthenticated", "times": 1 }, { "provider": "token", "answer": { "status": 503 } }]),
    );
    assert_eq!(told(&provider.send(&message).await), "transient provider_unavailable 0");
}

#[tokio::test]
async fn pushes_share_a_connection_until_its_streams_run_out() {
    let clouds = Clouds::start().await;
    let provider = clouds.provider("fcm", &[]);
    assert_eq!(told(&provider.send(&message("push", "device")).await), "sent");
    clouds.answer(json!([{ "provider": "fcm", "answer": "hang" }]));
    let mut hanging = tokio::task::JoinSet::new();
    for (wanted, connections) in [(50, 1), (150, 2)] {
        while hanging.len() < wanted {
            let (provider, message) = (provider.clone(), message("push", &format!("device-{}", hanging.len())));
            hanging.spawn(async move { provider.send(&message).await });
        }
        crate::support::until("all of them are there", async || (clouds.requests("fcm").len() == wanted + 1).then_some(())).await;
        let requests = clouds.requests("fcm");
        assert!(requests.iter().all(|request| request.version == "HTTP/2.0"), "{requests:?}");
        let used: std::collections::BTreeSet<u64> = requests.iter().map(|request| request.connection).collect();
        assert_eq!(used.len(), connections, "{wanted} at once: {used:?}");
    }
}

#[tokio::test]
async fn one_devices_quota_is_its_own_and_many_are_the_projects() {
    let clouds = Clouds::start().await;
    let provider = clouds.provider("fcm", &[]);
    assert_eq!(told(&provider.send(&message("push", "device")).await), "sent");
    clouds.answer(json!([{ "provider": "fcm", "answer": "quota" }]));
    let devices: Vec<Message> = (0..20).map(|device| message("push", &format!("device-{device}"))).collect();
    let told: Vec<String> =
        futures_util::future::join_all(devices.iter().map(|message| provider.send(message))).await.iter().map(told).collect();
    let count = |expected: &str| told.iter().filter(|told| *told == expected).count();
    let (devices, projects) = (count("transient recipient_rate_limited 60"), count("transient rate_limited 60"));
    assert!(devices >= 2 && projects >= 1 && devices + projects == 20, "{told:?}");
}

#[tokio::test]
async fn what_is_only_checked_reaches_nobody() {
    let clouds = Clouds::start().await;
    let provider = clouds.provider("fcm", &[("provider.fcm.validate_only", true.into())]);
    assert_eq!(told(&provider.send(&message("push", "device")).await), "sent");
    let requests = clouds.requests("fcm");
    assert_eq!(requests.len(), 1);
    assert!(requests[0].body["validateOnly"] == true && !requests[0].accepted, "{requests:?}");
    let sending = clouds.provider("fcm", &[]);
    assert_eq!(told(&sending.send(&message("push", "device")).await), "sent");
    assert!(clouds.requests("fcm")[1].accepted && clouds.requests("fcm")[1].body.get("validateOnly").is_none());
}

#[tokio::test]
async fn how_many_requests_twilio_counts_at_once_is_passed_on() {
    let clouds = Clouds::start().await;
    let provider = clouds.provider("twilio", &[]);
    assert_eq!(provider.concurrent_requests(), None);
    assert_eq!(told(&provider.send(&message("sms", address("sms"))).await), "sent");
    assert_eq!(provider.concurrent_requests(), Some(1));
}

/// What one answer comes to in a daemon: status, code, the wait in milliseconds from the answer to what is due next, suppressed addresses.
async fn in_a_daemon(clouds: &Clouds, channel: &str, name: &str, answer: &Value) -> (String, String, Option<i64>, Vec<Value>) {
    clouds.answer(json!([{ "provider": name, "answer": answer }]));
    let mut setup = clouds.configure(Setup::new());
    setup.set(&format!("channel.{channel}.retry.steps"), "[\"2s\"]");
    let daemon = setup.start().await;
    let recipient = json!({ "user_id": "42", "email": address("email"), "phone": address("sms"), "push_tokens": [address("push")] });
    daemon.api.post("/v1/jobs", &job("case", &[recipient], &[channel])).await.expect(202);
    let has_ended = |job: &Value| job["deliveries"][0]["attempts"][0]["outcome"].is_string() && job["deliveries"][0]["status"] != "sending";
    let found = daemon.job_when("case", has_ended).await;
    let delivery = &found["deliveries"][0];
    let at = |value: &Value| value.as_str().and_then(|text| text.parse::<Timestamp>().ok()).map(Timestamp::as_millis);
    let wait = at(&delivery["next_at"]).zip(at(&delivery["attempts"][0]["finished_at"])).map(|(next, finished)| next - finished);
    let suppressed = daemon.api.get("/v1/suppressions").await.expect(200)["suppressions"].as_array().unwrap().clone();
    let code = delivery["attempts"][0]["code"].as_str().unwrap_or_default().to_owned();
    (delivery["status"].as_str().unwrap().to_owned(), code, wait, suppressed)
}

/// Every answer that one provider alone has: when it is tried again, and whose address is suppressed for it.
async fn check_own(channel: &str, name: &str) {
    let clouds = Clouds::start().await;
    // Two seconds, and up to half of them more; FCM never sooner than ten.
    let step = if name == "fcm" { 10_000..=10_000 } else { 2_000..=3_000 };
    for (answer, expected) in own(name) {
        let (status, code, wait, suppressed) = in_a_daemon(&clouds, channel, name, &answer).await;
        let told = format!("{name}, answered {answer}: {status} {code}, again after {wait:?} ms, suppressed {suppressed:?}");
        let words: Vec<&str> = expected.split(' ').collect();
        assert_eq!(code, words[1], "{told}");
        match words[0] {
            "address" => assert!(status == "failed" && wait.is_none() && suppressed.len() == 1, "{told}"),
            "payload" => assert!(status == "failed" && wait.is_none() && suppressed.is_empty(), "{told}"),
            kind => {
                let wish = match words.get(2) {
                    Some(&"4x") => 30_000..=40_000,
                    Some(seconds) if kind == "transient" && seconds.parse::<i64>().unwrap() * 1000 > *step.end() => {
                        let wish = seconds.parse::<i64>().unwrap() * 1000;
                        wish..=wish
                    }
                    _ => step.clone(),
                };
                assert!(
                    status == "queued" && suppressed.is_empty() && wait.is_some_and(|wait| wish.contains(&wait)),
                    "{told}, not {wish:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_daemon_does_as_sendgrid_says() {
    check_own("email", "sendgrid").await;
}

#[tokio::test]
async fn a_daemon_does_as_twilio_says() {
    check_own("sms", "twilio").await;
}

#[tokio::test]
async fn a_daemon_does_as_firebase_says() {
    check_own("push", "fcm").await;
}

#[tokio::test]
async fn probes_prove_credentials_and_send_nothing() {
    let clouds = Clouds::start().await;
    for (_, name) in CARRIERS {
        assert_eq!(clouds.provider(name, &[]).probe().await, Ok(()), "{name}");
    }
    let accepted: Vec<_> =
        clouds.mock.requests(None, 0).into_iter().filter(|request| request.accepted && request.method == "POST").collect();
    assert!(accepted.iter().all(|request| request.provider.as_str() == "token" || request.body["validateOnly"] == true), "{accepted:?}");
    for (name, key) in [("sendgrid", "api_key"), ("twilio", "api_secret")] {
        let bad = clouds.provider(name, &[(&format!("provider.{name}.{key}"), "wrong".into())]);
        let failure = bad.probe().await.unwrap_err();
        assert!(failure.problem.contains("401") && !failure.hint.is_empty(), "{failure:?}");
        assert!(!failure.problem.contains("wrong"));
    }
    clouds.answer(json!([{ "provider": "token", "answer": { "status": 400 } }]));
    let failure = clouds.provider("fcm", &[]).probe().await.unwrap_err();
    assert!(failure.problem.contains("clock"), "{failure:?}");
}

#[tokio::test]
async fn the_command_says_which_credentials_are_good() {
    let clouds = Clouds::start().await;
    let with_keys = |commands: Commands| {
        clouds.keys().into_iter().fold(commands, |commands, (key, value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            commands.with(&format!("TARISHI__{}", key.replace('.', "__").to_uppercase()), &value)
        })
    };
    let commands = with_keys(Commands::new());
    let good = commands.run(&["check", "--probe"]).await;
    let told = String::from_utf8(good.bytes).unwrap();
    assert_eq!(good.code, Some(0), "{}", good.errors);
    for (channel, name) in CARRIERS {
        assert!(told.lines().any(|line| line.starts_with(name) && line.contains(channel) && line.contains("good")), "{told}");
    }
    let bad = commands.with("TARISHI__PROVIDER__TWILIO__API_SECRET", "wrong").run(&["check", "--probe", "--json"]).await;
    assert_eq!(bad.code, Some(3), "{}", bad.errors);
    let document: Value = serde_json::from_slice(&bad.bytes).unwrap();
    let problems: Vec<&Value> = document["probes"].as_array().unwrap().iter().filter(|probe| probe["good"] == false).collect();
    assert!(problems.len() == 1 && problems[0]["provider"] == "twilio" && problems[0]["hint"].is_string(), "{document}");
    assert!(clouds.mock.requests(None, 0).iter().all(|request| request.provider.as_str() != "sendgrid" || request.method == "GET"));
}
