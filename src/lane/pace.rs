//! How fast one account is used: a token bucket whose rate halves when the provider says "too fast" and grows again slowly (additive
//! increase, multiplicative decrease). One for each provider, shared by all lanes that use it. No clock: `now` is passed in.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::model::Timestamp;

/// Share of a second whose attempts may come at once.
const BURST_SHARE: f64 = 0.1;
/// One complaint in this time lowers the rate once, however many attempts were under way.
const CUT_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest pause after a complaint that does not say how long.
const HOLD: Duration = Duration::from_secs(1);
const LOWEST_RATE: f64 = 0.5;
/// How long the rate takes to grow from half to all of it.
const RECOVERY: Duration = Duration::from_mins(1);
/// Where nothing is configured: how far above the rate that was too fast it grows before there is no limit again.
const HEADROOM: f64 = 2.0;
/// Share of the rate that a ramp begins with.
const RAMP_START: f64 = 0.1;

/// How fast an account may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PaceSettings {
    /// Attempts per second; `None` is unlimited until the provider complains.
    pub rate: Option<u32>,
    /// How long the rate takes to grow from a tenth to all of it, at first and after a pause as long.
    pub ramp: Option<Duration>,
}

/// Why no attempt may begin, and when to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotYet {
    /// At this pace it is soon somebody's turn: wait for it.
    Soon(Timestamp),
    /// The provider is left alone: another may do meanwhile.
    Held(Timestamp),
}

impl NotYet {
    pub const fn until(self) -> Timestamp {
        match self {
            Self::Soon(until) | Self::Held(until) => until,
        }
    }
}

/// What a pace is doing, for operators.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, schemars::JsonSchema)]
pub struct PaceStatus {
    /// Attempts per second now; absent: unlimited.
    pub rate: Option<f64>,
    /// Nothing is sent before this moment.
    pub held_until: Option<Timestamp>,
}

/// One account's pace.
#[derive(Debug)]
pub struct Pace {
    settings: PaceSettings,
    state: Mutex<State>,
}

#[derive(Clone, Debug)]
struct State {
    /// Attempts per second now; `None` is unlimited.
    rate: Option<f64>,
    /// The rate it grows to.
    ceiling: f64,
    /// Growth per second.
    growth: f64,
    tokens: f64,
    /// When rate and tokens were as they stand here: at the last grant, or at the end of a pause.
    filled_at: Timestamp,
    held_until: Timestamp,
    cut_at: Timestamp,
    /// Attempts in the second under way and in the one before it.
    second: i64,
    taken: u32,
    taken_before: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self::new(PaceSettings::default())
    }
}

impl Pace {
    pub fn new(settings: PaceSettings) -> Self {
        let never = Timestamp::from_millis(i64::MIN);
        let ceiling = settings.rate.map_or(f64::INFINITY, f64::from);
        let state = State {
            rate: settings.rate.map(f64::from),
            ceiling,
            growth: 0.0,
            tokens: 1.0,
            filled_at: never,
            held_until: never,
            cut_at: never,
            second: 0,
            taken: 0,
            taken_before: 0,
        };
        Self { settings, state: Mutex::new(state) }
    }

