//! Moves the recovery points by the clock: what a start after a crash need not read again.
//!
//! Runs beside the workers on the main thread's runtime; the syncs are on the blocking pool, one partition
//! after the other, so that they take no more of the disk than one stream of writes does.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::server::Server;
use crate::worker::{Stop, wait_for};

/// Runs until a stop begins. The last points are written when the logs are closed.
pub(crate) async fn run(server: Arc<Server>, mut stop: watch::Receiver<Stop>) {
    let mut ticks = tokio::time::interval(server.settings.checkpoint_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = wait_for(&mut stop, Stop::Drain) => return,
        }
        let server = Arc::clone(&server);
        if tokio::task::spawn_blocking(move || server.topics.flush()).await.is_err() {
            tracing::error!("a checkpoint panicked; the next one is due as usual");
        }
    }
}
