//! The client processes as the parent sees them.

use std::{
    io::{BufRead as _, BufReader, Lines, Write as _},
    net::SocketAddr,
    process::{ChildStdin, ChildStdout, Stdio},
    time::Duration,
};

use crate::{
    Fallible,
    order::{Answer, Connect, Expect, Order, Received},
    process::{Process, command},
};

/// For all handshakes of one order; the slowest server here makes some hundred a second.
const CONNECT_SECONDS: u64 = 300;

/// Where to connect and with what.
pub struct Target {
    pub address: SocketAddr,
    /// With `{user}` and `{token}` to be filled in.
    pub path: String,
    pub secret: String,
}

pub struct Clients {
    processes: Vec<Client>,
    in_flight: usize,
    /// Second byte of the loopback addresses of the first process; a new one each time, since old ports may linger.
    source: u8,
    connected: u64,
}

struct Client {
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    _process: Process,
}

/// How connecting went.
pub struct Connected {
    pub opened: u64,
    pub seconds: f64,
}

impl Clients {
    pub fn start(count: u32, in_flight: usize, source: u8) -> Fallible<Self> {
        let processes = (0..count).map(|_| {
            let mut process = Process::start(
                "a client process",
                command(std::env::current_exe()?).arg("worker").stdin(Stdio::piped()).stdout(Stdio::piped()),
            )?;
            let child = process.child();
            let (input, output) = (child.stdin.take().ok_or("no stdin")?, child.stdout.take().ok_or("no stdout")?);
            Ok(Client { input, output: BufReader::new(output).lines(), _process: process })
        });
        Ok(Self { processes: processes.collect::<Fallible<_>>()?, in_flight, source, connected: 0 })
    }

    /// Opens sockets until there are `total`, one user each, numbered from 0; all of them or an error. `started` runs when tokens are made
    /// and connecting begins.
    pub fn connect(&mut self, target: &Target, total: u64, started: impl FnOnce()) -> Fallible<Connected> {
        let (every, connected) = (self.processes.len() as u64, self.connected);
        let prepare = |index: u64| {
            // Users are dealt out in turn: this process has those that are `index` modulo `every`.
            let before = |users: u64| (users + every - 1 - index) / every;
            Order::Prepare(Connect {
                address: target.address,
                source: [u8::try_from(index + 1).unwrap_or(u8::MAX), self.source],
                first: before(connected) * every + index,
                every,
                count: before(total) - before(connected),
                target: target.path.clone(),
                secret: target.secret.clone(),
                in_flight: self.in_flight,
            })
        };
        let orders = (0..every).map(prepare).collect();
        self.order(orders)?;
        started();
        let mut whole = Connected { opened: 0, seconds: 0.0 };
        for answer in self.order_all(&Order::Connect { seconds: CONNECT_SECONDS })? {
            let Answer::Connected { opened, seconds, failed, failure } = answer else { return Err("a client is confused".into()) };
            if failed > 0 {
                return Err(format!("{failed} connects failed: {}", failure.unwrap_or_default()).into());
            }
            whole = Connected { opened: whole.opened + opened, seconds: whole.seconds.max(seconds) };
        }
        self.connected = total;
        Ok(whole)
    }

    pub fn expect(&mut self, expect: Expect) -> Fallible<()> {
        self.order_all(&Order::Expect(expect)).map(drop)
    }

    /// Waits for `received` deliveries in all, as long as `patience`; says how many there were. Of messages to all each process waits for
    /// its share; else until no more come.
    pub fn wait_for_all(&mut self, messages: u64, patience: Duration) -> Fallible<u64> {
        let (every, total) = (self.processes.len() as u64, self.connected);
        let millis = u64::try_from(patience.as_millis())?;
        let share = |index: u64| Order::Await { received: (total + every - 1 - index) / every * messages, millis };
        count(self.order((0..every).map(share).collect())?)
    }

    /// How many have been received by now.
    pub fn count(&mut self) -> Fallible<u64> {
        count(self.order_all(&Order::Await { received: 0, millis: 0 })?)
    }

    pub fn collect(&mut self) -> Fallible<Received> {
        let mut whole = Received::default();
        for answer in self.order_all(&Order::Collect)? {
            let Answer::Received(part) = answer else { return Err("a client is confused".into()) };
            whole.deliveries += part.deliveries;
            whole.doubled += part.doubled;
            whole.strayed += part.strayed;
            whole.sequence_faults += part.sequence_faults;
            whole.ended += part.ended;
            whole.ending = whole.ending.or(part.ending);
            whole.latencies.extend(part.latencies);
            whole.messages.resize(whole.messages.len().max(part.messages.len()), (0, 0));
            for (message, (reached, slowest)) in whole.messages.iter_mut().zip(part.messages) {
                *message = (message.0 + reached, message.1.max(slowest));
            }
        }
        Ok(whole)
    }

    fn order_all(&mut self, order: &Order) -> Fallible<Vec<Answer>> {
        self.order(vec![order.clone(); self.processes.len()])
    }

    /// All are told before any is heard, so that they work at the same time.
    fn order(&mut self, orders: Vec<Order>) -> Fallible<Vec<Answer>> {
        for (client, order) in self.processes.iter_mut().zip(orders) {
            writeln!(client.input, "{}", serde_json::to_string(&order)?)?;
        }
        let answers = self.processes.iter_mut().map(|client| {
            let line = client.output.next().ok_or("a client process has ended")??;
            Ok(serde_json::from_str(&line)?)
        });
        answers.collect()
    }
}

fn count(answers: Vec<Answer>) -> Fallible<u64> {
    let counts = answers.into_iter().map(|answer| match answer {
        Answer::Counted { received } => Ok(received),
        _ => Err("a client is confused".into()),
    });
    counts.sum()
}
