//! One session with the broker: consume, decode, accept in batches, acknowledge after the commit, reject what is poison.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{FuturesOrdered, FuturesUnordered},
};
use lapin::{
    Channel, Connection, Consumer,
    message::Delivery,
    options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use sha2::{Digest as _, Sha256};

use super::{
    Shared,
    ledger::Ledger,
    message::{self, Poison},
    window::Window,
};
use crate::{
    accept::{NotAccepted, Receipt},
    amqp::{self, AmqpError, Purpose},
    config::IntakeConfig,
    intake::decode::Decoded,
    model::Timestamp,
    store::StoreError,
};

/// Messages accepted in one go.
const BATCH_LIMIT: usize = 256;
/// Batches being accepted at once: one commits while the next gathers.
const BATCHES: usize = 4;
/// From this many deliveries in vain on a message is processed alone, so that one that kills the process takes no other with it.
const SUSPICIOUS: u64 = 2;
/// Tries that a message gets alone, before it is what kills us.
const TRIES_ALONE: u32 = 10;
/// How long one message is taken at a time after one could not be read.
const CAREFUL_FOR: Duration = Duration::from_secs(5);
/// Bodies larger than this, all together, are decoded off the runtime's own threads.
const INLINE_DECODE_LIMIT: usize = 64 << 10;

/// A message and what became of it.
struct Dealt {
    arrived: Arrived,
    verdict: Verdict,
}

enum Verdict {
    /// Committed, now or earlier: acknowledge.
    Taken,
    Poison(Poison),
    /// Not together with others; alone it may be.
    Alone,
    /// Nothing can be taken at the moment.
    Later,
}

struct Arrived {
    delivery: Delivery,
    /// Only by itself, and counted.
    is_suspect: bool,
    /// Only by itself.
    is_alone: bool,
}

/// A rejected message's tag, once it is on the rejected queue.
type Rejecting = BoxFuture<'static, u64>;
type Batch = BoxFuture<'static, Vec<Dealt>>;

pub(super) struct Session {
    shared: Arc<Shared>,
    connection: Connection,
    channel: Channel,
    consumer: Consumer,
    ledger: Ledger,
    window: Window,
    /// One message at a time, and only for a while.
    is_careful: bool,
    host: String,
    /// Arrived and not begun.
    waiting: VecDeque<Arrived>,
    batches: FuturesOrdered<Batch>,
    /// The one batch is a message that must be alone.
    is_alone: bool,
    rejecting: FuturesUnordered<Rejecting>,
}

impl Session {
    /// Connects, declares, and begins to consume.
    pub async fn start(shared: &Arc<Shared>) -> Result<Self, AmqpError> {
        let broker = &shared.broker;
        let (connection, host) = broker.connect(Purpose::Consume).await?;
        let channel = broker.call("opening a channel", connection.create_channel()).await?;
        amqp::declare_jobs(broker, &channel).await?;
        let is_careful = shared.is_careful.load(Ordering::Relaxed);
        let prefetch = if is_careful { 1 } else { shared.prefetch };
        let window = Window::new(prefetch, shared.limits.in_flight_limit.as_u64(), shared.limits.job_limit.as_u64());
        let consumer = consume(shared, &channel, window.prefetch()).await?;
        if !is_careful {
            shared.link.connected(&host);
        }
        Ok(Self {
            is_careful,
            host,
            shared: shared.clone(),
            connection,
            channel,
            consumer,
            ledger: Ledger::default(),
            window,
            waiting: VecDeque::new(),
            batches: FuturesOrdered::new(),
            is_alone: false,
            rejecting: FuturesUnordered::new(),
        })
    }

    /// Works until the daemon stops or the store takes no more jobs. Anything else that ends it is an error.
    pub async fn run(mut self) -> Result<(), AmqpError> {
        let shared = self.shared.clone();
        let store_closed = shared.store.closed_to_jobs_changed(None);
        let careful_enough = tokio::time::sleep(CAREFUL_FOR);
        tokio::pin!(store_closed, careful_enough);
        loop {
            self.begin_batches();
            tokio::select! {
                biased;
                Some(batch) = self.batches.next(), if !self.batches.is_empty() => {
                    if !self.conclude(batch) {
                        break;
                    }
                    self.acknowledge().await?;
                }
                Some(tag) = self.rejecting.next(), if !self.rejecting.is_empty() => {
                    self.ledger.done(tag);
                    self.acknowledge().await?;
                }
                () = shared.stop.cancelled() => break,
                _ = &mut store_closed => break,
                () = &mut careful_enough, if self.is_careful => {
                    shared.is_careful.store(false, Ordering::Relaxed);
                    break;
                }
                arrived = self.consumer.next(), if self.waiting.len() < BATCH_LIMIT => self.arrived(arrived).await?,
            }
            self.shared.unacknowledged(self.ledger.open());
        }
        self.finish().await;
        Ok(())
    }

    /// Takes what arrived, and everything else that is already here.
    async fn arrived(&mut self, arrived: Option<lapin::Result<Delivery>>) -> Result<(), AmqpError> {
        let mut next = Some(arrived);
        while let Some(arrived) = next {
            match arrived {
                Some(Ok(delivery)) => {
                    self.ledger.arrived(delivery.delivery_tag, delivery.data.len());
                    self.window.arrived(delivery.data.len());
                    let is_suspect = message::delivery_count(&delivery.properties) >= SUSPICIOUS;
                    self.waiting.push_back(Arrived { delivery, is_suspect, is_alone: is_suspect });
                }
                Some(Err(error)) => return Err(AmqpError::from_lapin("consuming", &error)),
                // Nothing of it comes any more.
                None if self.window.is_changing() => {
                    self.window.changed();
                    self.consumer = consume(&self.shared, &self.channel, self.window.prefetch()).await?;
                }
                None => return Err(AmqpError::Cancelled),
            }
            next = if self.waiting.len() < BATCH_LIMIT { self.consumer.next().now_or_never() } else { None };
        }
        self.resize().await
    }

    /// Cancels the consumer when it should begin again with another prefetch; what has arrived is dealt with as ever.
    async fn resize(&mut self) -> Result<(), AmqpError> {
        if !self.window.wants_change(self.ledger.bytes()) {
            return Ok(());
        }
        self.window.change();
        let cancel = self.channel.basic_cancel(self.consumer.tag(), BasicCancelOptions::default());
        self.shared.broker.call("pausing", cancel).await
    }

    fn begin_batches(&mut self) {
        while !self.is_alone && self.batches.len() < BATCHES {
            let Some(first) = self.waiting.front() else { return };
            if first.is_alone {
                if self.batches.is_empty()
                    && let Some(arrived) = self.waiting.pop_front()
                {
                    self.is_alone = true;
                    self.batches.push_back(accept_alone(self.shared.clone(), arrived).boxed());
                }
                return;
            }
            let count = self.waiting.iter().take(BATCH_LIMIT).take_while(|arrived| !arrived.is_alone).count();
            let batch: Vec<Arrived> = self.waiting.drain(..count).collect();
            self.batches.push_back(accept(self.shared.clone(), batch).boxed());
        }
    }

    /// False when nothing can be taken at the moment.
    fn conclude(&mut self, batch: Vec<Dealt>) -> bool {
        self.is_alone = false;
        let mut again = Vec::new();
        let mut open = true;
        for Dealt { arrived, verdict } in batch {
            match verdict {
                Verdict::Taken => self.ledger.done(arrived.delivery.delivery_tag),
                Verdict::Poison(poison) => self.rejecting.push(reject(self.shared.clone(), arrived, poison).boxed()),
                Verdict::Alone => again.push(Arrived { is_alone: true, ..arrived }),
                Verdict::Later => open = false,
            }
        }
        again.into_iter().rev().for_each(|arrived| self.waiting.push_front(arrived));
        open
    }

    async fn acknowledge(&mut self) -> Result<(), AmqpError> {
        for ack in self.ledger.acks() {
            let options = BasicAckOptions { multiple: ack.multiple };
            self.shared.broker.call("acknowledging", self.channel.basic_ack(ack.tag, options)).await?;
            if self.is_careful {
                self.shared.link.connected(&self.host);
            }
            fail::fail_point!("amqp-acknowledged");
        }
        Ok(())
    }

    /// What has begun is finished and acknowledged; the rest goes back to the queue with the connection.
    async fn finish(mut self) {
        // Before anything else, so that nothing more arrives.
        let cancel = self.channel.basic_cancel(self.consumer.tag(), BasicCancelOptions { nowait: true });
        let _ = self.shared.broker.call("ending", cancel).await;
        while let Some(batch) = self.batches.next().await {
            self.conclude(batch);
        }
        // What is being rejected already may take as long as a call; what it leaves is rejected again.
        let _ = tokio::time::timeout(self.shared.finish_limit, async {
            while let Some(tag) = self.rejecting.next().await {
                self.ledger.done(tag);
            }
        })
        .await;
        if self.acknowledge().await.is_ok() {
            let _ = self.shared.broker.call("closing", self.connection.close(200, "done".into())).await;
        }
        self.shared.unacknowledged(0);
    }
}

async fn consume(shared: &Shared, channel: &Channel, prefetch: u16) -> Result<Consumer, AmqpError> {
    shared.broker.call("setting the prefetch", channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
    let consume = channel.basic_consume(amqp::JOBS.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default());
    shared.broker.call("consuming tarishi.jobs", consume).await
}

/// Takes a batch in one commit.
async fn accept(shared: Arc<Shared>, batch: Vec<Arrived>) -> Vec<Dealt> {
    // For tests: a message that kills whoever works on it.
    fail::fail_point!(
        "amqp-killer",
        batch.iter().any(|arrived| arrived.delivery.properties.app_id().as_ref().is_some_and(|name| name.as_str() == "killer")),
        |_| Vec::new()
    );
    let bytes: usize = batch.iter().map(|arrived| arrived.delivery.data.len()).sum();
    let (batch, read) = if bytes > INLINE_DECODE_LIMIT.max(batch.len() * INLINE_DECODE_LIMIT / 16) {
        let limits = shared.limits.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let read = read_all(&batch, &limits);
            (batch, read)
        });
        match reading.await {
            Ok(read) => read,
            // The runtime ends; the broker has them still.
            Err(_) => return Vec::new(),
        }
    } else {
        let read = read_all(&batch, &shared.limits);
        (batch, read)
    };
    let mut groups = Vec::with_capacity(batch.len());
    let read: Vec<Result<(), Poison>> = read.into_iter().map(|read| read.map(|jobs| groups.push(jobs))).collect();
    let is_lone = groups.len() == 1;
    let mut answers = if groups.is_empty() { Vec::new() } else { shared.acceptor.accept_each(groups).await }.into_iter();
    let dealt = |(arrived, read): (Arrived, Result<(), Poison>)| {
        let verdict = match read {
            Err(poison) => Verdict::Poison(poison),
            Ok(()) => verdict(answers.next(), is_lone),
        };
        Dealt { arrived, verdict }
    };
    batch.into_iter().zip(read).map(dealt).collect()
}

