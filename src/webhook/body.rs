//! Reading what anybody may send us: up to a limit, in time, and not too much of it at once.

use axum::body::{Body, Bytes, to_bytes};
use http_body_util::LengthLimitError;
use hyper::body::Body as _;
use tokio::sync::Semaphore;

use super::Refused;
use crate::socket::BodyTimedOut;

/// All of `body`, if it is no longer than `limit` bytes. What announces more is not read at all; what announces nothing takes the room of
/// the longest.
pub(super) async fn read(body: Body, limit: usize, in_flight: &Semaphore) -> Result<Bytes, Refused> {
    let hint = body.size_hint();
    if hint.lower() > limit as u64 {
        return Err(Refused::TooLarge);
    }
    let length = hint.exact().and_then(|length| u32::try_from(length).ok()).or_else(|| u32::try_from(limit).ok());
    let _room = in_flight.try_acquire_many(length.unwrap_or(u32::MAX)).map_err(|_| Refused::Busy)?;
    to_bytes(body, limit).await.map_err(|error| {
        if BodyTimedOut::find(&error).is_some() {
            Refused::TooSlow
        } else if std::error::Error::source(&error).is_some_and(<dyn std::error::Error>::is::<LengthLimitError>) {
            Refused::TooLarge
        } else {
            Refused::Malformed("the body broke off")
        }
    })
}
