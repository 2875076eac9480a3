//! `produce`: measures the cost of an appended record beside Apache Kafka, and of a synced commit
//! beside fio.
//!
//! ```text
//! a round, for 1 and 16 partitions     os      ├─ penstock ─┤├─ kafka ─┤    records a CPU-second
//!                                      fsync   ├─ penstock ─┤├─ fio ───┤    MB/s, fio in writes of one commit,
//!                                                                          on the unlimited disk and on a slower one
//! ```
//!
//! Every run starts with no dirty pages in the file system. Runs of `fsync` and of fio have new
//! files. Runs of `os` start with memory full of page cache, as on a machine where a server has run
//! for a day. A virtual machine returns idle memory to its host, and to get it back can cost more
//! than all the work of a server.

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
/// The slow disk's default: a volume as clouds rent it out by default.
const SLOW_DISK_BYTES_PER_S: u64 = 125_000_000;
/// Bytes that a run of `os` appends for each of the plan's seconds.
const BYTES_A_SECOND: f64 = 256e6;
/// Bytes appended before Kafka is measured. A Java virtual machine compiles frequent code, and is
/// another program before that.
const KAFKA_WARM_UP_BYTES: u64 = 4 << 30;
/// The share of available memory, with all servers warm, that is left for them to grow.
const SPARE_BYTES: u64 = 1 << 30;

/// Measures all of `produce`.
///
/// # Errors
/// Kafka or fio is missing, or a run fails.
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

/// Measures Penstock and Apache Kafka, acknowledged from the page cache.
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
                let output = produce(plan, address, &Topic::kept(partitions), total(bytes))?;
                let cpu_s = usage::cpu_s(pid)? - cpu_before;
                let number = |name: &str| number(&output["result"][name]);
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

/// Measures Penstock with a sync for each commit, and fio with a sync for each write of as many
/// bytes.
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
            // New files, like fio's, because large files cost more to sync.
            let topic = Topic { name: format!("produced-{partitions}-{round}"), partitions };
            produce(plan, penstock.address(), &topic, total(BATCH_BYTES * 64))?;
            settle(plan)?;
            let before = Synced::so_far(&penstock)?;
            let seconds = [("--duration", plan.seconds.to_string()), ("--warm-up", "0".into())];
            let output = produce(plan, penstock.address(), &topic, seconds)?;
            let commit_bytes = Synced::so_far(&penstock)?.bytes_a_sync(&before);
            let commit_bytes = commit_bytes.context("nothing was synced")?;
            settle(plan)?;
            let bytes = number(&output["result"]["bytes"])?;
            let limit = slow_disk.as_ref().map(|(_, limit)| limit);
            let fio_bytes_per_s = fio::write(plan, limit, partitions, commit_bytes, bytes as u64)?;
            into.syncing.push(Syncing {
                disk_bytes_per_s: slow_disk.as_ref().map(|(bytes_per_s, _)| *bytes_per_s),
                partitions,
                round,
                commit_bytes,
                penstock_bytes_per_s: number(&output["result"]["bytes_per_s"])?,
                fio_bytes_per_s,
            });
        }
    }
    penstock.stop()
}

/// Work of a server in `fsync` mode so far.
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

    /// Mean bytes of a sync since `before`. `None`: there was none.
    fn bytes_a_sync(&self, before: &Synced) -> Option<u64> {
        (self.bytes - before.bytes).checked_div(self.syncs - before.syncs)
    }
}

type Flags = [(&'static str, String); 2];

/// Arguments of a run that ends when `bytes` are appended. It has no warm-up, so that processor
/// time and records cover the same run.
fn total(bytes: u64) -> Flags {
    [("--total-bytes", bytes.to_string()), ("--warm-up", "0".to_owned())]
}

/// The topic of a run.
struct Topic {
    name: String,
    partitions: u32,
}

impl Topic {
    /// The topic that all runs with as many partitions append to.
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

/// Writes dirty pages back, so that no run pays for the one before it.
fn settle(plan: &Plan) -> anyhow::Result<()> {
    Ok(rustix::fs::syncfs(File::open(&plan.dir)?)?)
}

/// Fills idle memory with page cache, by reading a file that is one hole and needs no disk.
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
    fn the_bytes_of_a_sync_are_the_mean_since_the_last_look() {
        let before = Synced { bytes: 1_000, syncs: 10 };
        assert_eq!(Synced { bytes: 161_000, syncs: 12 }.bytes_a_sync(&before), Some(80_000));
        assert_eq!(Synced { bytes: 1_000, syncs: 10 }.bytes_a_sync(&before), None);
    }
}
