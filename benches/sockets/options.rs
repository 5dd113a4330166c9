//! What to measure, against whom and how long.

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};

/// Sockets beside a bound and beside others: memory and CPU of idle ones, connects, one message to all, one user's notifications.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo bench --bench sockets --", args_conflicts_with_subcommands = true)]
pub struct Options {
    #[command(subcommand)]
    pub role: Option<Role>,
    /// Rounds; servers take turns and medians are shown
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub rounds: usize,
    /// Servers to measure
    #[arg(long, value_name = "SERVER,…", value_delimiter = ',', default_value = "tarishi,bound,daphne,uvicorn,nchan")]
    pub only: Vec<Kind>,
    /// What to measure
    #[arg(long, value_name = "PART,…", value_delimiter = ',', default_value = "idle,broadcast,unicast")]
    pub parts: Vec<Part>,
    /// Idle: connections at which memory is read, ascending
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1000,5000,10000,15000")]
    pub connections: Vec<u32>,
    /// Idle: seconds over which CPU is read
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub idle: u64,
    /// Broadcast and unicast: sockets connected
    #[arg(long, value_name = "N", default_value_t = 5000)]
    pub sockets: u32,
    /// Broadcast: messages, each sent when the one before has reached everybody
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub messages: u64,
    /// Unicast: notifications per second to begin with
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub rate: u64,
    /// Unicast: seconds at that rate
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub seconds: u64,
    /// Unicast: seconds at each further rate: a quarter more until something is lost, refused or late by a second (half, if at once)
    #[arg(long, value_name = "SECONDS", default_value_t = 4)]
    pub step: u64,
    /// Unicast: rate at which stepping up ends in any case
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    pub max_rate: u64,
    /// Client processes
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub workers: u32,
    /// Handshakes under way at once in each client process
    #[arg(long, value_name = "N", default_value_t = 24)]
    pub in_flight: usize,
    /// Five minutes instead of two hours: one round, 1 000 connections, 10 s idle. Figures are only indicative
    #[arg(long)]
    pub quick: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What `--quick` says in place of the defaults; what is given counts more.
const QUICK: [(&str, &str); 8] = [
    ("rounds", "1"),
    ("connections", "250,500,1000"),
    ("idle", "10"),
    ("sockets", "1000"),
    ("messages", "30"),
    ("seconds", "3"),
    ("step", "2"),
    ("max_rate", "5000"),
];

impl Options {
    pub fn read() -> Self {
        let options = Self::parse();
        if !options.quick {
            return options;
        }
        let quick = QUICK
            .into_iter()
            .fold(Self::command(), |command, (name, value)| command.mut_arg(name, |argument| argument.default_value(value)));
        Self::from_arg_matches(&quick.get_matches()).unwrap_or_else(|error| error.exit())
    }
}

/// What a process of this program is for, when it is not the one that measures.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Role {
    /// Holds sockets, as told on standard input.
    #[command(hide = true)]
    Worker,
    /// Is the server that does nothing but write.
    #[command(hide = true)]
    Bound,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// The daemon as it ships, with its store on disk
    Tarishi,
    /// A bare loop that accepts, upgrades and writes framed bytes: no users, tokens, inbox or bus
    Bound,
    /// Django Channels on Daphne, with Redis
    Daphne,
    /// Django Channels on uvicorn, with Redis
    Uvicorn,
    /// nginx with Nchan; checks no tokens
    Nchan,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tarishi => "tarishi",
            Self::Bound => "bound",
            Self::Daphne => "daphne",
            Self::Uvicorn => "uvicorn",
            Self::Nchan => "nchan",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Connects, and memory and CPU per idle connection
    Idle,
    /// One message to all sockets
    Broadcast,
    /// Notifications to one user each
    Unicast,
}

impl Part {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Broadcast => "broadcast",
            Self::Unicast => "unicast",
        }
    }
}
