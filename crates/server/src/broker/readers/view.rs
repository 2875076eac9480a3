//! A reader as others see it: in /metrics, `/readers.json`, `penstock top` and the page.

use std::time::{Duration, Instant};

use serde::Serialize;

/// One reader: a client that fetches from a partition.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ReaderView {
    /// The client's name for itself, up to 64 bytes.
    pub(crate) client_id: String,
    /// The group that has assigned the partition to a member of this client id.
    pub(crate) group: Option<String>,
    pub(crate) topic: String,
    pub(crate) partition: i32,
    /// The first offset that it has not been sent. Where that is not known yet, the offset that its
    /// last answered fetch asked for.
    pub(crate) next_offset: i64,
    pub(crate) log_end_offset: i64,
    /// Bytes of the log behind what it has been sent.
    pub(crate) behind_bytes: u64,
    /// `log_end_offset` − `next_offset`.
    pub(crate) behind_records: u64,
    /// Now − the timestamp of the batch at `next_offset`; 0 at the log end. `None` where that batch
    /// has not been read or cannot be.
    pub(crate) behind_seconds: Option<f64>,
    /// The path of most bytes of its last answer: `inline`, `chain` or `copy`.
    pub(crate) path: &'static str,
    pub(crate) sent_bytes: u64,
    /// Of these, bytes that came from the disk.
    pub(crate) cold_bytes: u64,
    /// How long its answers waited for the disk, in seconds in JSON.
    #[serde(serialize_with = "seconds")]
    pub(crate) disk_wait: Duration,
    /// When its last answer was sent; the seconds since then in JSON.
    #[serde(rename = "idle_seconds", serialize_with = "seconds_since")]
    pub(crate) last_seen: Instant,
}

fn seconds<S: serde::Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(time.as_secs_f64())
}

fn seconds_since<S: serde::Serializer>(time: &Instant, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(time.elapsed().as_secs_f64())
}
