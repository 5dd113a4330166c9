//! Random histories of the store against a small model of it: whatever the order, rows, counters and promises hold.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use proptest::prelude::*;
use tarishi::{
    config::WhenFull,
    model::{Channel, Code, DeliveryId, DeliveryKey, Status, Stream},
    store::{Accepted, Attempts, DeliveryFilter, EventKind, EventSettings, Gate, PendingEvent, Placement, Record, Recorded, Step},
};

use crate::fixture::{HOUR, MADE, Offer, PROVIDER, Sqlite, TestStore, ago, job_id, next_millisecond, notification, outcome, user_id};

const USERS: [&str; 3] = ["asha", "juma", "neema"];
const KEYS: [&str; 2] = ["flat", "house"];

/// One thing that happens. Numbers choose among what is there at that moment.
#[derive(Clone, Debug)]
enum Op {
    Accept { users: Vec<usize>, key: Option<usize>, placement: usize, is_expired: bool },
    AcceptLarge { users: Vec<usize>, key: Option<usize> },
    Repeat { job: usize },
    MakeSome { count: usize },
    Claim,
    Begin { delivery: usize, off_by_one: bool },
    Record { delivery: usize, back: u32, end: usize },
    Cancel { job: usize },
    GiveBack,
    MarkDelivered { delivery: usize },
    Reopen,
    Purge,
}

fn op() -> impl Strategy<Value = Op> {
    let users = || prop::collection::vec(0..USERS.len(), 1..4);
    let key = || prop::option::of(0..KEYS.len());
    let any = 0..1000_usize;
    prop_oneof![
        2 => (users(), key(), 0..4_usize, prop::bool::weighted(0.15))
            .prop_map(|(users, key, placement, is_expired)| Op::Accept { users, key, placement, is_expired }),
        1 => (users(), key()).prop_map(|(users, key)| Op::AcceptLarge { users, key }),
        1 => any.clone().prop_map(|job| Op::Repeat { job }),
        2 => (1..3_usize).prop_map(|count| Op::MakeSome { count }),
        5 => Just(Op::Claim),
        9 => (any.clone(), prop::bool::weighted(0.1)).prop_map(|(delivery, off_by_one)| Op::Begin { delivery, off_by_one }),
        9 => (any.clone(), prop_oneof![3 => Just(0_u32), 1 => Just(1_u32)], 0..ENDS.len()).prop_map(|(delivery, back, end)| Op::Record { delivery, back, end }),
        1 => any.clone().prop_map(|job| Op::Cancel { job }),
        1 => Just(Op::GiveBack),
        1 => any.prop_map(|delivery| Op::MarkDelivered { delivery }),
        1 => Just(Op::Reopen),
        1 => Just(Op::Purge),
    ]
}

/// What an attempt may come to: the outcome's word, the status, its code.
const ENDS: [(&str, Status, Option<Code>); 7] = [
    ("sent", Status::Sent, None),
    ("sent", Status::Sent, None),
    ("transient", Status::Queued, Some(Code::RATE_LIMITED)),
    ("unknown", Status::Queued, Some(Code::TIMEOUT)),
    ("unknown", Status::Failed, Some(Code::UNKNOWN_OUTCOME)),
    ("permanent", Status::Failed, Some(Code::ADDRESS_UNSUPPORTED)),
    ("transient", Status::Expired, Some(Code::EXPIRED)),
];

/// Where accept may place a delivery. To the store, what goes into a stream at once is no matter of the channel.
fn placements() -> [Placement; 4] {
    let stream = Stream::User(user_id("asha"));
    [
        Placement::Waiting,
        Placement::Leased,
        Placement::Sending { provider: PROVIDER },
        Placement::Stored { provider: PROVIDER, stream, notification: notification() },
    ]
}

/// A delivery as it has to be.
#[derive(Clone, Debug)]
struct Expected {
    status: Status,
    code: Option<&'static str>,
    attempts: u32,
    user: usize,
    key: Option<usize>,
    is_held: bool,
    is_cancelling: bool,
    is_expired: bool,
    /// The incarnation of the attempt under way.
    begun_by: i64,
    outcomes: BTreeMap<u32, &'static str>,
}

