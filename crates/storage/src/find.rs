//! Finding a batch by offset or by time, without reading: a look-up is a machine that asks for
//! bytes (step.rs), and the server feeds them to it.
//!
//! ```text
//!   Log::find ───────────▶ offset.rs ────▶ index_search.rs         a page of an index at a time
//!                              ▲   └─────▶ recent.rs, learned.rs   places that are remembered
//!   Log::find_timestamp ─▶ timestamp.rs ─▶ timestamp_source.rs     a segment and its times
//! ```

mod index_search;
pub(crate) mod learned;
pub(crate) mod offset;
pub(crate) mod recent;
pub(crate) mod step;
pub(crate) mod timestamp;
pub(crate) mod timestamp_source;
