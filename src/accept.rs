//! Check, commit, hand to the lanes. Everything that comes in becomes deliveries here, whatever brought it.
//!
//! A job is acknowledged only after its commit. What the commit wrote as leased goes straight from memory to its lane.

mod large;
mod rows;

use std::{borrow::Cow, sync::Arc};

use serde::Serialize;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::rows::{delivery, place, planned_by_channel};
use crate::{
    config::ChannelsConfig,
    event::{Event, emit},
    intake::{
        decode::Decoded,
        expand::{Expand, expand},
    },
    lane::{Draft, Lane, Reservation, StoredDraft, Turn},
    model::{
        Channel, Contact, DeliveryId, Envelope, JobId, PerChannel, Priority, Problem, Recipient, Skipped, TemplateName, Timestamp, UserId,
    },
    store::{
        Accepted, Answers, Begun, Committing, Conflicts, Lease, NewDeliveries, NewDelivery, NewJob, Placement, Plan, Store, StoreError,
    },
    template::Shelf,
};

/// Deliveries written in accept's own commit, and in each step of a larger job.
pub const STEP: usize = 1000;

/// Recipients expanded on the runtime's own threads.
const INLINE_LIMIT: usize = 200;
/// Live notifications that accept renders and stores in its own commit, of jobs taken together. With more it is one that others wait for.
const STORED_LIMIT: usize = 64;

/// What became of a job that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Receipt {
    pub id: JobId,
    /// Deliveries it fans out to.
    pub deliveries: u32,
    /// Known already, with the same body: nothing is sent again.
    pub repeated: bool,
    pub skipped: Vec<Skipped>,
}

/// Why jobs were not taken. Nothing of them was written.
#[derive(Debug)]
pub enum NotAccepted {
    /// Everything wrong with them, beyond what decoding saw.
    Invalid(Vec<Problem>),
    /// Ids that are known with another body.
    Conflict(Vec<Problem>),
    Store(StoreError),
    /// The daemon is stopping.
    Stopping,
}

/// Takes jobs. Clones share it.
#[derive(Clone)]
pub struct Acceptor(Arc<Inner>);

struct Inner {
    store: Store,
    templates: Arc<Shelf>,
    lanes: PerChannel<Arc<Lane>>,
    channels: ChannelsConfig,
    lease: std::time::Duration,
    /// Jobs being accepted and large ones being made: the lanes must outlast them.
    tracker: TaskTracker,
    stop: CancellationToken,
    large_job: tokio::sync::Notify,
}

impl Acceptor {
    pub fn new(
        store: Store,
        templates: Arc<Shelf>,
        lanes: PerChannel<Arc<Lane>>,
        channels: ChannelsConfig,
        lease: std::time::Duration,
        stop: CancellationToken,
    ) -> Self {
        let (tracker, large_job) = (TaskTracker::new(), tokio::sync::Notify::new());
        Self(Arc::new(Inner { store, templates, lanes, channels, lease, tracker, stop, large_job }))
    }

    /// Starts making the deliveries of large jobs; whatever an earlier run left comes first.
    pub fn start(&self) {
        let inner = self.0.clone();
        self.0.tracker.spawn(async move { inner.expand_large_jobs().await });
    }

    /// Resolves when everything that had begun to be accepted is with its lanes. Only after the stop.
    pub async fn idle(&self) {
        self.0.tracker.close();
        self.0.tracker.wait().await;
    }

    /// Takes all of `jobs` or none. Resolves after their commit, with a receipt for each, in order.
    ///
    /// A caller that goes away changes nothing: what has begun is finished.
    pub async fn accept(&self, jobs: Vec<Decoded>) -> Result<Vec<Receipt>, NotAccepted> {
        self.accept_each(vec![jobs]).await.pop().unwrap_or(Err(NotAccepted::Stopping))
    }

    /// The same for several groups of jobs at once, in one commit: each is taken whole or not at all, whatever becomes of the others.
    /// One answer for each, in order.
    pub async fn accept_each(&self, groups: Vec<Vec<Decoded>>) -> Vec<Result<Vec<Receipt>, NotAccepted>> {
        let count = groups.len();
        let stopping = || (0..count).map(|_| Err(NotAccepted::Stopping)).collect();
        if self.0.stop.is_cancelled() {
            return stopping();
        }
        let inner = self.0.clone();
        self.0.tracker.spawn(async move { inner.accept_each(groups).await }).await.unwrap_or_else(|_| stopping())
    }
}

fn conflict(prepared: &Prepared, job: &NewJob) -> Problem {
    let problem = format!("`{}` was accepted with another body", job.envelope.id);
    Problem::new(format!("{}.id", prepared.root), problem, "send a changed job under a new id; a repeat must be the same JSON")
}

