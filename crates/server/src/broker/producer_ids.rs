//! Producer ids: one for each idempotent producer.
//!
//! Ids are given out in blocks. A block is reserved in `penstock-producer-ids` before its first id
//! is used, so a crash skips ids and never gives one out twice.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::Context;
use parking_lot::Mutex;

use crate::small_file::replace_file;

const FILE_NAME: &str = "penstock-producer-ids";

/// Ids reserved by one write of the file.
const BLOCK: i64 = 1000;

/// Servers give out only ids below this.
const INVENTED: i64 = 1 << 62;

/// Ids that may be given out without a write.
#[derive(Debug)]
pub(crate) struct ProducerIds {
    path: PathBuf,
    reserved: Mutex<Range<i64>>,
}

impl ProducerIds {
    /// Reads the end of the last reservation. Logs from a Kafka have producers with ids of that
    /// Kafka; `known` is the greatest of them, and new ids are greater.
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
        // An id that a client made up does not use up those below it.
        let end = known.filter(|id| *id < INVENTED).map_or(end, |id| end.max(id + 1));
        Ok(ProducerIds { path, reserved: Mutex::new(end..end) })
    }

    /// The next id. May block: one call in a thousand writes the file.
    ///
    /// # Errors
    /// The reservation cannot be written; no id is given out.
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

    /// A producer of Kafka's had id 0 in a log, and a new producer got it again. Its first batch
    /// was taken for a repeated one, and acknowledged without being kept.
    #[test]
    fn a_number_that_a_log_knows_is_not_given_out_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ProducerIds::open(dir.path(), Some(41)).unwrap().next().unwrap(), 42);
        assert_eq!(ProducerIds::open(dir.path(), Some(7)).unwrap().next().unwrap(), 1042);
        let invented = ProducerIds::open(dir.path(), Some(i64::MAX)).unwrap();
        assert_eq!(invented.next().unwrap(), 2042);
    }
}
