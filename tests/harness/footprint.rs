//! What a server process holds of the machine, and that it gives it back.

use std::time::{Duration, Instant};

use crate::Penstock;

/// What a load took must be back within this.
const PATIENCE: Duration = Duration::from_secs(10);
/// The allocator keeps some of what it was given.
const MEMORY_SLACK_BYTES: u64 = 48 << 20;
/// Threads that come and go by themselves: of the blocking pool, of the kernel.
const THREADS_SLACK: usize = 6;

/// Threads, descriptors, memory and pipes at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Footprint {
    threads: usize,
    descriptors: usize,
    resident_bytes: u64,
    pipes_leased: u64,
    connections: u64,
}

impl Footprint {
    /// The server's now.
    pub fn of(server: &Penstock) -> Footprint {
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", server.pid()));
        let metrics = server.metrics().expect("metrics are answered");
        Footprint {
            threads: server.threads().expect("it runs"),
            descriptors: descriptors.expect("it runs").count(),
            resident_bytes: server.resident_bytes().expect("it runs"),
            pipes_leased: metrics.value("penstock_ring_pipes_leased"),
            connections: metrics.value("penstock_connections"),
        }
    }

    /// Waits until the server holds no more than this again; segments of its logs may be `segments`
    /// more. Panics after ten seconds.
    pub fn assert_back(&self, server: &Penstock, segments: usize) {
        let started = Instant::now();
        loop {
            let now = Footprint::of(server);
            // Idle pipes are kept, two descriptors each.
            let kept = 2 * server.metrics().expect("metrics").value("penstock_ring_pipes_open");
            let is_back = now.threads <= self.threads + THREADS_SLACK
                && now.descriptors <= self.descriptors + kept as usize + segments
                && now.resident_bytes <= self.resident_bytes + MEMORY_SLACK_BYTES
                && now.pipes_leased == 0
                && now.connections <= self.connections;
            if is_back {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{now:?} is not back to {self:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
