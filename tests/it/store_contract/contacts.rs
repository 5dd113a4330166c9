//! Contacts and the devices that belong to them.

use tarishi::model::{Contact, PushToken, PushTokenEntry, UserId};

use crate::fixture::{Backend, HOUR, TestStore, ahead, next_millisecond, user_id};

fn token(name: &str) -> PushToken {
    name.parse().unwrap()
}

fn contact(name: &str, tokens: &[&str]) -> Contact {
    let entry = |name: &&str| PushTokenEntry { token: token(name), platform: Some("android".to_owned()), registered_at: None };
    Contact { name: Some(name.to_owned()), push_tokens: tokens.iter().map(entry).collect(), ..Contact::default() }
}

async fn put<B: Backend>(test: &TestStore<B>, user: &str, next: Option<Contact>) -> Option<Contact> {
    test.update_contact(user_id(user), move |_| Ok::<_, ()>(next.clone())).await.unwrap().unwrap()
}

async fn tokens_of<B: Backend>(test: &TestStore<B>, user: &str) -> Vec<String> {
    let contact = test.contact(&user_id(user)).await.unwrap().unwrap_or_default();
    contact.push_tokens.iter().map(|entry| entry.token.to_string()).collect()
}

pub async fn a_contact_is_put_changed_and_deleted<B: Backend>(test: TestStore<B>) {
    assert!(!test.has_contacts());
    assert_eq!(test.contact(&user_id("asha")).await.unwrap(), None);
    let put_contact = put(&test, "asha", Some(contact("Asha", &["phone"]))).await.unwrap();
    assert_eq!(put_contact.name.as_deref(), Some("Asha"));
    assert!(put_contact.push_tokens[0].registered_at.is_some(), "set by the daemon");
    assert!(test.has_contacts());

    let registered_at = put_contact.push_tokens[0].registered_at;
    let change =
        |present: Option<Contact>| Ok::<_, ()>(Some(Contact { email: Some("asha@example.com".parse().unwrap()), ..present.unwrap() }));
    test.update_contact(user_id("asha"), change).await.unwrap().unwrap();
    let changed = test.contact(&user_id("asha")).await.unwrap().unwrap();
    assert_eq!(
        (changed.name.as_deref(), changed.email.map(|email| email.to_string())),
        (Some("Asha"), Some("asha@example.com".to_owned()))
    );
    assert_eq!(changed.push_tokens[0].registered_at, registered_at, "a change elsewhere does not touch the device");

    next_millisecond().await;
    let put_again = put(&test, "asha", Some(contact("Asha", &["phone", "tablet"]))).await.unwrap();
    assert_eq!(put_again.push_tokens[0].registered_at, registered_at, "a device that stays keeps its age");
    assert!(put_again.push_tokens[1].registered_at > registered_at);

    assert_eq!(put(&test, "asha", None).await, None);
    assert_eq!(test.contact(&user_id("asha")).await.unwrap(), None);
    assert!(tokens_of(&test, "asha").await.is_empty());
}

pub async fn a_refused_change_changes_nothing<B: Backend>(test: TestStore<B>) {
    put(&test, "asha", Some(contact("Asha", &["phone"]))).await;
    let refused = test.update_contact(user_id("asha"), |_| Err("no")).await.unwrap();
    assert_eq!(refused, Err("no"));
    assert_eq!(test.contact(&user_id("asha")).await.unwrap().unwrap().name.as_deref(), Some("Asha"));
}

pub async fn a_device_belongs_to_whoever_registered_it_last<B: Backend>(test: TestStore<B>) {
    test.register_push_token(user_id("asha"), token("phone"), Some("ios".to_owned())).await.unwrap();
    test.register_push_token(user_id("juma"), token("phone"), Some("web".to_owned())).await.unwrap();
    assert!(tokens_of(&test, "asha").await.is_empty());
    let juma = test.contact(&user_id("juma")).await.unwrap().unwrap();
    assert_eq!(juma.push_tokens[0].platform.as_deref(), Some("web"));
    // A whole contact takes it as well.
    put(&test, "asha", Some(contact("Asha", &["phone"]))).await;
    assert_eq!(tokens_of(&test, "asha").await, ["phone"]);
    assert!(tokens_of(&test, "juma").await.is_empty());
}

pub async fn only_the_owner_forgets_a_device<B: Backend>(test: TestStore<B>) {
    test.register_push_token(user_id("asha"), token("phone"), None).await.unwrap();
    assert!(!test.forget_push_token(user_id("juma"), token("phone")).await.unwrap());
    assert!(test.forget_push_token(user_id("asha"), token("phone")).await.unwrap());
    assert!(!test.forget_push_token(user_id("asha"), token("phone")).await.unwrap());
    assert_eq!(test.contact(&user_id("asha")).await.unwrap(), None);
}

pub async fn the_oldest_devices_are_forgotten<B: Backend>(test: TestStore<B>) {
    for number in 0..25 {
        // A millisecond of its own for each, so that the order is theirs.
        next_millisecond().await;
        test.register_push_token(user_id("asha"), token(&format!("device{number:02}")), None).await.unwrap();
    }
    test.register_push_token(user_id("juma"), token("other"), None).await.unwrap();
    assert_eq!(tokens_of(&test, "asha").await, (5..25).map(|number| format!("device{number:02}")).collect::<Vec<_>>());
    assert_eq!(tokens_of(&test, "juma").await, ["other"]);
}

pub async fn the_device_just_registered_is_never_the_one_forgotten<B: Backend>(mut test: TestStore<B>) {
    for number in 0..20 {
        test.register_push_token(user_id("asha"), token(&format!("device{number:02}")), None).await.unwrap();
    }
    // The clock was an hour ahead when those were registered.
    test.reopen_after(&format!("UPDATE push_tokens SET registered_at = {}", ahead(HOUR).as_millis())).await;
    test.register_push_token(user_id("asha"), token("new"), None).await.unwrap();
    let tokens = tokens_of(&test, "asha").await;
    assert_eq!(tokens.len(), 20);
    assert!(tokens.contains(&"new".to_owned()), "{tokens:?}");
}

pub async fn contacts_are_found_together<B: Backend>(test: TestStore<B>) {
    for user in ["asha", "juma"] {
        put(&test, user, Some(contact(user, &[]))).await;
    }
    test.register_push_token(user_id("neema"), token("phone"), None).await.unwrap();
    let users: Vec<UserId> = ["asha", "neema", "nobody"].map(user_id).to_vec();
    let found = test.contacts(users).await.unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found[&user_id("asha")].name.as_deref(), Some("asha"));
    assert_eq!(found[&user_id("neema")].push_tokens.len(), 1);
}

pub async fn contacts_are_known_after_a_restart<B: Backend>(mut test: TestStore<B>) {
    test.reopen().await;
    assert!(!test.has_contacts());
    test.register_push_token(user_id("asha"), token("phone"), None).await.unwrap();
    test.reopen().await;
    assert!(test.has_contacts());
    assert_eq!(tokens_of(&test, "asha").await, ["phone"]);
}
