//! What can be done with conversations, whoever asks for it: sockets, REST, or a backend. Checks, limits and the hook are here; what is
//! stored is told by the [`relay`](super::relay).

use std::{
    collections::HashSet,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
    state::keyed::DefaultKeyedStateStore,
};
use tokio::sync::Notify;

use super::{
    error::ChatError,
    hook::{Hook, Storing},
    members::{MemberCache, Members},
    relay::{Note, Relay},
    seal::ChatKeys,
    typing::Typing,
    view::{MessageView, Opened},
};
use crate::{
    config::ChatConfig,
    event::{Event, emit},
    model::{Attachment, ChatBody, ChatEventKind, ConversationId, MessageId, Participant, Severity, StoredMessage, UserId},
    socket::{Authenticator, Bus, Control, Ending, Gate, Present},
    store::{NewMessage, ParticipantChange, Store},
};

/// Longest id that a client may give a message, in bytes.
const CLIENT_ID_LIMIT: usize = 100;
/// Longest name of an attachment, in bytes, and longest URL.
const NAME_LIMIT: usize = 200;
const URL_LIMIT: usize = 2000;
/// Messages told to be tampered with, each once; beyond it they are only counted.
const TAMPERED_LIMIT: usize = 10_000;

/// A message about to be sent.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    pub text: String,
    pub attachments: Vec<Attachment>,
    pub client_id: Option<String>,
    pub reply_to: Option<MessageId>,
}

/// A message that is stored, by this request or an earlier one.
#[derive(Clone, Debug)]
pub struct Posted {
    pub message: StoredMessage,
    pub view: MessageView,
    pub repeated: bool,
}

/// The chat. One for the process.
pub struct Chat {
    pub store: Store,
    pub bus: Bus,
    pub gate: Gate,
    pub authenticator: Arc<Authenticator>,
    pub config: ChatConfig,
    pub(super) keys: ChatKeys,
    pub(super) members: MemberCache,
    pub(super) relay: Relay,
    pub(super) typing: Typing,
    hook: Option<Hook>,
    /// Messages that were told to be tampered with.
    tampered: Mutex<HashSet<MessageId>>,
    of_users: RateLimiter<UserId, DefaultKeyedStateStore<UserId>, DefaultClock>,
    /// A notice may be due earlier than was known.
    pub(super) notice: Notify,
}

impl std::fmt::Debug for Chat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chat").field("bus", &self.bus).finish_non_exhaustive()
    }
}

/// So many at once, and as many again in each `window`.
pub(super) fn quota(burst: u32, window: Duration) -> Quota {
    let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
    let quota = Quota::with_period(window / burst.get()).unwrap_or_else(|| Quota::per_second(burst));
    quota.allow_burst(burst)
}

impl Chat {
    pub(super) fn new(
        (store, bus): (Store, Bus),
        (gate, authenticator): (Gate, Arc<Authenticator>),
        (config, keys): (ChatConfig, ChatKeys),
        hook: Option<Hook>,
        relay: Relay,
    ) -> Self {
        Self {
            of_users: RateLimiter::keyed(quota(config.user_messages_burst, config.user_messages_window)),
            typing: Typing::new(config.typing_interval, config.typing_expiry),
            members: MemberCache::default(),
            notice: Notify::new(),
            tampered: Mutex::default(),
            store,
            bus,
            gate,
            authenticator,
            config,
            keys,
            relay,
            hook,
        }
    }

    /// What messages are sealed with.
    pub const fn keys(&self) -> &ChatKeys {
        &self.keys
    }

    /// Who takes part in a conversation, if `user` does.
    ///
    /// # Errors
    /// There is no such conversation, or it is not theirs: told apart to nobody.
    pub async fn members_for(&self, conversation: ConversationId, user: &UserId) -> Result<Arc<Members>, ChatError> {
        let members = self.members.get(&self.store, conversation).await?;
        if members.present(user).is_some() { Ok(members) } else { Err(ChatError::NotFound("Conversation")) }
    }

