//! From the commit to the sockets: one task encodes what was stored, once, and publishes it in the order in which it was committed.
//!
//! The writer's thread only takes note here ([`Relay::note`]); what was read and who left goes the same way, so that nothing overtakes.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    frames,
    members::Members,
    view::{MessageView, Opened},
};
use crate::{
    model::{ChatBody, ChatEventKind, ConversationId, MessageId, Participant, Severity, StoredMessage, Stream, Timestamp, UserId},
    socket::Bus,
    store::Unread,
};

/// Notes taken from the queue at once.
const BATCH: usize = 256;

/// Something that was committed, and is to be told.
#[derive(Debug)]
pub(super) enum Note {
    Event {
        kind: ChatEventKind,
        message: Box<StoredMessage>,
        body: Option<ChatBody>,
        event: i64,
        members: Arc<Members>,
        /// With their read pointers; of a new message, which nobody has read, none.
        participants: Vec<Participant>,
        unread: Vec<Unread>,
    },
    Read {
        conversation: ConversationId,
        user: UserId,
        message: MessageId,
        read_at: Timestamp,
        unread: i64,
    },
    Hidden {
        conversation: ConversationId,
        user: UserId,
        message: MessageId,
        unread: i64,
    },
    System {
        conversation: ConversationId,
        message: String,
        severity: Severity,
    },
}

/// Takes notes. Clones write to the same queue, which is as short as the writer's own: each note is of one write.
#[derive(Clone, Debug)]
pub(super) struct Relay(mpsc::UnboundedSender<Note>);

/// The other end.
#[derive(Debug)]
pub(super) struct Notes(mpsc::UnboundedReceiver<Note>);

impl Relay {
    pub fn new() -> (Self, Notes) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), Notes(receiver))
    }

    /// Never waits. After the end it goes nowhere: the sockets are closed then.
    pub fn note(&self, note: Note) {
        let _ = self.0.send(note);
    }
}

/// Tells what was noted until `stop`, and then what is left.
pub(super) async fn run(mut notes: Notes, bus: Bus, epoch: Arc<str>, stop: CancellationToken) {
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            taken = notes.0.recv_many(&mut batch, BATCH) => {
                if taken == 0 {
                    return;
                }
            }
            () = stop.cancelled() => {
                while let Ok(note) = notes.0.try_recv() {
                    tell(&note, &bus, &epoch);
                }
                return;
            }
        }
        for note in batch.drain(..) {
            tell(&note, &bus, &epoch);
        }
    }
}

fn tell(note: &Note, bus: &Bus, epoch: &Arc<str>) {
    let conversation = match note {
        Note::Event { message, .. } => message.conversation,
        Note::Read { conversation, .. } | Note::Hidden { conversation, .. } | Note::System { conversation, .. } => *conversation,
    };
    let stream = Stream::Conversation(conversation);
    if !bus.is_followed(&stream) {
        return;
    }
    let publish = |frame| bus.publish(&stream, &Arc::new(frame));
    match note {
        Note::Event { kind, message, body, event, members, participants, unread } => {
            let opened = body.clone().map_or(Opened::Deleted, Opened::Body);
            let view = MessageView::new(message, opened, members, participants);
            publish(frames::event(*kind, &view, *event, epoch));
            for Unread { user_id, unread } in unread {
                publish(frames::unread(user_id, *unread));
            }
        }
        Note::Read { user, message, read_at, unread, .. } => {
            publish(frames::read_receipt(user, *message, *read_at));
            publish(frames::unread(user, *unread));
        }
        Note::Hidden { user, message, unread, .. } => {
            publish(frames::hidden(user, *message));
            publish(frames::unread(user, *unread));
        }
        Note::System { message, severity, .. } => {
            publish(frames::notification(message, *severity));
        }
    }
}
