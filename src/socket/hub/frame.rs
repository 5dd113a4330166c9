//! One frame, whatever it says, and what the hub has to know of it.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::model::{DeliveryKey, Place, UserId};

/// The first byte of a frame that is a whole text message.
const WHOLE_TEXT: u8 = 0x81;
/// Bytes of the longest head that a server writes.
pub(super) const HEAD_LIMIT: usize = 10;

/// One text frame, encoded once however many sockets it goes to.
#[derive(Debug)]
pub struct Frame {
    /// Reference-counted, and known to be UTF-8 without checking again for each socket. Empty in a hint.
    pub text: Utf8Bytes,
    /// Where it belongs. Frames without a place are shown as they come and never again.
    pub place: Option<Place>,
    /// Goes only to those who asked for more than the replaced system's frames.
    pub v1_only: bool,
    /// Which of the followers it goes to. A frame with a place goes to all.
    pub audience: Audience,
    delivery: Option<DeliveryKey>,
    /// Whether some socket has taken it already.
    taken: AtomicBool,
    /// As it goes over the wire, once somebody has asked.
    wire: OnceLock<Bytes>,
}

/// Which of those who follow a stream a frame is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Audience {
    #[default]
    Everybody,
    /// Everybody but this user: it is about what they do.
    Except(UserId),
    /// This user's own connections.
    Only(UserId),
}

impl Audience {
    pub(super) fn includes(&self, user: &UserId) -> bool {
        match self {
            Self::Everybody => true,
            Self::Except(other) => other != user,
            Self::Only(other) => other == user,
        }
    }
}

impl Frame {
    /// A frame that belongs to no stream.
    pub fn new(text: impl Into<Utf8Bytes>) -> Self {
        Self {
            text: text.into(),
            place: None,
            v1_only: false,
            audience: Audience::Everybody,
            delivery: None,
            taken: AtomicBool::new(false),
            wire: OnceLock::new(),
        }
    }

    /// The same, for those only who asked for more than the replaced system's frames.
    pub fn v1(text: impl Into<Utf8Bytes>) -> Self {
        Self { v1_only: true, ..Self::new(text) }
    }

    /// For some of the followers only.
    #[must_use]
    pub fn to(self, audience: Audience) -> Self {
        Self { audience, ..self }
    }

    /// An item of a stream; `delivery` is reported once the first socket has taken it.
    pub fn item(text: impl Into<Utf8Bytes>, place: Place, delivery: Option<DeliveryKey>) -> Self {
        Self { place: Some(place), delivery, ..Self::new(text) }
    }

    /// An item that is shown to those only who asked for more than the replaced system's frames. For the others its place is passed over.
    pub fn v1_item(text: impl Into<Utf8Bytes>, place: Place) -> Self {
        Self { place: Some(place), ..Self::v1(text) }
    }

    /// As it came from another process.
    pub(in super::super) fn relayed(
        text: Utf8Bytes,
        place: Option<Place>,
        v1_only: bool,
        audience: Audience,
        delivery: Option<DeliveryKey>,
    ) -> Self {
        Self { place, v1_only, audience, delivery, ..Self::new(text) }
    }

    /// Says only that the stream has come this far; whoever is behind reads it.
    pub fn hint(place: Place) -> Self {
        Self { place: Some(place), ..Self::new("") }
    }

    pub fn is_hint(&self) -> bool {
        self.text.is_empty()
    }

    /// The delivery it is of, whoever reports it.
    pub(in super::super) fn delivery(&self) -> Option<DeliveryKey> {
        self.delivery
    }

    /// The delivery to report, the first time only.
    pub(in super::super) fn take_delivery(&self) -> Option<DeliveryKey> {
        self.delivery.filter(|_| !self.taken.swap(true, Relaxed))
    }

    /// The text in a WebSocket frame of a server's (RFC 6455, section 5.2): whole, and not masked. Made once.
    pub(super) fn wire(&self) -> &Bytes {
        self.wire.get_or_init(|| {
            let mut wire = BytesMut::with_capacity(HEAD_LIMIT + self.text.len());
            self.write_to(&mut wire);
            wire.freeze()
        })
    }

    pub(super) fn write_to(&self, wire: &mut BytesMut) {
        wire.put_u8(WHOLE_TEXT);
        let length = self.text.len();
        match (u8::try_from(length), u16::try_from(length)) {
            (Ok(short @ 0..126), _) => wire.put_u8(short),
            (_, Ok(length)) => {
                wire.put_u8(126);
                wire.put_u16(length);
            }
            _ => {
                wire.put_u8(127);
                wire.put_u64(length as u64);
            }
        }
        wire.put_slice(self.text.as_bytes());
    }
}
