//! A store to test, whatever database is behind it, and jobs to put into it.

use std::{ops::Deref, sync::Arc, time::Duration};

use tarishi::{
    model::{
        Address, Channel, Delivery, DeliveryId, DeliveryKey, Envelope, JobId, Priority, Recipient, Skipped, Status, Stream, Timestamp,
        UserId,
    },
    store::{
        Accepted, Answers, Audit, Begin, Begun, Conflicts, DeliveryFilter, DeliveryView, Gate, Lease, LiveItem, LiveStored, NewDeliveries,
        NewDelivery, NewJob, Placement, Plan, Purged, Record, Recorded, Step, Store, StoreSettings, SuppressionExpiry,
    },
};

pub const HOUR: Duration = Duration::from_hours(1);
pub const DAY: Duration = Duration::from_hours(24);
/// Nothing here takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_mins(1);
pub const PROVIDER: &str = "provider";
/// A step of a large job, with nothing suppressed.
pub const MADE: Step = Step::Made { begun: Begun { suppressed: Vec::new(), stored: Vec::new() } };

/// A database the contract is held against.
pub trait Backend: Send + Sync + 'static {
    /// An empty one of its own.
    fn create() -> Self;
    fn settings(&self) -> StoreSettings;
    /// Runs SQL behind the back of the store, which is closed.
    fn tamper(&self, sql: &str);
    /// The one number this SQL gives, read behind the back of the store.
    fn number(&self, sql: &str) -> i64;
}

pub struct Sqlite(tempfile::TempDir);

impl Sqlite {
    fn connection(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.0.path().join("tarishi.db")).unwrap()
    }
}

impl Backend for Sqlite {
    fn create() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn settings(&self) -> StoreSettings {
        StoreSettings {
            path: self.0.path().join("tarishi.db"),
            readers: 2,
            group_commit_limit: 4096,
            retention: 30 * DAY,
            idempotency_retention: 7 * DAY,
            inbox_retention: 90 * DAY,
            inbox_limit: 1000,
            events: None,
            suppression_expiry: SuppressionExpiry { bounced: 180 * DAY, unregistered: 270 * DAY },
            revocation_retention: 30 * DAY,
        }
    }

    fn tamper(&self, sql: &str) {
        self.connection().execute_batch(sql).unwrap();
    }

    fn number(&self, sql: &str) -> i64 {
        self.connection().query_row(sql, (), |row| row.get(0)).unwrap()
    }
}

/// An open store on a database of its own.
pub struct TestStore<B> {
    pub backend: B,
    pub settings: StoreSettings,
    store: Option<Store>,
}

impl<B> Deref for TestStore<B> {
    type Target = Store;

    fn deref(&self) -> &Store {
        self.store.as_ref().expect("only open stores are asked")
    }
}

impl TestStore<Sqlite> {
    /// A store in a folder that was chosen for what is wrong with it.
    pub fn in_folder(settings: StoreSettings) -> Self {
        let store = Store::open(settings.clone()).unwrap();
        Self { backend: Sqlite::create(), settings, store: Some(store) }
    }
}

impl<B: Backend> TestStore<B> {
    pub fn fresh() -> Self {
        let backend = B::create();
        let settings = backend.settings();
        let store = Store::open(settings.clone()).unwrap();
        Self { backend, settings, store: Some(store) }
    }

    /// The next incarnation, with `self.settings` as they are by now.
    pub async fn reopen(&mut self) {
        self.reopen_after("").await;
    }

    /// The next incarnation, on a database that was tampered with in between.
    pub async fn reopen_after(&mut self, sql: &str) {
        self.store.take().unwrap().close().await;
        if !sql.is_empty() {
            self.backend.tamper(sql);
        }
        self.store = Some(Store::open(self.settings.clone()).unwrap());
    }

    /// Drops the store without closing it; its database stays.
    pub fn drop_store(self) -> (B, StoreSettings) {
        drop(self.store);
        (self.backend, self.settings)
    }

    pub fn lease(&self) -> Lease {
        self.lease_until(Timestamp::now().saturating_add(HOUR))
    }

    pub async fn offer(&self, jobs: Vec<NewJob>) -> Result<Vec<Accepted>, Conflicts> {
        self.offer_groups(vec![jobs]).await.unwrap().remove(0)
    }

