//! What strangers may write into any field of the data, tried in every field of every template we ship.

use std::path::Path;

use serde_json::{Value as Json, json};

use super::*;
use crate::model::{is_broken, plain};

/// Would-be markup, template source, headers, code, text that hides or turns around.
const TRICKS: [&str; 10] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)",
    "]]></style></title><svg onload=alert(1)>",
    "{{ 7 * 191 }}{% raw %}{# x #}",
    "Asha\r\nBcc: all@example.com",
    "javascript:alert(1)//",
    "pay \u{202e}0005 \u{2066}TZS",
    "J\u{200b}u\u{2060}m\u{feff}a\u{e0041}",
    "\u{1b}[2J\0\u{7f}\u{85}\u{2028}",
];
/// What `{{ 7 * 191 }}` comes to where data is taken for source.
const EVALUATED: &str = "1337";

fn shipped() -> Templates {
    let defaults = LocaleDefaults { locale: "en".parse().expect("valid"), timezone: "UTC".parse().expect("valid") };
    let limits = Limits { fuel: 200_000, output: 1024 * 1024, sms_segments: 10, push_bytes: 4096, email_clip_bytes: 102 * 1024 };
    Templates::load(Path::new("templates"), "https://app.example.com", defaults, limits).expect("the shipped templates are good")
}

fn render(templates: &Templates, name: &TemplateName, channel: Channel, locale: Option<&str>, data: &Json) -> Result<Body, Problem> {
    let preview = Preview {
        data: data.as_object().expect("data is an object").clone(),
        locale: locale.map(|tag| tag.parse().expect("valid")),
        timezone: Some("Africa/Dar_es_Salaam".parse().expect("valid")),
    };
    templates.preview(name, channel, &preview, "2026-01-15T10:30:00Z".parse().expect("valid"))
}

/// Where texts stand in `data`, as JSON pointers.
fn places(data: &Json, at: &str, found: &mut Vec<String>) {
    match data {
        Json::Object(members) => members.iter().for_each(|(name, value)| places(value, &format!("{at}/{name}"), found)),
        Json::Array(elements) => elements.iter().enumerate().for_each(|(index, value)| places(value, &format!("{at}/{index}"), found)),
        _ => found.push(at.to_owned()),
    }
}

fn with(data: &Json, place: &str, value: Json) -> Json {
    let mut data = data.clone();
    *data.pointer_mut(place).expect("was found there") = value;
    data
}

/// Every template, channel and language, with each place of its sample in turn.
fn everywhere(mut tried: impl FnMut(&Templates, &TemplateName, Channel, Option<&str>, &Json, &str)) {
    let templates = shipped();
    for info in templates.list() {
        let sample = Json::Object(info.sample.clone());
        let mut found = Vec::new();
        places(&sample, "", &mut found);
        for channel in info.channels.iter() {
            for locale in [None].into_iter().chain(info.locales.iter().copied().map(Some)) {
                for place in &found {
                    tried(&templates, info.name, channel, locale, &sample, place);
                }
            }
        }
    }
}

/// Names of tags in order, opening and closing ones.
fn tags(html: &str) -> Vec<&str> {
    let after = html.split('<').skip(1).filter(|after| after.starts_with(|c: char| c.is_ascii_alphabetic() || "/!".contains(c)));
    after.map(|after| after.split([' ', '>', '\n']).next().unwrap_or_default()).collect()
}

fn texts(body: &Body) -> Vec<String> {
    fn strings(json: &Json, found: &mut Vec<String>) {
        match json {
            Json::String(text) => found.push(text.clone()),
            Json::Array(elements) => elements.iter().for_each(|element| strings(element, found)),
            Json::Object(members) => members.values().for_each(|value| strings(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    match body {
        Body::Email(mail) => found.extend([Some(mail.subject.clone()), mail.html.clone(), mail.text.clone()].into_iter().flatten()),
        Body::Sms(sms) => found.push(sms.text.clone()),
        Body::Push(push) => strings(&json!(push), &mut found),
        Body::Live(notification) => strings(&json!(notification), &mut found),
    }
    found
}

#[track_caller]
fn check_body(body: &Body, harmless: Option<&Body>, trick: &str, what: &str) {
    for text in texts(body) {
        assert_eq!(plain(&text), text, "{what}: something invisible came through");
        assert!(!text.contains(EVALUATED), "{what}: data was taken for a template");
    }
    let Body::Email(mail) = body else { return };
    assert!(!mail.subject.chars().any(is_broken), "{what}: {:?}", mail.subject);
    let html = mail.html.as_deref().unwrap_or_default();
    if trick.contains(['<', '"', '\'']) {
        assert!(!html.contains(trick), "{what}: came through as markup");
    }
    assert!(!html.to_lowercase().contains("=\"javascript:"), "{what}: a link that runs");
    if let Some(Body::Email(harmless)) = harmless {
        assert_eq!(tags(html), tags(harmless.html.as_deref().unwrap_or_default()), "{what}: other elements than with harmless data");
    }
}

#[test]
fn tricks_in_any_field_come_out_escaped_or_are_refused() {
    let (mut rendered, mut refused) = (0, 0);
    everywhere(|templates, name, channel, locale, sample, place| {
        for trick in TRICKS {
            let what = format!("{name} {channel} {locale:?} {place} {trick:?}");
            // As long, and as many lines.
            let harmless = plain(trick).chars().map(|c| if c == '\n' { '\n' } else { 'a' }).collect::<String>();
            let harmless = render(templates, name, channel, locale, &with(sample, place, harmless.into())).ok();
            match render(templates, name, channel, locale, &with(sample, place, trick.into())) {
                Ok(body) => {
                    rendered += 1;
                    check_body(&body, harmless.as_ref(), trick, &what);
                }
                Err(error) => {
                    refused += 1;
                    assert!(!error.to_string().contains(trick), "{what}: told in {error}");
                }
            }
        }
    });
    assert!(rendered > 0 && refused > 0, "{rendered} rendered, {refused} refused");
}

#[test]
fn data_of_any_type_renders_or_is_refused() {
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    let values =
        [Json::Null, json!(true), json!(-1), json!(1e300), json!(u64::MAX), json!(""), json!([]), json!({}), json!([1, "a"]), deep];
    let mut rendered = 0;
    everywhere(|templates, name, channel, locale, sample, place| {
        for value in &values {
            rendered += usize::from(render(templates, name, channel, locale, &with(sample, place, value.clone())).is_ok());
        }
    });
    assert!(rendered > 0);
}

#[test]
fn a_text_as_long_as_a_job_may_be_is_bounded() {
    let long = "é<\n".repeat(80_000);
    everywhere(|templates, name, channel, locale, sample, place| {
        if let Ok(body) = render(templates, name, channel, locale, &with(sample, place, long.as_str().into())) {
            assert!(texts(&body).iter().all(|text| text.len() <= 1024 * 1024), "{name} {channel} {locale:?} {place}");
        }
    });
}
