//! Who carries a channel: its providers in order of preference, each with its breaker and the pace of its account.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    Lane, SLEEP_LIMIT,
    breaker::{Breaker, BreakerState, Change, Permit},
    pace::{NotYet, Pace, PaceStatus},
};
use crate::{
    channel::Provider,
    config::BreakerConfig,
    event::{Event, emit},
    model::{Channel, Code, Outcome, Timestamp},
    socket::Bus,
};

/// The name live deliveries carry as their provider.
const SOCKETS: &str = "sockets";

/// Who carries the channel.
pub enum Carrier {
    /// In order of preference.
    Providers(Vec<Carried>),
    /// The inbox, then the sockets of whoever follows the stream.
    Sockets(Bus),
}

/// A provider, its breaker on this channel, and the pace of its account.
pub struct Carried {
    pub(super) provider: Arc<dyn Provider>,
    pace: Arc<Pace>,
    breaker: Mutex<Breaker>,
}

#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub struct ProviderStatus {
    pub name: &'static str,
    pub breaker: BreakerState,
    pub reason: Option<String>,
    #[serde(flatten)]
    pub pace: PaceStatus,
    /// Requests of the account's that the provider counted at once, where it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent_requests: Option<u32>,
}

/// A call that may be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Permitted {
    /// The provider's place.
    pub provider: usize,
    pub is_probe: bool,
}

impl Carried {
    /// `pace` is shared by all channels that use the account.
    pub fn new(provider: Arc<dyn Provider>, pace: Arc<Pace>, settings: BreakerConfig) -> Self {
        Self { provider, pace, breaker: Mutex::new(Breaker::new(settings)) }
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A permit for one call, and whether it is the breaker's probe; else when to ask again.
    fn acquire(&self, now: Timestamp) -> Result<bool, NotYet> {
        let mut breaker = self.breaker();
        if let Permit::No { until } = breaker.peek(now) {
            return Err(NotYet::Held(until));
        }
        self.hold_as_asked(now);
        self.pace.take(1, now)?;
        Ok(breaker.acquire(now) == Permit::Probe)
    }

    /// Takes permits for calls that need no probe; says for how many.
    fn acquire_many(&self, wanted: usize, now: Timestamp) -> usize {
        if wanted == 0 || self.breaker().peek(now) != Permit::Yes {
            return 0;
        }
        self.hold_as_asked(now);
        self.pace.take(wanted, now).unwrap_or(0)
    }

    fn forgo(&self, is_probe: bool, now: Timestamp) {
        self.pace.give_back(1);
        if is_probe {
            self.breaker().forgo_probe(now);
        }
    }

    fn hold_as_asked(&self, now: Timestamp) {
        if let Some(until) = self.provider.paused_until().filter(|until| *until > now) {
            self.pace.hold(until);
        }
    }

    /// Lets breaker and pace learn from an attempt; true when who waits should look again.
    fn learn(&self, channel: Channel, is_probe: bool, outcome: &Outcome, now: Timestamp) -> bool {
        let name = self.provider.name();
        if let Outcome::Transient { code, retry_after, .. } = outcome
            && code.asks_for_fewer()
            && let Some(rate) = self.pace.limited(*retry_after, now)
        {
            emit(&Event::PaceLowered { provider: name, channel, rate });
        }
        let change = self.breaker().record(outcome, is_probe, now);
        match &change {
            Change::None => {}
            Change::Opened { reason, needs_a_person } => {
                emit(&Event::BreakerOpened { provider: name, channel, reason, needs_a_person: *needs_a_person });
            }
            Change::PlatformRefused { reason } => emit(&Event::PlatformRefused { provider: name, channel, reason }),
            Change::Closed => emit(&Event::BreakerClosed { provider: name, channel }),
        }
        is_probe || change != Change::None
    }

    fn status(&self, now: Timestamp) -> ProviderStatus {
        let breaker = self.breaker();
        let (state, reason) = breaker.state(now);
        ProviderStatus {
            name: self.provider.name(),
            breaker: state,
            reason: reason.map(str::to_owned),
            pace: self.pace.status(now),
            concurrent_requests: self.provider.concurrent_requests(),
        }
    }
}

impl Carrier {
    fn providers(&self) -> &[Carried] {
        match self {
            Self::Providers(carried) => carried,
            Self::Sockets(_) => &[],
        }
    }

    pub(super) fn status(&self, now: Timestamp) -> Vec<ProviderStatus> {
        match self {
            Self::Sockets(_) => {
                let pace = PaceStatus { rate: None, held_until: None };
                vec![ProviderStatus { name: SOCKETS, breaker: BreakerState::Closed, reason: None, pace, concurrent_requests: None }]
            }
            Self::Providers(carried) => carried.iter().map(|carried| carried.status(now)).collect(),
        }
    }

