//! Messages at rest: Fernet tokens (AES-128-CBC and HMAC-SHA256) that hold the ids of the row they are for.
//!
//! It is encryption at rest, not end-to-end: whoever has the daemon's keys can read. What it keeps out is whoever has only the database, to
//! read or to write: a row with another row's text, an older key's that is gone, or plain text is seen as [`Tampered`]. Which rows exist,
//! who takes part, and an older version of the same row put back are outside of what it protects.

use std::{fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use fernet::Fernet;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::model::{Attachment, ChatBody, ConversationId, MessageId};

/// Sealed text has no date of expiry, and a clock that was wrong once must not make it unreadable: it is opened as if at the end of time.
/// The crate adds a minute to it.
const END_OF_TIME: u64 = u64::MAX - 3600;

/// The keys: the first seals, all of them open. Clones share them.
#[derive(Clone)]
pub struct ChatKeys(Arc<Keys>);

struct Keys {
    /// Never empty.
    keys: Vec<Fernet>,
    name: String,
}

/// Why there are no keys to work with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysRefused {
    #[error("there is no key; hint: make one with `tarishi chat new-key`")]
    None,
    /// Counted from 0.
    #[error("key {0} is not 32 bytes in URL-safe Base64; hint: make one with `tarishi chat new-key`")]
    Malformed(usize),
}

/// A stored text that none of the keys opens, or that was sealed for another row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored text is not what was sealed for this message")]
pub struct Tampered;

/// What a rotation does with one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resealed {
    /// It is sealed with the first key already.
    Already,
    Anew(String),
}

/// What is inside. Short names: it is all there is of most messages.
#[derive(Serialize)]
struct Sealing<'b> {
    c: ConversationId,
    m: MessageId,
    t: &'b str,
    #[serde(skip_serializing_if = "<[Attachment]>::is_empty")]
    a: &'b [Attachment],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    c: ConversationId,
    m: MessageId,
    t: String,
    #[serde(default)]
    a: Vec<Attachment>,
}

impl ChatKeys {
    /// `keys` in the order of their use.
    ///
    /// # Errors
    /// There is none, or one of them is no Fernet key.
    pub fn new(keys: &[SecretString]) -> Result<Self, KeysRefused> {
        if keys.is_empty() {
            return Err(KeysRefused::None);
        }
        let key = |(index, key): (usize, &SecretString)| Fernet::new(key.expose_secret()).ok_or(KeysRefused::Malformed(index));
        let name = name_of(keys[0].expose_secret());
        keys.iter().enumerate().map(key).collect::<Result<_, _>>().map(|keys| Self(Arc::new(Keys { keys, name })))
    }

    /// A new key, as a line of a key file.
    pub fn new_key() -> SecretString {
        Fernet::generate_key().into()
    }

    /// Names the first key to who has it, and tells nothing of it to anybody else.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// `body` as the row of this message keeps it.
    #[expect(clippy::missing_panics_doc, reason = "it cannot fail: numbers and text become JSON")]
    pub fn seal(&self, conversation: ConversationId, message: MessageId, body: &ChatBody) -> String {
        let sealing = Sealing { c: conversation, m: message, t: &body.text, a: &body.attachments };
        let plain = serde_json::to_vec(&sealing).expect("numbers and text become JSON");
        self.0.keys[0].encrypt(&plain)
    }

    /// What was sealed for this message.
    ///
    /// # Errors
    /// `sealed` is not a token of one of the keys that holds these very ids.
    pub fn open(&self, conversation: ConversationId, message: MessageId, sealed: &str) -> Result<ChatBody, Tampered> {
        self.open_with(conversation, message, sealed).map(|(body, _)| body)
    }

    /// The same text under the first key.
    ///
    /// # Errors
    /// As [`Self::open`]: what is not known to be right is not made to look so.
    pub fn reseal(&self, conversation: ConversationId, message: MessageId, sealed: &str) -> Result<Resealed, Tampered> {
        Ok(match self.open_with(conversation, message, sealed)? {
            (_, 0) => Resealed::Already,
            (body, _) => Resealed::Anew(self.seal(conversation, message, &body)),
        })
    }

    /// Also tells which key it was.
    fn open_with(&self, conversation: ConversationId, message: MessageId, sealed: &str) -> Result<(ChatBody, usize), Tampered> {
        let decrypted = self.0.keys.iter().enumerate().find_map(|(index, key)| Some((decrypted(key, sealed)?, index)));
        let (plain, index) = decrypted.ok_or(Tampered)?;
        let Sealed { c, m, t, a } = serde_json::from_slice(&plain).map_err(|_| Tampered)?;
        if (c, m) != (conversation, message) {
            return Err(Tampered);
        }
        Ok((ChatBody { text: t, attachments: a }, index))
    }

    /// What is in a token of any of the keys, whatever it is: for reading what another system has sealed.
    pub fn decrypt(&self, token: &str) -> Option<Vec<u8>> {
        self.0.keys.iter().find_map(|key| decrypted(key, token))
    }
}

impl fmt::Debug for ChatKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChatKeys({} keys)", self.0.keys.len())
    }
}

/// The beginning of a hash over 32 random bytes, which nobody guesses.
fn name_of(key: &str) -> String {
    let hash = Sha256::new().chain_update("tarishi chat key ").chain_update(key.trim_end_matches('=')).finalize();
    URL_SAFE_NO_PAD.encode(&hash[..12])
}

fn decrypted(key: &Fernet, token: &str) -> Option<Vec<u8>> {
    key.decrypt_at_time(token, None, END_OF_TIME).ok()
}

#[cfg(test)]
mod tests;
