//! How far one peer has been told of one stream, and whose turn it is.

use super::hub::Frame;
use crate::model::Stream;

/// One stream's place.
#[derive(Debug)]
pub(super) struct Followed {
    pub stream: Stream,
    pub next: i64,
    /// Something before what the queue holds is to be read first.
    pub is_behind: bool,
}

/// What to do with a frame that has a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judged {
    Say,
    /// It went out already.
    Drop,
    /// Something before it is missing, or the frame only says that there is something.
    Read,
}

impl Followed {
    pub fn judge(&self, seq: i64, is_hint: bool) -> Judged {
        if seq < self.next {
            Judged::Drop
        } else if is_hint || seq > self.next {
            Judged::Read
        } else {
            Judged::Say
        }
    }

    /// Whether it is the turn of all of `frames`, one after the other.
    pub fn is_turn_of(&self, frames: &[std::sync::Arc<Frame>]) -> bool {
        !self.is_behind
            && frames.iter().zip(self.next..).all(|(frame, next)| {
                !frame.is_hint() && frame.place.as_ref().is_some_and(|place| place.seq == next && place.stream == self.stream)
            })
    }
}