impl Expected {
    fn move_to(&mut self, status: Status, code: Option<&'static str>) {
        (self.status, self.code, self.is_held) = (status, code, false);
    }
}

#[derive(Clone, Debug)]
struct ExpectedJob {
    id: String,
    offer: Offer,
    planned: u32,
    made: u32,
    is_cancelled: bool,
}

/// The model, and what was seen of the store.
#[derive(Default)]
struct Model {
    jobs: BTreeMap<i64, ExpectedJob>,
    deliveries: BTreeMap<DeliveryKey, Expected>,
    accepted: i64,
    purged: i64,
    /// Attempts whose gate opened, those that began in accept's commit included.
    opened: HashSet<(DeliveryKey, u32)>,
    /// Deliveries of which some attempt's `sent` was recorded, on time or late.
    sent: HashSet<DeliveryKey>,
}

struct Run {
    test: TestStore<Sqlite>,
    model: Model,
    replay: Replay,
}

/// What somebody knows who only hears the events.
#[derive(Default)]
struct Replay {
    seq: i64,
    deliveries: HashMap<DeliveryId, Heard>,
    finished: BTreeSet<String>,
}

/// What the last event of a delivery said.
struct Heard {
    status: Status,
    code: Option<String>,
    attempts: u32,
}

impl Replay {
    fn hear(&mut self, event: PendingEvent) {
        assert!(event.seq > self.seq);
        self.seq = event.seq;
        match event.what {
            EventKind::Delivery { id, status, code, attempts, provider, .. } => {
                if let Some(last) = self.deliveries.get(&id) {
                    // A late `sent` proves that what waits to be sent again has been.
                    let is_lift = last.status == Status::Queued && status == Status::Sent && last.attempts > 0;
                    assert!(last.status.may_become(status) || is_lift, "{id}: {} became {status}", last.status);
                    assert_eq!(attempts, last.attempts + u32::from(status == Status::Sending), "{id} {status}");
                } else {
                    assert_eq!((status, attempts), (Status::Queued, 0), "{id}: what comes first");
                }
                assert_eq!(attempts > 0, provider.is_some());
                self.deliveries.insert(id, Heard { status, code, attempts });
            }
            EventKind::JobFinished { deliveries, statuses } => {
                assert_eq!(statuses.values().sum::<u32>(), deliveries);
                assert!(statuses.keys().all(|status| status.is_ended()), "{}: {statuses:?}", event.job_id);
                assert!(self.finished.insert(event.job_id), "finished twice");
            }
            EventKind::AddressGone { id, .. } => assert!(self.deliveries[&id].attempts > 0, "{id}: nobody tried its address"),
        }
    }
}

impl Run {
    async fn apply(&mut self, op: &Op) {
        match op {
            Op::Accept { users, key, placement, is_expired } => {
                let placement = placements()[*placement].clone();
                let expired_too = *is_expired && matches!(placement, Placement::Waiting | Placement::Leased);
                self.accept(users, *key, placement, expired_too).await;
            }
            Op::AcceptLarge { users, key } => self.accept_large(users, *key).await,
            Op::Repeat { job } => {
                let Some(job) = self.job(*job) else { return };
                let job = &self.model.jobs[&job];
                let answer = self.test.offer(vec![job.offer.clone().build()]).await;
                assert_eq!(answer, Ok(vec![Accepted::Repeat { deliveries: job.planned, skipped: Vec::new() }]));
            }
            Op::MakeSome { count } => self.make_some(*count).await,
            Op::Claim => self.claim().await,
            Op::Begin { delivery, off_by_one } => self.begin(*delivery, *off_by_one).await,
            Op::Record { delivery, back, end } => self.record(*delivery, *back, *end).await,
            Op::Cancel { job } => self.cancel(*job).await,
            Op::GiveBack => {
                let held = self.model.deliveries.values().filter(|one| one.status == Status::Queued && one.is_held).count();
                assert_eq!(self.test.give_back(Channel::Email, self.test.owner()).await.unwrap(), held);
                self.let_go();
            }
            Op::MarkDelivered { delivery } => {
                let Some(key) = self.delivery(*delivery) else { return };
                self.test.mark_delivered(vec![key]).await.unwrap();
                let one = self.model.deliveries.get_mut(&key).unwrap();
                if one.status == Status::Sent {
                    one.status = Status::Delivered;
                }
            }
            Op::Reopen => {
                self.test.reopen().await;
                self.let_go();
            }
            Op::Purge => self.purge().await,
        }
    }