    /// The place of the provider with this name.
    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.providers().iter().position(|carried| carried.provider.name() == name)
    }
}

impl Lane {
    /// The first provider that a call may be made to, or when to ask again.
    pub(super) fn permitted(&self, now: Timestamp) -> Result<Permitted, Timestamp> {
        if let Carrier::Sockets(_) = self.carrier {
            return Ok(Permitted { provider: 0, is_probe: false });
        }
        self.first_of(0, now)
    }

    /// As [`Self::permitted`], of the providers behind this one.
    pub(super) fn permitted_after(&self, provider: usize, now: Timestamp) -> Option<Permitted> {
        self.first_of(provider + 1, now).ok()
    }

    /// This provider alone.
    pub(super) fn permitted_by(&self, provider: usize, now: Timestamp) -> Result<Permitted, Timestamp> {
        self.acquire(provider, now).map_err(NotYet::until)
    }

    fn acquire(&self, provider: usize, now: Timestamp) -> Result<Permitted, NotYet> {
        let carried = self.carrier.providers().get(provider).ok_or(NotYet::Held(Timestamp::FAR_FUTURE))?;
        carried.acquire(now).map(|is_probe| Permitted { provider, is_probe })
    }

    fn first_of(&self, from: usize, now: Timestamp) -> Result<Permitted, Timestamp> {
        let mut earliest = now.saturating_add(SLEEP_LIMIT);
        for provider in from..self.carrier.providers().len() {
            match self.acquire(provider, now) {
                Ok(permitted) => return Ok(permitted),
                // It works, and it is soon this one's turn: going elsewhere would make a preference of the pace.
                Err(NotYet::Soon(until)) => return Err(earliest.min(until)),
                Err(NotYet::Held(until)) => earliest = earliest.min(until),
            }
        }
        Err(earliest)
    }

    /// Attempts through the preferred provider that may begin without asking the dispatcher: it is healthy, and the lane has no pace of
    /// its own.
    pub(super) fn permitted_directly(&self, wanted: usize, now: Timestamp) -> usize {
        match &self.carrier {
            _ if self.pace.is_some() => 0,
            Carrier::Sockets(_) => wanted,
            Carrier::Providers(carried) => carried.first().map_or(0, |carried| carried.acquire_many(wanted, now)),
        }
    }

    /// A permit that is not used after all.
    pub(super) fn forgo(&self, permitted: Permitted, now: Timestamp) {
        if let Some(carried) = self.carrier.providers().get(permitted.provider) {
            carried.forgo(permitted.is_probe, now);
        }
    }

    /// Lets the provider's breaker and pace learn from an attempt. Where the provider was not asked at all there is nothing to learn: the
    /// permit is given back, and a probe is still to be made.
    pub(super) fn learn(&self, permitted: Permitted, outcome: &Outcome) {
        let Some(carried) = self.carrier.providers().get(permitted.provider) else { return };
        let now = Timestamp::now();
        let look_again = if outcome.code().is_some_and(Code::is_local) {
            carried.forgo(permitted.is_probe, now);
            permitted.is_probe
        } else {
            carried.learn(self.channel, permitted.is_probe, outcome, now)
        };
        if look_again {
            self.wake.notify_one();
        }
    }

    /// How fast this provider's account is used, when it is one of this channel's.
    pub fn pace_of(&self, name: &str) -> Option<Arc<Pace>> {
        let carried = self.carrier.providers().get(self.carrier.place(name)?)?;
        Some(carried.pace.clone())
    }

    /// What moves on to another provider takes along how long this one wished to be left alone: then all leave it alone.
    pub(super) fn hold(&self, provider: usize, outcome: &Outcome, now: Timestamp) {
        if let Outcome::Transient { retry_after: Some(wait), .. } = outcome
            && let Some(carried) = self.carrier.providers().get(provider)
        {
            carried.pace.hold(now.saturating_add(*wait));
        }
    }

    /// The shortest wait between two attempts at one message through this provider.
    pub(super) fn retry_floor(&self, name: &str) -> Duration {
        let place = self.carrier.place(name);
        place.map_or(Duration::ZERO, |place| self.carrier.providers()[place].provider.retry_floor())
    }

    pub(super) fn provider_name(&self, provider: usize) -> &'static str {
        self.carrier.providers().get(provider).map_or(SOCKETS, |carried| carried.provider.name())
    }
}
