use std::{fs, sync::Arc};

use serde_json::{Value as Json, json};
use tempfile::TempDir;

use super::*;
use crate::model::{Code, Content, DeliveryId, DeliveryKey, Envelope, Priority, Severity, Timestamp};

const LIMITS: Limits = Limits { fuel: 50_000, output: 64 * 1024, sms_segments: 10, push_bytes: 4096, email_clip_bytes: 102 * 1024 };
const BASE: &str = "https://app.example.com";
const NOW: Timestamp = Timestamp::from_millis(1_768_473_000_000);

fn locale_defaults() -> LocaleDefaults {
    LocaleDefaults { locale: "en".parse().expect("valid"), timezone: "UTC".parse().expect("valid") }
}

fn shipped() -> Templates {
    Templates::load(Path::new("templates"), BASE, locale_defaults(), LIMITS).expect("the shipped templates are good")
}

fn delivery(channel: Channel, locale: Option<&str>, job: Json) -> Delivery {
    let mut job = job;
    job["id"] = json!("job-1");
    let address = match channel {
        Channel::Email => Address::Email("asha@example.com".parse().expect("valid")),
        Channel::Sms => Address::Phone("+255712345678".parse().expect("valid")),
        Channel::Push => Address::PushToken("token".parse().expect("valid")),
        Channel::Live => Address::Inbox,
    };
    Delivery {
        key: DeliveryKey { job: 1, ordinal: 0 },
        id: DeliveryId::new([0; 12], 0),
        job: Arc::new(serde_json::from_value::<Envelope>(job).expect("a job")),
        channel,
        priority: Priority::Normal,
        user_id: Some("42".parse().expect("valid")),
        address,
        locale: locale.map(|tag| tag.parse().expect("valid")),
        timezone: Some("Africa/Dar_es_Salaam".parse().expect("valid")),
        attempts: 0,
        pinned: None,
        due_at: Timestamp::default(),
        expires_at: Timestamp::FAR_FUTURE,
    }
}

/// A body as a person would compare it.
fn shown(body: &Body) -> String {
    let json = |value: Json| serde_json::to_string_pretty(&value).expect("a tree");
    match body {
        Body::Email(email) => format!(
            "{}\n\n======== text\n{}\n\n======== html\n{}",
            email.subject,
            email.text.as_deref().unwrap_or("none"),
            email.html.as_deref().unwrap_or("none"),
        ),
        Body::Sms(sms) => sms.text.clone(),
        Body::Push(push) => json(json!(push)),
        Body::Live(notification) => json(json!(notification)),
    }
}

/// A templates folder holding `files`.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("a folder");
        fs::write(path, text).expect("a file");
    }
    folder
}