/// Groups of jobs ready to be written, and beside each job the room taken for it.
type Groups = (Vec<Vec<NewJob>>, Vec<Vec<Prepared>>);

/// A job ready to be written, with the room taken for it.
struct Prepared {
    /// The job's path in what was sent.
    root: Cow<'static, str>,
    priority: Priority,
    reservations: PerChannel<Option<Reservation>>,
    /// Of the rows placed as [`Placement::Stored`], in order.
    drafts: Vec<Draft>,
}

impl Inner {
    async fn accept_each(self: &Arc<Self>, groups: Vec<Vec<Decoded>>) -> Vec<Result<Vec<Receipt>, NotAccepted>> {
        let checks: Vec<_> = groups.iter().map(|jobs| self.check(jobs)).collect();
        let good = groups.into_iter().zip(&checks).filter(|(_, check)| check.is_ok()).map(|(jobs, _)| jobs).collect();
        let mut taken = match self.take(good).await {
            Ok(taken) => taken.into_iter(),
            Err(error) => return checks.into_iter().map(|check| check.and(Err(NotAccepted::Store(error.clone())))).collect(),
        };
        checks.into_iter().map(|check| check.and_then(|()| taken.next().unwrap_or(Err(NotAccepted::Stopping)))).collect()
    }

    /// Writes what has been checked, in one commit, and hands it to the lanes.
    async fn take(self: &Arc<Self>, groups: Vec<Vec<Decoded>>) -> Result<Vec<Result<Vec<Receipt>, NotAccepted>>, StoreError> {
        let mut groups = groups;
        self.complete(&mut groups).await?;
        let now = Timestamp::now();
        let (new_jobs, prepared) = self.prepare_all(groups, now).await?;
        let new_jobs = Arc::new(new_jobs);
        let lease = self.store.lease_until(now.saturating_add(self.lease));
        let has_drafts = prepared.iter().flatten().any(|prepared| !prepared.drafts.is_empty());
        let (committing, turn) = self.enqueue(new_jobs.clone(), lease, has_drafts).await?;
        let mut shown = Vec::new();
        let answers = committing.committed().await.flatten().map(|answers| {
            fail::fail_point!("accept-committed");
            let answer = |((answer, jobs), prepared): ((_, &Vec<NewJob>), Vec<Prepared>)| match answer {
                Ok(accepted) => Ok(self.receipts(jobs, prepared, accepted, now, &mut shown)),
                Err(Conflicts(places)) => {
                    Err(NotAccepted::Conflict(places.into_iter().map(|at| conflict(&prepared[at], &jobs[at])).collect()))
                }
            };
            answers.into_iter().zip(new_jobs.iter()).zip(prepared).map(answer).collect()
        });
        if let Some(turn) = turn {
            self.lanes[Channel::Live].show_in_turn(shown, turn);
        }
        answers
    }

    /// In turn with the live lane's commits, where there will be something to publish.
    async fn enqueue(
        &self,
        jobs: Arc<Vec<Vec<NewJob>>>,
        lease: Lease,
        has_drafts: bool,
    ) -> Result<(Committing<Answers>, Option<Turn>), StoreError> {
        let enqueue = self.store.accept_all(jobs, lease);
        if has_drafts {
            self.lanes[Channel::Live].in_turn(enqueue).await.map(|(committing, turn)| (committing, Some(turn)))
        } else {
            Ok((enqueue.await?, None))
        }
    }

    /// Receipts for one group; what is stored already is for the caller to show.
    fn receipts(
        &self,
        jobs: &[NewJob],
        prepared: Vec<Prepared>,
        accepted: Vec<Accepted>,
        now: Timestamp,
        shown: &mut Vec<StoredDraft>,
    ) -> Vec<Receipt> {
        let receipt = |((job, prepared), accepted): ((&NewJob, Prepared), Accepted)| {
            let id = job.envelope.id.clone();
            match accepted {
                Accepted::Repeat { deliveries, skipped } => {
                    emit(&Event::JobRepeated { job: &id });
                    Receipt { id, deliveries, repeated: true, skipped }
                }
                Accepted::New { num, begun } => {
                    let deliveries = job.planned.iter().map(|(_, count)| count).sum();
                    let template = job.envelope.template.as_ref().map(TemplateName::as_str);
                    let traceparent = job.envelope.traceparent.as_deref();
                    emit(&Event::JobAccepted { job: &id, template, deliveries, skipped: job.skipped.len(), traceparent });
                    shown.extend(self.hand_over(job, num, begun, prepared, now));
                    Receipt { id, deliveries, repeated: false, skipped: job.skipped.clone() }
                }
            }
        };
        jobs.iter().zip(prepared).zip(accepted).map(receipt).collect()
    }

