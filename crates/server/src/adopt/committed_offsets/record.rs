//! Decodes one record of `__consumer_offsets`. Pure.
//!
//! ```text
//!   key:    type i16 (0 and 1: a commit) · group · topic · partition i32
//!   value:  null: deleted; or version i16 · offset i64 · leader epoch i32 (3+) · metadata ·
//!           commit time i64 · expire time i64 (1 only) · tagged topic id (4, which is flexible)
//! ```
//!
//! The layouts are those of the schemas in Kafka's kafka-group-coordinator jar (4.4.0). Other types
//! of key are about groups' members and assignments, which do not outlive their sessions: they are
//! skipped.

use penstock_storage::TopicId;

use crate::adopt::fields::{Fields, Taken};
use penstock_coordinator::Committed;

/// Tag of `topicId` in a value.
const TOPIC_ID: u32 = 0;
/// Kafka's null: the coordinator knew no id.
const NO_TOPIC_ID: TopicId = TopicId([0; 16]);

/// The key of a commit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CommitKey {
    pub(super) group: String,
    pub(super) topic: String,
    pub(super) partition: i32,
}

/// The value of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CommitValue {
    pub(super) committed: Committed,
    /// The commit time, in milliseconds since 1970.
    pub(super) committed_ms: i64,
    /// The expiry that the client asked for, in milliseconds since 1970.
    pub(super) expires_ms: Option<i64>,
    /// The topic's id, in versions that have it.
    pub(super) topic_id: Option<TopicId>,
}

impl CommitKey {
    /// `None`: not the key of a commit.
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
        let topic_id = match version {
            4.. => fields.tagged(TOPIC_ID)?.map(|mut id| id.topic_id()).transpose()?,
            _ => None,
        };
        if offset < 0 {
            return Err("its offset is negative");
        }
        let committed = Committed { offset, leader_epoch, metadata };
        let expires_ms = expires_ms.filter(|at| *at >= 0);
        let topic_id = topic_id.filter(|id| *id != NO_TOPIC_ID);
        Ok(CommitValue { committed, committed_ms, expires_ms, topic_id })
    }
}
