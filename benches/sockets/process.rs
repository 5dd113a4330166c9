//! Child processes, and what they use as the kernel tells it.

use std::{
    ffi::OsStr,
    fs::{self, File},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::Fallible;

/// Clock ticks a second (`getconf CLK_TCK`), the same on every Linux that this runs on.
const TICKS: f64 = 100.0;
/// How long a server has to come up or to end, before it is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// `program` with as many descriptors as it may have, and asked to end should this process die.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "sh", "-c", r#"ulimit -Sn "$(ulimit -Hn)" && exec "$0" "$@""#]);
    command.arg(program).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// What a server writes to standard error goes here, in its folder.
pub fn log(folder: &Path) -> Fallible<File> {
    Ok(File::options().create(true).append(true).open(folder.join("log"))?)
}

/// A child and its children, stopped when dropped.
pub struct Process {
    name: &'static str,
    child: Child,
}

/// What a tree of processes uses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub cpu_seconds: f64,
    pub resident_kib: f64,
    /// Pages shared with others counted in part.
    pub proportional_kib: f64,
}

impl std::ops::Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds + other.cpu_seconds,
            resident_kib: self.resident_kib + other.resident_kib,
            proportional_kib: self.proportional_kib + other.proportional_kib,
        }
    }
}

impl Process {
    pub fn start(name: &'static str, command: &mut Command) -> Fallible<Self> {
        let child = command.spawn().map_err(|error| format!("{name} cannot be started: {error}"))?;
        Ok(Self { name, child })
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits until it takes connections at `address`.
    pub fn listening(&mut self, address: SocketAddr, folder: &Path) -> Fallible<()> {
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = self.child.try_wait()? {
                let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
                let last = log.lines().next_back().unwrap_or_default();
                return Err(format!("{} ended at once: {status}: {last}", self.name).into());
            }
            if started.elapsed() > PATIENCE {
                return Err(format!("{} does not listen on {address} after {PATIENCE:?}", self.name).into());
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    pub fn usage(&self) -> Usage {
        self.pids().into_iter().filter_map(usage_of).fold(Usage::default(), std::ops::Add::add)
    }

    pub fn cpu_seconds(&self) -> f64 {
        self.pids().into_iter().filter_map(cpu_seconds_of).sum()
    }

    fn pids(&self) -> Vec<u32> {
        let mut pids = vec![self.child.id()];
        let mut next = 0;
        while let Some(pid) = pids.get(next).copied() {
            next += 1;
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            pids.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        pids
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.pids().len() > 1 {
            // Only the parent knows its children well enough to end them all.
            let _asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
            let asked = Instant::now();
            while matches!(self.child.try_wait(), Ok(None)) && asked.elapsed() < PATIENCE {
                sleep(Duration::from_millis(10));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn usage_of(pid: u32) -> Option<Usage> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let kib = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    };
    Some(Usage { cpu_seconds: cpu_seconds_of(pid)?, resident_kib: kib("Rss:")?, proportional_kib: kib("Pss:")? })
}

fn cpu_seconds_of(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit(") ").next()?.split(' ').collect();
    let ticks = |field: usize| fields.get(field)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS)
}

/// A port of loopback that nobody uses now.
pub fn free_address() -> Fallible<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
