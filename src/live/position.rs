//! Where a client says it was in the streams it followed: in a query, in a frame, or as the id of the last event it got.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::model::{Place, Stream, Topic};

/// The last item of a stream that a client has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Since {
    pub seq: i64,
    /// Of the history it belongs to; absent when the client did not say.
    pub epoch: Option<Arc<str>>,
}

/// Where a client was, by stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    epoch: Option<Arc<str>>,
    user: Option<i64>,
    /// Topics it wants to follow, and where it was in each.
    topics: BTreeMap<Topic, Option<i64>>,
}

impl Position {
    /// Where somebody is who was told all this.
    pub fn at(epoch: &Arc<str>, reached: &[Place]) -> Self {
        let mut position = Self { epoch: Some(epoch.clone()), ..Self::default() };
        for Place { stream, seq } in reached {
            match stream {
                Stream::User(_) => position.user = Some(*seq),
                Stream::Topic(topic) => {
                    position.topics.insert(topic.clone(), Some(*seq));
                }
                Stream::Conversation(_) => {}
            }
        }
        position
    }

    /// Reads `since`, `epoch` and any number of `topic` (`city.dar`, or `city.dar=17` with where the client was).
    ///
    /// # Errors
    /// What is wrong with them, for the client.
    pub fn from_query(since: Option<&str>, epoch: Option<&str>, topics: impl Iterator<Item = String>) -> Result<Self, String> {
        let user = since.map(number).transpose().map_err(|problem| format!("since: {problem}"))?;
        let topics = topics.map(|text| topic(&text)).collect::<Result<_, _>>()?;
        Ok(Self { epoch: epoch.map(Arc::from), user, topics })
    }

    /// Reads what [`fmt::Display`] wrote, as the last event's id.
    pub fn from_event_id(text: &str) -> Option<Self> {
        let mut parts = text.split(',');
        let (epoch, user) = parts.next()?.rsplit_once('/')?;
        let topics = parts.map(|text| topic(text).ok()).collect::<Option<_>>()?;
        Some(Self { epoch: Some(epoch.into()), user: Some(number(user).ok()?), topics })
    }

    /// Adds topics to follow, from now on where they are not in it.
    pub fn with_topics_of(mut self, other: Self) -> Self {
        for (topic, since) in other.topics {
            self.topics.entry(topic).or_insert(since);
        }
        self
    }

    pub fn of_user(&self) -> Option<Since> {
        self.user.map(|seq| self.since(seq))
    }

    pub fn topics(&self) -> Vec<(Topic, Option<Since>)> {
        self.topics.iter().map(|(topic, seq)| (topic.clone(), seq.map(|seq| self.since(seq)))).collect()
    }

    /// Whether the client wants to be told what it missed, and so knows our frames.
    pub fn is_given(&self) -> bool {
        self.user.is_some() || !self.topics.is_empty()
    }

    fn since(&self, seq: i64) -> Since {
        Since { seq, epoch: self.epoch.clone() }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch.as_deref().unwrap_or_default(), self.user.unwrap_or_default())?;
        for (topic, seq) in &self.topics {
            write!(f, ",{topic}={}", seq.unwrap_or_default())?;
        }
        Ok(())
    }
}

fn topic(text: &str) -> Result<(Topic, Option<i64>), String> {
    let (name, seq) = text.split_once('=').map_or((text, None), |(name, seq)| (name, Some(seq)));
    let seq = seq.map(number).transpose().map_err(|problem| format!("topic: {problem}"))?;
    Ok((name.parse().map_err(|problem| format!("topic: {problem}"))?, seq))
}

fn number(text: &str) -> Result<i64, String> {
    text.parse().ok().filter(|seq| *seq >= 0).ok_or_else(|| "not a seq; hint: the last number that arrived, or 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_ids_round_trip() {
        let place = |stream, seq| Place { stream, seq };
        let topic = |name: &str| Stream::Topic(name.parse().unwrap());
        let reached = [place(Stream::User("42".parse().unwrap()), 7), place(topic("city.dar"), 3), place(topic("*"), 0)];
        let position = Position::at(&"e-1".into(), &reached);
        assert_eq!(position.to_string(), "e-1/7,*=0,city.dar=3");
        assert_eq!(Position::from_event_id("e-1/7,*=0,city.dar=3"), Some(position));
        for bad in ["", "7", "e/x", "e/-1", "e/7,a b=1", "e/7,a=x"] {
            assert_eq!(Position::from_event_id(bad), None, "{bad}");
        }
    }

    #[test]
    fn queries_say_where_a_client_was() {
        let read = |since, epoch, topics: &[&str]| Position::from_query(since, epoch, topics.iter().map(|topic| (*topic).to_owned()));
        let position = read(Some("7"), Some("e1"), &["city.dar=3", "*"]).unwrap();
        assert_eq!(position.of_user(), Some(Since { seq: 7, epoch: Some("e1".into()) }));
        let topics: Vec<_> =
            position.topics().into_iter().map(|(topic, since)| (topic.to_string(), since.map(|since| since.seq))).collect();
        assert_eq!(topics, [("*".to_owned(), None), ("city.dar".to_owned(), Some(3))]);
        assert!(!read(None, None, &[]).unwrap().is_given());
        for (since, topic) in [(Some("x"), "a"), (Some("-1"), "a"), (None, "a b"), (None, "a=b")] {
            assert!(read(since, None, &[topic]).is_err(), "{since:?} {topic}");
        }
    }
}
