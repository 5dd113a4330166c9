//! Notices for who is away: made with the message, due once for each streak, gone with what they tell of.

use std::time::Duration;

use tarishi::{
    model::{Channel, ConversationId, DeliveryKey, MessageId, Status, Timestamp},
    store::{JobStatus, NewMessage, NotifyDue, ParticipantChange, Sent},
};

use super::chat::{unnoted, written};
use crate::fixture::{Backend, HOUR, Offer, TestStore, ago, first, job_id, next_millisecond, user_id};

/// A message with notices after a while for all but these.
async fn tell<B: Backend>(test: &TestStore<B>, chat: ConversationId, sender: &str, present: &[&str], after: Duration) -> Sent {
    let present = present.iter().map(|user| user_id(user)).collect();
    test.offer_message(NewMessage { present, notify_after: Some(after), ..written(chat, sender) }).await.unwrap()
}

async fn due<B: Backend>(test: &TestStore<B>) -> Vec<NotifyDue> {
    test.notify_due(Timestamp::FAR_FUTURE, 100).await.unwrap()
}

async fn due_for<B: Backend>(test: &TestStore<B>) -> Vec<String> {
    due(test).await.iter().map(|notice| notice.user_id.to_string()).collect()
}

/// A notice of this message made into a job with one mail, which waits.
async fn make_job<B: Backend>(test: &TestStore<B>, chat: ConversationId, user: &str, message: MessageId) -> (DeliveryKey, bool) {
    let id = format!("chat-{chat}-{user}-{message}");
    let mail = first(test.take(Offer::new(&id).to(Channel::Email, user).build()).await);
    (mail, test.notify_made(chat, user_id(user), message).await.unwrap())
}

pub async fn who_is_away_is_told_once<B: Backend>(test: TestStore<B>) {
    let chat = test.chat(&["asha", "juma", "neema", "zawadi"]).await;
    test.put_participant(chat, "zawadi", ParticipantChange::Mute).await;
    assert_eq!(test.next_notify().await.unwrap(), None);
    let one = tell(&test, chat, "asha", &["neema"], HOUR).await;
    let due_at = one.notify_at.unwrap();
    assert!(due_at.since(Timestamp::now()) > HOUR / 2);
    assert_eq!((test.next_notify().await.unwrap(), due_for(&test).await), (Some(due_at), vec!["juma".to_owned()]));
    assert!(test.notify_due(Timestamp::now(), 100).await.unwrap().is_empty(), "not yet");

    next_millisecond().await;
    let two = tell(&test, chat, "asha", &["neema"], Duration::ZERO).await;
    assert_eq!((two.notify_at, test.next_notify().await.unwrap()), (None, Some(due_at)), "its time does not move");
    let [notice] = &due(&test).await[..] else { panic!("one notice") };
    assert_eq!((notice.first_message, notice.unread, notice.due_at), (one.message.id, 2, due_at));
    assert_eq!(notice.latest.as_ref().unwrap().id, two.message.id);
    assert_eq!(notice.job_id.as_str(), format!("chat-{chat}-juma-{}", one.message.id));
    assert_eq!(notice.view.participant(&user_id("asha")).unwrap().name.as_deref(), Some("ASHA"));

    let (_, is_noted) = make_job(&test, chat, "juma", one.message.id).await;
    assert!(is_noted && due(&test).await.is_empty());
    assert_eq!(tell(&test, chat, "asha", &["neema"], HOUR).await.notify_at, None, "once for each streak");
    let unmuted = test.put_participant(chat, "zawadi", ParticipantChange::Unmute).await;
    assert!(unmuted && tell(&test, chat, "asha", &[], HOUR).await.notify_at.is_some());
    assert_eq!(due_for(&test).await, ["neema", "zawadi"]);
    test.balanced().await;
}

pub async fn reading_takes_a_notice_back<B: Backend>(test: TestStore<B>) {
    let chat = test.chat(&["asha", "juma"]).await;
    let unseen = tell(&test, chat, "asha", &["juma"], HOUR).await.message.id;
    let one = tell(&test, chat, "asha", &[], HOUR).await.message.id;
    let two = tell(&test, chat, "asha", &[], HOUR).await.message.id;
    let read = async |message| test.read_to(chat, user_id("juma"), message, unnoted).await.unwrap().unwrap();
    let (mail, _) = make_job(&test, chat, "juma", one).await;
    assert_eq!(read(unseen).await.cancelled_job, None, "the notice is about what came later");
    test.expect_status(mail, Status::Queued).await;
    let id = job_id(&format!("chat-{chat}-juma-{one}"));
    assert_eq!(read(one).await.cancelled_job, Some(id.clone()));
    test.expect_status(mail, Status::Cancelled).await;
    assert_eq!(test.job(&id, 0, 10).await.unwrap().unwrap().status, JobStatus::Cancelled);
    assert_eq!(read(two).await.cancelled_job, None, "once");

    let next = tell(&test, chat, "asha", &[], HOUR).await;
    assert!(next.notify_at.is_some(), "a new streak");
    assert_eq!(read(next.message.id).await.cancelled_job, None);
    assert!(due(&test).await.is_empty(), "it never became a job");
    test.balanced().await;
}

