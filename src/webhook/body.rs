//! Reading what anybody may send us: up to a limit, in time, and not too much of it at once.

use axum::body::{Body, Bytes};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Refused;
use crate::socket::BodyTimedOut;

/// All of `body`, if it is no longer than `limit` bytes. What announces more is not read at all.
///
/// Room is taken for what has come, never for what was announced: words cost nobody anything.
pub(super) async fn read(mut body: Body, limit: usize, in_flight: &Semaphore) -> Result<Bytes, Refused> {
    if body.size_hint().lower() > limit as u64 {
        return Err(Refused::TooLarge);
    }
    let mut read = Vec::new();
    let mut room: Option<SemaphorePermit<'_>> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| match BodyTimedOut::find(&error) {
            Some(_) => Refused::TooSlow,
            None => Refused::Malformed("the body broke off"),
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > limit - read.len() {
            return Err(Refused::TooLarge);
        }
        let length = u32::try_from(data.len()).map_err(|_| Refused::TooLarge)?;
        let more = in_flight.try_acquire_many(length).map_err(|_| Refused::Busy)?;
        match &mut room {
            Some(room) => room.merge(more),
            None => room = Some(more),
        }
        read.extend_from_slice(&data);
    }
    Ok(read.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_is_taken_by_what_came() {
        let room = Semaphore::new(10);
        assert_eq!(read(Body::from("0123456789"), 10, &room).await, Ok(Bytes::from("0123456789")));
        assert_eq!(read(Body::from("01234567890"), 10, &room).await, Err(Refused::TooLarge));
        assert_eq!(read(Body::from("01234567890"), 20, &room).await, Err(Refused::Busy));
        assert_eq!(room.available_permits(), 10);
        // Whoever announces much and sends little leaves the room to the others.
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel::<Result<Bytes, std::convert::Infallible>>();
        let slow = Body::from_stream(futures_util::stream::poll_fn(move |context| receiver.poll_recv(context)));
        let mut reading = std::pin::pin!(read(slow, 10, &room));
        sender.send(Ok(Bytes::from("01"))).unwrap();
        tokio::select! {
            biased;
            read = &mut reading => panic!("there is more to come: {read:?}"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(room.available_permits(), 8);
        assert_eq!(read(Body::from("01234567"), 10, &room).await, Ok(Bytes::from("01234567")));
        drop(sender);
        assert_eq!(reading.await, Ok(Bytes::from("01")));
        assert_eq!(room.available_permits(), 10);
    }
}
