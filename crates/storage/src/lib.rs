//! One partition's log in Apache Kafka's on-disk format (docs/FORMAT.md): segments, indexes,
//! recovery, retention; and the data directory that holds the partitions.
//!
//! The server calls it for decisions, under a mutex, from event loops. So nothing here waits for a
//! disk unless its documentation says "blocks": what is to be read is said by `Need`s, what is to
//! be written by `Append`s, and slow work is handed out as owned jobs.
//!
//! | call of `Log` | returns | the caller |
//! |---|---|---|
//! | `find`, `find_timestamp`, `find_max_timestamp` | a look-up | reads its `Need`s, until an extent |
//! | `needs_roll`, `needs_expiry_roll` | `Roll` | creates the segment, `install_roll` |
//! | `begin_append`, again while `may_join` | `Append` | writes, `finish_append` in order |
//! | `needs_cut`, before an append or a roll | `TailCut` | runs it, `finish_cut` |
//! | `begin_flush`, `begin_close` | `LogFlush` | runs it, `finish_flush` |
//! | `expire`, `unread_age`, `unflushed_indexes` | owned jobs | runs them |
//!
//! A look-up carries the committed size of its segment from the moment it was made, so an extent
//! never reaches bytes whose append has not finished. Extents keep their file open: retention may
//! unlink it under them. A segment costs one descriptor, its log's; indexes are opened to be
//! searched.
//!
//! Index pages that are not known in memory are read by `Need`s of 4 KiB, so the page cache is the
//! index cache. A consumer that reads on takes a page of the index once in 512 entries (2 MiB of
//! log, or more). Each of its fetches in between reads one batch header, or none if another
//! consumer was there just before.
//!
//! A reader's path: log.rs → lookup.rs → index_search.rs → learned.rs. A writer's: produced.rs →
//! append.rs → segment.rs. Starting: data_dir.rs → recovery.rs → swap.rs → scan.rs. Under all of
//! them: disk.rs.

mod age;
mod age_read;
mod append;
mod batch_place;
mod begin;
mod checked_text;
mod compressed;
mod config;
mod damage;
mod data_dir;
mod derived;
mod disk;
mod epochs;
mod error;
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
mod opening;
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
mod summary;
mod swap;
mod timestamp_lookup;
mod timestamp_source;
mod topic;
mod torn;
mod transactions;
mod unindexed;
mod units;
mod window;

pub use age_read::{Age, AgeRead};
pub use append::{Append, Appended};
pub use config::{LogConfig, TimestampType};
pub use damage::{Damage, DamageFlush};
pub use data_dir::{DataDir, DataDirError, TakenAway};
pub use disk::{
    DirEntry, Directory, Disk, DiskFile, Files, is_no_room, is_out_of_descriptors, is_shortage,
};
pub use epochs::EpochStart;
pub use error::{AppendError, LogError};
pub use flush::IndexFlush;
pub use log::{Find, LastStop, Log, SegmentInfo};
pub use log_flush::{FlushError, LogFlush, WriteAgain};
pub use lookup::Lookup;
pub use old_format::OldSegments;
pub use produced::{ProduceError, ProducedBatch, Terms};
pub use read::{Extent, FindError, Found, Need, Step};
pub use recovery_points::RecoveryPoint;
pub use retention::{ExpiredSegment, Expiry};
pub use roll::{NewSegment, Roll};
pub use scrub::{Scrub, Scrubbed, keep_damage};
pub use segment_reader::{SegmentPiece, SegmentReader};
pub use small_file::SmallFile;
pub use summary::Recovery;
pub use timestamp_lookup::{TimestampFound, TimestampLookup};
pub use topic::{MAX_PARTITIONS, NameError, PartitionName, TopicId, validate_topic_name};
pub use torn::TailCut;
pub use transactions::Transactions;
pub use units::{Offset, Position};
