//! Reads what an Apache Kafka left in its data directory beside the logs: topics with their
//! configs, and committed offsets.
//!
//! Called once at start, before anything is served. Reads with blocking calls and never writes.
//! Returns plain data; the caller decides what to do with it.
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
