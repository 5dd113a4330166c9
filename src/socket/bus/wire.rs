//! What goes over the link: the names of channels and keys, and the form of a message.
//!
//! A message is one line of five words, then the frame's text: the version of this form, the node it is from, `v` for frames that only
//! newer clients know, the seq, and the delivery; `-` where there is none. A sixth stands where the frame is not for everybody: `!` and the user it is not
//! for, or `=` and the only one it is for.

use std::{fmt::Write as _, str::from_utf8};

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tokio_tungstenite::tungstenite::{Bytes, Utf8Bytes};

use super::super::hub::{Audience, Frame};
use crate::model::{DeliveryKey, Place, Stream, UserId};

const VERSION: &str = "1";
/// Longest first line looked at, in bytes.
const HEADER_LIMIT: usize = 200;

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    Stream(Stream),
    Control,
    Presence,
}

/// The names of everything in Redis, all of which begin with the same word.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub fn channel(&self, channel: &Channel) -> String {
        let prefix = &self.prefix;
        match channel {
            Channel::Stream(Stream::User(user)) => format!("{prefix}:u:{user}"),
            Channel::Stream(Stream::Topic(topic)) => format!("{prefix}:t:{topic}"),
            Channel::Stream(Stream::Conversation(id)) => format!("{prefix}:c:{id}"),
            Channel::Control => format!("{prefix}:control"),
            Channel::Presence => format!("{prefix}:presence"),
        }
    }

    /// The channel of this name; `None` when it is none of ours.
    pub fn parse(&self, name: &[u8]) -> Option<Channel> {
        let rest = from_utf8(name).ok()?.strip_prefix(&self.prefix)?.strip_prefix(':')?;
        match rest.split_once(':') {
            Some(("u", user)) => Some(Channel::Stream(Stream::User(user.parse().ok()?))),
            Some(("t", topic)) => Some(Channel::Stream(Stream::Topic(topic.parse().ok()?))),
            Some(("c", id)) => Some(Channel::Stream(Stream::Conversation(id.parse().ok()?))),
            None if rest == "control" => Some(Channel::Control),
            None if rest == "presence" => Some(Channel::Presence),
            _ => None,
        }
    }

    /// Nodes by the time until which they count as alive.
    pub fn nodes(&self) -> String {
        format!("{}:nodes", self.prefix)
    }

    /// The users connected to one node, with their connections.
    pub fn node(&self, node: &str) -> String {
        format!("{}:node:{node}", self.prefix)
    }

    pub fn once(&self, key: &str) -> String {
        format!("{}:once:{key}", self.prefix)
    }
}

pub(super) fn encode(node: &str, frame: &Frame) -> Vec<u8> {
    let mut head = format!("{VERSION} {node} {} ", if frame.v1_only { "v" } else { "-" });
    // Writing to a string does not fail.
    let _ = match &frame.place {
        Some(place) => write!(head, "{} ", place.seq),
        None => write!(head, "- "),
    };
    let _ = match frame.delivery() {
        Some(key) => write!(head, "{}.{}", key.job, key.ordinal),
        None => write!(head, "-"),
    };
    let _ = match &frame.audience {
        Audience::Everybody => writeln!(head),
        Audience::Except(user) => writeln!(head, " !{}", utf8_percent_encode(user.as_str(), NON_ALPHANUMERIC)),
        Audience::Only(user) => writeln!(head, " ={}", utf8_percent_encode(user.as_str(), NON_ALPHANUMERIC)),
    };
    [head.as_bytes(), frame.text.as_bytes()].concat()
}

/// A message as it came in.
#[derive(Debug)]
pub(super) struct Received {
    pub text: Utf8Bytes,
    v1_only: bool,
    audience: Audience,
    seq: Option<i64>,
    delivery: Option<DeliveryKey>,
}

impl Received {
    pub fn into_frame(self, stream: &Stream) -> Frame {
        let place = self.seq.map(|seq| Place { stream: stream.clone(), seq });
        Frame::relayed(self.text, place, self.v1_only, self.audience, self.delivery)
    }
}

/// What came in.
#[derive(Debug)]
pub(super) enum Decoded {
    Received(Received),
    /// Our own, come back.
    Own,
    /// Of a version that is newer than we are, or not from a node at all.
    Unknown,
}

