//! What is said on a conversation's socket: the frames of the replaced system, and ours for those who ask.
//!
//! Frames in order are the sequencer's work; what is done with messages is the [`service`](super::service)'s.

use std::sync::Arc;

use governor::{
    DefaultDirectRateLimiter, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::{
    error::ChatError,
    frames::{self, Hello},
    members::Members,
    service::{Chat, Draft, Posted, quota, wait},
    view::MessageView,
};
use crate::{
    event::{Event, emit},
    model::{Attachment, ConversationId, MessageId, Participant, Place, Stream, Timestamp, UserId},
    socket::{Ending, Frame, Identity, Protocol, Reaction, Step, Subscriber, Work},
    store::{ChatReplay, StoreError},
};

const PONG: Utf8Bytes = Utf8Bytes::from_static(r#"{"type":"pong"}"#);
/// Events read at once.
const PAGE: usize = 100;

/// Where a client says it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Since {
    pub event: i64,
    pub epoch: Option<String>,
}

/// One connection's side of the protocol.
pub struct Conversation {
    chat: Arc<Chat>,
    id: ConversationId,
    identity: Identity,
    v1: bool,
    subscriber: Subscriber,
    since: Option<Since>,
    /// Since when what was missed is being told.
    recovering: Option<i64>,
    messages: DefaultDirectRateLimiter,
}

/// What the protocol's reads and writes come to.
pub enum Done {
    Opened {
        event: i64,
        floor: i64,
        participants: Vec<Participant>,
        online: Vec<UserId>,
    },
    Read {
        after: i64,
        replay: ChatReplay,
        shown: Vec<MessageView>,
    },
    /// The frame to answer with, if any: what was done is told by the conversation itself.
    Answered(Option<Frame>),
    Gone,
    Failed(StoreError),
}

/// What a client may say.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Command {
    Message(Saying),
    Typing {
        is_typing: bool,
    },
    Read {
        message_id: MessageId,
    },
    Edit {
        message_id: MessageId,
        #[serde(alias = "text")]
        content: String,
    },
    Delete {
        message_id: MessageId,
    },
    Hide {
        message_id: MessageId,
    },
    Token {
        token: SecretString,
    },
    Ping,
    /// Of a type known to other versions.
    #[serde(other)]
    Ignored,
}

#[derive(Deserialize)]
struct Saying {
    #[serde(default, alias = "text")]
    content: String,
    #[serde(default)]
    client_id: Option<String>,
    #[serde(default)]
    reply_to: Option<MessageId>,
    #[serde(default)]
    attachments: Vec<Attachment>,
}

impl Command {
    fn read(text: &str) -> Result<Self, ChatError> {
        let mut frame: Map<String, Value> = match serde_json::from_str(text) {
            Ok(Value::Object(frame)) => frame,
            _ => return Err(ChatError::Invalid("Invalid JSON: send one object per frame.".to_owned())),
        };
        frame.entry("type").or_insert_with(|| "message".into());
        // Clients of both generations may send both names.
        if frame.contains_key("content") {
            frame.remove("text");
        }
        serde_json::from_value(Value::Object(frame)).map_err(|error| ChatError::Invalid(format!("{error}.")))
    }
}

impl Conversation {
    pub fn new(chat: Arc<Chat>, id: ConversationId, identity: Identity, v1: bool, subscriber: Subscriber, since: Option<Since>) -> Self {
        let messages = RateLimiter::direct(quota(chat.config.messages_burst, chat.config.messages_window));
        Self { chat, id, identity, v1, subscriber, since, recovering: None, messages }
    }

    fn stream(&self) -> Stream {
        Stream::Conversation(self.id)
    }

    fn user(&self) -> &UserId {
        &self.identity.user_id
    }

    fn obey(&mut self, command: Command) -> Reaction<Done> {
        let (chat, user, id) = (self.chat.clone(), self.user().clone(), self.id);
        match command {
            Command::Ping => Reaction::Say(Frame::new(PONG)),
            Command::Ignored => Reaction::Nothing,
            Command::Token { token } => self.renew(token.expose_secret()),
            Command::Message(saying) => self.say(saying),
            Command::Typing { is_typing } => Reaction::Do(Box::pin(async move {
                match chat.members_for(id, &user).await {
                    Ok(members) => chat.heard_typing(id, &user, &members, is_typing),
                    Err(error) => return answered::<()>(Err(error)),
                }
                Done::Answered(None)
            })),
            Command::Read { message_id } => Reaction::Do(Box::pin(async move { answered(chat.read(&user, id, message_id).await) })),
            Command::Edit { message_id, content } => match self.check_pace() {
                Ok(()) => Reaction::Do(Box::pin(async move { answered(chat.edit(&user, id, message_id, content).await) })),
                Err(error) => Reaction::Say(frames::error(&error, None)),
            },
            Command::Delete { message_id } => {
                Reaction::Do(Box::pin(async move { answered(chat.delete(Some(&user), id, message_id).await) }))
            }
            Command::Hide { message_id } => Reaction::Do(Box::pin(async move { answered(chat.hide_message(&user, id, message_id).await) })),
        }
    }

