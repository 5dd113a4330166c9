//! Mails to a real server: what each of its answers comes to, and that what arrives is what was meant.

use serde_json::{Value, json};
use tarishi::{
    channel::{Provider as _, email::smtp::Smtp},
    config::{Sources, load},
    model::{Body, Email, Message, Timestamp},
};

use super::contract::{message, told};
use crate::support::{Daemon, MailServer, Setup, job, templates, until};

/// The sender's name: one that has to be quoted and encoded.
const SENDER: &str = "Tarishi \u{e9}, Ltd.";

/// Those whose mails people may refuse.
const REFUSABLE: [&str; 8] = [
    "agent_response_timeout",
    "new_conversation",
    "new_message",
    "price_offer",
    "visit_cancelled",
    "visit_confirmed",
    "visit_declined",
    "visit_requested",
];

/// Every template there is, by its folder.
fn shipped() -> Vec<String> {
    let folders = std::fs::read_dir(templates()).unwrap().map(Result::unwrap).filter(|entry| entry.file_type().unwrap().is_dir());
    let mut names: Vec<String> =
        folders.map(|entry| entry.file_name().into_string().unwrap()).filter(|name| !name.starts_with('_')).collect();
    names.sort();
    names
}

fn keys(server: &MailServer, door: &str) -> Vec<(&'static str, String)> {
    let has_tls = !matches!(door, "plain" | "ascii");
    let user = if matches!(door, "plain" | "ascii" | "open") { "" } else { "asha:geheim" };
    let mut keys = vec![
        ("channel.email.providers", "[\"smtp\"]".to_owned()),
        ("provider.smtp.url", server.url(door, user)),
        ("provider.smtp.from", format!("\"{SENDER}\" <hello@tarishi.example>")),
        ("provider.smtp.reply_to", "\"Msaada \u{e9}\" <help@tarishi.example>".to_owned()),
        ("provider.smtp.ca_file", server.ca_file().display().to_string()),
    ];
    if !has_tls {
        keys.push(("provider.smtp.tls", "none".to_owned()));
    }
    keys
}

