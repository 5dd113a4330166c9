//! When a session must do something though nothing comes in: pings, the answers to them, messages that are begun, the end of its token.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Ending,
    session::{FARTHEST_DEADLINE, SessionSettings},
};

/// What a session waits for.
#[derive(Debug)]
pub(super) struct Deadlines {
    ping: Instant,
    /// Set while a ping is out and nothing has come in since.
    pong: Option<Instant>,
    /// Set while a message is begun and not finished.
    pub message: Option<Instant>,
    expiry: Instant,
    /// Set once this process is shutting down.
    pub restart: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Ping,
    End(Ending),
}

/// When pings go out: at moments that many connections share, so that one wake-up of the process serves them all.
#[derive(Debug)]
pub(super) struct PingWheel {
    start: Instant,
    slot: Duration,
}

/// Slots in one interval between pings.
const PING_SLOTS: u32 = 100;

impl PingWheel {
    pub fn new(settings: &SessionSettings, start: Instant) -> Self {
        Self { start, slot: (settings.ping_interval / PING_SLOTS).max(Duration::from_nanos(1)) }
    }

    /// The first shared moment that is at least `wait` after `now`.
    pub fn after(&self, wait: Duration, now: Instant) -> Instant {
        let at = now + wait;
        let into_slot = at.saturating_duration_since(self.start).as_nanos() % self.slot.as_nanos();
        let rest = if into_slot == 0 { 0 } else { self.slot.as_nanos() - into_slot };
        at + Duration::from_nanos(u64::try_from(rest).unwrap_or(u64::MAX))
    }
}

impl Deadlines {
    pub fn new(first_ping: Instant, lifetime: Duration, now: Instant) -> Self {
        Self { ping: first_ping, pong: None, message: None, expiry: now + lifetime.min(FARTHEST_DEADLINE), restart: None }
    }

    pub fn earliest(&self) -> Instant {
        [self.pong, self.message, self.restart].into_iter().flatten().fold(self.ping.min(self.expiry), Instant::min)
    }

    /// A whole frame came in.
    pub fn heard(&mut self) {
        self.pong = None;
    }

    /// Nothing more to read now. A message of which a part is here must be whole in time, whatever stands between its parts.
    pub fn wait_for_message(&mut self, is_unfinished: bool, settings: &SessionSettings) {
        self.message = is_unfinished.then(|| self.message.unwrap_or_else(|| Instant::now() + settings.pong_timeout));
    }

    pub fn prolong(&mut self, lifetime: Duration) {
        self.expiry = Instant::now() + lifetime.min(FARTHEST_DEADLINE);
    }

    /// What is due at `now`; a ping that is due is moved on to the next.
    pub fn pass(&mut self, now: Instant, settings: &SessionSettings, wheel: &PingWheel) -> Due {
        let passed = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if passed(Some(self.expiry)) {
            Due::End(Ending::Expired)
        } else if passed(self.restart) {
            Due::End(Ending::Restarting)
        } else if passed(self.pong) || passed(self.message) {
            Due::End(Ending::Silent)
        } else if passed(Some(self.ping)) {
            self.ping = wheel.after(settings.ping_interval, now);
            self.pong = self.pong.or(Some(now + settings.pong_timeout));
            Due::Ping
        } else {
            Due::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use governor::Quota;

    use super::*;

    const SETTINGS: SessionSettings = SessionSettings {
        ping_interval: Duration::from_secs(25),
        pong_timeout: Duration::from_secs(10),
        close_timeout: Duration::from_secs(5),
        drain: Duration::from_secs(10),
        message_limit: 1024,
        messages: Quota::per_second(std::num::NonZeroU32::MIN),
    };

    #[test]
    fn pings_come_in_intervals_and_silence_ends_the_session() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let wheel = PingWheel::new(&SETTINGS, start);
        let mut deadlines = Deadlines::new(at(5), Duration::MAX, start);
        assert_eq!(deadlines.earliest(), at(5));
        assert_eq!(deadlines.pass(at(4), &SETTINGS, &wheel), Due::Nothing);
        assert_eq!(deadlines.pass(at(5), &SETTINGS, &wheel), Due::Ping);
        assert_eq!(deadlines.earliest(), at(15));
        deadlines.pong = None;
        assert_eq!(deadlines.earliest(), at(30));
        assert_eq!(deadlines.pass(at(30), &SETTINGS, &wheel), Due::Ping);
        assert_eq!(deadlines.pass(at(39), &SETTINGS, &wheel), Due::Nothing);
        assert_eq!(deadlines.pass(at(40), &SETTINGS, &wheel), Due::End(Ending::Silent));
    }

    #[test]
    fn expiry_goes_before_restart_and_restart_before_silence() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let wheel = PingWheel::new(&SETTINGS, start);
        let mut deadlines = Deadlines::new(at(25), Duration::from_mins(1), start);
        deadlines.pong = Some(at(50));
        deadlines.restart = Some(at(55));
        assert_eq!(deadlines.earliest(), at(25));
        assert_eq!(deadlines.pass(at(55), &SETTINGS, &wheel), Due::End(Ending::Restarting));
        assert_eq!(deadlines.pass(at(60), &SETTINGS, &wheel), Due::End(Ending::Expired));
    }

    #[test]
    fn pings_share_their_moments() {
        let start = Instant::now();
        let wheel = PingWheel::new(&SETTINGS, start);
        let after = |wait: u64, now: u64| wheel.after(Duration::from_millis(wait), start + Duration::from_millis(now)) - start;
        for (wait, now, expected) in [(0, 0, 0), (1, 0, 250), (250, 0, 250), (25_000, 130, 25_250), (25_000, 250, 25_250), (100, 300, 500)]
        {
            assert_eq!(after(wait, now), Duration::from_millis(expected), "{wait} {now}");
        }
    }
}
