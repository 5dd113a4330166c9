//! Making the deliveries of large jobs, a step at a time, behind everything else.

use std::borrow::Cow;

use super::{Inner, Prepared, STEP, rows::place};
use crate::{
    event::{Event, emit},
    intake::expand::{Expand, expand},
    model::{ChannelSet, DeliveryId, PerChannel, Timestamp},
    store::{Expansion, Plan, Step, StoreError},
};

/// How long to wait before asking a store again that failed.
const STORE_RETRY: std::time::Duration = std::time::Duration::from_secs(1);

impl Inner {
    /// Makes the deliveries of large jobs, a step at a time, until the daemon stops.
    pub(super) async fn expand_large_jobs(&self) {
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
            let reservations = self.reserve(plan.priority, &planned, 0, plan.due_at, now);
            let mut prepared = Prepared { root: Cow::Borrowed("$"), priority: plan.priority, reservations, drafts: Vec::new() };
            let list = expansion.envelope.template.as_ref().and_then(|name| self.templates.current().unsubscribe_list(name));
            let rows = place(step.to_vec(), plan.priority, plan.due_at, list.as_ref(), &expires_at, &prepared.reservations);
            let from = u32::try_from(made).unwrap_or(u32::MAX);
            let lease = self.store.lease_until(now.saturating_add(self.lease));
            let collapse_key = expansion.envelope.collapse_key.clone();
            match self.store.make_deliveries(expansion.job, from, rows.clone(), collapse_key, lease).await? {
                Step::Made { begun } => {
                    // None of its live notifications is shown here: they are left to the lane.
                    self.hand_over_rows(&rows, expansion.job, from, begun, job_key, &expansion.envelope, &mut prepared, now);
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
