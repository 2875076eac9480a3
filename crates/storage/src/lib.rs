//! One partition's log in Apache Kafka's on-disk format (docs/FORMAT.md): segments, indexes, recovery,
//! retention; and the data directory that holds the partitions.
//!
//! The server calls it for decisions, under a mutex, from event loops. So nothing here waits for a disk
//! unless its documentation says "blocks": what is to be read is said by `Need`s, what is to be written
//! by `Append`s, and slow work is handed out as owned jobs.
//!
//! A reader's path: log.rs → lookup.rs → index_search.rs → learned.rs. A writer's: produced.rs → append.rs →
//! segment.rs. Starting: data_dir.rs → recovery.rs → swap.rs → scan.rs. Under all of them: disk.rs.

mod age;
mod age_read;
mod append;
mod batch_place;
mod checked_text;
mod compressed;
mod config;
mod damage;
mod data_dir;
mod derived;
mod disk;
mod epochs;
mod flush;
mod index_check;
mod index_entry;
mod index_file;
mod index_search;
mod learned;
mod listing;
mod log;
mod log_flush;
mod lookup;
mod old_format;
mod outstanding;
mod partition_metadata;
mod produced;
mod producer_snapshot;
mod producers;
mod prove;
mod quiet_file;
mod read;
mod recent;
mod recovery;
mod recovery_points;
mod resync;
mod retention;
mod roll;
mod scan;
mod scrub;
mod segment;
mod segment_reader;
mod small_file;
mod swap;
mod timestamp_lookup;
mod timestamp_source;
mod topic;
mod torn;
mod transactions;
mod unindexed;
mod units;

pub use age_read::{Age, AgeRead};
pub use append::{Append, AppendError, Appended};
pub use config::{LogConfig, TimestampType};
pub use damage::{Damage, DamageFlush};
pub use data_dir::{DataDir, DataDirError, TakenAway};
pub use disk::{
    DirEntry, Directory, Disk, DiskFile, Files, is_no_room, is_out_of_descriptors, is_shortage,
};
pub use epochs::EpochStart;
pub use flush::IndexFlush;
pub use log::{Find, LastStop, Log, LogError, SegmentInfo};
pub use log_flush::{FlushError, LogFlush, WriteAgain};
pub use lookup::Lookup;
pub use old_format::OldSegments;
pub use produced::{ProduceError, ProducedBatch, Terms};
pub use read::{Extent, FindError, Found, Need, Step};
pub use recovery::Recovery;
pub use recovery_points::RecoveryPoint;
pub use retention::{ExpiredSegment, Expiry};
pub use roll::{NewSegment, Roll};
pub use scrub::{Scrub, Scrubbed, keep_damage};
pub use segment_reader::{SegmentPiece, SegmentReader};
pub use small_file::SmallFile;
pub use timestamp_lookup::{TimestampFound, TimestampLookup};
pub use topic::{MAX_PARTITIONS, NameError, PartitionName, TopicId, validate_topic_name};
pub use torn::TailCut;
pub use transactions::Transactions;
pub use units::{Offset, Position};
