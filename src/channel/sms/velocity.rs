//! How fast numbers that begin alike may be written to: a limit against having premium numbers called up through us (SMS pumping).
//!
//! The generic cell rate algorithm, with a limit on what it remembers. What it cannot tell it does not let through. No clock: `now` is
//! passed in.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{config::VelocityConfig, model::PhoneNumber};

/// Beginnings of numbers remembered at once. Those that are quiet again are forgotten when there is no room.
const PREFIXES_LIMIT: usize = 10_000;

/// The limit, and who has used how much of it.
#[derive(Debug)]
pub struct Velocity {
    /// What each message adds.
    period: Duration,
    window: Duration,
    digits: usize,
    /// By beginning, when all that was let through would have been at a steady pace.
    used_until: Mutex<HashMap<Box<str>, Instant>>,
}

impl Velocity {
    /// # Errors
    /// In words: what of the limit makes no sense.
    pub fn new(velocity: &VelocityConfig) -> Result<Self, String> {
        let period = velocity.window.checked_div(velocity.limit).ok_or("provider.twilio.velocity.limit is 0")?;
        if period.is_zero() {
            return Err("provider.twilio.velocity.window is too short".to_owned());
        }
        Ok(Self { period, window: velocity.window, digits: velocity.digits, used_until: Mutex::default() })
    }

    /// Lets one message through.
    ///
    /// # Errors
    /// It has to wait for so long.
    pub fn take(&self, to: &PhoneNumber, now: Instant) -> Result<(), Duration> {
        // `+`, then the digits: ASCII, as everything in a number.
        let prefix = to.as_str().get(..=self.digits).unwrap_or(to.as_str());
        let mut used_until = self.used_until.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(until) = used_until.get_mut(prefix) {
            let next = (*until).max(now) + self.period;
            let wait = next.saturating_duration_since(now + self.window);
            if wait > Duration::ZERO {
                return Err(wait);
            }
            *until = next;
            return Ok(());
        }
        if used_until.len() >= PREFIXES_LIMIT {
            used_until.retain(|_, until| *until > now);
        }
        if used_until.len() >= PREFIXES_LIMIT {
            // So many beginnings at once are what it is there to stop.
            return Err(self.period);
        }
        used_until.insert(prefix.into(), now + self.period);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn velocity(limit: u32, seconds: u64, digits: usize) -> Velocity {
        Velocity::new(&VelocityConfig { limit, window: Duration::from_secs(seconds), digits }).unwrap()
    }

    fn number(text: &str) -> PhoneNumber {
        text.parse().unwrap()
    }

    #[test]
    fn a_burst_of_the_limit_and_then_one_at_a_time() {
        let (velocity, now) = (velocity(3, 30, 6), Instant::now());
        for last in 0..3 {
            assert_eq!(velocity.take(&number(&format!("+25571234567{last}")), now), Ok(()));
        }
        let alike = number("+255712999999");
        assert_eq!(velocity.take(&alike, now), Err(Duration::from_secs(10)));
        assert_eq!(velocity.take(&alike, now + Duration::from_secs(9)), Err(Duration::from_secs(1)));
        assert_eq!(velocity.take(&alike, now + Duration::from_secs(10)), Ok(()));
        assert_eq!(velocity.take(&number("+255713999999"), now), Ok(()), "another beginning");
        let later = now + Duration::from_secs(100);
        assert_eq!((0..5).filter(|_| velocity.take(&alike, later).is_ok()).count(), 3, "never more than the limit at once");
    }

    #[test]
    fn a_number_shorter_than_its_beginning_is_one_of_its_own() {
        let (velocity, now) = (velocity(1, 30, 15), Instant::now());
        assert_eq!(velocity.take(&number("+25571"), now), Ok(()));
        assert!(velocity.take(&number("+25571"), now).is_err());
        assert_eq!(velocity.take(&number("+255711"), now), Ok(()));
    }

    #[test]
    fn it_remembers_a_bounded_number_and_lets_nobody_through_unknown() {
        let (velocity, now) = (velocity(2, 20, 12), Instant::now());
        for place in 0..PREFIXES_LIMIT {
            assert_eq!(velocity.take(&number(&format!("+2557{place:08}")), now), Ok(()));
        }
        let another = number("+255799999999");
        assert_eq!(velocity.take(&another, now), Err(Duration::from_secs(10)), "fails closed");
        assert_eq!(velocity.take(&number("+255700000000"), now), Ok(()), "who is known is told apart still");
        assert_eq!(velocity.used_until.lock().unwrap().len(), PREFIXES_LIMIT);
        assert_eq!(velocity.take(&another, now + Duration::from_secs(11)), Ok(()), "the quiet ones are forgotten");
        assert!(velocity.used_until.lock().unwrap().len() < 10);
    }

    #[test]
    fn a_limit_that_makes_no_sense_is_told() {
        let made = |limit, window| Velocity::new(&VelocityConfig { limit, window, digits: 7 }).err();
        assert!(made(0, Duration::from_secs(1)).unwrap().contains("limit"));
        assert!(made(1000, Duration::from_nanos(10)).unwrap().contains("window"));
    }
}