    /// Offers groups of jobs in one commit.
    pub async fn offer_groups(&self, groups: Vec<Vec<NewJob>>) -> Answers {
        self.accept_all(Arc::new(groups), self.lease()).await?.committed().await?
    }

    /// Accepts a job that is new; its row.
    pub async fn take(&self, job: NewJob) -> i64 {
        match self.offer(vec![job]).await.unwrap()[..] {
            [Accepted::New { num, .. }] => num,
            ref other => panic!("not new: {other:?}"),
        }
    }

    /// Claims all that is due on a channel, of every priority.
    pub async fn claim_due(&self, channel: Channel) -> Vec<Delivery> {
        self.claim(channel, [1000; 3], self.lease()).await.unwrap().deliveries
    }

    pub async fn claimed_keys(&self, channel: Channel) -> Vec<DeliveryKey> {
        self.claim_due(channel).await.into_iter().map(|delivery| delivery.key).collect()
    }

    pub async fn open_gate(&self, key: DeliveryKey, channel: Channel, attempts: u32) -> Gate {
        self.begin(vec![Begin { key, channel, attempts, provider: PROVIDER, list: None }], self.lease()).await.unwrap()[0]
    }

    /// Claims what is due and opens the gate of this one for its next attempt, which must be the one after `attempts`.
    pub async fn start(&self, key: DeliveryKey, channel: Channel, attempts: u32) {
        self.claim_due(channel).await;
        assert!(matches!(self.open_gate(key, channel, attempts).await, Gate::Open { .. }), "the gate of {key:?} stays closed");
    }

    pub async fn put_outcome(&self, record: Record) -> Recorded {
        self.record(record).await.unwrap().committed().await.unwrap()
    }

    /// A job with one mail, claimed and under way.
    pub async fn sending(&self, id: &str) -> DeliveryKey {
        let key = first(self.take(Offer::new(id).to(Channel::Email, "asha").build()).await);
        self.start(key, Channel::Email, 0).await;
        key
    }

    pub async fn live(&self, key: DeliveryKey, user: &str, collapse_key: Option<&str>) -> Result<LiveStored, Gate> {
        let begin = Begin { key, channel: Channel::Live, attempts: 0, provider: "sockets", list: None };
        let notification = notification();
        let collapse_key = collapse_key.map(str::to_owned);
        self.live_to(Stream::User(user_id(user)), begin, notification, collapse_key).await
    }

    pub async fn live_to(
        &self,
        stream: Stream,
        begin: Begin,
        notification: Arc<str>,
        collapse_key: Option<String>,
    ) -> Result<LiveStored, Gate> {
        let items = Arc::new(vec![LiveItem { begin, stream, notification, collapse_key }]);
        self.send_live(items, self.lease()).await.unwrap().committed().await.unwrap().remove(0)
    }

    pub async fn find(&self, key: DeliveryKey) -> Option<DeliveryView> {
        let cursor = Some(DeliveryKey { job: key.job, ordinal: key.ordinal + 1 });
        let page = self.deliveries(DeliveryFilter { cursor, limit: 1, ..DeliveryFilter::default() }).await.unwrap();
        page.deliveries.into_iter().find(|view| view.key == key)
    }

    pub async fn view(&self, key: DeliveryKey) -> DeliveryView {
        self.find(key).await.unwrap_or_else(|| panic!("{key:?} is gone"))
    }

    pub async fn status(&self, key: DeliveryKey) -> Status {
        self.view(key).await.status
    }

