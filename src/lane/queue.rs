//! A lane's memory: bounded room per priority, and who is taken next. No I/O, no clock.

use std::collections::VecDeque;

use crate::model::{Delivery, Priority};

const PRIORITIES: usize = Priority::ALL.len();

/// Deliveries waiting in memory, with room of their own for each priority, taken by weight 16 : 4 : 1.
#[derive(Debug)]
pub struct Queue {
    waiting: [VecDeque<Delivery>; PRIORITIES],
    /// Room promised to deliveries whose commit is under way.
    reserved: [usize; PRIORITIES],
    credit: [u32; PRIORITIES],
    capacity: usize,
}

impl Queue {
    /// `capacity` deliveries of each priority.
    pub fn new(capacity: usize) -> Self {
        Self { waiting: Default::default(), reserved: [0; PRIORITIES], credit: Priority::ALL.map(Priority::weight), capacity }
    }

    pub fn len(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.iter().all(VecDeque::is_empty)
    }

    /// Room left for one priority.
    pub fn room(&self, priority: Priority) -> usize {
        let index = priority as usize;
        self.capacity.saturating_sub(self.waiting[index].len() + self.reserved[index])
    }

    /// Room promised, of all priorities.
    pub fn reserved(&self) -> usize {
        self.reserved.iter().sum()
    }

    /// Promises room for up to `wanted` deliveries; says for how many.
    pub fn reserve(&mut self, priority: Priority, wanted: usize) -> usize {
        let granted = wanted.min(self.room(priority));
        self.reserved[priority as usize] += granted;
        granted
    }

    /// Takes back a promise that was not used.
    pub fn release(&mut self, priority: Priority, reserved: usize) {
        let promised = &mut self.reserved[priority as usize];
        *promised = promised.saturating_sub(reserved);
    }

    /// Puts in a delivery whose room was reserved.
    pub fn push_reserved(&mut self, delivery: Delivery) {
        self.release(delivery.priority, 1);
        self.waiting[delivery.priority as usize].push_back(delivery);
    }

    /// The next delivery: by weight among the priorities that have one.
    pub fn pop(&mut self) -> Option<Delivery> {
        for _ in 0..2 {
            for index in 0..PRIORITIES {
                if self.credit[index] > 0
                    && let Some(delivery) = self.waiting[index].pop_front()
                {
                    self.credit[index] -= 1;
                    return Some(delivery);
                }
            }
            // Whoever has deliveries has used up its share: the next round begins.
            self.credit = Priority::ALL.map(Priority::weight);
        }
        None
    }

    pub fn clear(&mut self) {
        for waiting in &mut self.waiting {
            waiting.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Address, Channel, DeliveryId, DeliveryKey, Envelope, Timestamp};

    fn delivery(priority: Priority, ordinal: u32) -> Delivery {
        let envelope = Envelope {
            id: "job".parse().unwrap(),
            template: None,
            content: None,
            data: serde_json::Map::new(),
            collapse_key: None,
            metadata: std::collections::BTreeMap::new(),
            traceparent: None,
        };
        Delivery {
            key: DeliveryKey { job: 1, ordinal },
            id: DeliveryId::new([0; 12], ordinal),
            job: Arc::new(envelope),
            channel: Channel::Live,
            priority,
            user_id: None,
            address: Address::Inbox,
            locale: None,
            timezone: None,
            attempts: 0,
            pinned: None,
            due_at: Timestamp::from_millis(0),
            expires_at: Timestamp::FAR_FUTURE,
        }
    }

    fn fill(queue: &mut Queue, priority: Priority, count: u32) -> usize {
        let granted = queue.reserve(priority, count as usize);
        for ordinal in 0..granted {
            queue.push_reserved(delivery(priority, u32::try_from(ordinal).unwrap()));
        }
        granted
    }

    #[test]
    fn a_full_low_never_keeps_high_out() {
        let mut queue = Queue::new(10);
        assert_eq!(fill(&mut queue, Priority::Low, 50), 10);
        assert_eq!(queue.room(Priority::Low), 0);
        assert_eq!(fill(&mut queue, Priority::High, 3), 3);
        assert_eq!(queue.pop().map(|delivery| delivery.priority), Some(Priority::High));
    }

    #[test]
    fn a_busy_lane_takes_by_weight_and_starves_nobody() {
        let mut queue = Queue::new(1000);
        for priority in Priority::ALL {
            fill(&mut queue, priority, 1000);
        }
        let mut taken = [0; PRIORITIES];
        for _ in 0..210 {
            taken[queue.pop().unwrap().priority as usize] += 1;
        }
        assert_eq!(taken, [160, 40, 10]);
    }

    #[test]
    fn each_priority_keeps_its_order() {
        let mut queue = Queue::new(100);
        fill(&mut queue, Priority::Normal, 20);
        let order: Vec<u32> = std::iter::from_fn(|| queue.pop()).map(|delivery| delivery.key.ordinal).collect();
        assert_eq!(order, (0..20).collect::<Vec<_>>());
        assert!(queue.is_empty());
    }

    #[test]
    fn a_promise_not_used_frees_its_room() {
        let mut queue = Queue::new(5);
        assert_eq!(queue.reserve(Priority::High, 4), 4);
        assert_eq!(queue.reserve(Priority::High, 4), 1);
        queue.release(Priority::High, 5);
        assert_eq!(queue.room(Priority::High), 5);
    }
}
