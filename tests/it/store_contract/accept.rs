//! Jobs in: new, known, contradicting.

use tarishi::{
    model::{Channel, Skipped, SkippedReason, Status},
    store::{Accepted, Conflicts, JobStatus, Placement},
};

use crate::fixture::{Backend, Offer, PROVIDER, TestStore, first, job_id, user_id};

fn order(id: &str) -> Offer {
    Offer::new(id).to(Channel::Email, "asha").to(Channel::Sms, "asha").to(Channel::Live, "juma")
}

fn no_push() -> Skipped {
    Skipped { user_id: Some(user_id("juma")), channel: Channel::Push, reason: SkippedReason::NoAddress }
}

pub async fn a_new_job_is_written_whole<B: Backend>(test: TestStore<B>) {
    test.take(order("order").template("new_message").skipping(no_push()).build()).await;
    let job = test.job(&job_id("order"), 0, 10).await.unwrap().unwrap();
    assert_eq!((job.id.as_str(), job.template.as_deref(), job.status), ("order", Some("new_message"), JobStatus::Running));
    assert_eq!((job.deliveries_total, job.open, job.finished_at), (3, 3, None));
    assert_eq!(job.skipped, [no_push()]);
    let shown: Vec<_> = job.deliveries.iter().map(|view| (view.channel, view.address.as_str(), view.status)).collect();
    assert_eq!(
        shown,
        [
            (Channel::Email, "a***@e***.com", Status::Queued),
            (Channel::Sms, "+2557******78", Status::Queued),
            (Channel::Live, "inbox", Status::Queued)
        ]
    );
    let audit = test.balanced().await;
    assert_eq!((audit.accepted, audit.purged, audit.unmade), (3, 0, 0));
}

pub async fn a_known_id_with_the_same_body_is_a_repeat<B: Backend>(mut test: TestStore<B>) {
    test.take(order("order").skipping(no_push()).build()).await;
    let repeat = Ok(vec![Accepted::Repeat { deliveries: 3, skipped: vec![no_push()] }]);
    assert_eq!(test.offer(vec![order("order").build()]).await, repeat);
    test.reopen().await;
    assert_eq!(test.offer(vec![order("order").build()]).await, repeat);
    assert_eq!(test.balanced().await.accepted, 3);
}

pub async fn a_known_id_with_another_body_is_a_conflict<B: Backend>(test: TestStore<B>) {
    test.take(order("order").build()).await;
    assert_eq!(test.offer(vec![order("order").body(2).build()]).await, Err(Conflicts(vec![0])));
    assert_eq!(test.balanced().await.accepted, 3);
}

pub async fn an_array_is_all_or_nothing<B: Backend>(test: TestStore<B>) {
    test.take(order("known").build()).await;
    test.take(order("other").build()).await;
    let array = vec![order("new").build(), order("known").body(2).build(), order("newer").build(), order("other").body(2).build()];
    assert_eq!(test.offer(array).await, Err(Conflicts(vec![1, 3])));
    assert!(test.job(&job_id("new"), 0, 1).await.unwrap().is_none());

    let accepted = test.offer(vec![order("new").build(), order("known").build(), order("newer").build()]).await.unwrap();
    assert!(matches!(accepted[..], [Accepted::New { .. }, Accepted::Repeat { deliveries: 3, .. }, Accepted::New { .. }]));
    assert_eq!(test.balanced().await.accepted, 12);
}

pub async fn an_array_may_not_contradict_itself<B: Backend>(test: TestStore<B>) {
    let array = vec![order("order").build(), order("order").body(2).build()];
    assert_eq!(test.offer(array).await, Err(Conflicts(vec![1])));
    assert_eq!(test.balanced().await.accepted, 0);

    let accepted = test.offer(vec![order("order").build(), order("order").build()]).await.unwrap();
    assert!(matches!(accepted[..], [Accepted::New { .. }, Accepted::Repeat { deliveries: 3, .. }]));
    assert!(test.is_writable());
    assert_eq!(test.balanced().await.accepted, 3);
}

