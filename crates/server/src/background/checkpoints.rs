//! Moves the recovery points by the clock: what a start after a crash need not read again. And
//! flushes what a topic does not let wait as long (`flush.ms`), to the second.
//!
//! Runs beside the workers on the main thread's runtime; the syncs are on a thread that may block,
//! one partition after the other, so that they take no more of the disk than one stream of writes
//! does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_ring::blocking;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::broker::Broker;
use crate::stop::{Stop, wait_for};

/// How often partitions are asked whether `flush.ms` is over.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Runs until a stop begins. The last points are written when the logs are closed.
pub(crate) async fn run(broker: Arc<Broker>, mut stop: watch::Receiver<Stop>) {
    let interval = broker.settings.checkpoint_interval;
    let mut ticks = tokio::time::interval(interval.min(LOOK_INTERVAL));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = wait_for(&mut stop, Stop::Drain) => return,
        }
        let (broker, now) = (Arc::clone(&broker), Instant::now());
        let all = interval <= LOOK_INTERVAL
            || last.is_none_or(|last| now.duration_since(last) >= interval);
        if all {
            last = Some(now);
        }
        let watching = stop.clone();
        // A stop flushes what is left, side by side.
        let goes_on = move || *watching.borrow() < Stop::Drain;
        let flush = move || {
            broker.topics.flush(|partition| goes_on() && (all || partition.is_flush_due(now)));
        };
        if blocking::run(flush).await.is_err() {
            tracing::error!("a checkpoint panicked; the next one is due as usual");
        }
    }
}
