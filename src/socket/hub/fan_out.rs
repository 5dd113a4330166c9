//! Tasks that write one frame to the many followers of a topic or a conversation, each to its share of them.
//!
//! Whoever publishes goes on at once. What is published while a round is under way goes out together in the next one: the busier a stream,
//! the more frames in one write. Should a frame overtake another here, the followers read the one they miss from the store.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::{Bytes, BytesMut};
use indexmap::IndexMap;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Frame, Hub, HubLimits, frame::HEAD_LIMIT, queue::lock};
use crate::model::Stream;

/// With no more followers than this, waking their sessions is as good, and lets them gather frames by themselves.
const FEW: usize = 32;
/// Sockets written to before others get their turn on this thread; the kernel takes about 10 µs for each.
const TURN: usize = 64;
/// Bytes written to one socket at once, or one frame.
const BATCH_LIMIT: usize = 64 << 10;

pub(super) struct FanOut {
    workers: Box<[Worker]>,
    pub running: AtomicUsize,
    /// Frames of one stream that may wait.
    frames_limit: usize,
}

#[derive(Default)]
struct Worker {
    /// In the order in which they came.
    waiting: Mutex<IndexMap<Stream, Vec<Arc<Frame>>>>,
    filled: Notify,
}

impl FanOut {
    pub fn new(limits: &HubLimits) -> Self {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            workers: (0..workers).map(|_| Worker::default()).collect(),
            running: AtomicUsize::new(0),
            frames_limit: limits.send_queue_frames.max(2),
        }
    }

    /// Whether a stream with so many followers is for the workers.
    pub fn takes(&self, followers: usize) -> bool {
        followers > FEW && self.running.load(Relaxed) == self.workers.len()
    }

    pub fn push(&self, stream: &Stream, frame: &Arc<Frame>) {
        for worker in &self.workers {
            let mut waiting = lock(&worker.waiting);
            match waiting.get_mut(stream) {
                Some(frames) if frames.len() < self.frames_limit => frames.push(frame.clone()),
                // The workers are far behind: the newest says only where the stream is, and the followers read.
                Some(frames) => {
                    let hint = frame.place.clone().map(|place| Arc::new(Frame::hint(place)));
                    frames.pop();
                    frames.push(hint.unwrap_or_else(|| frame.clone()));
                }
                None => drop(waiting.insert(stream.clone(), vec![frame.clone()])),
            }
            drop(waiting);
            worker.filled.notify_one();
        }
    }
}

/// A future for each worker.
pub(super) fn workers(hub: &Hub, stop: &CancellationToken) -> impl Iterator<Item = impl Future<Output = ()> + Send + use<>> + use<> {
    let (hub, stop) = (hub.clone(), stop.clone());
    (0..hub.shared.fan_out.workers.len()).map(move |number| run(hub.clone(), number, stop.clone()))
}

async fn run(hub: Hub, number: usize, stop: CancellationToken) {
    let _running = Running::begin(&hub.shared.fan_out.running);
    let worker = &hub.shared.fan_out.workers[number];
    loop {
        let next = lock(&worker.waiting).shift_remove_index(0);
        if let Some((stream, frames)) = next {
            write(&hub, number, &stream, &frames).await;
            continue;
        }
        tokio::select! {
            () = worker.filled.notified() => {}
            () = stop.cancelled() => return,
        }
    }
}

struct Running<'r>(&'r AtomicUsize);

impl<'r> Running<'r> {
    fn begin(running: &'r AtomicUsize) -> Self {
        running.fetch_add(1, Relaxed);
        Self(running)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// To one worker's share of the followers.
async fn write(hub: &Hub, number: usize, stream: &Stream, frames: &[Arc<Frame>]) {
    let Some(followers) = hub.followers(stream) else { return };
    let mut turn = 0;
    for (batch, wire) in batches(frames) {
        for queue in followers.iter().skip(number).step_by(hub.shared.fan_out.workers.len()) {
            queue.write(batch, &wire);
            turn += 1;
            if turn % TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// As many frames at once as fit, with all of them as they go over the wire.
fn batches(mut frames: &[Arc<Frame>]) -> impl Iterator<Item = (&[Arc<Frame>], Bytes)> {
    std::iter::from_fn(move || {
        let mut size = 0;
        let fits = frames.iter().take_while(|frame| {
            size += HEAD_LIMIT + frame.text.len();
            size <= BATCH_LIMIT
        });
        let count = fits.count().max(1).min(frames.len());
        let (batch, rest) = frames.split_at_checked(count).filter(|(batch, _)| !batch.is_empty())?;
        frames = rest;
        let wire = match batch {
            [frame] => frame.wire().clone(),
            batch => {
                let mut wire = BytesMut::with_capacity(size.min(BATCH_LIMIT));
                for frame in batch {
                    frame.write_to(&mut wire);
                }
                wire.freeze()
            }
        };
        Some((batch, wire))
    })
}
