//! The three measurements of one server in one round.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    Fallible, as_f64,
    clients::Clients,
    frame::Mark,
    options::{Kind, Options, Part},
    order::{Expect, Received},
    publish::{Pace, Producer, Published},
    report::{Figure, Report, median, percentile, slope},
    server::{Server, To},
};

/// From the last connect until memory or CPU is read: what handshakes leave behind is given back by then.
const SETTLE: Duration = Duration::from_secs(2);
/// Over which CPU is read with no connection, to be taken off.
const EMPTY: Duration = Duration::from_secs(20);
/// How long one message to all may take.
const BROADCAST_PATIENCE: Duration = Duration::from_secs(30);
/// How long after the last answer notifications may still arrive, and how long without any is the end.
const ARRIVAL_PATIENCE: Duration = Duration::from_secs(20);
const ARRIVAL_SILENCE: Duration = Duration::from_secs(5);
/// More than this behind at p99, and the rate is more than the server can do.
const LATE_MILLIS: f64 = 1000.0;
/// No lower rate is tried.
const LOWEST_RATE: u64 = 100;
/// Rates tried, at most.
const STEPS: usize = 24;

pub struct Measurement<'a> {
    pub options: &'a Options,
    pub report: &'a mut Report,
    pub kind: Kind,
    /// Differs from measurement to measurement.
    pub number: u8,
}

