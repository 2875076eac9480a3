//! `penstock scrub`: every batch of a data directory that no server uses against its CRC, and every index
//! against its batches.
//!
//! What it finds damaged it writes down, so that the next start knows it; batches it never changes. Wrong
//! indexes it replaces if told to. It leaves the page cache as it was.

use std::io::Write;

use anyhow::{Context, bail};
use penstock_storage::{Damage, DataDir, PartitionName, Scrub, Scrubbed, keep_damage};

use crate::cli::ScrubArguments;

/// What is wrong with one partition.
#[derive(Default)]
struct Findings {
    segments: u64,
    bytes: u64,
    batches: u64,
    damage: Vec<Damage>,
    wrong_indexes: u64,
    repaired: u64,
    unreadable: u64,
}

/// Runs the command.
///
/// # Errors
/// The directory is in use or is none; something in it is damaged, unreadable, or an index wrong.
pub(crate) fn run(arguments: &ScrubArguments) -> anyhow::Result<()> {
    let path = &arguments.data_dir;
    if !path.is_dir() {
        bail!("{} is not a directory", path.display());
    }
    let data_dir = DataDir::open(path)?;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:<32} {:>8} {:>12} {:>16} {:>8} {:>14} {:>14}",
        "partition", "segments", "batches", "bytes", "damaged", "damaged bytes", "wrong indexes"
    )?;
    let mut bad = 0;
    for name in data_dir.partitions()? {
        let findings = scrub_partition(&data_dir, &name, arguments.repair_indexes)
            .with_context(|| format!("partition {name}"))?;
        show(&mut out, &name, &findings)?;
        bad += u64::from(!findings.is_sound());
    }
    if bad > 0 {
        bail!("{bad} partitions are not sound");
    }
    Ok(())
}

fn scrub_partition(
    data_dir: &DataDir,
    name: &PartitionName,
    repair_indexes: bool,
) -> anyhow::Result<Findings> {
    let path = data_dir.partition_path(name);
    let clean = data_dir.was_stopped_cleanly();
    let log_end = data_dir.recovery_points()?.get(name).map(|point| point.offset);
    let mut findings = Findings::default();
    let mut reports = Vec::new();
    for (base, next) in Scrub::segments(&path)? {
        let mut scrub = Scrub::open(&path, base, next)?;
        findings.segments += 1;
        if let Err(error) = read_all(&mut scrub) {
            eprintln!("{name}: segment {base} cannot be read: {error}");
            findings.unreadable += 1;
            continue;
        }
        let mut report = scrub.report().clone();
        match report.unsound_end {
            // Nothing was under way when the logs were closed, or it was synced: what is unsound was sound.
            Some(tail) if clean || log_end.is_some_and(|end| end > tail.first) => {
                let end = tail.end.max(log_end.unwrap_or(tail.end));
                report.damage.push(Damage { end, ..tail });
            }
            Some(tail) => println!(
                "{name}: the last {} bytes of segment {base} are torn; the next start cuts them",
                tail.len_bytes
            ),
            None => {}
        }
        findings.add(&report);
        if report.wrong_index_entries > 0 && repair_indexes {
            scrub.repair_indexes().context("cannot replace an index")?;
            findings.repaired += 1;
        }
        reports.push(report);
    }
    keep_damage(&path, &reports).context("cannot write down what is damaged")?;
    Ok(findings)
}

fn read_all(scrub: &mut Scrub) -> std::io::Result<()> {
    while scrub.step()?.is_some() {}
    Ok(())
}

fn show(out: &mut impl Write, name: &PartitionName, findings: &Findings) -> std::io::Result<()> {
    let damaged_bytes: u64 = findings.damage.iter().map(|damage| damage.len_bytes).sum();
    writeln!(
        out,
        "{:<32} {:>8} {:>12} {:>16} {:>8} {:>14} {:>14}",
        name.to_string(),
        findings.segments,
        findings.batches,
        findings.bytes,
        findings.damage.len(),
        damaged_bytes,
        findings.wrong_indexes,
    )?;
    for Damage { segment, position, len_bytes, first, end } in &findings.damage {
        writeln!(
            out,
            "  DAMAGED segment {segment} position {position} bytes {len_bytes} offsets {first} to before {end}"
        )?;
    }
    if findings.repaired > 0 {
        writeln!(out, "  indexes of {} segments were made anew", findings.repaired)?;
    } else if findings.wrong_indexes > 0 {
        writeln!(
            out,
            "  answers stay right, look-ups may be slow; --repair-indexes makes them anew"
        )?;
    }
    Ok(())
}

impl Findings {
    fn add(&mut self, report: &Scrubbed) {
        self.bytes += report.size_bytes;
        self.batches += report.batches;
        self.damage.extend(&report.damage);
        self.wrong_indexes += u64::from(report.wrong_index_entries > 0);
    }

    fn is_sound(&self) -> bool {
        self.damage.is_empty() && self.unreadable == 0 && self.wrong_indexes == self.repaired
    }
}
