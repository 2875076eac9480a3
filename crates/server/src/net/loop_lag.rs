//! How long a task that could run waits for its event loop.
//!
//! A task of each worker, only where `fetch.hot.p99.target.ms` is set. A request's own time begins
//! when its task runs, so the control adds this to it.
//!
//! ```text
//!   due ── late ──► runs ── yields, a turn of the loop ──► runs
//!          └───────── lag, less the timer's own lateness ────┘
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::broker::Broker;

/// Between two measurements.
const INTERVAL: Duration = Duration::from_millis(1);

/// A timer and epoll_wait(2) round up to a millisecond each, which is one on average.
const TIMER_IS_LATE: Duration = Duration::from_millis(1);

/// Measures until it is aborted. Ends at once if nothing asks for it.
pub(crate) async fn measure(broker: Arc<Broker>) {
    let control = broker.cold_budgets.as_ref().and_then(|budgets| budgets.control.as_ref());
    let Some(control) = control else { return };
    loop {
        let due = Instant::now() + INTERVAL;
        tokio::time::sleep_until(due).await;
        let ran = Instant::now();
        tokio::task::yield_now().await;
        let late = ran.saturating_duration_since(due).saturating_sub(TIMER_IS_LATE);
        control.note_lag(late + ran.elapsed(), INTERVAL);
    }
}
