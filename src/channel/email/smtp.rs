//! The provider that hands mails to a mail server over SMTP (RFC 5321), by way of `lettre`'s client.
//!
//! Its outcomes follow from how far a mail got: before its final dot nothing has left, whatever happened; after the dot only the server's
//! answer says. What an answer means is `reply`'s to say; queueing and trying again is not done here.

mod failure;
mod plain_stream;
mod pool;
mod reply;
mod server;
mod session;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::{Instant, timeout, timeout_at};

use self::{
    pool::Pool,
    server::Server,
    session::{Ended, Letter, Session},
};
use super::{
    super::{ProbeFailure, Provider},
    compose, formatted,
    sender::Senders,
};
use crate::{
    config::SmtpConfig,
    model::{Body, Code, Message, Outcome, PermanentKind},
};

/// Its name in the configuration.
pub const NAME: &str = "smtp";

/// What a server may take before it has the whole mail, unless an attempt is bounded closer: the greeting's five minutes, which are the
/// longest of the steps before the dot (RFC 5321, section 4.5.3.2).
const TIME_LIMIT: Duration = Duration::from_mins(5);
/// Of an attempt's time, the share before the final dot. The rest is for the answer to it: without that the outcome is unknown.
const SHARE_BEFORE_DOT: f64 = 0.75;
/// How long a probe waits.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);

/// The provider. It holds the connections it keeps open.
pub struct Smtp {
    server: Server,
    pool: Arc<Pool>,
    senders: Senders,
    time_limit: Duration,
}

impl Smtp {
    /// Reads the certificates to trust.
    ///
    /// # Errors
    /// What of the configuration cannot be used, by its key.
    pub fn new(config: &SmtpConfig) -> Result<Self, String> {
        let Some(from) = &config.from else { return Err("provider.smtp.from: is not there".to_owned()) };
        let senders = Senders::new(from, &config.from_by_tenant, config.reply_to.as_deref());
        Ok(Self {
            server: Server::new(config)?,
            pool: Pool::new(config.idle_connections, config.idle_timeout),
            senders: senders.map_err(|problem| format!("provider.smtp.{problem}"))?,
            time_limit: TIME_LIMIT,
        })
    }

    /// For attempts that are cut off after so long: a server that is slow before it has the mail is then told apart from one that is
    /// slow to say whether it took it.
    pub fn with_call_timeout(self, call_timeout: Duration) -> Self {
        Self { time_limit: call_timeout.mul_f64(SHARE_BEFORE_DOT).min(TIME_LIMIT), ..self }
    }

    fn letter(&self, message: &Message) -> Result<Letter, String> {
        let Body::Email(mail) = &message.body else { return Err("not an email".to_owned()) };
        let composed = compose(message, mail, &self.senders)?;
        let raw = formatted(&composed)?;
        match (composed.envelope().from(), composed.envelope().to()) {
            (Some(from), [to]) => Ok(Letter { from: from.clone(), to: to.clone(), raw }),
            _ => Err("a mail has one sender and one recipient".to_owned()),
        }
    }

    /// Hands the mail over in this session; `None` when the session had ended before.
    async fn hand_over(&self, mut session: Session, letter: &Letter, deadline: Instant) -> Option<Outcome> {
        match session.hand_over(letter, deadline).await {
            Ended::Ready(outcome) => {
                self.pool.give(session);
                Some(outcome)
            }
            Ended::Over(outcome) => Some(outcome),
            Ended::Stale => None,
        }
    }
}

#[async_trait]
impl Provider for Smtp {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn send(&self, message: &Message) -> Outcome {
        let deadline = Instant::now() + self.time_limit;
        let letter = match self.letter(message) {
            Ok(letter) => letter,
            Err(detail) => return Outcome::Permanent { kind: PermanentKind::Payload, code: Code::PAYLOAD_REFUSED, detail },
        };
        let kept = match self.pool.take() {
            Some(session) => self.hand_over(session, &letter, deadline).await,
            None => None,
        };
        let outcome = match kept {
            Some(outcome) => outcome,
            None => match timeout_at(deadline, self.server.open()).await {
                Err(_) => transient(Code::TIMEOUT, "the server took too long to let us in"),
                Ok(Err(failed)) => failed.outcome(),
                Ok(Ok(session)) => {
                    let outcome = self.hand_over(session, &letter, deadline).await;
                    outcome.unwrap_or_else(|| transient(Code::CONNECTION_FAILED, "the server closed the connection"))
                }
            },
        };
        if let Outcome::Sent { .. } = outcome {
            fail::fail_point!("provider-accepted");
        }
        self.senders.judged(message.tenant.as_deref(), outcome)
    }

    async fn probe(&self) -> Result<(), ProbeFailure> {
        let Ok(opened) = timeout(PROBE_TIMEOUT, self.server.open()).await else {
            let hint = "is provider.smtp.url right, and may this machine talk to it?";
            return Err(ProbeFailure::new(format!("the mail server did not let us in within {PROBE_TIMEOUT:?}"), hint));
        };
        match opened {
            Ok(session) => {
                session.quit().await;
                Ok(())
            }
            Err(failed) => {
                let outcome = failed.outcome();
                let hint = match outcome.code() {
                    Some(Code::AUTHENTICATION_FAILED) => "check the user in provider.smtp.url, and its password",
                    Some(Code::CONFIG_REFUSED) => "check provider.smtp.url, and ca_file and hello_name beside it",
                    Some(Code::CONNECTION_FAILED) => "is provider.smtp.url right, and may this machine talk to it?",
                    _ => "try again; if it stays like this, ask whoever runs the mail server",
                };
                Err(ProbeFailure::new(outcome.detail().unwrap_or_default(), hint))
            }
        }
    }
}

fn transient(code: Code, detail: &str) -> Outcome {
    Outcome::Transient { code, detail: detail.to_owned(), retry_after: None }
}
