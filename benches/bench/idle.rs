//! Measures ten thousand idle connections, half of them in a long poll, beside a hundred active
//! ones.

use std::time::{Duration, Instant};

use penstock_rig::usage;

use crate::crowd;
use crate::load::Load;
use crate::log::Log;
use crate::plan::Plan;
use crate::results::Idle;
use crate::server::Server;

const CONNECTIONS: usize = 10_000;
const ACTIVE: u32 = 100;
const ACTIVE_BYTES: u32 = 64 << 10;
/// The wait of a long poll, longer than the scenario.
const LONG_POLL_MS: i32 = 900_000;
const WATCHED: Duration = Duration::from_secs(3);

/// Measures memory and processor time of the idle connections, and throughput of the active ones.
///
/// # Errors
/// There are too few descriptors, a connection is refused, or a run fails.
pub(crate) fn measure(plan: &Plan, log: &Log) -> anyhow::Result<Idle> {
    crowd::allow_descriptors(CONNECTIONS as u64 + 1000)?;
    let limit = (CONNECTIONS + 1000).to_string();
    let server = Server::penstock(plan, log, "auto", &[("max.connections", &limit)])?;
    let active = Load { connections: ACTIVE, fetch_bytes: ACTIVE_BYTES, seconds: plan.seconds };
    let mut thrown_away = 0;
    let mut measured = Idle {
        connections: CONNECTIONS,
        bytes_each: 0.0,
        cpu_share: 0.0,
        active_pairs: Vec::new(),
    };
    for round in 0..plan.rounds {
        plan.say(&format!("{CONNECTIONS} idle connections, round {}", round + 1));
        let alone = active.on(plan, &server, round, &mut thrown_away)?;
        let (before, _) = usage::resident_bytes(server.pid)?;
        let mut crowd = crowd::connect(server.address, CONNECTIONS)?;
        let end = log.len_bytes / crate::log::BATCH_BYTES * log.batch_records;
        let long_poll = crowd::fetch(end, 1 << 20, LONG_POLL_MS);
        crowd::ask(&mut crowd[..CONNECTIONS / 2], &long_poll)?;
        wait_until_all_wait(&server)?;
        if round == 0 {
            // The server uses the memory of closed connections again, so only the first crowd shows
            // its size.
            let (after, _) = usage::resident_bytes(server.pid)?;
            measured.bytes_each = after.saturating_sub(before) as f64 / CONNECTIONS as f64;
            let (cpu_before, watched_from) = (usage::cpu_s(server.pid)?, Instant::now());
            std::thread::sleep(WATCHED);
            let cpu_s = usage::cpu_s(server.pid)? - cpu_before;
            measured.cpu_share = cpu_s / watched_from.elapsed().as_secs_f64();
        }
        let beside = active.on(plan, &server, round, &mut thrown_away)?;
        measured.active_pairs.push((alone.fetches_per_s, beside.fetches_per_s));
    }
    server.stop()?;
    Ok(measured)
}

/// Waits until the server has accepted all connections and registered all long polls.
fn wait_until_all_wait(server: &Server) -> anyhow::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(60);
    let Some(penstock) = server.as_penstock() else { return Ok(()) };
    let started = Instant::now();
    while penstock.metrics()?.value("penstock_fetch_waiting") < CONNECTIONS as u64 / 2 {
        anyhow::ensure!(
            started.elapsed() < PATIENCE,
            "the server has not registered all long polls"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
