//! A child process: what it says, line by line, and how it ends.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io::{BufRead as _, BufReader, Read},
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::sync::watch;

/// How long anything may take. Far beyond what it does take, even on a machine that is busy with something else.
pub const PATIENCE: Duration = Duration::from_mins(2);
/// How soon a condition is looked at again when the process says nothing.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Lines shown when a test fails.
const SHOWN_LINES: usize = 60;

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Absent when a signal ended it.
    pub code: Option<i32>,
    pub signal: Option<i32>,
}

impl From<ExitStatus> for Ended {
    fn from(status: ExitStatus) -> Self {
        Self { code: status.code(), signal: status.signal() }
    }
}

#[derive(Default)]
struct Said {
    lines: Mutex<Vec<String>>,
}

/// A running child. Dropped, it is killed.
pub struct Process {
    pid: u32,
    said: Arc<Said>,
    /// Lines so far; changes with each, and once more at the end.
    count: watch::Receiver<usize>,
    ended: watch::Receiver<Option<Ended>>,
}

impl Process {
    /// Starts `program` with exactly these variables, beside the few every program needs.
    pub fn start(program: impl AsRef<OsStr>, arguments: &[String], env: &BTreeMap<String, String>, folder: &Path) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(env).current_dir(folder);
        for kept in ["PATH", "HOME", "LLVM_PROFILE_FILE"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        // In the tests' own process group: whoever ends that, because a test hangs, ends this too.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let said = Arc::<Said>::default();
        let (count_sender, count) = watch::channel(0);
        let (ended_sender, ended) = watch::channel(None);
        let pipes: [Box<dyn Read + Send>; 2] = [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        let pid = child.id();
        let readers = pipes.map(|pipe| {
            let (said, count) = (said.clone(), count_sender.clone());
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    said.lines.lock().unwrap().push(line);
                    count.send_modify(|count| *count += 1);
                }
            })
        });
        std::thread::spawn(move || {
            let status = child.wait().unwrap();
            // What it said last is read before anybody hears that it ended.
            for reader in readers {
                reader.join().unwrap();
            }
            ended_sender.send_replace(Some(status.into()));
            count_sender.send_modify(|_| {});
        });
        Self { pid, said, count, ended }
    }

    pub fn lines(&self) -> Vec<String> {
        self.said.lines.lock().unwrap().clone()
    }

    /// Everything said, JSON lines only.
    pub fn events(&self) -> Vec<serde_json::Value> {
        self.lines().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// How it ended; `None` while it runs.
    pub fn has_ended(&self) -> Option<Ended> {
        self.ended.borrow().clone()
    }

    /// Waits for its end.
    pub async fn end(&self) -> Ended {
        let mut ended = self.ended.clone();
        let waited = tokio::time::timeout(PATIENCE, ended.wait_for(Option::is_some)).await;
        waited.expect("it ends in time").unwrap().clone().unwrap()
    }

    /// Looks at every line, as they come, until `find` finds what it wants; the end of the process is an error.
    pub async fn find_line<T>(&self, mut find: impl FnMut(&str) -> Option<T>) -> Result<T, Ended> {
        let (mut count, mut seen) = (self.count.clone(), 0);
        let deadline = Instant::now() + PATIENCE;
        loop {
            count.borrow_and_update();
            let ended = self.has_ended();
            let lines: Vec<String> = self.said.lines.lock().unwrap()[seen..].to_vec();
            seen += lines.len();
            if let Some(found) = lines.iter().find_map(|line| find(line)) {
                return Ok(found);
            }
            if let Some(ended) = ended {
                return Err(ended);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(tokio::time::timeout(left, count.changed()).await.is_ok(), "no such line within {PATIENCE:?}");
        }
    }

    /// Asks until `probe` has an answer: again with every line the process says, and after a moment when it says nothing.
    pub async fn until<T>(&self, what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
        let mut count = self.count.clone();
        let deadline = Instant::now() + PATIENCE;
        loop {
            count.borrow_and_update();
            if let Some(answer) = probe().await {
                return answer;
            }
            assert!(Instant::now() < deadline, "within {PATIENCE:?} it did not happen that {what}");
            // Whichever comes first; with the process gone, neither, and the probe says so or the deadline does.
            let _ = tokio::time::timeout(LOOK_AGAIN, count.changed()).await;
        }
    }

    /// Sends a signal, by name: `TERM`.
    pub fn signal(&self, name: &str) {
        if self.has_ended().is_none() {
            let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {} 2>&1", self.pid)).output().unwrap();
            assert!(sent.status.success() || self.has_ended().is_some(), "kill -{name}: {}", String::from_utf8_lossy(&sent.stdout));
        }
    }

    /// Ends it at once, as a power cut would end it.
    pub async fn kill(&self) -> Ended {
        self.signal("KILL");
        self.end().await
    }
}

/// Asks until `probe` has an answer, where no process's words say when to ask again.
pub async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = probe().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "within {PATIENCE:?} it did not happen that {what}");
        let _ = tokio::time::timeout(LOOK_AGAIN, std::future::pending::<()>()).await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines = self.lines();
            eprintln!("--- the last lines of process {} ({:?}) ---", self.pid, self.has_ended());
            lines[lines.len().saturating_sub(SHOWN_LINES)..].iter().for_each(|line| eprintln!("{line}"));
        }
        if self.has_ended().is_none() {
            let _ = Command::new("sh").arg("-c").arg(format!("kill -KILL {}", self.pid)).status();
        }
    }
}
