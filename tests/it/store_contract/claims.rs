//! Leases: who may take what, and for how long.

use std::collections::HashSet;

use tarishi::{
    model::{Channel, DeliveryKey, Priority, Status, Timestamp},
    store::{Gate, Placement},
};

use crate::fixture::{Backend, HOUR, Offer, TestStore, address, ahead, first, job_id};

pub async fn only_what_is_due_is_claimed<B: Backend>(test: TestStore<B>) {
    let later = ahead(HOUR);
    let much_later = ahead(2 * HOUR);
    test.take(Offer::new("much later").to(Channel::Email, "a").due(much_later).build()).await;
    test.take(Offer::new("later").to(Channel::Email, "b").due(later).build()).await;
    let now = first(test.take(Offer::new("now").to(Channel::Email, "c").build()).await);
    let claimed = test.claim(Channel::Email, [10; 3], test.lease()).await.unwrap();
    assert!(matches!(&claimed.deliveries[..], [delivery] if delivery.key == now));
    assert_eq!(claimed.next_due, [Timestamp::FAR_FUTURE, later, Timestamp::FAR_FUTURE]);
    assert!(claimed.unreadable.is_empty());
}

pub async fn priorities_are_claimed_apart<B: Backend>(test: TestStore<B>) {
    for priority in Priority::ALL {
        for place in 0..3 {
            test.take(Offer::new(&format!("{priority}{place}")).to(Channel::Email, "asha").priority(priority).build()).await;
        }
    }
    let claimed = test.claim(Channel::Email, [1, 0, 2], test.lease()).await.unwrap();
    let count = |priority| claimed.deliveries.iter().filter(|delivery| delivery.priority == priority).count();
    assert_eq!(Priority::ALL.map(count), [1, 0, 2]);
    assert!(claimed.next_due.iter().all(|due| *due <= Timestamp::now()));
    assert_eq!(test.claim_due(Channel::Email).await.len(), 6);
}

pub async fn nothing_is_claimed_twice<B: Backend>(test: TestStore<B>) {
    test.take(Offer::new("job").many(200).build()).await;
    let claim = || test.claim(Channel::Email, [50; 3], test.lease());
    let (a, b, c, d) = tokio::join!(claim(), claim(), claim(), claim());
    let keys: Vec<DeliveryKey> = [a, b, c, d].into_iter().flat_map(|claimed| claimed.unwrap().deliveries).map(|one| one.key).collect();
    assert_eq!(keys.len(), 200);
    assert_eq!(keys.iter().collect::<HashSet<_>>().len(), 200);
    let again = test.claim(Channel::Email, [50; 3], test.lease()).await.unwrap();
    assert!(again.deliveries.is_empty());
    assert_eq!(again.next_due, [Timestamp::FAR_FUTURE; 3]);
}

pub async fn channels_are_claimed_apart<B: Backend>(test: TestStore<B>) {
    let job = test.take(Channel::ALL.into_iter().fold(Offer::new("job"), |offer, channel| offer.to(channel, "asha")).build()).await;
    for (ordinal, channel) in (0..).zip(Channel::ALL) {
        assert_eq!(test.claimed_keys(channel).await, [DeliveryKey { job, ordinal }]);
    }
}

pub async fn a_delivery_is_claimed_as_it_was_accepted<B: Backend>(test: TestStore<B>) {
    let expires_at = ahead(HOUR);
    let offer = Offer::new("job").template("new_message").collapse("flat").to(Channel::Push, "asha").expires(expires_at);
    let due_at = offer.rows()[0].due_at;
    test.take(offer.build()).await;
    let delivery = test.claim_due(Channel::Push).await.remove(0);
    assert_eq!((delivery.channel, delivery.priority, delivery.attempts), (Channel::Push, Priority::Normal, 0));
    assert_eq!((delivery.due_at, delivery.expires_at), (due_at, expires_at));
    assert_eq!(delivery.address, address(Channel::Push, "asha"));
    assert_eq!(delivery.user_id.as_ref().map(tarishi::model::UserId::as_str), Some("asha"));
    assert_eq!(delivery.locale.as_ref().map(tarishi::model::Locale::as_str), Some("sw-TZ"));
    assert_eq!(delivery.timezone.map(tarishi::model::TimeZone::as_str), Some("Africa/Dar_es_Salaam"));
    assert_eq!((&delivery.job.id, delivery.job.collapse_key.as_deref()), (&job_id("job"), Some("flat")));
    assert_eq!(test.view(delivery.key).await.id, delivery.id);
}

