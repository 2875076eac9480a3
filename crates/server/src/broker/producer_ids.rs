//! Producer ids: a number of its own for every idempotent producer.
//!
//! Numbers are given out in blocks: a block is reserved in `penstock-producer-ids` before the first
//! of it is used, so that a crash skips numbers and never gives one out twice.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::Context;
use parking_lot::Mutex;

use crate::small_file::replace_file;

const FILE_NAME: &str = "penstock-producer-ids";

/// Numbers reserved by one write of the file.
const BLOCK: i64 = 1000;

/// No server gives out numbers from here on.
const INVENTED: i64 = 1 << 62;

/// The numbers that may still be given out without a write.
#[derive(Debug)]
pub(crate) struct ProducerIds {
    path: PathBuf,
    reserved: Mutex<Range<i64>>,
}

impl ProducerIds {
    /// Reads where the last run's reservations ended. Logs that came from a Kafka know producers
    /// that it gave their numbers: the greatest of those is `known`, and numbers go on above it.
    ///
    /// # Errors
    /// The file cannot be read or is not a number.
    pub(crate) fn open(data_dir: &Path, known: Option<i64>) -> anyhow::Result<Self> {
        let path = data_dir.join(FILE_NAME);
        let end = match std::fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().with_context(|| format!("in {}", path.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        // Whoever invents a number of his own does not use them up.
        let end = known.filter(|id| *id < INVENTED).map_or(end, |id| end.max(id + 1));
        Ok(ProducerIds { path, reserved: Mutex::new(end..end) })
    }

    /// The next number. May block: one in a thousand calls writes the file.
    ///
    /// # Errors
    /// The reservation cannot be written; no number is given out.
    pub(crate) fn next(&self) -> std::io::Result<i64> {
        let mut reserved = self.reserved.lock();
        if reserved.is_empty() {
            let end = reserved.end + BLOCK;
            replace_file(&self.path, &format!("{end}\n"))?;
            *reserved = reserved.end..end;
        }
        Ok(reserved.next().expect("a block was just reserved"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_is_given_out_twice_across_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let mut given = Vec::new();
        for _ in 0..3 {
            let ids = ProducerIds::open(dir.path(), None).unwrap();
            given.extend((0..BLOCK + 2).map(|_| ids.next().unwrap()));
        }
        let count = given.len();
        given.sort_unstable();
        given.dedup();
        assert_eq!(given.len(), count);
    }

    /// A producer of Kafka's had number 0 in a log, a new one of ours got it again: its first batch
    /// was taken for one that had been sent twice, and acknowledged without being kept.
    #[test]
    fn a_number_that_a_log_knows_is_not_given_out_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ProducerIds::open(dir.path(), Some(41)).unwrap().next().unwrap(), 42);
        assert_eq!(ProducerIds::open(dir.path(), Some(7)).unwrap().next().unwrap(), 1042);
        let invented = ProducerIds::open(dir.path(), Some(i64::MAX)).unwrap();
        assert_eq!(invented.next().unwrap(), 2042);
    }
}
