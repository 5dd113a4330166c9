//! The console in a real browser: what an operator sees a minute after `tarishi dev --samples`.

use serde_json::json;

use crate::support::{Browser, Setup, job, recipient};

#[tokio::test(flavor = "multi_thread")]
async fn the_console_shows_lanes_deliveries_outbox_and_live() {
    let mut setup = Setup::new().with_command(&["dev", "--samples", "--log-format", "json"]).with("shutdown.drain", "200ms");
    let daemon = setup.start().await;
    // The line after the samples, on stderr.
    daemon.process.find_line(|line| line.starts_with("samples: ").then_some(())).await.unwrap();
    daemon.drained().await;
    let browser = Browser::open().await;
    browser.go_to(&format!("http://{}/", daemon.admin)).await;

    browser.shows(&daemon, "#ready", &["ready"]).await;
    for channel in ["email", "sms", "push", "live"] {
        let card = format!("#lane-cards article[aria-label='{channel} lane']");
        browser.shows(&daemon, &card, &[channel, "queued", "sent"]).await;
    }
    browser.shows(&daemon, "#delivery-table", &["sent", "visit_requested", "a***@e***.com"]).await;
    browser.shows(&daemon, "#outbox-list", &["email to asha@example.com"]).await;
    browser.shows(&daemon, "#live-state", &["connected as user 42"]).await;
    // One more, while somebody looks.
    daemon.api.post("/v1/jobs", &job("while-watched", &[recipient("42")], &["live", "email"])).await.expect(202);
    browser.shows(&daemon, "#live-list", &["About while-watched", "Habari ya leo"]).await;
    browser.shows(&daemon, "#delivery-table", &["delivered", "while-watched"]).await;
    browser.shows(&daemon, "#outbox-list", &["About while-watched"]).await;
    // A mail is shown in a frame that may run nothing.
    let open_mail =
        "[...document.querySelectorAll('#outbox-list button')].find((message) => message.innerText.startsWith('email')).click()";
    browser.evaluate(open_mail).await;
    browser.shows(&daemon, "#outbox-detail", &["About while-watched"]).await;
    let frame = browser.evaluate("return document.querySelector('#outbox-detail iframe')?.getAttribute('sandbox') ?? null").await;
    assert_eq!(frame, json!(""));
    // A job sent from the page, as a person would.
    browser.evaluate("document.querySelector('#send-details').open = true; document.querySelector('#send-button').click()").await;
    browser.shows(&daemon, "#send-result", &["sent"]).await;
    let complaints = browser.complaints().await;
    assert!(complaints.is_empty(), "{complaints:#?}");
    browser.close().await;
    assert_eq!(daemon.terminate().await.code, Some(0));
}
