//! The one function from an outcome to a verdict. Pure: `now` and `jitter` are passed in.
//!
//! It does not sleep, log or count; the lane does what it says.

use std::time::Duration;

use crate::{
    config::{OnUnknown, RetryConfig},
    model::{Code, Outcome, PermanentKind, Status, Timestamp, Verdict},
};

/// A wait is lengthened by up to this share of its step, so that what failed together does not come back together.
const JITTER_SHARE: f64 = 0.5;
/// A provider asking for a longer wait than this is taken at this: `Retry-After` can hold anything.
const RETRY_AFTER_LIMIT: Duration = Duration::from_hours(24);

/// The attempt that was judged.
#[derive(Clone, Copy, Debug)]
pub struct Attempted {
    /// 1 for the first.
    pub number: u32,
    /// How many of them used up one of those that there may be: a refused set-up and a limit of our own do not.
    pub counted: u32,
    /// No attempt after this moment.
    pub expires_at: Timestamp,
    /// Whether another provider may and can try at once.
    pub has_next: bool,
    /// The provider's own shortest wait between two attempts at one message.
    pub floor: Duration,
}

/// What to do after `outcome`. `jitter` is uniform in `0.0..1.0`.
///
/// A wait is never shorter than the listed step (the last repeats) nor than the provider's own wish. Attempts and age are both bounded.
/// A configuration failure and a limit of our own are nobody's fault but ours: they wait without using up the attempts. What another
/// provider may do better goes to the next one at once, the last of the attempts too; what is about the address or the content does not,
/// and what may have been taken never does.
pub fn judge(retry: &RetryConfig, on_unknown: OnUnknown, attempted: Attempted, outcome: &Outcome, now: Timestamp, jitter: f64) -> Verdict {
    let (retry_after, bounded) = match outcome {
        Outcome::Sent { .. } => return Verdict::Done,
        Outcome::Permanent { kind: PermanentKind::Address | PermanentKind::Payload, code, .. } => {
            return Verdict::Dead { status: Status::Failed, code: *code };
        }
        Outcome::Unknown { .. } if on_unknown == OnUnknown::Fail => {
            return Verdict::Dead { status: Status::Failed, code: Code::UNKNOWN_OUTCOME };
        }
        Outcome::Permanent { kind: PermanentKind::Config, .. } => (None, false),
        Outcome::Transient { code, retry_after, .. } => (*retry_after, *code != Code::VELOCITY_LIMITED),
        Outcome::Unknown { .. } => (None, true),
    };
    let is_movable = match outcome {
        Outcome::Transient { code, .. } => !code.is_about_recipient(),
        Outcome::Permanent { .. } => true,
        Outcome::Sent { .. } | Outcome::Unknown { .. } => false,
    };
    let dead = |status, code| match outcome {
        // It may have arrived after all: say so instead of naming the bound that was hit.
        Outcome::Unknown { .. } => Verdict::Dead { status: Status::Failed, code: Code::UNKNOWN_OUTCOME },
        _ => Verdict::Dead { status, code },
    };
    if attempted.has_next && is_movable && now < attempted.expires_at {
        return Verdict::NextProvider;
    }
    if bounded && attempted.counted >= retry.attempts {
        return dead(Status::Failed, Code::ATTEMPTS_EXHAUSTED);
    }
    let index = usize::try_from(attempted.number.saturating_sub(1)).unwrap_or(usize::MAX).min(retry.steps.len().saturating_sub(1));
    let step = retry.steps.get(index).copied().unwrap_or_default();
    let wish = retry_after.unwrap_or_default().min(RETRY_AFTER_LIMIT).max(attempted.floor);
    let wait = step.mul_f64(1.0 + JITTER_SHARE * jitter.clamp(0.0, 1.0)).max(wish);
    let due = now.saturating_add(wait);
    if due >= attempted.expires_at { dead(Status::Expired, Code::EXPIRED) } else { Verdict::RetryAt(due) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn retry() -> RetryConfig {
        RetryConfig { steps: [30, 120, 600].map(Duration::from_secs).to_vec(), attempts: 5 }
    }

    fn transient(retry_after: Option<u64>) -> Outcome {
        Outcome::Transient { code: Code::RATE_LIMITED, detail: String::new(), retry_after: retry_after.map(Duration::from_secs) }
    }

    fn unknown() -> Outcome {
        Outcome::Unknown { code: Code::TIMEOUT, detail: String::new() }
    }

    fn permanent(kind: PermanentKind) -> Outcome {
        Outcome::Permanent { kind, code: Code::ADDRESS_REFUSED, detail: String::new() }
    }

    fn at(seconds: u64) -> Verdict {
        Verdict::RetryAt(NOW.saturating_add(Duration::from_secs(seconds)))
    }

    fn dead(status: Status, code: Code) -> Verdict {
        Verdict::Dead { status, code }
    }

    fn attempted(number: u32, expires_in: u64, has_next: bool) -> Attempted {
        let expires_at = NOW.saturating_add(Duration::from_secs(expires_in));
        Attempted { number, counted: number, expires_at, has_next, floor: Duration::ZERO }
    }

    #[track_caller]
    fn check(number: u32, expires_in: u64, on_unknown: OnUnknown, outcome: &Outcome, jitter: f64, expected: Verdict) {
        let attempted = attempted(number, expires_in, false);
        assert_eq!(judge(&retry(), on_unknown, attempted, outcome, NOW, jitter), expected);
    }

    #[test]
    fn outcomes_become_verdicts() {
        use OnUnknown::{Fail, Resend};
        check(1, 9999, Resend, &Outcome::Sent { provider_id: None }, 0.0, Verdict::Done);
        check(1, 9999, Resend, &transient(None), 0.0, at(30));
        check(1, 9999, Resend, &transient(None), 1.0, at(45));
        check(2, 9999, Resend, &transient(None), 0.0, at(120));
        check(3, 9999, Resend, &transient(None), 0.0, at(600));
        check(4, 9999, Resend, &transient(None), 0.0, at(600));
        check(5, 9999, Resend, &transient(None), 0.0, dead(Status::Failed, Code::ATTEMPTS_EXHAUSTED));
        check(1, 9999, Resend, &transient(Some(90)), 0.0, at(90));
        check(1, 9999, Resend, &transient(Some(5)), 0.0, at(30));
        check(1, 999_999, Resend, &transient(Some(10_000_000)), 0.0, at(86_400));
        check(1, 30, Resend, &transient(None), 0.0, dead(Status::Expired, Code::EXPIRED));
        check(1, 9999, Resend, &unknown(), 0.0, at(30));
        check(1, 9999, Fail, &unknown(), 0.0, dead(Status::Failed, Code::UNKNOWN_OUTCOME));
        check(5, 9999, Resend, &unknown(), 0.0, dead(Status::Failed, Code::UNKNOWN_OUTCOME));
        check(1, 10, Resend, &unknown(), 0.0, dead(Status::Failed, Code::UNKNOWN_OUTCOME));
        check(1, 9999, Resend, &permanent(PermanentKind::Address), 0.0, dead(Status::Failed, Code::ADDRESS_REFUSED));
        check(1, 9999, Resend, &permanent(PermanentKind::Payload), 0.0, dead(Status::Failed, Code::ADDRESS_REFUSED));
        check(9, 9999, Resend, &permanent(PermanentKind::Config), 0.0, at(600));
    }

    #[test]
    fn the_next_provider_gets_what_it_may_do_better() {
        let judged = |outcome: &Outcome, number, expires_in| {
            judge(&retry(), OnUnknown::Resend, attempted(number, expires_in, true), outcome, NOW, 0.0)
        };
        assert_eq!(judged(&transient(Some(90)), 1, 9999), Verdict::NextProvider);
        assert_eq!(judged(&permanent(PermanentKind::Config), 9, 9999), Verdict::NextProvider);
        assert_eq!(judged(&transient(None), 5, 9999), Verdict::NextProvider, "the last attempt may be made up for like any other");
        assert_eq!(judged(&unknown(), 1, 9999), at(30));
        let full = Outcome::Transient { code: Code::MAILBOX_FULL, detail: String::new(), retry_after: None };
        assert_eq!(judged(&full, 1, 9999), at(30));
        let unwanted = Outcome::Transient { code: Code::SENDER_REFUSED, detail: String::new(), retry_after: None };
        assert_eq!(judged(&unwanted, 1, 9999), Verdict::NextProvider);
        assert_eq!(judged(&permanent(PermanentKind::Address), 1, 9999), dead(Status::Failed, Code::ADDRESS_REFUSED));
        assert_eq!(judged(&transient(None), 1, 0), dead(Status::Expired, Code::EXPIRED));
    }

    #[test]
    fn only_what_counts_is_used_up() {
        let judged = |outcome: &Outcome, number, counted| {
            judge(&retry(), OnUnknown::Resend, Attempted { counted, ..attempted(number, 9999, false) }, outcome, NOW, 0.0)
        };
        let velocity = Outcome::Transient { code: Code::VELOCITY_LIMITED, detail: String::new(), retry_after: None };
        assert_eq!(judged(&velocity, 50, 50), at(600));
        assert_eq!(judged(&transient(None), 50, 4), at(600), "46 of them did not count");
        assert_eq!(judged(&transient(None), 50, 5), dead(Status::Failed, Code::ATTEMPTS_EXHAUSTED));
    }

    #[test]
    fn no_wait_is_below_the_providers_floor() {
        let judged = |outcome: &Outcome, floor| {
            let floor = Duration::from_secs(floor);
            judge(&retry(), OnUnknown::Resend, Attempted { floor, ..attempted(1, 9999, false) }, outcome, NOW, 0.0)
        };
        assert_eq!(judged(&transient(Some(40)), 60), at(60));
        assert_eq!(judged(&unknown(), 60), at(60), "an unknown outcome has no wish of its own");
        assert_eq!(judged(&transient(None), 10), at(30));
    }

    proptest! {
        #[test]
        fn a_retry_is_never_early_never_late_and_never_endless(
            number in 1_u32..50,
            expires_in in 0_u64..100_000,
            retry_after in proptest::option::of(0_u64..200_000),
            is_unknown: bool,
            has_next: bool,
            jitter in 0.0..1.0_f64,
        ) {
            let outcome = if is_unknown { unknown() } else { transient(retry_after) };
            let expires_at = NOW.saturating_add(Duration::from_secs(expires_in));
            let retry = retry();
            match judge(&retry, OnUnknown::Resend, attempted(number, expires_in, has_next), &outcome, NOW, jitter) {
                Verdict::RetryAt(due) => {
                    let step = retry.steps[(number as usize - 1).min(retry.steps.len() - 1)];
                    let floor = if is_unknown { step } else { step.max(Duration::from_secs(retry_after.unwrap_or(0)).min(RETRY_AFTER_LIMIT)) };
                    prop_assert!(number < retry.attempts);
                    prop_assert!(due < expires_at);
                    prop_assert!(due.since(NOW) >= floor);
                    prop_assert!(due.since(NOW) <= floor.max(step.mul_f64(1.5)));
                }
                Verdict::Dead { status, code } => {
                    prop_assert!(Status::Sending.may_become(status));
                    prop_assert_eq!(code == Code::UNKNOWN_OUTCOME, is_unknown);
                }
                Verdict::NextProvider => prop_assert!(has_next && !is_unknown && expires_at > NOW),
                Verdict::Done => prop_assert!(false, "nothing was sent"),
            }
        }
    }
}
