//! What a chat message costs: from its sender to all, in conversations of two, ten and fifty, every message stored.
//!
//! The daemon as it ships, and Django Channels on Daphne with Redis, in the same run and by the same clients. Every conversation has one message
//! on its way at any time. Figures are of server processes alone, as the kernel counts them. Nothing leaves this machine.
//!
//! `cargo bench --bench chat -- [--quick] [--only tarishi,daphne] [--help]`

#[path = "../sockets/process.rs"]
#[expect(dead_code, reason = "memory is not measured here")]
mod process;
mod server;
mod worker;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{ExitCode, Stdio},
};

use clap::{Parser, ValueEnum};
use process::{Process, command};
use server::{JWT_SECRET, Server};
use worker::{Order, Talk, Told};

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What a chat message costs, from its sender to all.
#[derive(Debug, Parser)]
#[command(name = "cargo bench --bench chat --")]
struct Options {
    /// Servers to measure.
    #[arg(long, value_name = "SERVER,…", value_delimiter = ',', default_value = "tarishi,daphne")]
    only: Vec<Kind>,
    /// People in each conversation.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "2,10,50")]
    sizes: Vec<u64>,
    /// Sockets at once.
    #[arg(long, value_name = "N", default_value_t = 200)]
    sockets: u64,
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    seconds: u64,
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// One round of three seconds.
    #[arg(long)]
    quick: bool,
    /// Plays the people: for the bench itself.
    #[arg(long, hide = true)]
    worker: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Tarishi,
    Daphne,
}

fn main() -> ExitCode {
    let mut options = Options::parse();
    if options.quick {
        (options.rounds, options.seconds) = (1, 3);
    }
    let done = if options.worker { worker::run() } else { compare(&options) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &Options) -> Fallible<()> {
    println!("{} rounds of {} s; {} sockets; one message at a time in each conversation", options.rounds, options.seconds, options.sockets);
    println!(
        "{:>5}  {:<8} {:>11} {:>13} {:>19} {:>8} {:>8}",
        "size", "server", "messages/s", "deliveries/s", "deliveries/CPU-s", "p50 ms", "p99 ms"
    );
    for size in &options.sizes {
        let mut per_cpu = Vec::new();
        for kind in &options.only {
            let mut rounds = (0..options.rounds).map(|_| measure(options, *kind, *size)).collect::<Fallible<Vec<_>>>()?;
            rounds.sort_by(|one, other| one.deliveries_per_cpu.total_cmp(&other.deliveries_per_cpu));
            let Measured { messages, deliveries, deliveries_per_cpu, p50, p99 } = &rounds[rounds.len() / 2];
            let name = if *kind == Kind::Tarishi { "tarishi" } else { "daphne" };
            println!("{size:>5}  {name:<8} {messages:>11.0} {deliveries:>13.0} {deliveries_per_cpu:>19.0} {p50:>8.2} {p99:>8.2}");
            per_cpu.push(*deliveries_per_cpu);
        }
        if let [ours, theirs] = per_cpu[..] {
            println!("{size:>5}  deliveries per CPU-second: {:.1} times (aim: 20)", ours / theirs);
        }
    }
    Ok(())
}

struct Measured {
    messages: f64,
    deliveries: f64,
    deliveries_per_cpu: f64,
    p50: f64,
    p99: f64,
}

fn measure(options: &Options, kind: Kind, size: u64) -> Fallible<Measured> {
    let groups: Vec<Vec<u64>> =
        (0..(options.sockets / size).max(1)).map(|group| (1..=size).map(|user| group * size + user).collect()).collect();
    let server = Server::start(kind)?;
    let conversations = groups.into_iter().enumerate().map(|(index, users)| Ok(Talk { id: server.conversation(index, &users)?, users }));
    let conversations = conversations.collect::<Fallible<_>>()?;
    let order = Order { address: server.sockets(), secret: JWT_SECRET.to_owned(), conversations, seconds: options.seconds };
    let mut people =
        Process::start("the people", command(std::env::current_exe()?).arg("--worker").stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    let mut asking = people.child().stdin.take().ok_or("no stdin")?;
    let mut telling = BufReader::new(people.child().stdout.take().ok_or("no stdout")?).lines();
    writeln!(asking, "{}", serde_json::to_string(&order)?)?;
    let said = telling.next().ok_or("the people are gone")??;
    if said != "ready" {
        return Err(format!("the people said {said}").into());
    }
    let before = server.cpu_seconds();
    writeln!(asking, "go")?;
    let mut told: Told = serde_json::from_str(&telling.next().ok_or("the people are gone")??)?;
    let cpu = server.cpu_seconds() - before;
    told.latencies.sort_by(f64::total_cmp);
    let percentile = |share: usize| told.latencies.get(told.latencies.len() * share / 100).copied().unwrap_or(f64::NAN);
    let (messages, deliveries) = (as_f64(told.messages), as_f64(told.deliveries));
    Ok(Measured {
        messages: messages / told.seconds,
        deliveries: deliveries / told.seconds,
        deliveries_per_cpu: deliveries / cpu,
        p50: percentile(50),
        p99: percentile(99),
    })
}

#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^52")]
fn as_f64(count: u64) -> f64 {
    count as f64
}
