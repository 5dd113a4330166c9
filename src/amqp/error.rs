//! What can go wrong with a broker, and what to do about it.

use std::time::Duration;

use lapin::{ErrorKind, protocol::AMQPErrorKind};

/// Why a session ended, or never began.
#[derive(Debug, thiserror::Error)]
pub enum AmqpError {
    #[error("{doing}: no answer within {limit:?}")]
    TimedOut { doing: &'static str, limit: Duration },
    /// The broker knows us and refuses: credentials, permissions, a vhost that is not there.
    #[error("{doing}: refused: {reason}; check the user, its permissions and the vhost in amqp.url")]
    Refused { doing: &'static str, reason: String },
    /// A queue or an exchange that is not there.
    #[error("{doing}: {reason}")]
    Absent { doing: &'static str, reason: String },
    /// An alarm is set on the broker: it reads nothing from whoever publishes.
    #[error("the broker takes no messages at the moment: it is short of memory or of disk")]
    Blocked,
    #[error("{doing}: {reason}")]
    Failed { doing: &'static str, reason: String },
    #[error(transparent)]
    Mismatch(Box<Mismatch>),
    /// The broker ended the consumer: its queue was deleted, or moved.
    #[error("the broker cancelled the consumer: was the queue deleted?")]
    Cancelled,
    #[error("the broker did not take the message")]
    NotTaken,
    #[error("there is no queue for it: {0}")]
    Unroutable(String),
    /// The client library ends the connection over it.
    #[error(
        "{doing}: a message cannot be read ({reason}): is there text in its properties that is not UTF-8? taking one at a time until the broker gives it up to tarishi.rejected"
    )]
    Unreadable { doing: &'static str, reason: String },
    /// A file of the TLS settings.
    #[error("{key}: cannot read {path}: {reason}")]
    File { key: &'static str, path: String, reason: String },
}

/// Something on the broker that was declared otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} was declared otherwise: `{argument}` is {theirs} on the broker and {ours} here; when it is empty, delete it \
     (`rabbitmqctl delete_queue NAME` for a queue) and it is declared again, or change the policy that sets it"
)]
pub struct Mismatch {
    /// `queue 'tarishi.jobs'`
    pub what: String,
    pub argument: String,
    pub ours: String,
    pub theirs: String,
}

impl AmqpError {
    /// What the client library said while `doing`.
    pub fn from_lapin(doing: &'static str, error: &lapin::Error) -> Self {
        let reason = error.to_string();
        if matches!(error.kind(), ErrorKind::ParsingError(_)) {
            return Self::Unreadable { doing, reason };
        }
        let ErrorKind::ProtocolError(told) = error.kind() else { return Self::Failed { doing, reason } };
        let text = told.get_message().as_str();
        if let Some(mismatch) = Mismatch::parse(text) {
            return Self::Mismatch(Box::new(mismatch));
        }
        match told.kind() {
            AMQPErrorKind::Soft(lapin::protocol::AMQPSoftError::NOTFOUND) => Self::Absent { doing, reason: text.to_owned() },
            AMQPErrorKind::Soft(lapin::protocol::AMQPSoftError::ACCESSREFUSED)
            | AMQPErrorKind::Hard(lapin::protocol::AMQPHardError::NOTALLOWED) => Self::Refused { doing, reason: text.to_owned() },
            _ => Self::Failed { doing, reason: text.to_owned() },
        }
    }

    /// Whether only a person can mend it.
    pub fn needs_a_person(&self) -> bool {
        matches!(self, Self::Mismatch(_) | Self::Refused { .. } | Self::File { .. })
    }
}

impl Mismatch {
    /// Reads RabbitMQ's `PRECONDITION_FAILED - inequivalent arg 'x' for queue 'q' in vhost 'v': received A but current is B`.
    fn parse(text: &str) -> Option<Self> {
        let rest = text.split_once("inequivalent arg '")?.1;
        let (argument, rest) = rest.split_once("' for ")?;
        let (what, rest) = rest.split_once(" in vhost")?;
        let (_, rest) = rest.split_once(": received ")?;
        let (ours, theirs) = rest.split_once(" but current is ")?;
        Some(Self { what: what.to_owned(), argument: argument.to_owned(), ours: value(ours), theirs: value(theirs) })
    }
}

/// `the value '1000' of type 'signedint'` is `1000`; `none` stays.
fn value(told: &str) -> String {
    match told.split('\'').nth(1) {
        Some(value) => format!("`{value}`"),
        None => told.trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(&str, &str, &str, &str)>) {
        let found = Mismatch::parse(text);
        let found = found.as_ref().map(|found| (found.what.as_str(), found.argument.as_str(), found.ours.as_str(), found.theirs.as_str()));
        assert_eq!(found, expected);
    }

    #[test]
    fn mismatches_are_read() {
        check(
            "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'tarishi.jobs' in vhost '/': received the value '1000' of type 'signedint' but current is the value '5' of type 'long'",
            Some(("queue 'tarishi.jobs'", "x-delivery-limit", "`1000`", "`5`")),
        );
        check(
            "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'tarishi.jobs' in vhost 'a: b': received the value 'quorum' of type 'longstr' but current is none",
            Some(("queue 'tarishi.jobs'", "x-queue-type", "`quorum`", "none")),
        );
        check(
            "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'tarishi.jobs' in vhost '/': received 'topic' but current is 'fanout'",
            Some(("exchange 'tarishi.jobs'", "type", "`topic`", "`fanout`")),
        );
        check("PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out", None);
    }
}
