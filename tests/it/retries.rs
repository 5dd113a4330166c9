//! A provider that fails as providers do: refusing, silent after accepting, losing messages, disliking addresses.

use serde_json::Value;

use crate::support::{Setup, job, recipient};

#[tokio::test(flavor = "multi_thread")]
async fn through_a_failing_provider_every_delivery_comes_to_a_true_end() {
    // Half of the attempts fail, so the breaker opens and closes all the while.
    let setup = Setup::new().with_quick_retries().with("provider.outbox.chaos", &0.6).with("breaker.open", "5ms");
    // So many that none of them runs out of attempts: twenty failures in a row come about once in a few hundred runs.
    let mut setup = setup.with("channel.email.retry.attempts", &200);
    let daemon = setup.start().await;
    let people: Vec<Value> = (0..300).map(|user| recipient(&user.to_string())).collect();
    daemon.api.post("/v1/jobs", &job("storm", &people, &["email"])).await.expect(202);
    daemon.finished("storm").await;

    let (deliveries, record) = (daemon.deliveries("storm").await, setup.record());
    assert_eq!(deliveries.len(), 300);
    let mut retried = 0;
    for delivery in &deliveries {
        let attempts = delivery["attempts"].as_array().unwrap();
        let outcome = |attempt: &Value| attempt["outcome"].as_str().unwrap().to_owned();
        let (last, earlier) = attempts.split_last().unwrap();
        retried += usize::from(!earlier.is_empty());
        assert!(earlier.iter().all(|attempt| matches!(outcome(attempt).as_str(), "transient" | "unknown")), "{delivery}");
        let accepted = record.get(delivery["id"].as_str().unwrap()).map_or(0, |(times, _)| *times);
        let unknown = earlier.iter().filter(|attempt| outcome(attempt) == "unknown").count() as u64;
        match delivery["status"].as_str().unwrap() {
            "sent" => {
                assert_eq!(outcome(last), "sent", "{delivery}");
                assert!((1..=1 + unknown).contains(&accepted), "accepted {accepted} times: {delivery}");
            }
            "failed" => {
                assert_eq!((outcome(last).as_str(), &delivery["code"]), ("permanent", &"chaos".into()), "{delivery}");
                assert!(accepted <= unknown, "accepted {accepted} times: {delivery}");
            }
            other => panic!("{other}: {delivery}"),
        }
    }
    assert!(retried > 0);
    assert!(!daemon.events("breaker opened: the provider is left alone for a while").is_empty());
    assert_eq!(daemon.api.get("/v1/audit").await.expect(200)["balanced"], true);
}
