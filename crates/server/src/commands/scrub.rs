//! `penstock scrub`: checks every batch of a data directory against its CRC, and every index
//! against its batches.
//!
//! No server may use the directory. Damage is written down, so that the next start knows it;
//! batches are never changed. Wrong indexes are replaced if asked for. The page cache stays as it
//! was.

use std::{fmt::Display, io::Write, path::PathBuf};

use anyhow::{Context, bail};
use penstock_storage::{
    Damage, DataDir, LogError, Offset, OldSegments, PartitionName, Scrub, Scrubbed, keep_damage,
};

use crate::causes::Causes;
use crate::commands::cli::ScrubArguments;

/// A partition and what is known of its end.
struct Partition {
    name: PartitionName,
    path: PathBuf,
    /// Whether the last server closed every log.
    clean: bool,
    /// The partition's recovery point, by which everything before it was synced.
    log_end: Option<Offset>,
}

/// The outcome for one partition.
#[derive(Default)]
struct Findings {
    /// Of segments that could be read.
    reports: Vec<Scrubbed>,
    repaired: usize,
    /// Reads and writes that failed.
    failures: usize,
}

/// Runs the command.
///
/// # Errors
/// The directory is in use or is none; or something in it is damaged, unreadable, or a wrong index.
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
    let clean = data_dir.was_stopped_cleanly();
    let points = data_dir.recovery_points()?;
    let mut bad = 0;
    for name in data_dir.partitions()? {
        let log_end = points.get(&name).map(|point| point.offset);
        let partition = Partition { path: data_dir.partition_path(&name), name, clean, log_end };
        let findings = partition.scrub(arguments.repair_indexes);
        show(&mut out, &partition.name, &findings)?;
        bad += u64::from(!findings.is_sound());
    }
    if bad > 0 {
        bail!("{bad} partitions are not sound");
    }
    Ok(())
}

impl Partition {
    /// Logs what cannot be read and goes on with the rest.
    fn scrub(&self, repair_indexes: bool) -> Findings {
        let mut findings = Findings::default();
        let segments = self.segments().unwrap_or_else(|error| {
            findings.fail(error);
            Vec::new()
        });
        for (base, next) in segments {
            if let Err(error) = self.scrub_segment(base, next, repair_indexes, &mut findings) {
                findings.fail(format_args!(
                    "{}: segment {base}: {}",
                    self.path.display(),
                    Causes(&error)
                ));
            }
        }
        if let Err(error) = keep_damage(&self.path, &findings.reports) {
            let path = self.path.display();
            findings.fail(format_args!("{path}: cannot write down what is damaged: {error}"));
        }
        findings
    }

    /// Segments that can be read, each with the base offset of the next one.
    fn segments(&self) -> Result<Vec<(Offset, Option<Offset>)>, LogError> {
        let mut segments = Scrub::segments(&self.path)?;
        if let Some(old) = OldSegments::of(&self.path)? {
            segments.retain(|(base, _)| !old.holds(*base));
            println!(
                "{}: {} segments from offset {} on are of message format {}, before Kafka 0.11: neither read nor served",
                self.name, old.segments, old.first, old.magic
            );
        }
        Ok(segments)
    }

    fn scrub_segment(
        &self,
        base: Offset,
        next: Option<Offset>,
        repair_indexes: bool,
        findings: &mut Findings,
    ) -> anyhow::Result<()> {
        let mut scrub = Scrub::open(&self.path, base, next).context("cannot be opened")?;
        while scrub.step().context("cannot be read")?.is_some() {}
        let mut report = scrub.report().clone();
        let Partition { name, log_end, .. } = self;
        match report.unsound_end {
            // No write was under way when the logs were closed, or the bytes were synced: the
            // unsound bytes were sound once.
            Some(tail) if self.clean || log_end.is_some_and(|end| end > tail.first) => {
                let end = tail.end.max(log_end.unwrap_or(tail.end));
                report.damage.push(Damage { end, ..tail });
            }
            Some(tail) => println!(
                "{name}: the last {} bytes of segment {base} are torn; the next start cuts them",
                tail.len_bytes
            ),
            None => {}
        }
        let is_wrong = report.wrong_index_entries > 0;
        findings.reports.push(report);
        if is_wrong && repair_indexes {
            scrub.repair_indexes().context("cannot replace an index")?;
            findings.repaired += 1;
        }
        Ok(())
    }
}

fn show(out: &mut impl Write, name: &PartitionName, findings: &Findings) -> std::io::Result<()> {
    let sum = |of: fn(&Scrubbed) -> u64| findings.reports.iter().map(of).sum::<u64>();
    writeln!(
        out,
        "{:<32} {:>8} {:>12} {:>16} {:>8} {:>14} {:>14}",
        name.to_string(),
        findings.reports.len(),
        sum(|report| report.batches),
        sum(|report| report.size_bytes),
        findings.damage().count(),
        findings.damage().map(|damage| damage.len_bytes).sum::<u64>(),
        findings.wrong_indexes(),
    )?;
    for Damage { segment, position, len_bytes, first, end } in findings.damage() {
        writeln!(
            out,
            "  DAMAGED segment {segment} position {position} bytes {len_bytes} offsets {first} to before {end}"
        )?;
    }
    if findings.repaired > 0 {
        writeln!(out, "  indexes of {} segments were rebuilt", findings.repaired)?;
    } else if findings.wrong_indexes() > 0 {
        writeln!(
            out,
            "  answers stay right, look-ups may be slow; --repair-indexes rebuilds them"
        )?;
    }
    Ok(())
}

impl Findings {
    fn fail(&mut self, what: impl Display) {
        eprintln!("{what}");
        self.failures += 1;
    }

    fn damage(&self) -> impl Iterator<Item = &Damage> {
        self.reports.iter().flat_map(|report| &report.damage)
    }

    fn wrong_indexes(&self) -> usize {
        self.reports.iter().filter(|report| report.wrong_index_entries > 0).count()
    }

    fn is_sound(&self) -> bool {
        self.damage().next().is_none()
            && self.failures == 0
            && self.wrong_indexes() == self.repaired
    }
}
