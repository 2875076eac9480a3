//! Decodes one record of the metadata log. Pure.
//!
//! ```text
//!   value:  frame version (1) · type · version · fields · tagged fields
//!           the first three are unsigned varints; strings and arrays are compact
//! ```
//!
//! The layouts are those of the schemas in Kafka's kafka-metadata jar (4.4.0). A known type in an
//! unknown version is an error: its fields may be elsewhere. Unknown types are skipped.

use penstock_storage::TopicId;

use crate::adopt::fields::{Fields, Taken};

const FRAME_VERSION: u32 = 1;
/// Tag of `replicas` in a PartitionChangeRecord.
const CHANGED_REPLICAS: u32 = 2;

/// What a record changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MetadataRecord {
    Topic {
        name: String,
        id: TopicId,
    },
    RemoveTopic {
        id: TopicId,
    },
    Partition {
        topic: TopicId,
        partition: i32,
        replicas: Vec<i32>,
    },
    Config {
        resource: Resource,
        name: String,
        value: Option<String>,
    },
    BeginTransaction,
    EndTransaction,
    AbortTransaction,
    /// A type without meaning for topics and configs.
    Other,
}

/// The resource of a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resource {
    Topic(String),
    /// A node id, or "" for the default of the whole cluster.
    Broker(String),
    /// Groups, client metrics and later types.
    Other,
}

impl MetadataRecord {
    pub(super) fn decode(value: &[u8]) -> Result<MetadataRecord, String> {
        let mut fields = Fields::new(value);
        let (frame, kind, version) = Self::head(&mut fields)?;
        if frame != FRAME_VERSION {
            return Err(format!("its frame version is {frame}, only {FRAME_VERSION} is known"));
        }
        let Some((name, newest, decode)) = layout(kind) else { return Ok(MetadataRecord::Other) };
        if version > newest {
            return Err(format!("{name} {version} is newer than {newest}, the newest known"));
        }
        decode(&mut fields).map_err(|problem| format!("{name} {version}: {problem}"))
    }

    fn head(fields: &mut Fields<'_>) -> Taken<(u32, u32, u32)> {
        Ok((fields.unsigned_varint()?, fields.unsigned_varint()?, fields.unsigned_varint()?))
    }
}

type Decode = fn(&mut Fields<'_>) -> Taken<MetadataRecord>;

/// Name, newest version and decoder of the types that are needed.
fn layout(kind: u32) -> Option<(&'static str, u32, Decode)> {
    Some(match kind {
        2 => ("TopicRecord", 0, topic),
        3 => ("PartitionRecord", 2, partition),
        4 => ("ConfigRecord", 0, config),
        5 => ("PartitionChangeRecord", 2, partition_change),
        9 => ("RemoveTopicRecord", 0, |fields| {
            Ok(MetadataRecord::RemoveTopic { id: fields.topic_id()? })
        }),
        23 => ("BeginTransactionRecord", 0, |_| Ok(MetadataRecord::BeginTransaction)),
        24 => ("EndTransactionRecord", 0, |_| Ok(MetadataRecord::EndTransaction)),
        25 => ("AbortTransactionRecord", 0, |_| Ok(MetadataRecord::AbortTransaction)),
        _ => return None,
    })
}

fn topic(fields: &mut Fields<'_>) -> Taken<MetadataRecord> {
    let name = fields.compact_string()?.to_owned();
    Ok(MetadataRecord::Topic { name, id: fields.topic_id()? })
}

/// All versions have the in-sync replicas and the leader behind the replicas: not needed here.
fn partition(fields: &mut Fields<'_>) -> Taken<MetadataRecord> {
    let (partition, topic) = (partition_id(fields)?, fields.topic_id()?);
    let replicas = fields.compact_i32s()?.ok_or("the replicas are null")?;
    Ok(MetadataRecord::Partition { topic, partition, replicas })
}

/// Only a reassignment names replicas.
fn partition_change(fields: &mut Fields<'_>) -> Taken<MetadataRecord> {
    let (partition, topic) = (partition_id(fields)?, fields.topic_id()?);
    let Some(mut changed) = fields.tagged(CHANGED_REPLICAS)? else {
        return Ok(MetadataRecord::Other);
    };
    Ok(match changed.compact_i32s()? {
        Some(replicas) => MetadataRecord::Partition { topic, partition, replicas },
        None => MetadataRecord::Other,
    })
}

fn partition_id(fields: &mut Fields<'_>) -> Taken<i32> {
    match fields.i32()? {
        partition @ 0.. => Ok(partition),
        _ => Err("the partition is negative"),
    }
}

fn config(fields: &mut Fields<'_>) -> Taken<MetadataRecord> {
    let kind = fields.i8()?;
    let of = fields.compact_string()?.to_owned();
    let resource = match kind {
        2 => Resource::Topic(of),
        4 => Resource::Broker(of),
        _ => Resource::Other,
    };
    let name = fields.compact_string()?.to_owned();
    let value = fields.compact_nullable_string()?.map(str::to_owned);
    Ok(MetadataRecord::Config { resource, name, value })
}
