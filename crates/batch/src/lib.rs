//! The record batch, format v2, which disk and wire share.
//!
//! Storage parses headers when it recovers and appends. The server parses them when it validates
//! what producers send. The load generator builds batches and checks those it fetches. Nothing here
//! does I/O, knows a codec, or trusts a length that came from outside.
//!
//! ```text
//!  0          8       12            16     17   21          23                 27
//!  base_offset length leader_epoch  magic  crc  attributes  last_offset_delta  base_timestamp …
//!  └─ patched by `assign` ───────┘         └── CRC-32C of everything after the crc field ──►
//!       …  35             43           51              53             57     61
//!          max_timestamp  producer_id  producer_epoch  base_sequence  count  records …
//! ```
//!
//! All integers are big-endian; `length` counts the bytes after itself.

mod batches;
mod builder;
mod check;
mod checksum;
mod header;
mod records;
pub mod varint;

pub use batches::Batches;
pub use builder::{BatchBuilder, NewRecord};
pub use check::{CheckedRecords, Moment, check_records};
pub use checksum::{PLACE_LEN, assign, check_crc, crc_is_valid, set_max_timestamp};
pub use header::{BatchError, BatchHeader, Codec, HEADER_LEN, MAGIC, TimestampType};
pub use records::{Header, Headers, Record, Records, records};

#[cfg(test)]
mod oracle;
