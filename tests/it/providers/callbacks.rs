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

/// A counter of this provider's, as the metrics have it.
pub async fn counted(daemon: &Daemon, name: &str, provider: &str) -> u64 {
    let metrics = daemon.api.get("/metrics").await.text;
    let line = metrics.lines().find(|line| line.starts_with(name) && line.contains(&format!("provider=\"{provider}\"")));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
}

#[tokio::test]
async fn a_status_told_twice_is_one() {
    let (_setup, clouds, daemon) = daemon().await;
    clouds.answer(json!([{ "provider": "twilio", "webhooks": ["delivered", "delivered", "sent", "delivered"], "webhook_delay": "1ms" }]));
    enqueue(&daemon, "twice", "1", "sms").await;
    comes_to(&daemon, "twice", "delivered").await;
    let repeated = async || (counted(&daemon, "tarishi_callbacks_repeated_total", "twilio").await == 2).then_some(());
    daemon.process.until("both repeats are counted", repeated).await;
    assert_eq!(daemon.events("delivery confirmed").len(), 1, "{:?}", daemon.events("delivery confirmed"));
    assert!(is_balanced(&daemon).await);
}

#[tokio::test]
async fn a_carrier_that_cannot_follow_slows_the_account_down() {
    let (_setup, clouds, daemon) = daemon().await;
    let rate = async || daemon.api.get("/v1/status").await.expect(200)["lanes"][1]["providers"][0]["rate"].clone();
    assert_eq!(rate().await, Value::Null);
    clouds.answer(json!([{ "provider": "twilio", "webhooks": ["undelivered:30003"], "webhook_delay": "1ms" }]));
    enqueue(&daemon, "off", "1", "sms").await;
    comes_to(&daemon, "off", "failed").await;
    assert_eq!(rate().await, Value::Null);
    for (id, error, code) in [("full", "undelivered:30001", "carrier_queue_full"), ("fast", "undelivered:30022", "rate_limited")] {
        clouds.answer(json!([{ "provider": "twilio", "webhooks": [error], "webhook_delay": "1ms" }]));
        enqueue(&daemon, id, id, "sms").await;
        assert_eq!(comes_to(&daemon, id, "failed").await["code"], code);
        daemon.process.until("the pace is lowered", async || rate().await.is_number().then_some(())).await;
    }
    assert!(suppressions(&daemon).await.is_empty());
}

#[tokio::test]
async fn people_leave_and_come_back_through_the_provider() {
    let (_setup, clouds, daemon) = daemon().await;
    let send = async |id: &str, template: &str, events: &[&str]| {
        clouds.answer(json!([{ "provider": "sendgrid", "webhooks": events, "webhook_delay": "1ms" }]));
        let data = match template {
            "new_message" => json!({ "sender_name": "Juma", "preview": "Free?", "conversation_id": 7, "unread_count": 1 }),
            _ => json!({ "title": "Habari", "message": "Karibu" }),
        };
        let to = json!([{ "user_id": "42", "email": "Asha@people.example" }]);
        let job = json!({ "id": id, "template": template, "to": to, "channels": ["email"], "data": data });
        daemon.api.post("/v1/jobs", &job).await.expect(202);
    };
    let listed = async |wanted: &[(&str, Value)]| {
        daemon
            .process
            .until(&format!("the list is {wanted:?}"), async || {
                let found = suppressions(&daemon).await;
                let found: Vec<_> = found.iter().map(|entry| (entry["reason"].as_str().unwrap(), entry["list"].clone())).collect();
                (found == wanted).then_some(())
            })
            .await;
    };
    // A group is the kind of mail, where the template has one.
    send("left", "new_message", &["delivered", "group_unsubscribe"]).await;
    listed(&[("unsubscribed", json!("messages"))]).await;
    send("held", "new_message", &[]).await;
    comes_to(&daemon, "held", "suppressed").await;
    send("other", "generic", &["delivered"]).await;
    comes_to(&daemon, "other", "delivered").await;
    // Out of everything, and into nothing but the group again.
    send("everything", "generic", &["delivered", "unsubscribe"]).await;
    listed(&[("unsubscribed", Value::Null), ("unsubscribed", json!("messages"))]).await;
    send("nothing", "generic", &[]).await;
    comes_to(&daemon, "nothing", "suppressed").await;
    // Nothing is sent any more that an event could come of: the operator lets one through, and by its answer the person is back.
    let remove = daemon.api.request(reqwest::Method::DELETE, "/v1/suppressions");
    let everything = json!({ "channel": "email", "address": "asha@people.example" });
    assert_eq!(Answer::of(remove.json(&everything)).await.unwrap().expect(200)["removed"], 1);
    listed(&[("unsubscribed", json!("messages"))]).await;
    send("again", "generic", &["unsubscribe", "group_resubscribe"]).await;
    let is_back = async || daemon.events("suppression list changed").iter().any(|event| event["by"] == "sendgrid").then_some(());
    daemon.process.until("the person is back", is_back).await;
    listed(&[("unsubscribed", json!("messages"))]).await;
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
    assert!(daemon.events("delivery given up").is_empty(), "both arrived");
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
    let bad = "channel,address\nemail,juma@people.example\nemail,not an address\nsms,0712\n";
    let refused = commands.run_with_input(&["suppressions", "import", "-"], bad).await;
    refused.failed(1, &["line 3", "line 4", "--skip-bad"]);
    assert!(!refused.errors.contains("line 2"), "{}", refused.errors);
    assert_eq!(suppressions(&daemon).await.len(), 2, "nothing was imported");
    let taken = commands.run_with_input(&["suppressions", "import", "--skip-bad", "--json", "-"], bad).await;
    assert_eq!(taken.lines(), [json!({ "added": 1, "changed": 0, "kept": 0, "over": 0, "bad": 2 })]);
    assert!(taken.errors.contains("line 3") && taken.errors.contains("line 4"), "{}", taken.errors);
    let (_, listed, _) = run(&["suppressions", "list", "--json"]).await;
    assert!(listed.contains("asha@people.example") && listed.contains("manual"), "{listed}");
    enqueue(&daemon, "held", "asha", "email").await;
    comes_to(&daemon, "held", "suppressed").await;
}