    fn let_go(&mut self) {
        self.model.deliveries.values_mut().filter(|one| one.status == Status::Queued).for_each(|one| one.is_held = false);
    }

    fn job(&self, choice: usize) -> Option<i64> {
        self.model.jobs.keys().nth(choice % self.model.jobs.len().max(1)).copied()
    }

    fn delivery(&self, choice: usize) -> Option<DeliveryKey> {
        self.delivery_like(choice, |_| true)
    }

    /// One of the deliveries something can become of, if there are any; now and then any other.
    fn delivery_like(&self, choice: usize, is_likely: impl Fn(&Expected) -> bool) -> Option<DeliveryKey> {
        let likely: Vec<DeliveryKey> = self.model.deliveries.iter().filter(|(_, one)| is_likely(one)).map(|(key, _)| *key).collect();
        let all: Vec<DeliveryKey> = self.model.deliveries.keys().copied().collect();
        let among = if likely.is_empty() || choice.is_multiple_of(10) { all } else { likely };
        among.get(choice % among.len().max(1)).copied()
    }

    fn offer(&self, users: &[usize], key: Option<usize>) -> (String, Offer) {
        let id = format!("job{}", self.model.accepted);
        let offer = key.into_iter().fold(Offer::new(&id), |offer, key| offer.collapse(KEYS[key]));
        (id, users.iter().fold(offer, |offer, user| offer.to(Channel::Email, USERS[*user])))
    }

    async fn accept(&mut self, users: &[usize], key: Option<usize>, placement: Placement, is_expired: bool) {
        let (id, offer) = self.offer(users, key);
        let offer = if is_expired { offer.expires(ago(HOUR)) } else { offer }.placed(placement.clone());
        let num = self.test.take(offer.clone().build()).await;
        let planned = u32::try_from(users.len()).unwrap();
        self.model.accepted += i64::from(planned);
        self.model.jobs.insert(num, ExpectedJob { id, offer, planned, made: planned, is_cancelled: false });
        for (ordinal, user) in (0..).zip(users) {
            self.insert(DeliveryKey { job: num, ordinal }, *user, key, &placement, is_expired);
        }
    }

    fn insert(&mut self, delivery: DeliveryKey, user: usize, key: Option<usize>, placement: &Placement, is_expired: bool) {
        let is_same = |one: &Expected| one.key == key && one.user == user && key.is_some() && one.status == Status::Queued;
        for (_, older) in self.model.deliveries.iter_mut().filter(|(other, one)| other.job < delivery.job && is_same(one)) {
            older.move_to(Status::Cancelled, Some("collapsed"));
        }
        let is_overtaken = self.model.deliveries.iter().any(|(other, one)| other.job > delivery.job && is_same(one));
        let (status, attempts, is_held) = match placement {
            Placement::Waiting => (Status::Queued, 0, false),
            Placement::Leased => (Status::Queued, 0, true),
            Placement::Sending { .. } => (Status::Sending, 1, true),
            Placement::Stored { .. } => (Status::Sent, 1, false),
        };
        let mut one = Expected {
            status,
            code: None,
            attempts,
            user,
            key,
            is_held,
            is_cancelling: false,
            is_expired,
            begun_by: self.test.owner(),
            outcomes: BTreeMap::new(),
        };
        if attempts > 0 {
            assert!(self.model.opened.insert((delivery, 1)));
            if status == Status::Sent {
                one.outcomes.insert(1, "sent");
                self.model.sent.insert(delivery);
            }
        } else if is_overtaken {
            one.move_to(Status::Cancelled, Some("collapsed"));
        }
        self.model.deliveries.insert(delivery, one);
    }

