//! Templates of a running daemon: read again when asked and when they change, previewed, and kept when the new ones are broken.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::support::{Browser, Daemon, Setup};

const RELOADED: &str = "templates reloaded";
const REFUSED: &str = "templates refused: the ones loaded before stay in use; mend the files, then send SIGHUP";
/// By a daemon that watches the files.
const REFUSED_UNTIL_MENDED: &str = "templates refused: the ones loaded before stay in use until the files are mended";
/// Of `rent_due/sms.txt`.
const BEFORE: &str = "Rent of {{ amount | currency('TZS') }} is due on {{ due | date }}.";

/// A daemon's own templates, which the test may change: one, with an English and a Swahili SMS.
fn write_templates(folder: &Path) {
    let sample = json!({ "amount": 350_000, "due": "2026-01-15" });
    write(folder, "rent_due/sample.json", &sample.to_string());
    write(folder, "rent_due/sms.txt", BEFORE);
    write(folder, "rent_due/sw/sms.txt", "Kodi ya {{ amount | currency('TZS') }} inatakiwa {{ due | date('long') }}.");
    write(folder, "rent_due/email.subject.txt", "Rent");
    write(folder, "rent_due/email.html", "<style>p { color: rgb(1, 2, 3); }</style><p>Pay {{ amount | number }}</p>");
}

