//! Notices for who was away: each that is due becomes a job, and goes the way of all jobs from there.
//!
//! What is due is in the store, so that a restart loses nothing; a job that was made before a crash is found by its id, and not made twice.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::{
    members::name_among,
    service::Chat,
    view::{Opened, UNSHOWABLE},
};
use crate::{
    accept::{Acceptor, NotAccepted},
    event::{Event, emit},
    intake::decode::Decoded,
    model::{Channel, Job, Recipient, StoredMessage, TemplateName, Timestamp, UserId, cut},
    store::{NotifyDue, StoreError},
};

const TEMPLATE: &str = "new_message";
/// Longest beginning of a message told in a notice, in bytes: what a phone shows of it, and some room.
const PREVIEW_LIMIT: usize = 300;
/// Longest name and title told, in bytes.
const NAME_LIMIT: usize = 200;
/// Stands for a message that is a file and no text.
const FILE_ONLY: &str = "(attachment)";
/// Notices made in one commit.
const BATCH: usize = 100;
/// How long to wait before asking again where something failed.
const RETRY: Duration = Duration::from_secs(1);

/// Why a sweep did not come to its end.
enum Stopped {
    Failed(StoreError),
    /// The daemon is stopping, and takes no more jobs.
    Stopping,
}

impl From<StoreError> for Stopped {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

/// Makes notices.
struct Notices {
    chat: Arc<Chat>,
    acceptor: Acceptor,
    template: TemplateName,
    /// It was told that there is no template.
    is_told: bool,
}

/// Makes a job of each notice when it is due, until `stop`; what became due before the start comes first.
pub(super) async fn run(chat: Arc<Chat>, acceptor: Acceptor, stop: CancellationToken) {
    let Ok(template) = TEMPLATE.parse() else { return };
    let mut notices = Notices { chat: chat.clone(), acceptor, template, is_told: false };
    loop {
        let pause = match notices.pass().await {
            Ok(pause) => pause,
            Err(Stopped::Stopping) => return,
            Err(Stopped::Failed(error)) => {
                emit(&Event::StoreFailed { doing: "making notices of the chat; trying again", error: &error.to_string() });
                Some(RETRY)
            }
        };
        let due = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            () = chat.notice.notified() => {}
            () = stop.cancelled() => return,
        }
    }
}

impl Notices {
    /// Makes what is due. How long until more is; `None` when no notice waits.
    async fn pass(&mut self) -> Result<Option<Duration>, Stopped> {
        loop {
            let Some(next) = self.chat.store.next_notify().await? else { return Ok(None) };
            let now = Timestamp::now();
            if next > now {
                return Ok(Some(next.since(now)));
            }
            let due = self.chat.store.notify_due(now, BATCH).await?;
            // Each of them is gone or noted afterwards; where there is none, the row is not to be read, and nothing is gained by haste.
            if due.is_empty() {
                return Ok(Some(RETRY));
            }
            self.make(due).await?;
        }
    }

    async fn make(&mut self, due: Vec<NotifyDue>) -> Result<(), Stopped> {
        let (mut made, mut jobs) = (Vec::new(), Vec::new());
        for notice in due {
            match self.job(&notice) {
                Some(job) => {
                    jobs.push(vec![job]);
                    made.push(notice);
                }
                None => self.drop_notice(&notice, "nothing_to_tell").await?,
            }
        }
        let answers = self.acceptor.accept_each(jobs).await;
        fail::fail_point!("notice-accepted");
        let mut noted = Vec::new();
        let mut stopped = None;
        for (notice, answer) in made.iter().zip(answers) {
            match answer {
                // With another text it is the same notice all the same, made before a crash.
                Ok(_) | Err(NotAccepted::Conflict(_)) => noted.push(notice),
                Err(NotAccepted::Invalid(problems)) => {
                    if !self.is_told {
                        self.is_told = true;
                        let reason = problems.first().map(ToString::to_string).unwrap_or_default();
                        emit(&Event::ChatNoticesNotAccepted { reason: &reason });
                    }
                    self.drop_notice(notice, "not_accepted").await?;
                }
                Err(NotAccepted::Store(error)) => stopped = Some(Stopped::Failed(error)),
                Err(NotAccepted::Stopping) => stopped = Some(Stopped::Stopping),
            }
        }
        // What the jobs are noted in is one commit too.
        for noted in join_all(noted.into_iter().map(|notice| self.note(notice))).await {
            noted?;
        }
        stopped.map_or(Ok(()), Err)
    }

