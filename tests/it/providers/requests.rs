//! What goes over the wire is what the providers have published, in the eyes of a validator that is not ours.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Value, json};
use tarishi::model::{Body, Message};

use super::contract::{address, message};
use crate::support::{CARRIERS, Clouds, python};

fn specs() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/providers").to_owned()
}

/// Messages of every shape: each template's worth of them comes from the tests of templates.
fn shapes(channel: &str) -> Vec<Message> {
    let plain = message(channel, address(channel));
    let mut shapes = vec![plain.clone()];
    shapes.push(Message {
        collapse_key: Some("conversation-7 & more".to_owned()),
        tenant: Some("smartdalali".to_owned()),
        ..plain.clone()
    });
    shapes.push(Message { template: None, ..plain.clone() });
    match &plain.body {
        Body::Email(mail) => {
            let bare = tarishi::model::Email { html: None, unsubscribe_url: None, ..mail.clone() };
            let html = tarishi::model::Email { text: None, subject: "Habari \u{1f600} ya <nyumba>".to_owned(), ..mail.clone() };
            shapes.extend([bare, html].map(|mail| Message { body: Body::Email(mail), ..plain.clone() }));
        }
        Body::Sms(sms) => {
            let texts = ["a".repeat(1530), "\u{1f600}".repeat(330), "+ & = % ?\n€".to_owned()];
            shapes.extend(texts.map(|text| Message { body: Body::Sms(tarishi::model::Sms { text, ..sms.clone() }), ..plain.clone() }));
        }
        Body::Push(push) => {
            let platform = json!({
                "android": { "priority": "HIGH", "notification": { "channelId": "messages" } },
                "apns": { "headers": { "apns-priority": "10" }, "payload": { "aps": { "badge": 1 } } },
                "webpush": { "headers": { "Urgency": "high" }, "fcmOptions": { "link": "https://app.example" } },
            });
            let targets = [
                tarishi::model::PushTarget::Token("cAbCdEfGhIjKlMnOpQrStU".parse().unwrap()),
                tarishi::model::PushTarget::Topic("news".to_owned()),
                tarishi::model::PushTarget::Condition("'news' in topics && !('old' in topics)".to_owned()),
            ];
            shapes.extend(targets.map(|target| {
                let push = tarishi::model::Push { target, platform: platform.as_object().cloned().unwrap(), ..push.clone() };
                Message { body: Body::Push(push), ..plain.clone() }
            }));
        }
        Body::Live(_) => {}
    }
    shapes
}

async fn validate(recorded: &[Value]) -> (Option<i32>, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("recorded.jsonl");
    let lines = recorded.iter().fold(String::new(), |mut lines, line| {
        writeln!(lines, "{line}").unwrap();
        lines
    });
    std::fs::write(&file, lines).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/validate_requests.py").to_owned();
    let process = python(&[script, specs(), file.display().to_string()], &BTreeMap::new());
    let ended = process.end().await;
    (ended.code, process.lines())
}

#[tokio::test]
async fn our_requests_are_as_published() {
    let clouds = Clouds::start().await;
    let mut recorded = Vec::new();
    for (channel, name) in CARRIERS {
        let keys = [
            ("provider.sendgrid.categories", toml::Value::Array(vec!["marketplace".into()])),
            ("provider.sendgrid.reply_to", "Support <support@tarishi.example>".into()),
            ("provider.sendgrid.from_by_tenant", toml::toml! { smartdalali = "\"SmartDalali, Ltd.\" <hello@smartdalali.example>" }.into()),
            ("provider.twilio.messaging_service_sid", "MG00000000000000000000000000000000".into()),
        ];
        let provider = clouds.provider(name, &keys);
        for message in shapes(channel) {
            let outcome = provider.send(&message).await;
            assert_eq!(outcome.as_str(), "sent", "{name}: {outcome:?}");
        }
        recorded.extend(clouds.requests(name).iter().map(|request| {
            json!({ "provider": name, "method": request.method, "path": request.path, "headers": request.headers, "body": request.raw })
        }));
    }
    let (code, told) = validate(&recorded).await;
    assert_eq!(code, Some(0), "{told:#?}");
    let counts: Value = serde_json::from_str(told.last().unwrap()).unwrap();
    assert_eq!(counts["validated"], json!({ "sendgrid": 5, "twilio": 6, "fcm": 6 }));
    // And it can say no.
    let body = |line: &Value| serde_json::from_str::<Value>(line["body"].as_str().unwrap()).unwrap();
    let mut wrong_type = body(&recorded[0]);
    wrong_type["subject"] = json!(7);
    let mut wrong_name = body(&recorded[0]);
    wrong_name["from"] = json!({ "mail": "hello@tarishi.example" });
    let mut push = recorded.iter().find(|line| line["provider"] == "fcm").unwrap().clone();
    let mut numeric = body(&push);
    numeric["message"]["data"] = json!({ "number": 7 });
    push["body"] = json!(numeric.to_string());
    for (field, value) in [
        ("body", json!("{}")),
        ("body", json!(wrong_type.to_string())),
        ("body", json!(wrong_name.to_string())),
        ("path", json!("/v3/mail/snd")),
        ("method", json!("PUT")),
    ] {
        let mut bad = recorded[0].clone();
        bad[field] = value;
        let (code, told) = validate(&[bad]).await;
        assert_eq!(code, Some(1), "{field}: {told:?}");
    }
    assert_eq!(validate(&[push]).await.0, Some(1), "a number is no string");
}

