//! What one peer is told, strictly in the order of each stream it follows: nothing twice, nothing left out.
//!
//! The store is the truth. A frame that comes ahead of the next in its stream is a gap, and a gap is read from the store before anything
//! else of that stream goes out; so is what was missed before the connection. Meanwhile live frames wait in the hub's queue. What the
//! frames mean is the [`Protocol`]'s, and so is the reading.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;

use super::{
    Ending,
    followed::{Followed, Judged},
    hub::{Frame, FrameReceiver, Stopped},
};
use crate::model::{Place, Stream, Timestamp};

/// Streams of a connection that asks for no more: the user's own, and everyone's.
const USUALLY_FOLLOWED: usize = 2;

/// Something a session waits for without reading on: a read or a write of the store. What comes of it goes to [`Protocol::finish`].
pub type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a connection speaks.
pub trait Protocol: Send + Unpin + 'static {
    /// What its [`Work`] comes to.
    type Done: Send + 'static;

    /// What comes first: a greeting, what was missed.
    fn open(&mut self) -> Work<Self::Done>;

    /// What follows from a text of the peer's.
    fn receive(&mut self, text: &str) -> Reaction<Self::Done>;

    /// Reads what follows `after` in `stream`. [`Self::finish`] then follows the stream from where the reading ended.
    fn catch_up(&mut self, stream: &Stream, after: i64) -> Work<Self::Done>;

    fn finish(&mut self, done: Self::Done) -> Vec<Step>;

    /// Goes out with every ping. `reached` is how far each stream has been told.
    fn ping(&self, reached: &[Place]) -> Option<Frame>;

    /// Goes out before a close that asks the peer to come back, with how long it should wait.
    fn farewell(&self, retry_after: std::time::Duration) -> Option<Frame>;
}

/// What follows from a text of the peer's.
pub enum Reaction<T> {
    Nothing,
    Say(Frame),
    Do(Work<T>),
    Steps(Vec<Step>),
    /// The connection now lasts until then.
    Renew {
        until: Timestamp,
        steps: Vec<Step>,
    },
    End(Ending),
}

/// What the peer's text changes for the session itself.
pub(super) enum Received {
    Nothing,
    Renewed(Timestamp),
    End(Ending),
}

/// What a session does next, in order.
#[derive(Debug)]
pub enum Step {
    Nothing,
    Say(Arc<Frame>),
    /// From here on the stream's items from `next` on go out. With `more`, what follows is in the store and not in the queue.
    Follow {
        stream: Stream,
        next: i64,
        more: bool,
    },
    Unfollow(Stream),
    End(Ending),
}

/// Puts a connection's frames in order.
pub(super) struct Sequencer<P: Protocol> {
    pub protocol: P,
    frames: FrameReceiver,
    followed: Vec<Followed>,
    steps: VecDeque<Step>,
    work: Option<Work<P::Done>>,
    /// The queue was not emptied for a while because of us, not of the peer: an overflow is made up for by reading.
    was_busy: bool,
}

impl<P: Protocol> Sequencer<P> {
    pub fn new(mut protocol: P, frames: FrameReceiver) -> Self {
        let work = Some(protocol.open());
        Self { protocol, frames, followed: Vec::with_capacity(USUALLY_FOLLOWED), steps: VecDeque::new(), work, was_busy: true }
    }

    /// Whether something is under way that the peer's next text has to wait for.
    pub fn is_busy(&self) -> bool {
        self.work.is_some()
    }

    /// Whether something is under way after which the peer is told something in any case.
    pub fn is_about_to_greet(&self) -> bool {
        self.is_busy() && self.frames.is_v1()
    }

    /// Takes a text of the peer's. Only while not [`Self::is_busy`].
    pub fn receive(&mut self, text: &str) -> Received {
        match self.protocol.receive(text) {
            Reaction::Nothing => {}
            Reaction::Say(frame) => self.frames.reply(frame),
            Reaction::Do(work) => self.begin(work),
            Reaction::Steps(steps) => self.steps.extend(steps),
            Reaction::Renew { until, steps } => {
                self.steps.extend(steps);
                return Received::Renewed(until);
            }
            Reaction::End(ending) => return Received::End(ending),
        }
        Received::Nothing
    }

