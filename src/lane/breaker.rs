//! One provider's circuit breaker: opens on the ratio of failures, lets single probes through after a while. No clock: `now` is passed in.

use std::{collections::VecDeque, time::Duration};

use crate::{
    config::BreakerConfig,
    model::{Code, Outcome, PermanentKind, Timestamp},
};

/// Calls remembered for the ratio; more than this within the window says nothing new.
const REMEMBERED_LIMIT: usize = 1000;
/// How much longer each opening in a row lasts, and the most it can become.
const OPEN_FACTOR_LIMIT: u32 = 32;
/// A platform that was not refused for so long had been mended: the next refusal is told again.
const PLATFORM_QUIET: Duration = Duration::from_hours(1);

/// Whether a call may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    Yes,
    /// The one call that decides whether to close again.
    Probe,
    /// Not before this moment.
    No {
        until: Timestamp,
    },
}

/// What a breaker is doing, for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    Closed,
    Open,
    HalfOpen,
}

/// What a recorded outcome changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    None,
    /// It opened; or it was open, and now it will not pass by itself.
    Opened {
        reason: String,
        /// Our credentials or set-up are refused. Said once, until it has closed again.
        needs_a_person: bool,
    },
    /// One platform's credentials are refused, and somebody has to mend them; the provider is well.
    PlatformRefused {
        reason: String,
    },
    Closed,
}

#[derive(Debug)]
enum State {
    Closed,
    Open {
        until: Timestamp,
        reason: String,
    },
    /// One probe is under way.
    Probing {
        reason: String,
    },
}

/// A circuit breaker.
#[derive(Debug)]
pub struct Breaker {
    settings: BreakerConfig,
    state: State,
    calls: VecDeque<(Timestamp, bool)>,
    failures: usize,
    openings: u32,
    /// Somebody has been told that it takes a person, and it has not closed since.
    told_person: bool,
    /// When a platform's credentials were last refused.
    platform_refused_at: Option<Timestamp>,
}

impl Breaker {
    pub fn new(settings: BreakerConfig) -> Self {
        let calls = VecDeque::new();
        Self { settings, state: State::Closed, calls, failures: 0, openings: 0, told_person: false, platform_refused_at: None }
    }

    /// What a call made now would be, without making it.
    pub fn peek(&self, now: Timestamp) -> Permit {
        match &self.state {
            State::Closed => Permit::Yes,
            State::Open { until, .. } if *until <= now => Permit::Probe,
            State::Open { until, .. } => Permit::No { until: *until },
            // The probe's outcome ends this; asking again then is soon enough.
            State::Probing { .. } => Permit::No { until: now.saturating_add(self.settings.open) },
        }
    }

    /// Takes the permit that [`Self::peek`] shows.
    pub fn acquire(&mut self, now: Timestamp) -> Permit {
        let permit = self.peek(now);
        if permit == Permit::Probe
            && let State::Open { reason, .. } = &self.state
        {
            self.state = State::Probing { reason: reason.clone() };
        }
        permit
    }

    /// A probe that was permitted and not made after all.
    pub fn forgo_probe(&mut self, now: Timestamp) {
        if let State::Probing { reason } = &self.state {
            self.state = State::Open { until: now, reason: reason.clone() };
        }
    }

    /// Learns from an attempt that the provider was asked for. An answer about the address, the content or one tenant's sender says that the
    /// provider works, and so does one that asks for fewer: the pace sees to that.
    ///
    /// What began before it opened and ends afterwards decides nothing: the probe does.
    pub fn record(&mut self, outcome: &Outcome, is_probe: bool, now: Timestamp) -> Change {
        let failed = match outcome {
            Outcome::Transient { code, .. } => !code.asks_for_fewer() && !code.is_about_message(),
            Outcome::Unknown { .. } => true,
            Outcome::Sent { .. } | Outcome::Permanent { .. } => false,
        };
        let is_platforms = outcome.code() == Some(Code::PLATFORM_REFUSED);
        let misconfigured = matches!(outcome, Outcome::Permanent { kind: PermanentKind::Config, .. }) && !is_platforms;
        let change = match (&self.state, is_probe) {
            (State::Closed, _) => self.record_closed(outcome, failed, misconfigured, now),
            (State::Probing { .. }, true) => self.record_probe(outcome, failed, misconfigured, now),
            (State::Open { .. } | State::Probing { .. }, _) if misconfigured => self.tell(reason(outcome)),
            (State::Open { .. } | State::Probing { .. }, _) => Change::None,
        };
        if is_platforms && self.is_news(now) { Change::PlatformRefused { reason: reason(outcome) } } else { change }
    }

