//! Check, commit, hand to the lanes. Everything that comes in becomes deliveries here, whatever brought it.
//!
//! A job is acknowledged only after its commit. What the commit wrote as leased goes straight from memory to its lane.

use std::{borrow::Cow, sync::Arc};

use serde::Serialize;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::ChannelsConfig,
    event::{Event, emit},
    intake::{
        decode::Decoded,
        expand::{Expand, Expanded, Planned, expand},
    },
    lane::{Lane, Reservation},
    model::{
        Channel, ChannelSet, Contact, Delivery, DeliveryId, DeliveryKey, Envelope, JobId, PerChannel, Priority, Problem, Recipient,
        Skipped, TemplateName, Timestamp, UserId,
    },
    store::{Accepted, Conflicts, Expansion, NewDeliveries, NewDelivery, NewJob, Placement, Plan, Step, Store, StoreError},
    template::Shelf,
};

/// Deliveries written in accept's own commit, and in each step of a larger job.
pub const STEP: usize = 1000;

/// How long to wait before asking a store again that failed.
const STORE_RETRY: std::time::Duration = std::time::Duration::from_secs(1);
/// Recipients expanded on the runtime's own threads.
const INLINE_LIMIT: usize = 200;

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
}

impl Inner {
    /// Makes the deliveries of large jobs, a step at a time, until the daemon stops.
    async fn expand_large_jobs(&self) {
        loop {
            let next = tokio::select! {
                next = self.store.next_expansion() => next,
                () = self.stop.cancelled() => return,
            };
            let worked = match next {
                Ok(Some(expansion)) => self.expand_large(expansion).await,
                Ok(None) => {
                    tokio::select! {
                        () = self.large_job.notified() => continue,
                        () = self.stop.cancelled() => return,
                    }
                }
                Err(error) => Err(error),
            };
            if let Err(error) = worked {
                emit(&Event::StoreFailed { doing: "making a large job's deliveries; trying again", error: &error.to_string() });
                tokio::select! {
                    () = tokio::time::sleep(STORE_RETRY) => {}
                    () = self.stop.cancelled() => return,
                }
            }
        }
    }

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
        let (new_jobs, mut prepared) = self.prepare_all(groups, now).await?;
        let new_jobs = Arc::new(new_jobs);
        let lease = self.store.lease_until(now.saturating_add(self.lease));
        let answers = self.store.accept_all(new_jobs.clone(), lease).await?;
        fail::fail_point!("accept-committed");
        let answer = |((answer, jobs), prepared): ((_, &Vec<NewJob>), Vec<Prepared>)| match answer {
            Ok(accepted) => Ok(self.receipts(jobs, prepared, accepted, now)),
            Err(Conflicts(places)) => Err(NotAccepted::Conflict(places.into_iter().map(|at| conflict(&prepared[at], &jobs[at])).collect())),
        };
        Ok(answers.into_iter().zip(new_jobs.iter()).zip(prepared.drain(..)).map(answer).collect())
    }

    fn receipts(&self, jobs: &[NewJob], prepared: Vec<Prepared>, accepted: Vec<Accepted>, now: Timestamp) -> Vec<Receipt> {
        let receipt = |((job, prepared), accepted): ((&NewJob, Prepared), Accepted)| {
            let id = job.envelope.id.clone();
            match accepted {
                Accepted::Repeat { deliveries, skipped } => {
                    emit(&Event::JobRepeated { job: &id });
                    Receipt { id, deliveries, repeated: true, skipped }
                }
                Accepted::New { num, suppressed } => {
                    let deliveries = job.planned.iter().map(|(_, count)| count).sum();
                    let template = job.envelope.template.as_ref().map(TemplateName::as_str);
                    let traceparent = job.envelope.traceparent.as_deref();
                    emit(&Event::JobAccepted { job: &id, template, deliveries, skipped: job.skipped.len(), traceparent });
                    self.hand_over(job, num, &suppressed, prepared, now);
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
            let group = |jobs: Vec<Decoded>| jobs.into_iter().map(|decoded| inner.prepare(decoded, now)).unzip();
            groups.into_iter().map(group).unzip()
        };
        if recipients <= INLINE_LIMIT.max(jobs) {
            return Ok(prepare());
        }
        tokio::task::spawn_blocking(prepare).await.map_err(|panicked| StoreError::Read(panicked.to_string()))
    }

    fn prepare(&self, decoded: Decoded, now: Timestamp) -> (NewJob, Prepared) {
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
        let mut prepared = Prepared { root, priority, reservations: PerChannel::default() };
        let envelope = Arc::new(Envelope {
            id,
            template: job.template,
            content: job.content,
            data: job.data,
            collapse_key: job.collapse_key,
            metadata: job.metadata,
            traceparent,
        });
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
            prepared.reservations = self.reserve(priority, &planned, due_at, now);
            let list = envelope.template.as_ref().and_then(|name| templates.unsubscribe_list(name));
            NewDeliveries::Rows(place(expanded.deliveries, priority, due_at, list.as_ref(), &expires_at, &prepared.reservations))
        };
        let key = DeliveryId::job_key(&envelope.id);
        let planned = planned.iter().filter(|(_, count)| **count > 0).map(|(channel, count)| (channel, *count)).collect();
        let document = to_json(&*envelope);
        (NewJob { key, body_hash, envelope, document, accepted_at: now, skipped: expanded.skipped, planned, deliveries }, prepared)
    }

    fn reserve(&self, priority: Priority, planned: &PerChannel<u32>, due_at: Timestamp, now: Timestamp) -> PerChannel<Option<Reservation>> {
        PerChannel::from_fn(|channel| {
            (due_at <= now && planned[channel] > 0).then(|| self.lanes[channel].reserve(priority, planned[channel] as usize, now))
        })
    }

    /// After the commit: each delivery to where its row says it is.
    fn hand_over(&self, job: &NewJob, num: i64, suppressed: &[u32], mut prepared: Prepared, now: Timestamp) {
        match &job.deliveries {
            NewDeliveries::Later(_) => self.large_job.notify_one(),
            NewDeliveries::Rows(rows) => self.hand_over_rows(rows, num, 0, suppressed, job.key, &job.envelope, &mut prepared, now),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what a row needs to become a delivery again")]
    fn hand_over_rows(
        &self,
        rows: &[NewDelivery],
        job: i64,
        from: u32,
        suppressed: &[u32],
        job_key: [u8; 12],
        envelope: &Arc<Envelope>,
        prepared: &mut Prepared,
        now: Timestamp,
    ) {
        for (ordinal, row) in (from..).zip(rows) {
            // In order, as the rows are.
            if suppressed.binary_search(&ordinal).is_ok() {
                emit(&Event::DeliverySuppressed { delivery: &delivery(row, job, ordinal, job_key, envelope) });
                continue;
            }
            let reservation = prepared.reservations[row.channel].as_mut();
            match (row.placement, reservation) {
                (Placement::Leased, Some(reservation)) => reservation.enqueue(delivery(row, job, ordinal, job_key, envelope)),
                (Placement::Sending { .. }, Some(reservation)) => reservation.start(delivery(row, job, ordinal, job_key, envelope), now),
                _ => self.lanes[row.channel].wake_at(prepared.priority, row.due_at),
            }
        }
    }

    /// One large job to its end, from its cursor on.
    async fn expand_large(&self, expansion: Expansion) -> Result<(), StoreError> {
        let expanded = tokio::task::spawn_blocking(move || (expand(expand_of(&expansion.plan)), expansion)).await;
        let (expanded, expansion) = expanded.map_err(|panicked| StoreError::Read(panicked.to_string()))?;
        if expanded.deliveries.len() != expansion.planned as usize {
            let (found, planned) = (expanded.deliveries.len(), expansion.planned);
            return Err(StoreError::Read(format!("job {}: its plan makes {found} deliveries, not {planned}", expansion.envelope.id)));
        }
        let plan = &expansion.plan;
        let expires_at = PerChannel::from_fn(|channel| plan.expires_at.get(channel as usize).copied().unwrap_or(Timestamp::FAR_FUTURE));
        let job_key = DeliveryId::job_key(&expansion.envelope.id);
        let mut made = expansion.made as usize;
        while made < expanded.deliveries.len() && !self.stop.is_cancelled() {
            let step = &expanded.deliveries[made..(made + STEP).min(expanded.deliveries.len())];
            let now = Timestamp::now();
            let mut planned = PerChannel::default();
            for delivery in step {
                planned[delivery.channel] += 1;
            }
            let reservations = self.reserve(plan.priority, &planned, plan.due_at, now);
            let mut prepared = Prepared { root: Cow::Borrowed("$"), priority: plan.priority, reservations };
            let list = expansion.envelope.template.as_ref().and_then(|name| self.templates.current().unsubscribe_list(name));
            let rows = place(step.to_vec(), plan.priority, plan.due_at, list.as_ref(), &expires_at, &prepared.reservations);
            let from = u32::try_from(made).unwrap_or(u32::MAX);
            let lease = self.store.lease_until(now.saturating_add(self.lease));
            let collapse_key = expansion.envelope.collapse_key.clone();
            match self.store.make_deliveries(expansion.job, from, rows.clone(), collapse_key, lease).await? {
                Step::Made { suppressed } => {
                    self.hand_over_rows(&rows, expansion.job, from, &suppressed, job_key, &expansion.envelope, &mut prepared, now);
                }
                // None of them may begin: what was reserved for them is free again.
                Step::MadeCancelled => {}
                Step::Moved => return Ok(()),
            }
            made += rows.len();
        }
        Ok(())
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

fn expand_of(plan: &Plan) -> Expand<'_> {
    Expand {
        recipients: &plan.recipients,
        channels: &plan.channels,
        available: plan.available.iter().copied().collect::<ChannelSet>(),
        // A topic is one delivery: never a large job.
        topic: None,
        push_topic: plan.push_topic.as_deref(),
        push_condition: plan.push_condition.as_deref(),
    }
}

fn planned_by_channel(expanded: &Expanded) -> PerChannel<u32> {
    let mut planned = PerChannel::default();
    for delivery in &expanded.deliveries {
        planned[delivery.channel] += 1;
    }
    planned
}

/// Rows for `deliveries`: free slots first, then room in memory, the rest waits in the store.
fn place(
    deliveries: Vec<Planned>,
    priority: Priority,
    due_at: Timestamp,
    list: Option<&Arc<str>>,
    expires_at: &PerChannel<Timestamp>,
    reservations: &PerChannel<Option<Reservation>>,
) -> Vec<NewDelivery> {
    let mut slots = PerChannel::from_fn(|channel| reservations[channel].as_ref().map_or(0, Reservation::slots));
    let mut room = PerChannel::from_fn(|channel| reservations[channel].as_ref().map_or(0, Reservation::room));
    let now = Timestamp::now();
    deliveries
        .into_iter()
        .map(|planned| {
            let channel = planned.channel;
            let placement = match &reservations[channel] {
                // The gate that refuses what has expired is not passed on this way.
                Some(reservation) if slots[channel] > 0 && expires_at[channel] > now => {
                    slots[channel] -= 1;
                    Placement::Sending { provider: reservation.provider() }
                }
                Some(_) if room[channel] > 0 => {
                    room[channel] -= 1;
                    Placement::Leased
                }
                _ => Placement::Waiting,
            };
            NewDelivery {
                channel,
                priority,
                user_id: planned.user_id,
                address: planned.address,
                locale: planned.locale,
                timezone: planned.timezone,
                list: list.cloned(),
                due_at,
                expires_at: expires_at[channel],
                placement,
            }
        })
        .collect()
}

fn delivery(row: &NewDelivery, job: i64, ordinal: u32, job_key: [u8; 12], envelope: &Arc<Envelope>) -> Delivery {
    Delivery {
        key: DeliveryKey { job, ordinal },
        id: DeliveryId::new(job_key, ordinal),
        job: envelope.clone(),
        channel: row.channel,
        priority: row.priority,
        user_id: row.user_id.clone(),
        address: row.address.clone(),
        locale: row.locale.clone(),
        timezone: row.timezone,
        attempts: 0,
        pinned: None,
        due_at: row.due_at,
        expires_at: row.expires_at,
    }
}
