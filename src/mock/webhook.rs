//! Calling back: SendGrid's events in batches, Twilio's statuses one by one, each as its provider would send them.

use std::{sync::Arc, time::Duration};

use reqwest::{Client, redirect};
use serde_json::Value;
use tokio::{
    sync::{Semaphore, mpsc},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    callback::{CallbackName, Sms, Subject, mail_body},
    record::Record,
    script::Provider,
    server::Clouds,
};
use crate::model::Timestamp;

/// Events in one POST.
const BATCH_LIMIT: usize = 500;
/// Events that wait for theirs.
const QUEUE_LIMIT: usize = 10_000;
/// Twilio's callbacks under way at once.
const CALLBACKS_LIMIT: usize = 64;
/// SendGrid tries for a day; whoever waits for a mock does not.
const SENDGRID_TRIES: u32 = 6;
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// Twilio tries once more, when there was no connection.
const TWILIO_TRIES: u32 = 2;
/// Twilio's own limits.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Sends callbacks for as long as the mock runs.
pub(super) struct Webhooks {
    events: mpsc::Sender<Value>,
    caller: Arc<Caller>,
    tracker: TaskTracker,
    shutdown: CancellationToken,
}

struct Caller {
    client: Client,
    sendgrid_url: Option<String>,
    clouds: Arc<Clouds>,
    record: Arc<Record>,
    callbacks: Semaphore,
}

impl Webhooks {
    pub fn start(
        sendgrid_url: Option<String>,
        clouds: Arc<Clouds>,
        record: Arc<Record>,
        tracker: TaskTracker,
        shutdown: CancellationToken,
    ) -> std::io::Result<Self> {
        // A URL may be one of https, and an error says that somebody has seen to it already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .build()
            .map_err(std::io::Error::other)?;
        let caller = Arc::new(Caller { client, sendgrid_url, clouds, record, callbacks: Semaphore::new(CALLBACKS_LIMIT) });
        let (events, batches) = mpsc::channel(QUEUE_LIMIT);
        let (worker, until) = (Arc::clone(&caller), shutdown.clone());
        tracker.spawn(async move { until.run_until_cancelled_owned(worker.send_events(batches)).await });
        Ok(Self { events, caller, tracker, shutdown })
    }

    /// Tells what becomes of an accepted message, step by step, each after this delay.
    pub fn follow(&self, subject: Subject, names: Vec<CallbackName>, delay: Duration) {
        let (caller, events) = (Arc::clone(&self.caller), self.events.clone());
        let steps = async move {
            for name in names {
                sleep(delay).await;
                match &subject {
                    Subject::Mails(mails) => {
                        let now = Timestamp::now().as_millis() / 1000;
                        for mail in mails {
                            if events.send(mail.event(&name, now)).await.is_err() {
                                return;
                            }
                        }
                    }
                    Subject::Sms(sms) => caller.call_back(sms, &name).await,
                }
            }
        };
        self.tracker.spawn(self.shutdown.clone().run_until_cancelled_owned(steps));
    }
}

impl Caller {
    /// What waits goes together, as with SendGrid.
    async fn send_events(&self, mut events: mpsc::Receiver<Value>) {
        let mut batch = Vec::new();
        while events.recv_many(&mut batch, BATCH_LIMIT).await > 0 {
            if let Some(url) = &self.sendgrid_url {
                let sent = self.post_events(url, mail_body(&batch)).await;
                self.record.webhooks(Provider::Sendgrid, batch.len(), sent);
            }
            batch.clear();
        }
    }

    /// Tries until it is taken, and a few times at most.
    async fn post_events(&self, url: &str, body: String) -> bool {
        let mut wait = FIRST_WAIT;
        for attempt in 1..=SENDGRID_TRIES {
            let timestamp = (Timestamp::now().as_millis() / 1000).to_string();
            let Some(signature) = self.clouds.keys.sendgrid_signature(&timestamp, &body) else { return false };
            let request = self
                .client
                .post(url)
                .header("content-type", "application/json")
                .header("user-agent", "SendGrid Event API")
                .header("x-twilio-email-event-webhook-signature", signature)
                .header("x-twilio-email-event-webhook-timestamp", timestamp)
                .body(body.clone());
            if request.send().await.is_ok_and(|answer| answer.status().is_success()) {
                return true;
            }
            if attempt < SENDGRID_TRIES {
                sleep(wait).await;
                wait *= 2;
            }
        }
        false
    }

    async fn call_back(&self, sms: &Sms, name: &CallbackName) {
        // Held while the callback is under way, which is what is limited. It is never closed.
        let _permit = self.callbacks.acquire().await;
        let (form, signature) = sms.callback(name, &self.clouds.credentials.twilio_auth_token);
        let mut sent = false;
        for _ in 0..TWILIO_TRIES {
            let request = self
                .client
                .post(&sms.callback_url)
                .header("content-type", "application/x-www-form-urlencoded; charset=UTF-8")
                .header("user-agent", "TwilioProxy/1.1")
                .header("x-twilio-signature", &signature)
                .body(form.clone());
            match request.send().await {
                Ok(answer) => {
                    sent = answer.status().is_success();
                    break;
                }
                Err(error) if error.is_connect() => {}
                Err(_) => break,
            }
        }
        self.record.webhooks(Provider::Twilio, 1, sent);
    }
}