    #[track_caller]
    pub fn expect_status(&self, key: DeliveryKey, expected: Status) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move { assert_eq!(self.status(key).await, expected, "{key:?}, at {caller}") }
    }

    /// Every page of a listing, in order.
    pub async fn list(&self, filter: DeliveryFilter) -> Vec<DeliveryView> {
        let mut all = Vec::new();
        let mut next = filter.clone();
        loop {
            let page = self.deliveries(next.clone()).await.unwrap();
            assert!(page.deliveries.len() <= filter.limit, "a page is too long");
            all.extend(page.deliveries);
            match page.next_cursor {
                None => return all,
                cursor => next.cursor = cursor,
            }
        }
    }

    /// One step of the purge, which takes what ended before this millisecond.
    pub async fn purge(&self) -> Purged {
        next_millisecond().await;
        self.purge_step().await.unwrap()
    }

    /// Holds the first promise: rows, counters and what is kept in memory all say the same.
    #[track_caller]
    pub fn balanced(&self) -> impl Future<Output = Audit> {
        let caller = std::panic::Location::caller();
        async move {
            let audit = self.audit().await.unwrap();
            assert!(audit.balanced, "{:?}, at {caller}", audit.disagreements);
            let counts = self.counts();
            for total in &audit.statuses {
                let counted: i64 = Channel::ALL.into_iter().map(|channel| counts.get(channel, total.status)).sum();
                assert_eq!(counted, total.deliveries, "{} in memory, at {caller}", total.status);
            }
            let all = self.list(DeliveryFilter { limit: 500, ..DeliveryFilter::default() }).await;
            for channel in Channel::ALL {
                let rows = all.iter().filter(|view| view.channel == channel).count();
                let counted: i64 = Status::ALL.into_iter().map(|status| counts.get(channel, status)).sum();
                assert!(audit.unmade > 0 || i64::try_from(rows) == Ok(counted), "{channel}: {counted} counted, {rows} rows, at {caller}");
            }
            audit
        }
    }
}

/// Asks until there is an answer.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// Resolves when whatever happened so far is in the past.
pub async fn next_millisecond() {
    let now = Timestamp::now();
    until("the clock moves on", async || (Timestamp::now() > now).then_some(())).await;
}

pub fn first(job: i64) -> DeliveryKey {
    DeliveryKey { job, ordinal: 0 }
}

pub fn user_id(user: &str) -> UserId {
    user.parse().unwrap()
}

pub fn job_id(id: &str) -> JobId {
    id.parse().unwrap()
}

pub fn ago(duration: Duration) -> Timestamp {
    Timestamp::now().saturating_sub(duration)
}

pub fn ahead(duration: Duration) -> Timestamp {
    Timestamp::now().saturating_add(duration)
}

pub fn address(channel: Channel, user: &str) -> Address {
    match channel {
        Channel::Email => Address::Email(format!("{user}@example.com").parse().unwrap()),
        Channel::Sms => Address::Phone("+255712345678".parse().unwrap()),
        Channel::Push => Address::PushToken(format!("token-{user}").parse().unwrap()),
        Channel::Live => Address::Inbox,
    }
}

/// A live notification as it is stored.
pub fn notification() -> Arc<str> {
    r#"{"kind":"message","title":"Juma","message":"Is the flat still free?","severity":"info","data":{}}"#.into()
}

/// The outcome of a mail's attempt, due again at once when it is to be retried.
pub fn outcome(key: DeliveryKey, number: u32, status: Status) -> Record {
    let now = Timestamp::now();
    Record {
        key,
        channel: Channel::Email,
        number,
        provider: PROVIDER,
        started_at: now,
        finished_at: now,
        outcome: match status {
            Status::Sent => "sent",
            Status::Queued => "transient",
            _ => "permanent",
        },
        code: None,
        status_code: None,
        detail: None,
        provider_id: (status == Status::Sent).then(|| format!("id-{number}")),
        address_gone: false,
        status,
        due_at: now,
    }
}

/// A job to offer to the store. What is said of deliveries goes for those added so far.
#[derive(Clone, Debug)]
pub struct Offer {
    envelope: Envelope,
    body: u8,
    accepted_at: Timestamp,
    skipped: Vec<Skipped>,
    deliveries: Vec<NewDelivery>,
}

impl Offer {
    pub fn new(id: &str) -> Self {
        let envelope = Envelope {
            id: job_id(id),
            template: None,
            content: None,
            data: serde_json::Map::new(),
            collapse_key: None,
            metadata: std::collections::BTreeMap::new(),
            traceparent: None,
        };
        Self { envelope, body: 1, accepted_at: Timestamp::now(), skipped: Vec::new(), deliveries: Vec::new() }
    }

    /// Tells bodies apart.
    pub fn body(mut self, body: u8) -> Self {
        self.body = body;
        self
    }

    pub fn template(mut self, name: &str) -> Self {
        self.envelope.template = Some(name.parse().unwrap());
        self
    }

