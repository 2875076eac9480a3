//! What one partition of `__consumer_offsets` says so far. Pure.
//!
//! ```text
//!   [ commit a=5 ][ transaction of producer 7: b=9 ][ commit b=3 ][ COMMIT 7 ][ a: null ]
//!      a=5           waits                             b=3          b stays 3    a is gone
//! ```
//!
//! A transaction's commits count when its COMMIT marker comes, and never override what was written
//! after them, as in Kafka's own coordinator. A deletion deletes what waits as well.

use std::collections::BTreeMap;

use penstock_batch::{BatchHeader, Record, Records};

use super::Report;
use super::record::{CommitKey, CommitValue};

/// Types of the control records that end a transaction.
const ABORT: i16 = 0;
const COMMIT: i16 = 1;

/// With the offset of the record that brought each.
type Commits = BTreeMap<CommitKey, (i64, CommitValue)>;

#[derive(Debug, Default)]
pub(super) struct Replay {
    commits: Commits,
    /// Of transactions that have not ended, by producer id.
    undecided: BTreeMap<i64, Commits>,
}

impl Replay {
    /// One batch, its body not or no longer compressed. Passes over records that cannot be read and
    /// counts them: an older commit stands then, from which the group reads some records again.
    pub(super) fn apply(&mut self, header: &BatchHeader, body: &[u8], report: &mut Report) {
        for record in Records::new(header, body) {
            let outcome = match &record {
                Err(error) => Err(error.to_string()),
                Ok(record) => self.record(header, record).map_err(str::to_owned),
            };
            if let Err(problem) = outcome {
                report.note_unreadable(&format_args!("batch {}: {problem}", header.base_offset));
            }
        }
    }

    fn record(&mut self, header: &BatchHeader, record: &Record<'_>) -> Result<(), &'static str> {
        let key = record.key.ok_or("a record has no key")?;
        if header.is_control() {
            return self.end_transaction(header.producer_id, key);
        }
        let Some(key) = CommitKey::decode(key)? else { return Ok(()) };
        let Some(value) = record.value else {
            self.commits.remove(&key);
            self.undecided.values_mut().for_each(|commits| drop(commits.remove(&key)));
            return Ok(());
        };
        let commits = match header.is_transactional() {
            true => self.undecided.entry(header.producer_id).or_default(),
            false => &mut self.commits,
        };
        commits.insert(key, (record.offset, CommitValue::decode(value)?));
        Ok(())
    }

    /// The marker's key is a version and a type; other types end nothing.
    fn end_transaction(&mut self, producer_id: i64, key: &[u8]) -> Result<(), &'static str> {
        let [_, _, high, low, ..] = key else { return Err("a control record has no type") };
        let kind = i16::from_be_bytes([*high, *low]);
        if !matches!(kind, ABORT | COMMIT) {
            return Ok(());
        }
        let ended = self.undecided.remove(&producer_id).unwrap_or_default();
        for (key, commit) in ended.into_iter().filter(|_| kind == COMMIT) {
            if self.commits.get(&key).is_none_or(|known| known.0 < commit.0) {
                self.commits.insert(key, commit);
            }
        }
        Ok(())
    }

    /// What is true when the partition is over: nothing of transactions that have not ended.
    pub(super) fn finish(
        self,
        report: &mut Report,
    ) -> impl Iterator<Item = (CommitKey, CommitValue)> + use<> {
        report.undecided +=
            self.undecided.values().map(|commits| commits.len() as u64).sum::<u64>();
        self.commits.into_iter().map(|(key, (_, value))| (key, value))
    }
}