/// Reads what [`encode`] wrote. The text is not copied.
pub(super) fn decode(own: &str, message: Vec<u8>) -> Decoded {
    let Some(end) = message.iter().take(HEADER_LIMIT).position(|byte| *byte == b'\n') else { return Decoded::Unknown };
    let Ok(head) = from_utf8(&message[..end]) else { return Decoded::Unknown };
    let mut words = head.split(' ');
    if words.next() != Some(VERSION) {
        return Decoded::Unknown;
    }
    if words.next() == Some(own) {
        return Decoded::Own;
    }
    let (Some(v1), Some(seq), Some(delivery), to, None) = (words.next(), words.next(), words.next(), words.next(), words.next()) else {
        return Decoded::Unknown;
    };
    let Some(audience) = to.map_or(Some(Audience::Everybody), audience) else { return Decoded::Unknown };
    let v1_only = v1 == "v";
    let (Ok(seq), Ok(delivery)) = (optional(seq, |seq| seq.parse().ok()), optional(delivery, delivery_key)) else {
        return Decoded::Unknown;
    };
    match Utf8Bytes::try_from(Bytes::from(message).slice(end + 1..)) {
        Ok(text) => Decoded::Received(Received { text, v1_only, audience, seq, delivery }),
        Err(_) => Decoded::Unknown,
    }
}

/// An error when it is neither `-` nor readable.
fn optional<T>(word: &str, read: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>, ()> {
    if word == "-" { Ok(None) } else { read(word).map(Some).ok_or(()) }
}

fn audience(word: &str) -> Option<Audience> {
    let user = |encoded: &str| -> Option<UserId> { percent_decode_str(encoded).decode_utf8().ok()?.parse().ok() };
    match word.split_at_checked(1)? {
        ("!", encoded) => user(encoded).map(Audience::Except),
        ("=", encoded) => user(encoded).map(Audience::Only),
        _ => None,
    }
}

fn delivery_key(word: &str) -> Option<DeliveryKey> {
    let (job, ordinal) = word.split_once('.')?;
    Some(DeliveryKey { job: job.parse().ok()?, ordinal: ordinal.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: &str) -> Stream {
        Stream::User(id.parse().unwrap())
    }

    #[track_caller]
    fn check(frame: &Frame, expected: &str) {
        // Golden: nodes of different versions run side by side during an upgrade.
        let encoded = encode("n1", frame);
        assert_eq!(String::from_utf8_lossy(&encoded), expected);
        let Decoded::Received(received) = decode("n2", encoded.clone()) else { panic!("{expected}") };
        let read = received.into_frame(&user("42"));
        assert_eq!((&read.text, &read.place, read.v1_only, &read.audience), (&frame.text, &frame.place, frame.v1_only, &frame.audience));
        assert_eq!(read.delivery(), frame.delivery());
        assert!(matches!(decode("n1", encoded), Decoded::Own));
    }

    #[test]
    fn every_kind_of_frame_goes_over() {
        let place = |seq| Place { stream: user("42"), seq };
        check(&Frame::item("{\"a\":\"é\nb\"}", place(7), Some(DeliveryKey { job: 9, ordinal: 2 })), "1 n1 - 7 9.2\n{\"a\":\"é\nb\"}");
        check(&Frame::v1("{}"), "1 n1 v - -\n{}");
        check(&Frame::new("{}"), "1 n1 - - -\n{}");
        check(&Frame::new("{}").to(Audience::Except("a b".parse().unwrap())), "1 n1 - - - !a%20b\n{}");
        check(&Frame::v1("{}").to(Audience::Only("42".parse().unwrap())), "1 n1 v - - =42\n{}");
        check(&Frame::hint(place(12)), "1 n1 - 12 -\n");
    }

    #[test]
    fn what_is_not_ours_is_passed_over() {
        for strange in [
            "",
            "hello",
            "2 n1 - - -\n{}",
            "1 n1 - -\n{}",
            "1 n1 - x -\n",
            "1 n1 - 1 5\n",
            "1 n1 - 1 - -\n",
            "1 n1 - 1 - !\n",
            "1 n1 - 1 - =1 x\n",
            "1 n1",
        ] {
            assert!(matches!(decode("n2", strange.into()), Decoded::Unknown), "{strange}");
        }
        assert!(matches!(decode("n2", b"1 n1 - - -\n\xff".to_vec()), Decoded::Unknown));
        assert!(matches!(decode("n2", vec![b'x'; 1000]), Decoded::Unknown));
    }

    #[test]
    fn channels_have_names() {
        let names = Names::new("shop");
        let topic = Channel::Stream(Stream::Topic("city:dar".parse().unwrap()));
        for (channel, name) in [
            (Channel::Stream(user("a:b {c}")), "shop:u:a:b {c}"),
            (topic, "shop:t:city:dar"),
            (Channel::Stream(Stream::Topic("*".parse().unwrap())), "shop:t:*"),
            (Channel::Stream(Stream::Conversation("7".parse().unwrap())), "shop:c:7"),
            (Channel::Control, "shop:control"),
            (Channel::Presence, "shop:presence"),
        ] {
            assert_eq!(names.channel(&channel), name);
            assert_eq!(names.parse(name.as_bytes()), Some(channel));
        }
        for strange in ["", "shop", "shop:", "shop:x", "shop:u:", "shopp:u:1", "other:u:1", "shop:x:1", "shop:c:x"] {
            assert_eq!(names.parse(strange.as_bytes()), None, "{strange}");
        }
    }
}
