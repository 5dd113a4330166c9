//! The whole OpenAPI document, and what this listener's own routes take and answer. A route more is one entry here.

use serde_json::{Value, json};

use super::{
    api::{DeliveriesAnswer, StatusAnswer},
    contacts::UserAnswer,
    revocations, suppressions,
    templates::{PreviewAnswer, PreviewRequest},
};
use crate::{
    channel::outbox::Captured,
    chat, intake, live,
    model::{Contact, Revocation},
    openapi::{self, Listener, Operation, Schemas, list_of},
    store::{Audit, Cancelled, JobView, Suppressed},
    template::Refused,
    webhook,
};

/// Every route of both listeners.
pub fn document() -> Value {
    openapi::document(&[
        intake::http::operations,
        of_jobs,
        of_people,
        of_the_daemon,
        chat::operations,
        live::operations,
        webhook::operations,
    ])
}

/// What the public listener tells of itself.
pub fn public_document() -> Value {
    let mut document = document();
    if let Some(paths) = document["paths"].as_object_mut() {
        for operations in paths.values_mut().filter_map(Value::as_object_mut) {
            operations.retain(|_, operation| operation["x-listener"] != "admin");
        }
        paths.retain(|_, operations| operations.as_object().is_some_and(|operations| !operations.is_empty()));
    }
    let has = |tag: &str, document: &Value| {
        let mut operations = document["paths"].as_object().into_iter().flat_map(|paths| paths.values()).filter_map(Value::as_object);
        operations.any(|operations| operations.values().any(|operation| operation["tags"][0] == tag))
    };
    let all = document["tags"].as_array().cloned().unwrap_or_default();
    document["tags"] = all.into_iter().filter(|tag| has(tag["name"].as_str().unwrap_or_default(), &document)).collect();
    openapi::keep_used_schemas(&mut document);
    document
}

const CURSOR: (&str, &str, &str) = ("cursor", "string", "`next_cursor` of the page before.");
const LIMIT: (&str, &str, &str) = ("limit", "integer", "Rows on the page.");

fn of_jobs(schemas: &mut Schemas) -> Vec<Operation> {
    let admin = |method, path: &str, id, summary| Operation::admin(method, path, id, summary).under("Jobs");
    let job = "order-8841-shipped";
    vec![
        admin("get", "/v1/jobs/{id}", "showJob", "A job, and what became of each of its deliveries.")
            .asks(&[CURSOR, LIMIT])
            .given("id", job)
            .answers(200, "It.", schemas.answer::<JobView>()),
        admin("delete", "/v1/jobs/{id}", "cancelJob", "Cancels what of a job is not sent yet.").given("id", job).answers(
            200,
            "How many deliveries.",
            schemas.answer::<Cancelled>(),
        ),
        admin("get", "/v1/deliveries", "listDeliveries", "Deliveries of all jobs, the newest first.")
            .asks(&[
                ("status", "string", "Only those that are so: `queued`, `sending`, `sent`, `delivered`, `failed`, …"),
                ("channel", "string", "`email`, `sms`, `push` or `live`."),
                ("user", "string", "A user id."),
                ("template", "string", "A template."),
                ("since", "string", "A moment: accepted then or later."),
                CURSOR,
                LIMIT,
            ])
            .given("channel", "email")
            .given("limit", 10)
            .answers(200, "A page.", schemas.answer::<DeliveriesAnswer>()),
        admin("get", "/v1/templates", "listTemplates", "The templates that are loaded.").answers(
            200,
            "All of them.",
            templates(&schemas.answer::<Refused>()),
        ),
        admin("post", "/v1/templates/{name}/preview", "previewTemplate", "What a template says on each of its channels, with any data.")
            .given("name", "generic")
            .takes(schemas.request::<PreviewRequest>())
            .example(json!({ "data": { "title": "Habari", "message": "The flat is yours to see." }, "locale": "sw", "channels": ["sms"] }))
            .answers(200, "What it says, and why it says nothing on the other channels.", schemas.answer::<PreviewAnswer>()),
        admin("get", "/v1/outbox", "listOutbox", "Messages that were captured instead of sent, the newest first.")
            .asks(&[("channel", "string", "`email`, `sms` or `push`."), ("user", "string", "A user id."), LIMIT])
            .given("limit", 5)
            .answers(200, "As many as are kept.", messages(&schemas.answer::<Captured>())),
        admin("get", "/v1/outbox/{id}/html", "showOutboxHtml", "A captured mail's HTML, for a sandboxed frame.")
            .given("id", 1)
            .answers_text(200, "It.", "text/html"),
    ]
}

