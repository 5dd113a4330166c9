//! A live notification as it is kept, whether or not a socket was there to show it: in its user's inbox, or in a topic.

use super::{DeliveryKey, Notification, Place, Timestamp};

/// One notification in one stream.
#[derive(Clone, Debug, PartialEq)]
pub struct InboxItem {
    /// The row's id, as clients know it. Items of topics are numbered apart from those of inboxes.
    pub id: i64,
    pub place: Place,
    /// Names the streams' history; another one means that `seq` cannot be compared.
    pub epoch: std::sync::Arc<str>,
    pub created_at: Timestamp,
    pub seen_at: Option<Timestamp>,
    pub read_at: Option<Timestamp>,
    pub archived_at: Option<Timestamp>,
    pub notification: Notification,
    /// The delivery that brought it.
    pub delivery: DeliveryKey,
}
