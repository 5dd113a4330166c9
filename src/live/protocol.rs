//! The notifications protocol: what comes first, what was missed, what a client may ask for.
//!
//! Frames in order are the sequencer's work; here is what they say and which reads and writes they need.

use std::{sync::Arc, time::Duration};

use secrecy::ExposeSecret as _;
use serde_json::{Map, Value};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::{
    Live,
    command::{Command, Refused},
    frames,
    position::{Position, Since},
};
use crate::{
    channel::live::{notification_frame, unread_frame},
    event::{Event, emit},
    model::{Place, Stream, Timestamp, Topic},
    socket::{Ending, Frame, Identity, Protocol, Reaction, Step, Subscriber, Work},
    store::{Chosen, Head, ITEMS_PAGE_LIMIT, ItemChange, Replay, StoreError},
};

const PONG: Utf8Bytes = Utf8Bytes::from_static(r#"{"type":"pong"}"#);

/// One connection's side of the protocol.
#[derive(Debug)]
pub struct Notifications {
    live: Arc<Live>,
    identity: Identity,
    /// Knows frames of other types than the replaced system's.
    v1: bool,
    subscriber: Subscriber,
    /// Where the client says it was, by stream, when it connected.
    position: Position,
    /// Streams whose missed part is being told, and since when.
    recovering: Vec<(Stream, i64)>,
}

/// What the protocol's reads and writes come to.
#[derive(Debug)]
pub enum Done {
    Opened(Vec<Opened>),
    Read {
        stream: Stream,
        after: i64,
        replay: Replay,
        /// Ids whose state changed while the client was away.
        changed: Vec<i64>,
    },
    Subscribed(Opened),
    /// `missing` is the item it was about, when the user has none such.
    Changed {
        missing: Option<i64>,
    },
    Failed(StoreError),
}

/// A stream about to be followed.
#[derive(Debug)]
pub struct Opened {
    stream: Stream,
    head: Head,
    since: Option<Since>,
}

impl Notifications {
    /// `position` is where the client says it was.
    pub fn new(live: Arc<Live>, identity: Identity, v1: bool, subscriber: Subscriber, position: Position) -> Self {
        Self { live, identity, v1, subscriber, position, recovering: Vec::new() }
    }

    /// The id of a server-sent event: where its reader is.
    pub fn mark(&self, reached: &[Place]) -> String {
        Position::at(self.live.store.epoch(), reached).to_string()
    }

    fn own(&self) -> Stream {
        Stream::User(self.identity.user_id.clone())
    }

    fn may_follow(&self, topic: &Topic) -> bool {
        self.live.may_follow(&self.identity, topic)
    }

    /// Follows a stream, from where the client was if history reaches back, and says so.
    fn follow(&mut self, opened: Opened, steps: &mut Vec<Step>) {
        let Opened { stream, head, since } = opened;
        let from_now = Step::Follow { stream: stream.clone(), next: head.seq + 1, more: false };
        // Where it is followed already, what the client has told of itself counts.
        steps.push(Step::Unfollow(stream.clone()));
        let Some(since) = since else { return steps.push(from_now) };
        let epoch = self.live.store.epoch();
        let is_known = since.epoch.as_deref().is_none_or(|known| known == &**epoch);
        let is_kept = (head.floor..=head.seq).contains(&since.seq) && head.seq - since.seq <= i64::from(self.live.settings.replay_limit);
        if is_known && is_kept {
            self.recovering.retain(|(other, _)| *other != stream);
            self.recovering.push((stream.clone(), since.seq));
            steps.push(Step::Follow { stream, next: since.seq + 1, more: true });
        } else {
            steps.push(self.say(frames::not_recovered(&stream, head.seq, epoch)));
            steps.push(from_now);
        }
    }

    fn read(&mut self, done: Done, steps: &mut Vec<Step>) {
        let Done::Read { stream, after, replay, changed } = done else { return };
        let Replay { items, through, head } = replay;
        if after < head.floor {
            // What lies between is gone: better to say so than to pass over it in silence.
            self.recovering.retain(|(other, _)| *other != stream);
            steps.push(self.say(frames::not_recovered(&stream, head.seq, self.live.store.epoch())));
            steps.push(Step::Follow { stream, next: head.seq + 1, more: false });
            return;
        }
        steps.extend(items.iter().map(|item| Step::Say(Arc::new(notification_frame(item)))));
        let more = through < head.seq;
        if !more {
            if let Some(place) = self.recovering.iter().position(|(recovering, _)| *recovering == stream) {
                let (_, since) = self.recovering.swap_remove(place);
                steps.push(self.say(frames::recovered(&stream, since + 1, through, self.live.store.epoch(), &changed)));
            } else if let Stream::User(_) = stream {
                steps.push(self.say(unread_frame(head.unread)));
            }
        }
        steps.push(Step::Follow { stream, next: through + 1, more });
    }

    /// The frame where the client knows such frames; else a hint to nothing, which goes nowhere.
    fn say(&self, frame: Frame) -> Step {
        if self.v1 || !frame.v1_only { Step::Say(Arc::new(frame)) } else { Step::Nothing }
    }

    fn answer(&mut self, command: Command) -> Reaction<Done> {
        match command {
            Command::Ping => Reaction::Say(Frame::new(PONG)),
            Command::Ignored => Reaction::Nothing,
            Command::Change { change, id } => self.change(change, Some(id)),
            Command::ReadAll => self.change(ItemChange::Read, None),
            Command::Subscribe { topic, since } => self.subscribe(topic, since),
            Command::Unsubscribe(topic) => {
                if topic == Topic::everyone() {
                    return Reaction::Say(Refused::everyone().frame());
                }
                self.subscriber.unfollow(&topic);
                let stream = Stream::Topic(topic.clone());
                let said = Arc::new(frames::unsubscribed(&topic));
                self.recovering.retain(|(other, _)| *other != stream);
                Reaction::Steps(vec![Step::Unfollow(stream), Step::Say(said)])
            }
            Command::Token(token) => self.renew(token.expose_secret()),
        }
    }

    fn change(&self, change: ItemChange, id: Option<i64>) -> Reaction<Done> {
        let (live, identity) = (self.live.clone(), self.identity.clone());
        let chosen = id.map_or(Chosen::All, |id| Chosen::Ids(vec![id]));
        Reaction::Do(Box::pin(async move {
            match live.change(&identity, chosen, change).await {
                Ok(changed) => Done::Changed { missing: id.filter(|_| changed.found == 0) },
                Err(error) => Done::Failed(error),
            }
        }))
    }

    fn subscribe(&mut self, topic: Topic, since: Option<Since>) -> Reaction<Done> {
        if !self.may_follow(&topic) {
            return Reaction::Say(Refused::topic(&topic).frame());
        }
        if self.subscriber.follow(&topic).is_err() {
            return Reaction::Say(Refused::too_many_topics(&topic).frame());
        }
        let store = self.live.store.clone();
        Reaction::Do(Box::pin(async move {
            let stream = Stream::Topic(topic);
            match store.stream_head(stream.clone()).await {
                Ok(head) => Done::Subscribed(Opened { stream, head, since }),
                Err(error) => Done::Failed(error),
            }
        }))
    }

    /// Takes a new token of the same user in place of the one the connection came with.
    fn renew(&mut self, token: &str) -> Reaction<Done> {
        let now = Timestamp::now();
        let identity = match self.live.authenticator.verify(token, now) {
            Ok(identity) => identity,
            Err(error) => return Reaction::Say(Refused::token(error).frame()),
        };
        if identity.user_id != self.identity.user_id {
            return Reaction::End(Ending::Forbidden);
        }
        let until = identity.expires_at;
        self.subscriber.renew(identity.clone());
        // Only now would a revocation find it.
        if self.live.authenticator.is_revoked(&identity, now) {
            return Reaction::End(Ending::Revoked);
        }
        self.identity = identity;
        let mut steps = Vec::new();
        for topic in self.subscriber.topics() {
            if !self.may_follow(&topic) {
                self.subscriber.unfollow(&topic);
                steps.push(Step::Unfollow(Stream::Topic(topic.clone())));
                steps.push(Step::Say(Arc::new(frames::unsubscribed(&topic))));
            }
        }
        steps.push(self.say(frames::renewed(until)));
        Reaction::Renew { until, steps }
    }
}

impl Protocol for Notifications {
    type Done = Done;

    fn open(&mut self) -> Work<Done> {
        let mut wanted = vec![(self.own(), self.position.of_user())];
        let (topics, refused): (Vec<_>, Vec<_>) = self.position.topics().into_iter().partition(|(topic, _)| self.may_follow(topic));
        debug_assert!(refused.iter().all(|(topic, _)| *topic != Topic::everyone()));
        let mut everyone = None;
        for (topic, since) in topics {
            if topic == Topic::everyone() {
                everyone = since;
            } else if self.subscriber.follow(&topic).is_ok() {
                wanted.push((Stream::Topic(topic), since));
            }
        }
        wanted.insert(1, (Stream::Topic(Topic::everyone()), everyone));
        let store = self.live.store.clone();
        Box::pin(async move {
            let heads = match store.stream_heads(wanted.iter().map(|(stream, _)| stream.clone()).collect()).await {
                Ok(heads) => heads,
                Err(error) => return Done::Failed(error),
            };
            let opened = |((stream, head), (_, since))| Opened { stream, head, since };
            Done::Opened(heads.into_iter().zip(wanted).map(opened).collect())
        })
    }

    fn receive(&mut self, text: &str) -> Reaction<Done> {
        match Command::read(text) {
            Ok(command) => self.answer(command),
            Err(refused) => Reaction::Say(refused.frame()),
        }
    }

    fn catch_up(&mut self, stream: &Stream, after: i64) -> Work<Done> {
        let (store, stream) = (self.live.store.clone(), stream.clone());
        let since = self.recovering.iter().find(|(recovering, _)| *recovering == stream).map(|(_, since)| *since);
        let changed_limit = self.live.settings.replay_limit as usize;
        Box::pin(async move {
            let replay = match store.stream_since(stream.clone(), after, ITEMS_PAGE_LIMIT).await {
                Ok(replay) => replay,
                Err(error) => return Done::Failed(error),
            };
            let changed = match (&stream, since) {
                (Stream::User(user), Some(since)) if replay.through >= replay.head.seq => {
                    match store.inbox_changed(user.clone(), since, changed_limit).await {
                        Ok(changed) => changed,
                        Err(error) => return Done::Failed(error),
                    }
                }
                _ => Vec::new(),
            };
            Done::Read { stream, after, replay, changed }
        })
    }

    fn finish(&mut self, done: Done) -> Vec<Step> {
        let mut steps = Vec::new();
        match done {
            Done::Opened(opened) => {
                if self.v1 {
                    let heads = opened.iter().map(|opened| (&opened.stream, opened.head));
                    let hello = frames::hello(&self.identity, heads, self.live.store.epoch(), self.live.settings.ping_interval);
                    steps.push(Step::Say(Arc::new(hello)));
                }
                for opened in opened {
                    self.follow(opened, &mut steps);
                }
            }
            read @ Done::Read { .. } => self.read(read, &mut steps),
            Done::Subscribed(opened) => {
                if let Stream::Topic(topic) = &opened.stream {
                    steps.push(Step::Say(Arc::new(frames::subscribed(topic, opened.head.seq, self.live.store.epoch()))));
                }
                self.follow(opened, &mut steps);
            }
            Done::Changed { missing } => steps.extend(missing.map(|id| Step::Say(Arc::new(Refused::item(id).frame())))),
            Done::Failed(error) => {
                emit(&Event::StoreFailed { doing: "reading for a socket; it is closed, to come back later", error: &error.to_string() });
                steps.push(Step::End(Ending::Unavailable));
            }
        }
        steps
    }

    fn ping(&self, reached: &[Place]) -> Option<Frame> {
        let own = self.own();
        let seq = reached.iter().find(|place| place.stream == own).map(|place| place.seq)?;
        self.v1.then(|| frames::ping(seq))
    }

    fn farewell(&self, retry_after: Duration) -> Option<Frame> {
        self.v1.then(|| frames::restarting(retry_after))
    }
}

/// A frame of the client's: an object, or nothing we know.
pub(super) fn object(text: &str) -> Option<Map<String, Value>> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Some(object),
        _ => None,
    }
}
