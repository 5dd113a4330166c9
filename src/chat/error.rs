//! Why something of the chat was not done, told to clients in the same words on sockets and over HTTP.

use std::time::Duration;

use axum::http::StatusCode;
use thiserror::Error;

use crate::store::{ChangeRefused, SendRefused, StoreError};

/// Nothing of it was done.
#[derive(Clone, Debug, Error)]
pub enum ChatError {
    /// There is none such, or it is not for the one who asks: which of the two is nobody's business.
    #[error("{0} not found.")]
    NotFound(&'static str),
    #[error("{0}")]
    Forbidden(&'static str),
    /// What is wrong, and what to write instead.
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Conflict(&'static str),
    /// The words existing clients know.
    #[error("Rate limit exceeded. Please wait {} seconds.", .0.as_secs().max(1))]
    TooMany(Duration),
    /// The hook said no, with these words.
    #[error("{0}")]
    Refused(String),
    /// The hook did not answer, and nothing goes through without it.
    #[error("Messages cannot be checked right now. Please try again later.")]
    HookUnavailable,
    #[error("Please try again later: {0}")]
    Store(#[from] StoreError),
}

impl ChatError {
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "not_found",
            Self::Forbidden(_) => "forbidden",
            Self::Invalid(_) => "invalid",
            Self::Conflict(_) => "conflict",
            Self::TooMany(_) => "rate_limited",
            Self::Refused(_) => "refused",
            Self::HookUnavailable | Self::Store(_) => "unavailable",
        }
    }

    pub const fn status(&self) -> StatusCode {
        match self {
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::Invalid(_) | Self::Refused(_) => StatusCode::BAD_REQUEST,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::HookUnavailable | Self::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl From<SendRefused> for ChatError {
    fn from(refused: SendRefused) -> Self {
        match refused {
            SendRefused::NotParticipant => Self::Forbidden("You are not a participant of this conversation."),
            SendRefused::UnknownReply => Self::Invalid("`reply_to` is no message of this conversation.".to_owned()),
            SendRefused::Blocked => Self::Forbidden("You cannot send messages to this user."),
            SendRefused::Blocking => Self::Forbidden("You have blocked this user; unblock them to send messages."),
        }
    }
}

impl From<ChangeRefused> for ChatError {
    fn from(refused: ChangeRefused) -> Self {
        match refused {
            ChangeRefused::NotParticipant => Self::Forbidden("You are not a participant of this conversation."),
            ChangeRefused::NotFound => Self::NotFound("Message"),
            ChangeRefused::NotSender => Self::Forbidden("Only its sender may change a message."),
            ChangeRefused::Deleted => Self::Conflict("This message is deleted."),
        }
    }
}