    async fn accept_large(&mut self, users: &[usize], key: Option<usize>) {
        let (id, offer) = self.offer(users, key);
        let num = self.test.take(offer.large()).await;
        let planned = u32::try_from(users.len()).unwrap();
        self.model.accepted += i64::from(planned);
        self.model.jobs.insert(num, ExpectedJob { id, offer, planned, made: 0, is_cancelled: false });
    }

    async fn make_some(&mut self, count: usize) {
        let unmade = self.model.jobs.iter().find(|(_, job)| job.made < job.planned).map(|(num, job)| (*num, job.clone()));
        let expansion = self.test.next_expansion().await.unwrap();
        let found = expansion.as_ref().map(|found| (found.job, found.made));
        assert_eq!(found, unmade.as_ref().map(|(num, job)| (*num, job.made)), "the oldest job, at its cursor");
        let (Some(expansion), Some((num, job))) = (expansion, unmade) else { return };
        let from = job.made as usize;
        let rows: Vec<_> = job.offer.rows().into_iter().skip(from).take(count).collect();
        let made = u32::try_from(rows.len()).unwrap();
        let collapse_key = expansion.envelope.collapse_key.clone();
        let step = self.test.make_deliveries(num, job.made, rows.clone(), collapse_key.clone(), self.test.lease()).await.unwrap();
        assert_eq!(step, if job.is_cancelled { Step::MadeCancelled } else { MADE });
        for (ordinal, row) in (job.made..).zip(rows) {
            let key = DeliveryKey { job: num, ordinal };
            let user = USERS.iter().position(|user| row.user_id == Some(user_id(user))).unwrap();
            let collapse = collapse_key.as_ref().and_then(|key| KEYS.iter().position(|one| one == key));
            if job.is_cancelled {
                // It comes into being as what it is, and does nothing to others.
                self.insert(key, user, None, &Placement::Waiting, false);
                self.model.deliveries.get_mut(&key).unwrap().move_to(Status::Cancelled, Some("cancelled_by_request"));
            } else {
                self.insert(key, user, collapse, &Placement::Waiting, false);
            }
        }
        self.model.jobs.get_mut(&num).unwrap().made += made;
    }

    async fn claim(&mut self) {
        let claimed: BTreeSet<DeliveryKey> = self.test.claimed_keys(Channel::Email).await.into_iter().collect();
        let free = self.model.deliveries.iter_mut().filter(|(_, one)| one.status == Status::Queued && !one.is_held);
        let expected: BTreeSet<DeliveryKey> = free
            .map(|(key, one)| {
                one.is_held = true;
                *key
            })
            .collect();
        assert_eq!(claimed, expected);
    }

    async fn begin(&mut self, choice: usize, off_by_one: bool) {
        let Some(key) = self.delivery_like(choice, |one| one.status == Status::Queued && one.is_held) else { return };
        let one = self.model.deliveries.get_mut(&key).unwrap();
        let attempts = one.attempts + u32::from(off_by_one);
        let gate = self.test.open_gate(key, Channel::Email, attempts).await;
        let mine = one.status == Status::Queued && one.is_held;
        if mine && one.is_expired {
            assert_eq!(gate, Gate::Expired);
            one.move_to(Status::Expired, Some("expired"));
        } else if mine && !off_by_one {
            assert!(matches!(gate, Gate::Open { .. }), "{gate:?}");
            (one.status, one.attempts, one.begun_by) = (Status::Sending, one.attempts + 1, self.test.owner());
        } else {
            assert_eq!(gate, Gate::Lost);
        }
        if let Gate::Open { .. } = gate {
            assert!(self.model.opened.insert((key, attempts + 1)), "a gate opened twice for one attempt");
            assert!(!self.model.sent.contains(&key), "an attempt after a recorded sent");
        }
    }

