//! Waits for a moment with the precision of the kernel's high-resolution timers.
//!
//! Used by `run` for open loops. tokio's timers round up to whole milliseconds, which would add to
//! every latency. A timerfd does not round.

use std::io;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::{Interest, unix::AsyncFd};

/// One timer, of one connection.
#[derive(Debug)]
pub(crate) struct Pacer {
    timer: AsyncFd<std::os::fd::OwnedFd>,
}

impl Pacer {
    /// # Errors
    /// No descriptor is left, or the caller is outside a runtime with I/O.
    #[expect(deprecated, reason = "the other constructor is unsafe; an OwnedFd keeps its promise")]
    pub(crate) fn new() -> io::Result<Pacer> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Pacer { timer: AsyncFd::with_interest(timer, Interest::READABLE)? })
    }

    /// Returns at `moment`, or at once if it has passed. Dropping the future forgets the wait.
    pub(crate) async fn until(&self, moment: Instant) -> io::Result<()> {
        let left = moment.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let once = Itimerspec { it_interval: timespec(Duration::ZERO), it_value: timespec(left) };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.timer.readable().await?;
            let expirations = &mut [0; 8];
            // Readiness left over from a forgotten wait has nothing to read, so the loop waits
            // again.
            if let Ok(read) = ready.try_io(|timer| Ok(rustix::io::read(timer, expirations)?)) {
                return read.map(|_| ());
            }
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: duration.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_never_ends_before_its_moment_even_after_a_forgotten_one() {
        let pacer = Pacer::new().unwrap();
        {
            let forgotten = pacer.until(Instant::now() + Duration::from_micros(100));
            tokio::pin!(forgotten);
            assert!(poll_once(&mut forgotten).await.is_none());
        }
        for wait_us in [50, 700, 2500] {
            let moment = Instant::now() + Duration::from_micros(wait_us);
            pacer.until(moment).await.unwrap();
            assert!(Instant::now() >= moment);
        }
    }

    /// Polls once.
    async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(context) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
