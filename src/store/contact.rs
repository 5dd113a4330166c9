//! Contacts and push tokens.

use std::{collections::HashMap, sync::atomic::Ordering};

use rusqlite::{Connection, OptionalExtension, params};

use super::{Store, StoreError, suppressions, tx::Tx, writer::Urgency};
use crate::model::{Channel, Contact, PushToken, PushTokenEntry, SuppressionReason, Timestamp, UserId};

/// Devices kept for one user; registering one more forgets the oldest.
const PUSH_TOKENS_PER_USER: usize = 20;

impl Store {
    /// False only when there is certainly no contact.
    pub fn has_contacts(&self) -> bool {
        self.has_contacts.load(Ordering::Relaxed)
    }

    pub async fn contact(&self, user: &UserId) -> Result<Option<Contact>, StoreError> {
        let user = user.clone();
        self.read(move |connection| Ok(read_contact(connection, &user)?)).await
    }

    /// The contacts of those of `users` that have one.
    pub async fn contacts(&self, users: Vec<UserId>) -> Result<HashMap<UserId, Contact>, StoreError> {
        self.read(move |connection| {
            let mut contacts = HashMap::new();
            for user in users {
                if let Some(contact) = read_contact(connection, &user)? {
                    contacts.insert(user, contact);
                }
            }
            Ok(contacts)
        })
        .await
    }

    /// Changes a contact in one step: `change` sees the present one (or none) and gives the next; `None` deletes it.
    pub async fn update_contact<E, F>(&self, user: UserId, mut change: F) -> Result<Result<Option<Contact>, E>, StoreError>
    where
        E: Send + 'static,
        F: FnMut(Option<Contact>) -> Result<Option<Contact>, E> + Send + 'static,
    {
        self.has_contacts.store(true, Ordering::Relaxed);
        self.writer
            .write(Urgency::Normal, 2, move |tx| {
                let present = read_contact(tx.connection, &user)?;
                let registered: HashMap<_, _> = present
                    .iter()
                    .flat_map(|contact| &contact.push_tokens)
                    .map(|entry| (entry.token.clone(), entry.registered_at))
                    .collect();
                match change(present) {
                    Err(refused) => Ok(Err(refused)),
                    Ok(mut next) => {
                        // A device that stays keeps its age.
                        for entry in next.iter_mut().flat_map(|contact| &mut contact.push_tokens) {
                            entry.registered_at = registered.get(&entry.token).copied().flatten();
                        }
                        write_contact(tx, &user, next.as_ref())?;
                        Ok(Ok(read_contact(tx.connection, &user)?))
                    }
                }
            })
            .await
    }

    /// Gives a device to `user`, whoever had it before.
    pub async fn register_push_token(&self, user: UserId, token: PushToken, platform: Option<String>) -> Result<(), StoreError> {
        self.has_contacts.store(true, Ordering::Relaxed);
        self.writer
            .write(Urgency::Normal, 1, move |tx| {
                insert_token(tx, &user, &token, platform.as_deref(), tx.now)?;
                keep_newest_tokens(tx, &user, Some(&token))
            })
            .await
    }

    /// Forgets a device; false when it was not `user`'s.
    pub async fn forget_push_token(&self, user: UserId, token: PushToken) -> Result<bool, StoreError> {
        self.writer
            .write(Urgency::Normal, 1, move |tx| {
                let gone = tx
                    .connection
                    .prepare_cached("DELETE FROM push_tokens WHERE token = ?1 AND user_id = ?2")?
                    .execute((token.as_str(), user.as_str()))?;
                Ok(gone == 1)
            })
            .await
    }
}

pub(super) fn any(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT EXISTS (SELECT 1 FROM contacts) OR EXISTS (SELECT 1 FROM push_tokens)", (), |row| row.get(0))
}

