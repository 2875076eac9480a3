//! `produce`: what an appended record costs beside Apache Kafka, and what a synced group costs
//! beside fio.
//!
//! ```text
//! a round, for 1 and 16 partitions     os      ├─ penstock ─┤├─ kafka ─┤    records a CPU-second
//!                                      fsync   ├─ penstock ─┤├─ fio ───┤    MB/s, fio in writes of one group,
//!                                                                          on the disk as it is and on a slower one
//! ```
//!
//! Every run begins with a file system that owes the disk nothing: those of `fsync`, and fio, with
//! new files; those of `os` on a machine whose memory is full of page cache, as it is where a
//! server has run for a day: a virtual machine gives memory that lies idle back to its host, and
//! getting it anew can cost more than all that a server does.

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;

use anyhow::Context;
use penstock_rig::usage;
use penstock_tests::{Penstock, Start};
use serde_json::Value;

use crate::disk::{DiskLimit, slow_disk};
use crate::plan::Plan;
use crate::results::{Appending, Produced, Syncing};
use crate::{fio, kafka, server, witness};

const PRODUCERS: u32 = 16;
const RECORD_BYTES: u64 = 1 << 10;
const BATCH_BYTES: u64 = 16 << 10;
const PARTITIONS: [u32; 2] = [1, 16];
/// A slow disk, when nobody says how slow: a volume as clouds rent it out by default.
const SLOW_DISK_BYTES_PER_S: u64 = 125_000_000;
/// What a run of `os` appends for each of the plan's seconds.
const BYTES_A_SECOND: f64 = 256e6;
/// A Java virtual machine compiles what it runs often; before that it is another program.
const KAFKA_WARM_UP_BYTES: u64 = 4 << 30;
/// Of the memory that is available when all servers are warm: what is left for them to grow.
const SPARE_BYTES: u64 = 1 << 30;

/// All of it.
///
/// # Errors
/// Kafka or fio is missing; a run fails.
pub(crate) fn run(plan: &Plan) -> anyhow::Result<Produced> {
    fio::check()?;
    let mut results = Produced::default();
    let slow_disk = slow_disk(plan, SLOW_DISK_BYTES_PER_S, &mut results.no_slow_disk)?;
    appending(plan, &mut results)?;
    syncing(plan, None, &mut results)?;
    if slow_disk.is_some() {
        syncing(plan, slow_disk, &mut results)?;
    }
    Ok(results)
}

/// A server with a directory of that name.
fn penstock(plan: &Plan, name: &str, durability: &str) -> anyhow::Result<Penstock> {
    let start = Start::on(&plan.fresh(name)?).with(&["--durability", durability]);
    server::start_pinned(plan, &start)
}

/// Penstock and Apache Kafka, acknowledged from the page cache.
fn appending(plan: &Plan, into: &mut Produced) -> anyhow::Result<()> {
    let penstock = penstock(plan, "os", "os")?;
    let kafka = kafka::broker(plan)?;
    let servers = [
        ("penstock", penstock.address(), penstock.pid()),
        ("kafka", kafka.address, kafka.process.pid()),
    ];
    plan.say("warming Apache Kafka up");
    for partitions in PARTITIONS {
        for (_, address, _) in servers {
            produce(plan, address, &Topic::kept(partitions), total(KAFKA_WARM_UP_BYTES / 2))?;
        }
    }
    fill_memory(plan)?;
    for round in 0..plan.rounds {
        plan.say(&format!("appending, round {} of {}", round + 1, plan.rounds));
        for partitions in PARTITIONS {
            for (name, address, pid) in servers {
                settle(plan)?;
                let cpu_before = usage::cpu_s(pid)?;
                let bytes = (BYTES_A_SECOND * plan.seconds) as u64;
                let said = produce(plan, address, &Topic::kept(partitions), total(bytes))?;
                let cpu_s = usage::cpu_s(pid)? - cpu_before;
                let number = |name: &str| number(&said["result"][name]);
                into.appending.push(Appending {
                    server: name.to_owned(),
                    partitions,
                    round,
                    records_per_s: number("records_per_s")?,
                    records_per_cpu_s: number("records")? / cpu_s,
                    generator_busy: number("generator_busy")?,
                });
            }
        }
    }
    penstock.stop()
}

