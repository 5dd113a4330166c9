//! What somebody could try to get past us, in jobs, in mails and in what comes back: all of it refused or sent as it is, none smuggled.

use aws_lc_rs::{
    encoding::{AsDer as _, PublicKeyX509Der},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use reqwest::Method;
use serde_json::{Value, json};
use tarishi::model::{Body, EmailAddress, Timestamp, plain};

use super::{
    callbacks::counted,
    contract::{address, message, told},
};
use crate::support::{Answer, Clouds, Daemon, Setup, job, problems, recipient};

/// What would break the line it is in, for one reader or another.
const BROKEN: [&str; 11] = [
    "a\r\nBcc: x@y.example",
    "a\nb",
    "a\rb",
    "a\0b",
    "a\u{7f}b",
    "a\u{85}b",
    "a\u{b}b",
    "a\u{c}b",
    "a\u{2028}b",
    "a\u{2029}b",
    "a\u{202e}b",
];
/// What looks like it and is harmless, or belongs to a language.
const WHOLE: [&str; 6] = [
    "a%0d%0aBcc: x",
    "a\\r\\nb",
    "=?utf-8?b?DQpCY2M6?= {{ title }} -title-",
    "नमस्ते 👨\u{200d}👩\u{200d}👧 می\u{200c}خواهم",
    "<b>Asha</b> & \"Juma\"",
    "\u{430}sh\u{430} \u{2066}x\u{2069}",
];

async fn daemon(key: &str) -> (Setup, Clouds, Daemon) {
    let clouds = Clouds::start().await;
    let mut setup = clouds.configure(Setup::new()).with_quick_retries();
    if !key.is_empty() {
        setup.set("provider.sendgrid.webhook_public_key", key);
    }
    let daemon = setup.start().await;
    (setup, clouds, daemon)
}

#[tokio::test]
async fn no_subject_breaks_its_line() {
    let clouds = Clouds::start().await;
    let provider = clouds.provider("sendgrid", &[]);
    let with_subject = |subject: &str| {
        let mut mail = message("email", address("email"));
        let Body::Email(body) = &mut mail.body else { panic!() };
        body.subject = subject.to_owned();
        mail
    };
    for subject in BROKEN {
        let outcome = provider.send(&with_subject(subject)).await;
        assert_eq!(told(&outcome), "payload payload_refused", "{subject:?}");
    }
    let mut mail = message("email", address("email"));
    let Body::Email(body) = &mut mail.body else { panic!() };
    body.to = EmailAddress::from_stored("asha@[127.0.0.1]").unwrap();
    assert_eq!(told(&provider.send(&mail).await), "payload payload_refused");
    assert!(clouds.requests("sendgrid").is_empty());
    let flood = format!("a{}", "\u{301}".repeat(400));
    for subject in WHOLE.into_iter().chain([flood.as_str()]) {
        assert_eq!(told(&provider.send(&with_subject(subject)).await), "sent", "{subject:?}");
        assert_eq!(clouds.requests("sendgrid").last().unwrap().body["subject"], subject);
    }
}

#[tokio::test]
async fn what_a_job_brings_is_refused_or_sent_as_it_is() {
    let (_setup, clouds, daemon) = daemon("").await;
    let titled = |id: &str, title: &str| {
        let mut job = job(id, &[recipient("42")], &["email"]);
        job["data"]["title"] = json!(title);
        job
    };
    // What nobody sees is taken out of the data; what breaks the line is not sent at all.
    let (lines, hidden): (Vec<&str>, Vec<&str>) = BROKEN.into_iter().partition(|title| plain(title).contains('\n'));
    assert_eq!(hidden, ["a\0b", "a\u{7f}b", "a\u{202e}b"]);
    for (number, title) in lines.into_iter().enumerate() {
        let id = format!("broken-{number}");
        daemon.api.post("/v1/jobs", &titled(&id, title)).await.expect(202);
        let delivery = daemon.finished(&id).await["deliveries"][0].clone();
        assert_eq!((&delivery["status"], &delivery["code"]), (&json!("failed"), &json!("render_failed")), "{title:?}: {delivery}");
        assert!(!delivery.to_string().contains("Bcc"), "{delivery}");
    }
    assert!(clouds.requests("sendgrid").is_empty());
    for (number, title) in hidden.into_iter().enumerate() {
        let id = format!("hidden-{number}");
        daemon.api.post("/v1/jobs", &titled(&id, title)).await.expect(202);
        assert_eq!(daemon.finished(&id).await["deliveries"][0]["status"], "sent", "{title:?}");
        assert_eq!(clouds.requests("sendgrid").last().unwrap().body["subject"], "ab", "{title:?}");
    }
    for (number, title) in WHOLE.into_iter().enumerate() {
        let id = format!("whole-{number}");
        daemon.api.post("/v1/jobs", &titled(&id, title)).await.expect(202);
        assert_eq!(daemon.finished(&id).await["deliveries"][0]["status"], "sent", "{title:?}");
        let subject = clouds.requests("sendgrid").last().unwrap().body["subject"].clone();
        assert!(subject.as_str().unwrap().contains(title), "{subject}");
    }
    // No text at all, in any encoding.
    let surrogate =
        r#"{"id":"lone","template":"generic","to":[{"user_id":"1","email":"a@b.example"}],"channels":["email"],"data":{"title":"\ud800"}}"#;
    let posted = daemon.api.request(Method::POST, "/v1/jobs").header("content-type", "application/json").body(surrogate);
    assert!(matches!(Answer::of(posted).await.unwrap().status, 400 | 422));
    for bad in ["a@b,c@d", "asha@[127.0.0.1]", "\"asha\"@example.com", "asha＠example.com", "a\u{202e}@example.com", "-a@example.com"] {
        let to = json!({ "user_id": "1", "email": bad });
        let answer = daemon.api.post("/v1/jobs", &job("address", &[to], &["email"])).await.expect_problem(422, "invalid");
        assert!(problems(&answer).iter().any(|problem| problem.starts_with("$.to[0].email: ")), "{answer}");
    }
    assert_eq!(daemon.api.get("/v1/audit").await.expect(200)["balanced"], true);
}

/// Signs events as SendGrid does.
struct Signer(EcdsaKeyPair);

impl Signer {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap())
    }

    fn public_key(&self) -> String {
        let der: PublicKeyX509Der<'_> = self.0.public_key().as_der().unwrap();
        BASE64_STANDARD.encode(der.as_ref())
    }

    fn sign(&self, timestamp: &str, body: &str) -> String {
        let signature = self.0.sign(&SystemRandom::new(), format!("{timestamp}{body}").as_bytes()).unwrap();
        BASE64_STANDARD.encode(signature.as_ref())
    }
}