    /// What only the loaded templates can tell.
    fn check(&self, jobs: &[Decoded]) -> Result<(), NotAccepted> {
        let templates = self.templates.current();
        let mut problems = Vec::new();
        for decoded in jobs {
            let Some(name) = &decoded.job.template else { continue };
            problems.extend(templates.check(name, &decoded.root, &decoded.job.data));
        }
        if problems.is_empty() { Ok(()) } else { Err(NotAccepted::Invalid(problems)) }
    }

    /// Completes recipients from contacts. Addresses in the job win.
    async fn complete(&self, groups: &mut [Vec<Decoded>]) -> Result<(), StoreError> {
        let mut wanted: Vec<UserId> = groups
            .iter()
            .flatten()
            .flat_map(|decoded| &decoded.job.to)
            .filter(|recipient| is_incomplete(recipient))
            .map(|recipient| recipient.user_id.clone())
            .collect();
        if wanted.is_empty() || !self.store.has_contacts() {
            return Ok(());
        }
        wanted.sort_unstable();
        wanted.dedup();
        let contacts = self.store.contacts(wanted).await?;
        for recipient in groups.iter_mut().flatten().flat_map(|decoded| &mut decoded.job.to) {
            if let Some(contact) = contacts.get(&recipient.user_id) {
                complete(recipient, contact);
            }
        }
        Ok(())
    }

    /// Many recipients are expanded off the runtime's own threads.
    async fn prepare_all(self: &Arc<Self>, groups: Vec<Vec<Decoded>>, now: Timestamp) -> Result<Groups, StoreError> {
        let recipients: usize = groups.iter().flatten().map(|decoded| decoded.job.to.len()).sum();
        let jobs: usize = groups.iter().map(Vec::len).sum();
        let inner = self.clone();
        let prepare = move || {
            let mut stored_limit = STORED_LIMIT;
            let mut group = |jobs: Vec<Decoded>| jobs.into_iter().map(|decoded| inner.prepare(decoded, &mut stored_limit, now)).unzip();
            groups.into_iter().map(&mut group).unzip()
        };
        if recipients <= INLINE_LIMIT.max(jobs) {
            return Ok(prepare());
        }
        tokio::task::spawn_blocking(prepare).await.map_err(|panicked| StoreError::Read(panicked.to_string()))
    }

    /// `stored_limit` is lowered by the live notifications that are to be stored at once: to 0 by one that is not, so that none of a later
    /// job overtakes it.
    fn prepare(&self, decoded: Decoded, stored_limit: &mut usize, now: Timestamp) -> (NewJob, Prepared) {
        let Decoded { job, id, body_hash, traceparent, root } = decoded;
        let templates = self.templates.current();
        let available = match &job.template {
            Some(name) => templates.channels(name).unwrap_or_default(),
            None => Channel::ALL.into_iter().collect(),
        };
        let priority = job.priority.unwrap_or(Priority::Normal);
        let due_at = job.send_at.unwrap_or(now).max(now);
        let expires_at = PerChannel::from_fn(|channel| {
            let by_channel = due_at.saturating_add(self.channels.get(channel).expires);
            job.expires_at.map_or(by_channel, |expires_at| expires_at.min(by_channel))
        });
        let expanded = expand(Expand {
            recipients: &job.to,
            channels: &job.channels,
            available,
            topic: job.topic.as_ref(),
            push_topic: job.push_topic.as_deref(),
            push_condition: job.push_condition.as_deref(),
        });
        let planned = planned_by_channel(&expanded);
        let mut prepared = Prepared { root, priority, reservations: PerChannel::default(), drafts: Vec::new() };
        let envelope = Arc::new(Envelope {
            id,
            template: job.template,
            content: job.content,
            data: job.data,
            collapse_key: job.collapse_key,
            metadata: job.metadata,
            traceparent,
        });
        let key = DeliveryId::job_key(&envelope.id);
        let deliveries = if expanded.deliveries.len() > STEP {
            NewDeliveries::Later(to_json(&Plan {
                recipients: job.to,
                channels: job.channels,
                available: available.iter().collect(),
                push_topic: job.push_topic,
                push_condition: job.push_condition,
                priority,
                due_at,
                expires_at: Channel::ALL.map(|channel| expires_at[channel]).to_vec(),
            }))
        } else {
            prepared.reservations = self.reserve(priority, &planned, *stored_limit, due_at, now);
            let list = envelope.template.as_ref().and_then(|name| templates.unsubscribe_list(name));
            let mut rows = place(expanded.deliveries, priority, due_at, list.as_ref(), &expires_at, &prepared.reservations);
            prepared.drafts = self.draft(&mut rows, key, &envelope, &mut prepared.reservations[Channel::Live], now);
            let all_stored = prepared.drafts.len() == planned[Channel::Live] as usize || due_at > now;
            *stored_limit = if all_stored { *stored_limit - prepared.drafts.len() } else { 0 };
            NewDeliveries::Rows(rows)
        };
        let planned = planned.iter().filter(|(_, count)| **count > 0).map(|(channel, count)| (channel, *count)).collect();
        let document = to_json(&*envelope);
        (NewJob { key, body_hash, envelope, document, accepted_at: now, skipped: expanded.skipped, planned, deliveries }, prepared)
    }

