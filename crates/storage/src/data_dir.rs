//! The data directory as a whole: its lock, its marker of a clean stop, its partitions. Called once at
//! start and stop, and when a partition is created or deleted. May block; never call it on an event loop.
#![allow(unused_variables, clippy::unimplemented, missing_docs)]
use crate::*;
use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
};

#[derive(Debug)]
pub struct DataDir {}
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("{path} is in use by another server")]
    InUse { path: PathBuf },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}
impl DataDir {
    /// Creates it when missing, takes `.lock`.
    pub fn open(path: &Path) -> Result<DataDir, DataDirError> {
        unimplemented!()
    }
    pub fn path(&self) -> &Path {
        unimplemented!()
    }
    /// Reads and removes the marker: whoever dies from here on died uncleanly.
    pub fn take_last_stop(&self) -> Result<LastStop, DataDirError> {
        unimplemented!()
    }
    pub fn write_clean_shutdown(&self) -> Result<(), DataDirError> {
        unimplemented!()
    }
    /// Partitions to serve, sorted. Finishes deletions that were under way.
    pub fn partitions(&self) -> Result<Vec<PartitionName>, DataDirError> {
        unimplemented!()
    }
    pub fn partition_path(&self, name: &PartitionName) -> PathBuf {
        unimplemented!()
    }
    pub fn log_starts(&self) -> Result<HashMap<PartitionName, Offset>, LogError> {
        unimplemented!()
    }
    /// `Log::create` in its directory, durable by name.
    pub fn create_partition(
        &self,
        name: &PartitionName,
        topic_id: TopicId,
        config: LogConfig,
    ) -> Result<Log, LogError> {
        unimplemented!()
    }
    /// Renames the directory out of sight, then removes it.
    pub fn delete_partition(&self, name: &PartitionName) -> Result<(), DataDirError> {
        unimplemented!()
    }
}
