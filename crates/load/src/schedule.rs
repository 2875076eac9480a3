//! The moments at which requests are due. Pure: it counts from the start of the run and reads no
//! clock.
//!
//! With a rate the load is open: the moment of each request is fixed beforehand, whatever the
//! server does. A request that goes out late, because the answer before it was late, has waited
//! since its due moment, and its latency includes that wait. (A closed loop hides exactly those
//! waits: "coordinated omission".)
//!
//! ```text
//! rate 4/s, 2 connections        0 ms    250     500     750     1000
//! connection 0                   |               |               |
//! connection 1                           |               |
//! ```

use std::time::Duration;

/// The moments at which one connection's requests are due.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Schedule {
    /// Each request follows the answer before it.
    Closed,
    /// Request `n` is due at `(first + n * step) / rate`, in seconds.
    Open { rate: f64, first: u64, step: u64 },
}

impl Schedule {
    /// The share of `connection` in the `rate` requests per second of all `connections`. A rate of
    /// 0 makes a closed loop.
    pub(crate) fn new(rate: f64, connection: u32, connections: u32) -> Schedule {
        match rate > 0.0 {
            true => Schedule::Open { rate, first: connection.into(), step: connections.into() },
            false => Schedule::Closed,
        }
    }

    /// When request number `request` (from 0) is due. `None`: at once.
    pub(crate) fn due(&self, request: u64) -> Option<Duration> {
        match *self {
            Schedule::Closed => None,
            // One division from the start each time, so no error adds up over a long run.
            Schedule::Open { rate, first, step } => {
                Some(Duration::from_secs_f64((first + request * step) as f64 / rate))
            }
        }
    }

    /// The count of requests due before `end`: 0 for a closed loop, which owes none.
    pub(crate) fn due_before(&self, end: Duration) -> u64 {
        match *self {
            Schedule::Closed => 0,
            Schedule::Open { rate, first, step } => {
                let slots = (end.as_secs_f64() * rate).ceil() as u64;
                slots.saturating_sub(first).div_ceil(step)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_share_a_rate_evenly_and_in_turn() {
        let due = |connection, request| {
            Schedule::new(4.0, connection, 2).due(request).unwrap().as_millis()
        };
        assert_eq!(
            [due(0, 0), due(1, 0), due(0, 1), due(1, 1), due(0, 2)],
            [0, 250, 500, 750, 1000]
        );
    }

    #[test]
    fn a_closed_loop_has_no_intended_moments() {
        let schedule = Schedule::new(0.0, 3, 8);
        assert_eq!(schedule.due(17), None);
        assert_eq!(schedule.due_before(Duration::from_secs(60)), 0);
    }

    #[test]
    fn no_error_adds_up_over_a_long_run() {
        let schedule = Schedule::new(3.0, 0, 1);
        assert_eq!(schedule.due(3 * 86_400), Some(Duration::from_secs(86_400)));
    }

    #[test]
    fn the_requests_due_before_an_end_are_those_whose_moment_is_earlier() {
        for (rate, connections, end_ms) in [(4.0, 2, 1000), (1000.0, 3, 77), (0.7, 5, 30_000)] {
            let end = Duration::from_millis(end_ms);
            for connection in 0..connections {
                let schedule = Schedule::new(rate, connection, connections);
                let counted = (0..).take_while(|n| schedule.due(*n).unwrap() < end).count() as u64;
                assert_eq!(schedule.due_before(end), counted, "rate {rate}, {connection}");
            }
        }
    }
}
