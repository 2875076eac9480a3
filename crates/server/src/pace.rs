//! Long work in turns: a request of many elements lets other requests of its thread in between.
//!
//! Called by handlers. It measures no time: a unit is about a partition looked up or
//! described, some hundred nanoseconds.

/// Units between two yields: some hundred microseconds.
const TURN_UNITS: usize = 512;

/// How much one request has done since it last let others in. It allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    units: usize,
}

impl Pace {
    /// Counts work that has been done, and yields at the end of a turn.
    pub(crate) async fn done(&mut self, units: usize) {
        self.units += units;
        if self.units >= TURN_UNITS {
            self.units = 0;
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    /// How often so many calls of `units` each let others in.
    fn yields(calls: usize, units: usize) -> usize {
        let mut pace = Pace::default();
        let mut work = pin!(async {
            for _ in 0..calls {
                pace.done(units).await;
            }
        });
        let mut context = Context::from_waker(Waker::noop());
        (0..).find(|_| matches!(work.as_mut().poll(&mut context), Poll::Ready(()))).unwrap()
    }

    #[test]
    fn long_work_lets_others_in_and_short_work_does_not() {
        assert_eq!(yields(TURN_UNITS - 1, 1), 0);
        assert_eq!(yields(10 * TURN_UNITS, 1), 10);
        assert_eq!(yields(3, 10 * TURN_UNITS), 3, "one long step is a turn of its own");
    }
}
