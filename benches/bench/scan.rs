//! Measures one consumer that reads the whole log from the disk, of every server, in turns.
//!
//! Before each run the log leaves the page cache; afterwards the pages that are in it again are
//! counted. So the table shows how fast old data is read, and what the reader leaves behind.

use std::fs::File;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::ensure;
use penstock_rig::cache::{Residency, residency_of};
use penstock_rig::usage::{self, GB};
use rustix::fs::{Advice, fadvise};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::log::{Log, TOPIC};
use crate::plan::Plan;
use crate::results::{Comparison, Scan};
use crate::server::Server;
use crate::witness;

/// A reader of old data asks for this much at once.
const FETCH_BYTES: u32 = 1 << 20;
/// How long pages may take to leave the page cache: before a run, and behind a reader.
const EVICTION_MAX: Duration = Duration::from_secs(5);
const LOOK_REST: Duration = Duration::from_millis(50);
/// The distance of the pages that are looked at.
const STEP: usize = 16;
/// The share of the log that may stay in memory before a run.
const CACHED_MAX: f64 = 0.01;

/// Runs the rounds.
///
/// # Errors
/// A run fails, or the log does not leave the page cache.
pub(crate) fn measure(
    plan: &Plan,
    servers: &[&Server],
    into: &mut Comparison,
) -> anyhow::Result<()> {
    for round in 0..plan.rounds {
        plan.say(&format!("one reader of old data, round {} of {}", round + 1, plan.rounds));
        let first = round as usize % servers.len().max(1);
        for server in servers[first..].iter().chain(&servers[..first]) {
            into.scans.push(scan(plan, server, round)?);
        }
    }
    into.scans.sort_by_key(|run| servers.iter().position(|server| server.name == run.server));
    Ok(())
}

fn scan(plan: &Plan, server: &Server, round: u32) -> anyhow::Result<Scan> {
    let log = &server.log;
    let left = evict(log)?;
    let (name, percent) = (log.segment.display(), left * 100.0);
    ensure!(left <= CACHED_MAX, "{percent:.1} % of {name} does not leave the page cache");
    let (cpu_before, begun) = (usage::cpu_s(server.pid)?, Instant::now());
    let arguments = [
        ("--bootstrap-server", server.address.to_string()),
        ("--topic", TOPIC.to_owned()),
        ("--connections", "1".to_owned()),
        ("--from", "earliest".to_owned()),
        ("--max-bytes", FETCH_BYTES.to_string()),
        ("--no-verify", String::new()),
    ];
    witness::hear_well(plan, "fetch", &arguments)?;
    let (lasted, cpu_s) = (begun.elapsed(), usage::cpu_s(server.pid)? - cpu_before);
    Ok(Scan {
        server: server.name.clone(),
        round,
        bytes_per_s: log.len_bytes as f64 / lasted.as_secs_f64(),
        server_cpu_s_per_gb: cpu_s / (log.len_bytes as f64 / GB),
        left_behind: settled(log)?.share(),
    })
}

/// Evicts the log, and returns the share that stays. The kernel keeps pages that a local peer has
/// received until the processor that sent them does network work again, so this does some.
fn evict(log: &Log) -> anyhow::Result<f64> {
    let (file, limit) = (File::open(&log.segment)?, Instant::now() + EVICTION_MAX);
    rustix::fs::fsync(&file)?;
    loop {
        network_work()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
        let left = look(log)?.share();
        if left == 0.0 || Instant::now() > limit {
            return Ok(left);
        }
        std::thread::sleep(LOOK_REST);
    }
}

/// Sends datagrams on each processor.
fn network_work() -> anyhow::Result<()> {
    /// More than a processor's list of buffers to be freed holds.
    const DATAGRAMS: usize = 100;
    let ours = sched_getaffinity(None)?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(socket.local_addr()?)?;
    for core in (0..CpuSet::MAX_CPU).filter(|core| ours.is_set(*core)) {
        let mut alone = CpuSet::new();
        alone.set(core);
        sched_setaffinity(None, &alone)?;
        for _ in 0..DATAGRAMS {
            socket.send(&[0])?;
            socket.recv(&mut [0])?;
        }
    }
    Ok(sched_setaffinity(None, &ours)?)
}

/// What is in memory once it has stopped shrinking: a server may drop pages for some time.
fn settled(log: &Log) -> anyhow::Result<Residency> {
    let limit = Instant::now() + EVICTION_MAX;
    loop {
        let before = look(log)?;
        std::thread::sleep(Duration::from_secs(2));
        let left = look(log)?;
        if left.cached >= before.cached || Instant::now() > limit {
            return Ok(left);
        }
    }
}

/// Where pages cannot be looked at, none counts as in memory.
fn look(log: &Log) -> anyhow::Result<Residency> {
    let file = File::open(&log.segment)?;
    Ok(residency_of(&file, 0..log.len_bytes, STEP)?.unwrap_or_default())
}
