//! A partition's directory, for jobs that use files by name. One job at a time.
//!
//! ```text
//!   flush, roll, retention, index flush, scrubber's note ──touch──► decide, write ──► unlocked
//!   deletion, close ──lock──► the names are gone, or must stay as they are: no job begins any more
//! ```
//!
//! A job holds the lock from its decision to the end of its writes:
//!
//! - After a deletion the names may belong to a new topic.
//! - After a close nothing may change, because the marker of a clean stop follows.
//! - A small file is written beside its place, and renamed. Two jobs that replace the same one
//!   would take each other's unfinished file, or put an older content over a newer one.
//!
//! Called by the partition alone. Never locked while the log is.

use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

/// How long a close waits before it asks whether there is still time.
const PATIENCE: Duration = Duration::from_millis(10);

/// Whether the partition no longer owns its names; see the head of this file.
#[derive(Debug, Default)]
pub(super) struct Directory {
    is_gone: Mutex<bool>,
}

impl Directory {
    /// Runs `job` while the partition owns its names; `None` if it no longer does. Blocks.
    pub(super) fn touch<T>(&self, job: impl FnOnce() -> T) -> Option<T> {
        let is_gone = self.is_gone.lock();
        (!*is_gone).then(job)
    }

    /// Waits for the job that is under way. Set to true, the guard lets no other begin. Blocks.
    pub(super) fn lock(&self) -> MutexGuard<'_, bool> {
        self.is_gone.lock()
    }

    /// Like `lock`; `None` if `goes_on` ends before the lock is free.
    pub(super) fn lock_while(&self, goes_on: &dyn Fn() -> bool) -> Option<MutexGuard<'_, bool>> {
        lock_while(&self.is_gone, goes_on)
    }
}

/// Locks a mutex; `None` if `goes_on` ends before it is free. Blocks.
pub(super) fn lock_while<'a, T>(
    mutex: &'a Mutex<T>,
    goes_on: &dyn Fn() -> bool,
) -> Option<MutexGuard<'a, T>> {
    loop {
        match mutex.try_lock_for(PATIENCE) {
            None if goes_on() => {}
            locked => return locked,
        }
    }
}