    /// Nothing is left to say or do: what comes next may be written past the session, by whoever publishes it. Until [`Self::resume`].
    pub fn rest(&mut self) {
        if self.steps.is_empty() {
            // Emptied it would keep its room, and most sockets rest for hours.
            self.steps = VecDeque::new();
        }
        if self.work.is_none() && self.steps.is_empty() && !self.followed.iter().any(|followed| followed.is_behind) {
            self.frames.rest(&mut self.followed);
        }
    }

    /// Nobody else writes from here on. What is left of a frame that was written in part is the session's to write, before all else.
    pub fn resume(&mut self) -> Option<Bytes> {
        self.frames.resume(&mut self.followed)
    }

    /// How far each stream has been told.
    pub fn reached(&self) -> Vec<Place> {
        self.followed.iter().map(|followed| Place { stream: followed.stream.clone(), seq: followed.next - 1 }).collect()
    }

    /// What goes out with a ping.
    pub fn ping(&self) -> Option<Frame> {
        self.protocol.ping(&self.reached())
    }

    /// The next frame. `Err` when the connection has to end.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Arc<Frame>, Ending>> {
        loop {
            if let Some(step) = self.steps.pop_front() {
                match self.take(step) {
                    Some(Ok(frame)) if !self.is_for_peer(&frame) => continue,
                    Some(said) => return Poll::Ready(said),
                    None => continue,
                }
            }
            if let Some(work) = &mut self.work {
                let Poll::Ready(done) = work.as_mut().poll(context) else {
                    // An overflow is made up for once the work is done.
                    return match self.frames.poll_stopped(context) {
                        Poll::Ready(Stopped::Closed(ending)) => Poll::Ready(Err(ending)),
                        Poll::Ready(Stopped::Overflowed) | Poll::Pending => Poll::Pending,
                    };
                };
                self.work = None;
                self.steps.extend(self.protocol.finish(done));
                continue;
            }
            if let Some(behind) = self.followed.iter_mut().find(|followed| followed.is_behind) {
                behind.is_behind = false;
                let work = self.protocol.catch_up(&behind.stream, behind.next - 1);
                self.begin(work);
                continue;
            }
            let next = match self.frames.poll_frame(context) {
                // Whoever waits for the next frame has taken all before it.
                Poll::Pending => {
                    self.was_busy = false;
                    return Poll::Pending;
                }
                Poll::Ready(next) => next,
            };
            match next {
                Ok(frame) => {
                    if let Some(frame) = self.in_order(frame).filter(|frame| self.is_for_peer(frame)) {
                        return Poll::Ready(Ok(frame));
                    }
                }
                Err(Stopped::Overflowed) if self.was_busy => {
                    self.frames.begin_anew();
                    self.was_busy = false;
                    for followed in &mut self.followed {
                        followed.is_behind = true;
                    }
                }
                Err(Stopped::Overflowed) => return Poll::Ready(Err(Ending::TooSlow)),
                Err(Stopped::Closed(ending)) => return Poll::Ready(Err(ending)),
            }
        }
    }

    /// For a session that cannot write now.
    pub fn poll_stopped(&mut self, context: &mut Context<'_>) -> Poll<Ending> {
        Poll::Ready(match ready!(self.frames.poll_stopped(context)) {
            Stopped::Overflowed => Ending::TooSlow,
            Stopped::Closed(ending) => ending,
        })
    }

    fn begin(&mut self, work: Work<P::Done>) {
        self.work = Some(work);
        self.was_busy = true;
    }

    fn take(&mut self, step: Step) -> Option<Result<Arc<Frame>, Ending>> {
        match step {
            Step::Nothing => {}
            Step::Say(frame) => {
                if let Some(place) = &frame.place
                    && let Some(followed) = self.followed.iter_mut().find(|followed| followed.stream == place.stream)
                {
                    followed.next = followed.next.max(place.seq + 1);
                }
                return Some(Ok(frame));
            }
            Step::End(ending) => return Some(Err(ending)),
            Step::Follow { stream, next, more } => {
                if let Some(followed) = self.followed.iter_mut().find(|followed| followed.stream == stream) {
                    // A read that lags behind what went out already takes nothing back.
                    (followed.next, followed.is_behind) = (followed.next.max(next), more);
                } else {
                    let next = self.first_for(&stream, next);
                    self.followed.push(Followed { stream, next, is_behind: more });
                }
            }
            Step::Unfollow(stream) => self.followed.retain(|followed| followed.stream != stream),
        }
        None
    }

    /// Where a stream is followed from. A peer that cannot be told where it stands has nothing to compare with what it loads: it is told all
    /// that came since it was let in, though some of it was stored before the stream was looked up.
    fn first_for(&self, stream: &Stream, next: i64) -> i64 {
        if self.frames.is_v1() { next } else { self.frames.first_of(stream).map_or(next, |first| next.min(first)) }
    }

    /// Frames of other types than the replaced system's keep their places for those who are not told of them.
    fn is_for_peer(&self, frame: &Frame) -> bool {
        !frame.v1_only || self.frames.is_v1()
    }

    /// The frame, when it is its turn.
    fn in_order(&mut self, frame: Arc<Frame>) -> Option<Arc<Frame>> {
        let Some(place) = &frame.place else { return Some(frame) };
        // Of a stream that is not followed any more.
        let followed = self.followed.iter_mut().find(|followed| followed.stream == place.stream)?;
        match followed.judge(place.seq, frame.is_hint()) {
            Judged::Say => {
                followed.next += 1;
                Some(frame)
            }
            Judged::Drop => None,
            Judged::Read => {
                followed.is_behind = true;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Mutex, task::Waker};

    use super::*;
    use crate::{
        model::UserId,
        socket::{ConnectionHandle, Home, Hub, HubLimits, Identity},
    };

    /// A store of one stream's items, and a protocol that reads it two at a time.
    #[derive(Clone, Default)]
    struct Items {
        stored: Arc<Mutex<Vec<i64>>>,
        /// While set, reading waits.
        is_slow: Arc<Mutex<bool>>,
        since: i64,
    }

    const PAGE: usize = 2;

    fn user() -> UserId {
        "42".parse().unwrap()
    }

    fn item(seq: i64) -> Frame {
        Frame::item(seq.to_string(), Place { stream: Stream::User(user()), seq }, None)
    }

    impl Items {
        fn read(&self, after: i64) -> Work<Vec<Step>> {
            let items = self.clone();
            Box::pin(std::future::poll_fn(move |_| {
                if *items.is_slow.lock().unwrap() {
                    return Poll::Pending;
                }
                let stored = items.stored.lock().unwrap();
                let page: Vec<i64> = stored.iter().copied().filter(|seq| *seq > after).take(PAGE).collect();
                let more = page.len() == PAGE;
                let through = if more { page[PAGE - 1] } else { stored.last().copied().unwrap_or(0).max(after) };
                let mut steps: Vec<Step> = page.into_iter().map(|seq| Step::Say(Arc::new(item(seq)))).collect();
                steps.push(Step::Follow { stream: Stream::User(user()), next: through + 1, more });
                Poll::Ready(steps)
            }))
        }
    }

    impl Protocol for Items {
        type Done = Vec<Step>;

        fn open(&mut self) -> Work<Self::Done> {
            self.read(self.since)
        }

        fn receive(&mut self, _: &str) -> Reaction<Self::Done> {
            Reaction::Nothing
        }

        fn catch_up(&mut self, _: &Stream, after: i64) -> Work<Self::Done> {
            self.read(after)
        }

        fn finish(&mut self, steps: Self::Done) -> Vec<Step> {
            steps
        }

        fn ping(&self, reached: &[Place]) -> Option<Frame> {
            reached.first().map(|place| Frame::new(format!("at {}", place.seq)))
        }

        fn farewell(&self, _: std::time::Duration) -> Option<Frame> {
            None
        }
    }

    struct Fixture {
        hub: Hub,
        items: Items,
        sequencer: Sequencer<Items>,
        _connection: ConnectionHandle,
    }

    impl Fixture {
        fn since(since: i64, stored: &[i64]) -> Self {
            Self::of(true, since, stored)
        }

        fn of(v1: bool, since: i64, stored: &[i64]) -> Self {
            let limits =
                HubLimits { connections: 9, connections_per_user: 9, topics_per_connection: 1, send_queue_limit: 99, send_queue_frames: 4 };
            let hub = Hub::new(limits);
            let (connection, frames) = hub.register(Identity::of(user(), Timestamp::default()), v1, Home::Inbox).unwrap();
            let items = Items { since, ..Items::default() };
            items.stored.lock().unwrap().extend(stored);
            Self { hub, sequencer: Sequencer::new(items.clone(), frames), items, _connection: connection }
        }

        fn store(&self, seq: i64) {
            self.items.stored.lock().unwrap().push(seq);
        }

        fn publish(&self, seqs: &[i64]) {
            for seq in seqs {
                self.hub.publish(&Stream::User(user()), &Arc::new(item(*seq)));
            }
        }

        fn slow(&self, is_slow: bool) {
            *self.items.is_slow.lock().unwrap() = is_slow;
        }

        /// Everything that goes out now.
        fn told(&mut self) -> Vec<String> {
            let mut told = Vec::new();
            loop {
                match self.sequencer.poll_next(&mut Context::from_waker(Waker::noop())) {
                    Poll::Pending => return told,
                    Poll::Ready(Ok(frame)) => told.push(frame.text.to_string()),
                    Poll::Ready(Err(ending)) => {
                        told.push(ending.as_str().to_owned());
                        return told;
                    }
                }
            }
        }
    }

    #[test]
    fn what_was_missed_comes_first_and_the_seam_neither_doubles_nor_loses() {
        let mut fixture = Fixture::since(1, &[1, 2, 3, 4, 5]);
        fixture.publish(&[4, 5, 6]);
        fixture.store(6);
        assert_eq!(fixture.told(), ["2", "3", "4", "5", "6"]);
        fixture.publish(&[6, 7]);
        assert_eq!(fixture.told(), ["7"]);
        assert_eq!(fixture.sequencer.ping().unwrap().text, "at 7");
    }

    #[test]
    fn what_came_while_the_stream_was_looked_up_is_told_those_who_know_no_places() {
        for (v1, expected) in [(false, vec!["4", "5", "6"]), (true, vec!["6"])] {
            let mut fixture = Fixture::of(v1, 5, &[1, 2, 3, 4, 5]);
            fixture.publish(&[4, 5]);
            assert_eq!(fixture.told(), if v1 { vec![] } else { vec!["4", "5"] });
            fixture.publish(&[5, 6]);
            let mut told = if v1 { vec![] } else { vec!["4".to_owned(), "5".to_owned()] };
            told.extend(fixture.told());
            assert_eq!(told, expected);
        }
    }

    #[test]
    fn live_frames_wait_while_the_store_is_read() {
        let mut fixture = Fixture::since(0, &[1]);
        fixture.slow(true);
        assert!(fixture.told().is_empty());
        assert!(fixture.sequencer.is_busy());
        fixture.publish(&[2, 3]);
        assert!(fixture.told().is_empty());
        fixture.slow(false);
        assert_eq!(fixture.told(), ["1", "2", "3"]);
        assert!(!fixture.sequencer.is_busy());
    }

    #[test]
    fn a_gap_is_read_from_the_store() {
        let mut fixture = Fixture::since(0, &[]);
        assert!(fixture.told().is_empty());
        for seq in 1..=4 {
            fixture.store(seq);
        }
        fixture.publish(&[1, 4]);
        assert_eq!(fixture.told(), ["1", "2", "3", "4"]);
        fixture.publish(&[3]);
        assert!(fixture.told().is_empty());
    }

    #[test]
    fn a_hint_is_worth_a_read_and_holes_are_passed_over() {
        let mut fixture = Fixture::since(0, &[]);
        assert!(fixture.told().is_empty());
        fixture.store(1);
        fixture.store(3);
        let hint = |seq| Arc::new(Frame::hint(Place { stream: Stream::User(user()), seq }));
        fixture.hub.publish(&Stream::User(user()), &hint(3));
        assert_eq!(fixture.told(), ["1", "3"]);
        fixture.hub.publish(&Stream::User(user()), &hint(3));
        fixture.publish(&[2, 4]);
        assert_eq!(fixture.told(), ["4"]);
    }

    #[test]
    fn an_overflow_while_reading_is_made_up_for_and_any_other_ends_it() {
        let mut fixture = Fixture::since(0, &[]);
        fixture.slow(true);
        assert!(fixture.told().is_empty());
        for seq in 1..=6 {
            fixture.store(seq);
            fixture.publish(&[seq]);
        }
        fixture.slow(false);
        assert_eq!(fixture.told(), ["1", "2", "3", "4", "5", "6"]);
        fixture.publish(&[7, 8, 9, 10, 11]);
        assert_eq!(fixture.told(), ["too_slow"]);
    }

    #[test]
    fn whoever_is_closed_is_closed_while_reading_too() {
        let mut fixture = Fixture::since(0, &[]);
        fixture.slow(true);
        assert!(fixture.told().is_empty());
        fixture.hub.close_where(|_| true, Ending::Revoked);
        assert_eq!(fixture.told(), ["revoked"]);
    }
}