    async fn record(&mut self, choice: usize, back: u32, end: usize) {
        let can_move = |one: &Expected| one.status == Status::Sending || (one.attempts > 0 && one.status == Status::Queued);
        let Some(key) = self.delivery_like(choice, can_move).filter(|key| self.model.deliveries[key].attempts > 0) else { return };
        let one = self.model.deliveries.get_mut(&key).unwrap();
        let number = one.attempts.saturating_sub(back).max(1);
        let (word, status, code) = ENDS[end];
        let address_gone = code == Some(Code::ADDRESS_UNSUPPORTED);
        let record = Record { outcome: word, code, status_code: code, address_gone, ..outcome(key, number, status) };
        let recorded = self.test.put_outcome(record).await;
        let was_sent = number > 1 && one.outcomes.values().any(|outcome| *outcome == "sent");
        let code = code.map(Code::as_str);
        let expected = if one.status == Status::Sending && one.attempts == number {
            let next = match status {
                _ if was_sent => (Status::Sent, None),
                Status::Queued if one.is_cancelling => (Status::Cancelled, Some("cancelled_by_request")),
                status => (status, code),
            };
            one.move_to(next.0, next.1);
            Recorded::Now(next.0)
        } else {
            let waits = one.status == Status::Queued || (one.status == Status::Failed && one.code == Some("unknown_outcome"));
            let lifted = status == Status::Sent && waits;
            if lifted {
                one.move_to(Status::Sent, None);
            }
            Recorded::Late { lifted }
        };
        let kept = one.outcomes.entry(number).or_insert(word);
        // A second answer for an attempt counts when the first was none, and when it says that the message is out after all.
        if *kept == "unknown" || word == "sent" {
            *kept = word;
        }
        if word == "sent" {
            self.model.sent.insert(key);
        }
        assert_eq!(recorded, expected);
    }

    async fn cancel(&mut self, choice: usize) {
        let Some(num) = self.job(choice) else { return };
        let job = self.model.jobs.get_mut(&num).unwrap();
        job.is_cancelled = true;
        let (mut cancelled, mut too_late) = (u64::from(job.planned - job.made), 0);
        for (_, one) in self.model.deliveries.iter_mut().filter(|(key, _)| key.job == num) {
            if one.status == Status::Queued {
                one.move_to(Status::Cancelled, Some("cancelled_by_request"));
                cancelled += 1;
            } else if one.status == Status::Sending {
                one.is_cancelling = true;
                too_late += 1;
            }
        }
        let answer = self.test.cancel(&job_id(&job.id)).await.unwrap().unwrap();
        assert_eq!((answer.cancelled, answer.too_late), (cancelled, too_late));
    }

    async fn purge(&mut self) {
        let deliveries = &self.model.deliveries;
        let is_open = |num: i64| deliveries.iter().any(|(key, one)| key.job == num && !one.status.is_ended());
        let over: BTreeSet<i64> =
            self.model.jobs.iter().filter(|(num, job)| job.made == job.planned && !is_open(**num)).map(|(num, _)| *num).collect();
        next_millisecond().await;
        let purged = self.test.purge_step().await.unwrap();
        let before = self.model.deliveries.len();
        self.model.deliveries.retain(|key, _| !over.contains(&key.job));
        self.model.jobs.retain(|num, _| !over.contains(num));
        let gone = before - self.model.deliveries.len();
        assert_eq!((purged.deliveries, purged.jobs), (gone as u64, over.len() as u64));
        self.model.purged += i64::try_from(gone).unwrap();
    }