    async fn note(&self, notice: &NotifyDue) -> Result<(), StoreError> {
        let conversation = notice.view.conversation.id;
        if self.chat.store.notify_made(conversation, notice.user_id.clone(), notice.first_message).await? {
            emit(&Event::ChatNoticeMade { job: &notice.job_id, conversation: conversation.0 });
        } else {
            emit(&Event::ChatNoticeDropped { conversation: conversation.0, reason: "read_meanwhile" });
        }
        Ok(())
    }

    async fn drop_notice(&self, notice: &NotifyDue, reason: &'static str) -> Result<(), StoreError> {
        let conversation = notice.view.conversation.id;
        if self.chat.store.notify_drop(conversation, notice.user_id.clone(), notice.first_message).await? {
            emit(&Event::ChatNoticeDropped { conversation: conversation.0, reason });
        }
        Ok(())
    }

    /// `None` when there is nothing to tell, or nothing is to be told.
    fn job(&self, notice: &NotifyDue) -> Option<Decoded> {
        let channels = &self.chat.config.notify_channels;
        let latest = notice.latest.as_ref().filter(|_| !channels.is_empty())?;
        let told = Told { notice, latest, preview: preview(self.chat.open(latest)) };
        Some(told.decoded(self.template.clone(), channels))
    }
}

/// A notice, and what its newest message says.
struct Told<'a> {
    notice: &'a NotifyDue,
    latest: &'a StoredMessage,
    preview: String,
}

impl Told<'_> {
    fn decoded(&self, template: TemplateName, channels: &[Channel]) -> Decoded {
        let id = self.notice.job_id.clone();
        let job = Job {
            id: Some(id.clone()),
            template: Some(template),
            to: vec![recipient(&self.notice.user_id)],
            channels: channels.to_vec(),
            data: self.data(),
            collapse_key: Some(format!("conversation-{}", self.notice.view.conversation.id)),
            ..Job::default()
        };
        let document = serde_json::to_vec(&job).unwrap_or_default();
        Decoded { job, id, body_hash: Sha256::digest(document).into(), traceparent: None, root: "$".into() }
    }

    /// Templates escape it, each for its channel.
    fn data(&self) -> Map<String, Value> {
        let NotifyDue { view, unread, .. } = self.notice;
        let sender_name = name_among(&view.participants, &self.latest.sender);
        let mut data = Map::new();
        data.insert("sender_name".to_owned(), one_line(&sender_name, NAME_LIMIT).into());
        data.insert("preview".to_owned(), self.preview.clone().into());
        data.insert("unread_count".to_owned(), (*unread).into());
        data.insert("conversation_id".to_owned(), view.conversation.id.0.into());
        if let Some(property_id) = &view.conversation.property_id {
            data.insert("property_id".to_owned(), property_id.clone());
        }
        if let Some(property_title) = &view.conversation.property_title {
            data.insert("property_title".to_owned(), one_line(property_title, NAME_LIMIT).into());
        }
        data
    }
}

/// Addresses come from contacts.
fn recipient(user: &UserId) -> Recipient {
    Recipient { user_id: user.clone(), email: None, phone: None, push_tokens: Vec::new(), locale: None, timezone: None }
}

fn preview(opened: Opened) -> String {
    match opened {
        Opened::Body(body) if body.text.is_empty() => {
            let name = body.attachments.into_iter().find_map(|attachment| attachment.name);
            name.map_or_else(|| FILE_ONLY.to_owned(), |name| one_line(&name, PREVIEW_LIMIT))
        }
        Opened::Body(body) => cut(&body.text, PREVIEW_LIMIT),
        // A deleted one is not unread: this is for the moment in between.
        Opened::Tampered | Opened::Deleted => UNSHOWABLE.to_owned(),
    }
}

/// It may stand in a subject.
fn one_line(text: &str, limit: usize) -> String {
    let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
    cut(&words.join(" "), limit)
}
