//! What operators ask.

use std::collections::HashSet;

use tarishi::{
    model::{Channel, DeliveryKey, Status},
    store::{Attempts, DeliveryFilter, DeliveryView, Placement},
};

use crate::fixture::{Backend, HOUR, Offer, PROVIDER, TestStore, ago, job_id, outcome};

fn keys(views: &[DeliveryView]) -> Vec<DeliveryKey> {
    views.iter().map(|view| view.key).collect()
}

fn all(limit: usize) -> DeliveryFilter {
    DeliveryFilter { limit, ..DeliveryFilter::default() }
}

/// Forty jobs of three deliveries, of two templates, to four users, in many statuses.
async fn fill<B: Backend>(test: &TestStore<B>) {
    for number in 0..40 {
        let user = format!("user{}", number % 4);
        let offer = Offer::new(&format!("job{number}")).to(Channel::Email, &user).to(Channel::Sms, &user).to(Channel::Email, "everybody");
        let offer = if number % 2 == 0 { offer.template("even") } else { offer.template("odd") };
        let sending = offer.placed(Placement::Sending { provider: PROVIDER }).accepted_at(ago((40 - number) * HOUR));
        let job = test.take(sending.build()).await;
        let end = [Status::Sent, Status::Failed, Status::Queued, Status::Expired][number as usize % 4];
        test.put_outcome(outcome(DeliveryKey { job, ordinal: 0 }, 1, end)).await;
        if number % 5 == 0 {
            let sms = tarishi::store::Record { channel: Channel::Sms, ..outcome(DeliveryKey { job, ordinal: 1 }, 1, Status::Queued) };
            test.cancel(&job_id(&format!("job{number}"))).await.unwrap();
            test.put_outcome(sms).await;
        }
    }
}

pub async fn pages_have_no_holes_and_no_repeats<B: Backend>(test: TestStore<B>) {
    assert!(test.list(all(10)).await.is_empty());
    fill(&test).await;
    let whole = keys(&test.list(all(500)).await);
    assert_eq!(whole.len(), 120);
    assert!(whole.is_sorted_by(|one, next| one > next), "newest first");
    for limit in [1, 7, 40, 119, 120, 121] {
        assert_eq!(keys(&test.list(all(limit)).await), whole, "in pages of {limit}");
    }
    // What is accepted while somebody turns pages does not disturb them.
    let page = test.deliveries(all(50)).await.unwrap();
    test.take(Offer::new("meanwhile").many(3).build()).await;
    let rest = test.list(DeliveryFilter { cursor: page.next_cursor, ..all(50) }).await;
    assert_eq!([keys(&page.deliveries), keys(&rest)].concat(), whole);
    test.balanced().await;
}

pub async fn every_filter_tells_the_truth<B: Backend>(test: TestStore<B>) {
    fill(&test).await;
    let whole = test.list(all(500)).await;
    let statuses = Status::ALL.into_iter().map(Some).chain([None]);
    let channels = [None, Some(Channel::Email), Some(Channel::Sms), Some(Channel::Live)];
    let users = [None, Some("user1"), Some("everybody"), Some("nobody")];
    let templates = [None, Some("even"), Some("none")];
    let sinces = [None, Some(ago(20 * HOUR + HOUR / 2)), Some(ago(HOUR / 2))];
    let mut seen = HashSet::new();
    for status in statuses {
        for (channel, user) in channels.into_iter().flat_map(|channel| users.map(|user| (channel, user))) {
            for (template, since) in templates.into_iter().flat_map(|template| sinces.map(|since| (template, since))) {
                let expected: Vec<DeliveryKey> = whole
                    .iter()
                    .filter(|view| status.is_none_or(|status| view.status == status))
                    .filter(|view| channel.is_none_or(|channel| view.channel == channel))
                    .filter(|view| user.is_none_or(|user| view.user_id.as_deref() == Some(user)))
                    .filter(|view| template.is_none_or(|template| view.template.as_deref() == Some(template)))
                    .filter(|view| since.is_none_or(|since| view.accepted_at >= since))
                    .map(|view| view.key)
                    .collect();
                let (user, template) = (user.map(str::to_owned), template.map(str::to_owned));
                let filter = DeliveryFilter { status, channel, user, template, since, cursor: None, limit: 7 };
                assert_eq!(keys(&test.list(filter.clone()).await), expected, "{filter:?}");
                seen.insert(expected.len());
            }
        }
    }
    assert!(seen.len() > 10, "the filters make a difference: {seen:?}");
}