fn read_all(batch: &[Arrived], limits: &IntakeConfig) -> Vec<Result<Vec<Decoded>, Poison>> {
    let now = Timestamp::now();
    let read = |arrived: &Arrived| {
        let Delivery { data, properties, .. } = &arrived.delivery;
        catch_unwind(AssertUnwindSafe(|| message::read(data, properties, limits, now)))
            .unwrap_or_else(|_| Err(Poison::new("decoder_panicked", "$", "a bug in the decoder", "please report it, with the message")))
    };
    batch.iter().map(read).collect()
}

fn verdict(answer: Option<Result<Vec<Receipt>, NotAccepted>>, is_lone: bool) -> Verdict {
    match answer {
        Some(Ok(_)) => Verdict::Taken,
        Some(Err(refused)) => match (message::never_taken(&refused), refused) {
            (Some(poison), _) => Verdict::Poison(poison),
            // One of them cannot be written: it shows when each is written alone.
            (None, NotAccepted::Store(StoreError::Refused(_))) if !is_lone => Verdict::Alone,
            (None, NotAccepted::Store(StoreError::Refused(reason))) => {
                Verdict::Poison(Poison::new("refused_by_store", "$", reason, "please report it, with the message"))
            }
            (None, _) => Verdict::Later,
        },
        None => Verdict::Later,
    }
}

