//! A client process: many sockets on one thread, opened, counted and timed as the parent orders.
//!
//! As cheap as can be, since it runs on the machine of the server it measures: one epoll, one read buffer, frames parsed where they lie.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind},
    mem,
    net::{Ipv4Addr, SocketAddr},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, Waker};
use tarishi::{model::Timestamp, socket::sign_development_token};

use crate::{
    Fallible,
    connection::{Connection, Turn, request},
    frame::{Mark, now_nanos, sequence},
    order::{Answer, Connect, Expect, Order, Received},
};

const ORDERS: Token = Token(usize::MAX);
const EVENTS: usize = 1024;
const READ_BUFFER: usize = 64 * 1024;
/// Loopback addresses that one process comes from.
const SOURCES: usize = 16;
/// A run of more deliveries than this is a mistake.
const PLACES_LIMIT: u64 = 50_000_000;
const TOKEN_LIFETIME: Duration = Duration::from_hours(2);

pub fn run() -> Fallible<()> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), ORDERS)?;
    let (sender, orders) = mpsc::channel();
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            if sender.send(Some(line)).is_err() || waker.wake().is_err() {
                return;
            }
        }
        let _ended = (sender.send(None), waker.wake());
    });
    let buffer = vec![0; READ_BUFFER];
    let worker = Worker {
        poll,
        buffer,
        connections: Vec::new(),
        prepared: None,
        connecting: None,
        counting: None,
        awaiting: None,
        ended: (0, None),
    };
    worker.run(&orders)
}

struct Worker {
    poll: Poll,
    buffer: Vec<u8>,
    connections: Vec<Connection>,
    prepared: Option<Connecting>,
    connecting: Option<Connecting>,
    counting: Option<Counting>,
    awaiting: Option<(u64, Instant)>,
    /// Open sockets that ended, and what the first was told.
    ended: (u64, Option<String>),
}

impl Worker {
    fn run(mut self, orders: &mpsc::Receiver<Option<String>>) -> Fallible<()> {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            let deadlines = [self.connecting.as_ref().map(|connecting| connecting.deadline), self.awaiting.map(|(_, deadline)| deadline)];
            let timeout = deadlines.into_iter().flatten().min().map(|deadline| deadline.saturating_duration_since(Instant::now()));
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            for event in &events {
                if event.token() == ORDERS {
                    for order in orders.try_iter() {
                        let Some(order) = order else { return Ok(()) };
                        self.obey(serde_json::from_str(&order)?)?;
                    }
                } else {
                    self.turn(event.token().0, event.is_read_closed());
                }
            }
            self.connect()?;
            self.report()?;
        }
    }

    fn obey(&mut self, order: Order) -> Fallible<()> {
        match order {
            Order::Prepare(connect) => {
                self.prepared = Some(Connecting::prepare(&connect)?);
                answer(&Answer::Ready)?;
            }
            Order::Connect { seconds } => {
                let prepared = self.prepared.take().ok_or("nothing is prepared")?;
                let now = Instant::now();
                self.connecting = Some(Connecting { started: now, deadline: now + Duration::from_secs(seconds), ..prepared });
            }
            Order::Expect(expect) => {
                self.counting = Some(Counting::new(expect)?);
                answer(&Answer::Ready)?;
            }
            Order::Await { received, millis } => self.awaiting = Some((received, Instant::now() + Duration::from_millis(millis))),
            Order::Collect => {
                let counting = self.counting.take().ok_or("nothing is expected")?;
                let (ended, ending) = mem::take(&mut self.ended);
                answer(&Answer::Received(Received { ended, ending, ..counting.received() }))?;
            }
        }
        Ok(())
    }

    fn turn(&mut self, index: usize, closed: bool) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let counting = &mut self.counting;
        let turned = connection.turn(closed, &mut self.buffer, &mut |user, last_sequence, payload| {
            if let Some(counting) = counting {
                counting.count(user, last_sequence, payload);
            }
        });
        match (turned, &mut self.connecting) {
            (Turn::Opened, Some(connecting)) => {
                connecting.opened += 1;
                connecting.pending -= 1;
            }
            (Turn::Failed(why), Some(connecting)) => {
                connecting.pending -= 1;
                connecting.fail(why);
            }
            (Turn::Ended(why), _) => {
                self.ended.0 += 1;
                self.ended.1.get_or_insert(why);
            }
            // Of handshakes that were given up.
            (Turn::Same | Turn::Opened | Turn::Failed(_), _) => {}
        }
    }

    /// Keeps as many handshakes under way as there may be.
    fn connect(&mut self) -> Fallible<()> {
        let Some(connecting) = &mut self.connecting else { return Ok(()) };
        while connecting.pending < connecting.in_flight
            && let Some((user, request)) = connecting.waiting.pop_front()
        {
            let index = self.connections.len();
            match Connection::open(connecting.address, connecting.source(index), user, request) {
                Ok(mut connection) => {
                    self.poll.registry().register(&mut connection.stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
                    self.connections.push(connection);
                    connecting.pending += 1;
                }
                Err(error) => connecting.fail(error.to_string()),
            }
        }
        Ok(())
    }

    /// Says what has come to its end.
    fn report(&mut self) -> Fallible<()> {
        let now = Instant::now();
        if let Some(connecting) = self.connecting.take_if(|connecting| connecting.is_done(now)) {
            answer(&connecting.connected(now))?;
        }
        let received = self.counting.as_ref().map_or(0, |counting| counting.received);
        if self.awaiting.take_if(|(awaited, deadline)| received >= *awaited || *deadline <= now).is_some() {
            answer(&Answer::Counted { received })?;
        }
        Ok(())
    }
}