    fn record_closed(&mut self, outcome: &Outcome, failed: bool, misconfigured: bool, now: Timestamp) -> Change {
        self.remember(now, failed);
        let calls = self.calls.len();
        #[expect(clippy::cast_precision_loss, reason = "at most a thousand calls are remembered")]
        let ratio = self.failures as f64 / calls as f64;
        let tripped = calls >= self.settings.minimum_calls as usize && ratio >= self.settings.failure_ratio;
        if !misconfigured && !tripped {
            return Change::None;
        }
        let last = reason(outcome);
        let reason = if misconfigured { last } else { format!("{} of {calls} attempts failed, the last with {last}", self.failures) };
        self.open(now, reason.clone());
        self.told_person = misconfigured;
        Change::Opened { reason, needs_a_person: misconfigured }
    }

    fn record_probe(&mut self, outcome: &Outcome, failed: bool, misconfigured: bool, now: Timestamp) -> Change {
        if failed || misconfigured {
            self.open(now, reason(outcome));
            return if misconfigured { self.tell(reason(outcome)) } else { Change::None };
        }
        self.state = State::Closed;
        self.openings = 0;
        self.told_person = false;
        self.calls.clear();
        self.failures = 0;
        Change::Closed
    }

    /// It is open, and it turns out that this takes a person: the one time that somebody is told.
    fn tell(&mut self, why: String) -> Change {
        if std::mem::replace(&mut self.told_person, true) {
            return Change::None;
        }
        if let State::Open { reason, .. } | State::Probing { reason } = &mut self.state {
            reason.clone_from(&why);
        }
        Change::Opened { reason: why, needs_a_person: true }
    }

    /// Whether a platform's refusal is the first after a time without.
    fn is_news(&mut self, now: Timestamp) -> bool {
        let before = self.platform_refused_at.replace(now);
        before.is_none_or(|before| now.since(before) > PLATFORM_QUIET)
    }

    pub fn state(&self, now: Timestamp) -> (BreakerState, Option<&str>) {
        match &self.state {
            State::Closed => (BreakerState::Closed, None),
            State::Open { until, reason } if *until > now => (BreakerState::Open, Some(reason)),
            State::Open { reason, .. } | State::Probing { reason } => (BreakerState::HalfOpen, Some(reason)),
        }
    }

    fn open(&mut self, now: Timestamp, reason: String) {
        let factor = (1_u32 << self.openings.min(OPEN_FACTOR_LIMIT.ilog2())).min(OPEN_FACTOR_LIMIT);
        self.openings = self.openings.saturating_add(1);
        self.state = State::Open { until: now.saturating_add(self.settings.open * factor), reason };
        self.calls.clear();
        self.failures = 0;
    }

    fn remember(&mut self, now: Timestamp, failed: bool) {
        self.calls.push_back((now, failed));
        self.failures += usize::from(failed);
        let since = now.saturating_sub(self.settings.window);
        while self.calls.len() > REMEMBERED_LIMIT || self.calls.front().is_some_and(|(at, _)| *at < since) {
            if let Some((_, failed)) = self.calls.pop_front() {
                self.failures -= usize::from(failed);
            }
        }
    }
}

