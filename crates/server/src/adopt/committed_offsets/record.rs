//! One record of `__consumer_offsets`, taken apart. Pure.
//!
//! ```text
//!   key:    type i16 · group · topic · partition i32                       types 0 and 1: a commit
//!   value:  version i16 · offset i64 · leader epoch i32 (3+) · metadata ·
//!           commit time i64 · expire time i64 (1 only)                     4 is flexible; null: deleted
//! ```
//!
//! The layouts are those of the schemas in Kafka's kafka-group-coordinator jar (4.4.0). All other
//! types of key are about groups' members and assignments, which do not outlive their sessions:
//! they are passed over.

use crate::adopt::fields::{Fields, Taken};
use crate::groups::offsets::Committed;

/// What a commit is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CommitKey {
    pub(super) group: String,
    pub(super) topic: String,
    pub(super) partition: i32,
}

/// What was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CommitValue {
    pub(super) committed: Committed,
    /// When, in milliseconds since 1970.
    pub(super) committed_ms: i64,
    /// When the client wanted it to be forgotten, in milliseconds since 1970.
    pub(super) expires_ms: Option<i64>,
}

impl CommitKey {
    /// `None`: not about a commit.
    pub(super) fn decode(key: &[u8]) -> Taken<Option<CommitKey>> {
        let mut fields = Fields::new(key);
        if !matches!(fields.i16()?, 0 | 1) {
            return Ok(None);
        }
        let (group, topic) = (fields.string()?.to_owned(), fields.string()?.to_owned());
        Ok(Some(CommitKey { group, topic, partition: fields.i32()? }))
    }
}

impl CommitValue {
    pub(super) fn decode(value: &[u8]) -> Taken<CommitValue> {
        let mut fields = Fields::new(value);
        let version = fields.i16()?;
        if !(0..=4).contains(&version) {
            return Err("the version of its value is not known");
        }
        let offset = fields.i64()?;
        let leader_epoch = if version >= 3 { fields.i32()? } else { -1 };
        let metadata = if version >= 4 { fields.compact_string()? } else { fields.string()? };
        let metadata = metadata.to_owned().into();
        let committed_ms = fields.i64()?;
        let expires_ms = if version == 1 { Some(fields.i64()?) } else { None };
        if offset < 0 {
            return Err("its offset is negative");
        }
        let committed = Committed { offset, leader_epoch, metadata };
        let expires_ms = expires_ms.filter(|at| *at >= 0);
        Ok(CommitValue { committed, committed_ms, expires_ms })
    }
}