fn smtp(keys: &[(&'static str, String)]) -> Smtp {
    crate::support::install_cryptography();
    let env = keys.iter().map(|(key, value)| (format!("TARISHI__{}", key.replace('.', "__").to_uppercase()), value.clone()));
    let config = load(&Sources { env: env.collect(), ..Sources::default() }).unwrap();
    Smtp::new(&config.provider.smtp).unwrap()
}

fn mail_to(to: &str) -> Message {
    message("email", &format!("{to}@people.example"))
}

#[tokio::test]
async fn every_answer_comes_to_what_it_should() {
    let server = MailServer::start().await;
    let smtp = smtp(&keys(&server, "starttls"));
    for (to, expected) in [
        ("asha", "sent"),
        ("unknown", "address address_unknown"),
        ("bare", "address address_unknown"),
        ("late-unknown", "address address_unknown"),
        ("full", "transient mailbox_full 0"),
        ("grey", "transient greylisted 0"),
        ("limit", "transient rate_limited 0"),
        ("helo", "config config_refused"),
        ("verify", "config sender_refused"),
        ("blocked", "config config_refused"),
        ("policy", "payload content_refused"),
        ("relay", "config config_refused"),
        ("spam", "payload content_refused"),
        ("big", "payload too_large"),
        ("many", "transient provider_unavailable 0"),
        ("later", "transient provider_unavailable 0"),
        ("closing", "transient provider_unavailable 0"),
        ("data-421", "transient provider_unavailable 0"),
        ("cut-rcpt", "transient connection_failed 0"),
        ("cut-data", "transient connection_failed 0"),
        ("nonsense-rcpt", "transient unexpected_answer 0"),
        ("latin-rcpt", "transient unexpected_answer 0"),
        ("no-354", "transient unexpected_answer 0"),
        ("long-rcpt", "transient unexpected_answer 0"),
        ("huge-rcpt", "transient unexpected_answer 0"),
        ("drip-rcpt", "sent"),
        ("cut-lost", "unknown connection_lost"),
        ("cut-kept", "unknown connection_lost"),
        ("nonsense-dot", "unknown unexpected_answer"),
        ("dot-354", "unknown unexpected_answer"),
        ("leave", "sent"),
        ("asha", "sent"),
        ("leave-rudely", "sent"),
        ("asha", "sent"),
        ("leave-with-421", "sent"),
        ("asha", "sent"),
    ] {
        let outcome = smtp.send(&mail_to(to)).await;
        assert_eq!(told(&outcome), expected, "{to}: {outcome:?}");
        assert!(!outcome.detail().unwrap_or_default().contains("people.example"), "{to}: {outcome:?}");
    }
    // The ones after somebody has left were sent once each, on a connection of their own.
    let to_asha = || server.mails().iter().filter(|mail| mail["to"] == json!(["asha@people.example"])).count();
    until("all are read", async || (to_asha() >= 4).then_some(())).await;
    assert_eq!(to_asha(), 4);
    assert!(server.mails().iter().all(|mail| mail["tls"] == true && mail["bare"] == 0 && mail["defects"] == json!([])));
}

#[tokio::test]
async fn a_server_that_is_slow_before_the_dot_has_nothing() {
    let server = MailServer::start().await;
    let keys = keys(&server, "plain");
    let slow = smtp(&keys).with_call_timeout(std::time::Duration::from_millis(400));
    assert_eq!(told(&slow.send(&mail_to("slow-rcpt")).await), "transient timeout 0");
    assert!(server.mails().is_empty());
    // Behind the dot it is waited for, by whoever waits for the attempt.
    let patient = smtp(&keys);
    let mail = mail_to("slow-dot");
    tokio::select! {
        outcome = patient.send(&mail) => panic!("{outcome:?}"),
        mails = server.wait_mails(1) => assert_eq!(mails.len(), 1),
    }
}

#[tokio::test]
async fn what_is_said_in_the_clear_is_not_taken_for_what_comes_inside() {
    let server = MailServer::start().await;
    let keys = keys(&server, "injecting");
    let outcome = smtp(&keys).send(&mail_to("asha")).await;
    assert_eq!(told(&outcome), "transient connection_failed 0", "{outcome:?}");
    assert!(smtp(&keys).probe().await.is_err());
    assert!(!server.said().iter().any(|said| said.starts_with("AUTH") || said.starts_with("MAIL")), "{:?}", server.said());
}

#[tokio::test]
async fn nothing_is_said_to_a_server_that_is_not_the_right_one() {
    let server = MailServer::start().await;
    for door in ["wrong_host", "wrong_host_implicit"] {
        let smtp = smtp(&keys(&server, door));
        let outcome = smtp.send(&mail_to("asha")).await;
        assert_eq!(told(&outcome), "config config_refused", "{door}: {outcome:?}");
        assert!(smtp.probe().await.is_err(), "{door}");
    }
    // TLS is required, and not offered.
    let mut bare = keys(&server, "plain");
    bare.retain(|(key, _)| *key != "provider.smtp.tls");
    let outcome = smtp(&bare).send(&mail_to("asha")).await;
    assert_eq!(told(&outcome), "config config_refused", "{outcome:?}");
    let mut wrong = keys(&server, "starttls");
    wrong[1].1 = server.url("starttls", "asha:falsch");
    let smtp = smtp(&wrong);
    assert_eq!(told(&smtp.send(&mail_to("asha")).await), "config authentication_failed");
    let failure = smtp.probe().await.unwrap_err();
    assert!(failure.hint.contains("password") && !failure.problem.contains("falsch"), "{failure:?}");
    assert!(server.mails().is_empty());
    assert!(!server.said().iter().any(|said| said.starts_with("MAIL")), "{:?}", server.said());
}

#[tokio::test]
async fn a_probe_logs_in_and_sends_nothing() {
    let server = MailServer::start().await;
    for door in ["starttls", "implicit", "open", "plain"] {
        assert_eq!(smtp(&keys(&server, door)).probe().await, Ok(()), "{door}");
    }
    assert!(server.said().iter().all(|said| !said.starts_with("MAIL")), "{:?}", server.said());
}

#[tokio::test]
async fn addresses_of_the_world_are_reached_where_the_server_can() {
    let server = MailServer::start().await;
    let mut mail = mail_to("asha");
    let Body::Email(body) = &mut mail.body else { panic!() };
    body.to = "\u{e4}sha@b\u{fc}cher.example".parse().unwrap();
    assert_eq!(told(&smtp(&keys(&server, "plain")).send(&mail).await), "sent");
    assert_eq!(told(&smtp(&keys(&server, "ascii")).send(&mail).await), "payload address_unsupported");
    let received = server.wait_mails(1).await.remove(0);
    assert_eq!(received["to"], json!(["\u{e4}sha@xn--bcher-kva.example"]));
    // The domain alone needs no such server.
    let Body::Email(body) = &mut mail.body else { panic!() };
    body.to = "asha@B\u{dc}CHER.example".parse().unwrap();
    assert_eq!(told(&smtp(&keys(&server, "ascii")).send(&mail).await), "sent");
}

#[tokio::test]
async fn a_body_arrives_whole_whatever_is_in_it() {
    let server = MailServer::start().await;
    let smtp = smtp(&keys(&server, "implicit"));
    let texts = [
        "first\n.\nlast".to_owned(),
        "first\r.\rlast".to_owned(),
        "first\r\n.\r\nMAIL FROM:<x@y.example>\r\nlast".to_owned(),
        ".".to_owned(),
        "..\n.a\n.".to_owned(),
        "x".repeat(5000),
        "Habari \u{1f600} \u{202e}ya\u{2028}nyumba \u{85} \u{b} \u{c} Zanzib\u{e4}r".to_owned(),
        "--boundary\r\nContent-Type: text/html\r\n\r\n<b>x</b>".to_owned(),
        "From here on\n>From there".to_owned(),
    ];
    for (number, text) in texts.into_iter().enumerate() {
        let mut mail = mail_to("asha");
        let Body::Email(body) = &mut mail.body else { panic!() };
        let html = format!("<pre>{text}</pre>");
        *body = Email {
            text: Some(text.clone()),
            html: Some(html.clone()),
            subject: "Ndiyo \u{2013} \u{1f600}, hapana".repeat(6),
            ..body.clone()
        };
        assert_eq!(told(&smtp.send(&mail).await), "sent", "{text:?}");
        let received = server.wait_mails(number + 1).await.pop().unwrap();
        let lines = |text: &str| text.replace("\r\n", "\n").replace('\r', "\n").trim_end().to_owned();
        assert_eq!(lines(received["text"].as_str().unwrap()), lines(&text));
        assert_eq!(lines(received["html"].as_str().unwrap()), lines(&html));
        assert_eq!(received["headers"]["subject"][0], "Ndiyo \u{2013} \u{1f600}, hapana".repeat(6));
        assert_eq!(received["headers"]["list-unsubscribe-post"][0], "List-Unsubscribe=One-Click");
        assert!(received["longest_line"].as_u64().unwrap() <= 998 && received["bare"] == 0, "{received}");
    }
}

#[tokio::test]
async fn what_would_be_smuggled_into_a_header_is_refused() {
    let server = MailServer::start().await;
    let smtp = smtp(&keys(&server, "plain"));
    for subject in ["a\r\nBcc: x@y.example", "a\nb", "a\rb", "a\0b", "a\u{85}b", "a\u{2028}b", "a\u{2029}b", "a\u{b}b", "a\u{c}b"] {
        let mut mail = mail_to("asha");
        let Body::Email(body) = &mut mail.body else { panic!() };
        body.subject = subject.to_owned();
        assert_eq!(told(&smtp.send(&mail).await), "payload payload_refused", "{subject:?}");
    }
    // What only looks like it stays what it is.
    let mut mail = mail_to("asha");
    let Body::Email(body) = &mut mail.body else { panic!() };
    body.subject = "a%0d%0aBcc: x\\r\\n".to_owned();
    assert_eq!(told(&smtp.send(&mail).await), "sent");
    let [received] = &server.wait_mails(1).await[..] else { panic!("one mail") };
    assert_eq!(received["headers"]["subject"][0], "a%0d%0aBcc: x\\r\\n");
    assert!(received["headers"]["bcc"].is_null());
}

async fn daemon(server: &MailServer) -> (Setup, Daemon) {
    let mut setup = Setup::new().with_quick_retries();
    for (key, value) in keys(server, "starttls") {
        setup.set(key, &value);
    }
    let daemon = setup.start().await;
    (setup, daemon)
}

fn to(email: &str) -> Value {
    json!({ "user_id": "42", "email": email })
}

#[tokio::test]
async fn every_template_arrives_in_both_languages_as_it_was_meant() {
    let server = MailServer::start().await;
    let (_setup, sending) = daemon(&server).await;
    // The same jobs, captured: what was meant.
    let capturing = Setup::new().start().await;
    let listed = sending.api.get("/v1/templates").await.expect(200);
    let samples: Vec<(String, Value)> = listed["templates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|template| (template["name"].as_str().unwrap().to_owned(), template["sample"].clone()))
        .collect();
    assert_eq!(samples.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), shipped());
    for (number, (name, sample, locale)) in
        samples.iter().flat_map(|(name, sample)| ["en", "sw"].map(|locale| (name, sample, locale))).enumerate()
    {
        let id = format!("{name}-{locale}");
        let recipient = json!({ "user_id": "42", "email": "asha@people.example", "locale": locale });
        let job = json!({ "id": id, "template": name, "to": [recipient], "channels": ["email"], "data": sample });
        let before = Timestamp::now().as_millis() / 1000;
        for daemon in [&sending, &capturing] {
            daemon.api.post("/v1/jobs", &job).await.expect(202);
            assert_eq!(daemon.finished(&id).await["deliveries"][0]["status"], "sent", "{id}");
        }
        let received = server.wait_mails(number + 1).await.pop().unwrap();
        let meant = capturing.api.get("/v1/outbox?limit=1").await.expect(200)["messages"][0].clone();
        let html = capturing.api.get(&format!("/v1/outbox/{}/html", meant["id"])).await.text;
        let lines = |text: &str| text.replace("\r\n", "\n").trim_end().to_owned();
        assert_eq!(received["headers"]["subject"][0], meant["subject"], "{id}");
        assert_eq!(lines(received["text"].as_str().unwrap()), lines(meant["text"].as_str().unwrap()), "{id}");
        assert_eq!(lines(received["html"].as_str().unwrap()), lines(&html), "{id}");
        assert_eq!(received["kinds"], json!(["multipart/alternative", "text/plain", "text/html"]), "{id}");
        assert_eq!((&received["defects"], &received["bare"]), (&json!([]), &json!(0)), "{id}");
        let headers = &received["headers"];
        let delivery = sending.deliveries(&id).await.remove(0);
        assert_eq!(headers["message-id"][0], format!("<{}@tarishi.example>", delivery["id"].as_str().unwrap()));
        assert_eq!(headers["auto-submitted"][0], "auto-generated");
        // The first name has a comma, and would be two mailboxes without its quotes.
        assert_eq!(headers["from"], json!([format!("\"{SENDER}\" <hello@tarishi.example>")]));
        assert_eq!(headers["to"], json!(["asha@people.example"]));
        assert_eq!(headers["reply-to"], json!(["Msaada \u{e9} <help@tarishi.example>"]));
        let after = Timestamp::now().as_millis() / 1000;
        assert!((before..=after).contains(&received["date"].as_i64().unwrap()), "{headers}");
        assert_eq!(headers.get("list-unsubscribe").is_some(), REFUSABLE.contains(&name.as_str()), "{id}");
    }
}

#[tokio::test]
async fn greylisting_passes_and_an_unknown_outcome_keeps_its_message_id() {
    let server = MailServer::start().await;
    let (_setup, daemon) = daemon(&server).await;
    for (id, address, outcomes) in
        [("grey", "first-grey@people.example", ["transient", "sent"]), ("cut", "first-cut-kept@people.example", ["unknown", "sent"])]
    {
        daemon.api.post("/v1/jobs", &job(id, &[to(address)], &["email"])).await.expect(202);
        let delivery = daemon.finished(id).await["deliveries"][0].clone();
        let attempts: Vec<_> = delivery["attempts"].as_array().unwrap().iter().map(|attempt| attempt["outcome"].clone()).collect();
        assert_eq!(attempts, outcomes, "{delivery}");
    }
    let mails: Vec<Value> =
        server.wait_mails(3).await.into_iter().filter(|mail| mail["to"] == json!(["first-cut-kept@people.example"])).collect();
    assert_eq!(mails.len(), 2, "the server kept the first one too");
    assert_eq!(mails[0]["headers"]["message-id"], mails[1]["headers"]["message-id"]);
}

#[tokio::test]
async fn a_dead_address_is_not_written_to_again() {
    let server = MailServer::start().await;
    let (_setup, daemon) = daemon(&server).await;
    daemon.api.post("/v1/jobs", &job("first", &[to("unknown@people.example")], &["email"])).await.expect(202);
    assert_eq!(daemon.finished("first").await["deliveries"][0]["code"], "address_unknown");
    daemon.api.post("/v1/jobs", &job("second", &[to("Unknown@PEOPLE.example")], &["email"])).await.expect(202);
    let second = daemon.finished("second").await["deliveries"][0].clone();
    assert_eq!((&second["status"], &second["code"]), (&json!("suppressed"), &json!("suppressed")), "{second}");
    assert_eq!(server.said().iter().filter(|said| said.starts_with("RCPT")).count(), 1);
    // Policy says nothing about the address.
    daemon.api.post("/v1/jobs", &job("policy", &[to("policy@people.example")], &["email"])).await.expect(202);
    daemon.finished("policy").await;
    let listed = daemon.api.get("/v1/suppressions").await.expect(200);
    assert_eq!(listed["suppressions"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(daemon.api.get("/v1/audit").await.expect(200)["balanced"], true);
}
