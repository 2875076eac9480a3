//! Signatures first; bodies follow.
#![allow(unused_variables, clippy::unimplemented, missing_docs)]
use crate::*;
use std::{
    io,
    path::{Path, PathBuf},
};

#[derive(Debug)]
pub struct Log {}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastStop {
    Clean,
    Unclean,
}
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    pub segments_scanned: u64,
    pub bytes_scanned: u64,
    pub truncated_bytes: u64,
    pub indexes_rebuilt: u64,
}
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} line {line}: {what}")]
    Checkpoint { path: PathBuf, line: usize, what: &'static str },
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    pub base_offset: Offset,
    pub size_bytes: u64,
    pub sealed: bool,
}
#[derive(Debug)]
pub enum Find {
    AtEnd,
    Lookup(Lookup),
}
#[derive(Debug)]
pub struct Lookup {}
#[derive(Debug)]
pub struct TimestampLookup {}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampFound {
    pub offset: Offset,
    pub timestamp_ms: i64,
    pub leader_epoch: i32,
}
#[derive(Debug)]
pub struct Roll {}
#[derive(Debug)]
pub struct NewSegment {}
#[derive(Debug)]
pub struct ExpiredSegment {}
#[derive(Debug)]
pub struct IndexFlush {}
impl Lookup {
    pub fn step(&mut self) -> Result<Step<Found>, FindError> {
        unimplemented!()
    }
    pub fn feed(&mut self, bytes: &[u8]) {
        unimplemented!()
    }
}
impl TimestampLookup {
    pub fn step(&mut self) -> Result<Step<Option<TimestampFound>>, FindError> {
        unimplemented!()
    }
    pub fn feed(&mut self, bytes: &[u8]) {
        unimplemented!()
    }
}
impl Roll {
    pub fn create(self) -> io::Result<NewSegment> {
        unimplemented!()
    }
}
impl ExpiredSegment {
    pub fn unlink(self) -> io::Result<()> {
        unimplemented!()
    }
}
impl IndexFlush {
    pub fn write(self) -> io::Result<()> {
        unimplemented!()
    }
}
impl Log {
    pub fn create(dir: &Path, topic_id: TopicId, config: LogConfig) -> Result<Log, LogError> {
        unimplemented!()
    }
    pub fn open(
        dir: &Path,
        config: LogConfig,
        stop: LastStop,
    ) -> Result<(Log, Recovery), LogError> {
        unimplemented!()
    }
    pub fn topic_id(&self) -> Option<TopicId> {
        unimplemented!()
    }
    pub fn dir(&self) -> &Path {
        unimplemented!()
    }
    pub fn log_start(&self) -> Offset {
        unimplemented!()
    }
    pub fn raise_log_start(&mut self, offset: Offset) {
        unimplemented!()
    }
    pub fn log_end(&self) -> Offset {
        unimplemented!()
    }
    pub fn size_bytes(&self) -> u64 {
        unimplemented!()
    }
    pub fn segments(&self) -> impl Iterator<Item = SegmentInfo> {
        std::iter::empty()
    }
    pub fn config(&self) -> &LogConfig {
        unimplemented!()
    }
    pub fn set_config(&mut self, config: LogConfig) {
        unimplemented!()
    }
    pub fn is_offline(&self) -> bool {
        unimplemented!()
    }
    pub fn find(&self, offset: Offset) -> Result<Find, FindError> {
        unimplemented!()
    }
    pub fn find_timestamp(&self, timestamp_ms: i64) -> TimestampLookup {
        unimplemented!()
    }
    pub fn find_max_timestamp(&self) -> TimestampLookup {
        unimplemented!()
    }
    pub fn needs_roll(&self, incoming: &ProducedBatches, now_ms: i64) -> Option<Roll> {
        unimplemented!()
    }
    pub fn install_roll(&mut self, new: NewSegment) {
        unimplemented!()
    }
    pub fn begin_append(
        &mut self,
        batches: ProducedBatches,
        leader_epoch: i32,
        now_ms: i64,
    ) -> Result<Append, AppendError> {
        unimplemented!()
    }
    pub fn finish_append(&mut self, append: Append) -> Appended {
        unimplemented!()
    }
    pub fn fail_append(&mut self, append: Append, error: io::Error) {
        unimplemented!()
    }
    pub fn expire(&mut self, now_ms: i64) -> Vec<ExpiredSegment> {
        unimplemented!()
    }
    pub fn unflushed_indexes(&mut self) -> Vec<IndexFlush> {
        unimplemented!()
    }
    pub fn close(self) -> io::Result<()> {
        unimplemented!()
    }
}