    /// Stores a message and tells it.
    ///
    /// # Errors
    /// It breaks a rule or a limit, was refused, or cannot be stored now.
    pub async fn send(&self, sender: &UserId, conversation: ConversationId, draft: Draft) -> Result<Posted, ChatError> {
        let members = self.members_for(conversation, sender).await?;
        let Draft { client_id, reply_to, .. } = draft.clone();
        if client_id.as_ref().is_some_and(|id| id.is_empty() || id.len() > CLIENT_ID_LIMIT) {
            return Err(ChatError::Invalid(format!("`client_id` has 1 to {CLIENT_ID_LIMIT} bytes; hint: a UUID")));
        }
        let body = self.checked(ChatBody { text: draft.text, attachments: draft.attachments })?;
        self.check_pace(sender)?;
        let body = self.asked(Storing::Message, conversation, sender, body).await?;
        let present = self.attending(conversation, &members).await;
        let notify_after = (!self.config.notify_channels.is_empty()).then_some(self.config.notify_after);
        let new = NewMessage { conversation, sender: sender.clone(), client_id, reply_to, present, notify_after };
        let (keys, relay) = (self.keys.clone(), self.relay.clone());
        let (sealing, told, shown) = (body.clone(), body.clone(), members.clone());
        let seal = move |message| keys.seal(conversation, message, &sealing);
        let sent = self
            .store
            .send_message(new, seal, move |sent| {
                let Ok(sent) = sent else { return };
                if !sent.repeated {
                    let (message, unread) = (sent.message.clone(), sent.unread.clone());
                    let (event, participants) = (message.event, Vec::new());
                    let kind = ChatEventKind::Sent;
                    relay.note(Note::Event {
                        kind,
                        message: Box::new(message),
                        body: Some(told),
                        event,
                        members: shown,
                        participants,
                        unread,
                    });
                }
            })
            .await??;
        if sent.notify_at.is_some() {
            self.notice.notify_one();
        }
        let (opened, participants) = if sent.repeated {
            (self.open(&sent.message), self.store.participants(conversation).await?)
        } else {
            (Opened::Body(body), Vec::new())
        };
        let view = MessageView::new(&sent.message, opened, &members, &participants);
        Ok(Posted { view, message: sent.message, repeated: sent.repeated })
    }

    /// Puts another text into a message of `by`'s own, and tells it. Attachments stay.
    ///
    /// # Errors
    /// As [`Self::send`], or the message is not theirs to change.
    pub async fn edit(
        &self,
        by: &UserId,
        conversation: ConversationId,
        message: MessageId,
        text: String,
    ) -> Result<MessageView, ChatError> {
        let members = self.members_for(conversation, by).await?;
        let stored = self.message(conversation, message, by).await?;
        if stored.sender != *by {
            return Err(ChatError::Forbidden("Only its sender may change a message."));
        }
        let attachments = match self.open(&stored) {
            Opened::Body(body) => body.attachments,
            Opened::Deleted => return Err(ChatError::Conflict("This message is deleted.")),
            Opened::Tampered => Vec::new(),
        };
        self.check_pace(by)?;
        let body = self.checked(ChatBody { text, attachments })?;
        let body = self.asked(Storing::Edit, conversation, by, body).await?;
        let sealed = self.keys.seal(conversation, message, &body);
        let participants = self.store.participants(conversation).await?;
        let (relay, told, shown, readers) = (self.relay.clone(), body.clone(), members.clone(), participants.clone());
        let edited = self
            .store
            .edit_message(conversation, message, by.clone(), sealed, move |edited| {
                let Ok(edited) = edited else { return };
                let (message, event, unread) = (edited.message.clone(), edited.event, Vec::new());
                let kind = ChatEventKind::Edited;
                relay.note(Note::Event {
                    kind,
                    message: Box::new(message),
                    body: Some(told),
                    event,
                    members: shown,
                    participants: readers,
                    unread,
                });
            })
            .await??;
        Ok(MessageView::new(&edited.message, Opened::Body(body), &members, &participants))
    }

