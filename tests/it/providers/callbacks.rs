//! What providers call back with, really signed: statuses, the suppression list, and one-click unsubscribing.

use serde_json::{Value, json};
use tarishi::mock::MockSettings;

use crate::support::{Answer, Clouds, Commands, Daemon, Setup, job, recipient};

/// A daemon whose clouds know where to call back.
async fn daemon() -> (Setup, Clouds, Daemon) {
    let setup = Setup::new();
    let public = setup.public_url();
    let webhook_url = Some(format!("{public}/webhooks/sendgrid"));
    let clouds = Clouds::with(MockSettings { webhook_url, ..MockSettings::default() }).await;
    let mut setup = clouds.configure(setup).with("public.base_url", &public).with_quick_retries();
    let daemon = setup.start().await;
    (setup, clouds, daemon)
}

async fn enqueue(daemon: &Daemon, id: &str, user: &str, channel: &str) {
    daemon.api.post("/v1/jobs", &job(id, &[recipient(user)], &[channel])).await.expect(202);
}

async fn comes_to(daemon: &Daemon, id: &str, status: &str) -> Value {
    daemon.job_when(id, |job| job["deliveries"][0]["status"] == status).await["deliveries"][0].clone()
}

async fn suppressions(daemon: &Daemon) -> Vec<Value> {
    daemon.api.get("/v1/suppressions").await.expect(200)["suppressions"].as_array().unwrap().clone()
}

async fn is_balanced(daemon: &Daemon) -> bool {
    daemon.api.get("/v1/audit").await.expect(200)["balanced"] == true
}

#[tokio::test]
async fn what_became_of_a_mail_comes_back() {
    let (_setup, clouds, daemon) = daemon().await;
    clouds.answer(json!([{ "provider": "sendgrid", "webhooks": ["processed", "delivered", "open", "click"], "webhook_delay": "1ms" }]));
    enqueue(&daemon, "read", "1", "email").await;
    let delivered = daemon.job_when("read", |job| !job["deliveries"][0]["clicked_at"].is_null()).await["deliveries"][0].clone();
    assert_eq!(delivered["status"], "delivered", "{delivered}");
    assert!(delivered["delivered_at"].is_string() && delivered["opened_at"].is_string(), "{delivered}");

    clouds.answer(json!([{ "provider": "sendgrid", "webhooks": ["processed", "bounce"], "webhook_delay": "1ms" }]));
    enqueue(&daemon, "bounced", "2", "email").await;
    let failed = comes_to(&daemon, "bounced", "failed").await;
    assert_eq!(failed["code"], "bounced", "{failed}");
    enqueue(&daemon, "again", "2", "email").await;
    assert_eq!(comes_to(&daemon, "again", "suppressed").await["code"], "suppressed");

    // It arrived, and somebody calls it spam: delivered it stays, and nothing more goes there.
    clouds.answer(json!([{ "provider": "sendgrid", "webhooks": ["delivered", "spamreport"], "webhook_delay": "1ms" }]));
    enqueue(&daemon, "spam", "3", "email").await;
    daemon.process.until("the complaint is noted", async || (suppressions(&daemon).await.len() == 2).then_some(())).await;
    assert_eq!(comes_to(&daemon, "spam", "delivered").await["status"], "delivered");
    let reasons: Vec<Value> = suppressions(&daemon).await.iter().map(|entry| entry["reason"].clone()).collect();
    assert_eq!(reasons, ["bounced", "complained"]);
    assert!(is_balanced(&daemon).await);
    let told = daemon.process.lines().join("\n");
    assert!(!told.contains("2@people.example") && !told.contains("3@people.example"), "no address in any line");
}

#[tokio::test]
async fn what_became_of_an_sms_comes_back() {
    let (_setup, clouds, daemon) = daemon().await;
    clouds.answer(json!([{ "provider": "twilio", "webhooks": ["delivered", "sent"], "webhook_delay": "1ms" }]));
    enqueue(&daemon, "well", "1", "sms").await;
    comes_to(&daemon, "well", "delivered").await;
    clouds.answer(json!([{ "provider": "twilio", "webhooks": ["sent", "undelivered:30003"], "webhook_delay": "1ms" }]));
    enqueue(&daemon, "off", "2", "sms").await;
    assert_eq!(comes_to(&daemon, "off", "failed").await["code"], "handset_unreachable");
    assert!(suppressions(&daemon).await.is_empty(), "the handset was off, not gone");
    clouds.answer(json!([{ "provider": "twilio", "webhooks": ["undelivered:30005"], "webhook_delay": "1ms" }]));
    enqueue(&daemon, "nobody", "3", "sms").await;
    assert_eq!(comes_to(&daemon, "nobody", "failed").await["code"], "address_unknown");
    clouds.answer(json!([{ "provider": "twilio", "answer": "opted_out" }]));
    enqueue(&daemon, "stop", "4", "sms").await;
    assert_eq!(comes_to(&daemon, "stop", "failed").await["code"], "opted_out");
    clouds.answer(json!([]));
    for (id, user) in [("nobody-again", "3"), ("stop-again", "4")] {
        enqueue(&daemon, id, user, "sms").await;
        comes_to(&daemon, id, "suppressed").await;
    }
    assert!(is_balanced(&daemon).await);
}

