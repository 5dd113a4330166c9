//! A job's deliveries as rows, each where there is a place for it, and a row as a delivery again.

use std::sync::Arc;

use crate::{
    intake::expand::{Expanded, Planned},
    lane::Reservation,
    model::{Delivery, DeliveryId, DeliveryKey, Envelope, PerChannel, Priority, Timestamp},
    store::{NewDelivery, Placement},
};

/// How many of them each channel gets.
pub(super) fn planned_by_channel(expanded: &Expanded) -> PerChannel<u32> {
    let mut planned = PerChannel::default();
    for delivery in &expanded.deliveries {
        planned[delivery.channel] += 1;
    }
    planned
}

/// Rows for `deliveries`: free slots first, then room in memory, the rest waits in the store.
pub(super) fn place(
    deliveries: Vec<Planned>,
    priority: Priority,
    due_at: Timestamp,
    list: Option<&Arc<str>>,
    expires_at: &PerChannel<Timestamp>,
    reservations: &PerChannel<Option<Reservation>>,
) -> Vec<NewDelivery> {
    let mut slots = PerChannel::from_fn(|channel| reservations[channel].as_ref().map_or(0, Reservation::slots));
    let mut room = PerChannel::from_fn(|channel| reservations[channel].as_ref().map_or(0, Reservation::room));
    let now = Timestamp::now();
    deliveries
        .into_iter()
        .map(|planned| {
            let channel = planned.channel;
            let placement = match &reservations[channel] {
                // The gate that refuses what has expired is not passed on this way.
                Some(reservation) if slots[channel] > 0 && expires_at[channel] > now => {
                    slots[channel] -= 1;
                    Placement::Sending { provider: reservation.provider() }
                }
                Some(_) if room[channel] > 0 => {
                    room[channel] -= 1;
                    Placement::Leased
                }
                _ => Placement::Waiting,
            };
            NewDelivery {
                channel,
                priority,
                user_id: planned.user_id,
                address: planned.address,
                locale: planned.locale,
                timezone: planned.timezone,
                list: list.cloned(),
                due_at,
                expires_at: expires_at[channel],
                placement,
            }
        })
        .collect()
}

/// A row as the delivery that it is.
pub(super) fn delivery(row: &NewDelivery, job: i64, ordinal: u32, job_key: [u8; 12], envelope: &Arc<Envelope>) -> Delivery {
    Delivery {
        key: DeliveryKey { job, ordinal },
        id: DeliveryId::new(job_key, ordinal),
        job: envelope.clone(),
        channel: row.channel,
        priority: row.priority,
        user_id: row.user_id.clone(),
        address: row.address.clone(),
        locale: row.locale.clone(),
        timezone: row.timezone,
        attempts: 0,
        pinned: None,
        due_at: row.due_at,
        expires_at: row.expires_at,
    }
}
