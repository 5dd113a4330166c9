//! `tarishi mock`: that it answers as the providers do, breaks as it is told, and calls back so that others believe it.

use std::{
    collections::BTreeMap,
    error::Error as _,
    io::ErrorKind,
    os::unix::fs::PermissionsExt as _,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::{
    Method, RequestBuilder,
    header::{CONTENT_TYPE, HeaderValue},
};
use serde_json::{Value, json};

use crate::support::{Answer, Api, Commands, Process, node, until};

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
const ACCOUNT: &str = "AC00000000000000000000000000facade";
const SEND_SMS: &str = "/2010-04-01/Accounts/AC00000000000000000000000000facade/Messages.json";
const SEND_MAIL: &str = "/v3/mail/send";
const SEND_PUSH: &str = "/v1/projects/tarishi-mock/messages:send";

/// A mock that runs, and what it takes to ask it.
struct Cloud {
    _commands: Commands,
    process: Process,
    api: Api,
    credentials: Value,
    /// The first line, as JSON.
    told: Value,
}

impl Cloud {
    async fn start(arguments: &[&str]) -> Self {
        let commands = Commands::new();
        let process = commands.start(&[&["mock", "--listen", "127.0.0.1:0", "--json"], arguments].concat());
        let listening = |line: &str| serde_json::from_str::<Value>(line).ok().filter(|told| told["listening"].is_string());
        let told = process.find_line(listening).await.unwrap();
        let api = Api::new(told["listening"].as_str().unwrap());
        let credentials = api.get("/mock/credentials").await.expect(200);
        Self { _commands: commands, process, api, credentials, told }
    }

    fn text(&self, pointer: &str) -> &str {
        self.credentials.pointer(pointer).and_then(Value::as_str).unwrap()
    }

    fn mail(&self, body: &Value) -> RequestBuilder {
        self.api.request(Method::POST, SEND_MAIL).bearer_auth(self.text("/sendgrid/api_key")).json(body)
    }

    fn sms(&self, form: &[(&str, &str)]) -> RequestBuilder {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        self.api
            .request(Method::POST, SEND_SMS)
            .basic_auth(self.text("/twilio/api_key"), Some(self.text("/twilio/api_secret")))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body)
    }

    fn push(&self, token: &str, body: &Value) -> RequestBuilder {
        self.api.request(Method::POST, SEND_PUSH).bearer_auth(token).json(body)
    }

    fn exchange(&self, assertion: &str) -> RequestBuilder {
        let form = [("grant_type", GRANT_TYPE), ("assertion", assertion)];
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        self.api.request(Method::POST, "/token").header("content-type", "application/x-www-form-urlencoded").body(body)
    }

    /// An assertion of the service account, with these claims instead of the usual.
    fn assertion(&self, changed: &Value) -> String {
        let now = tarishi::model::Timestamp::now().as_millis() / 1000;
        let mut claims = json!({
            "iss": self.text("/fcm/service_account/client_email"),
            "aud": self.text("/fcm/service_account/token_uri"),
            "scope": SCOPE,
            "iat": now,
            "exp": now + 3600,
        });
        claims.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
        let key = EncodingKey::from_rsa_pem(self.text("/fcm/service_account/private_key").as_bytes()).unwrap();
        let header = Header { kid: Some(self.text("/fcm/service_account/private_key_id").to_owned()), ..Header::new(Algorithm::RS256) };
        jsonwebtoken::encode(&header, &claims, &key).unwrap()
    }

    async fn access_token(&self) -> String {
        let answer = sent(self.exchange(&self.assertion(&json!({})))).await.expect(200);
        assert_eq!((&answer["expires_in"], &answer["token_type"]), (&json!(3599), &json!("Bearer")));
        answer["access_token"].as_str().unwrap().to_owned()
    }

    async fn play(&self, script: &Value) {
        self.api.put("/mock/script", script).await.expect(200);
    }

    async fn requests(&self) -> Vec<Value> {
        self.api.get("/mock/requests").await.expect(200).as_array().unwrap().clone()
    }

    async fn last(&self) -> Value {
        self.requests().await.pop().unwrap()
    }

    async fn counts(&self) -> Value {
        self.api.get("/mock/counts").await.expect(200)
    }

    /// Sends a good message of this provider, whatever comes of it.
    async fn send(&self, provider: &str) -> Result<Answer, reqwest::Error> {
        match provider {
            "sendgrid" => Answer::of(self.mail(&mail("asha@example.com"))).await,
            "twilio" => Answer::of(self.sms(&sms("+255712345678"))).await,
            "fcm" => Answer::of(self.push(&self.access_token().await, &push("device-1"))).await,
            "token" => Answer::of(self.exchange(&self.assertion(&json!({})))).await,
            other => panic!("{other}"),
        }
    }
}

async fn sent(request: RequestBuilder) -> Answer {
    Answer::of(request).await.unwrap()
}

fn mail(to: &str) -> Value {
    json!({
        "personalizations": [{ "to": [{ "email": to }], "custom_args": { "tarishi_delivery": "delivery-1" } }],
        "from": { "email": "us@example.com", "name": "Us" },
        "subject": "Habari",
        "content": [{ "type": "text/plain", "value": "Habari ya leo" }],
    })
}

