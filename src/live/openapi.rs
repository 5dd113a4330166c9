//! What the live notifications take and answer over HTTP, for the OpenAPI document.

use serde_json::{Value, json};

use super::{
    inbox::{ItemView, Selection},
    legacy::{NotificationView, Update},
    push_tokens::Registration,
};
use crate::openapi::{Operation, Parameters, Refusal, Schemas, list_of};

const TAG: &str = "Live notifications";
const LEGACY: &str = "Notifications, as the replaced system had them";
const LEGACY_ROOT: &str = "/api/v1/communications/notifications";
const PUSH_TOKENS: &str = "/api/v1/communications/push_tokens/";

const POSITION: Parameters = &[
    ("since", "integer", "The `seq` of the last notification one has; newer ones come at once."),
    ("epoch", "string", "The `epoch` it came with."),
    ("topic", "string", "A topic to follow; any number of them."),
];
const LISTING: Parameters = &[
    ("cursor", "integer", "`next_cursor` of the page before."),
    ("limit", "integer", "Items on the page."),
    ("unread", "boolean", "Only unread ones, or only read ones."),
    ("archived", "boolean", "Those put away, instead of the others."),
];

/// The routes of a user's own clients.
pub fn operations(schemas: &mut Schemas) -> Vec<Operation> {
    let public = |method, path: &str, id, summary| Operation::public(method, path, id, summary).under(TAG);
    let item = schemas.answer::<ItemView<'_>>();
    let ticket = json!({
        "type": "object",
        "required": ["ticket", "expires_in"],
        "properties": { "ticket": { "type": "string" }, "expires_in": { "type": "integer", "description": "Seconds." } },
    });
    let changed = json!({
        "type": "object",
        "required": ["changed", "unread"],
        "properties": { "changed": { "type": "array", "items": { "type": "integer" } }, "unread": { "type": "integer" } },
    });
    let mut operations = vec![
        public("post", "/v1/tickets", "makeTicket", "A ticket that opens one socket in place of a token, for URLs that others may see.")
            .answers(201, "It is good for one use, soon.", ticket),
        public("get", "/ws/notifications/", "openNotificationsSocket", "A socket: JSON frames, see asyncapi.yaml.")
            .or_ticket()
            .asks(POSITION)
            .answers_nothing(101, "The socket is open."),
        public(
            "get",
            "/sse/notifications",
            "openNotificationsEvents",
            "The same as server-sent events, for where sockets do not get through.",
        )
        .or_ticket()
        .asks(POSITION)
        .with_headers(&[("Last-Event-ID", "string", "Of the last event one has; browsers send it by themselves.")])
        .answers_text(200, "Events, until either side closes.", "text/event-stream"),
        public("get", "/v1/inbox", "listInbox", "One's inbox, the newest first.").asks(LISTING).given("limit", 10).answers(
            200,
            "A page.",
            page(&item, true),
        ),
        public("post", "/v1/inbox/{change}", "changeInbox", "Marks items `seen`, `read` or `unread`, archives or deletes them.")
            .given("change", "read")
            .takes(schemas.request::<Selection>())
            .example(json!({ "ids": [1] }))
            .answers(200, "What changed, and how many are unread now.", changed),
        public("get", "/v1/inbox/items/{id}", "showInboxItem", "An item.").given("id", 1).answers(200, "It.", item.clone()),
        public("delete", "/v1/inbox/items/{id}", "deleteInboxItem", "Deletes an item.").given("id", 1).answers_nothing(204, "Gone."),
        public("get", "/v1/topics/{topic}/items", "listTopic", "What was said in a topic that one may follow, the newest first.")
            .asks(&[("cursor", "integer", "`next_cursor` of the page before."), ("limit", "integer", "Items on the page.")])
            .given("topic", "*")
            .answers(200, "A page.", page(&item, false)),
    ];
    operations.extend(legacy(schemas));
    operations
}

fn legacy(schemas: &mut Schemas) -> Vec<Operation> {
    let notification = schemas.answer::<NotificationView<'_>>();
    let legacy =
        |method, path: String, id, summary| Operation::public(method, path, id, summary).under(LEGACY).refuses_with(Refusal::Refused);
    let one = |method, id, summary| legacy(method, format!("{LEGACY_ROOT}/{{id}}/"), id, summary).given("id", 2);
    let update = schemas.request::<Update>();
    let marked = |method, id| {
        let marked = one(method, id, "Marks it read or unread; a whole notification sent back does too.").takes(update.clone());
        marked.example(json!({ "is_read": true })).answers(200, "As it is now.", notification.clone())
    };
    let registration = schemas.request::<Registration>();
    let registered = json!({
        "type": "object",
        "required": ["token", "platform"],
        "properties": { "token": { "type": "string" }, "platform": { "type": ["string", "null"] } },
    });
    let device = json!({ "token": "fcm-token-of-a-phone", "platform": "android" });
    vec![
        legacy("get", format!("{LEGACY_ROOT}/"), "listNotifications", "One's notifications, the newest first.")
            .asks(&[
                ("page", "integer", "A page of the envelope, from 1."),
                ("cursor", "integer", "A place in the list, out of `next`. Answers with the envelope."),
                ("page_size", "integer", "Items on a page of the envelope."),
            ])
            .answers(200, "A bare array, or with `page` or `cursor` an envelope.", either_list_of(&notification)),
        one("get", "showNotification", "A notification.").answers(200, "It.", notification.clone()),
        marked("patch", "updateNotification"),
        marked("put", "replaceNotification"),
        one("delete", "deleteNotification", "Deletes it.").answers_nothing(204, "Gone."),
        legacy("post", PUSH_TOKENS.to_owned(), "registerPushToken", "Registers a device of one's own for push.")
            .takes(registration.clone())
            .example(device.clone())
            .answers(201, "It is registered.", registered),
        legacy("delete", PUSH_TOKENS.to_owned(), "forgetPushToken", "Takes a device off, as when signing out of it.")
            .takes(registration)
            .example(device)
            .answers_nothing(204, "It is off."),
    ]
}

/// A page of an inbox, or of a topic, where nobody has read anything.
fn page(item: &Value, has_state: bool) -> Value {
    let mut page = json!({
        "type": "object",
        "required": ["items", "next_cursor", "seq", "epoch"],
        "properties": {
            "items": list_of(item),
            "next_cursor": { "type": ["integer", "null"] },
            "seq": { "type": "integer", "description": "The newest, wherever the page is." },
            "epoch": { "type": "string" },
        },
    });
    if has_state {
        page["properties"]["unread"] = json!({ "type": "integer" });
    }
    page
}

fn either_list_of(item: &Value) -> Value {
    let link = json!({ "type": ["string", "null"] });
    json!({ "oneOf": [list_of(item), {
        "type": "object",
        "required": ["count", "next", "previous", "results"],
        "properties": { "count": { "type": "integer" }, "next": link, "previous": link, "results": list_of(item) },
    }] })
}
