//! Closing all logs at a stop: side by side, and no longer than the stop may take.
//!
//! ```text
//!   logs, on a few threads ──▶ all closed ──▶ recovery points ──▶ the marker of a clean stop
//!                          └─▶ some are not ─▶ recovery points     the next start proves what is new in those
//! ```
//!
//! A log with nothing new costs no sync. Called by server once no worker runs any more.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, anyhow};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::Topics;
use crate::worker::Stop;

#[cfg(test)]
mod tests;

/// Logs closed at a time: a disk takes the syncs of several together.
const THREADS: usize = 16;

/// How long closing may take.
#[derive(Debug)]
pub(crate) struct Patience {
    /// When no further log is synced.
    pub(crate) until: Instant,
    pub(crate) stop: watch::Receiver<Stop>,
}

impl Patience {
    fn is_over(&self) -> bool {
        Instant::now() >= self.until || self.is_urgent()
    }

    fn is_urgent(&self) -> bool {
        *self.stop.borrow() >= Stop::Now
    }
}

/// What has become of all logs.
struct Outcome {
    /// The first error.
    closed: anyhow::Result<()>,
    /// Those whose syncs were given up.
    given_up: usize,
}

impl Topics {
    /// Closes every log and, if all could be, marks the stop as clean. Blocks.
    ///
    /// # Errors
    /// The first log that cannot be closed, was not even opened, or would have taken too long; the others are closed
    /// all the same.
    pub(crate) fn close(&self, patience: &Patience) -> anyhow::Result<()> {
        let Outcome { mut closed, given_up } = self.close_logs(patience);
        for topic in self.all() {
            if let Some((index, _)) = topic.unopened().next() {
                // Whether it was left cleanly is not known any more: its next opening must look.
                let name = topic.name_of(index);
                closed = closed.and(Err(anyhow!("{name} could not be opened")));
            }
        }
        if given_up > 0 {
            closed = closed.and(Err(anyhow!(
                "the stop does not wait for the disk any longer: the records of {given_up} partitions are left to the system, and \
                the next start reads what is new in them"
            )));
            if patience.is_urgent() {
                return closed;
            }
        }
        let written = self.write_recovery_points().context("cannot write the recovery points");
        closed.and(written)?;
        self.data_dir.write_clean_shutdown().context("cannot mark the stop as clean")
    }

    fn close_logs(&self, patience: &Patience) -> Outcome {
        let (partitions, next) = (self.partitions(), AtomicUsize::new(0));
        let outcome = Mutex::new(Outcome { closed: Ok(()), given_up: 0 });
        let close_some = || {
            while let Some(partition) = partitions.get(next.fetch_add(1, Ordering::Relaxed)) {
                match partition.close(&|| !patience.is_over()) {
                    Ok(true) => {}
                    Ok(false) => outcome.lock().given_up += 1,
                    Err(error) => {
                        let error =
                            anyhow!(error).context(format!("cannot close {}", partition.name));
                        let first = &mut outcome.lock().closed;
                        *first = std::mem::replace(first, Ok(())).and(Err(error));
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..THREADS.min(partitions.len()) {
                // Without further threads this one closes all.
                let _ = std::thread::Builder::new().spawn_scoped(scope, close_some);
            }
            close_some();
        });
        outcome.into_inner()
    }
}
