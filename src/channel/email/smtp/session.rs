//! One session with a mail server: mails handed over one after the other, each step's end told apart.

use std::{
    iter,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use lettre::{
    Address,
    transport::smtp::{
        client::AsyncSmtpConnection,
        commands::{Data, Mail, Rcpt, Rset},
        extension::{Extension, MailBodyParameter, MailParameter},
        response::Response,
    },
};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    failure::{Failed, Failure},
    reply::{Reply, Stage, queue_id},
};
use crate::model::{Code, Outcome, PermanentKind};

/// Octets of a mail handed to the connection at once.
const CHUNK: usize = 64 * 1024;
/// How long a server may take to say goodbye.
const QUIT_TIMEOUT: Duration = Duration::from_secs(5);

/// What is handed over.
pub(super) struct Letter {
    pub from: Address,
    pub to: Address,
    /// The whole mail, in lines that end with CRLF.
    pub raw: Vec<u8>,
}

/// How it went.
pub(super) enum Ended {
    /// And the session may have another.
    Ready(Outcome),
    /// And the session is over.
    Over(Outcome),
    /// The session had been over before anything of this mail was said in it.
    Stale,
}

pub(super) struct Session {
    smtp: AsyncSmtpConnection,
    /// It has had mails before this one.
    is_reused: bool,
    /// A mail was begun and not ended.
    needs_reset: bool,
    /// The server has answered since the session was last taken up.
    is_alive: bool,
}

impl Session {
    pub const fn new(smtp: AsyncSmtpConnection) -> Self {
        Self { smtp, is_reused: false, needs_reset: false, is_alive: false }
    }

    /// Hands one mail over. What has to be said before its final dot is said by `deadline` or not at all; for the answer to the dot
    /// whoever waits for this bounds the time.
    pub async fn hand_over(&mut self, letter: &Letter, deadline: Instant) -> Ended {
        if !letter.is_ascii() && !self.takes_utf8() {
            return Ended::Ready(letter.unsupported());
        }
        let ended = match timeout_at(deadline, self.announce(letter)).await {
            Err(_) => Ended::Over(too_late()),
            Ok(Err(_)) if self.is_reused && !self.is_alive => Ended::Stale,
            Ok(Err(failed)) if failed.failure.leaves_session() => {
                self.needs_reset = true;
                Ended::Ready(failed.outcome())
            }
            Ok(Err(failed)) => Ended::Over(failed.outcome()),
            Ok(Ok(())) => self.content(letter, deadline).await,
        };
        self.is_reused = true;
        self.is_alive = false;
        ended
    }

    /// Ends it politely, if the server lets us.
    pub async fn quit(mut self) {
        // Who does not answer is left without a word more.
        let _ = timeout(QUIT_TIMEOUT, self.smtp.quit()).await;
    }

    /// RFC 6531, section 3.1: who offers SMTPUTF8 offers 8BITMIME too.
    fn takes_utf8(&self) -> bool {
        let server = self.smtp.server_info();
        server.supports_feature(Extension::SmtpUtfEight) && server.supports_feature(Extension::EightBitMime)
    }

    /// Everything before the content.
    async fn announce(&mut self, letter: &Letter) -> Result<(), Failed> {
        if self.needs_reset {
            self.say(Stage::Reset, Rset).await?;
            self.needs_reset = false;
        }
        let international = [MailParameter::SmtpUtfEight, MailParameter::Body(MailBodyParameter::EightBitMime)];
        let parameters = if letter.is_ascii() { Vec::new() } else { international.into() };
        self.say(Stage::Sender, Mail::new(Some(letter.from.clone()), parameters)).await?;
        self.say(Stage::Recipient, Rcpt::new(letter.to.clone(), Vec::new())).await?;
        self.say(Stage::Data, Data).await
    }

    async fn say(&mut self, stage: Stage, command: impl std::fmt::Display) -> Result<(), Failed> {
        let response = self.smtp.command(command).await.map_err(Failure::from);
        // Who closes the session with the first answer had closed it before.
        self.is_alive |= response.is_ok() || response.as_ref().is_err_and(Failure::leaves_session);
        let reply = Reply::from(&response.map_err(|failure| failure.at(stage))?);
        // An answer that belongs to something else would make every later one belong to the one before.
        let is_expected = if stage == Stage::Data { reply.code == 354 } else { reply.code / 100 == 2 };
        if is_expected { Ok(()) } else { Err(Failure::unexpected(&reply).at(stage)) }
    }

    async fn content(&mut self, letter: &Letter, deadline: Instant) -> Ended {
        // `lettre` ends the content with a line end and the dot.
        let raw = letter.raw.strip_suffix(b"\r\n").unwrap_or(&letter.raw);
        let dot_may_have_left = AtomicBool::new(false);
        let end = iter::from_fn(|| {
            // All chunks are written once it asks for another.
            dot_may_have_left.store(true, Ordering::Relaxed);
            None
        });
        let mut sending = Box::pin(self.smtp.message_iter(raw.chunks(CHUNK).chain(end)));
        let answered = match timeout_at(deadline, &mut sending).await {
            Ok(answered) => answered,
            Err(_) if !dot_may_have_left.load(Ordering::Relaxed) => return Ended::Over(too_late()),
            Err(_) => sending.await,
        };
        let failure = match answered.map(|response| Reply::from(&response)) {
            Ok(reply) if reply.code / 100 == 2 => return Ended::Ready(Outcome::Sent { provider_id: queue_id(&reply.text) }),
            Ok(reply) => Failure::unexpected(&reply),
            Err(error) => Failure::from(error),
        };
        let goes_on = failure.leaves_session();
        let may_have_left = dot_may_have_left.load(Ordering::Relaxed);
        let outcome = if may_have_left { failure.outcome_of_content() } else { failure.at(Stage::Content).outcome() };
        if goes_on { Ended::Ready(outcome) } else { Ended::Over(outcome) }
    }
}

impl Letter {
    /// Whether any server can carry it.
    fn is_ascii(&self) -> bool {
        self.raw.is_ascii() && [&self.from, &self.to].into_iter().all(|address| AsRef::<str>::as_ref(address).is_ascii())
    }

    /// What a server without SMTPUTF8 means for it (RFC 6531, section 3.2).
    fn unsupported(&self) -> Outcome {
        let detail = "the address is not ASCII, and the server does not offer SMTPUTF8".to_owned();
        if AsRef::<str>::as_ref(&self.to).is_ascii() {
            return Outcome::Permanent {
                kind: PermanentKind::Config,
                code: Code::SENDER_REFUSED,
                detail: format!("of the sender: {detail}"),
            };
        }
        // Nothing is wrong with the address: another server may reach it.
        Outcome::Permanent { kind: PermanentKind::Payload, code: Code::ADDRESS_UNSUPPORTED, detail }
    }
}

impl From<&Response> for Reply {
    fn from(response: &Response) -> Self {
        Self { code: response.code().into(), text: response.message().collect::<Vec<_>>().join(" ") }
    }
}

/// Nothing has left: a mail is no mail before its final dot.
fn too_late() -> Outcome {
    let detail = "the server took too long before it had the whole mail".to_owned();
    Outcome::Transient { code: Code::TIMEOUT, detail, retry_after: None }
}
