//! Log lines in one write where several gathered: whoever logs only appends, a thread writes.
//!
//! A line is on its way at once when little happens. A reader that does not keep up stops whoever logs, like a direct write would, once
//! [`GATHERED_LIMIT`] is reached; no line is dropped.

use std::{
    io::{self, Write},
    sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
};

use tracing_subscriber::fmt::MakeWriter;

/// Bytes that may wait to be written.
const GATHERED_LIMIT: usize = 1 << 20;

static GATHERED: OnceLock<Gathered> = OnceLock::new();

#[derive(Default)]
struct Gathered {
    state: Mutex<State>,
    /// Something came, or something went.
    changed: Condvar,
    /// There is no thread to leave lines to.
    is_alone: bool,
}

#[derive(Default)]
struct State {
    lines: Vec<u8>,
    writing: bool,
}

impl Gathered {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'s>(&self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn write_for_ever(&self) {
        let mut lines = Vec::new();
        loop {
            let mut state = self.lock();
            while state.lines.is_empty() {
                state = self.wait(state);
            }
            std::mem::swap(&mut state.lines, &mut lines);
            state.writing = true;
            drop(state);
            // Nobody is left to tell when stderr is gone.
            let _ = io::stderr().write_all(&lines);
            lines.clear();
            self.lock().writing = false;
            self.changed.notify_all();
        }
    }
}

/// Writes to stderr by way of the thread, which starts with the first of these.
#[derive(Clone, Copy, Debug, Default)]
pub struct GatheredStderr;

impl<'a> MakeWriter<'a> for GatheredStderr {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        *self
    }
}

impl Write for GatheredStderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let gathered = GATHERED.get_or_init(|| {
            let thread = std::thread::Builder::new().name("log".to_owned()).spawn(|| GATHERED.wait().write_for_ever());
            Gathered { is_alone: thread.is_err(), ..Gathered::default() }
        });
        if gathered.is_alone {
            return io::stderr().write(line);
        }
        let mut state = gathered.lock();
        while state.lines.len() > GATHERED_LIMIT {
            state = gathered.wait(state);
        }
        let was_empty = state.lines.is_empty();
        state.lines.extend_from_slice(line);
        drop(state);
        if was_empty {
            gathered.changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns when every line so far is written.
pub fn flush() {
    let Some(gathered) = GATHERED.get() else { return };
    let mut state = gathered.lock();
    while state.writing || !state.lines.is_empty() {
        state = gathered.wait(state);
    }
}
