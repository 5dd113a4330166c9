//! A row of a user's inbox: a live notification as it is kept, whether or not a socket was there to show it.

use super::{DeliveryKey, Notification, Timestamp, UserId};

/// One notification in one user's inbox.
#[derive(Clone, Debug, PartialEq)]
pub struct InboxItem {
    /// The row's id, as clients know it.
    pub id: i64,
    pub user_id: UserId,
    /// Its place in the user's stream, increasing by one.
    pub seq: i64,
    /// Names the stream; another one means that `seq` cannot be compared.
    pub epoch: String,
    pub created_at: Timestamp,
    pub is_read: bool,
    pub notification: Notification,
    /// The delivery that brought it.
    pub delivery: DeliveryKey,
}