    /// Takes up to `wanted` attempts; says how many may begin now.
    ///
    /// # Errors
    /// When none may: why, and the moment to ask again.
    pub fn take(&self, wanted: usize, now: Timestamp) -> Result<usize, NotYet> {
        let mut kept = self.state();
        if now < kept.held_until {
            return Err(NotYet::Held(kept.held_until));
        }
        // Who asks and gets nothing changes nothing: a ramp is for attempts that are made.
        let mut state = kept.clone();
        let granted = match self.fill(&mut state, now) {
            None => wanted,
            Some(rate) if state.tokens < 1.0 => {
                let wait = Duration::from_secs_f64((1.0 - state.tokens) / rate).max(Duration::from_millis(1));
                return Err(NotYet::Soon(now.saturating_add(wait)));
            }
            Some(_) => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "whole, positive and at most a second's attempts"
                )]
                let granted = wanted.min(state.tokens.floor() as usize);
                #[expect(clippy::cast_precision_loss, reason = "at most a second's attempts")]
                {
                    state.tokens -= granted as f64;
                }
                granted
            }
        };
        state.count(granted, now);
        *kept = state;
        Ok(granted)
    }

    /// Gives back attempts that were taken and not made.
    pub fn give_back(&self, unused: usize) {
        let mut state = self.state();
        state.taken = state.taken.saturating_sub(u32::try_from(unused).unwrap_or(u32::MAX));
        #[expect(clippy::cast_precision_loss, reason = "at most a second's attempts")]
        {
            state.tokens += unused as f64;
        }
    }

    /// The provider said "too fast". `retry_after` is its own wish. Says the new rate, unless it was lowered a moment ago.
    pub fn limited(&self, retry_after: Option<Duration>, now: Timestamp) -> Option<f64> {
        let mut state = self.state();
        state.held_until = state.held_until.max(now.saturating_add(retry_after.unwrap_or(HOLD)));
        if now.since(state.cut_at) < CUT_INTERVAL {
            return None;
        }
        state.cut_at = now;
        let used = f64::from(state.taken.max(state.taken_before)).max(1.0);
        let before = state.rate.map_or(used, |rate| rate.min(used.max(rate * BURST_SHARE)));
        let rate = (before / 2.0).max(LOWEST_RATE);
        state.ceiling = self.settings.rate.map_or(before * HEADROOM, f64::from);
        state.growth = ((state.ceiling - rate) / RECOVERY.as_secs_f64()).max(LOWEST_RATE / RECOVERY.as_secs_f64());
        state.rate = Some(rate);
        state.tokens = state.tokens.min(1.0);
        state.filled_at = state.held_until;
        Some(rate)
    }

    /// Leaves the account alone until then.
    pub fn hold(&self, until: Timestamp) {
        let mut state = self.state();
        state.held_until = state.held_until.max(until);
    }

    pub fn status(&self, now: Timestamp) -> PaceStatus {
        // Whoever looks does not drive it.
        let mut state = self.state().clone();
        let rate = self.fill(&mut state, now).map(|rate| (rate * 10.0).round() / 10.0);
        PaceStatus { rate, held_until: (state.held_until > now).then_some(state.held_until) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings rate and tokens up to `now`; says the rate.
    fn fill(&self, state: &mut State, now: Timestamp) -> Option<f64> {
        let rate = state.rate?;
        let elapsed = now.since(state.filled_at);
        if let Some(ramp) = self.settings.ramp
            && elapsed >= ramp
        {
            // At first, and after a pause, it begins again.
            let start = rate.min(state.ceiling * RAMP_START).max(LOWEST_RATE);
            state.growth = (state.ceiling - start) / ramp.as_secs_f64();
            state.rate = Some(start);
            state.tokens = (start * BURST_SHARE).max(1.0);
            state.filled_at = now;
            return Some(start);
        }
        if now < state.filled_at {
            return Some(rate);
        }
        let seconds = elapsed.as_secs_f64().min(RECOVERY.as_secs_f64());
        let grown = (rate + state.growth * seconds).min(state.ceiling);
        state.filled_at = now;
        if grown >= state.ceiling && self.settings.rate.is_none() {
            state.rate = None;
            return None;
        }
        state.rate = Some(grown);
        state.tokens = (state.tokens + grown * seconds).min((grown * BURST_SHARE).max(1.0));
        Some(grown)
    }
}

impl State {
    fn count(&mut self, taken: usize, now: Timestamp) {
        let second = now.as_millis().div_euclid(1000);
        if second != self.second {
            self.taken_before = if second == self.second + 1 { self.taken } else { 0 };
            self.taken = 0;
            self.second = second;
        }
        self.taken = self.taken.saturating_add(u32::try_from(taken).unwrap_or(u32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + millis)
    }

    fn pace(rate: Option<u32>, ramp: Option<u64>) -> Pace {
        Pace::new(PaceSettings { rate, ramp: ramp.map(Duration::from_secs) })
    }

    /// Attempts that begin within these milliseconds when as many are wanted as there may be.
    fn run(pace: &Pace, from: i64, to: i64) -> usize {
        (from..to).map(|millis| pace.take(1000, at(millis)).unwrap_or(0)).sum()
    }

    #[test]
    fn without_a_rate_there_is_no_limit_until_the_provider_complains() {
        let pace = pace(None, None);
        assert_eq!(pace.take(100, at(0)), Ok(100));
        pace.limited(None, at(500));
        assert_eq!(pace.take(1, at(600)), Err(NotYet::Held(at(1500))));
        assert_eq!(pace.status(at(600)), PaceStatus { rate: Some(50.0), held_until: Some(at(1500)) });
        let second = run(&pace, 1500, 2500);
        assert!((45..60).contains(&second), "{second}");
        assert!(pace.status(at(32_000)).rate.unwrap() > 100.0, "it grows");
        assert_eq!(pace.status(at(70_000)).rate, None, "and is free again above what was too fast");
    }

    #[test]
    fn a_rate_is_kept_and_bursts_are_small() {
        let pace = pace(Some(100), None);
        let first = pace.take(1000, at(0)).unwrap();
        assert!(first <= 10, "{first}");
        let second = run(&pace, 1, 10_001);
        assert!((990..=1010).contains(&second), "{second}");
    }

    #[test]
    fn many_complaints_at_once_halve_once() {
        let pace = pace(Some(100), None);
        run(&pace, 0, 2000);
        for _ in 0..50 {
            pace.limited(Some(Duration::from_secs(5)), at(2000));
        }
        assert_eq!(pace.status(at(2000)).held_until, Some(at(7000)));
        let rate = pace.status(at(7000)).rate.unwrap();
        assert!((45.0..=51.0).contains(&rate), "{rate}");
        assert_eq!(pace.status(at(80_000)).rate, Some(100.0), "never above what is configured");
        for millis in (80_000..90_000).step_by(1000) {
            pace.limited(Some(Duration::ZERO), at(millis));
        }
        assert!(pace.status(at(90_000)).rate.unwrap() >= LOWEST_RATE, "and never to a standstill");
    }

    #[test]
    fn a_ramp_begins_with_a_tenth_and_begins_again_after_a_pause() {
        let pace = pace(Some(1000), Some(60));
        let first = run(&pace, 0, 1000);
        assert!((90..=130).contains(&first), "{first}");
        run(&pace, 1000, 60_000);
        let full = run(&pace, 60_000, 61_000);
        assert!((950..=1010).contains(&full), "{full}");
        let again = run(&pace, 130_000, 131_000);
        assert!((90..=130).contains(&again), "{again}");
    }

    #[test]
    fn what_was_not_used_is_there_again() {
        let pace = pace(Some(10), None);
        assert_eq!(pace.take(5, at(0)), Ok(1));
        pace.give_back(1);
        assert_eq!(pace.take(5, at(0)), Ok(1));
        assert_eq!(pace.take(5, at(0)), Err(NotYet::Soon(at(100))));
    }

    #[test]
    fn an_empty_bucket_is_waited_for_and_a_held_account_is_not() {
        let pace = pace(Some(10), None);
        assert_eq!(pace.take(5, at(0)), Ok(1));
        assert_eq!(pace.take(5, at(0)), Err(NotYet::Soon(at(100))));
        pace.hold(at(5000));
        assert_eq!(pace.take(5, at(100)), Err(NotYet::Held(at(5000))));
        pace.limited(None, at(5000));
        assert_eq!(pace.take(5, at(5500)), Err(NotYet::Held(at(6000))));
        assert_eq!(pace.take(5, at(6000)), Err(NotYet::Soon(at(8000))), "slow, and not to be left alone");
        assert_eq!(pace.take(5, at(8000)), Ok(1));
    }

    #[test]
    fn a_ramp_is_driven_by_attempts_and_not_by_who_looks() {
        let pace = pace(Some(1000), Some(60));
        for second in 0..120 {
            assert_eq!(pace.status(at(second * 1000)).rate, Some(100.0), "nothing was sent yet");
        }
        let first = run(&pace, 120_000, 121_000);
        assert!((90..=130).contains(&first), "{first}");
        // A minute without an attempt, however often it is looked at.
        for second in 121..181 {
            pace.status(at(second * 1000));
        }
        let again = run(&pace, 181_000, 182_000);
        assert!((90..=130).contains(&again), "{again}");
    }

    proptest! {
        #[test]
        fn it_never_exceeds_its_rate_and_always_says_when(rate in 1_u32..5000, steps in prop::collection::vec((0_i64..300, 1_usize..500, prop::bool::weighted(0.05)), 1..200)) {
            let pace = pace(Some(rate), None);
            let (mut now, mut taken) = (0, 0);
            for (step, wanted, is_limited) in steps {
                now += step;
                if is_limited {
                    pace.limited(None, at(now));
                }
                match pace.take(wanted, at(now)) {
                    Ok(granted) => {
                        prop_assert!((1..=wanted).contains(&granted));
                        taken += granted;
                    }
                    Err(not_yet) => prop_assert!(not_yet.until() > at(now)),
                }
            }
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let most = f64::from(rate) * (now as f64 / 1000.0 + BURST_SHARE) + 2.0;
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let taken = taken as f64;
            prop_assert!(taken <= most, "{taken} of {most}");
        }
    }
}
