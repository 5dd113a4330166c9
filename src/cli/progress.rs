//! Progress on long work: a bar on stderr when a person watches, nothing otherwise.

use std::{
    fmt,
    io::{self, IsTerminal as _},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::output;

/// Work shorter than this many steps is over before a bar is read.
const WORTH_SHOWING: u64 = 2000;

/// A bar, perhaps not shown.
pub struct Progress(ProgressBar);

impl Progress {
    /// For `steps` of `what`, shown if that is many.
    pub fn of(steps: u64, what: &'static str) -> Self {
        Self::shown_if(steps >= WORTH_SHOWING, steps, what)
    }

    /// For work that takes as long as it takes.
    pub fn waiting(steps: u64, what: &'static str) -> Self {
        Self::shown_if(true, steps, what)
    }

    fn shown_if(worth: bool, steps: u64, what: &'static str) -> Self {
        let shown = worth && io::stderr().is_terminal();
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(steps), target);
        let style = ProgressStyle::with_template("{msg} [{wide_bar}] {human_pos} of {human_len}, {rate}, {eta} left");
        let style =
            style.unwrap_or_else(|_| ProgressStyle::default_bar()).with_key("rate", |state: &ProgressState, text: &mut dyn fmt::Write| {
                // Nothing can be done about a line that cannot be written.
                let _ = write!(text, "{:.0}/s", state.per_sec());
            });
        bar.set_style(style.progress_chars("=> "));
        bar.set_message(what);
        if shown {
            bar.enable_steady_tick(Duration::from_millis(250));
        }
        Self(bar)
    }

    pub fn at(&self, step: u64) {
        self.0.set_position(step);
    }

    pub fn add(&self, steps: u64) {
        self.0.inc(steps);
    }

    /// There is this much to do.
    pub fn set_length(&self, steps: u64) {
        self.0.set_length(steps);
    }

    /// There is more to do than was known.
    pub fn longer(&self, steps: u64) {
        self.0.inc_length(steps);
    }

    /// A line on stderr that the bar does not run over.
    pub fn note(&self, text: &str) {
        self.0.suspend(|| output::note(&output::safe(text)));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
