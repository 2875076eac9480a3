//! What an Apache Kafka left in its data directory beside the logs themselves: the topics with
//! their configs, and the offsets that groups have committed.
//!
//! Called once at start, before anything is served; reads with blocking calls and never writes.
//! What is found is plain data: what becomes of it is the caller's decision.
//!
//! ```text
//!   <data dir>/__cluster_metadata-0/        topics, partitions, configs       metadata_log
//!   <data dir>/__consumer_offsets-<n>/      committed offsets                 committed_offsets
//! ```

pub(crate) mod committed_offsets;
mod fields;
#[cfg(test)]
mod hand_made;
pub(crate) mod metadata_log;
mod segment_files;
