//! One provider's circuit breaker: opens on the ratio of failures, lets single probes through after a while. No clock: `now` is passed in.

use std::collections::VecDeque;

use crate::{
    config::BreakerConfig,
    model::{Code, Outcome, PermanentKind, Timestamp},
};

/// Calls remembered for the ratio; more than this within the window says nothing new.
const REMEMBERED_LIMIT: usize = 1000;
/// How much longer each opening in a row lasts, and the most it can become.
const OPEN_FACTOR_LIMIT: u32 = 32;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
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
    Opened {
        reason: String,
        /// It will not pass by itself: our credentials or set-up are refused.
        needs_a_person: bool,
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
}

impl Breaker {
    pub fn new(settings: BreakerConfig) -> Self {
        Self { settings, state: State::Closed, calls: VecDeque::new(), failures: 0, openings: 0 }
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

    /// Learns from an attempt. An answer about the address, the content or one tenant's sender says that the provider works, and so does
    /// one that asks for fewer: the pace sees to that.
    pub fn record(&mut self, outcome: &Outcome, now: Timestamp) -> Change {
        let failed = match outcome {
            Outcome::Transient { code, .. } => *code != Code::RATE_LIMITED && !code.is_about_message(),
            Outcome::Unknown { .. } => true,
            Outcome::Sent { .. } | Outcome::Permanent { .. } => false,
        };
        let misconfigured = matches!(outcome, Outcome::Permanent { kind: PermanentKind::Config, .. });
        let reason = || match (outcome.code(), outcome.detail()) {
            (Some(code), Some(detail)) if !detail.is_empty() => format!("{code}: {detail}"),
            (Some(code), _) => code.to_string(),
            (None, _) => String::new(),
        };
        if let State::Probing { .. } = self.state {
            if failed || misconfigured {
                self.open(now, reason());
                return Change::None;
            }
            self.state = State::Closed;
            self.openings = 0;
            self.calls.clear();
            self.failures = 0;
            return Change::Closed;
        }
        self.remember(now, failed);
        let calls = self.calls.len();
        #[expect(clippy::cast_precision_loss, reason = "at most a thousand calls are remembered")]
        let ratio = self.failures as f64 / calls as f64;
        let tripped = calls >= self.settings.minimum_calls as usize && ratio >= self.settings.failure_ratio;
        if matches!(self.state, State::Closed) && (misconfigured || tripped) {
            let why =
                if misconfigured { reason() } else { format!("{} of {calls} attempts failed, the last with {}", self.failures, reason()) };
            self.open(now, why.clone());
            return Change::Opened { reason: why, needs_a_person: misconfigured };
        }
        Change::None
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
            assert_eq!(breaker.record(&outcome, at(second)), Change::None);
        }
        assert!(matches!(breaker.record(&failed(), at(3)), Change::Opened { .. }));
        assert_eq!(breaker.acquire(at(4)), Permit::No { until: at(13) });
        assert_eq!(breaker.acquire(at(13)), Permit::Probe);
        assert!(matches!(breaker.acquire(at(13)), Permit::No { .. }), "a second probe beside the first");
        breaker.record(&failed(), at(14));
        assert_eq!(breaker.acquire(at(15)), Permit::No { until: at(34) }, "the second opening lasts longer");
        assert_eq!(breaker.acquire(at(34)), Permit::Probe);
        assert_eq!(breaker.record(&sent(), at(35)), Change::Closed);
        assert_eq!(breaker.acquire(at(35)), Permit::Yes);
    }

    #[test]
    fn bad_addresses_do_not_open_it_and_bad_credentials_do_at_once() {
        let mut breaker = breaker();
        for second in 0..20 {
            assert_eq!(breaker.record(&refused(PermanentKind::Address), at(second)), Change::None);
        }
        assert_eq!(
            breaker.record(&refused(PermanentKind::Config), at(20)),
            Change::Opened { reason: "config_refused: key".to_owned(), needs_a_person: true }
        );
        assert_eq!(breaker.state(at(21)), (BreakerState::Open, Some("config_refused: key")));
    }

    #[test]
    fn a_full_mailbox_and_a_wish_for_fewer_are_no_failures() {
        let mut breaker = breaker();
        for second in 0..20 {
            for code in [Code::RATE_LIMITED, Code::MAILBOX_FULL, Code::GREYLISTED, Code::SENDER_REFUSED] {
                let outcome = Outcome::Transient { code, detail: String::new(), retry_after: None };
                assert_eq!(breaker.record(&outcome, at(second)), Change::None);
            }
        }
    }

    #[test]
    fn old_failures_are_forgotten_and_a_forgone_probe_can_be_made_later() {
        let mut breaker = breaker();
        for second in [0, 1, 2] {
            breaker.record(&failed(), at(second));
        }
        assert_eq!(breaker.record(&failed(), at(100)), Change::None, "the first three are out of the window");
        for second in [101, 102, 103] {
            breaker.record(&failed(), at(second));
        }
        assert_eq!(breaker.acquire(at(120)), Permit::Probe);
        breaker.forgo_probe(at(120));
        assert_eq!(breaker.acquire(at(120)), Permit::Probe);
    }
}
