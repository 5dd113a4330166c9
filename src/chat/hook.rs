//! Who is asked before a message is stored: a service of the operator's, which may refuse or rewrite it.

use std::fmt::Write as _;

use aws_lc_rs::hmac;
use reqwest::{Client, StatusCode, Url, header::CONTENT_TYPE};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use super::error::ChatError;
use crate::{
    config::{ChatHookConfig, OnHookFailure},
    event::{Event, emit},
    model::{Attachment, ChatBody, ConversationId, UserId},
};

/// Carries `sha256=` and the HMAC-SHA256 of the body under the hook's secret, in hex.
const SIGNATURE: &str = "x-tarishi-signature";
/// Longest answer read, in bytes: a rewritten message and some room.
const ANSWER_LIMIT: usize = 256 << 10;

/// Asks before messages are stored.
#[derive(Debug)]
pub struct Hook {
    client: Client,
    url: Url,
    secret: Option<SecretString>,
    on_failure: OnHookFailure,
}

/// What is asked. Documented in docs/chat.md.
#[derive(Serialize)]
struct Question<'a> {
    /// `message` or `edit`.
    event: &'static str,
    conversation: ConversationId,
    sender: &'a UserId,
    text: &'a str,
    attachments: &'a [Attachment],
}

#[derive(Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
enum Answer {
    Allow,
    Refuse {
        /// Shown to the sender.
        #[serde(default)]
        message: Option<String>,
    },
    Rewrite {
        text: String,
    },
}

/// What is being stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storing {
    Message,
    Edit,
}

impl Hook {
    /// `None` where nobody is to be asked.
    ///
    /// # Errors
    /// The client cannot be built, or the URL is none.
    pub fn new(config: &ChatHookConfig) -> Result<Option<Self>, String> {
        let Some(url) = &config.url else { return Ok(None) };
        let url = url.parse().map_err(|error| format!("chat.hook.url: {error}"))?;
        let client = Client::builder().timeout(config.timeout).redirect(reqwest::redirect::Policy::none()).build();
        let client = client.map_err(|error| format!("chat.hook: {error}"))?;
        Ok(Some(Self { client, url, secret: config.secret.clone(), on_failure: config.on_failure }))
    }

    /// The body to store.
    ///
    /// # Errors
    /// It was refused, or nobody answered and nothing goes through unchecked.
    pub(super) async fn check(
        &self,
        storing: Storing,
        conversation: ConversationId,
        sender: &UserId,
        body: ChatBody,
    ) -> Result<ChatBody, ChatError> {
        let event = match storing {
            Storing::Message => "message",
            Storing::Edit => "edit",
        };
        let question = Question { event, conversation, sender, text: &body.text, attachments: &body.attachments };
        match self.ask(&question).await {
            Ok(Answer::Allow) => Ok(body),
            Ok(Answer::Rewrite { text }) => Ok(ChatBody { text, ..body }),
            Ok(Answer::Refuse { message }) => {
                emit(&Event::ChatHookRefused { conversation: conversation.0 });
                Err(ChatError::Refused(message.unwrap_or_else(|| "This message was not accepted.".to_owned())))
            }
            Err(reason) => {
                emit(&Event::ChatHookFailed { reason: &reason, is_open: self.on_failure == OnHookFailure::Open });
                match self.on_failure {
                    OnHookFailure::Open => Ok(body),
                    OnHookFailure::Closed => Err(ChatError::HookUnavailable),
                }
            }
        }
    }

    async fn ask(&self, question: &Question<'_>) -> Result<Answer, String> {
        let body = serde_json::to_vec(question).map_err(|error| error.to_string())?;
        let mut request = self.client.post(self.url.clone()).header(CONTENT_TYPE, "application/json");
        if let Some(secret) = &self.secret {
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().trim().as_bytes());
            let tag = hmac::sign(&key, &body);
            request = request.header(SIGNATURE, format!("sha256={}", hex(tag.as_ref())));
        }
        let failed = |error: reqwest::Error| without_url(error);
        let mut response = request.body(body).send().await.map_err(failed)?;
        match response.status() {
            StatusCode::NO_CONTENT => return Ok(Answer::Allow),
            StatusCode::OK => {}
            status => return Err(format!("it answered {status}")),
        }
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            answer.extend_from_slice(&chunk);
            if answer.len() > ANSWER_LIMIT {
                return Err(format!("its answer is longer than {ANSWER_LIMIT} bytes"));
            }
        }
        serde_json::from_slice(&answer).map_err(|error| format!("its answer cannot be read: {error}"))
    }
}

/// The URL may hold a password.
fn without_url(error: reqwest::Error) -> String {
    let error = error.without_url();
    if error.is_timeout() { "it did not answer in time".to_owned() } else { error.to_string() }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string does not fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