fn of_people(schemas: &mut Schemas) -> Vec<Operation> {
    let admin = |method, path: &str, id, summary| Operation::admin(method, path, id, summary).under("People");
    let of_user = |method, id, summary| admin(method, "/v1/users/{id}", id, summary).given("id", "42");
    let (contact, sent) = (schemas.answer::<Contact>(), schemas.request::<Contact>());
    let (entry, key) = (schemas.request::<suppressions::Entry>(), schemas.request::<suppressions::Key>());
    let one_or_many = |one: &Value| json!({ "oneOf": [one, list_of(one)] });
    let removed = json!({ "type": "integer" });
    vec![
        of_user("put", "putUser", "Sets all that is known of a user; what is left out is gone.")
            .takes(sent.clone())
            .example(json!({
                "name": "Asha", "email": "asha@example.com", "phone": "+255712345678",
                "locale": "sw", "timezone": "Africa/Dar_es_Salaam",
            }))
            .answers(200, "As it is now.", contact.clone()),
        of_user("get", "showUser", "What is known of a user, and whether they are connected.").answers(
            200,
            "It.",
            schemas.answer::<UserAnswer>(),
        ),
        of_user("patch", "patchUser", "Changes some of it, by a merge patch (RFC 7396): `null` removes a member.")
            .takes(json!({ "type": "object" }))
            .example(json!({ "locale": "en", "phone": null }))
            .answers(200, "As it is now.", contact),
        of_user("delete", "deleteUser", "Forgets a user's contact.").answers_nothing(204, "Gone."),
        admin("get", "/v1/suppressions", "listSuppressions", "Addresses that are not written to any more.")
            .asks(&[
                ("channel", "string", "`email`, `sms` or `push`."),
                ("reason", "string", "`bounced`, `unregistered`, `unsubscribed`, `opted_out`, `complained` or `manual`."),
                ("address", "string", "Only this one."),
                CURSOR,
                LIMIT,
            ])
            .answers(200, "A page.", schemas.answer::<suppressions::ListAnswer>()),
        admin("post", "/v1/suppressions", "suppress", "Puts one address, or an array of them, on the list.")
            .takes(one_or_many(&entry))
            .example(json!({ "channel": "email", "address": "neema@example.com" }))
            .answers(200, "How many.", schemas.answer::<Suppressed>()),
        admin("delete", "/v1/suppressions", "unsuppress", "Takes exactly these entries off it.")
            .takes(one_or_many(&key))
            .example(json!({ "channel": "email", "address": "neema@example.com" }))
            .answers(
                200,
                "How many were there.",
                json!({ "type": "object", "required": ["removed"], "properties": { "removed": removed } }),
            ),
        admin("post", "/v1/revocations", "revoke", "Refuses a user's tokens, or one token, from now on, and closes their sockets.")
            .takes(schemas.request::<revocations::Request>())
            .example(json!({ "user_id": "77", "reason": "stolen phone" }))
            .answers(201, "It is in force.", schemas.answer::<revocations::RevokeAnswer>()),
        admin("get", "/v1/revocations", "listRevocations", "Revocations in force, the newest first.")
            .asks(&[("user_id", "string", "Of this user."), ("jti", "string", "Of this token."), CURSOR, LIMIT])
            .answers(200, "A page.", schemas.answer::<revocations::ListAnswer>()),
        admin("delete", "/v1/revocations/{id}", "takeRevocationBack", "Lets the tokens in again.").given("id", 1).answers(
            200,
            "What it was.",
            schemas.answer::<Revocation>(),
        ),
    ]
}