    fn reserve(
        &self,
        priority: Priority,
        planned: &PerChannel<u32>,
        live_at_once: usize,
        due_at: Timestamp,
        now: Timestamp,
    ) -> PerChannel<Option<Reservation>> {
        PerChannel::from_fn(|channel| {
            let wanted = planned[channel] as usize;
            let at_once = if channel == Channel::Live { live_at_once } else { wanted };
            (due_at <= now && wanted > 0).then(|| self.lanes[channel].reserve(priority, wanted, at_once, now))
        })
    }

    /// Renders the live notifications that have a free slot, so that the commit of their rows is that of their items too.
    fn draft(
        &self,
        rows: &mut [NewDelivery],
        job_key: [u8; 12],
        envelope: &Arc<Envelope>,
        reservation: &mut Option<Reservation>,
        now: Timestamp,
    ) -> Vec<Draft> {
        let mut drafts = Vec::new();
        for (ordinal, row) in (0..).zip(rows) {
            if row.channel != Channel::Live || !matches!(row.placement, Placement::Sending { .. }) {
                continue;
            }
            if let Some((draft, placement)) = self.lanes[Channel::Live].draft(delivery(row, 0, ordinal, job_key, envelope), now) {
                drafts.push(draft);
                row.placement = placement;
            } else {
                let has_room = reservation.as_mut().is_some_and(Reservation::leave_a_slot);
                row.placement = if has_room { Placement::Leased } else { Placement::Waiting };
            }
        }
        drafts
    }

    /// After the commit: each delivery to where its row says it is. Those that are stored already come back, to be shown.
    fn hand_over(&self, job: &NewJob, num: i64, begun: Begun, mut prepared: Prepared, now: Timestamp) -> Vec<StoredDraft> {
        match &job.deliveries {
            NewDeliveries::Later(_) => {
                self.large_job.notify_one();
                Vec::new()
            }
            NewDeliveries::Rows(rows) => self.hand_over_rows(rows, num, 0, begun, job.key, &job.envelope, &mut prepared, now),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what a row needs to become a delivery again")]
    fn hand_over_rows(
        &self,
        rows: &[NewDelivery],
        job: i64,
        from: u32,
        begun: Begun,
        job_key: [u8; 12],
        envelope: &Arc<Envelope>,
        prepared: &mut Prepared,
        now: Timestamp,
    ) -> Vec<StoredDraft> {
        let mut shown = Vec::new();
        let Begun { suppressed, stored } = begun;
        let (mut drafts, mut stored) = (std::mem::take(&mut prepared.drafts).into_iter(), stored.into_iter());
        for (ordinal, row) in (from..).zip(rows) {
            let draft = if matches!(row.placement, Placement::Stored { .. }) { drafts.next() } else { None };
            // In order, as the rows are.
            if suppressed.binary_search(&ordinal).is_ok() {
                emit(&Event::DeliverySuppressed { delivery: &delivery(row, job, ordinal, job_key, envelope) });
                continue;
            }
            let reservation = prepared.reservations[row.channel].as_mut();
            match (&row.placement, reservation) {
                (Placement::Leased, Some(reservation)) => reservation.enqueue(delivery(row, job, ordinal, job_key, envelope)),
                (Placement::Sending { .. }, Some(reservation)) => reservation.start(delivery(row, job, ordinal, job_key, envelope), now),
                (Placement::Stored { .. }, Some(reservation)) => {
                    shown.extend(draft.zip(stored.next()).and_then(|(draft, stored)| reservation.stored(draft, job, stored)));
                }
                _ => self.lanes[row.channel].wake_at(prepared.priority, row.due_at),
            }
        }
        shown
    }
}

/// Our own types with string keys: they are always JSON.
fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn is_incomplete(recipient: &Recipient) -> bool {
    recipient.email.is_none()
        || recipient.phone.is_none()
        || recipient.push_tokens.is_empty()
        || recipient.locale.is_none()
        || recipient.timezone.is_none()
}

fn complete(recipient: &mut Recipient, contact: &Contact) {
    recipient.email = recipient.email.take().or_else(|| contact.email.clone());
    recipient.phone = recipient.phone.take().or_else(|| contact.phone.clone());
    recipient.locale = recipient.locale.take().or_else(|| contact.locale.clone());
    recipient.timezone = recipient.timezone.or(contact.timezone);
    if recipient.push_tokens.is_empty() {
        recipient.push_tokens = contact.push_tokens.iter().map(|entry| entry.token.clone()).collect();
    }
}
