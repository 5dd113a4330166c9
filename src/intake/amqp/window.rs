//! How many messages to ask for at once, so that their bodies stay within a limit of bytes. Pure.
//!
//! AMQP bounds what a consumer holds by messages alone. So a session begins with a prefetch that holds even for the largest jobs, and asks
//! anew when messages turn out smaller, or larger than is healthy.

/// The prefetch in force and what it is judged by.
#[derive(Debug)]
pub struct Window {
    prefetch: u16,
    /// As configured.
    most: u16,
    /// Bytes.
    limit: u64,
    /// Messages of the current count of `prefetch`.
    arrived: u32,
    /// Bytes of the largest of them.
    largest: u64,
    /// The consumer is being cancelled to begin again with this.
    changing: Option<u16>,
}

impl Window {
    /// `limit` bytes in all, and `message` for the largest that is expected.
    pub fn new(most: u16, limit: u64, message: u64) -> Self {
        Self { prefetch: fitting(most, limit, message), most, limit, arrived: 0, largest: 0, changing: None }
    }

    pub fn prefetch(&self) -> u16 {
        self.prefetch
    }

    pub fn arrived(&mut self, bytes: usize) {
        if self.arrived >= u32::from(self.prefetch) {
            (self.arrived, self.largest) = (0, 0);
        }
        self.arrived += 1;
        self.largest = self.largest.max(bytes as u64);
    }

    /// Whether to begin again with another prefetch; `held` bytes are not acknowledged.
    pub fn wants_change(&self, held: usize) -> bool {
        let fitting = fitting(self.most, self.limit, self.largest);
        let too_much = held as u64 > self.limit && fitting < self.prefetch;
        let seen_enough = self.arrived >= u32::from(self.prefetch);
        let far_off =
            fitting > self.prefetch.saturating_mul(2) || fitting < self.prefetch / 2 || (fitting == self.most && self.prefetch < self.most);
        self.changing.is_none() && (too_much || seen_enough && far_off)
    }

    /// The consumer is told to end.
    pub fn change(&mut self) {
        self.changing = Some(fitting(self.most, self.limit, self.largest));
    }

    pub fn is_changing(&self) -> bool {
        self.changing.is_some()
    }

    /// The consumer has ended; the next one begins with the new prefetch.
    pub fn changed(&mut self) {
        self.prefetch = self.changing.take().unwrap_or(self.prefetch);
        (self.arrived, self.largest) = (0, 0);
    }
}

fn fitting(most: u16, limit: u64, message: u64) -> u16 {
    u16::try_from(limit / message.max(1)).unwrap_or(u16::MAX).clamp(1, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// The prefetch after each of these messages, acknowledged at once.
    #[track_caller]
    fn check(messages: &[(usize, u64)], expected: &[u16]) {
        let mut window = Window::new(512, 64 * MIB, 4 * MIB);
        let mut seen = vec![window.prefetch()];
        for (count, bytes) in messages {
            for _ in 0..*count {
                window.arrived(usize::try_from(*bytes).unwrap());
                if window.wants_change(0) {
                    window.change();
                    assert!(!window.wants_change(usize::MAX), "one change at a time");
                    window.changed();
                    seen.push(window.prefetch());
                }
            }
        }
        assert_eq!(seen, expected);
    }

    #[test]
    fn it_follows_the_size_of_messages() {
        check(&[(15, 1000)], &[16]);
        check(&[(2000, 1000)], &[16, 512]);
        check(&[(200, 4 * MIB)], &[16]);
        check(&[(2000, 1000), (520, MIB), (10_000, 1000)], &[16, 512, 64, 512]);
        check(&[(100, 20 * MIB)], &[16, 3]);
    }

    #[test]
    fn too_much_at_once_is_answered_at_once() {
        let mut window = Window::new(512, 64 * MIB, MIB / 8);
        assert_eq!(window.prefetch(), 512);
        window.arrived(usize::try_from(20 * MIB).unwrap());
        assert!(!window.wants_change(usize::try_from(20 * MIB).unwrap()));
        assert!(window.wants_change(usize::try_from(80 * MIB).unwrap()));
        window.change();
        window.changed();
        assert_eq!(window.prefetch(), 3);
    }
}
