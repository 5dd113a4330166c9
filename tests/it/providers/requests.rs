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
    for (field, value) in [("body", json!("{}")), ("path", json!("/v3/mail/snd")), ("method", json!("PUT"))] {
        let mut bad = recorded[0].clone();
        bad[field] = value;
        let (code, told) = validate(&[bad]).await;
        assert_eq!(code, Some(1), "{field}: {told:?}");
    }
}