    fn say(&self, saying: Saying) -> Reaction<Done> {
        let Saying { content, client_id, reply_to, attachments } = saying;
        if content.trim().is_empty() && attachments.is_empty() {
            return Reaction::Nothing;
        }
        if let Err(error) = self.check_pace() {
            return Reaction::Say(frames::error(&error, client_id.as_deref()));
        }
        let (chat, user, id) = (self.chat.clone(), self.user().clone(), self.id);
        Reaction::Do(Box::pin(async move {
            let draft = Draft { text: content, attachments, client_id: client_id.clone(), reply_to };
            match chat.send(&user, id, draft).await {
                Ok(Posted { repeated: false, .. }) => Done::Answered(None),
                Ok(Posted { message, view, .. }) => Done::Answered(Some(frames::repeated(&view, message.event, chat.store.epoch()))),
                Err(error) => Done::Answered(Some(frames::error(&error, client_id.as_deref()))),
            }
        }))
    }

    /// One more message of this connection.
    fn check_pace(&self) -> Result<(), ChatError> {
        let now = DefaultClock::default().now();
        self.messages.check().map_err(|not_until| ChatError::TooMany(wait(not_until.wait_time_from(now))))
    }

    /// Takes a new token of the same user in place of the one the connection came with.
    fn renew(&mut self, token: &str) -> Reaction<Done> {
        let now = Timestamp::now();
        let identity = match self.chat.authenticator.verify(token, now) {
            Ok(identity) => identity,
            Err(error) => return Reaction::Say(frames::error(&ChatError::Invalid(error.to_string()), None)),
        };
        if identity.user_id != self.identity.user_id {
            return Reaction::End(Ending::Forbidden);
        }
        let until = identity.expires_at;
        self.subscriber.renew(identity.clone());
        // Only now would a revocation find it.
        if self.chat.authenticator.is_revoked(&identity, now) {
            return Reaction::End(Ending::Revoked);
        }
        self.identity = identity;
        Reaction::Renew { until, steps: vec![Step::Say(Arc::new(frames::renewed(until)))] }
    }

    /// The first frames: who the client is, who else is there, and from where the conversation goes on.
    fn opened(&mut self, event: i64, floor: i64, participants: &[Participant], online: &[UserId]) -> Vec<Step> {
        let mut steps = Vec::new();
        let others = || participants.iter().filter(|other| other.is_present() && other.user_id != *self.user());
        if self.v1 {
            let own = participants.iter().find(|participant| participant.user_id == *self.user());
            let shown = others().map(|other| {
                json!({
                    "id": other.user_id.to_wire(),
                    "username": other.name,
                    "is_online": online.contains(&other.user_id),
                    "read_to": other.read_to,
                })
            });
            let hello = Hello {
                identity: &self.identity,
                conversation: self.id,
                event,
                epoch: self.chat.store.epoch(),
                unread: own.map_or(0, |own| own.unread),
                participants: shown.collect(),
                ping_interval: self.chat.gate.session_settings().ping_interval,
            };
            steps.push(Step::Say(Arc::new(frames::hello(&hello))));
        }
        let statuses = others().map(|other| frames::user_status(&other.user_id, online.contains(&other.user_id)));
        steps.extend(statuses.map(|frame| Step::Say(Arc::new(frame))));
        self.follow(event, floor, &mut steps);
        steps
    }

    fn follow(&mut self, event: i64, floor: i64, steps: &mut Vec<Step>) {
        let (stream, epoch) = (self.stream(), self.chat.store.epoch().clone());
        let from_now = Step::Follow { stream: stream.clone(), next: event + 1, more: false };
        let Some(since) = self.since.take() else { return steps.push(from_now) };
        let is_known = since.epoch.as_deref().is_none_or(|known| known == &*epoch);
        let is_kept = (floor..=event).contains(&since.event) && event - since.event <= i64::from(self.chat.config.replay_limit);
        if is_known && is_kept {
            self.recovering = Some(since.event);
            steps.push(Step::Follow { stream, next: since.event + 1, more: true });
        } else {
            steps.push(Step::Say(Arc::new(frames::not_recovered(event, &epoch))));
            steps.push(from_now);
        }
    }