#[tokio::test]
async fn a_mail_says_whose_it_is() {
    let clouds = Clouds::start().await;
    let keys = [
        ("provider.sendgrid.categories", toml::Value::Array(vec!["marketplace".into(), "generic".into()])),
        ("provider.sendgrid.reply_to", "Support <support@tarishi.example>".into()),
        ("provider.sendgrid.from_by_tenant", toml::toml! { smartdalali = "\"SmartDalali, Ltd.\" <hello@smartdalali.example>" }.into()),
    ];
    let provider = clouds.provider("sendgrid", &keys);
    let own = message("email", address("email"));
    let tenants = Message { tenant: Some("smartdalali".to_owned()), ..own.clone() };
    let strangers = Message { tenant: Some("nobody".to_owned()), template: None, ..own.clone() };
    for message in [&own, &tenants, &strangers] {
        assert_eq!(provider.send(message).await.as_str(), "sent");
    }
    let bodies: Vec<Value> = clouds.requests("sendgrid").iter().map(|request| request.body.clone()).collect();
    let [own, tenants, strangers] = &bodies[..] else { panic!("three mails") };
    assert_eq!(own["from"], json!({ "email": "hello@tarishi.example", "name": "Tarishi" }));
    assert_eq!(tenants["from"], json!({ "email": "hello@smartdalali.example", "name": "SmartDalali, Ltd." }));
    assert_eq!(strangers["from"], own["from"]);
    for mail in [own, tenants, strangers] {
        assert_eq!(mail["reply_to"], json!({ "email": "support@tarishi.example", "name": "Support" }));
        assert_eq!(mail["custom_args"], json!({ "tarishi_delivery": "07070707070707070707070700000001" }));
        assert_eq!(mail["personalizations"], json!([{ "to": [{ "email": "asha@people.example" }] }]));
        let content: Vec<&Value> = mail["content"].as_array().unwrap().iter().map(|part| &part["type"]).collect();
        assert_eq!(content, ["text/plain", "text/html"], "plain text first");
        assert_eq!(mail["mail_settings"], Value::Null);
    }
    assert_eq!(own["categories"], json!(["generic", "marketplace"]), "each once");
    assert_eq!(strangers["categories"], json!(["marketplace", "generic"]));
    assert_eq!(own["headers"]["Message-ID"], "<07070707070707070707070700000001@tarishi.example>");
    assert_eq!(tenants["headers"]["Message-ID"], "<07070707070707070707070700000001@smartdalali.example>");
}

#[tokio::test]
async fn a_mail_beyond_the_limit_does_not_leave() {
    let clouds = Clouds::start().await;
    let provider = clouds.provider("sendgrid", &[]);
    let mut large = message("email", address("email"));
    let Body::Email(mail) = &mut large.body else { panic!() };
    mail.html = Some("x".repeat(30_000_000));
    let outcome = provider.send(&large).await;
    assert_eq!(super::contract::told(&outcome), "payload too_large");
    let Body::Email(mail) = &mut large.body else { panic!() };
    (mail.html, mail.text) = (Some(String::new()), None);
    assert_eq!(super::contract::told(&provider.send(&large).await), "payload payload_refused", "nothing in it");
    assert!(clouds.requests("sendgrid").is_empty());
}

#[tokio::test]
async fn in_the_sandbox_mails_are_checked_and_not_sent() {
    let clouds = Clouds::start().await;
    let provider = clouds.provider("sendgrid", &[("provider.sendgrid.sandbox", true.into())]);
    let mail = message("email", address("email"));
    assert_eq!(super::contract::told(&provider.send(&mail).await), "sent without id");
    assert_eq!(clouds.requests("sendgrid")[0].body["mail_settings"], json!({ "sandbox_mode": { "enable": true } }));
    // 200 is what the sandbox answers, and nobody else.
    clouds.answer(json!([{ "provider": "sendgrid", "answer": { "status": 200 } }]));
    assert_eq!(super::contract::told(&clouds.provider("sendgrid", &[]).send(&mail).await), "unknown unexpected_answer");
}

#[tokio::test]
async fn the_validator_knows_a_misspelled_member() {
    let clouds = Clouds::start().await;
    for ((channel, name), (right, wrong)) in CARRIERS.into_iter().zip([
        ("\"subject\"", "\"subjekt\""),
        ("ValidityPeriod=", "ValidityPeroid="),
        ("\"notification\"", "\"notificaton\""),
    ]) {
        let outcome = clouds.provider(name, &[]).send(&message(channel, address(channel))).await;
        assert_eq!(outcome.as_str(), "sent", "{name}: {outcome:?}");
        let request = clouds.requests(name).pop().unwrap();
        let recorded = |body: &str| json!({ "provider": name, "method": request.method, "path": request.path, "headers": request.headers, "body": body });
        let (code, told) = validate(&[recorded(&request.raw)]).await;
        assert_eq!(code, Some(0), "{name}: {told:?}");
        let misspelled = request.raw.replacen(right, wrong, 1);
        assert_ne!(misspelled, request.raw);
        let (code, told) = validate(&[recorded(&misspelled)]).await;
        assert_eq!(code, Some(1), "{name}: {told:?}");
        assert!(told.iter().any(|line| line.contains(wrong.trim_matches(['"', '=']))), "{name}: {told:?}");
    }
}
