//! The meaning of a result where the system lacks a thread or memory for a moment, and the log line
//! about it.
//!
//! The kernel completes an operation that it has no worker for with -ECANCELED (KERNEL.md row 23).
//! The operation never ran, so it has neither succeeded nor failed, and another thread may do it.
//!
//! | operation | result | meaning |
//! |---|---|---|
//! | read, write | -ECANCELED, -EAGAIN, -EINTR, -ENOMEM | no byte moved: a thread that may block moves the same bytes at the same place |
//! | sync | -ECANCELED | it never ran: a thread that may block runs it |
//! | sync | any other error | it **failed**, and is never tried again: the pages count as clean since |
//! | a splice of a chain | -ECANCELED, with all before it done | it never ran: the rest of the answer is copied |
//!
//! Called by uring/calls.rs, transfer/apply.rs and blocking.rs. The decisions are pure.

use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::RAISE_THREADS;

/// The least time between two log lines.
const REST: Duration = Duration::from_secs(10);

/// Whether an operation never ran for want of a kernel worker.
pub(crate) fn never_ran(result: i32) -> bool {
    result == -libc::ECANCELED
}

/// Whether a read or write moved no byte for want of something that may be available at the next
/// try, or to a thread that may wait for it.
pub(crate) fn moved_nothing(result: i32) -> bool {
    let passing = [libc::EAGAIN, libc::EINTR, libc::ENOMEM];
    never_ran(result) || passing.contains(&result.wrapping_neg())
}

/// Logs a shortage, at most once in [`REST`].
pub(crate) fn report(error: &dyn Display, what: &str) {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let (mut last, now) = (LAST.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
    if last.is_some_and(|last| now.duration_since(last) < REST) {
        return;
    }
    *last = Some(now);
    tracing::warn!(
        %error,
        "the system lacks {what}: work goes on, slower; {RAISE_THREADS}"
    );
}

#[cfg(test)]
mod starved;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_cancelled_operation_never_ran() {
        assert!(never_ran(-libc::ECANCELED));
        for ran in [0, 1, libc::ECANCELED, -libc::EIO, -libc::EAGAIN, -libc::ENOMEM, i32::MIN] {
            assert!(!never_ran(ran), "{ran}");
        }
    }

    #[test]
    fn what_passes_is_no_failure_of_a_read_or_write_and_a_failing_disk_is() {
        for passes in [libc::ECANCELED, libc::EAGAIN, libc::EINTR, libc::ENOMEM] {
            assert!(moved_nothing(-passes), "{passes}");
            assert!(!moved_nothing(passes), "{passes} bytes were moved");
        }
        for fails in [libc::EIO, libc::ENOSPC, libc::EDQUOT, libc::EROFS, libc::EBADF, i32::MAX] {
            assert!(!moved_nothing(-fails), "{fails}");
        }
        assert!(!moved_nothing(0), "the end of a file is none");
        assert!(!moved_nothing(i32::MIN));
    }
}
