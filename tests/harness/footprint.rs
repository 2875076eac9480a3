//! The resources that a server process holds, and a check that it releases them.

use std::time::{Duration, Instant};

use crate::Penstock;

/// Time within which the resources of a load must be released.
const PATIENCE: Duration = Duration::from_secs(10);
/// Memory that the allocator may keep.
const MEMORY_SLACK_BYTES: u64 = 48 << 20;
/// Threads that come and go by themselves, of the blocking pool and of the kernel.
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

    /// Waits until the server holds no more than this again. Its logs may have `segments` more
    /// segments. Panics after ten seconds.
    pub fn assert_back(&self, server: &Penstock, segments: usize) {
        let started = Instant::now();
        loop {
            let now = Footprint::of(server);
            // Idle pipes are kept, with two descriptors each.
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
