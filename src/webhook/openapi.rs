//! What providers and readers of mail call, for the OpenAPI document.

use serde_json::json;

use super::{sendgrid, twilio};
use crate::openapi::{Operation, Refusal, Schemas};

/// The routes for whom nobody signs in: a signature or the link is what counts.
pub fn operations(_: &mut Schemas) -> Vec<Operation> {
    let open = |method, path: &str, id, summary| Operation::public(method, path, id, summary).open().under("Callbacks");
    let form = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    vec![
        open("post", sendgrid::PATH, "sendgridEvents", "SendGrid's signed event webhook.")
            .with_headers(&[
                ("X-Twilio-Email-Event-Webhook-Signature", "string", "ECDSA over the timestamp and the body."),
                ("X-Twilio-Email-Event-Webhook-Timestamp", "string", "When it was signed."),
            ])
            .takes(json!({ "type": "array", "items": { "type": "object" } }))
            .answers_nothing(204, "Every event is written."),
        open("post", twilio::PATH, "twilioStatus", "Twilio's status callbacks and incoming messages.")
            .with_headers(&[("X-Twilio-Signature", "string", "HMAC-SHA1 over the URL and the form.")])
            .takes_as("application/x-www-form-urlencoded", form)
            .answers_nothing(204, "It is written."),
        open("get", "/unsubscribe/{token}", "askUnsubscribe", "A page that asks whether to unsubscribe; it changes nothing.")
            .refuses_with(Refusal::Page)
            .answers_text(200, "The question.", "text/html"),
        open("post", "/unsubscribe/{token}", "unsubscribe", "Unsubscribes, in one click (RFC 8058).")
            .refuses_with(Refusal::Page)
            .takes_as(
                "application/x-www-form-urlencoded",
                json!({
                    "type": "object",
                    "required": ["List-Unsubscribe"],
                    "properties": { "List-Unsubscribe": { "const": "One-Click" } },
                }),
            )
            .answers_text(200, "It is done.", "text/html"),
    ]
}
