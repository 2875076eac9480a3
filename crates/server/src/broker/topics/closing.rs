//! Closes all logs at a stop: several at once, and within the time of the stop.
//!
//! ```text
//!   logs, on a few threads ──▶ all closed ──▶ recovery points ──▶ the marker of a clean stop
//!                          └─▶ some are not ─▶ recovery points     the next start proves what is new in those
//! ```
//!
//! A log without new records costs no sync. A disk without room is no error: files that cannot be
//! written cost the next start some time, and nothing else. Called by serve after the last worker
//! has ended.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, anyhow};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::Topics;
use crate::broker::disk_reserve::is_full;
use crate::broker::partition::Closed;
use crate::causes::Causes;
use crate::stop::Stop;

#[cfg(test)]
mod tests;

/// Logs closed at once: a disk takes the syncs of several together.
const THREADS: usize = 16;

/// How long closing may take.
#[derive(Debug)]
pub(crate) struct Deadline {
    /// When syncing ends.
    pub(crate) until: Instant,
    pub(crate) stop: watch::Receiver<Stop>,
}

impl Deadline {
    fn is_over(&self) -> bool {
        Instant::now() >= self.until || self.is_urgent()
    }

    fn is_urgent(&self) -> bool {
        *self.stop.borrow() >= Stop::Now
    }
}

/// The outcome of all logs.
struct Outcome {
    /// The first error.
    closed: anyhow::Result<()>,
    /// Logs whose syncs were given up.
    given_up: usize,
    /// Logs that found no room.
    no_room: usize,
}

impl Topics {
    /// Closes every log, and marks the stop as clean if all could be closed. Blocks.
    ///
    /// # Errors
    /// The first log that cannot be closed, was not even opened, or would have taken too long. The
    /// others are closed all the same.
    pub(crate) fn close(&self, deadline: &Deadline) -> anyhow::Result<()> {
        let Outcome { mut closed, given_up, no_room } = self.close_logs(deadline);
        for topic in self.all() {
            if let Some((index, _)) = topic.unopened().next() {
                // Whether it was left cleanly is not known any more, so its next opening must
                // check.
                let name = topic.name_of(index);
                closed = closed.and(Err(anyhow!("{name} could not be opened")));
            }
        }
        if given_up > 0 {
            closed = closed.and(Err(anyhow!(
                "the stop does not wait for the disk any longer: the records of {given_up} partitions are left to the system, and \
                the next start reads what is new in them"
            )));
            if deadline.is_urgent() {
                return closed;
            }
        }
        let written = self.write_recovery_points().context("cannot write the recovery points");
        // Other errors come first.
        closed?;
        let marked = written.and_then(|()| match no_room {
            0 => self.data_dir.write_clean_shutdown().context("cannot mark the stop as clean"),
            _ => Ok(()),
        });
        match marked {
            Err(error) if is_full(&error) => {
                tracing::warn!(
                    "the next start reads what is new, since there is no room: {}",
                    Causes(&error)
                );
                Ok(())
            }
            marked => marked,
        }
    }

    fn close_logs(&self, deadline: &Deadline) -> Outcome {
        let (partitions, next) = (self.partitions(), AtomicUsize::new(0));
        let outcome = Mutex::new(Outcome { closed: Ok(()), given_up: 0, no_room: 0 });
        let close_some = || {
            while let Some(partition) = partitions.get(next.fetch_add(1, Ordering::Relaxed)) {
                match partition.close(&|| !deadline.is_over()) {
                    Ok(Closed::Whole) => {}
                    Ok(Closed::GivenUp) => outcome.lock().given_up += 1,
                    Ok(Closed::NoRoom) => outcome.lock().no_room += 1,
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
