//! What happens by the clock: retention, index flushes, a look at the disk.
//!
//! Runs beside the workers on the main thread's runtime; all file work is on the blocking pool.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::clock;
use crate::server::Server;
use crate::worker::{Stop, wait_for};

/// How often the disk's free space is looked at.
const DISK_INTERVAL: Duration = Duration::from_secs(1);

/// How often index entries go to their files: what a crash makes recovery rebuild.
const INDEX_FLUSH_INTERVAL: Duration = Duration::from_secs(10);

/// Runs until a stop begins.
pub(crate) async fn run(server: Arc<Server>, mut stop: watch::Receiver<Stop>) {
    let mut ticks =
        tokio::time::interval(DISK_INTERVAL.min(server.settings.retention_check_interval));
    let mut due = Due::starting(Instant::now());
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = wait_for(&mut stop, Stop::Drain) => return,
        }
        let (server, now) = (Arc::clone(&server), Instant::now());
        let retention = due.retention.is_due(now, server.settings.retention_check_interval);
        let indexes = due.indexes.is_due(now, INDEX_FLUSH_INTERVAL);
        // First: a roll waits for whoever appends, which a slow disk may hold up.
        let looking = Arc::clone(&server);
        let looked = tokio::task::spawn_blocking(move || looking.disk.look()).await;
        if retention {
            server.topics.roll_expired().await;
        }
        let work = tokio::task::spawn_blocking(move || {
            if retention {
                server.topics.expire(clock::now_ms(), &server.metrics);
            }
            if indexes {
                server.topics.flush_indexes();
            }
        });
        if work.await.and(looked).is_err() {
            tracing::error!("housekeeping panicked; it goes on at the next tick");
        }
    }
}

struct Due {
    retention: Job,
    indexes: Job,
}

struct Job {
    last: Instant,
}

impl Due {
    fn starting(now: Instant) -> Self {
        Due { retention: Job { last: now }, indexes: Job { last: now } }
    }
}

impl Job {
    fn is_due(&mut self, now: Instant, every: Duration) -> bool {
        let due = now.duration_since(self.last) >= every;
        if due {
            self.last = now;
        }
        due
    }
}