fn answer(answer: &Answer) -> Fallible<()> {
    println!("{}", serde_json::to_string(answer)?);
    Ok(())
}

/// Handshakes to make, and those under way.
struct Connecting {
    address: SocketAddr,
    source: [u8; 2],
    in_flight: usize,
    waiting: VecDeque<(u64, Vec<u8>)>,
    pending: usize,
    opened: u64,
    failed: u64,
    failure: Option<String>,
    started: Instant,
    deadline: Instant,
}

impl Connecting {
    /// Signs the tokens, so that connecting costs what it costs and no more.
    fn prepare(order: &Connect) -> Fallible<Self> {
        let secret = order.secret.clone().into();
        let mut waiting = VecDeque::new();
        for number in 0..order.count {
            let user = order.first + number * order.every;
            let mut target = order.target.replace("{user}", &user.to_string());
            if target.contains("{token}") {
                let token = sign_development_token(&secret, None, &user.to_string().parse()?, TOKEN_LIFETIME, Timestamp::now());
                target = target.replace("{token}", &token);
            }
            waiting.push_back((user, request(&target, order.address)));
        }
        let (address, source, in_flight, now) = (order.address, order.source, order.in_flight, Instant::now());
        Ok(Self { address, source, in_flight, waiting, pending: 0, opened: 0, failed: 0, failure: None, started: now, deadline: now })
    }

    fn source(&self, index: usize) -> Ipv4Addr {
        Ipv4Addr::new(127, self.source[0], self.source[1], u8::try_from(index % SOURCES + 1).unwrap_or(1))
    }

    fn fail(&mut self, why: String) {
        self.failed += 1;
        self.failure.get_or_insert(why);
    }

    fn is_done(&self, now: Instant) -> bool {
        self.pending == 0 && self.waiting.is_empty() || self.deadline <= now
    }

    fn connected(mut self, now: Instant) -> Answer {
        let unfinished = (self.pending + self.waiting.len()) as u64;
        if unfinished > 0 {
            self.fail("no answer in time".to_owned());
            self.failed += unfinished - 1;
        }
        Answer::Connected { opened: self.opened, seconds: (now - self.started).as_secs_f64(), failed: self.failed, failure: self.failure }
    }
}

/// Messages of one run.
struct Counting {
    expect: Expect,
    /// By place in the run: microseconds from sending, 0 for not received.
    latencies: Vec<u32>,
    received: u64,
    doubled: u64,
    strayed: u64,
    sequence_faults: u64,
}

impl Counting {
    fn new(expect: Expect) -> Fallible<Self> {
        let places = usize::try_from(expect.places().min(PLACES_LIMIT))?;
        Ok(Self { expect, latencies: vec![0; places], received: 0, doubled: 0, strayed: 0, sequence_faults: 0 })
    }

    fn count(&mut self, user: u64, last_sequence: &mut Option<u64>, payload: &[u8]) {
        let Some(mark) = Mark::find(payload) else { return };
        // Of every run, so that the next one knows where it begins. Messages to all have a `seq` of their own.
        if !self.expect.to_all
            && let Some(sequence) = sequence(payload)
        {
            let expected = last_sequence.replace(sequence).map_or(sequence, |last| last + 1);
            self.sequence_faults += u64::from(sequence != expected);
        }
        if mark.run != self.expect.run {
            return;
        }
        let place = if self.expect.to_all { mark.index * self.expect.users + user } else { mark.index };
        if !self.expect.to_all && mark.index % self.expect.users != user {
            self.strayed += 1;
            return;
        }
        let Some(latency) = usize::try_from(place).ok().and_then(|place| self.latencies.get_mut(place)) else { return };
        if *latency == 0 {
            *latency = u32::try_from(now_nanos().saturating_sub(mark.sent_at) / 1000).unwrap_or(u32::MAX).max(1);
            self.received += 1;
        } else {
            self.doubled += 1;
        }
    }

    fn received(self) -> Received {
        let messages = if self.expect.to_all {
            let users = usize::try_from(self.expect.users).unwrap_or(usize::MAX).max(1);
            self.latencies.chunks(users).map(reach).collect()
        } else {
            Vec::new()
        };
        Received {
            deliveries: self.received,
            doubled: self.doubled,
            strayed: self.strayed,
            sequence_faults: self.sequence_faults,
            latencies: self.latencies.into_iter().filter(|latency| *latency > 0).collect(),
            messages,
            ..Received::default()
        }
    }
}

/// How many sockets a message reached, and how late the last.
fn reach(latencies: &[u32]) -> (u64, u32) {
    let reached = latencies.iter().filter(|latency| **latency > 0);
    (reached.clone().count() as u64, reached.max().copied().unwrap_or_default())
}