    pub fn collapse(mut self, key: &str) -> Self {
        self.envelope.collapse_key = Some(key.to_owned());
        self
    }

    pub fn metadata(mut self, key: &str, value: &str) -> Self {
        self.envelope.metadata.insert(key.to_owned(), value.to_owned());
        self
    }

    pub fn traceparent(mut self, traceparent: &str) -> Self {
        self.envelope.traceparent = Some(traceparent.to_owned());
        self
    }

    pub fn accepted_at(mut self, at: Timestamp) -> Self {
        self.accepted_at = at;
        self
    }

    pub fn skipping(mut self, skipped: Skipped) -> Self {
        self.skipped.push(skipped);
        self
    }

    pub fn to(mut self, channel: Channel, user: &str) -> Self {
        let now = Timestamp::now();
        self.deliveries.push(NewDelivery {
            channel,
            priority: Priority::Normal,
            user_id: Some(user_id(user)),
            address: address(channel, user),
            locale: Some("sw-TZ".parse().unwrap()),
            timezone: Some("Africa/Dar_es_Salaam".parse().unwrap()),
            list: None,
            due_at: now,
            expires_at: now.saturating_add(DAY),
            placement: Placement::Waiting,
        });
        self
    }

    /// Mails to `count` users of their own.
    pub fn many(self, count: usize) -> Self {
        (0..count).fold(self, |offer, user| offer.to(Channel::Email, &format!("user{user}")))
    }

    pub fn priority(self, priority: Priority) -> Self {
        self.each(|delivery| delivery.priority = priority)
    }

    pub fn due(self, at: Timestamp) -> Self {
        self.each(|delivery| delivery.due_at = at)
    }

    pub fn expires(self, at: Timestamp) -> Self {
        self.each(|delivery| delivery.expires_at = at)
    }

    #[expect(clippy::needless_pass_by_value, reason = "most are made where they are given")]
    pub fn placed(self, placement: Placement) -> Self {
        self.each(|delivery| delivery.placement = placement.clone())
    }

    /// The kind of mail it is.
    pub fn list(self, list: Option<&str>) -> Self {
        self.each(|delivery| delivery.list = list.map(Arc::from))
    }

    fn each(mut self, change: impl Fn(&mut NewDelivery)) -> Self {
        self.deliveries.iter_mut().for_each(change);
        self
    }

    /// Its deliveries, as steps of a large job make them.
    pub fn rows(&self) -> Vec<NewDelivery> {
        self.deliveries.clone()
    }

    pub fn build(self) -> NewJob {
        let deliveries = NewDeliveries::Rows(self.rows());
        self.with(deliveries)
    }

    /// The same job, its deliveries made later.
    pub fn large(&self) -> NewJob {
        let recipients = self.deliveries.iter().filter_map(|delivery| delivery.user_id.clone()).map(recipient).collect();
        let plan = Plan {
            recipients,
            channels: vec![Channel::Email],
            available: vec![Channel::Email, Channel::Live],
            push_topic: None,
            push_condition: None,
            priority: Priority::Normal,
            due_at: self.accepted_at,
            expires_at: vec![ahead(DAY); 4],
        };
        self.clone().with(NewDeliveries::Later(serde_json::to_string(&plan).unwrap()))
    }

    fn with(self, deliveries: NewDeliveries) -> NewJob {
        let planned = Channel::ALL.into_iter().map(|channel| {
            let count = self.deliveries.iter().filter(|delivery| delivery.channel == channel).count();
            (channel, u32::try_from(count).unwrap())
        });
        NewJob {
            key: DeliveryId::job_key(&self.envelope.id),
            body_hash: [self.body; 32],
            accepted_at: self.accepted_at,
            skipped: self.skipped,
            planned: planned.filter(|(_, count)| *count > 0).collect(),
            document: serde_json::to_string(&self.envelope).unwrap(),
            envelope: Arc::new(self.envelope),
            deliveries,
        }
    }
}

fn recipient(user_id: UserId) -> Recipient {
    let email = Some(format!("{user_id}@example.com").parse().unwrap());
    Recipient { user_id, email, phone: None, push_tokens: Vec::new(), locale: None, timezone: None }
}
