//! The wall clock, as records know it, and a clock that costs next to nothing, for time-outs.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Both clocks, read together.
static START: LazyLock<(Instant, Duration)> = LazyLock::new(|| (Instant::now(), ticks()));

/// Milliseconds since 1970; before it, 0.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The time of the kernel's last tick, some milliseconds ago at most. A request notes the time at
/// each of its phases; the exact time would cost it a hundredth of its processor time.
pub(crate) fn coarse_now() -> Instant {
    let (instant, then) = *START;
    instant + ticks().saturating_sub(then)
}

fn ticks() -> Duration {
    let time = clock_gettime(ClockId::MonotonicCoarse);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coarse_time_is_no_more_than_a_moment_behind() {
        // A tick is 10 ms on kernels with the fewest.
        const TICK: Duration = Duration::from_millis(10);
        let first = coarse_now();
        std::thread::sleep(3 * TICK);
        let (before, coarse, after) = (Instant::now(), coarse_now(), Instant::now());
        assert!(coarse >= first + TICK);
        assert!(coarse + 2 * TICK >= before && coarse <= after + 2 * TICK);
    }
}