const fn sms(to: &str) -> [(&'static str, &str); 3] {
    [("To", to), ("From", "+15005550006"), ("Body", "Habari ya leo")]
}

fn push(token: &str) -> Value {
    json!({ "message": { "token": token, "notification": { "title": "Habari" }, "apns": { "headers": { "apns-collapse-id": "delivery-3" } } } })
}

/// The same document with one member changed; with `null`, without it.
fn with(mut document: Value, pointer: &str, value: Value) -> Value {
    let (parent, member) = pointer.rsplit_once('/').unwrap();
    let parent = document.pointer_mut(parent).unwrap();
    if value.is_null() {
        parent.as_object_mut().unwrap().remove(member);
    } else {
        parent[member] = value;
    }
    document
}

/// Whether an error is the peer's reset.
fn is_reset(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::ConnectionReset) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[tokio::test]
async fn it_takes_what_the_providers_take() {
    let cloud = Cloud::start(&[]).await;
    let answer = cloud.send("sendgrid").await.unwrap();
    assert_eq!((answer.status, answer.text.as_str(), answer.header("x-message-id").len()), (202, "", 22));
    let kept = cloud.last().await;
    let facts = [&kept["provider"], &kept["to"], &kept["delivery_id"], &kept["accepted"], &kept["answered"]["status"]];
    assert_eq!(facts, [&json!("sendgrid"), &json!("asha@example.com"), &json!("delivery-1"), &json!(true), &json!(202)]);
    assert_eq!((&kept["headers"]["authorization"], &kept["body"]["subject"]), (&json!("***"), &json!("Habari")));

    let callback = "http://127.0.0.1:9/x?delivery=delivery-2";
    let message = sent(cloud.sms(&[&sms("+255712345678")[..], &[("StatusCallback", callback)]].concat())).await.expect(201);
    assert!(message["sid"].as_str().is_some_and(|sid| sid.starts_with("SM") && sid.len() == 34), "{message}");
    assert_eq!((&message["status"], &message["num_segments"], &message["account_sid"]), (&json!("queued"), &json!("1"), &json!(ACCOUNT)));
    let kept = cloud.last().await;
    assert_eq!(
        (&kept["to"], &kept["delivery_id"], &kept["body"][0]),
        (&json!("+255712345678"), &json!("delivery-2"), &json!(["To", "+255712345678"]))
    );

    let answer = cloud.send("fcm").await.unwrap().expect(200);
    assert!(answer["name"].as_str().unwrap().starts_with("projects/tarishi-mock/messages/0:"), "{answer}");
    assert_eq!(cloud.last().await["delivery_id"], "delivery-3");

    let counts = cloud.counts().await;
    for provider in ["sendgrid", "twilio", "fcm", "token"] {
        assert_eq!((&counts[provider]["accepted"], &counts[provider]["refused"]), (&json!(1), &json!(0)), "{provider}");
    }
    // Nothing is sent of what is only to be looked at.
    let sandbox = with(mail("asha@example.com"), "/mail_settings", json!({ "sandbox_mode": { "enable": true } }));
    assert_eq!(sent(cloud.mail(&sandbox)).await.status, 200);
    let token = cloud.access_token().await;
    let validated = sent(cloud.push(&token, &with(push("device-1"), "/validateOnly", json!(true)))).await.expect(200);
    assert_eq!(validated["name"], "projects/tarishi-mock/messages/fake_message_id");
    let counts = cloud.counts().await;
    assert_eq!((&counts["sendgrid"]["accepted"], &counts["fcm"]["accepted"]), (&json!(1), &json!(1)));

    let since = cloud.last().await["n"].as_u64().unwrap() - 1;
    let listed = cloud.api.get(&format!("/mock/requests?provider=fcm&since={since}")).await.expect(200);
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(cloud.api.delete("/mock/requests").await.status, 204);
    assert_eq!((cloud.requests().await.len(), &cloud.counts().await["fcm"]["accepted"]), (0, &json!(0)));
    // What is printed names nobody.
    let lines = cloud.process.lines().join("\n");
    assert!(lines.contains("a***@e***.com") && !lines.contains("asha@example.com"), "{lines}");
}

#[tokio::test]
async fn it_asks_for_the_right_credentials() {
    let cloud = Cloud::start(&[]).await;
    let api = &cloud.api;
    let scopes = |key: &str| api.request(Method::GET, "/v3/scopes").bearer_auth(key.to_owned());
    assert_eq!(sent(scopes(cloud.text("/sendgrid/api_key"))).await.expect(200)["scopes"][0], "mail.send");
    let account = |user: &str, password: &str| {
        api.request(Method::GET, &format!("/2010-04-01/Accounts/{ACCOUNT}.json")).basic_auth(user.to_owned(), Some(password.to_owned()))
    };
    assert_eq!(sent(account(ACCOUNT, cloud.text("/twilio/auth_token"))).await.expect(200)["status"], "active");
    // A standard API key may list messages, and not see the account.
    let (user, password) = (cloud.text("/twilio/api_key"), cloud.text("/twilio/api_secret"));
    assert_eq!(sent(account(user, password)).await.expect(401)["code"], 20003);
    let messages = |password: &str| api.request(Method::GET, &format!("{SEND_SMS}?PageSize=1")).basic_auth(user, Some(password.to_owned()));
    assert_eq!(sent(messages(password)).await.expect(200)["messages"], json!([]));
    assert_eq!(sent(messages("another")).await.expect(401)["code"], 20003);

    let bearer = |path: &str| api.request(Method::POST, path).bearer_auth("another").json(&json!({}));
    assert!(sent(scopes("another")).await.expect(401)["errors"][0]["message"].is_string());
    assert!(sent(bearer(SEND_MAIL)).await.expect(401)["errors"][0]["message"].is_string());
    assert_eq!(sent(account(cloud.text("/twilio/api_key"), "another")).await.expect(401)["code"], 20003);
    assert_eq!(sent(api.request(Method::POST, SEND_SMS)).await.expect(401)["code"], 20003);
    let refused = sent(bearer(SEND_PUSH)).await.expect(401);
    assert_eq!((&refused["error"]["status"], &refused["error"]["details"]), (&json!("UNAUTHENTICATED"), &Value::Null));
    assert_eq!(cloud.counts().await["fcm"]["refused"], 1);

    // Elsewhere.
    let token = cloud.access_token().await;
    let other = api.request(Method::POST, "/v1/projects/another/messages:send").bearer_auth(&token).json(&push("device-1"));
    assert_eq!(sent(other).await.expect(403)["error"]["status"], "PERMISSION_DENIED");
    let other =
        api.request(Method::POST, &SEND_SMS.replace("facade", "000000")).basic_auth(ACCOUNT, Some(cloud.text("/twilio/auth_token")));
    assert_eq!(sent(other).await.expect(404)["code"], 20404);
    assert_eq!(api.get(SEND_MAIL).await.status, 405);
    assert_eq!(api.get("/elsewhere").await.status, 404);
    assert_eq!(api.get("/mock/request").await.expect(404)["hint"], "did you mean `/mock/requests`?");
}

#[tokio::test]
async fn assertions_are_verified() {
    let cloud = Cloud::start(&[]).await;
    let now = tarishi::model::Timestamp::now().as_millis() / 1000;
    for (changed, error) in [
        (json!({ "aud": "https://oauth2.googleapis.com/token" }), None),
        (json!({ "scope": "https://www.googleapis.com/auth/cloud-platform" }), None),
        (json!({ "iss": "another@example.com" }), Some("invalid_grant")),
        (json!({ "aud": "https://example.com/token" }), Some("invalid_grant")),
        (json!({ "iat": now - 7200, "exp": now - 3600 }), Some("invalid_grant")),
        (json!({ "iat": now + 3600, "exp": now + 7200 }), Some("invalid_grant")),
        (json!({ "exp": now + 86400 }), Some("invalid_grant")),
        (json!({ "scope": "https://www.googleapis.com/auth/drive" }), Some("invalid_scope")),
    ] {
        let answer = sent(cloud.exchange(&cloud.assertion(&changed))).await;
        assert_eq!((answer.status, answer.body["error"].as_str()), (if error.is_none() { 200 } else { 400 }, error), "{changed}");
    }
    let (head, signature) =
        cloud.assertion(&json!({})).rsplit_once('.').map(|(head, signature)| (head.to_owned(), signature.to_owned())).unwrap();
    let forged: String = signature.chars().rev().collect();
    for assertion in [format!("{head}.{forged}"), format!("{head}."), "nothing".to_owned()] {
        assert_eq!(sent(cloud.exchange(&assertion)).await.expect(400)["error"], "invalid_grant", "{assertion}");
    }
    let other =
        cloud.api.request(Method::POST, "/token").header("content-type", "application/x-www-form-urlencoded").body("grant_type=password");
    assert_eq!(sent(other).await.expect(400)["error"], "unsupported_grant_type");
    assert!(!cloud.api.get("/mock/requests").await.text.contains(&head), "an assertion is kept");
}

#[tokio::test]
async fn bad_mails_are_refused() {
    let cloud = Cloud::start(&[]).await;
    let good = || mail("asha@example.com");
    for (body, field) in [
        (with(good(), "/personalizations/0/to/0/email", json!("nobody")), "personalizations.0.to.0.email"),
        (with(good(), "/from", Value::Null), "from"),
        (with(good(), "/subject", Value::Null), "personalizations.0.subject"),
        (with(good(), "/subject", json!("")), "subject"),
        (with(good(), "/subjct", json!("x")), "subjct"),
        (with(good(), "/content", json!([{ "type": "text/html", "value": "x" }, { "type": "text/plain", "value": "x" }])), "content"),
        (with(good(), "/headers", json!({ "Subject": "x" })), "headers.Subject"),
        (with(good(), "/custom_args", json!({ "n": 1 })), "custom_args.n"),
        (with(good(), "/categories", json!(["a", "a"])), "categories"),
        (with(good(), "/personalizations/0/to", json!([])), "personalizations.0.to"),
    ] {
        let answer = sent(cloud.mail(&body)).await.expect(400);
        assert_eq!(answer["errors"][0]["field"], field, "{answer}");
        let kept = cloud.last().await;
        assert!(kept["accepted"] == false && kept["refused"].as_str().is_some_and(|why| why.starts_with(field)), "{kept}");
    }
    let text = cloud.api.request(Method::POST, SEND_MAIL).bearer_auth(cloud.text("/sendgrid/api_key")).body("x");
    assert_eq!(sent(text).await.status, 415);
    assert_eq!(
        cloud.counts().await["sendgrid"],
        json!({ "accepted": 0, "refused": 11, "faulted": 0, "webhooks_sent": 0, "webhooks_failed": 0 })
    );
}

#[tokio::test]
async fn bad_texts_are_refused() {
    let cloud = Cloud::start(&[]).await;
    let long = "x".repeat(1601);
    let to = "+255712345678";
    let cases: [(&[(&str, &str)], u64); 13] = [
        (&[("From", "+15005550006"), ("Body", "x")], 21604),
        (&[("To", "0712345678"), ("From", "+15005550006"), ("Body", "x")], 21211),
        (&[("To", "whatsapp:+255712345678"), ("From", "+15005550006"), ("Body", "x")], 21211),
        (&[("To", " 255712345678"), ("From", "+15005550006"), ("Body", "x")], 21211),
        (&[("To", to), ("Body", "x")], 21603),
        (&[("To", to), ("From", "+1 500"), ("Body", "x")], 21212),
        (&[("To", to), ("From", to), ("Body", "x")], 21266),
        (&[("To", to), ("From", "+15005550006")], 21602),
        (&[("To", to), ("From", "+15005550006"), ("Body", " ")], 21602),
        (&[("To", to), ("From", "+15005550006"), ("Body", &long)], 21617),
        (&[("To", to), ("From", "+15005550006"), ("Body", "x"), ("StatusCallback", "http://my_host/x")], 21609),
        (&[("To", to), ("From", "+15005550006"), ("Body", "x"), ("SendAt", "2030-01-01T00:00:00Z")], 35118),
        (&[("To", to), ("From", "+15005550006"), ("Body", "x"), ("ValidityPeriod", "36001")], 20001),
    ];
    for (form, code) in cases {
        let answer = sent(cloud.sms(form)).await.expect(400);
        assert_eq!((&answer["code"], &answer["status"]), (&json!(code), &json!(400)), "{answer}");
    }
    let raw = cloud.sms(&[]).body("To=+255712345678&From=%2B15005550006&Body=x");
    assert_eq!(sent(raw).await.expect(400)["code"], 21211, "a plus that is not encoded is a blank");
    assert_eq!(
        sent(cloud.sms(&sms(to)).headers([(CONTENT_TYPE, HeaderValue::from_static("application/json"))].into_iter().collect()))
            .await
            .status,
        415
    );
    assert_eq!(cloud.counts().await["twilio"]["refused"], 15);
}

#[tokio::test]
async fn bad_pushes_are_refused() {
    let cloud = Cloud::start(&[]).await;
    let token = cloud.access_token().await;
    let message = |members: Value| json!({ "message": members });
    for (body, field) in [
        (message(json!({ "token": "t", "data": { "n": 1 } })), "message.data.n"),
        (message(json!({ "token": "t", "data": { "from": "x" } })), "message.data"),
        (message(json!({ "token": "t", "data": { "k": "x".repeat(4096) } })), "message"),
        (message(json!({ "token": "t", "topic": "news" })), "message"),
        (message(json!({ "notification": { "title": "x" } })), "message"),
        (message(json!({ "topic": "/topics/news" })), "message.topic"),
        (message(json!({ "token": "t", "android": { "ttl": "60" } })), "message.android.ttl"),
        (message(json!({ "token": "t", "android": { "priority": "URGENT" } })), "message.android.priority"),
        (message(json!({ "token": "t", "notifcation": {} })), "message.notifcation"),
        (json!({}), "message"),
    ] {
        let answer = sent(cloud.push(&token, &body)).await.expect(400);
        let error = &answer["error"];
        assert_eq!((&error["status"], &error["details"][0]["errorCode"]), (&json!("INVALID_ARGUMENT"), &json!("INVALID_ARGUMENT")));
        assert_eq!(error["details"][1]["fieldViolations"][0]["field"], field, "{answer}");
    }
    // proto3 takes both.
    let snake =
        json!({ "validate_only": true, "message": { "token": "t", "android": { "collapse_key": "x" }, "data": { "user_id": "1" } } });
    assert_eq!(sent(cloud.push(&token, &snake)).await.status, 200);
    assert_eq!(cloud.counts().await["fcm"]["refused"], 10);
}

#[tokio::test]
async fn it_answers_as_the_script_says() {
    let cloud = Cloud::start(&[]).await;
    let code = |answer: &Answer| match &answer.body {
        body if body["code"].is_u64() => body["code"].to_string(),
        // Behind its words it quotes the recipient.
        body if body["errors"].is_array() => body["errors"][0]["message"].as_str().unwrap().split(" (").next().unwrap().to_owned(),
        body if body["error"].is_string() => body["error"].as_str().unwrap().to_owned(),
        body => {
            body.pointer("/error/details/0/errorCode").or(body.pointer("/error/status")).and_then(Value::as_str).unwrap_or("-").to_owned()
        }
    };
    let cases = [
        ("fcm", json!("unregistered"), 404, "UNREGISTERED", false),
        ("fcm", json!("sender_mismatch"), 403, "SENDER_ID_MISMATCH", false),
        ("fcm", json!("third_party_auth"), 401, "THIRD_PARTY_AUTH_ERROR", false),
        ("fcm", json!("quota"), 429, "QUOTA_EXCEEDED", false),
        ("fcm", json!("unavailable"), 503, "UNAVAILABLE", false),
        ("fcm", json!("auth"), 401, "UNAUTHENTICATED", false),
        ("fcm", json!("error_after"), 500, "INTERNAL", true),
        ("fcm", json!({ "status": 404 }), 404, "NOT_FOUND", false),
        ("twilio", json!("opted_out"), 400, "21610", false),
        ("twilio", json!("invalid_to"), 400, "21211", false),
        ("twilio", json!("queue_full"), 429, "21611", false),
        ("twilio", json!("auth"), 401, "20003", false),
        ("twilio", json!("unavailable"), 503, "20503", false),
        ("twilio", json!("error_after"), 500, "20500", true),
        ("twilio", json!({ "status": 429, "code": 63017 }), 429, "63017", false),
        ("twilio", json!({ "status": 400, "body": "{\"code\":1}" }), 400, "1", false),
        ("sendgrid", json!("credits"), 401, "Maximum credits exceeded", false),
        ("sendgrid", json!("quota"), 429, "too many requests", false),
        ("sendgrid", json!("error_after"), 500, "Internal Server Error", true),
        ("sendgrid", json!("html"), 502, "-", false),
        ("sendgrid", json!("empty"), 500, "-", false),
        ("sendgrid", json!("nonsense"), 200, "-", false),
        ("sendgrid", json!("ok"), 202, "-", true),
        ("sendgrid", json!({ "status": 504, "html": true }), 504, "-", false),
        ("token", json!("auth"), 400, "invalid_grant", false),
        ("token", json!({ "status": 503 }), 503, "temporarily_unavailable", false),
    ];
    for (provider, answer, status, expected, accepted) in cases {
        cloud.play(&json!([{ "provider": provider, "answer": answer }])).await;
        let told = cloud.send(provider).await.unwrap();
        assert_eq!((told.status, code(&told).as_str()), (status, expected), "{provider} {answer}: {}", told.text);
        let kept = cloud.last().await;
        let fault = match answer.as_str() {
            Some("ok") => Value::Null,
            Some(name) => json!(name),
            None => json!(format!("status_{status}")),
        };
        assert_eq!(
            (&kept["accepted"], &kept["answered"]["fault"], &kept["answered"]["status"]),
            (&json!(accepted), &fault, &json!(status))
        );
    }
    cloud.play(&json!([{ "provider": "twilio", "answer": "html" }])).await;
    assert!(cloud.send("twilio").await.unwrap().header("content-type").starts_with("text/html"));
    cloud.play(&json!([{ "provider": "sendgrid", "answer": { "status": 429, "retry_after": "nonsense", "rate_limit_reset": 60 } }])).await;
    let limited = cloud.send("sendgrid").await.unwrap();
    assert_eq!((limited.header("retry-after"), limited.header("x-ratelimit-remaining")), ("nonsense", "0"));
    // Whoever follows a redirect is told that all is well.
    cloud.play(&json!([{ "provider": "sendgrid", "answer": "redirect" }])).await;
    assert_eq!(cloud.send("sendgrid").await.unwrap().expect(200), json!({ "sent": true }));
    assert_eq!(cloud.last().await["answered"], json!({ "status": 302, "fault": "redirect" }));
}

#[tokio::test]
async fn rules_are_chosen_and_used_up() {
    let cloud = Cloud::start(&[]).await;
    let script = json!([
        { "provider": "twilio", "to": "+255712345678", "times": 2, "answer": { "status": 500 } },
        { "provider": "twilio", "to": "+2557*", "share": 0.0, "answer": "opted_out" },
        { "provider": "twilio", "to": "+2557*", "share": 1.0, "answer": "queue_full", "delay": "5ms" },
        { "provider": "sendgrid", "probe": true, "answer": "auth" },
    ]);
    cloud.play(&script).await;
    let mut answers = Vec::new();
    for to in ["+255712345678", "+255712345678", "+255712345678", "+255799999999", "+254712345678"] {
        answers.push(sent(cloud.sms(&sms(to))).await.status);
    }
    assert_eq!(answers, [500, 500, 429, 429, 201]);
    assert_eq!(cloud.send("sendgrid").await.unwrap().status, 202);
    let probe = cloud.api.request(Method::GET, "/v3/scopes").bearer_auth(cloud.text("/sendgrid/api_key"));
    assert_eq!(sent(probe).await.status, 401);
    let counts = &cloud.counts().await["twilio"];
    assert_eq!((&counts["accepted"], &counts["faulted"]), (&json!(1), &json!(4)));
    let played = cloud.api.get("/mock/script").await.expect(200);
    assert_eq!(played[0], script[0]);
    cloud.play(&played).await;
    let wrong = json!([{ "provider": "sendgird", "answer": "hung" }, { "provider": "fcm", "answer": "credits" }]);
    let refused = cloud.api.put("/mock/script", &wrong).await.expect(400);
    assert_eq!(refused["problems"][0]["path"], "$[0].answer");
    assert_eq!(cloud.api.get("/mock/script").await.expect(200), played);
}

#[tokio::test]
async fn a_revoked_token_is_not_good_any_more() {
    let cloud = Cloud::start(&[]).await;
    let token = cloud.access_token().await;
    cloud.play(&json!([{ "provider": "fcm", "times": 1, "answer": "unauthenticated" }])).await;
    for expected in [401, 401] {
        assert_eq!(sent(cloud.push(&token, &push("device-1"))).await.status, expected);
    }
    assert_eq!(cloud.send("fcm").await.unwrap().status, 200);
    let counts = &cloud.counts().await["fcm"];
    assert_eq!((&counts["accepted"], &counts["refused"], &counts["faulted"]), (&json!(1), &json!(1), &json!(1)));
}

#[tokio::test]
async fn connections_break_as_the_script_says() {
    let cloud = Cloud::start(&[]).await;
    for (provider, fault, accepted) in
        [("sendgrid", "reset_before", false), ("twilio", "reset_after", true), ("token", "reset_before", false)]
    {
        cloud.play(&json!([{ "provider": provider, "answer": fault }])).await;
        let error = cloud.send(provider).await.unwrap_err();
        assert!(is_reset(&error), "{fault}: {error:?}");
        let kept = cloud.last().await;
        assert_eq!((&kept["accepted"], &kept["answered"]), (&json!(accepted), &json!({ "status": null, "fault": fault })));
    }
    for (provider, request) in [("sendgrid", cloud.mail(&mail("asha@example.com"))), ("twilio", cloud.sms(&sms("+255712345678")))] {
        cloud.play(&json!([{ "provider": provider, "answer": "cut" }])).await;
        let mut response = request.send().await.unwrap();
        let announced = response.content_length().unwrap();
        let mut got = 0;
        let ended = loop {
            match response.chunk().await {
                Ok(Some(chunk)) => got += chunk.len() as u64,
                ended => break ended,
            }
        };
        assert!(ended.is_err() && got == announced / 2, "{got} of {announced}: {ended:?}");
        assert_eq!(cloud.last().await["accepted"], true);
    }
    cloud.play(&json!([{ "provider": "twilio", "answer": "drip" }])).await;
    let mut response = cloud.sms(&sms("+255712345678")).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.chunk().await.unwrap().unwrap().as_ref()), (201, &b"{"[..]));
    cloud.play(&json!([{ "provider": "twilio", "answer": "huge" }])).await;
    let huge = cloud.send("twilio").await.unwrap();
    assert_eq!((huge.status, huge.text.len()), (500, 10 * 1024 * 1024));
}

