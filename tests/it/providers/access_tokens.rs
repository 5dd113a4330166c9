//! The access token of FCM: when it is had, by whom, and what an endpoint that does not work comes to.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tarishi::channel::push::access_token::{AccessTokens, ServiceAccount};

use super::contract::{message, told};
use crate::support::{Clouds, until};

/// Within the last minutes of a token's hour.
const LATE: Duration = Duration::from_secs(3599 - 200);

fn tokens(clouds: &Clouds) -> AccessTokens {
    let account = ServiceAccount::parse(&clouds.mock.credentials().service_account_json).unwrap();
    AccessTokens::new(account, Duration::from_secs(30)).unwrap()
}

#[tokio::test]
async fn a_token_is_renewed_early_and_by_one() {
    let clouds = Clouds::start().await;
    let (tokens, now) = (tokens(&clouds), Instant::now());
    let first = tokens.get_at(now).await.unwrap();
    for seconds in [1, 600, 3200] {
        let same = tokens.get_at(now + Duration::from_secs(seconds)).await.unwrap();
        assert_eq!(same.authorization, first.authorization, "after {seconds} s");
    }
    assert_eq!(clouds.requests("token").len(), 1);
    // One asks for another, and hangs; everybody else goes on with what is still good.
    clouds.answer(json!([{ "provider": "token", "answer": "hang", "times": 1 }]));
    let mut renewing = std::pin::pin!(tokens.get_at(now + LATE));
    tokio::select! {
        token = &mut renewing => panic!("{token:?}"),
        () = until("it has asked", async || (clouds.requests("token").len() == 2).then_some(())) => {}
    }
    for _ in 0..50 {
        assert_eq!(tokens.get_at(now + LATE).await.unwrap().authorization, first.authorization);
    }
    assert_eq!(clouds.requests("token").len(), 2);
}

#[tokio::test]
async fn many_at_once_renew_once() {
    let clouds = Clouds::start().await;
    let (tokens, now) = (tokens(&clouds), Instant::now());
    let first = tokens.get_at(now).await.unwrap();
    futures_util::future::join_all((0..50).map(|_| tokens.get_at(now + LATE))).await.into_iter().for_each(|token| drop(token.unwrap()));
    assert_ne!(tokens.get_at(now + LATE).await.unwrap().authorization, first.authorization);
    assert_eq!(clouds.requests("token").len(), 2);
}

#[tokio::test]
async fn an_early_renewal_that_fails_is_not_tried_with_every_message() {
    let clouds = Clouds::start().await;
    let (tokens, now) = (tokens(&clouds), Instant::now());
    let first = tokens.get_at(now).await.unwrap();
    clouds.answer(json!([{ "provider": "token", "answer": { "status": 503 } }]));
    for milliseconds in (0..9_000).step_by(300) {
        let token = tokens.get_at(now + LATE + Duration::from_millis(milliseconds)).await.unwrap();
        assert_eq!(token.authorization, first.authorization, "it is still good");
    }
    assert_eq!(clouds.requests("token").len(), 2, "one that failed");
    tokens.get_at(now + LATE + Duration::from_secs(11)).await.unwrap();
    assert_eq!(clouds.requests("token").len(), 3);
    // Until it is good no more.
    assert!(tokens.get_at(now + Duration::from_hours(1)).await.is_err());
}

#[tokio::test]
async fn an_endpoint_that_does_not_work_is_waited_for_and_one_that_refuses_is_told() {
    let clouds = Clouds::start().await;
    for (answer, expected) in [
        (json!("reset_before"), "transient connection_lost 0"),
        (json!("reset_after"), "transient connection_lost 0"),
        (json!("huge"), "transient provider_unavailable 0"),
        (json!("html"), "transient provider_unavailable 0"),
        (json!("nonsense"), "transient unexpected_answer 0"),
        (json!("empty"), "transient provider_unavailable 0"),
        (json!("cut"), "transient unexpected_answer 0"),
        (json!("hang"), "transient timeout 0"),
        (json!({ "status": 429 }), "transient rate_limited 0"),
        (json!({ "status": 429, "retry_after": "30" }), "transient rate_limited 30"),
        (json!({ "status": 503, "html": true }), "transient provider_unavailable 0"),
        (json!({ "status": 413 }), "config authentication_failed"),
        (json!("redirect"), "config config_refused"),
        (json!("auth"), "config authentication_failed"),
        (json!({ "status": 200, "body": "{\"access_token\":\"a\\nb\",\"expires_in\":3599}" }), "transient unexpected_answer 0"),
    ] {
        let call_timeout = if answer == "hang" { "2s" } else { "1h" };
        let provider = clouds.provider("fcm", &[("channel.push.call_timeout", call_timeout.into())]);
        clouds.answer(json!([{ "provider": "token", "answer": answer }]));
        let outcome = provider.send(&message("push", "device")).await;
        assert_eq!(told(&outcome), expected, "answered {answer}: {outcome:?}");
        assert!(outcome.detail().unwrap().contains("access token"), "{outcome:?}");
    }
    assert!(clouds.requests("fcm").is_empty(), "and no message has left");
}

#[tokio::test]
async fn an_assertion_names_the_key_it_is_signed_with() {
    let clouds = Clouds::start().await;
    tokens(&clouds).get().await.unwrap();
    let mut account: Value = serde_json::from_str(&clouds.mock.credentials().service_account_json).unwrap();
    account["private_key_id"] = "another".into();
    let other = AccessTokens::new(ServiceAccount::parse(&account.to_string()).unwrap(), Duration::from_secs(30)).unwrap();
    let refused = other.get().await.unwrap_err();
    assert_eq!(told(&refused), "config authentication_failed", "{refused:?}");
}