/// A message that came back too often, or that the store refused among others. Each try of a suspect is counted before it begins, in the
/// store: it may be the last thing this process does.
async fn accept_alone(shared: Arc<Shared>, arrived: Arrived) -> Vec<Dealt> {
    if !arrived.is_suspect {
        return accept(shared, vec![arrived]).await;
    }
    let key = fingerprint(&arrived.delivery);
    match shared.store.begin_alone(key).await {
        Err(_) => return vec![Dealt { arrived, verdict: Verdict::Later }],
        Ok(tries) if tries > TRIES_ALONE => {
            let problem = format!("the process ended {TRIES_ALONE} times while it worked on this message alone");
            let hint = "please report it, with the message; requeue it when the cause is mended";
            let verdict = Verdict::Poison(Poison::new("killed_worker", "$", problem, hint));
            return vec![Dealt { arrived, verdict }];
        }
        Ok(_) => {}
    }
    let dealt = accept(shared.clone(), vec![arrived]).await;
    if dealt.iter().all(|dealt| !matches!(dealt.verdict, Verdict::Later)) {
        // It ended, and so did not kill us. Should this be lost, the count is forgotten with age.
        let _ = shared.store.end_alone(key).await;
    }
    dealt
}

async fn reject(shared: Arc<Shared>, arrived: Arrived, poison: Poison) -> u64 {
    shared.rejecter.reject(&arrived.delivery, &poison).await;
    fail::fail_point!("amqp-rejected");
    if poison.reason == "killed_worker" {
        // Requeued by a person it has its tries again.
        let _ = shared.store.end_alone(fingerprint(&arrived.delivery)).await;
    }
    arrived.delivery.delivery_tag
}

/// The same message again, whichever queue and tag it comes with.
fn fingerprint(delivery: &Delivery) -> [u8; 32] {
    let id = delivery.properties.message_id().as_ref().map_or("", lapin::types::ShortString::as_str);
    Sha256::new().chain_update(id.len().to_be_bytes()).chain_update(id).chain_update(&delivery.data).finalize().into()
}
