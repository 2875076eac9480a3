//! One partition's log in Apache Kafka's on-disk format (docs/FORMAT.md): segments, indexes,
//! recovery, retention; and the data directory that holds the partitions.
//!
//! The server calls it for decisions, under a mutex, from event loops. So nothing here waits for a
//! disk unless its documentation says "blocks". A `Need` returns what to read, an `Append` what to
//! write, and slow work is handed out as owned jobs.
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
//! A look-up carries the committed size of its segment from the moment it was made. So an extent
//! never reaches bytes whose append has not finished. Extents keep their file open: retention may
//! unlink it meanwhile. A segment costs one descriptor, its log's; indexes are opened to be
//! searched.
//!
//! Index pages that are not in memory are read by `Need`s of 4 KiB, so the page cache is the index
//! cache. A consumer that reads on reads a page of the index once in 512 entries (2 MiB of log, or
//! more). Each of its fetches in between reads one batch header, or none if another consumer was
//! there just before.
//!
//! | room | contents |
//! |---|---|
//! | `log` | appending, rolling, expiring, flushing; producers and what they send |
//! | `find` | look-ups by offset and by time |
//! | `segment` | a segment's files: batches, indexes, age; scanning them, and names of files |
//! | `recovery` | opening a log: believing its files, or proving them |
//! | `scrub` | reading everything again, and comparing it |
//! | `checkpoint` | the small files beside the segments |
//! | `data_dir` | the directory that holds the partitions |
//!
//! A reader's path: log.rs → find/offset.rs → find/index_search.rs → find/learned.rs. A writer's:
//! log/produced.rs → log/append.rs → segment.rs. Starting: data_dir.rs → recovery.rs →
//! recovery/swap.rs → segment/scan.rs. Under all of them: disk.rs. `tests/house/main.rs` holds
//! which room may know which.

mod checkpoint;
mod damage;
mod data_dir;
mod disk;
mod error;
mod find;
mod log;
mod log_config;
mod recovery;
mod scrub;
mod segment;
mod topic_name;
mod units;

pub use checkpoint::leader_epochs::EpochStart;
pub use checkpoint::recovery_points::RecoveryPoint;
pub use damage::{Damage, DamageFlush};
pub use data_dir::small_file::SmallFile;
pub use data_dir::{DataDir, DataDirError, TakenAway};
pub use disk::{
    DirEntry, Directory, Disk, DiskFile, Files, is_no_room, is_out_of_descriptors, is_shortage,
};
pub use error::{AppendError, LogError};
pub use find::offset::Lookup;
pub use find::step::{Extent, FindError, Found, Need, Step};
pub use find::timestamp::{TimestampFound, TimestampLookup};
pub use log::append::{Append, Appended};
pub use log::behind::Behind;
pub use log::expiry::{ExpiredSegment, Expiry};
pub use log::flush::{FlushError, LogFlush, WriteAgain};
pub use log::index_flush::IndexFlush;
pub use log::produced::{ProduceError, ProducedBatch, Terms};
pub use log::roll::{NewSegment, Roll};
pub use log::torn::TailCut;
pub use log::{Find, LastStop, Log, SegmentInfo};
pub use log_config::{LogConfig, TimestampType};
pub use recovery::summary::Recovery;
pub use recovery::transactions::Transactions;
pub use scrub::{Scrub, Scrubbed, keep_damage};
pub use segment::age_read::{Age, AgeRead};
pub use segment::old_format::OldSegments;
pub use segment::reader::{SegmentPiece, SegmentReader};
pub use topic_name::{MAX_PARTITIONS, NameError, PartitionName, TopicId, validate_topic_name};
pub use units::{Offset, Position};
