//! Measures one consumer that reads the whole log from the disk, of every server, in turns.
//!
//! Before each run the log leaves the page cache; afterwards the pages that are in it again are
//! counted. So the table shows how fast old data is read, and what the reader leaves behind. The
//! count is fincore(1)'s (util-linux). A look by a read that refuses to wait would bring the pages
//! in: the kernel begins to read what it does not find.

use std::fs::File;
use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
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
/// A server's second try to drop pages comes within this time.
const DROP_REST: Duration = Duration::from_secs(2);
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
        left_behind: settled(log)?,
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
        let left = cached(log)?;
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

/// The share in memory once it has stopped shrinking: a server may drop pages for some time.
fn settled(log: &Log) -> anyhow::Result<f64> {
    let limit = Instant::now() + EVICTION_MAX;
    loop {
        let before = cached(log)?;
        std::thread::sleep(DROP_REST);
        let left = cached(log)?;
        if left >= before || Instant::now() > limit {
            return Ok(left);
        }
    }
}

/// The share of the log in the page cache.
fn cached(log: &Log) -> anyhow::Result<f64> {
    let mut look = Command::new("fincore");
    look.args(["--bytes", "--noheadings", "--output", "RES"]).arg(&log.segment);
    let output = look.output().context("fincore of util-linux is needed")?;
    let bytes = String::from_utf8_lossy(&output.stdout);
    let bytes: u64 = bytes.trim().parse().with_context(|| format!("{look:?}: {output:?}"))?;
    Ok(bytes as f64 / log.len_bytes as f64)
}
