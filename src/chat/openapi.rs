//! What the chat takes and answers over HTTP, for the OpenAPI document: the schemas from the types themselves, the rest beside them.

use serde_json::{Value, json};

use super::{
    backend::{ConversationMaking, ConversationRecord, ParticipantsChange, SystemNotice},
    conversations::ConversationShown,
    rest::{BlockView, Editing, Marked, Marking, ROOT, SendRequest, StartRequest, UnreadCount},
    rotate::RotationStep,
    view::MessageView,
};
use crate::{
    model::UserId,
    openapi::{Operation, Parameters, Refusal, Schemas, list_of, page_of},
};

/// The chat's routes on both listeners.
pub fn operations(schemas: &mut Schemas) -> Vec<Operation> {
    let mut operations = public_operations(schemas);
    operations.extend(admin_operations(schemas));
    operations.push(
        Operation::public("get", "/ws/chat/{id}/", "openChatSocket", "A socket of one conversation: JSON frames, see asyncapi.yaml.")
            .under(TAG)
            .or_ticket()
            .asks(&[("since", "integer", "The `seq` of the last frame one has."), ("epoch", "string", "The `epoch` it came with.")])
            .given("id", 1)
            .answers_nothing(101, "The socket is open."),
    );
    operations
}

const TAG: &str = "Chat";
const ADMIN_TAG: &str = "Chat, for backends";

fn public(method: &'static str, path: &str, id: &'static str, summary: &'static str) -> Operation {
    let operation = Operation::public(method, format!("{ROOT}/{path}/"), id, summary).under(TAG).refuses_with(Refusal::Refused);
    match path {
        "blocks/{user}" => operation.given("user", "44"),
        _ if path.contains("{id}") => operation.given("id", 1),
        _ => operation,
    }
}

fn admin(method: &'static str, path: &str, id: &'static str, summary: &'static str) -> Operation {
    let operation = Operation::admin(method, format!("/v1/{path}"), id, summary).under(ADMIN_TAG);
    if path.contains("{id}") { operation.given("id", 1) } else { operation }
}

/// A bare array, or the envelope.
fn either_list_of(item: &Value) -> Value {
    let link = json!({ "type": ["string", "null"] });
    let envelope = json!({
        "type": "object",
        "required": ["count", "next", "previous", "results"],
        "properties": { "count": { "type": "integer" }, "next": link, "previous": link, "results": list_of(item) },
    });
    json!({ "oneOf": [list_of(item), envelope] })
}

const PAGES: Parameters = &[
    ("page", "integer", "A page of the envelope, from 1."),
    ("cursor", "string", "A place in the list, out of `next`; empty for its beginning. Answers with the envelope."),
    ("page_size", "integer", "Up to 200."),
    ("hidden", "boolean", "Those out of sight, instead of those in sight."),
];
const MESSAGE_PAGES: Parameters = &[
    ("before", "integer", "The newest of those before this message."),
    ("after", "integer", "The oldest of those after this message."),
    ("limit", "integer", "Up to 200."),
    ("page", "integer", "A page of the envelope, from 1, the newest first."),
    ("cursor", "string", "A place in the list, out of `next`; empty for the newest. Answers with the envelope."),
];