pub async fn leases_are_void_after_a_restart<B: Backend>(mut test: TestStore<B>) {
    let leased = first(test.take(Offer::new("leased").to(Channel::Email, "asha").placed(Placement::Leased).build()).await);
    let claimed = first(test.take(Offer::new("claimed").to(Channel::Email, "asha").build()).await);
    let earlier = test.lease();
    test.claim_due(Channel::Email).await;
    test.reopen().await;
    assert_eq!(test.claimed_keys(Channel::Email).await, [leased, claimed]);
    // Whoever held it before is somebody else now.
    let begin = tarishi::store::Begin { key: claimed, channel: Channel::Email, attempts: 0, provider: "ghost", list: None };
    assert_eq!(test.begin(vec![begin], earlier).await.unwrap(), [Gate::Lost]);
    test.balanced().await;
}

pub async fn leases_are_given_back<B: Backend>(test: TestStore<B>) {
    test.take(Offer::new("mail").many(3).build()).await;
    test.take(Offer::new("sms").to(Channel::Sms, "asha").placed(Placement::Leased).build()).await;
    let keys = test.claimed_keys(Channel::Email).await;
    test.open_gate(keys[0], Channel::Email, 0).await;
    // The attempt under way stays, and so do other lanes' leases.
    assert_eq!(test.give_back(Channel::Email, test.owner()).await.unwrap(), 2);
    assert_eq!(test.give_back(Channel::Email, test.owner()).await.unwrap(), 0);
    assert_eq!(test.open_gate(keys[1], Channel::Email, 0).await, Gate::Lost);
    assert_eq!(test.claimed_keys(Channel::Email).await, keys[1..]);
    assert!(test.claim_due(Channel::Sms).await.is_empty());
}

pub async fn leases_are_renewed<B: Backend>(test: TestStore<B>) {
    test.take(Offer::new("mail").many(2).build()).await;
    test.take(Offer::new("later").to(Channel::Email, "asha").due(ahead(HOUR)).build()).await;
    test.take(Offer::new("sms").to(Channel::Sms, "asha").placed(Placement::Leased).build()).await;
    let short = test.lease_until(ahead(HOUR));
    test.claim(Channel::Email, [10; 3], short).await.unwrap();
    let long = test.lease_until(ahead(5 * HOUR));
    assert_eq!(test.renew_leases(Channel::Email, long).await.unwrap(), 2);
    let held = format!("SELECT count(*) FROM deliveries WHERE lease_until = {}", long.until.as_millis());
    assert_eq!(test.backend.number(&held), 2);
    // Nobody else's are prolonged.
    let foreign = tarishi::store::Lease { owner: test.owner() + 1, ..long };
    assert_eq!(test.renew_leases(Channel::Email, foreign).await.unwrap(), 0);
}

pub async fn a_row_that_does_not_read_back_fails_alone<B: Backend>(mut test: TestStore<B>) {
    let bad = first(test.take(Offer::new("bad row").to(Channel::Email, "asha").build()).await);
    let worse = first(test.take(Offer::new("bad job").to(Channel::Email, "asha").build()).await);
    let good = first(test.take(Offer::new("good").to(Channel::Email, "asha").build()).await);
    test.reopen_after(&format!(
        "UPDATE deliveries SET address = 'nowhere' WHERE job = {}; UPDATE jobs SET envelope = '{{' WHERE num = {}",
        bad.job, worse.job
    ))
    .await;
    let claimed = test.claim(Channel::Email, [10; 3], test.lease()).await.unwrap();
    assert!(matches!(&claimed.deliveries[..], [delivery] if delivery.key == good));
    assert_eq!(claimed.unreadable.len(), 2);
    for key in [bad, worse] {
        let view = test.view(key).await;
        assert_eq!((view.status, view.code.as_deref()), (Status::Failed, Some("unreadable")));
    }
    test.balanced().await;
}
