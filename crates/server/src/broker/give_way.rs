//! Which connections give way when memory or places are short: the slowest, and none that makes
//! progress.
//!
//! Called by the sweep for each of the shortages below. Pure. A connection that gives way is
//! closed, and its client connects and asks again.
//!
//! ```text
//!   shortage      what runs out                    who may give way                        for at least
//!   Upload        queued.max.request.bytes         an upload that has received nothing     1 s, or 500 ms
//!   Place         max.connections                  a peer that takes nothing of an answer  2 s
//!   SendBuffer    the share of send buffers        the same, with a buffer of its own      2 s
//!   Answer        the share of answers             the same, of one that is large          2 s
//! ```

use std::time::Duration;

/// What is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Shortage {
    /// Memory for requests.
    Upload,
    /// Places for connections.
    Place,
    /// Memory for answers that peers have not taken.
    SendBuffer,
    /// Memory for what of them no send buffer holds.
    Answer,
}

/// A connection that could give way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// How long it has made no progress.
    pub(crate) idle: Duration,
    /// What its end would free.
    pub(crate) holds: u64,
}

impl Shortage {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Shortage::Upload => "upload",
            Shortage::Place => "place",
            Shortage::SendBuffer => "send_buffer",
            Shortage::Answer => "answer",
        }
    }

    /// How long a connection may make no progress before it gives way. The time is shorter where
    /// more than `all` would have to come free, since each round of idle uploads takes that long.
    /// It is never shorter than a long round trip, for which an honest upload pauses.
    pub(crate) fn idle_min(self, wanted: u64, all: u64) -> Duration {
        match self {
            Shortage::Upload if wanted > all => Duration::from_millis(500),
            Shortage::Upload => Duration::from_secs(1),
            Shortage::Place | Shortage::SendBuffer | Shortage::Answer => Duration::from_secs(2),
        }
    }
}

/// The connections that give way so that `wanted` comes free, by index: the slowest, and as few as
/// possible. Less comes free if the others are not as slow as `idle_min`.
pub(crate) fn slowest(candidates: &[Candidate], idle_min: Duration, wanted: u64) -> Vec<usize> {
    let is_slow = |at: &usize| candidates[*at].idle >= idle_min && candidates[*at].holds > 0;
    let mut slow: Vec<usize> = (0..candidates.len()).filter(is_slow).collect();
    slow.sort_by_key(|at| std::cmp::Reverse(candidates[*at].idle));
    let mut freed = 0;
    let is_needed = |at: &usize| {
        let is_needed = freed < wanted;
        freed += candidates[*at].holds;
        is_needed
    };
    slow.into_iter().take_while(is_needed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE_MIN: Duration = Duration::from_secs(1);

    fn candidates(of: &[(u64, u64)]) -> Vec<Candidate> {
        let one = |&(idle_ms, holds): &(u64, u64)| Candidate {
            idle: Duration::from_millis(idle_ms),
            holds,
        };
        of.iter().map(one).collect()
    }

    #[test]
    fn the_slowest_go_first_and_no_more_than_needed() {
        let all = candidates(&[(2000, 10), (5000, 10), (3000, 10), (4000, 10)]);
        assert_eq!(slowest(&all, IDLE_MIN, 1), [1]);
        assert_eq!(slowest(&all, IDLE_MIN, 10), [1]);
        assert_eq!(slowest(&all, IDLE_MIN, 11), [1, 3]);
        assert_eq!(slowest(&all, IDLE_MIN, 1000), [1, 3, 2, 0]);
        assert_eq!(slowest(&all, IDLE_MIN, 0), [] as [usize; 0]);
    }

    #[test]
    fn one_that_makes_progress_or_holds_nothing_never_goes() {
        let all = candidates(&[(999, 10), (0, 1 << 30), (9000, 0), (1000, 1)]);
        assert_eq!(slowest(&all, IDLE_MIN, u64::MAX), [3]);
    }
}