    /// Empties a message for everyone, and tells it. `by` is its sender; nobody when an operator does it.
    ///
    /// # Errors
    /// It is not there, or not theirs to delete.
    pub async fn delete(&self, by: Option<&UserId>, conversation: ConversationId, message: MessageId) -> Result<(), ChatError> {
        let members = match by {
            Some(by) => self.members_for(conversation, by).await?,
            None => self.members.get(&self.store, conversation).await?,
        };
        let (relay, participants) = (self.relay.clone(), self.store.participants(conversation).await?);
        self.store
            .delete_message(conversation, message, by.cloned(), move |deleted| {
                let Ok(deleted) = deleted else { return };
                let (message, event, unread) = (deleted.event.message.clone(), deleted.event.event, deleted.unread.clone());
                relay.note(Note::Event {
                    kind: ChatEventKind::Deleted,
                    message: Box::new(message),
                    body: None,
                    event,
                    members,
                    participants,
                    unread,
                });
            })
            .await??;
        Ok(())
    }

    /// Takes a message out of one user's sight, on all their devices.
    ///
    /// # Errors
    /// It is not in a conversation of theirs.
    pub async fn hide_message(&self, user: &UserId, conversation: ConversationId, message: MessageId) -> Result<(), ChatError> {
        self.members_for(conversation, user).await?;
        let hidden = self.store.hide_message(conversation, message, user.clone()).await??;
        if !hidden.repeated {
            self.relay.note(Note::Hidden { conversation, user: user.clone(), message, unread: hidden.unread });
        }
        Ok(())
    }

    /// Notes that `user` has read up to `message`, and tells it. False when that was known.
    ///
    /// # Errors
    /// The conversation is not theirs.
    pub async fn read(&self, user: &UserId, conversation: ConversationId, message: MessageId) -> Result<bool, ChatError> {
        self.members_for(conversation, user).await?;
        let (relay, reader) = (self.relay.clone(), user.clone());
        let read = self
            .store
            .read_to(conversation, user.clone(), message, move |read| {
                let Some(read) = read else { return };
                relay.note(Note::Read { conversation, user: reader, message: read.read_to, read_at: read.read_at, unread: read.unread });
            })
            .await?;
        Ok(read.is_some())
    }

    /// Changes somebody's part. Who leaves is out at once, on every node.
    ///
    /// # Errors
    /// They have no part in it.
    pub async fn change_part(
        &self,
        user: &UserId,
        conversation: ConversationId,
        change: ParticipantChange,
    ) -> Result<Participant, ChatError> {
        let leaves = matches!(change, ParticipantChange::Leave | ParticipantChange::Remove);
        let changed = self.store.set_participant(conversation, user.clone(), change, |_| ()).await?;
        let changed = changed.ok_or(ChatError::NotFound("Conversation"))?;
        self.membership_changed(conversation, leaves.then_some(user));
        Ok(changed)
    }

    /// Members are others now; `gone` is let go of. Told to every node.
    pub(super) fn membership_changed(&self, conversation: ConversationId, gone: Option<&UserId>) {
        self.members.forget(conversation);
        if let Some(gone) = gone {
            self.bus.hub().close_in(conversation, gone, Ending::Excluded);
        }
        self.bus.control(Control::MembershipChanged { conversation, gone: gone.cloned() });
    }

    /// Shows all in a conversation a notice from the system. Not stored.
    ///
    /// # Errors
    /// There is no such conversation.
    pub async fn notify(&self, conversation: ConversationId, message: String, severity: Severity) -> Result<(), ChatError> {
        if self.store.chat_head(conversation).await?.is_none() {
            return Err(ChatError::NotFound("Conversation"));
        }
        self.relay.note(Note::System { conversation, message, severity });
        Ok(())
    }

    /// A message of a conversation that `viewer` can see.
    ///
    /// # Errors
    /// There is none such.
    pub async fn message(&self, conversation: ConversationId, message: MessageId, viewer: &UserId) -> Result<StoredMessage, ChatError> {
        let found = self.store.message(message, Some(viewer.clone())).await?;
        found.filter(|found| found.conversation == conversation).ok_or(ChatError::NotFound("Message"))
    }

    /// What a stored message says. One that is not what was sealed for it is counted, and told once.
    pub fn open(&self, message: &StoredMessage) -> Opened {
        if message.deleted_at.is_some() {
            return Opened::Deleted;
        }
        self.keys.open(message.conversation, message.id, &message.sealed).map_or_else(
            |_| {
                self.tell_tampered(message);
                Opened::Tampered
            },
            Opened::Body,
        )
    }