pub async fn what_is_sent_already_is_not_cancelled<B: Backend>(test: TestStore<B>) {
    let chat = test.chat(&["asha", "juma"]).await;
    let one = tell(&test, chat, "asha", &[], HOUR).await.message.id;
    let (mail, _) = make_job(&test, chat, "juma", one).await;
    test.start(mail, Channel::Email, 0).await;
    test.put_outcome(crate::fixture::outcome(mail, 1, Status::Sent)).await;
    let read = test.read_to(chat, user_id("juma"), one, unnoted).await.unwrap().unwrap();
    assert_eq!(read.cancelled_job, None);
    test.expect_status(mail, Status::Sent).await;
    let job = test.job(&job_id(&format!("chat-{chat}-juma-{one}")), 0, 10).await.unwrap().unwrap();
    assert_eq!(job.status, JobStatus::Finished, "nothing of it was left to cancel");
    test.balanced().await;
}

pub async fn a_job_that_comes_too_late_is_cancelled<B: Backend>(test: TestStore<B>) {
    let chat = test.chat(&["asha", "juma"]).await;
    let one = tell(&test, chat, "asha", &[], HOUR).await.message.id;
    test.read_to(chat, user_id("juma"), one, unnoted).await.unwrap().unwrap();
    let (mail, is_noted) = make_job(&test, chat, "juma", one).await;
    assert!(!is_noted, "it was read while its job was made");
    test.expect_status(mail, Status::Cancelled).await;
    test.balanced().await;
}

pub async fn a_job_made_before_a_crash_is_cancelled_too<B: Backend>(mut test: TestStore<B>) {
    let chat = test.chat(&["asha", "juma"]).await;
    let one = tell(&test, chat, "asha", &[], Duration::ZERO).await.message.id;
    let mail = first(test.take(Offer::new(&format!("chat-{chat}-juma-{one}")).to(Channel::Email, "juma").build()).await);
    test.reopen().await;
    let read = test.read_to(chat, user_id("juma"), one, unnoted).await.unwrap().unwrap();
    assert!(read.cancelled_job.is_some(), "nobody had noted it");
    test.expect_status(mail, Status::Cancelled).await;
    test.balanced().await;
}

pub async fn a_notice_goes_with_what_it_tells_of<B: Backend>(test: TestStore<B>) {
    for change in [ParticipantChange::Mute, ParticipantChange::Hide, ParticipantChange::Leave] {
        let chat = test.chat(&["asha", "juma"]).await;
        let one = tell(&test, chat, "asha", &[], HOUR).await.message.id;
        let (mail, _) = make_job(&test, chat, "juma", one).await;
        test.put_participant(chat, "juma", change).await;
        test.expect_status(mail, Status::Cancelled).await;
    }
    let chat = test.chat(&["asha", "juma", "neema"]).await;
    let one = tell(&test, chat, "asha", &[], HOUR).await.message.id;
    let two = tell(&test, chat, "asha", &[], HOUR).await.message.id;
    test.delete_message(chat, one, None, unnoted).await.unwrap().unwrap();
    let notices = due(&test).await;
    assert_eq!(notices.iter().map(|notice| (notice.first_message, notice.unread)).collect::<Vec<_>>(), [(one, 1), (one, 1)]);
    test.hide_message(chat, two, user_id("juma")).await.unwrap().unwrap();
    assert_eq!(due_for(&test).await, ["neema"]);
    test.delete_message(chat, two, None, unnoted).await.unwrap().unwrap();
    assert_eq!((due_for(&test).await, test.backend.number("SELECT count(*) FROM notify")), (vec![], 0));
    test.balanced().await;
}

pub async fn notices_outlive_a_restart<B: Backend>(mut test: TestStore<B>) {
    let chat = test.chat(&["asha", "juma", "neema"]).await;
    let one = tell(&test, chat, "asha", &[], Duration::ZERO).await.message.id;
    test.reopen().await;
    assert_eq!(test.notify_due(Timestamp::now(), 1).await.unwrap().len(), 1, "as many as asked for");
    assert_eq!(due_for(&test).await, ["juma", "neema"]);
    assert!(test.next_notify().await.unwrap().unwrap() > ago(HOUR));
    let drop = async |user: &str| test.notify_drop(chat, user_id(user), one).await.unwrap();
    assert!(drop("juma").await && !drop("juma").await);
    make_job(&test, chat, "neema", one).await;
    assert!(!drop("neema").await, "it has its job");
    assert_eq!(test.next_notify().await.unwrap(), None);
}