#[tokio::test]
async fn only_what_is_signed_as_it_came_is_believed() {
    const SIGNATURE: &str = "x-twilio-email-event-webhook-signature";
    const TIMESTAMP: &str = "x-twilio-email-event-webhook-timestamp";
    let keys = Signer::new();
    let (_setup, _clouds, daemon) = daemon(&keys.public_key()).await;
    let api = daemon.public_api();
    let post = async |kind: &str, headers: &[(&'static str, &str)], body: &str| {
        let mut request = api.request(Method::POST, "/webhooks/sendgrid").header("content-type", kind).body(body.to_owned());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::of(request).await.unwrap().status
    };
    let entries = async || daemon.api.get("/v1/suppressions").await.expect(200)["suppressions"].as_array().unwrap().len();
    let json = "application/json";
    let now = (Timestamp::now().as_millis() / 1000).to_string();
    let event = |id: &str, kind: &str| {
        format!(
            "[{}]\r\n",
            json!({ "email": format!("{id}@people.example"), "event": kind, "sg_event_id": id, "timestamp": 1_768_473_000 })
        )
    };

    let bounce = event("asha", "bounce");
    let signature = keys.sign(&now, &bounce);
    let signed = [(SIGNATURE, signature.as_str()), (TIMESTAMP, now.as_str())];
    for (kind, headers, body, expected) in [
        (json, &[(SIGNATURE, signature.as_str()), (SIGNATURE, signature.as_str()), (TIMESTAMP, now.as_str())][..], bounce.as_str(), 403),
        (json, &[(SIGNATURE, ""), (TIMESTAMP, now.as_str())], &bounce, 403),
        (json, &[(TIMESTAMP, now.as_str())], &bounce, 403),
        (json, &[(SIGNATURE, signature.as_str())], &bounce, 403),
        ("text/plain", &signed, &bounce, 415),
        ("application/x-www-form-urlencoded", &signed, &bounce, 415),
        // The same to whoever reads JSON, and not what was signed.
        (json, &signed, bounce.trim_end(), 403),
    ] {
        assert_eq!(post(kind, headers, body).await, expected, "{kind} {headers:?} {body:?}");
    }
    let (long_ago, ahead) = ((Timestamp::now().as_millis() / 1000 - 26 * 3600).to_string(), "9999999999".to_owned());
    for timestamp in [&long_ago, &ahead] {
        let signature = keys.sign(timestamp, &bounce);
        assert_eq!(post(json, &[(SIGNATURE, &signature), (TIMESTAMP, timestamp)], &bounce).await, 403, "{timestamp}");
    }
    assert_eq!(entries().await, 0);
    assert!(counted(&daemon, "tarishi_callbacks_refused_total", "sendgrid").await >= 9);

    // Taken once, however often it comes.
    for _ in 0..3 {
        assert_eq!(post("application/json; charset=utf-8", &signed, &bounce).await, 204);
    }
    assert_eq!((entries().await, counted(&daemon, "tarishi_callbacks_repeated_total", "sendgrid").await), (1, 2));
    let send = async |body: &str| {
        let signature = keys.sign(&now, body);
        post(json, &[(SIGNATURE, &signature), (TIMESTAMP, &now)], body).await
    };
    // Signed again, the event is the same.
    assert_eq!((send(&bounce).await, entries().await), (204, 1));
    assert_eq!(counted(&daemon, "tarishi_callbacks_repeated_total", "sendgrid").await, 3);
    assert_eq!(send("[]\r\n").await, 204);
    assert_eq!(send(&event("later", "invented_tomorrow")).await, 204);
    assert_eq!(send("[7, null, {}, [], {\"event\": 7}, {\"event\": \"bounce\"}]").await, 204);
    assert_eq!(unknown(&daemon).await, 6);
    for malformed in ["", "{}", "not JSON", "[", "\"\\ud800\""] {
        assert_eq!(send(malformed).await, 400, "{malformed:?}");
    }
    assert_eq!(entries().await, 1, "none of them named anybody");
    let told: Vec<Value> = daemon.events("callback refused");
    assert!(told.len() < 9, "the same reason is told once in a while: {told:?}");
}

/// Events of kinds that nobody knows.
async fn unknown(daemon: &Daemon) -> u64 {
    let metrics = daemon.api.get("/metrics").await.text;
    let line = metrics.lines().find(|line| line.starts_with("tarishi_callbacks_total") && line.contains("unknown"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
}
