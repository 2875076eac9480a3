//! Measures sixteen good peers beside a thousand that never read and five hundred that read 1 KiB a
//! second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::crowd;
use crate::load::Load;
use crate::log::Log;
use crate::plan::Plan;
use crate::results::Slow;
use crate::server::Server;

const SILENT: usize = 1000;
const SLOW: usize = 500;
const SIP_BYTES: usize = 1 << 10;
const SIP_EVERY: Duration = Duration::from_secs(1);
const GOOD: u32 = 16;
const GOOD_BYTES: u32 = 64 << 10;
/// The fetch size of bad peers, more than any socket holds.
const GREED_BYTES: i32 = 50 << 20;
/// The send time-out, long enough that no peer is dropped while the good ones are measured.
const SEND_TIMEOUT_MS: &str = "20000";
/// Time after which the sockets of bad peers are full.
const SETTLE: Duration = Duration::from_secs(3);

/// Measures the latency of good peers, and the cost of bad ones.
///
/// # Errors
/// A run or the server fails.
pub(crate) fn measure(plan: &Plan, log: &Log) -> anyhow::Result<Slow> {
    crowd::allow_descriptors((SILENT + SLOW) as u64 + 1000)?;
    let server = Server::penstock(plan, log, "auto", &[("send.timeout.ms", SEND_TIMEOUT_MS)])?;
    let good = Load { connections: GOOD, fetch_bytes: GOOD_BYTES, seconds: plan.seconds };
    let mut measured = Slow {
        silent: SILENT,
        slow: SLOW,
        p99_us_pairs: Vec::new(),
        threads_quiet: 0,
        threads: 0,
        resident_bytes_quiet: 0,
        resident_bytes: 0,
        send_timeout_s: SEND_TIMEOUT_MS.parse::<f64>()? / 1e3,
        silent_dropped_after_s: None,
    };
    for round in 0..plan.rounds {
        plan.say(&format!("{SILENT} silent and {SLOW} slow peers, round {}", round + 1));
        one(plan, &server, good, round, &mut measured)?;
    }
    server.stop()?;
    Ok(measured)
}

fn one(
    plan: &Plan,
    server: &Server,
    good: Load,
    round: u32,
    measured: &mut Slow,
) -> anyhow::Result<()> {
    let penstock = server.as_penstock().context("not a Penstock")?;
    let mut thrown_away = 0;
    let quiet = good.on(plan, server, round, &mut thrown_away)?;
    measured.threads_quiet = measured.threads_quiet.max(penstock.threads()?);
    measured.resident_bytes_quiet = measured.resident_bytes_quiet.max(penstock.resident_bytes()?);

    let greed = crowd::fetch(0, GREED_BYTES, 500);
    let mut slow = crowd::connect(server.address, SLOW)?;
    let mut silent = crowd::connect(server.address, SILENT)?;
    crowd::ask(&mut slow, &greed)?;
    crowd::ask(&mut silent, &greed)?;
    let asked_at = Instant::now();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let sipping = scope.spawn(|| crowd::sip(&mut slow, SIP_BYTES, SIP_EVERY, &stop));
        let outcome = (|| {
            thread::sleep(SETTLE);
            let beside = good.on(plan, server, round, &mut thrown_away)?;
            measured.p99_us_pairs.push((quiet.p99_us, beside.p99_us));
            measured.threads = measured.threads.max(penstock.threads()?);
            measured.resident_bytes = measured.resident_bytes.max(penstock.resident_bytes()?);
            if round == 0 {
                measured.silent_dropped_after_s = dropped_after_s(server, asked_at)?;
            }
            anyhow::Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        sipping.join().expect("does not panic")?;
        outcome
    })
}

/// Seconds until only the slow connections are left. `None`: others stay.
fn dropped_after_s(server: &Server, asked_at: Instant) -> anyhow::Result<Option<f64>> {
    let penstock = server.as_penstock().context("not a Penstock")?;
    let patience = Duration::from_millis(SEND_TIMEOUT_MS.parse()?) * 3;
    while asked_at.elapsed() < patience {
        if penstock.metrics()?.value("penstock_connections") <= SLOW as u64 {
            return Ok(Some(asked_at.elapsed().as_secs_f64()));
        }
        thread::sleep(Duration::from_millis(200));
    }
    Ok(None)
}