fn load(files: &[(&str, &str)]) -> Templates {
    Templates::load(folder(files).path(), BASE, locale_defaults(), LIMITS).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

#[track_caller]
fn check_problems(files: &[(&str, &str)], expected: &[&str]) {
    check_problems_in(&folder(files), expected);
}

#[track_caller]
fn check_problems_in(folder: &TempDir, expected: &[&str]) {
    let problems = Templates::load(folder.path(), BASE, locale_defaults(), LIMITS).err().unwrap_or_default();
    assert_eq!(problems.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
}

/// Renders `source` as an SMS with `data`.
#[track_caller]
fn check_sms(source: &str, data: &Json, expected: Result<&str, &str>) {
    let mut templates = load(&[("t/sms.txt", "x"), ("t/sample.json", "{}")]);
    templates.engine.add("t/sms.txt", "t/sms.txt", source).expect("compiles");
    let rendered = templates.render(&delivery(Channel::Sms, None, json!({"template": "t", "data": data})), NOW);
    let rendered = rendered.map(|body| shown(&body)).map_err(|error| error.to_string());
    assert_eq!(rendered.as_deref().map_err(String::as_str), expected, "{source}");
}

#[test]
fn shipped_templates_are_as_they_were() {
    let templates = shipped();
    let names: Vec<&str> = templates.list().map(|info| info.name.as_str()).collect();
    let shipped_names = [
        "agent_response_timeout",
        "booking_confirmation",
        "generic",
        "new_conversation",
        "new_message",
        "price_offer",
        "verification_code",
        "visit_cancelled",
        "visit_confirmed",
        "visit_declined",
        "visit_requested",
    ];
    assert_eq!(names, shipped_names);
    for info in templates.list() {
        assert_eq!(info.locales, ["sw"], "{}", info.name);
        for channel in info.channels.iter() {
            for locale in [None, Some("sw")] {
                let job = json!({"template": info.name, "data": info.sample});
                let body = templates.render(&delivery(channel, locale, job), NOW).expect("the sample renders");
                insta::assert_snapshot!(format!("{}.{channel}.{}", info.name, locale.unwrap_or("default")), shown(&body));
            }
        }
    }
}

#[test]
fn each_part_comes_in_the_nearest_language() {
    let templates = load(&[
        ("t/sms.txt", "hello {{ locale }}"),
        ("t/live.json", r#"{"title": "hello", "message": "hello"}"#),
        ("t/sw/sms.txt", "habari {{ locale }}"),
        ("t/sw-TZ/live.json", r#"{"title": "mambo", "message": "mambo"}"#),
        ("t/sample.json", "{}"),
    ]);
    for (locale, channel, expected) in [
        (None, Channel::Sms, "hello"),
        (Some("fr"), Channel::Sms, "hello fr"),
        (Some("sw"), Channel::Sms, "habari sw"),
        (Some("sw-TZ"), Channel::Sms, "habari sw-TZ"),
        (Some("sw-Latn-KE"), Channel::Sms, "habari sw-Latn-KE"),
        (Some("sw-KE"), Channel::Live, "hello"),
        (Some("sw-TZ"), Channel::Live, "mambo"),
    ] {
        let body = templates.render(&delivery(channel, locale, json!({"template": "t"})), NOW).expect("renders");
        assert!(shown(&body).contains(expected), "{locale:?} {channel}: {}", shown(&body));
    }
}

#[test]
fn shared_pieces_speak_the_language_of_the_part_that_uses_them() {
    let templates = load(&[
        ("_layouts/frame.txt", "{% import \"_layouts/words.txt\" as words %}{{ words.hi }} {% block body %}{% endblock %}"),
        ("_layouts/words.txt", "{% set hi = 'hello' %}"),
        ("_layouts/sw/words.txt", "{% set hi = 'habari' %}"),
        ("t/sms.txt", "{% extends '_layouts/frame.txt' %}{% block body %}one{% endblock %}"),
        ("t/sw-TZ/sms.txt", "{% extends '_layouts/frame.txt' %}{% block body %}moja {{ words.hi }}{% endblock %}"),
        ("t/sample.json", "{}"),
    ]);
    for (locale, expected) in [(None, "hello one"), (Some("sw"), "hello one"), (Some("sw-TZ"), "habari moja habari")] {
        let body = templates.render(&delivery(Channel::Sms, locale, json!({"template": "t"})), NOW).expect("renders");
        assert_eq!(shown(&body), expected, "{locale:?}");
    }
}

#[test]
fn a_template_sees_the_data_and_our_names() {
    let data = json!({"name": "Asha", "n": 3, "x": 0.5, "yes": true, "no": null, "flats": [{"city": "Dar"}, {"city": "Moshi"}]});
    check_sms("{{ name }} {{ n + 1 }} {{ x }} {{ no is none }}", &data, Ok("Asha 4 0.5 True"));
    check_sms("{% for flat in flats %}{{ loop.index }}{{ flat.city }} {% endfor %}{{ flats[1].city }}", &data, Ok("1Dar 2Moshi Moshi"));
    check_sms("{% for key, value in flats[0] | items %}{{ key }}={{ value }}{% endfor %}", &data, Ok("city=Dar"));
    check_sms("{{ nick is defined }} {{ nick | default('friend') }}", &data, Ok("False friend"));
    check_sms(
        "{{ user_id }} {{ timezone }} {{ locale }}|{{ link_base_url }} {{ job_id }} {{ template }}",
        &json!({"user_id": "someone else", "job_id": "no"}),
        Ok("42 Africa/Dar_es_Salaam |https://app.example.com job-1 t"),
    );
}

#[test]
fn what_is_unknown_of_a_delivery_is_the_empty_text() {
    let templates =
        load(&[("t/push.json", r#"{"title": "t", "body": {{ "[" ~ user_id ~ timezone ~ locale ~ "]" }}}"#), ("t/sample.json", "{}")]);
    let mut delivery = delivery(Channel::Push, None, json!({"template": "t", "data": {"user_id": "someone else"}}));
    (delivery.user_id, delivery.timezone, delivery.address) = (None, None, Address::PushTopic("news".into()));
    let Ok(Body::Push(push)) = templates.render(&delivery, NOW) else { panic!("renders") };
    assert_eq!((push.body.as_str(), push.target), ("[]", PushTarget::Topic("news".to_owned())));
}

#[test]
fn faults_name_the_place_and_never_a_value() {
    let data = json!({"secret": "Asha", "user": {"name": "Asha"}});
    check_sms("\n{{ name }}", &data, Err("t/sms.txt:2: `name` is not defined"));
    check_sms("{{ user.phone }}", &data, Err("t/sms.txt:1: `user.phone` is not defined"));
    check_sms("{% if user.phone %}{% endif %}", &data, Err("t/sms.txt:1: `user.phone` is not defined"));
    check_sms("{{ user[secret] }}", &data, Err("t/sms.txt:1: `user[...]` is not defined"));
    check_sms("{{ secret | int }}", &data, Err("t/sms.txt:1: a value is not what is needed here in `{{ secret | int }}`"));
    check_sms(
        "{{ secret + 1 }}",
        &data,
        Err("t/sms.txt:1: a value is not what is needed here: tried to use + operator on unsupported types string and number \
             in `{{ secret + 1 }}`"),
    );
    check_sms("{{ secret | nope }}", &data, Err("t/sms.txt:1: there is no filter `nope` in `{{ secret | nope }}`"));
    check_sms("{{ secret.nope() }}", &data, Err("t/sms.txt:1: a value has no method `nope` in `{{ secret.nope() }}`"));
    check_sms("{{ nope(secret) }}", &data, Err("t/sms.txt:1: there is no function or macro `nope` here in `{{ nope(secret) }}`"));
    check_sms(
        "{% include secret %}",
        &data,
        Err("t/sms.txt:1: there is no such file to extend, include or import in `{% include secret %}`"),
    );
    check_sms(
        "{% include '../t/sms.txt' %}",
        &data,
        Err("t/sms.txt:1: there is no such file to extend, include or import in `{% include '../t/sms.txt' %}`"),
    );
    check_sms(
        "{{ ('javascript:' ~ secret) | link }}",
        &data,
        Err("t/sms.txt:1: a link must be https, http, mailto or tel in `{{ ('javascript:' ~ secret) | link }}`"),
    );
    check_sms(
        "{{ ('/' ~ up) | link }}",
        &json!({"up": "../x"}),
        Err("t/sms.txt:1: a link's path has `.` or `..` in it in `{{ ('/' ~ up) | link }}`"),
    );
    check_sms("{{ 7 | link }}", &data, Err("t/sms.txt:1: a link is not text in `{{ 7 | link }}`"));
    check_sms("{{ debug() }}", &data, Err("t/sms.txt:1: there is no function or macro `debug` here in `{{ debug() }}`"));
    check_sms(" ", &data, Err("t/sms.txt: is empty"));
}

#[test]
fn a_fault_in_a_shared_piece_is_told_where_it_is() {
    let templates = load(&[
        ("_layouts/frame.txt", "\n{% if name is defined %}\n{% include '_layouts/name.txt' %}{% endif %}."),
        ("_layouts/name.txt", "\n{{ name.first }}"),
        ("t/sms.txt", "{% include '_layouts/frame.txt' %}"),
        ("t/sw/sms.txt", "{% include '_layouts/frame.txt' %}"),
        ("t/sample.json", "{}"),
    ]);
    for locale in [None, Some("sw")] {
        let error =
            templates.render(&delivery(Channel::Sms, locale, json!({"template": "t", "data": {"name": {}}})), NOW).expect_err("fails");
        assert_eq!(error.to_string(), "_layouts/name.txt:2: `name.first` is not defined");
        assert_eq!(error.code(), Code::RENDER_FAILED);
    }
}

#[test]
fn limits_stop_what_would_not_end() {
    const FUEL: Result<&str, &str> = Err("t/sms.txt:1: took more work than the fuel limit of 50000 allows");
    check_sms("{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}", &json!({}), FUEL);
    check_sms("{% set x = 'x' * 1000000000 %}", &json!({}), FUEL);
    check_sms(
        "{% for a in range(n) %}0123456789012345678901234567890123456789{% endfor %}",
        &json!({"n": 5000}),
        Err("t/sms.txt: grew past the output limit of 65536 bytes"),
    );
    check_sms("{{ text }}", &json!({"text": "x".repeat(70_000)}), Err("t/sms.txt: grew past the output limit of 65536 bytes"));
    check_sms("{% include 't/sms.txt' %}", &json!({}), Err("t/sms.txt:1: goes into itself too deep in `{% include 't/sms.txt' %}`"));
    check_sms("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", &json!({}), Err("t/sms.txt:1: goes into itself too deep in `{{ m() }}`"));
}

#[test]
fn hostile_data_stays_data() {
    let templates = shown_all(
        &shipped(),
        "new_message",
        &json!({
            "sender_name": "<script>alert('1')</script> {{ 7 * 7 }} {% raw %}",
            "preview": "\"},\"x\":1 <img src=x onerror=alert(1)> &amp; \\ \u{202e} \"\n{{ preview }}",
            "conversation_id": "7/x?a=b#\"<&'",
        }),
    );
    insta::assert_snapshot!("hostile", templates);
}

/// Every channel of the template `name` with `data`.
fn shown_all(templates: &Templates, name: &str, data: &Json) -> String {
    let name: TemplateName = name.parse().expect("valid");
    let channels = templates.channels(&name).expect("is there");
    let job = json!({"template": name, "data": data});
    channels
        .iter()
        .map(|channel| shown(&templates.render(&delivery(channel, None, job.clone()), NOW).expect("renders")))
        .collect::<Vec<_>>()
        .join("\n\n")
}

#[test]
fn a_subject_cannot_bring_headers() {
    let templates = shipped();
    let data = json!({"sender_name": "Asha\r\nBcc: all@example.com", "preview": "p", "conversation_id": 7});
    let error =
        templates.render(&delivery(Channel::Email, Some("sw"), json!({"template": "new_message", "data": data})), NOW).expect_err("fails");
    assert_eq!(error.to_string(), "new_message/sw/email.subject.txt: has a line break or another control character");
}

#[test]
fn what_is_missing_is_told_with_what_was_meant() {
    let templates = shipped();
    let render = |channel, job| templates.render(&delivery(channel, None, job), NOW).expect_err("fails");
    for (error, expected) in [
        (render(Channel::Sms, json!({"template": "new_mesage"})), "no template is named `new_mesage`; did you mean `new_message`?"),
        (
            render(Channel::Sms, json!({"template": "qqqqqqqqqq"})),
            "no template is named `qqqqqqqqqq`; add its folder to the templates and load them again",
        ),
        (render(Channel::Sms, json!({"template": "new_message"})), "the template `new_message` has no part for sms"),
        (render(Channel::Sms, json!({})), "the job names neither a template nor content"),
    ] {
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.code(), Code::TEMPLATE_MISSING);
    }
    let mut delivery = delivery(Channel::Sms, None, json!({"template": "generic"}));
    delivery.address = Address::Inbox;
    let error = templates.render(&delivery, NOW).expect_err("fails");
    assert_eq!((error.to_string().as_str(), error.code()), ("a delivery on sms has another channel's address", Code::RENDER_FAILED));
    assert_eq!(templates.channels(&"qqqqqqqqqq".parse().expect("valid")), None);
    assert_eq!(templates.nearest(&"generc".parse().expect("valid")), Some("generic"));
}

#[test]
fn content_is_literal_on_every_channel() {
    let templates = shipped();
    let job = json!({"content": {
        "title": "Habari {{ name }}",
        "body": "a <b> & {{ name }}\nb\n\nc",
        "url": "/x?a=1&b=2",
        "severity": Severity::Warning,
    }});
    let shown = Channel::ALL.map(|channel| shown(&templates.render(&delivery(channel, Some("sw"), job.clone()), NOW).expect("renders")));
    insta::assert_snapshot!("content", shown.join("\n\n"));
    let job = json!({"content": {"title": "t", "body": "b", "html": "<p>{{ mine }}</p>"}});
    let Ok(Body::Email(email)) = templates.render(&delivery(Channel::Email, None, job), NOW) else { panic!("renders") };
    assert_eq!((email.html.as_deref(), email.text.as_deref()), (Some("<p>{{ mine }}</p>"), Some("b")));
}

#[test]
fn content_has_the_same_limits() {
    let templates = shipped();
    let good = Content { title: "t".into(), body: "b".into(), html: None, url: None, severity: Severity::Info };
    for (content, expected) in [
        (Content { title: "a\nb".into(), ..good.clone() }, "content.title: has a line break or another control character"),
        (Content { title: " ".into(), ..good.clone() }, "content.title: is empty"),
        (Content { body: "\n".into(), ..good.clone() }, "content.body: is empty"),
        (Content { body: "b".repeat(1601), ..good.clone() }, "content.body: is longer than 1600 characters"),
        (Content { url: Some("javascript:x".into()), ..good }, "content.url: a link must be https, http, mailto or tel"),
    ] {
        let error = templates.render(&delivery(Channel::Sms, None, json!({"content": content})), NOW).expect_err("fails");
        assert_eq!((error.to_string().as_str(), error.code()), (expected, Code::RENDER_FAILED));
    }
}

#[test]
fn load_tells_of_files_that_do_not_belong() {
    check_problems(
        &[
            ("stray.txt", ""),
            ("README.md", ""),
            (".hidden/x", ""),
            ("_layout/email.html", ""),
            ("New Message/sms.txt", ""),
            ("_layouts/logo.png", ""),
            ("_layouts/sw/emial.html", ""),
            ("_layouts/email.html", ""),
            ("t/sms.txt", "x"),
            ("t/sample.json", "{}"),
            ("t/email.htm", ""),
            ("t/notes.md", ""),
            ("t/SW/sms.txt", ""),
            ("t/not a tag/sms.txt", ""),
            ("t/sw/sample.json", ""),
            ("t/sw/tz/sms.txt", ""),
            ("t/sw/sms.txt", "x"),
        ],
        &[
            "New Message: is not a template's name (hint: a template's name has lower-case letters, digits, _ and -, such as new_message)",
            "_layout: is not a template's name (hint: shared pieces lie in _layouts)",
            "_layouts/logo.png: is no shared piece (hint: shared pieces end in .html, .mjml, .css, .txt or .json)",
            "_layouts/sw/emial.html: stands in for _layouts/emial.html, which is missing (hint: did you mean `email.html`?)",
            "stray.txt: is not a folder (hint: a template is a folder of its parts, such as new_message/email.html)",
            "t/email.htm: is no part of a template (hint: did you mean `email.html`?)",
            "t/notes.md: is no part of a template (hint: known here: email.subject.txt, email.html, email.txt, sms.txt, push.json, \
             live.json, email.mjml, sample.json, schema.json, template.toml)",
            "t/SW: is not how this language is written (hint: rename it to sw)",
            "t/not a tag: is not a language (hint: a folder in here is a BCP 47 language tag, such as sw or sw-TZ)",
            "t/sw/tz: is a folder in a language's folder (hint: languages lie side by side: sw and sw-TZ)",
            "t/sw/sample.json: is no part of a template (hint: known here: email.subject.txt, email.html, email.txt, \
             sms.txt, push.json, live.json, email.mjml)",
        ],
    );
}

#[test]
fn load_tells_of_parts_that_lack() {
    check_problems(
        &[
            ("a/sample.json", "{}"),
            ("b/email.subject.txt", "x"),
            ("b/sample.json", "{}"),
            ("c/email.txt", "x"),
            ("c/sample.json", "{}"),
            ("d/sms.txt", "x"),
            ("d/sw/push.json", "{}"),
            ("d/sample.json", "{}"),
        ],
        &[
            "a: has no part (hint: add one, such as sms.txt or email.subject.txt with email.html)",
            "b/email.html: is missing, and so is email.txt (hint: a language without its own part uses this one)",
            "c/email.subject.txt: is missing (hint: a language without its own part uses this one)",
            "d/push.json: is missing (hint: a language without its own part uses this one)",
        ],
    );
}

#[test]
fn load_tells_of_samples_that_cannot_be_used() {
    check_problems(
        &[
            ("a/sms.txt", "x"),
            ("b/sms.txt", "x"),
            ("b/sample.json", "{\n  \"a\": }"),
            ("c/sms.txt", "x"),
            ("c/sample.json", "[]"),
            ("d/sms.txt", "x"),
            ("d/sample.json", r#"{"locale": "sw"}"#),
        ],
        &[
            "a/sample.json: is missing (hint: it holds the data object that the template is tried with: { \"name\": \"Asha\" })",
            "b/sample.json:2: is not a JSON object (hint: it holds the data object that the template is tried with: { \"name\": \"Asha\" })",
            "c/sample.json:1: is not a JSON object (hint: it holds the data object that the template is tried with: { \"name\": \"Asha\" })",
            "d/sample.json: `locale` is a name of ours and hides the data's (hint: give it another name)",
        ],
    );
}

#[test]
fn load_compiles_everything() {
    check_problems(
        &[
            ("_layouts/frame.txt", "\n{% block %}"),
            ("a/sms.txt", "{{ name"),
            ("a/sw/sms.txt", "{% extends '_layouts/frame.txt' %}"),
            ("a/sample.json", "{}"),
        ],
        &[
            "_layouts/frame.txt:2: unexpected end of block, expected identifier (hint: the syntax is Jinja's: {{ name }}, {% if name %}…{% endif %})",
            "a/sms.txt:1: unexpected end of input, expected end of variable block (hint: the syntax is Jinja's: {{ name }}, {% if name %}…{% endif %})",
        ],
    );
}

#[test]
fn load_tries_every_channel_and_language() {
    check_problems(
        &[
            ("_layouts/frame.html", "<p>\n{{ nmae }}</p>"),
            ("a/sms.txt", "{{ name }}"),
            ("a/email.subject.txt", "Habari\n{{ name }}"),
            ("a/email.html", "{% extends '_layouts/frame.html' %}"),
            ("a/sw/sms.txt", "{{ jina }}"),
            ("a/push.json", r#"{"title": "{{ name }}"}"#),
            ("a/live.json", r#"{"title": {{ name }}}"#),
            ("a/sample.json", r#"{"name": "Asha"}"#),
            ("b/email.subject.txt", "b"),
            ("b/email.html", "{% extends '_layouts/frame.html' %}"),
            ("b/sw/email.html", "{% extends '_layouts/frame.html' %}"),
            ("b/sample.json", "{}"),
        ],
        &[
            "a/email.subject.txt: has a line break or another control character (hint: a subject is one line)",
            "a/push.json: does not render to JSON: expected `,` or `}` at line 1 column 13 of the output \
             (hint: write {{ name }} without quotes around it: in .json it comes out as a JSON value)",
            "a/live.json: `message` is missing (hint: add \"message\": \"…\")",
            "a/sw/sms.txt:1: `jina` is not defined \
             (hint: bring it in the data (and in sample.json), or guard it with {% if jina is defined %})",
            "_layouts/frame.html:2: `nmae` is not defined \
             (hint: bring it in the data (and in sample.json), or guard it with {% if nmae is defined %})",
        ],
    );
}

#[test]
fn nothing_outside_the_folder_is_read() {
    let outside = folder(&[("secret.txt", "secret"), ("more/sms.txt", "x")]);
    let inside = folder(&[("t/sample.json", "{}"), ("t/sms.txt", "x"), ("u/email.txt", "shared"), ("u/sample.json", "{}")]);
    let link = |to: &Path, at: &str| std::os::unix::fs::symlink(to, inside.path().join(at)).expect("a link");
    link(&outside.path().join("secret.txt"), "t/email.txt");
    link(&outside.path().join("more"), "more");
    link(Path::new("nowhere"), "t/live.json");
    link(Path::new("../t/sms.txt"), "u/email.subject.txt");
    check_problems_in(
        &inside,
        &[
            "more: leads out of the templates folder (hint: put the file itself here)",
            "t/live.json: cannot be opened: entity not found",
            "t/email.txt: leads out of the templates folder (hint: put the file itself here)",
        ],
    );
}

#[test]
fn what_is_no_folder_or_no_text_is_told() {
    let folder = folder(&[("t/sample.json", "{}"), ("file", "")]);
    fs::write(folder.path().join("t/sms.txt"), [0xff]).expect("a file");
    fs::write(folder.path().join("t/push.json"), vec![b' '; 1024 * 1024 + 1]).expect("a file");
    let problems = |path: &Path, base| {
        let problems = Templates::load(path, base, locale_defaults(), LIMITS).err().unwrap_or_default();
        problems.iter().map(|problem| problem.to_string().replace(&folder.path().display().to_string(), "…")).collect::<Vec<_>>()
    };
    assert_eq!(
        problems(&folder.path().join("nowhere"), "app.example.com"),
        [
            "link_base_url: is not a web address (hint: write it like https://app.example.com)",
            "…/nowhere: the templates folder cannot be opened: entity not found (hint: set templates.path to the folder of templates)",
        ],
    );
    assert_eq!(
        problems(&folder.path().join("file"), BASE),
        ["…/file: is not a folder (hint: templates.path names the folder of templates)"]
    );
    fs::remove_file(folder.path().join("file")).expect("removed");
    assert_eq!(
        problems(folder.path(), BASE),
        [
            "t/push.json: is larger than 1048576 bytes (hint: shorten it)",
            "t/sms.txt: is not UTF-8 (hint: save it as UTF-8)",
            "t: has no part (hint: add one, such as sms.txt or email.subject.txt with email.html)",
        ],
    );
}

#[test]
fn one_serves_all_lanes() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Templates>();
}

/// `TARISHI_RECORD=1` writes what is told into `expected.txt`, to be read before it is kept.
#[test]
fn broken_templates_are_told_as_expected() {
    let mut cases = 0;
    for case in fs::read_dir("tests/fixtures/templates-broken").expect("the fixtures") {
        let case = case.expect("a folder").path();
        let loaded = Templates::load(&case.join("templates"), BASE, locale_defaults(), LIMITS);
        let told: Vec<String> = match loaded {
            Ok(templates) => templates.lint(&[]).iter().map(|finding| finding.problem.to_string()).collect(),
            Err(problems) => problems.iter().map(ToString::to_string).collect(),
        };
        if std::env::var_os("TARISHI_RECORD").is_some() {
            fs::write(case.join("expected.txt"), told.join("\n") + "\n").expect("written");
            continue;
        }
        let expected = fs::read_to_string(case.join("expected.txt")).expect("what is expected");
        assert!(!told.is_empty(), "nothing is told of {}", case.display());
        assert_eq!(told, expected.lines().collect::<Vec<_>>(), "{}", case.display());
        cases += 1;
    }
    assert!(cases >= 40 || std::env::var_os("TARISHI_RECORD").is_some(), "{cases} cases");
}

#[test]
fn mjml_and_the_shared_sheet_make_mails() {
    let templates = load(&[
        ("_layouts/email.css", ".note { color: red }\n.never { top: 0 }"),
        ("_layouts/sw/email.css", ".note { color: blue }"),
        ("_layouts/foot.mjml", "<mj-section><mj-column><mj-text>Bye</mj-text></mj-column></mj-section>"),
        ("_layouts/sw/foot.mjml", "<mj-section><mj-column><mj-text>Kwaheri</mj-text></mj-column></mj-section>"),
        ("t/email.subject.txt", "s"),
        (
            "t/email.mjml",
            "<mjml><mj-body>{% if name %}<mj-section><mj-column><mj-text><p class=\"note\">{{ name }}</p></mj-text></mj-column></mj-section>\
             {% endif %}<mj-include path=\"_layouts/foot.mjml\" /></mj-body></mjml>",
        ),
        ("t/sw/email.html", "<p class=\"note\">{{ name }}</p><a href=\"/x\">x</a>"),
        ("t/sample.json", r#"{"name": "<Asha>", "unused": 1}"#),
        ("t/schema.json", r#"{"properties": {"name": {"type": "string"}}}"#),
    ]);
    let html = |locale| {
        let job = json!({"template": "t", "data": {"name": "<Asha>"}});
        match templates.render(&delivery(Channel::Email, locale, job), NOW) {
            Ok(Body::Email(email)) => email.html.expect("HTML"),
            other => panic!("{other:?}"),
        }
    };
    let made = html(None);
    assert!(made.contains("style=\"color: red\" class=\"note\">&lt;Asha&gt;</p>"), "{made}");
    assert!(made.contains("Bye") && !made.contains("tarishi0"), "{made}");
    assert!(html(Some("sw")).starts_with("<p style=\"color: blue\" class=\"note\">&lt;Asha&gt;</p>"), "{}", html(Some("sw")));
    let findings: Vec<String> = templates.lint(&[]).iter().map(|finding| finding.problem.to_string()).collect();
    assert_eq!(
        findings,
        [
            "t/sw/email.subject.txt: is missing: readers of `sw` get the part for everyone (hint: translate t/email.subject.txt, or remove it there)",
            "t/sample.json: `unused` is used by no part (hint: use it in a part, or remove it from the sample and from what producers send)",
            "t/sw/email.html:1: `href` is relative, and a mail has no page that it is relative to \
             (hint: write it through the filter: href=\"{{ \"/inbox\" | link }}\")",
            "_layouts/email.css: `.never` matches nothing in any file \
             (hint: a selector matches inside one file only: remove it, or write it as one class that the tag itself has)",
        ],
    );
    let told = templates.check(&"t".parse().expect("valid"), "$", json!({"name": 7}).as_object().expect("an object"));
    assert_eq!(told.len(), 1, "{told:?}");
}