#[tokio::test]
async fn a_hanging_answer_does_not_keep_it_from_stopping() {
    let cloud = Cloud::start(&[]).await;
    cloud.play(&json!([{ "provider": "twilio", "answer": "hang" }])).await;
    let request = tokio::spawn(cloud.sms(&sms("+255712345678")).send());
    until("it is asked", async || (cloud.requests().await.len() == 1).then_some(())).await;
    assert_eq!(cloud.last().await["answered"], json!({ "status": null, "fault": "hang" }));
    assert!(!request.is_finished());
    cloud.process.signal("INT");
    assert_eq!(cloud.process.end().await.code, Some(0));
    // Whatever it gets, it is no answer that a message was taken.
    let ended = request.await.unwrap();
    assert!(ended.as_ref().map_or(true, |response| !response.status().is_success()), "{ended:?}");
}

#[tokio::test]
async fn it_speaks_http2_to_whom_google_s_protocol_is_known() {
    let cloud = Cloud::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("account.json");
    std::fs::write(&file, cloud.credentials["fcm"]["service_account"].to_string()).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/push_over_http2.js").to_owned();
    let base = cloud.told["listening"].as_str().unwrap().to_owned();
    let pushing = node(&[script, file.display().to_string(), base, "150".to_owned()], &BTreeMap::new());
    let ended = pushing.end().await;
    assert_eq!((ended.code, pushing.lines()), (Some(0), vec!["token 200 Bearer 3599".to_owned(), "sent 150 names 150".to_owned()]));
    assert_eq!(cloud.counts().await["fcm"]["accepted"], 150);
}