impl Measurement<'_> {
    pub fn run(&mut self, part: Part) -> Fallible<()> {
        match part {
            Part::Idle => self.idle(),
            Part::Broadcast => self.broadcast(),
            Part::Unicast => self.unicast(),
        }
    }

    fn add(&mut self, figure: Figure, value: f64) {
        self.report.add(self.kind, figure, value);
    }

    fn clients(&self) -> Fallible<Clients> {
        Clients::start(self.options.workers, self.options.in_flight, self.number)
    }

    fn idle(&mut self) -> Fallible<()> {
        let mut clients = self.clients()?;
        let server = Server::start(self.kind)?;
        let target = server.target(false);
        let empty = server.usage();
        self.add(Figure::ResidentEmpty, empty.resident_kib / 1024.0);
        let idle = Duration::from_secs(self.options.idle);
        let cpu_empty = idle_cpu(&server, idle.min(EMPTY));
        self.add(Figure::IdleCpuEmpty, cpu_empty * 1e3);
        let (mut resident, mut proportional) = (Vec::new(), Vec::new());
        let (mut opened, mut seconds, mut cpu) = (0, 0.0, 0.0);
        for count in &self.options.connections {
            let mut before = 0.0;
            let connected = clients.connect(&target, u64::from(*count), || before = server.cpu_seconds())?;
            cpu += server.cpu_seconds() - before;
            opened += connected.opened;
            seconds += connected.seconds;
            sleep(SETTLE);
            let usage = server.usage();
            resident.push((f64::from(*count), usage.resident_kib));
            proportional.push((f64::from(*count), usage.proportional_kib));
        }
        if resident.len() < 2 {
            resident.push((0.0, empty.resident_kib));
            proportional.push((0.0, empty.proportional_kib));
        }
        self.add(Figure::ResidentPerConnection, slope(&resident));
        self.add(Figure::ProportionalPerConnection, slope(&proportional));
        self.add(Figure::Connects, as_f64(opened) / seconds);
        self.add(Figure::ConnectCpu, cpu / as_f64(opened) * 1e6);
        let cpu = idle_cpu(&server, idle) - cpu_empty;
        self.add(Figure::IdleCpu, (cpu / as_f64(opened) * 1e6).max(0.0));
        // Who was thrown out while doing nothing is told too.
        clients.expect(Expect { run: 0, messages: 0, users: 1, to_all: true })?;
        let received = clients.collect()?;
        self.tell_ended(&received, "idle");
        Ok(())
    }

    fn broadcast(&mut self) -> Fallible<()> {
        let (users, messages) = (u64::from(self.options.sockets), self.options.messages);
        let mut clients = self.clients()?;
        let server = Server::start(self.kind)?;
        clients.connect(&server.target(true), users, || ())?;
        sleep(SETTLE);
        let mut producer = Producer::new(server.publish_address())?;
        // The first run warms up, and shows whether there is such a thing.
        for (run, messages) in [(1, 2), (2, messages)] {
            clients.expect(Expect { run, messages, users, to_all: true })?;
            let (before, mut sent) = (server.cpu_seconds(), 0);
            while sent < messages {
                let one = Pace { messages: 1, every: Duration::ZERO };
                let published = producer.publish(one, |_| server.publication(To::All, Mark::new(run, sent)))?;
                if let Some(refusal) = published.refusal {
                    let what = if run == 1 { "not offered" } else { "refused" };
                    self.report.note(self.kind, format!("broadcast: {what}: {}", brief(&refusal)));
                    return Ok(());
                }
                sent += 1;
                // What was lost stays lost; waiting so long for each message would take too long.
                if clients.wait_for_all(sent, BROADCAST_PATIENCE)? < sent * users {
                    break;
                }
            }
            let cpu = server.cpu_seconds() - before;
            let received = clients.collect()?;
            if run > 1 {
                self.tell_broadcast(received, sent * users, cpu);
            }
        }
        Ok(())
    }

    fn tell_broadcast(&mut self, mut received: Received, expected: u64, cpu: f64) {
        received.latencies.sort_unstable();
        let of_message = |(reached, slowest): &(u64, u32)| as_f64(*reached) / f64::from(*slowest).max(1.0) * 1e6;
        self.add(Figure::Deliveries, median(received.messages.iter().filter(|(reached, _)| *reached > 0).map(of_message).collect()));
        self.add(Figure::DeliveriesPerCpuSecond, as_f64(received.deliveries) / cpu);
        self.add(Figure::BroadcastP50, percentile(&received.latencies, 0.5));
        self.add(Figure::BroadcastP99, percentile(&received.latencies, 0.99));
        self.add(Figure::BroadcastP999, percentile(&received.latencies, 0.999));
        self.add(Figure::BroadcastLost, as_f64(expected - received.deliveries + received.doubled));
        self.tell_ended(&received, "broadcast");
    }

    fn unicast(&mut self) -> Fallible<()> {
        let mut unicast = Unicast::start(self.kind, self.clients()?, u64::from(self.options.sockets))?;
        let (rate, seconds) = (self.options.rate, self.options.seconds);
        unicast.at(rate, 1)?;
        let before = unicast.server.cpu_seconds();
        let step = unicast.at(rate, seconds)?;
        let cpu = unicast.server.cpu_seconds() - before;
        self.add(Figure::UnicastP50, percentile(&step.received.latencies, 0.5));
        self.add(Figure::UnicastP99, percentile(&step.received.latencies, 0.99));
        self.add(Figure::UnicastP999, percentile(&step.received.latencies, 0.999));
        self.add(Figure::UnicastLost, as_f64(step.lost() + step.faults()));
        self.add(Figure::UnicastCpu, cpu / as_f64(step.received.deliveries.max(1)) * 1e6);
        self.tell_ended(&step.received, "unicast");
        match step.failure() {
            None => self.step_up(unicast, rate, step),
            Some(why) => {
                self.report.note(self.kind, format!("unicast at {rate}/s: {why}"));
                drop(unicast);
                self.step_down(rate)
            }
        }
    }

    /// From a rate that is good.
    fn step_up(&mut self, mut unicast: Unicast, mut rate: u64, mut step: Step) -> Fallible<()> {
        for _ in 0..STEPS {
            let higher = rate * 5 / 4;
            if higher > self.options.max_rate {
                self.report.note(self.kind, format!("unicast: no rate above {rate}/s was tried"));
                break;
            }
            let tried = unicast.at(higher, self.options.step)?;
            if let Some(why) = tried.failure() {
                self.report.note(self.kind, format!("unicast at {higher}/s: {why}"));
                break;
            }
            (rate, step) = (higher, tried);
        }
        self.tell_highest(rate, &step);
        Ok(())
    }

    /// From a rate that is too high. Each lower one meets a server that has nothing left over.
    fn step_down(&mut self, mut rate: u64) -> Fallible<()> {
        for _ in 0..STEPS {
            rate /= 2;
            if rate < LOWEST_RATE {
                break;
            }
            let mut unicast = Unicast::start(self.kind, self.clients()?, u64::from(self.options.sockets))?;
            let step = unicast.at(rate, self.options.step)?;
            if step.failure().is_none() {
                self.tell_highest(rate, &step);
                return Ok(());
            }
        }
        self.report.note(self.kind, format!("unicast: not even {rate}/s without loss"));
        Ok(())
    }

    fn tell_highest(&mut self, rate: u64, step: &Step) {
        self.add(Figure::HighestRate, as_f64(rate));
        self.add(Figure::HighestRateP99, percentile(&step.received.latencies, 0.99));
    }

    fn tell_ended(&mut self, received: &Received, part: &str) {
        if received.ended > 0 {
            let ending = received.ending.as_deref().unwrap_or_default();
            self.report.note(self.kind, format!("{part}: {} sockets ended: {ending}", received.ended));
        }
    }
}