fn write(folder: &Path, file: &str, text: &str) {
    let path = folder.join("templates").join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

async fn hang_up(daemon: &Daemon, event: &str, times: usize) {
    daemon.process.signal("HUP");
    told(daemon, event, times).await;
}

async fn told(daemon: &Daemon, event: &str, times: usize) {
    let enough = async || Some(daemon.events(event)).filter(|events| events.len() >= times);
    daemon.process.until(&format!("it says {times} times `{event}`"), enough).await;
}

/// What a new delivery to somebody in Tanzania says.
async fn sent(daemon: &Daemon, job: &str, locale: &str) -> Value {
    let to = json!({ "user_id": "42", "phone": "+255712345678", "locale": locale });
    let data = json!({ "amount": 500, "due": "2026-02-01" });
    let job_document = json!({ "v": 1, "id": job, "template": "rent_due", "to": [to], "channels": ["sms"], "data": data });
    daemon.api.post("/v1/jobs", &job_document).await.expect(202);
    daemon.finished(job).await;
    let outbox = daemon.api.get("/v1/outbox?channel=sms&limit=1").await.expect(200);
    outbox["messages"][0]["text"].clone()
}

#[tokio::test]
async fn a_hang_up_takes_good_new_templates_and_keeps_the_old_ones_otherwise() {
    let mut setup = Setup::new().with("templates.path", "templates");
    let folder = setup.folder().to_owned();
    write_templates(&folder);
    let daemon = setup.start().await;
    assert_eq!(sent(&daemon, "before", "en").await, "Rent of TSh 500 is due on Feb 1, 2026.");
    assert_eq!(sent(&daemon, "kabla", "sw-TZ").await, "Kodi ya TSh 500 inatakiwa 1 Februari 2026.");

    write(&folder, "rent_due/sms.txt", "Pay {{ amount | currency('TZS') }} by {{ due | date }}.");
    hang_up(&daemon, RELOADED, 1).await;
    assert_eq!(sent(&daemon, "after", "en").await, "Pay TSh 500 by Feb 1, 2026.");

    write(&folder, "rent_due/sms.txt", "\nPay {{ amuont }}");
    hang_up(&daemon, REFUSED, 1).await;
    let problem = &daemon.events("template problem")[0];
    assert_eq!((&problem["file"], &problem["problem"]), (&json!("rent_due/sms.txt:2"), &json!("`amuont` is not defined")));
    assert_eq!(sent(&daemon, "broken", "en").await, "Pay TSh 500 by Feb 1, 2026.");
    let status = daemon.api.get("/v1/status").await.expect(200);
    assert_eq!((&status["ready"], &status["templates"]["templates"]), (&json!(true), &json!(1)));
    let refused = &status["templates"]["refused"];
    assert_eq!(refused["problems"][0]["path"], "rent_due/sms.txt:2");
    assert_eq!(&daemon.api.get("/v1/templates").await.expect(200)["refused"], refused);
    daemon.metric_is("tarishi_templates_refused", 1).await;
    // A second refusal keeps the moment of the first.
    hang_up(&daemon, REFUSED, 2).await;
    let again = daemon.api.get("/v1/status").await.expect(200);
    assert_eq!(again["templates"]["refused"]["since"], refused["since"]);

    write(&folder, "rent_due/sms.txt", BEFORE);
    hang_up(&daemon, RELOADED, 2).await;
    assert_eq!(sent(&daemon, "mended", "en").await, "Rent of TSh 500 is due on Feb 1, 2026.");
    assert_eq!(daemon.api.get("/v1/status").await.expect(200)["templates"]["refused"], Value::Null);
    assert_eq!(daemon.metric("tarishi_template_reloads_total{result=\"reloaded\"}").await, 2);
    assert_eq!(daemon.metric("tarishi_template_reloads_total{result=\"refused\"}").await, 2);
    daemon.metric_is("tarishi_templates_refused", 0).await;
    assert_eq!(daemon.terminate().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_development_a_change_is_seen_at_once_by_the_daemon_and_by_the_page() {
    let mut setup = Setup::new().with_command(&["dev", "--log-format", "json"]).with("templates.path", "templates");
    setup.set("shutdown.drain", "200ms");
    let folder = setup.folder().to_owned();
    write_templates(&folder);
    let daemon = setup.start().await;
    let browser = Browser::open().await;
    browser.go_to(&format!("http://{}/templates#template=rent_due&channel=sms", daemon.admin)).await;
    browser.shows(&daemon, "#body", &["Rent of TSh 350,000 is due on Jan 15, 2026.", "1 segment"]).await;
    browser.shows(&daemon, "#state", &["up to date"]).await;
    // As somebody types.
    let typed = |id: &str, text: &str| {
        format!("const field = document.querySelector('#{id}'); field.value = {text:?}; field.dispatchEvent(new Event('input'))")
    };
    browser.evaluate(&typed("locale", "sw")).await;
    browser.shows(&daemon, "#body", &["Kodi ya TSh 350,000 inatakiwa 15 Januari 2026."]).await;
    browser.evaluate(&typed("data", r#"{ "amount": "many", "due": "2026-01-15" }"#)).await;
    browser.shows(&daemon, "#problems", &["rent_due/sw/sms.txt:1", "`currency` was given something that is not a number"]).await;
    browser.evaluate(&typed("data", r#"{ "amount": 1200, "due""#)).await;
    browser.shows(&daemon, "#data-problem", &["Not JSON yet"]).await;
    browser.evaluate(&typed("data", r#"{ "amount": 1200, "due": "2026-01-15" }"#)).await;
    browser.shows(&daemon, "#body", &["Kodi ya TSh 1,200 inatakiwa"]).await;

    write(&folder, "rent_due/sw/sms.txt", "Lipa {{ amount | currency('TZS') }}.");
    browser.shows(&daemon, "#body", &["Lipa TSh 1,200."]).await;
    told(&daemon, RELOADED, 1).await;
    write(&folder, "rent_due/sw/sms.txt", "Lipa {{ kiasi }}.");
    browser.shows(&daemon, "#refused", &["cannot be used", "rent_due/sw/sms.txt:1", "`kiasi` is not defined"]).await;
    told(&daemon, REFUSED_UNTIL_MENDED, 1).await;
    browser.shows(&daemon, "#body", &["Lipa TSh 1,200."]).await;
    // A mail is shown with its styles, in a frame that may run nothing.
    browser.evaluate("document.querySelector('#tab-email').click()").await;
    browser.shows(&daemon, "#body", &["Rent", "of HTML"]).await;
    let frame = browser
        .evaluate("const frame = document.querySelector('#body iframe'); return [frame.getAttribute('sandbox'), frame.srcdoc]")
        .await;
    assert_eq!(frame[0], "");
    assert!(frame[1].as_str().unwrap().contains("Pay 1,200"), "{frame}");
    browser.go_to(&format!("http://{}/", daemon.admin)).await;
    browser.shows(&daemon, "#templates-refused", &["cannot be used", "rent_due/sw/sms.txt:1"]).await;
    let complaints = browser.complaints().await;
    assert!(complaints.is_empty(), "{complaints:#?}");
    browser.close().await;
    assert_eq!(daemon.terminate().await.code, Some(0));
}

#[tokio::test]
async fn a_preview_says_what_each_channel_would() {
    let mut setup = Setup::new().with("templates.path", "templates");
    write_templates(setup.folder());
    let daemon = setup.start().await;
    let preview = async |body: Value| daemon.api.post("/v1/templates/rent_due/preview", &body).await;
    let answer = preview(json!({})).await.expect(200);
    assert_eq!(answer["problems"], json!([]));
    let sms = answer["bodies"].as_array().unwrap().iter().find(|body| body["channel"] == "sms").unwrap();
    assert_eq!(sms["text"], "Rent of TSh 350,000 is due on Jan 15, 2026.");
    assert_eq!(
        sms["measure"],
        json!({ "channel": "sms", "segments": 1, "encoding": "gsm7", "units": 43, "units_per_segment": 160, "limit": 10 })
    );
    let data = json!({ "amount": 5, "due": "2026-01-15T22:00:00Z" });
    let asked = json!({ "data": data, "locale": "sw", "timezone": "Africa/Dar_es_Salaam", "channels": ["sms"] });
    let answer = preview(asked).await.expect(200);
    assert_eq!(answer["bodies"][0]["text"], "Kodi ya TSh 5 inatakiwa 16 Januari 2026.");
    assert_eq!(answer["bodies"].as_array().unwrap().len(), 1);
    // What one channel lacks does not keep the other.
    let answer = preview(json!({ "data": { "amount": 5 } })).await.expect(200);
    assert_eq!(answer["bodies"][0]["channel"], "email");
    let problem = &answer["problems"][0];
    assert_eq!((&problem["channel"], &problem["path"]), (&json!("sms"), &json!("rent_due/sms.txt:1")));
    assert_eq!(problem["problem"], "`due` is not defined");

    let refused = preview(json!({ "date": {}, "locale": "no such" })).await.expect_problem(422, "invalid");
    assert_eq!(refused["problems"].as_array().unwrap().len(), 2, "{refused}");
    let unknown = daemon.api.post("/v1/templates/rent_deu/preview", &json!({})).await.expect_problem(404, "template_not_found");
    assert!(unknown["detail"].as_str().unwrap().contains("did you mean `rent_due`?"), "{unknown}");
    assert_eq!(daemon.terminate().await.code, Some(0));
}

#[test]
fn the_command_tells_what_a_job_would_be_told_and_where_files_are() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_templates(folder);
    let schema = json!({ "additionalProperties": false, "properties": { "amount": { "type": ["integer", "string"] }, "due": { "type": "string" } } });
    write(folder, "rent_due/schema.json", &schema.to_string());
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tarishi"));
        let ran = command.args(arguments).current_dir(folder).env_clear().output().unwrap();
        (ran.status.code(), String::from_utf8(ran.stderr).unwrap())
    };
    let preview = |data: &str| {
        fs::write(folder.join("data.json"), data).unwrap();
        run(&["template", "preview", "rent_due", "--data", "data.json"])
    };
    let (code, told) = preview(r#"{ "amuont": 5, "deu": 1 }"#);
    assert!(code == Some(1) && told.contains("data.json is not what `rent_due` takes"), "{told}");
    assert!(told.contains("$.data.amuont: is not known to the template") && told.contains("$.data.deu: is not known"), "{told}");
    // A file is named alike, whichever command tells of it.
    let (code, told) = preview(r#"{ "amount": "many" }"#);
    assert!(code == Some(1) && told.contains("templates/rent_due/email.html:1: "), "{told}");
    write(folder, "rent_due/sms.txt", "{{ amuont }}");
    for arguments in [&["check"] as &[&str], &["template", "list"], &["template", "preview", "rent_due"], &["template", "lint"]] {
        let (code, told) = run(arguments);
        assert!(code == Some(3) && told.contains("  templates/rent_due/sms.txt:1: `amuont` is not defined"), "{arguments:?}: {told}");
    }
}
