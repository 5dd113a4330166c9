//! What `lettre` says went wrong, sorted by what it means for the mail.

use std::{error::Error as _, io};

use lettre::transport::smtp::Error;

use super::reply::{Reply, Stage, classify, without_addresses};
use crate::model::{Code, Outcome, PermanentKind, cut};

/// Bytes of an error's text that are kept.
const DETAIL_LIMIT: usize = 300;
/// What `lettre` calls the end of a connection where an answer was due.
const NO_ANSWER: &str = "incomplete response";

/// Why a step of a session did not work.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server said no.
    Refused(Reply),
    /// It answered with something that is no answer to that.
    Nonsense(String),
    /// No connection, or none any more.
    Lost(String),
    /// It is not proven to be the server that was meant.
    Untrusted(String),
    /// It cannot do what has to be done.
    Unable(&'static str),
}

/// A step that did not work, and which.
#[derive(Debug)]
pub(super) struct Failed {
    pub stage: Stage,
    pub failure: Failure,
}

impl Failed {
    /// What it means for a mail whose final dot has not left.
    pub fn outcome(&self) -> Outcome {
        self.failure.outcome(self.stage)
    }
}

impl Failure {
    /// An answer that is good in itself, and not to this.
    pub fn unexpected(reply: &Reply) -> Self {
        Self::Nonsense(format!("an unexpected answer: {} {}", reply.code, without_addresses(&reply.text)))
    }

    pub const fn at(self, stage: Stage) -> Failed {
        Failed { stage, failure: self }
    }

    /// Whether the session can go on.
    pub fn leaves_session(&self) -> bool {
        matches!(self, Self::Refused(reply) if !reply.closes())
    }

    fn outcome(&self, stage: Stage) -> Outcome {
        let transient = |code, detail: &str| Outcome::Transient { code, detail: cut(detail, DETAIL_LIMIT), retry_after: None };
        let config = |code, detail: &str| Outcome::Permanent { kind: PermanentKind::Config, code, detail: cut(detail, DETAIL_LIMIT) };
        match self {
            Self::Refused(reply) => classify(stage, reply),
            Self::Nonsense(detail) => transient(Code::UNEXPECTED_ANSWER, detail),
            Self::Lost(detail) => transient(Code::CONNECTION_FAILED, detail),
            Self::Untrusted(detail) => config(Code::CONFIG_REFUSED, detail),
            Self::Unable(detail) if stage == Stage::Authentication => config(Code::AUTHENTICATION_FAILED, detail),
            Self::Unable(detail) => config(Code::CONFIG_REFUSED, detail),
        }
    }

    /// What it means for a mail whose final dot may have left (RFC 1047).
    pub fn outcome_of_content(&self) -> Outcome {
        let unknown = |code, detail: &str| Outcome::Unknown { code, detail: cut(detail, DETAIL_LIMIT) };
        match self {
            Self::Refused(reply) => classify(Stage::Content, reply),
            Self::Nonsense(detail) => unknown(Code::UNEXPECTED_ANSWER, detail),
            Self::Lost(detail) | Self::Untrusted(detail) => unknown(Code::CONNECTION_LOST, detail),
            Self::Unable(detail) => unknown(Code::CONNECTION_LOST, detail),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let text = error.source().map(ToString::to_string).unwrap_or_default();
        if let Some(code) = error.status() {
            return Self::Refused(Reply { code: code.into(), text });
        }
        if let Some(reason) = distrust(&error) {
            return Self::Untrusted(reason);
        }
        // No text at all: not UTF-8.
        let is_unreadable = io_error(&error).is_some_and(|error| error.kind() == io::ErrorKind::InvalidData && !is_of_tls(error));
        if is_unreadable || (error.is_response() && text != NO_ANSWER) {
            return Self::Nonsense(format!("an answer that is none: {}", without_addresses(&text)));
        }
        match text.as_str() {
            "" => Self::Lost(error.to_string()),
            NO_ANSWER => Self::Lost("the server closed the connection".to_owned()),
            _ => Self::Lost(without_addresses(&text)),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

fn is_of_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>)
}

/// Why the server's certificate was not accepted, if that is the error.
fn distrust(error: &Error) -> Option<String> {
    let tls = io_error(error)?.get_ref()?.downcast_ref::<rustls::Error>()?;
    matches!(tls, rustls::Error::InvalidCertificate(_)).then(|| format!("the server's certificate is not accepted: {tls}"))
}

fn io_error(error: &Error) -> Option<&io::Error> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        source = error.source();
    }
    None
}
