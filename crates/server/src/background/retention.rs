//! Periodic work on files: retention, index flushes, the disk's free space.
//!
//! Runs beside the workers on the main thread's runtime. All file work is on threads that may
//! block.

use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_ring::blocking;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::broker::Broker;
use crate::clock;
use crate::stop::{Stop, wait_for};

/// How often the disk's free space is measured.
const DISK_INTERVAL: Duration = Duration::from_secs(1);

/// How often index entries are written to their files. A crash makes recovery rebuild later ones.
const INDEX_FLUSH_INTERVAL: Duration = Duration::from_secs(10);

/// Measures the free space and flushes indexes until a stop begins.
pub(crate) async fn run(broker: Arc<Broker>, stop: watch::Receiver<Stop>) {
    let mut flushed = Instant::now();
    let watching = stop.clone();
    periodically(DISK_INTERVAL, stop, || {
        let (broker, stop, now) = (Arc::clone(&broker), watching.clone(), Instant::now());
        let indexes_are_due = now.duration_since(flushed) >= INDEX_FLUSH_INTERVAL;
        flushed = if indexes_are_due { now } else { flushed };
        blocking(move || {
            broker.disk.look();
            if indexes_are_due {
                broker.topics.flush_indexes(|| *stop.borrow() < Stop::Drain);
            }
        })
    })
    .await;
}

/// Removes what has expired, until a stop begins. A task of its own: it may read whole segments to
/// find their age, and a roll waits for appends.
pub(crate) async fn retention(broker: Arc<Broker>, stop: watch::Receiver<Stop>) {
    periodically(broker.settings.retention_check_interval, stop, || {
        let broker = Arc::clone(&broker);
        async move {
            broker.topics.roll_expired().await;
            blocking(move || broker.topics.expire(clock::now_ms(), &broker.metrics)).await;
        }
    })
    .await;
}

/// Runs a job every so often, until a stop begins.
async fn periodically<J: Future<Output = ()>>(
    every: Duration,
    mut stop: watch::Receiver<Stop>,
    mut job: impl FnMut() -> J,
) {
    // The first tick would come at once, while the server still starts.
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => job().await,
            () = wait_for(&mut stop, Stop::Drain) => return,
        }
    }
}

async fn blocking(job: impl FnOnce() + Send + 'static) {
    if blocking::run(job).await.is_err() {
        tracing::error!("housekeeping panicked; it goes on at the next tick");
    }
}
