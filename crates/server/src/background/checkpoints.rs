//! Moves the recovery points periodically, so that a start after a crash reads less. Flushes topics
//! that have `flush.ms`, to the second.
//!
//! Runs beside the workers on the main thread's runtime. The syncs run on a thread that may block,
//! one partition after the other, so that they load the disk as one stream of writes does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_ring::blocking;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::broker::Broker;
use crate::stop::{Stop, wait_for};

/// How often partitions are checked for `flush.ms`.
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
        // A stop ends this: it flushes the rest itself, several logs at once.
        let goes_on = move || *watching.borrow() < Stop::Drain;
        let flush = move || {
            broker.topics.flush(|partition| goes_on() && (all || partition.is_flush_due(now)));
        };
        if blocking::run(flush).await.is_err() {
            tracing::error!("a checkpoint panicked; the next one is due as usual");
        }
    }
}