#[tokio::test]
async fn a_callback_before_the_answer_counts() {
    let (_setup, clouds, daemon) = daemon().await;
    clouds.answer(json!([{ "provider": "twilio", "delay": "700ms", "webhooks": ["delivered"], "webhook_delay": "0ms" }]));
    enqueue(&daemon, "early", "1", "sms").await;
    comes_to(&daemon, "early", "delivered").await;
    // No answer came, and the callback knows better than waiting or sending again.
    clouds.answer(json!([{ "provider": "twilio", "answer": "reset_after", "webhooks": ["delivered"], "webhook_delay": "0ms" }]));
    enqueue(&daemon, "silent", "2", "sms").await;
    comes_to(&daemon, "silent", "delivered").await;
    assert!(is_balanced(&daemon).await);
}

#[tokio::test]
async fn a_device_that_is_gone_is_forgotten_and_only_then() {
    let (_setup, clouds, daemon) = daemon().await;
    let contact = json!({ "push_tokens": [{ "token": "gone" }, { "token": "strange" }, { "token": "well" }] });
    daemon.api.put("/v1/users/7", &contact).await.expect(200);
    clouds.answer(json!([
        { "provider": "fcm", "to": "gone", "answer": "unregistered" },
        { "provider": "fcm", "to": "strange", "answer": "sender_mismatch" },
    ]));
    daemon.api.post("/v1/jobs", &job("push", &[json!({ "user_id": "7" })], &["push"])).await.expect(202);
    daemon.finished("push").await;
    let mut codes: Vec<Value> = daemon.deliveries("push").await.iter().map(|delivery| delivery["code"].clone()).collect();
    codes.sort_by_key(ToString::to_string);
    assert_eq!(codes, [json!("sender_mismatch"), json!("unregistered"), Value::Null]);
    let tokens = |contact: Value| contact["push_tokens"].as_array().unwrap().iter().map(|entry| entry["token"].clone()).collect::<Vec<_>>();
    let mut left = tokens(daemon.api.get("/v1/users/7").await.expect(200));
    left.sort_by_key(ToString::to_string);
    assert_eq!(left, ["strange", "well"]);
    let [entry] = &suppressions(&daemon).await[..] else { panic!("one entry") };
    assert_eq!((&entry["address"], &entry["reason"]), (&json!("gone"), &json!("unregistered")));
    // The app is back.
    daemon.api.put("/v1/users/7", &contact).await.expect(200);
    assert!(suppressions(&daemon).await.is_empty());
}