/// Penstock with a sync a group, and fio with one a write of such a group's bytes.
fn syncing(
    plan: &Plan,
    mut slow_disk: Option<(u64, DiskLimit)>,
    into: &mut Produced,
) -> anyhow::Result<()> {
    let name = if slow_disk.is_some() { "fsync-slow" } else { "fsync" };
    let penstock = penstock(plan, name, "fsync")?;
    if let Some((_, limit)) = &mut slow_disk {
        limit.hold(penstock.pid())?;
    }
    for round in 0..plan.rounds {
        let disk = if slow_disk.is_some() { "on a slow disk, " } else { "" };
        plan.say(&format!("syncing, {disk}round {} of {}", round + 1, plan.rounds));
        for partitions in PARTITIONS {
            // New files, as fio has them: those that have grown large cost more to sync.
            let topic = Topic { name: format!("produced-{partitions}-{round}"), partitions };
            produce(plan, penstock.address(), &topic, total(BATCH_BYTES * 64))?;
            settle(plan)?;
            let before = Synced::so_far(&penstock)?;
            let seconds = [("--duration", plan.seconds.to_string()), ("--warm-up", "0".into())];
            let said = produce(plan, penstock.address(), &topic, seconds)?;
            let group_bytes = Synced::so_far(&penstock)?.a_group(&before);
            let group_bytes = group_bytes.context("nothing was synced")?;
            settle(plan)?;
            let bytes = number(&said["result"]["bytes"])?;
            let limit = slow_disk.as_ref().map(|(_, limit)| limit);
            let fio_bytes_per_s = fio::write(plan, limit, partitions, group_bytes, bytes as u64)?;
            into.syncing.push(Syncing {
                disk_bytes_per_s: slow_disk.as_ref().map(|(bytes_per_s, _)| *bytes_per_s),
                partitions,
                round,
                group_bytes,
                penstock_bytes_per_s: number(&said["result"]["bytes_per_s"])?,
                fio_bytes_per_s,
            });
        }
    }
    penstock.stop()
}

/// What a server in `fsync` mode has done so far.
struct Synced {
    bytes: u64,
    syncs: u64,
}

impl Synced {
    fn so_far(penstock: &Penstock) -> anyhow::Result<Synced> {
        let metrics = penstock.metrics()?;
        let bytes = metrics.value("penstock_produced_bytes_total");
        Ok(Synced { bytes, syncs: metrics.value("penstock_log_syncs_total") })
    }

    /// Mean bytes of a sync since then; `None`: there was none.
    fn a_group(&self, before: &Synced) -> Option<u64> {
        (self.bytes - before.bytes).checked_div(self.syncs - before.syncs)
    }
}

type Flags = [(&'static str, String); 2];

/// Until that much is appended, and without a warm-up, so that processor time and records are of
/// the same run.
fn total(bytes: u64) -> Flags {
    [("--total-bytes", bytes.to_string()), ("--warm-up", "0".to_owned())]
}

/// What is appended to.
struct Topic {
    name: String,
    partitions: u32,
}

impl Topic {
    /// The one that all runs with so many partitions append to.
    fn kept(partitions: u32) -> Topic {
        Topic { name: format!("produced-{partitions}"), partitions }
    }
}

fn produce(plan: &Plan, address: SocketAddr, topic: &Topic, until: Flags) -> anyhow::Result<Value> {
    let mut flags = vec![
        ("--bootstrap-server", address.to_string()),
        ("--topic", topic.name.clone()),
        ("--partitions", topic.partitions.to_string()),
        ("--connections", PRODUCERS.to_string()),
        ("--record-bytes", RECORD_BYTES.to_string()),
        ("--batch-bytes", BATCH_BYTES.to_string()),
        ("--acks", "1".to_owned()),
    ];
    flags.extend(until);
    witness::hear_well(plan, "produce", &flags)
}

/// Writes what is dirty, so that no run pays for the one before it.
fn settle(plan: &Plan) -> anyhow::Result<()> {
    Ok(rustix::fs::syncfs(File::open(&plan.dir)?)?)
}

/// Leaves no memory idle: reads a file that is all hole, which takes page cache and no disk.
fn fill_memory(plan: &Plan) -> anyhow::Result<()> {
    plan.say("filling the page cache");
    let available = usage::available_memory_bytes()?;
    let path = plan.dir.join("hole");
    File::create(&path)?.set_len(available.saturating_sub(SPARE_BYTES))?;
    let (mut hole, mut buffer) = (File::open(path)?, vec![0; 1 << 20]);
    while hole.read(&mut buffer)? > 0 {}
    Ok(())
}

fn number(value: &Value) -> anyhow::Result<f64> {
    value.as_f64().with_context(|| format!("{value} is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_what_one_sync_carried_since_the_last_look() {
        let before = Synced { bytes: 1_000, syncs: 10 };
        assert_eq!(Synced { bytes: 161_000, syncs: 12 }.a_group(&before), Some(80_000));
        assert_eq!(Synced { bytes: 1_000, syncs: 10 }.a_group(&before), None);
    }
}
