//! A progress bar, drawn only if standard error is a terminal.
//!
//! Load threads add to the counters. `run` draws the bar several times a second.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Steps of the whole bar.
const STEPS: u64 = 1000;

/// Requests and bytes done so far, warm-up included.
#[derive(Debug, Default)]
pub(crate) struct Done {
    requests: AtomicU64,
    bytes: AtomicU64,
}

impl Done {
    /// Counts one request.
    pub(crate) fn add(&self, bytes: u64) {
        self.requests.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }
}

/// The bar on standard error. Dropping it removes the bar.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Makes the bar, hidden unless `watched`.
    pub(crate) fn new(watched: bool) -> Progress {
        let target = match watched && std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let style = ProgressStyle::with_template("{elapsed:>4} {wide_bar} {percent:>3}% {msg}")
            .expect("a valid template");
        Progress { bar: ProgressBar::with_draw_target(Some(STEPS), target).with_style(style) }
    }

    /// Draws the work `done` after `elapsed`. `share` is the part of the whole run, 0 to 1.
    pub(crate) fn show(&self, done: &Done, elapsed: Duration, share: f64) {
        let per_s =
            |count: &AtomicU64| count.load(Relaxed) as f64 / elapsed.as_secs_f64().max(1e-3);
        self.bar.set_position((share * STEPS as f64) as u64);
        self.bar.set_message(format!(
            "{} requests/s, {:.1} MB/s",
            HumanCount(per_s(&done.requests) as u64),
            per_s(&done.bytes) / 1e6
        ));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