    /// Hears what has been told since the last time, and holds it against what is stored: the events alone lead to the same.
    async fn listen(&mut self) {
        loop {
            let page = self.test.pending_events(self.replay.seq, 7).await.unwrap();
            let Some(last) = page.last_seq else { break };
            assert_eq!(page.events.last().map(|event| event.seq), Some(last));
            page.events.into_iter().for_each(|event| self.replay.hear(event));
            assert!(*self.test.events_written().borrow() >= last);
            self.test.remove_events(last).await.unwrap();
        }
        assert_eq!(self.test.events_pending(), 0);
        for view in self.test.list(DeliveryFilter { limit: 500, ..DeliveryFilter::default() }).await {
            let heard = self.replay.deliveries.get(&view.id).unwrap_or_else(|| panic!("{:?} was never told of", view.key));
            let Attempts::Count(attempts) = view.attempts else { panic!("a listing counts attempts") };
            assert_eq!((heard.status, &heard.code, heard.attempts), (view.status, &view.code, attempts), "{:?}", view.key);
        }
        for (num, job) in &self.model.jobs {
            let has_open = self.model.deliveries.iter().any(|(key, one)| key.job == *num && !one.status.is_ended());
            assert_eq!(self.replay.finished.contains(&job.id), job.made == job.planned && !has_open, "{}", job.id);
        }
    }

    /// Holds the store against the model, and each change against [`Status::may_become`].
    async fn check(&self, before: &BTreeMap<DeliveryKey, Status>) -> BTreeMap<DeliveryKey, Status> {
        let views = self.test.list(DeliveryFilter { limit: 500, ..DeliveryFilter::default() }).await;
        let found: BTreeMap<_, _> = views.iter().map(|view| (view.key, (view.status, view.code.as_deref()))).collect();
        let expected: BTreeMap<_, _> = self.model.deliveries.iter().map(|(key, one)| (*key, (one.status, one.code))).collect();
        assert_eq!(found, expected);
        for (key, (now, _)) in &found {
            let Some(before) = before.get(key).filter(|before| *before != now) else { continue };
            // A late `sent` proves that what waits to be sent again has been.
            let is_lift = *before == Status::Queued && *now == Status::Sent && self.model.sent.contains(key);
            assert!(before.may_become(*now) || is_lift, "{key:?}: {before} became {now}");
        }
        let audit = self.test.balanced().await;
        assert_eq!((audit.accepted, audit.purged), (self.model.accepted, self.model.purged));
        let interrupted: BTreeSet<DeliveryKey> = self.test.interrupted().await.unwrap().iter().map(|found| found.delivery.key).collect();
        let lost = |one: &Expected| one.status == Status::Sending && one.begun_by != self.test.owner();
        assert_eq!(interrupted, self.model.deliveries.iter().filter(|(_, one)| lost(one)).map(|(key, _)| *key).collect());
        found.into_iter().map(|(key, (status, _))| (key, status)).collect()
    }
}

async fn play(ops: Vec<Op>) {
    let mut test = TestStore::<Sqlite>::fresh();
    test.settings.retention = std::time::Duration::ZERO;
    test.settings.events = Some(EventSettings { statuses: Status::ALL.into_iter().collect(), limit: 1000, when_full: WhenFull::Stop });
    test.reopen().await;
    let mut run = Run { test, model: Model::default(), replay: Replay::default() };
    let mut seen = BTreeMap::new();
    for op in ops {
        run.apply(&op).await;
        run.listen().await;
        seen = run.check(&seen).await;
    }
    run.test.close().await;
}

/// A first attempt is recorded as failed, and turns out to be sent while the second is under way: nothing follows the second.
#[tokio::test]
async fn a_sent_that_turns_up_late_ends_it_whatever_was_recorded_before() {
    let (begin, transient) = (Op::Begin { delivery: 0, off_by_one: false }, Op::Record { delivery: 0, back: 0, end: 2 });
    let accept = Op::Accept { users: vec![0], key: None, placement: 1, is_expired: false };
    let late = Op::Record { delivery: 0, back: 1, end: 0 };
    play(vec![accept, begin.clone(), transient.clone(), Op::Claim, begin.clone(), late, transient, Op::Claim, begin]).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_keeps_the_promises(ops in prop::collection::vec(op(), 1..80)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(play(ops));
    }
}
