//! The state of one partition of `__consumer_offsets` after some of its records. Pure.
//!
//! ```text
//!   [ commit a=5 ][ transaction of producer 7: b=9 ][ commit b=3 ][ COMMIT 7 ][ a: null ]
//!      a=5           waits                             b=3          b stays 3    a is gone
//! ```
//!
//! A transaction's commits count once its COMMIT marker comes, and never override later records, as
//! in Kafka's own coordinator. A deletion also deletes commits of open transactions.

use std::collections::BTreeMap;

use penstock_batch::{BatchHeader, Record, Records};

use super::Report;
use super::record::{CommitKey, CommitValue};

/// Types of the control records that end a transaction.
const ABORT: i16 = 0;
const COMMIT: i16 = 1;

/// Each with the offset of its record.
type Commits = BTreeMap<CommitKey, (i64, CommitValue)>;

#[derive(Debug, Default)]
pub(super) struct Replay {
    commits: Commits,
    /// Commits of transactions that have not ended, by producer id.
    undecided: BTreeMap<i64, Commits>,
}

impl Replay {
    /// Applies one batch, whose body is not, or no longer, compressed. Unreadable records are
    /// skipped and counted: an older commit counts then, from which the group reads some records
    /// again.
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

    /// The marker's key is a version and a type. Other types end nothing.
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

    /// The final state. Transactions that have not ended are left out.
    pub(super) fn finish(
        self,
        report: &mut Report,
    ) -> impl Iterator<Item = (CommitKey, CommitValue)> + use<> {
        report.undecided +=
            self.undecided.values().map(|commits| commits.len() as u64).sum::<u64>();
        self.commits.into_iter().map(|(key, (_, value))| (key, value))
    }
}