/// A contact exists when it was written or when a device was registered.
fn read_contact(connection: &Connection, user: &UserId) -> rusqlite::Result<Option<Contact>> {
    let document: Option<String> = connection
        .prepare_cached("SELECT document FROM contacts WHERE user_id = ?1")?
        .query_row([user.as_str()], |row| row.get(0))
        .optional()?;
    let push_tokens = connection
        .prepare_cached("SELECT token, platform, registered_at FROM push_tokens WHERE user_id = ?1 ORDER BY registered_at, token")?
        .query_map([user.as_str()], |row| Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    if document.is_none() && push_tokens.is_empty() {
        return Ok(None);
    }
    let unreadable =
        |error: Box<dyn std::error::Error + Send + Sync>| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, error);
    let mut contact: Contact = match document {
        Some(document) => Contact::from_stored(&document).map_err(|error| unreadable(error.into()))?,
        None => Contact::default(),
    };
    for (token, platform, registered_at) in push_tokens {
        let token = token.parse().map_err(|reason: String| unreadable(reason.into()))?;
        contact.push_tokens.push(PushTokenEntry { token, platform, registered_at: Some(Timestamp::from_millis(registered_at)) });
    }
    Ok(Some(contact))
}

fn write_contact(tx: &mut Tx<'_>, user: &UserId, contact: Option<&Contact>) -> rusqlite::Result<()> {
    let Some(contact) = contact else {
        tx.connection.prepare_cached("DELETE FROM contacts WHERE user_id = ?1")?.execute([user.as_str()])?;
        tx.connection.prepare_cached("DELETE FROM push_tokens WHERE user_id = ?1")?.execute([user.as_str()])?;
        return Ok(());
    };
    let document = serde_json::to_string(&Contact { push_tokens: Vec::new(), ..contact.clone() })
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    tx.connection
        .prepare_cached(
            "INSERT INTO contacts (user_id, document, updated_at) VALUES (?1, ?2, ?3)
             ON CONFLICT (user_id) DO UPDATE SET document = excluded.document, updated_at = excluded.updated_at",
        )?
        .execute(params![user.as_str(), document, tx.now.as_millis()])?;
    tx.connection.prepare_cached("DELETE FROM push_tokens WHERE user_id = ?1")?.execute([user.as_str()])?;
    for entry in &contact.push_tokens {
        insert_token(tx, user, &entry.token, entry.platform.as_deref(), entry.registered_at.unwrap_or(tx.now))?;
    }
    keep_newest_tokens(tx, user, None)
}

/// A device that is registered is there, whatever was heard of it before.
fn insert_token(tx: &mut Tx<'_>, user: &UserId, token: &PushToken, platform: Option<&str>, at: Timestamp) -> rusqlite::Result<()> {
    tx.connection
        .prepare_cached(
            "INSERT INTO push_tokens (token, user_id, platform, registered_at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (token) DO UPDATE SET user_id = excluded.user_id, platform = excluded.platform, registered_at = excluded.registered_at",
        )?
        .execute(params![token.as_str(), user.as_str(), platform, at.as_millis()])?;
    let gone = [SuppressionReason::Unregistered, SuppressionReason::Bounced];
    suppressions::remove_in(tx, Channel::Push, token.as_str(), suppressions::Told::default(), &gone)?;
    Ok(())
}

/// The one just registered is the newest, whatever the clock says.
fn keep_newest_tokens(tx: &Tx<'_>, user: &UserId, newest: Option<&PushToken>) -> rusqlite::Result<()> {
    tx.connection
        .prepare_cached(
            "DELETE FROM push_tokens WHERE user_id = ?1 AND token NOT IN
             (SELECT token FROM push_tokens WHERE user_id = ?1 ORDER BY token = ?3 DESC, registered_at DESC, token DESC LIMIT ?2)",
        )?
        .execute(params![user.as_str(), PUSH_TOKENS_PER_USER, newest.map_or("", PushToken::as_str)])?;
    Ok(())
}