    fn replayed(&mut self, after: i64, replay: &ChatReplay, shown: &[MessageView]) -> Vec<Step> {
        let (stream, epoch) = (self.stream(), self.chat.store.epoch().clone());
        let mut steps: Vec<Step> = Vec::new();
        for (event, view) in replay.events.iter().zip(shown) {
            steps.push(Step::Say(Arc::new(frames::event(event.kind, view, event.event, &epoch))));
        }
        let more = replay.through < replay.head.event;
        if !more && let Some(since) = self.recovering.take() {
            steps.push(Step::Say(Arc::new(frames::recovered(since, replay.through.max(after), &epoch))));
        }
        steps.push(Step::Follow { stream, next: replay.through.max(after) + 1, more });
        steps
    }
}

/// What was asked for was done and tells itself, or was not.
fn answered<T>(result: Result<T, ChatError>) -> Done {
    Done::Answered(result.err().map(|error| frames::error(&error, None)))
}

impl Chat {
    pub(super) fn heard_typing(&self, id: ConversationId, user: &UserId, members: &Members, is_typing: bool) {
        let name = members.name(user);
        if let Some(is_typing) = self.typing.heard(id, user, &name, is_typing, Instant::now()) {
            self.bus.publish(&Stream::Conversation(id), &Arc::new(frames::typing(user, &name, is_typing)));
        }
    }

    async fn opening(&self, id: ConversationId, user: &UserId) -> Result<Done, StoreError> {
        let participants = self.store.participants(id).await?;
        let Some(head) = self.store.chat_head(id).await? else { return Ok(Done::Gone) };
        let others = participants.iter().filter(|other| other.is_present() && other.user_id != *user);
        let online = others.map(async |other| self.is_attending(id, &other.user_id).await.then(|| other.user_id.clone()));
        let online = futures_util::future::join_all(online).await.into_iter().flatten().collect();
        Ok(Done::Opened { event: head.event, floor: head.floor, participants, online })
    }

    async fn replay(&self, id: ConversationId, user: &UserId, after: i64) -> Result<Done, StoreError> {
        let Some(replay) = self.store.chat_since(id, after, PAGE, Some(user.clone())).await? else { return Ok(Done::Gone) };
        let members = self.members.get(&self.store, id).await?;
        let participants = self.store.participants(id).await?;
        let views = replay.events.iter().map(|event| MessageView::new(&event.message, self.open(&event.message), &members, &participants));
        let shown = views.collect();
        Ok(Done::Read { after, replay, shown })
    }
}

impl Protocol for Conversation {
    type Done = Done;

    fn open(&mut self) -> Work<Done> {
        let (chat, id, user) = (self.chat.clone(), self.id, self.user().clone());
        Box::pin(async move { chat.opening(id, &user).await.unwrap_or_else(Done::Failed) })
    }

    fn receive(&mut self, text: &str) -> Reaction<Done> {
        match Command::read(text) {
            Ok(command) => self.obey(command),
            Err(error) => Reaction::Say(frames::error(&error, None)),
        }
    }

    fn catch_up(&mut self, _: &Stream, after: i64) -> Work<Done> {
        let (chat, id, user) = (self.chat.clone(), self.id, self.user().clone());
        Box::pin(async move { chat.replay(id, &user, after).await.unwrap_or_else(Done::Failed) })
    }

    fn finish(&mut self, done: Done) -> Vec<Step> {
        match done {
            Done::Opened { event, floor, participants, online } => self.opened(event, floor, &participants, &online),
            Done::Read { after, replay, shown } => self.replayed(after, &replay, &shown),
            Done::Answered(frame) => frame.map(|frame| Step::Say(Arc::new(frame))).into_iter().collect(),
            Done::Gone => vec![Step::End(Ending::Excluded)],
            Done::Failed(error) => {
                emit(&Event::StoreFailed {
                    doing: "reading for a chat socket; it is closed, to come back later",
                    error: &error.to_string(),
                });
                vec![Step::End(Ending::Unavailable)]
            }
        }
    }

    fn ping(&self, reached: &[Place]) -> Option<Frame> {
        let seq = reached.first().map(|place| place.seq)?;
        self.v1.then(|| frames::ping(seq))
    }

    fn farewell(&self, retry_after: std::time::Duration) -> Option<Frame> {
        self.v1.then(|| frames::restarting(retry_after))
    }
}