    fn tell_tampered(&self, message: &StoredMessage) {
        let mut told = self.tampered.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = told.len() < TAMPERED_LIMIT && told.insert(message.id);
        drop(told);
        emit(&Event::ChatMessageTampered { message: message.id.0, conversation: message.conversation.0, is_news });
    }

    /// Whether somebody has the conversation open, on whatever node.
    pub(super) async fn is_attending(&self, conversation: ConversationId, user: &UserId) -> bool {
        self.bus.presence(&Present::In(conversation, user.clone())).await.online
    }

    /// Who has the conversation open now. The grace time does not count: what is said in it may be missed.
    async fn attending(&self, conversation: ConversationId, members: &Members) -> Vec<UserId> {
        let mut attending = self.bus.hub().attending(conversation);
        if self.bus.status().is_some() {
            let others = members.all_present().filter(|member| !attending.contains(&member.user_id));
            let elsewhere = others.map(async |member| {
                let present = Present::In(conversation, member.user_id.clone());
                (self.bus.presence(&present).await.connections > 0).then(|| member.user_id.clone())
            });
            attending.extend(futures_util::future::join_all(elsewhere).await.into_iter().flatten());
        }
        attending
    }

    /// One more message of this user, over all their connections.
    pub(super) fn check_pace(&self, user: &UserId) -> Result<(), ChatError> {
        let now = DefaultClock::default().now();
        self.of_users.check_key(user).map_err(|not_until| ChatError::TooMany(wait(not_until.wait_time_from(now))))
    }

    /// The text trimmed, and everything within its limits.
    fn checked(&self, body: ChatBody) -> Result<ChatBody, ChatError> {
        let text = body.text.trim();
        if text.is_empty() && body.attachments.is_empty() {
            return Err(ChatError::Invalid("The message is empty.".to_owned()));
        }
        let (length, limit) = (text.chars().count(), self.config.message_limit);
        if length > limit {
            return Err(ChatError::Invalid(format!("The message is too long: {length} characters; at most {limit}.")));
        }
        if text.contains('\0') {
            return Err(ChatError::Invalid("The message has a NUL character.".to_owned()));
        }
        if body.attachments.len() > self.config.attachments_limit {
            return Err(ChatError::Invalid(format!("Too many attachments; at most {}.", self.config.attachments_limit)));
        }
        let attachments = body.attachments.into_iter().enumerate().map(|(index, attachment)| self.checked_attachment(index, attachment));
        Ok(ChatBody { text: text.to_owned(), attachments: attachments.collect::<Result<_, _>>()? })
    }

    fn checked_attachment(&self, index: usize, attachment: Attachment) -> Result<Attachment, ChatError> {
        let refuse = |what: String| Err(ChatError::Invalid(format!("`attachments[{index}]`: {what}")));
        if attachment.url.len() > URL_LIMIT {
            return refuse(format!("its URL is longer than {URL_LIMIT} bytes."));
        }
        let Some(url) = self.config.attachment_url(&attachment.url) else {
            return refuse("its URL is not where attachments may be.".to_owned());
        };
        if !self.config.takes_type(&attachment.content_type) {
            return refuse(format!("files of type {:?} are not taken.", crate::model::cut(&attachment.content_type, 50)));
        }
        if attachment.size > self.config.attachment_size_limit.as_u64() {
            return refuse(format!("it is larger than {}.", self.config.attachment_size_limit));
        }
        if attachment.name.as_ref().is_some_and(|name| name.len() > NAME_LIMIT || name.chars().any(char::is_control)) {
            return refuse(format!("its name has at most {NAME_LIMIT} bytes, and no control characters."));
        }
        Ok(Attachment { url, ..attachment })
    }

    async fn asked(&self, storing: Storing, conversation: ConversationId, sender: &UserId, body: ChatBody) -> Result<ChatBody, ChatError> {
        match &self.hook {
            // What was rewritten has to keep the same rules.
            Some(hook) => self.checked(hook.check(storing, conversation, sender, body).await?),
            None => Ok(body),
        }
    }

    /// Forgets users who have said nothing for a while.
    pub(super) fn forget_idle(&self) {
        self.of_users.retain_recent();
    }
}

/// To the second, upwards: clients show it.
pub(super) fn wait(wait: Duration) -> Duration {
    Duration::from_secs(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
}