pub async fn since_does_not_trust_the_order_of_the_clock<B: Backend>(test: TestStore<B>) {
    // Two requests at once: the one that looked at the clock first is written second.
    let moment = ago(HOUR);
    let second = moment.saturating_add(std::time::Duration::from_millis(1));
    let one = test.take(Offer::new("one").to(Channel::Email, "asha").accepted_at(second).build()).await;
    let other = test.take(Offer::new("other").to(Channel::Email, "asha").accepted_at(moment).build()).await;
    let since = |since| test.list(DeliveryFilter { since: Some(since), ..all(10) });
    assert_eq!(since(moment).await.iter().map(|view| view.key.job).collect::<Vec<_>>(), [other, one]);
    assert_eq!(since(second).await.iter().map(|view| view.key.job).collect::<Vec<_>>(), [one]);
    assert!(since(ago(HOUR / 2)).await.is_empty());
}

pub async fn a_job_is_viewed_in_pages<B: Backend>(test: TestStore<B>) {
    test.take(Offer::new("before").many(3).build()).await;
    let job = test.take(Offer::new("job").many(25).build()).await;
    test.take(Offer::new("after").many(3).build()).await;
    let (mut from, mut seen) = (0, Vec::new());
    loop {
        let view = test.job(&job_id("job"), from, 10).await.unwrap().unwrap();
        assert_eq!(view.deliveries_total, 25);
        assert!(view.deliveries.len() <= 10);
        seen.extend(keys(&view.deliveries));
        let Some(cursor) = view.next_cursor else { break };
        from = cursor.parse().unwrap();
    }
    assert_eq!(seen, (0..25).map(|ordinal| DeliveryKey { job, ordinal }).collect::<Vec<_>>());
    let exact = test.job(&job_id("job"), 0, 25).await.unwrap().unwrap();
    assert_eq!((exact.deliveries.len(), exact.next_cursor), (25, None));
}

pub async fn a_job_shows_its_attempts<B: Backend>(test: TestStore<B>) {
    let key = test.sending("job").await;
    let failed = tarishi::store::Record {
        code: Some(tarishi::model::Code::RATE_LIMITED),
        detail: Some("slow down".to_owned()),
        ..outcome(key, 1, Status::Queued)
    };
    test.put_outcome(failed).await;
    test.start(key, Channel::Email, 1).await;
    let job = test.job(&job_id("job"), 0, 1).await.unwrap().unwrap();
    let Attempts::List(attempts) = &job.deliveries[0].attempts else { panic!("a job view lists attempts") };
    let [one, two] = &attempts[..] else { panic!("{attempts:?}") };
    assert_eq!((one.number, one.outcome.as_deref(), one.code.as_deref()), (1, Some("transient"), Some("rate_limited")));
    assert_eq!((one.detail.as_deref(), one.provider.as_deref()), (Some("slow down"), Some(PROVIDER)));
    assert_eq!((two.number, two.outcome.as_deref(), two.finished_at), (2, None, None));
    assert!(matches!(test.view(key).await.attempts, Attempts::Count(2)));
}

pub async fn an_unknown_job_is_none<B: Backend>(test: TestStore<B>) {
    assert!(test.job(&job_id("nobody"), 0, 10).await.unwrap().is_none());
}
