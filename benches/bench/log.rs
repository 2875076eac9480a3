//! The log that all servers serve: one partition, one segment, batches of one length.
//!
//! So a range of the segment and a fetch of its batches are the same bytes, and a server of files
//! can be compared with a server of logs. `look` checks that it is so.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use penstock_batch::BatchHeader;
use penstock_rig::cache::{Residency, residency_of};
use penstock_tests::Start;

use crate::plan::Plan;
use crate::witness;

pub(crate) const TOPIC: &str = "bench";
/// The topic of hot readers, while cold readers read all of the other one.
pub(crate) const HOT_TOPIC: &str = "hot";
const HOT_BYTES: u64 = 64 << 20;
pub(crate) const BATCH_BYTES: u64 = 4096;
const RECORD_BYTES: u64 = 1024;
const BATCH_HEADER_LEN: usize = 61;
const PRODUCERS: u32 = 8;
/// The number of batches that are checked.
const LOOKS: u64 = 64;
/// The distance of the pages that are looked for in the page cache.
const RESIDENCY_STEP: usize = 16;

#[derive(Debug, Clone)]
pub(crate) struct Log {
    pub(crate) data_dir: PathBuf,
    pub(crate) segment: PathBuf,
    pub(crate) len_bytes: u64,
    pub(crate) batch_records: u64,
}

impl Log {
    /// Produces the log into a Penstock of its own.
    ///
    /// # Errors
    /// Server or generator fails, or the log is not as expected.
    pub(crate) fn produce(plan: &Plan) -> anyhow::Result<Log> {
        plan.say(&format!("producing {} MiB", plan.log_bytes >> 20));
        let data_dir = plan.fresh("log")?;
        let server = Start::on(&data_dir).start()?;
        produce_into(server.address(), plan)?;
        server.stop()?;
        Log::look(&data_dir, plan.log_bytes)
    }

    /// Looks at the log in a data directory, of any server.
    ///
    /// # Errors
    /// The log is not one segment of equal batches.
    pub(crate) fn look(data_dir: &Path, len_bytes: u64) -> anyhow::Result<Log> {
        let segment = data_dir.join(format!("{TOPIC}-0/00000000000000000000.log"));
        let file = File::open(&segment).with_context(|| segment.display().to_string())?;
        let batch_records = batch_at(&file, 0)?.record_count as u64;
        let batches = len_bytes / BATCH_BYTES;
        for look in 0..=LOOKS {
            let index = (batches - 1) * look / LOOKS;
            let batch = batch_at(&file, index * BATCH_BYTES)?;
            ensure!(
                batch.base_offset as u64 == index * batch_records
                    && batch.len_bytes() as u64 == BATCH_BYTES,
                "batch {index} of {} is {batch:?}",
                segment.display()
            );
        }
        Ok(Log { data_dir: data_dir.to_owned(), segment, len_bytes, batch_records })
    }

    /// The same log for one more server. Segments are hard links, so they share their pages. Other
    /// files are copies.
    ///
    /// # Errors
    /// Files cannot be linked or copied.
    pub(crate) fn linked(&self, data_dir: &Path) -> anyhow::Result<()> {
        link_into(&self.data_dir, data_dir).context("cannot link the log")
    }

    pub(crate) fn hot_part(&self) -> Range<u64> {
        0..self.len_bytes / 2
    }

    /// The directory of the hot topic's segments.
    pub(crate) fn hot_dir(&self) -> PathBuf {
        self.data_dir.join(format!("{HOT_TOPIC}-0"))
    }

    /// Reads the hot part once.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) fn warm(&self) -> anyhow::Result<()> {
        let hot = std::io::Read::take(File::open(&self.segment)?, self.hot_part().end);
        std::io::copy(&mut { hot }, &mut std::io::sink())?;
        Ok(())
    }

    /// Whether the hot part is in the page cache, by a look at some of its pages.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) fn is_hot(&self) -> anyhow::Result<bool> {
        let found = residency_of(&File::open(&self.segment)?, self.hot_part(), RESIDENCY_STEP)?;
        Ok(found.is_none_or(|Residency { pages, cached }| pages == cached))
    }
}

/// Writes the log, and the hot topic beside it, into any server of the protocol.
///
/// # Errors
/// The generator fails.
pub(crate) fn produce_into(server: SocketAddr, plan: &Plan) -> anyhow::Result<()> {
    for (topic, total_bytes) in [(TOPIC, plan.log_bytes), (HOT_TOPIC, HOT_BYTES)] {
        let pairs = [
            ("--bootstrap-server", server.to_string()),
            ("--topic", topic.to_owned()),
            ("--partitions", "1".to_owned()),
            ("--batch-bytes", BATCH_BYTES.to_string()),
            ("--record-bytes", RECORD_BYTES.to_string()),
            ("--total-bytes", total_bytes.to_string()),
            ("--connections", PRODUCERS.to_string()),
        ];
        witness::hear_well(plan, "produce", &pairs)?;
    }
    Ok(())
}

fn batch_at(file: &File, position: u64) -> anyhow::Result<BatchHeader> {
    let mut header = [0; BATCH_HEADER_LEN];
    file.read_exact_at(&mut header, position)
        .with_context(|| format!("the segment ends before a batch at {position}"))?;
    Ok(BatchHeader::parse(&header)?)
}

fn link_into(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (entry, target) = entry.map(|entry| (entry.path(), to.join(entry.file_name())))?;
        if entry.is_dir() {
            link_into(&entry, &target)?;
        } else if entry.extension().is_some_and(|extension| extension == "log") {
            fs::hard_link(&entry, &target)?;
        } else {
            fs::copy(&entry, &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_linked_log_shares_its_segments_and_nothing_else() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("bench-0"))?;
        fs::write(from.join("bench-0/0.log"), "records")?;
        fs::write(from.join("bench-0/0.index"), "places")?;
        link_into(&from, &to)?;
        let inode = |path: &Path| fs::metadata(path).map(|found| found.ino());
        let same = |name: &str| -> std::io::Result<bool> {
            Ok(inode(&from.join(name))? == inode(&to.join(name))?)
        };
        assert!(same("bench-0/0.log")? && !same("bench-0/0.index")?);
        Ok(())
    }
}