fn of_the_daemon(schemas: &mut Schemas) -> Vec<Operation> {
    let admin = Operation::admin;
    let health = json!({
        "type": "object",
        "required": ["ready", "reasons", "captures", "note", "degraded"],
        "properties": {
            "ready": { "type": "boolean" },
            "reasons": { "type": "array", "items": { "type": "string" } },
            "captures": { "type": "array", "items": { "type": "string" }, "description": "Channels that send nothing." },
            "note": { "type": ["string", "null"] },
            "degraded": { "type": ["string", "null"] },
        },
    });
    let token = json!({
        "type": "object",
        "required": ["token", "url"],
        "properties": { "token": { "type": "string" }, "url": { "type": "string" } },
    });
    vec![
        admin("get", "/v1/status", "status", "What the daemon is doing.").answers(200, "It.", schemas.answer::<StatusAnswer>()),
        admin("get", "/v1/audit", "audit", "Whether everything accepted is accounted for.").answers(
            200,
            "The sums.",
            schemas.answer::<Audit>(),
        ),
        admin("get", "/livez", "livez", "Whether the process answers.").open().answers_text(200, "It does.", "text/plain"),
        admin("get", "/readyz", "readyz", "Whether to send work here.").open().answers(200, "Ready.", health.clone()).answers(
            503,
            "Not ready, and why.",
            health,
        ),
        admin("get", "/metrics", "metrics", "Metrics in Prometheus' text format.").answers_text(200, "They.", "text/plain"),
        admin("get", "/v1/dev/token", "developmentToken", "A token for trying the sockets; `tarishi dev` only.")
            .asks(&[("user", "string", "Whose.")])
            .given("user", "42")
            .answers(200, "It, and where the socket is.", token),
        admin("get", "/openapi.json", "openapi", "This document; on the public listener, its own part of it.")
            .on(Listener::Both)
            .open()
            .answers(200, "It.", json!({ "type": "object" })),
        admin("get", "/docs", "docs", "This document as a page.").open().answers_text(200, "The page.", "text/html"),
        admin("get", "/docs.css", "docsStyle", "The page's style.").open().answers_text(200, "It.", "text/css"),
        admin("get", "/", "console", "The console.").open().answers_text(200, "The page.", "text/html"),
        admin("get", "/console.css", "consoleStyle", "The console's style.").open().answers_text(200, "It.", "text/css"),
        admin("get", "/console.js", "consoleScript", "The console's script.").open().answers_text(200, "It.", "text/javascript"),
        admin("get", "/page.js", "pageScript", "What the pages' scripts share.").open().answers_text(200, "It.", "text/javascript"),
        admin("get", "/templates", "templatesPage", "The page that shows what templates say.").open().answers_text(
            200,
            "The page.",
            "text/html",
        ),
        admin("get", "/templates.css", "templatesStyle", "That page's style.").open().answers_text(200, "It.", "text/css"),
        admin("get", "/templates.js", "templatesScript", "That page's script.").open().answers_text(200, "It.", "text/javascript"),
    ]
}

fn templates(refused: &Value) -> Value {
    let texts = json!({ "type": "array", "items": { "type": "string" } });
    let template = json!({
        "type": "object",
        "required": ["name", "channels", "unsubscribe", "locales", "sample"],
        "properties": {
            "name": { "type": "string" }, "channels": texts, "locales": texts,
            "unsubscribe": { "type": ["string", "null", "boolean"] }, "sample": {},
        },
    });
    json!({
        "type": "object",
        "required": ["templates", "loaded_at", "refused"],
        "properties": {
            "templates": list_of(&template),
            "loaded_at": { "type": "string", "format": "date-time" },
            "refused": { "description": "A newer set that could not be used.", "oneOf": [refused, { "type": "null" }] },
        },
    })
}

fn messages(captured: &Value) -> Value {
    json!({ "type": "object", "required": ["messages"], "properties": { "messages": list_of(captured) } })
}