/// CPU seconds in a second of nothing.
fn idle_cpu(server: &Server, period: Duration) -> f64 {
    let (before, started) = (server.cpu_seconds(), Instant::now());
    sleep(period);
    (server.cpu_seconds() - before) / started.elapsed().as_secs_f64()
}

/// Sockets of a user each, and a producer.
struct Unicast {
    // Dropped before the clients: they tell of sockets that end, but not to anybody then.
    server: Server,
    clients: Clients,
    producer: Producer,
    users: u64,
    run: u64,
}

/// What came of one rate.
struct Step {
    published: Published,
    received: Received,
    /// Notifications were still arriving when waiting for them ended.
    unfinished: bool,
}

impl Unicast {
    fn start(kind: Kind, mut clients: Clients, users: u64) -> Fallible<Self> {
        let server = Server::start(kind)?;
        clients.connect(&server.target(false), users, || ())?;
        sleep(SETTLE);
        let producer = Producer::new(server.publish_address())?;
        Ok(Self { server, clients, producer, users, run: 0 })
    }

    /// So many notifications a second, to one user after the other.
    fn at(&mut self, rate: u64, seconds: u64) -> Fallible<Step> {
        self.run += 1;
        let (run, users, server) = (self.run, self.users, &self.server);
        let pace = Pace { messages: rate * seconds, every: Duration::from_secs(1).div_f64(as_f64(rate)) };
        self.clients.expect(Expect { run, messages: pace.messages, users, to_all: false })?;
        let published = self.producer.publish(pace, |index| server.publication(To::User(index % users), Mark::new(run, index)))?;
        let (mut count, started, mut changed) = (0, Instant::now(), Instant::now());
        while count < published.accepted && started.elapsed() < ARRIVAL_PATIENCE && changed.elapsed() < ARRIVAL_SILENCE {
            sleep(Duration::from_millis(20));
            let now = self.clients.count()?;
            if now > count {
                (count, changed) = (now, Instant::now());
            }
        }
        let mut received = self.clients.collect()?;
        received.latencies.sort_unstable();
        let unfinished = count < published.accepted && changed.elapsed() < ARRIVAL_SILENCE;
        Ok(Step { published, received, unfinished })
    }
}

impl Step {
    fn lost(&self) -> u64 {
        self.published.accepted.saturating_sub(self.received.deliveries)
    }

    fn faults(&self) -> u64 {
        self.received.doubled + self.received.strayed + self.received.sequence_faults
    }

    /// Why this rate is too high.
    fn failure(&self) -> Option<String> {
        let p99 = percentile(&self.received.latencies, 0.99);
        let mut why = Vec::new();
        if self.published.refused > 0 {
            let refusal = brief(self.published.refusal.as_deref().unwrap_or_default());
            why.push(format!("{} refused ({refusal})", self.published.refused));
        }
        for (count, what) in [
            (self.lost(), if self.unfinished { "not there 20 s later" } else { "lost" }),
            (self.received.doubled, "doubled"),
            (self.received.strayed, "to the wrong user"),
            (self.received.sequence_faults, "gaps in seq"),
            (self.received.ended, "sockets ended"),
        ] {
            if count > 0 {
                why.push(format!("{count} {what}"));
            }
        }
        if p99 > LATE_MILLIS || p99.is_nan() {
            why.push(format!("p99 {p99:.0} ms"));
        }
        if why.is_empty() { None } else { Some(format!("{} of {} accepted", why.join(", "), self.published.accepted)) }
    }
}

/// Status and body of a refusal, on one line.
fn brief(response: &str) -> String {
    let status = response.lines().next().unwrap_or_default().trim_start_matches("HTTP/1.1 ");
    let body = response.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let body: String = body.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(160).collect();
    format!("{status} {body}").trim().to_owned()
}
