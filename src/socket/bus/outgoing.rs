//! What is on its way to the other processes: a bounded queue that keeps what could not be published, and never makes anybody wait.
//!
//! When it is full, an item of a stream becomes a hint, one per stream, which says only how far the stream has come.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use indexmap::IndexMap;
use tokio::sync::Notify;

use super::{
    super::hub::Frame,
    wire::{self, Channel},
};
use crate::model::{Place, Stream};

/// Messages of one batch, and so of one answer waited for.
const BATCH: usize = 256;
/// Bytes of one batch; a single larger message goes alone.
const BATCH_BYTES: usize = 1 << 20;
/// What a message takes beside its text, roughly.
const OVERHEAD: usize = 160;
/// Beyond the limit for what concerns every node: it must not wait for room.
const CONTROL_ROOM: usize = 1 << 20;

/// One message, encoded.
#[derive(Debug)]
pub(super) struct Message {
    pub channel: Channel,
    pub payload: Vec<u8>,
    seq: Option<i64>,
}

impl Message {
    pub fn new(node: &str, channel: Channel, frame: &Frame) -> Self {
        Self { channel, payload: wire::encode(node, frame), seq: frame.place.as_ref().map(|place| place.seq) }
    }

    fn cost(&self) -> usize {
        self.payload.len() + OVERHEAD
    }
}

pub(super) struct Outgoing {
    node: String,
    /// Bytes.
    limit: usize,
    hints_limit: usize,
    state: Mutex<State>,
    ready: Notify,
    /// Became one of a stream's hints for want of room.
    pub hinted: AtomicU64,
    /// Gone for want of room: what had no place in a stream, or one hint too many.
    pub dropped: AtomicU64,
}

#[derive(Default)]
struct State {
    messages: VecDeque<Arc<Message>>,
    bytes: usize,
    hints: IndexMap<Stream, i64>,
    /// Handed out and not confirmed yet.
    in_flight: Vec<Arc<Message>>,
}

impl Outgoing {
    pub fn new(node: &str, limit: usize, hints_limit: usize) -> Self {
        let (hinted, dropped) = Default::default();
        Self { node: node.to_owned(), limit, hints_limit, state: Mutex::default(), ready: Notify::new(), hinted, dropped }
    }

    pub fn push(&self, message: Message) {
        let mut state = self.lock();
        let is_control = message.channel == Channel::Control;
        let limit = if is_control { self.limit + CONTROL_ROOM } else { self.limit };
        if state.bytes + message.cost() <= limit {
            state.bytes += message.cost();
            // What closes sockets does not wait behind what fills them.
            if is_control { state.messages.push_front(Arc::new(message)) } else { state.messages.push_back(Arc::new(message)) }
        } else {
            self.remember(&mut state, message);
        }
        drop(state);
        self.ready.notify_one();
    }

    fn remember(&self, state: &mut State, message: Message) {
        match (message.channel, message.seq) {
            (Channel::Stream(stream), Some(seq)) if state.hints.len() < self.hints_limit || state.hints.contains_key(&stream) => {
                let hint = state.hints.entry(stream).or_default();
                *hint = seq.max(*hint);
                self.hinted.fetch_add(1, Relaxed);
            }
            _ => {
                self.dropped.fetch_add(1, Relaxed);
            }
        }
    }

    /// The next messages, in order; waits for the first. Kept until [`Self::published`].
    pub async fn batch(&self) -> Vec<Arc<Message>> {
        loop {
            let batch = self.take();
            if !batch.is_empty() {
                return batch;
            }
            self.ready.notified().await;
        }
    }

    fn take(&self) -> Vec<Arc<Message>> {
        let mut state = self.lock();
        let mut bytes = 0;
        while state.in_flight.len() < BATCH
            && let Some(next) = state.messages.front()
        {
            bytes += next.cost();
            if bytes > BATCH_BYTES && !state.in_flight.is_empty() {
                break;
            }
            let next = state.messages.pop_front();
            state.in_flight.extend(next);
        }
        // Hints are newer than everything in the queue.
        while state.messages.is_empty()
            && state.in_flight.len() < BATCH
            && let Some((stream, seq)) = state.hints.pop()
        {
            let hint = Frame::hint(Place { stream: stream.clone(), seq });
            let hint = Message::new(&self.node, Channel::Stream(stream), &hint);
            state.bytes += hint.cost();
            state.in_flight.push(Arc::new(hint));
        }
        state.in_flight.clone()
    }