#[tokio::test]
async fn who_is_not_the_provider_changes_nothing() {
    const SIGNATURE: &str = "x-twilio-email-event-webhook-signature";
    const TIMESTAMP: &str = "x-twilio-email-event-webhook-timestamp";
    let (_setup, _clouds, daemon) = daemon().await;
    let api = daemon.public_api();
    let post = async |path: &str, kind: &str, headers: &[(&'static str, &str)], body: &str| {
        let mut request = api.request(reqwest::Method::POST, path).header("content-type", kind).body(body.to_owned());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        // Whoever is refused before all of it is written may hear of it only as a broken connection.
        Answer::of(request).await.map(|answer| answer.status)
    };
    let refused =
        async |path: &str, kind: &str, headers: &[(&'static str, &str)], body: &str| post(path, kind, headers, body).await.unwrap();
    let now = (tarishi::model::Timestamp::now().as_millis() / 1000).to_string();
    let event = r#"[{"event":"bounce","email":"asha@people.example","sg_event_id":"1","timestamp":1}]"#;
    let json = "application/json";
    assert_eq!(refused("/webhooks/sendgrid", json, &[], event).await, 403);
    assert_eq!(refused("/webhooks/sendgrid", json, &[(SIGNATURE, ""), (TIMESTAMP, &now)], event).await, 403);
    assert_eq!(refused("/webhooks/sendgrid", json, &[(SIGNATURE, "MEUCIQ=="), (TIMESTAMP, &now)], event).await, 403);
    assert_eq!(refused("/webhooks/sendgrid", json, &[(SIGNATURE, "a"), (SIGNATURE, "b"), (TIMESTAMP, &now)], event).await, 403);
    assert_eq!(refused("/webhooks/sendgrid", json, &[(SIGNATURE, "MEUCIQ==")], event).await, 403);
    assert_eq!(refused("/webhooks/sendgrid", "text/plain", &[(SIGNATURE, "MEUCIQ=="), (TIMESTAMP, &now)], event).await, 415);
    let huge = format!("[\"{}\"]", "x".repeat(10 << 20));
    let huge = post("/webhooks/sendgrid", json, &[(SIGNATURE, "MEUCIQ=="), (TIMESTAMP, &now)], &huge).await;
    assert!(huge.as_ref().map_or_else(reqwest::Error::is_request, |status| *status == 413), "{huge:?}");
    let form = "application/x-www-form-urlencoded";
    let status = "MessageSid=SM1&MessageStatus=undelivered&ErrorCode=30005&To=%2B255712345678";
    assert_eq!(refused("/webhooks/twilio", form, &[], status).await, 403);
    assert_eq!(refused("/webhooks/twilio", form, &[("x-twilio-signature", "AAAA")], status).await, 403);
    assert_eq!(refused("/webhooks/twilio?bodySHA256=00", json, &[("x-twilio-signature", "AAAA")], "{}").await, 403);
    assert_eq!(api.get("/webhooks/sendgrid").await.status, 405);
    assert!(suppressions(&daemon).await.is_empty());
}

#[tokio::test]
async fn one_click_ends_mails_of_one_kind() {
    let (_setup, clouds, daemon) = daemon().await;
    let message = |id: &str, template: &str| {
        let data = match template {
            "new_message" => json!({ "sender_name": "Juma", "preview": "Free?", "conversation_id": 7, "unread_count": 1 }),
            _ => json!({ "title": "Habari", "message": "Karibu" }),
        };
        json!({ "id": id, "template": template, "to": [{ "user_id": "42", "email": "asha@people.example" }], "channels": ["email"], "data": data })
    };
    daemon.api.post("/v1/jobs", &message("first", "new_message")).await.expect(202);
    comes_to(&daemon, "first", "sent").await;
    let request = clouds.requests("sendgrid").remove(0);
    assert_eq!(request.body["headers"]["List-Unsubscribe-Post"], "List-Unsubscribe=One-Click");
    let link = request.body["headers"]["List-Unsubscribe"].as_str().unwrap().trim_matches(['<', '>']).to_owned();
    assert!(!link.contains("asha"), "{link}");
    let api = crate::support::Api::new(link.clone());
    let page = api.get("").await;
    assert!(page.status == 200 && page.header("content-type").starts_with("text/html") && page.text.contains("<form"), "{}", page.text);
    assert!(suppressions(&daemon).await.is_empty(), "looking is not asking");
    for _ in 0..2 {
        let clicked = api.request(reqwest::Method::POST, "").form(&[("List-Unsubscribe", "One-Click")]);
        assert_eq!(Answer::of(clicked).await.unwrap().status, 200);
    }
    let [entry] = &suppressions(&daemon).await[..] else { panic!("one entry") };
    assert_eq!((&entry["list"], &entry["reason"]), (&json!("messages"), &json!("unsubscribed")));
    daemon.api.post("/v1/jobs", &message("second", "new_message")).await.expect(202);
    comes_to(&daemon, "second", "suppressed").await;
    daemon.api.post("/v1/jobs", &message("other", "generic")).await.expect(202);
    comes_to(&daemon, "other", "sent").await;
    assert!(clouds.requests("sendgrid").last().unwrap().body["headers"]["List-Unsubscribe"].is_null());
    let forged = crate::support::Api::new(format!("{link}A"));
    assert_eq!(forged.get("").await.status, 404);
}

#[tokio::test]
async fn operators_keep_the_list() {
    let (_setup, _clouds, daemon) = daemon().await;
    let commands = Commands::new().with("TARISHI_SERVER", &format!("http://{}", daemon.admin));
    let run = async |arguments: &[&str]| {
        let ran = commands.run(arguments).await;
        (ran.code, String::from_utf8(ran.bytes).unwrap(), ran.errors)
    };
    let (code, told, errors) = run(&["suppressions", "add", "Asha@People.Example", "+255712345678"]).await;
    assert_eq!(code, Some(0), "{told}{errors}");
    let (code, _, errors) = run(&["suppressions", "add", "--channel", "sms", "0712"]).await;
    assert!(code == Some(2) && errors.contains("hint"), "{errors}");
    let (code, exported, errors) = run(&["suppressions", "export"]).await;
    assert_eq!(code, Some(0), "{errors}");
    assert!(
        exported.starts_with("channel,address,list,reason,expires_at\n") && exported.contains("email,asha@people.example,"),
        "{exported}"
    );
    for address in ["asha@people.example", "+255712345678"] {
        let (code, _, errors) = run(&["suppressions", "remove", address]).await;
        assert_eq!(code, Some(0), "{errors}");
    }
    assert!(suppressions(&daemon).await.is_empty());
    let imported = commands.run_with_input(&["suppressions", "import", "-"], &exported).await;
    assert_eq!(imported.code, Some(0), "{}", imported.errors);
    assert_eq!(suppressions(&daemon).await.len(), 2);
    let bad = "channel,address\nemail,asha@people.example\nemail,not an address\nsms,0712\n";
    let refused = commands.run_with_input(&["suppressions", "import", "-"], bad).await;
    assert!(refused.code != Some(0) && refused.errors.contains('3') && refused.errors.contains('4'), "{}", refused.errors);
    let (_, listed, _) = run(&["suppressions", "list", "--json"]).await;
    assert!(listed.contains("asha@people.example") && listed.contains("manual"), "{listed}");
    enqueue(&daemon, "held", "asha", "email").await;
    comes_to(&daemon, "held", "suppressed").await;
}
