//! Revoked tokens: kept, taken back, forgotten.

use tarishi::{
    model::{Revocation, Revoked},
    store::{NewRevocation, RevocationFilter},
};

use crate::fixture::{Backend, DAY, TestStore, next_millisecond};

fn user(id: &str) -> Revoked {
    Revoked::UserId(id.parse().unwrap())
}

fn token(jti: &str) -> Revoked {
    Revoked::Jti(jti.to_owned())
}

async fn revoke<B: Backend>(test: &TestStore<B>, what: Revoked, reason: Option<&str>) -> Revocation {
    test.revoke(NewRevocation { what, reason: reason.map(str::to_owned), by: "backend".to_owned() }).await.unwrap()
}

async fn page<B: Backend>(test: &TestStore<B>, what: Option<Revoked>, before: Option<i64>, limit: usize) -> Vec<Revocation> {
    test.revocations(RevocationFilter { what, before, limit }).await.unwrap()
}

pub async fn they_outlive_a_restart_and_can_be_taken_back<B: Backend>(mut test: TestStore<B>) {
    let first = revoke(&test, user("42"), Some("stolen phone")).await;
    let second = revoke(&test, token("a"), None).await;
    let third = revoke(&test, user("a"), None).await;
    assert_eq!((&first.what, first.reason.as_deref(), first.revoked_by.as_str()), (&user("42"), Some("stolen phone"), "backend"));
    test.reopen().await;
    let mut in_force = test.revocations_in_force().await.unwrap();
    in_force.sort_by_key(|revocation| revocation.id);
    assert_eq!(in_force, [first.clone(), second.clone(), third.clone()]);
    assert_eq!(page(&test, None, None, 2).await, [third.clone(), second.clone()]);
    assert_eq!(page(&test, None, Some(second.id), 2).await, std::slice::from_ref(&first));
    assert_eq!(page(&test, Some(token("a")), None, 2).await, [second]);
    assert_eq!(page(&test, Some(user("a")), None, 2).await, [third]);
    assert_eq!(test.unrevoke(first.id).await.unwrap(), Some(first.clone()));
    assert_eq!(test.unrevoke(first.id).await.unwrap(), None);
    assert_eq!(page(&test, Some(user("42")), None, 2).await, []);
}

pub async fn a_repeat_covers_up_to_the_later_moment<B: Backend>(test: TestStore<B>) {
    let first = revoke(&test, user("42"), Some("stolen phone")).await;
    next_millisecond().await;
    let again = revoke(&test, user("42"), None).await;
    assert!(again.revoked_at > first.revoked_at);
    assert_eq!(again, Revocation { revoked_at: again.revoked_at, ..first });
    assert_eq!(page(&test, None, None, 10).await, [again]);
}

pub async fn the_purge_forgets_old_revocations<B: Backend>(mut test: TestStore<B>) {
    revoke(&test, user("42"), None).await;
    revoke(&test, token("a"), None).await;
    assert_eq!(test.purge().await.revocations, 0);
    test.settings.revocation_retention = DAY;
    test.reopen_after(&format!("UPDATE revocations SET revoked_at = revoked_at - {} WHERE user_id = '42'", 2 * DAY.as_millis())).await;
    assert_eq!(test.revocations_in_force().await.unwrap().len(), 1);
    assert_eq!(test.purge().await.revocations, 1);
    assert_eq!(page(&test, None, None, 10).await.len(), 1);
}
