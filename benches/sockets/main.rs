//! What a socket costs: memory and CPU of idle ones, connects, one message to all, notifications to one user each.
//!
//! Each figure for the daemon as it ships, for a bound (a bare loop that upgrades and writes framed bytes) and for others, in the same run
//! and by the same clients: raw frames from processes of our own, from several addresses of loopback. Figures are of server processes
//! alone, as the kernel counts them. Nothing leaves this machine.
//!
//! `cargo bench --bench sockets -- [--quick] [--only tarishi,bound] [--help]`

mod bound;
mod clients;
mod connection;
mod frame;
mod measure;
mod options;
mod order;
mod process;
mod publish;
mod report;
mod rivals;
mod server;
mod worker;

use std::process::ExitCode;

use measure::Measurement;
use options::{Kind, Options, Role};
use report::Report;

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    let options = Options::read();
    let done = match options.role {
        Some(Role::Worker) => worker::run(),
        Some(Role::Bound) => bound::run(),
        None => compare(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &Options) -> Fallible<()> {
    let mut report = Report::default();
    println!(
        "{} rounds; idle: {:?} connections, {} s; broadcast and unicast: {} sockets, {} messages to all, {}/s to one each",
        options.rounds, options.connections, options.idle, options.sockets, options.messages, options.rate
    );
    let mut number = 0;
    let mut failed = Vec::new();
    for round in 1..=options.rounds {
        for part in &options.parts {
            for kind in &options.only {
                if failed.contains(&(*kind, *part)) {
                    continue;
                }
                number = number % 250 + 1;
                eprintln!("round {round}: {}: {}", part.as_str(), kind.as_str());
                let mut measurement = Measurement { options, report: &mut report, kind: *kind, number };
                if let Err(error) = measurement.run(*part) {
                    report.note(*kind, format!("{} failed: {error}", part.as_str()));
                    // The others go on without it; the daemon's own failure fails the run in the end.
                    failed.push((*kind, *part));
                }
            }
        }
    }
    report.print(&options.only);
    if failed.iter().any(|(kind, _)| *kind == Kind::Tarishi) { Err("tarishi failed".into()) } else { Ok(()) }
}

#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^52")]
pub fn as_f64(count: u64) -> f64 {
    count as f64
}