/// Takes callbacks; the first `refusals` with a 503.
#[derive(Clone, Default)]
struct Receiver {
    calls: Arc<Mutex<Vec<Value>>>,
    refusals: Arc<Mutex<usize>>,
}

impl Receiver {
    /// Its base URL.
    async fn start(&self) -> String {
        async fn take(State(receiver): State<Receiver>, uri: Uri, headers: HeaderMap, body: Bytes) -> StatusCode {
            let mut refusals = receiver.refusals.lock().unwrap();
            if *refusals > 0 {
                *refusals -= 1;
                return StatusCode::SERVICE_UNAVAILABLE;
            }
            let headers: BTreeMap<&str, &str> = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
            let body = String::from_utf8(body.to_vec()).unwrap();
            receiver.calls.lock().unwrap().push(json!({ "path": uri.to_string(), "headers": headers, "body": body }));
            StatusCode::NO_CONTENT
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(take).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        base
    }

    fn calls(&self) -> Vec<Value> {
        self.calls.lock().unwrap().clone()
    }

    /// SendGrid's events, from all bodies.
    fn events(&self) -> Vec<Value> {
        let bodies = self.calls().into_iter().filter(|call| call["path"] == "/sendgrid");
        bodies.flat_map(|call| serde_json::from_str::<Vec<Value>>(call["body"].as_str().unwrap()).unwrap()).collect()
    }

    /// Twilio's statuses, with their error codes.
    fn statuses(&self) -> Vec<String> {
        let bodies = self.calls().into_iter().filter(|call| call["path"].as_str().unwrap().starts_with("/twilio"));
        let fields = bodies.map(|call| form_urlencoded::parse(call["body"].as_str().unwrap().as_bytes()).into_owned().collect());
        fields
            .map(|fields: BTreeMap<String, String>| {
                let code = fields.get("ErrorCode").map(|code| format!(":{code}")).unwrap_or_default();
                format!("{}{code}", fields["MessageStatus"])
            })
            .collect()
    }
}

#[tokio::test]
async fn callbacks_are_believed_by_others() {
    let receiver = Receiver { refusals: Arc::new(Mutex::new(1)), ..Receiver::default() };
    let base = receiver.start().await;
    let cloud = Cloud::start(&["--webhooks", "--webhook-url", &format!("{base}/sendgrid")]).await;
    let message_id = cloud.send("sendgrid").await.unwrap().header("x-message-id").to_owned();
    until("both events come", async || (receiver.events().len() == 2).then_some(())).await;
    for (event, name) in receiver.events().iter().zip(["processed", "delivered"]) {
        assert_eq!(
            (&event["event"], &event["email"], &event["tarishi_delivery"]),
            (&json!(name), &json!("asha@example.com"), &json!("delivery-1"))
        );
        assert!(event["sg_message_id"].as_str().unwrap().starts_with(&format!("{message_id}.")), "{event}");
    }
    let callback = format!("{base}/twilio?delivery=a%26b");
    let with_callback = [&sms("+255712345678")[..], &[("StatusCallback", callback.as_str())]].concat();
    sent(cloud.sms(&with_callback)).await.expect(201);
    until("both statuses come", async || (receiver.statuses().len() == 2).then_some(())).await;
    assert_eq!(receiver.statuses(), ["sent", "delivered"]);
    // As the script says, instead of the usual.
    cloud
        .play(&json!([
            { "provider": "twilio", "answer": "reset_after", "webhooks": ["undelivered:30005"], "webhook_delay": "1ms" },
            { "provider": "sendgrid", "times": 1, "webhooks": ["dropped:Bounced Address"] },
            { "provider": "sendgrid", "webhooks": [] },
        ]))
        .await;
    assert!(cloud.sms(&with_callback).send().await.is_err());
    until("what was accepted is followed", async || (receiver.statuses().len() == 3).then_some(())).await;
    assert_eq!(receiver.statuses()[2], "undelivered:30005");
    for _ in 0..2 {
        assert_eq!(cloud.send("sendgrid").await.unwrap().status, 202);
    }
    until("it is dropped", async || (receiver.events().len() == 3).then_some(())).await;
    assert_eq!((&receiver.events()[2]["event"], &receiver.events()[2]["reason"]), (&json!("dropped"), &json!("Bounced Address")));
    let counted = async || {
        let counts = cloud.counts().await;
        let sent = ["sendgrid", "twilio"].map(|provider| counts[provider]["webhooks_sent"].as_u64().unwrap());
        (sent == [3, 3]).then_some(counts["sendgrid"]["webhooks_failed"].clone())
    };
    assert_eq!(until("they are counted", counted).await, 0);

    // Judged by an implementation that is not ours, as they came, and with one byte changed.
    let mut calls: Vec<Value> = receiver.calls();
    for call in &mut calls {
        call["url"] = json!(format!("{base}{}", call["path"].as_str().unwrap()));
    }
    let good = calls.len();
    let changed: Vec<Value> =
        calls.iter().map(|call| with(call.clone(), "/body", json!(format!("{} ", call["body"].as_str().unwrap())))).collect();
    calls.extend(changed);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("calls.json");
    let document =
        json!({ "publicKey": cloud.text("/sendgrid/webhook_public_key"), "authToken": cloud.text("/twilio/auth_token"), "calls": calls });
    std::fs::write(&file, document.to_string()).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/verify_signatures.js").to_owned();
    let verifying = node(&[script, file.display().to_string()], &BTreeMap::new());
    assert_eq!(verifying.end().await.code, Some(0));
    let verdicts = verifying.lines();
    assert_eq!(verdicts.len(), 2 * good);
    assert!(verdicts[..good].iter().all(|verdict| verdict.ends_with(" good")), "{verdicts:?}");
    assert!(verdicts[good..].iter().all(|verdict| verdict.ends_with(" bad")), "{verdicts:?}");
    assert!(["sendgrid", "twilio"].iter().all(|provider| verdicts[0..good].iter().any(|verdict| verdict.starts_with(provider))));
}

#[tokio::test]
async fn only_so_much_is_kept() {
    let cloud = Cloud::start(&["--keep", "2"]).await;
    for _ in 0..3 {
        cloud.send("twilio").await.unwrap().expect(201);
    }
    let numbers: Vec<u64> = cloud.requests().await.iter().map(|request| request["n"].as_u64().unwrap()).collect();
    assert_eq!((numbers, &cloud.counts().await["twilio"]["accepted"]), (vec![2, 3], &json!(3)));
    let counting = Cloud::start(&["--keep", "0"]).await;
    counting.send("twilio").await.unwrap().expect(201);
    assert_eq!((counting.requests().await.len(), &counting.counts().await["twilio"]["accepted"]), (0, &json!(1)));
}

#[tokio::test]
async fn what_it_prints_is_a_configuration() {
    let commands = Commands::new();
    let folder = tempfile::tempdir().unwrap();
    let account = folder.path().join("account.json");
    let process = commands.start(&["mock", "--listen", "127.0.0.1:0", "--service-account", account.to_str().unwrap()]);
    process.find_line(|line| (line == "base_url = \"\"" || line.starts_with("webhook_public_key")).then_some(())).await.unwrap();
    let listening = process.lines().iter().find_map(|line| line.split_once(" on ").map(|(_, url)| url.to_owned())).unwrap();
    let api = Api::new(&listening);
    let credentials = until("it answers", async || Answer::of(api.request(Method::GET, "/mock/credentials")).await.ok()).await.expect(200);
    let read = || {
        let lines = process.lines();
        let start = lines.iter().position(|line| line.starts_with("# "))?;
        lines[start..]
            .join("\n")
            .parse::<toml::Table>()
            .ok()
            .filter(|table| table.get("provider").and_then(|of| of.get("twilio")).is_some())
    };
    let table = process.until("all of it is printed", async || read()).await;
    let at = |path: &str| path.split('.').try_fold(&table["provider"], |at, step| at.get(step)).and_then(toml::Value::as_str);
    assert_eq!(at("sendgrid.api_key"), credentials["sendgrid"]["api_key"].as_str());
    assert_eq!(at("sendgrid.webhook_public_key"), credentials["sendgrid"]["webhook_public_key"].as_str());
    assert_eq!(at("twilio.auth_token"), credentials["twilio"]["auth_token"].as_str());
    assert_eq!((at("fcm.service_account_file"), at("fcm.base_url")), (account.to_str(), Some(listening.as_str())));
    assert_eq!(std::fs::metadata(&account).unwrap().permissions().mode() & 0o777, 0o600);
    let written: Value = serde_json::from_slice(&std::fs::read(&account).unwrap()).unwrap();
    assert_eq!(written, credentials["fcm"]["service_account"]);
    process.signal("TERM");
    assert_eq!(process.end().await.code, Some(0));
}

#[tokio::test]
async fn all_that_is_wrong_with_a_script_is_told() {
    let commands = Commands::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("faults.toml");
    let path = file.to_str().unwrap();
    std::fs::write(
        &file,
        r#"
        [[rule]]
        provider = "twillio"
        answer = "reset_afer"
        [[rule]]
        provider = "fcm"
        answer = { status = 42, retry = "5" }
        tims = 3
        [[rule]]
        provider = "sendgrid"
        delay = "fast"
        "#,
    )
    .unwrap();
    let ran = commands.run(&["mock", "--script", path]).await;
    ran.failed(
        3,
        &[
            "has 6 problems",
            "rule[0].provider: not a known value: `twillio` (hint: did you mean `twilio`?)",
            "rule[0].answer: not a known value: `reset_afer` (hint: did you mean `reset_after`?)",
            "rule[1].answer.status: not a status of an answer (hint: write 200 to 599)",
            "rule[1].answer.retry: unknown member `retry` (hint: known here: status, retry_after, rate_limit_reset, code, body, html)",
            "rule[1].tims: unknown member `tims` (hint: did you mean `times`?)",
            "rule[2].delay: ",
        ],
    );
    std::fs::write(
        &file,
        r#"rule = [
            { provider = "fcm", answer = "opted_out" },
            { provider = "sendgrid", to = "a*b", share = 2, times = 0, webhooks = ["deliverd"] },
            { provider = "token", probe = true },
        ]"#,
    )
    .unwrap();
    let ran = commands.run(&["mock", "--script", path]).await;
    ran.failed(
        3,
        &[
            "rule[0].answer: `opted_out` is no answer of fcm (hint: it is one of twilio)",
            "rule[1].share: not a share (hint: write a number from 0 to 1, such as 0.1)",
            "rule[1].times: a rule for no request",
            "rule[1].to: `*` in the middle",
            "rule[1].webhooks[0]: not a known value: `deliverd` (hint: did you mean `delivered`?)",
            "rule[2].probe: such a request does not exist",
        ],
    );
    std::fs::write(&file, "[[rule]\n").unwrap();
    commands.run(&["mock", "--script", path]).await.failed(3, &["faults.toml:1:8: not TOML"]);
    commands.run(&["mock", "--script", "nowhere.toml"]).await.failed(1, &["nowhere.toml cannot be read"]);
    commands.run(&["mock", "--webhook-url", "ftp://x"]).await.failed(2, &["write one with http:// or https://"]);
    commands.run(&["dev", "--mock", "--chaos", "0.1"]).await.failed(2, &["cannot be used with"]);
}