fn public_operations(schemas: &mut Schemas) -> Vec<Operation> {
    let (conversation, message) = (schemas.answer::<ConversationShown>(), schemas.answer::<MessageView>());
    let (read, block, unread) = (schemas.answer::<Marked>(), schemas.answer::<BlockView>(), schemas.answer::<UnreadCount>());
    let (start, send, edit) = (schemas.request::<StartRequest>(), schemas.request::<SendRequest>(), schemas.request::<Editing>());
    let own = |path: &str, id, summary| public("post", path, id, summary).answers(200, "As it is now.", conversation.clone());
    let begin = |path: &str, id, subject: &str| {
        let begin = public("post", path, id, "Finds the conversation of two people about a subject, or makes it.").takes(start.clone());
        let begin =
            begin.example(json!({ "agent_id": 43, "agent_name": "Juma", "property_id": subject, "property_title": "A flat by the sea" }));
        begin.answers(201, "It is new.", conversation.clone()).answers(200, "It was there.", conversation.clone())
    };
    let edited = |method, id| {
        let edit = public(method, "messages/{id}", id, "Puts another text into one's own message.").takes(edit.clone());
        let edit = edit.example(json!({ "content": "Is the flat still free in March?" }));
        edit.answers(200, "As it is now.", message.clone())
    };
    let blocking = json!({ "type": "object", "required": ["user_id"], "properties": { "user_id": schemas.request::<UserId>() } });
    vec![
        public("get", "conversations", "listConversations", "One's conversations, the most active first.").asks(PAGES).answers(
            200,
            "A bare array, or with `page` or `cursor` an envelope.",
            either_list_of(&conversation),
        ),
        begin("conversations", "createConversation", "8841"),
        begin("conversations/start_conversation", "startConversation", "8842"),
        public("get", "conversations/unread_count", "unreadCount", "Unread messages over all conversations in sight.").answers(
            200,
            "How many.",
            unread,
        ),
        public("get", "conversations/{id}", "showConversation", "One of one's conversations.").answers(200, "It.", conversation.clone()),
        public("delete", "conversations/{id}", "leaveConversation", "Leaves it.").answers_nothing(204, "Left."),
        own("conversations/{id}/hide", "hideConversation", "Puts it out of sight until its next message."),
        own("conversations/{id}/unhide", "unhideConversation", "Puts it back in sight."),
        own("conversations/{id}/mute", "muteConversation", "No notices of it any more."),
        own("conversations/{id}/unmute", "unmuteConversation", "Notices again."),
        own("conversations/{id}/rejoin", "rejoinConversation", "Comes back after leaving."),
        public("get", "conversations/{id}/messages", "listMessages", "Its messages, the oldest first.").asks(MESSAGE_PAGES).answers(
            200,
            "A bare array, or with `page` or `cursor` an envelope.",
            either_list_of(&message),
        ),
        public("post", "conversations/{id}/send_message", "sendMessage", "Sends a message.")
            .takes(send)
            .example(json!({ "content": "Is the flat still free?", "client_id": "c1" }))
            .answers(201, "It is stored.", message.clone())
            .answers(200, "Its `client_id` was stored before.", message.clone()),
        public("post", "conversations/{id}/mark_read", "markConversationRead", "Marks it read, up to a message or to the newest.")
            .takes(schemas.request::<Marking>())
            .body_may_be_left_out()
            .example(json!({ "message_id": 1 }))
            .answers(200, "How far it is read.", read.clone()),
        public("get", "messages/{id}", "showMessage", "A message.").answers(200, "It.", message.clone()),
        edited("patch", "editMessage"),
        edited("put", "replaceMessage"),
        public("delete", "messages/{id}", "deleteMessage", "Deletes one's own message for everyone, or hides one from oneself.")
            .asks(&[("for", "string", "`everyone` (unless said otherwise) or `me`.")])
            .given("for", "everyone")
            .answers_nothing(204, "Gone."),
        public("post", "messages/{id}/mark_read", "markMessageRead", "Marks read what came up to this message.").answers(
            200,
            "How far it is read.",
            read,
        ),
        public("get", "blocks", "listBlocks", "Whom one has blocked.").answers(200, "All of them.", list_of(&block)),
        public("post", "blocks", "block", "Blocks somebody.")
            .takes(blocking)
            .example(json!({ "user_id": "44" }))
            .answers(201, "From now on.", block.clone())
            .answers(200, "They were.", block),
        public("delete", "blocks/{user}", "unblock", "Takes a block back.").answers_nothing(204, "Taken back."),
    ]
}

fn admin_operations(schemas: &mut Schemas) -> Vec<Operation> {
    let record = schemas.answer::<ConversationRecord>();
    let page = page_of("conversations", &record);
    vec![
        admin("get", "conversations", "listUserConversations", "Somebody's conversations, without what is said in them.")
            .asks(&[
                ("user_id", "string", "Whose."),
                ("hidden", "boolean", "Those they have out of sight."),
                ("cursor", "string", "Of the page before."),
                ("limit", "integer", "Up to 200."),
            ])
            .given("user_id", "42")
            .answers(200, "A page.", page),
        admin("post", "conversations", "makeConversation", "Makes a conversation for others.")
            .with_headers(&[("Idempotency-Key", "string", "The same as `key`.")])
            .takes(schemas.request::<ConversationMaking>())
            .example(json!({
                "key": "order-8841",
                "participants": [{ "user_id": "42", "name": "Asha" }, { "user_id": "43", "name": "Juma" }],
                "metadata": { "order": 8841 },
            }))
            .answers(201, "It is new.", record.clone())
            .answers(200, "The same key made the same before.", record.clone()),
        admin("get", "conversations/{id}", "showConversationRecord", "A conversation, without what is said in it.").answers(
            200,
            "It.",
            record.clone(),
        ),
        admin("patch", "conversations/{id}/participants", "changeParticipants", "Changes who takes part.")
            .takes(schemas.request::<ParticipantsChange>())
            .example(json!({ "add": [{ "user_id": "44", "name": "Neema" }] }))
            .answers(200, "As it is now.", record),
        admin("post", "conversations/{id}/notify", "showNotice", "Shows a notice to who has it open.")
            .takes(schemas.request::<SystemNotice>())
            .example(json!({ "message": "The viewing is at three.", "severity": "info" }))
            .answers_nothing(202, "It is on its way."),
        admin("delete", "messages/{id}", "takeMessageDown", "Deletes a message for everyone.").answers_nothing(204, "Gone."),
        admin("post", "chat/rotate-keys", "rotateKeys", "Seals some messages anew with the newest key; ask again until it is done.")
            .takes(json!({ "type": "object" }))
            .body_may_be_left_out()
            .example(json!({}))
            .answers(200, "How far it is.", schemas.answer::<RotationStep>()),
    ]
}
