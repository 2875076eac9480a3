//! Finding a batch by offset or by time, without reading: a look-up is a machine that asks for
//! bytes (step.rs), and the server feeds them to it.
//!
//! ```text
//!   Log::find ──▶ offset.rs ────▶ index_search.rs     pages of an index, kept in learned.rs
//!   Log::find_timestamp           headers of batches, kept in recent.rs and learned.rs
//!          └────▶ timestamp.rs ─▶ timestamp_source.rs, then offset.rs
//! ```

mod index_search;
pub(crate) mod learned;
pub(crate) mod offset;
pub(crate) mod recent;
pub(crate) mod step;
pub(crate) mod timestamp;
pub(crate) mod timestamp_source;