fn reason(outcome: &Outcome) -> String {
    match (outcome.code(), outcome.detail()) {
        (Some(code), Some(detail)) if !detail.is_empty() => format!("{code}: {detail}"),
        (Some(code), _) => code.to_string(),
        (None, _) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        Breaker::new(BreakerConfig { failure_ratio: 0.5, minimum_calls: 4, window: Duration::from_secs(30), open: Duration::from_secs(10) })
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn sent() -> Outcome {
        Outcome::Sent { provider_id: None }
    }

    fn failed() -> Outcome {
        Outcome::Transient { code: Code::PROVIDER_UNAVAILABLE, detail: String::new(), retry_after: None }
    }

    fn refused(kind: PermanentKind) -> Outcome {
        Outcome::Permanent { kind, code: Code::CONFIG_REFUSED, detail: "key".to_owned() }
    }

    #[test]
    fn opens_on_ratio_and_count_then_probes_one_at_a_time() {
        let mut breaker = breaker();
        for (second, outcome) in [(0, sent()), (1, failed()), (2, sent())] {
            assert_eq!(breaker.record(&outcome, false, at(second)), Change::None);
        }
        assert!(matches!(breaker.record(&failed(), false, at(3)), Change::Opened { .. }));
        assert_eq!(breaker.acquire(at(4)), Permit::No { until: at(13) });
        assert_eq!(breaker.acquire(at(13)), Permit::Probe);
        assert!(matches!(breaker.acquire(at(13)), Permit::No { .. }), "a second probe beside the first");
        breaker.record(&failed(), true, at(14));
        assert_eq!(breaker.acquire(at(15)), Permit::No { until: at(34) }, "the second opening lasts longer");
        assert_eq!(breaker.acquire(at(34)), Permit::Probe);
        assert_eq!(breaker.record(&sent(), true, at(35)), Change::Closed);
        assert_eq!(breaker.acquire(at(35)), Permit::Yes);
    }

    #[test]
    fn bad_addresses_do_not_open_it_and_bad_credentials_do_at_once() {
        let mut breaker = breaker();
        for second in 0..20 {
            assert_eq!(breaker.record(&refused(PermanentKind::Address), false, at(second)), Change::None);
        }
        assert_eq!(
            breaker.record(&refused(PermanentKind::Config), false, at(20)),
            Change::Opened { reason: "config_refused: key".to_owned(), needs_a_person: true }
        );
        assert_eq!(breaker.state(at(21)), (BreakerState::Open, Some("config_refused: key")));
    }

    #[test]
    fn a_full_mailbox_and_a_wish_for_fewer_are_no_failures() {
        let mut breaker = breaker();
        for second in 0..20 {
            for code in [Code::RATE_LIMITED, Code::CARRIER_QUEUE_FULL, Code::MAILBOX_FULL, Code::GREYLISTED, Code::SENDER_REFUSED] {
                let outcome = Outcome::Transient { code, detail: String::new(), retry_after: None };
                assert_eq!(breaker.record(&outcome, false, at(second)), Change::None);
            }
        }
    }

    #[test]
    fn old_failures_are_forgotten_and_a_forgone_probe_can_be_made_later() {
        let mut breaker = breaker();
        for second in [0, 1, 2] {
            breaker.record(&failed(), false, at(second));
        }
        assert_eq!(breaker.record(&failed(), false, at(100)), Change::None, "the first three are out of the window");
        for second in [101, 102, 103] {
            breaker.record(&failed(), false, at(second));
        }
        assert_eq!(breaker.acquire(at(120)), Permit::Probe);
        breaker.forgo_probe(at(120));
        assert_eq!(breaker.acquire(at(120)), Permit::Probe);
    }

    /// Opened by four failures at 0 s; its probe may be made from 10 s on.
    fn opened() -> Breaker {
        let mut breaker = breaker();
        let changes: Vec<Change> = (0..4).map(|_| breaker.record(&failed(), false, at(0))).collect();
        assert!(matches!(changes[3], Change::Opened { needs_a_person: false, .. }), "{changes:?}");
        breaker
    }

    #[test]
    fn what_began_before_it_opened_does_not_speak_for_the_probe() {
        let mut breaker = opened();
        assert_eq!(breaker.record(&sent(), false, at(1)), Change::None);
        assert_eq!(breaker.acquire(at(10)), Permit::Probe);
        for outcome in [sent(), failed(), refused(PermanentKind::Address)] {
            assert_eq!(breaker.record(&outcome, false, at(11)), Change::None);
        }
        assert!(matches!(breaker.acquire(at(12)), Permit::No { .. }), "the probe is still under way");
        assert_eq!(breaker.record(&sent(), true, at(13)), Change::Closed);
        // And what was late is not held against it now.
        assert_eq!(breaker.record(&failed(), false, at(14)), Change::None);
    }

    #[test]
    fn bad_credentials_are_told_once_however_it_came_to_be_open() {
        let config = refused(PermanentKind::Config);
        let told = Change::Opened { reason: "config_refused: key".to_owned(), needs_a_person: true };
        let mut late = opened();
        assert_eq!(late.record(&config, false, at(1)), told);
        assert_eq!(late.state(at(1)), (BreakerState::Open, Some("config_refused: key")));
        let mut probed = opened();
        probed.acquire(at(10));
        assert_eq!(probed.record(&config, true, at(11)), told);
        for breaker in [&mut late, &mut probed] {
            assert_eq!(breaker.record(&config, false, at(12)), Change::None);
            assert_eq!(breaker.acquire(at(100)), Permit::Probe);
            assert_eq!(breaker.record(&config, true, at(100)), Change::None);
            assert_eq!(breaker.acquire(at(200)), Permit::Probe);
            assert_eq!(breaker.record(&sent(), true, at(200)), Change::Closed);
            assert_eq!(breaker.record(&config, false, at(201)), told, "mended, and broken anew");
        }
    }

    #[test]
    fn one_platforms_credentials_are_told_and_the_others_go_on() {
        let detail = "APNs".to_owned();
        let platform = Outcome::Permanent { kind: PermanentKind::Config, code: Code::PLATFORM_REFUSED, detail };
        let told = Change::PlatformRefused { reason: "platform_credentials_refused: APNs".to_owned() };
        let mut breaker = breaker();
        assert_eq!(breaker.record(&platform, false, at(0)), told);
        for second in 1..50 {
            assert_eq!(breaker.record(&platform, false, at(second * 60)), Change::None);
            assert_eq!(breaker.peek(at(second * 60)), Permit::Yes);
        }
        assert_eq!(breaker.record(&platform, false, at(50 * 60 + 3601)), told, "after a time without");
        // As a probe it has been answered, and that is what was asked.
        let mut breaker = opened();
        breaker.acquire(at(10));
        assert_eq!(breaker.record(&platform, true, at(11)), told);
        assert_eq!(breaker.peek(at(11)), Permit::Yes);
    }
}
