//! The memory of send buffers, all connections together.
//!
//! Taken by connections. Every connection has a small buffer, which the limit of connections
//! accounts for. A larger buffer takes from a share of all connections while answers go out. Thus
//! most peers that do not read fill small buffers only.
//!
//! ```text
//!   the share of send buffers   |== small ones: max.connections ==|-------- larger ones --------|
//!   free for peers that have not yet read anything                |-------------|
//!   granted: a part of what is free, so the last one gets little and none gets nothing
//! ```

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The least buffer of a connection, as the kernel counts it: twice SO_SNDBUF.
pub(crate) const SMALL_BYTES: u64 = 16 * 1024;

/// A peer that reads gets this part of the free share; one that has not yet read gets this part of
/// the half that is free for such peers.
const PART: u64 = 8;
const UNPROVEN_PART: u64 = 64;

/// The share of larger buffers.
#[derive(Debug)]
pub(crate) struct SendMemory {
    /// A connection's buffer where memory is not short.
    usual_bytes: u64,
    /// The most that larger buffers may take beyond small ones.
    larger_bytes: u64,
    held_bytes: AtomicU64,
    /// Bytes refused since they were last taken.
    missing_bytes: AtomicU64,
}

impl SendMemory {
    /// A share for so many connections within `share_bytes`, with `usual_bytes` for each where
    /// memory suffices.
    pub(crate) fn new(share_bytes: u64, connections: u64, usual_bytes: u64) -> Self {
        let small_bytes = connections.saturating_mul(SMALL_BYTES);
        SendMemory {
            usual_bytes: usual_bytes.max(SMALL_BYTES),
            larger_bytes: share_bytes.saturating_sub(small_bytes),
            held_bytes: AtomicU64::new(0),
            missing_bytes: AtomicU64::new(0),
        }
    }

    /// What larger buffers take now.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Relaxed)
    }

    /// Bytes that answers lacked for full speed since the last call.
    pub(crate) fn take_missing_bytes(&self) -> u64 {
        self.missing_bytes.swap(0, Relaxed)
    }

    /// The buffer for an answer of `answer_bytes` on a connection with a buffer of `has_bytes`:
    /// that one, or a larger one, which is taken from the share.
    pub(crate) fn widen(&self, has_bytes: u64, answer_bytes: u64, is_proven: bool) -> u64 {
        // The kernel counts its own bookkeeping, too.
        let wanted_bytes = answer_bytes.saturating_mul(2).min(self.usual_bytes);
        if wanted_bytes <= has_bytes {
            return has_bytes;
        }
        let mut granted_bytes = has_bytes;
        let _ = self.held_bytes.fetch_update(Relaxed, Relaxed, |held_bytes| {
            let more = more_bytes(held_bytes, self.larger_bytes, is_proven);
            let more = more.min(wanted_bytes - has_bytes);
            granted_bytes = has_bytes + more;
            (more > 0).then_some(held_bytes + more)
        });
        if is_proven && granted_bytes < wanted_bytes / 4 {
            self.missing_bytes.fetch_add(wanted_bytes - granted_bytes, Relaxed);
        }
        granted_bytes
    }

    /// The connection's buffer is small again, or the connection has gone.
    pub(crate) fn narrow(&self, has_bytes: u64) {
        self.held_bytes.fetch_sub(has_bytes.saturating_sub(SMALL_BYTES), Relaxed);
    }
}

fn more_bytes(held_bytes: u64, larger_bytes: u64, is_proven: bool) -> u64 {
    let (free_to, part) =
        if is_proven { (larger_bytes, PART) } else { (larger_bytes / 2, UNPROVEN_PART) };
    free_to.saturating_sub(held_bytes) / part
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL_BYTES: u64 = 512 * 1024;
    const ANSWER_BYTES: u64 = 1024 * 1024;

    fn small_machine() -> SendMemory {
        SendMemory::new(16 << 20, 512, USUAL_BYTES)
    }

    #[test]
    fn with_room_everyone_has_the_usual_buffer_and_no_answer_more_than_it_needs() {
        let memory = SendMemory::new(1 << 32, 1000, USUAL_BYTES);
        assert_eq!(memory.widen(SMALL_BYTES, ANSWER_BYTES, false), USUAL_BYTES);
        assert_eq!(memory.widen(SMALL_BYTES, 100, false), SMALL_BYTES);
        assert_eq!(memory.widen(SMALL_BYTES, 64 * 1024, true), 128 * 1024);
        assert_eq!(memory.widen(USUAL_BYTES, ANSWER_BYTES, true), USUAL_BYTES);
        assert_eq!(memory.take_missing_bytes(), 0);
        memory.narrow(USUAL_BYTES);
        memory.narrow(128 * 1024);
        memory.narrow(SMALL_BYTES);
        assert_eq!(memory.held_bytes(), 0);
    }

    #[test]
    fn peers_that_never_read_leave_half_to_those_that_do() {
        let memory = small_machine();
        let silent: u64 = (0..400).map(|_| memory.widen(SMALL_BYTES, ANSWER_BYTES, false)).sum();
        assert!(silent < 400 * SMALL_BYTES + (4 << 20), "{silent}");
        let readers = (0..16).map(|_| memory.widen(SMALL_BYTES, ANSWER_BYTES, true));
        let least = readers.min().unwrap();
        assert!(least >= 64 * 1024, "{least}");
    }

    #[test]
    fn the_share_holds_whatever_is_asked() {
        let memory = small_machine();
        let all =
            (0..512).map(|n| memory.widen(SMALL_BYTES, ANSWER_BYTES, n % 2 == 0)).sum::<u64>();
        assert!(all <= 16 << 20, "{all}");
        assert!(memory.take_missing_bytes() > 0, "those who got little are counted");
        assert_eq!(memory.take_missing_bytes(), 0);
    }
}