    /// The last batch is out; says how many it were.
    pub fn published(&self) -> usize {
        let mut state = self.lock();
        let published = std::mem::take(&mut state.in_flight);
        state.bytes -= published.iter().map(|message| message.cost()).sum::<usize>();
        published.len()
    }

    /// Nobody knows whether the last batch is out: it goes again, before the rest. Those who have it pass over what they know.
    pub fn restore(&self) {
        let mut state = self.lock();
        for message in std::mem::take(&mut state.in_flight).into_iter().rev() {
            state.messages.push_front(message);
        }
    }

    /// Messages and hints that wait.
    pub fn waiting(&self) -> usize {
        let state = self.lock();
        state.messages.len() + state.hints.len() + state.in_flight.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, so a poisoned one is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(id: &str) -> Stream {
        Stream::User(id.parse().unwrap())
    }

    fn item(id: &str, seq: i64) -> Message {
        Message::new("n", Channel::Stream(stream(id)), &Frame::item("text", Place { stream: stream(id), seq }, None))
    }

    fn unplaced(channel: Channel) -> Message {
        Message::new("n", channel, &Frame::v1("text"))
    }

    /// Room for three of these.
    fn small() -> Outgoing {
        Outgoing::new("n", 3 * item("1", 1).cost(), 2)
    }

    fn batch(outgoing: &Outgoing) -> Vec<String> {
        let text = |message: &Arc<Message>| String::from_utf8_lossy(&message.payload).replace('\n', "|");
        outgoing.take().iter().map(text).collect()
    }

    #[test]
    fn a_batch_is_kept_until_it_is_out() {
        let outgoing = small();
        outgoing.push(item("1", 1));
        assert_eq!(batch(&outgoing), ["1 n - 1 -|text"]);
        outgoing.push(item("1", 2));
        outgoing.restore();
        assert_eq!(batch(&outgoing), ["1 n - 1 -|text", "1 n - 2 -|text"]);
        assert_eq!(outgoing.published(), 2);
        assert!(batch(&outgoing).is_empty());
        assert_eq!(outgoing.waiting(), 0);
    }

    #[test]
    fn beyond_the_limit_a_stream_has_one_hint() {
        let outgoing = small();
        for seq in 1..=6 {
            outgoing.push(item("1", seq));
        }
        outgoing.push(item("2", 9));
        outgoing.push(item("3", 1));
        outgoing.push(unplaced(Channel::Stream(stream("1"))));
        assert_eq!((outgoing.hinted.load(Relaxed), outgoing.dropped.load(Relaxed)), (4, 2));
        assert_eq!(batch(&outgoing).len(), 5);
        outgoing.restore();
        let mut texts = batch(&outgoing);
        texts[3..].sort();
        assert_eq!(texts, ["1 n - 1 -|text", "1 n - 2 -|text", "1 n - 3 -|text", "1 n - 6 -|", "1 n - 9 -|"]);
        outgoing.published();
        outgoing.push(item("1", 7));
        assert_eq!(batch(&outgoing), ["1 n - 7 -|text"]);
    }

    #[test]
    fn what_concerns_every_node_goes_first_and_has_room() {
        let outgoing = small();
        for seq in 1..=4 {
            outgoing.push(item("1", seq));
        }
        outgoing.push(unplaced(Channel::Control));
        assert_eq!(batch(&outgoing)[0], "1 n v - -|text");
    }

    #[test]
    fn batches_have_a_limit() {
        let outgoing = Outgoing::new("n", 100 << 20, 10);
        for seq in 1..=300 {
            outgoing.push(item("1", seq));
        }
        assert_eq!(outgoing.take().len(), BATCH);
        outgoing.published();
        assert_eq!(outgoing.take().len(), 300 - BATCH);
        outgoing.published();
        let large = "x".repeat(600 << 10);
        for seq in 1..=2 {
            let frame = Frame::item(large.clone(), Place { stream: stream("1"), seq }, None);
            outgoing.push(Message::new("n", Channel::Stream(stream("1")), &frame));
        }
        assert_eq!(outgoing.take().len(), 1);
    }
}
