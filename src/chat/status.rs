//! Tells the sockets of this process who opens and who leaves their conversation, on whatever node.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{frames, service::Chat};
use crate::{
    event::{Event, emit},
    model::{ConversationId, Stream, UserId},
    socket::{Control, Ending, PresenceChange, Present},
};

/// Until `stop`.
pub(super) async fn run(chat: Arc<Chat>, stop: CancellationToken) {
    let mut changes = chat.bus.presence_changes();
    loop {
        let change = tokio::select! {
            change = changes.next() => change,
            () = stop.cancelled() => return,
        };
        match change {
            None => return,
            Some(PresenceChange::Online(Present::In(conversation, user))) => chat.tell_status(conversation, &user, true),
            Some(PresenceChange::Offline(Present::In(conversation, user))) => chat.tell_status(conversation, &user, false),
            Some(PresenceChange::Online(Present::Online(_)) | PresenceChange::Offline(Present::Online(_))) => {}
            Some(PresenceChange::Missed) => chat.tell_all_statuses().await,
        }
    }
}

/// Heeds what other nodes say of who takes part, until `stop`.
pub(super) async fn heed_controls(chat: Arc<Chat>, stop: CancellationToken) {
    let mut controls = chat.bus.controls();
    loop {
        let control = tokio::select! {
            control = controls.next() => control,
            () = stop.cancelled() => return,
        };
        match control {
            None => return,
            Some(Control::MembershipChanged { conversation, gone }) => {
                chat.members.forget(conversation);
                if let Some(gone) = gone {
                    chat.bus.hub().close_in(conversation, &gone, Ending::Excluded);
                }
            }
            Some(Control::Missed) => {
                chat.members.forget_all();
                chat.exclude_strangers().await;
            }
            Some(Control::Revoked(_)) => {}
        }
    }
}

impl Chat {
    /// Every node hears of the change, and tells its own.
    fn tell_status(&self, conversation: ConversationId, user: &UserId, is_online: bool) {
        self.bus.hub().publish(&Stream::Conversation(conversation), &Arc::new(frames::user_status(user, is_online)));
    }

    async fn tell_all_statuses(&self) {
        for conversation in self.followed() {
            let members = match self.members.get(&self.store, conversation).await {
                Ok(members) => members,
                Err(error) => return emit(&Event::StoreFailed { doing: "reading who takes part", error: &error.to_string() }),
            };
            for member in members.all_present() {
                let is_online = self.is_attending(conversation, &member.user_id).await;
                self.tell_status(conversation, &member.user_id, is_online);
            }
        }
    }

    /// Closes the sockets of those who take part no more, where that may have gone unheard.
    async fn exclude_strangers(&self) {
        for conversation in self.followed() {
            let members = match self.members.get(&self.store, conversation).await {
                Ok(members) => members,
                Err(error) => return emit(&Event::StoreFailed { doing: "reading who takes part", error: &error.to_string() }),
            };
            for user in self.bus.hub().attending(conversation) {
                if members.present(&user).is_none() {
                    self.bus.hub().close_in(conversation, &user, Ending::Excluded);
                }
            }
        }
    }

    /// The conversations that have a socket here.
    fn followed(&self) -> Vec<ConversationId> {
        let conversation = |stream| if let Stream::Conversation(id) = stream { Some(id) } else { None };
        self.bus.hub().followed().into_iter().filter_map(conversation).collect()
    }
}