/// The answers to these groups, each without the numbers of rows: how many were new and how many repeats, or where the conflicts are.
async fn offer_groups<B: Backend>(test: &TestStore<B>, groups: Vec<Vec<Offer>>) -> Vec<Result<(usize, usize), Vec<usize>>> {
    let groups = groups.into_iter().map(|group| group.into_iter().map(Offer::build).collect()).collect();
    let answers = test.offer_groups(groups).await.unwrap();
    let count = |accepted: Vec<Accepted>| {
        let new = accepted.iter().filter(|one| matches!(one, Accepted::New { .. })).count();
        (new, accepted.len() - new)
    };
    answers.into_iter().map(|answer| answer.map(count).map_err(|conflicts| conflicts.0)).collect()
}

pub async fn groups_stand_and_fall_alone<B: Backend>(test: TestStore<B>) {
    test.take(order("known").build()).await;
    let commits = test.commits();
    let groups = vec![
        vec![order("one").body(1), order("known")],
        vec![order("lost"), order("known").body(2), order("lost too")],
        vec![order("two")],
        Vec::new(),
    ];
    assert_eq!(offer_groups(&test, groups).await, [Ok((1, 1)), Err(vec![1]), Ok((1, 0)), Ok((0, 0))]);
    assert_eq!(test.commits(), commits + 1, "one commit for all of them");
    for (id, is_written) in [("one", true), ("lost", false), ("lost too", false), ("two", true)] {
        assert_eq!(test.job(&job_id(id), 0, 1).await.unwrap().is_some(), is_written, "{id}");
    }
    assert_eq!(test.balanced().await.accepted, 9);
}

pub async fn a_group_sees_those_before_it<B: Backend>(test: TestStore<B>) {
    let groups = vec![
        vec![order("order")],
        vec![order("order"), order("other")],
        vec![order("other").body(2), order("lost")],
        // What an earlier group did not write is new to a later one.
        vec![order("lost").body(2)],
    ];
    assert_eq!(offer_groups(&test, groups).await, [Ok((1, 0)), Ok((1, 1)), Err(vec![0]), Ok((1, 0))]);
    assert_eq!(test.balanced().await.accepted, 9);
}

pub async fn a_job_without_deliveries_is_finished_at_once<B: Backend>(test: TestStore<B>) {
    test.take(Offer::new("nobody").skipping(no_push()).build()).await;
    let job = test.job(&job_id("nobody"), 0, 10).await.unwrap().unwrap();
    assert_eq!((job.status, job.deliveries_total, job.open), (JobStatus::Finished, 0, 0));
    assert_eq!(job.finished_at, Some(job.accepted_at));
    assert_eq!(test.balanced().await.accepted, 0);
}

pub async fn deliveries_begin_where_they_were_placed<B: Backend>(test: TestStore<B>) {
    let waiting = first(test.take(Offer::new("waiting").to(Channel::Email, "a").build()).await);
    let leased = first(test.take(Offer::new("leased").to(Channel::Email, "b").placed(Placement::Leased).build()).await);
    let placement = Placement::Sending { provider: PROVIDER };
    let sending = first(test.take(Offer::new("sending").to(Channel::Email, "c").placed(placement).build()).await);

    // Only what nobody holds can be claimed; what is leased belongs to the lane that has room for it.
    assert_eq!(test.claimed_keys(Channel::Email).await, [waiting]);
    test.start(leased, Channel::Email, 0).await;
    let view = test.view(sending).await;
    assert_eq!((view.status, view.provider.as_deref()), (Status::Sending, Some(PROVIDER)));
    let job = test.job(&job_id("sending"), 0, 1).await.unwrap().unwrap();
    let tarishi::store::Attempts::List(attempts) = &job.deliveries[0].attempts else { panic!("a job view lists attempts") };
    assert!(matches!(&attempts[..], [attempt] if attempt.number == 1 && attempt.finished_at.is_none()));
    test.balanced().await;
}
