//! `/mock/…`: what the mock was sent, what it does about it, and changing that.

use hyper::Method;
use serde_json::{Map, Value, json};

use super::{
    answer::REDIRECTED,
    exchange::{self, Received, Reply},
    script::{Provider, Script},
    server::Shared,
};
use crate::model::{Problem, nearest_hint};

const ROUTES: [&str; 5] = ["/mock/counts", "/mock/credentials", "/mock/requests", "/mock/script", REDIRECTED];

pub(super) fn answer(received: &Received, shared: &Shared) -> Reply {
    match (&received.method, received.path.as_str()) {
        (&Method::GET, "/mock/requests") => requests(received, shared),
        (&Method::DELETE, "/mock/requests") => {
            shared.record.clear();
            exchange::empty(204)
        }
        (&Method::GET, "/mock/counts") => {
            let counts: Map<String, Value> =
                Provider::ALL.iter().map(|provider| (provider.as_str().to_owned(), json!(shared.record.counts(*provider)))).collect();
            exchange::json(200, &Value::Object(counts))
        }
        (&Method::GET, "/mock/script") => exchange::json(200, &json!(shared.playing.script().rules())),
        (&Method::PUT, "/mock/script") => replace_script(received, shared),
        (&Method::GET, "/mock/credentials") => credentials(shared),
        (_, REDIRECTED) => exchange::json(200, &json!({ "sent": true })),
        (_, path) if ROUTES.contains(&path) => exchange::json(405, &json!({ "error": "no such method here" })),
        (_, path) => exchange::json(404, &json!({ "error": "nothing is here", "hint": nearest_hint(path, &ROUTES) })),
    }
}

fn requests(received: &Received, shared: &Shared) -> Reply {
    let (mut provider, mut since, mut problems) = (None, 0, Vec::new());
    for (name, value) in form_urlencoded::parse(received.query.as_bytes()) {
        match name.as_ref() {
            "provider" => {
                provider = Provider::ALL.into_iter().find(|provider| provider.as_str() == value);
                if provider.is_none() {
                    let hint = nearest_hint(&value, &Provider::ALL.map(Provider::as_str));
                    problems.push(Problem::new("provider", "not a provider", hint));
                }
            }
            "since" => match value.parse() {
                Ok(number) => since = number,
                Err(_) => problems.push(Problem::new("since", "not a number", "write the `n` of a request")),
            },
            other => problems.push(Problem::new(other, "unknown parameter", nearest_hint(other, &["provider", "since"]))),
        }
    }
    if problems.is_empty() { exchange::json(200, &json!(shared.record.since(provider, since))) } else { refused(&problems) }
}

fn replace_script(received: &Received, shared: &Shared) -> Reply {
    let document = match serde_json::from_slice(&received.body) {
        Ok(document) => document,
        Err(error) => return refused(&[Problem::new("$", format!("not JSON: {error}"), "send an array of rules")]),
    };
    match Script::from_json(document) {
        Ok(script) => {
            shared.playing.replace(script);
            exchange::json(200, &json!(shared.playing.script().rules()))
        }
        Err(problems) => refused(&problems),
    }
}

fn refused(problems: &[Problem]) -> Reply {
    exchange::json(400, &json!({ "problems": problems }))
}

/// For tests of other programs, which cannot read them where they are printed. They open nothing but this mock.
fn credentials(shared: &Shared) -> Reply {
    let known = &shared.clouds.credentials;
    let service_account: Value = serde_json::from_str(&known.service_account_json).unwrap_or_default();
    exchange::json(
        200,
        &json!({
            "sendgrid": { "api_key": known.sendgrid_api_key, "webhook_public_key": known.sendgrid_webhook_public_key },
            "twilio": {
                "account_sid": known.twilio_account_sid,
                "api_key": known.twilio_api_key,
                "api_secret": known.twilio_api_secret,
                "auth_token": known.twilio_auth_token,
            },
            "fcm": { "project": known.fcm_project, "service_account": service_account },
        }),
    )
}