#[tokio::test]
async fn operators_find_and_move_what_is_on_the_list() {
    let (setup, _clouds, daemon) = daemon().await;
    let commands = Commands::new().with("TARISHI_SERVER", &format!("http://{}", daemon.admin));
    let run = async |arguments: &[&str]| commands.run(&[&["suppressions"], arguments].concat()).await;
    // More than two pages of the API's longest.
    let people = (0..2500).fold("address,reason,list\n".to_owned(), |rows, number| {
        let (reason, list) = if number % 2 == 0 { ("bounced", "") } else { ("unsubscribed", "messages") };
        rows + &format!("user{number}@people.example,{reason},{list}\n")
    });
    commands.run_with_input(&["suppressions", "import", "-"], &people).await.out();
    run(&["add", "user1@people.example", "+255712345678"]).await.out();
    let counted = async |arguments: &[&str]| run(&[&["list", "--json", "--limit", "9999"], arguments].concat()).await.lines().len();
    assert_eq!(counted(&[]).await, 2502);
    assert_eq!(counted(&["--channel", "sms"]).await, 1);
    assert_eq!(counted(&["--reason", "bounced"]).await, 1250);
    assert_eq!(counted(&["--channel", "email", "--reason", "manual"]).await, 1);
    assert_eq!(counted(&["--address", "User1@PEOPLE.example"]).await, 2);
    let first = run(&["list", "--limit", "3"]).await;
    assert_eq!((first.out().lines().count(), first.errors.contains("--limit")), (4, true), "{}", first.errors);
    // One kind of mail alone, then all that is left of the address.
    run(&["remove", "user1@people.example", "--list", "messages"]).await.out();
    assert_eq!(counted(&["--address", "user1@people.example"]).await, 1);
    run(&["remove", "user1@people.example", "--list", "messages"]).await.failed(1, &["not on the list"]);
    run(&["add", "user1@people.example", "--list", "digest"]).await.out();
    assert_eq!(run(&["remove", "user1@people.example", "--json"]).await.lines(), [json!({ "removed": 2 })]);
    // Out and in again.
    let file = setup.folder().join("list.csv");
    std::fs::write(&file, "mine, until all of the new one is there").unwrap();
    let path = file.to_str().unwrap();
    run(&["export", path]).await.out();
    let exported = std::fs::read_to_string(&file).unwrap();
    assert_eq!(exported.lines().count(), 2501);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "addresses are nobody else's");
    assert_eq!(run(&["import", "--json", path]).await.lines()[0]["kept"], 2500);
    run(&["export", "--channel", "sms", path]).await.out();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "channel,address,list,reason,expires_at\nsms,+255712345678,,manual,\n");
    daemon.process.kill().await;
    run(&["export", path]).await.failed(4, &[]);
    assert!(std::fs::read_to_string(&file).unwrap().contains("+255712345678"), "what was there stays");
}
