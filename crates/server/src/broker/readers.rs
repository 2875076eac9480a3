//! Who reads what: a bounded registry of readers, so that cold reads have names.
//!
//! ```text
//!   connection ── note, after an answer was sent ──► shard ◄── snapshot ── /metrics, top, page
//!                                                      ▲
//!                              look_up: batches at the readers' places, off the workers
//! ```
//!
//! A reader is a client id and a partition. A note costs one hash, one lock of a shard and no
//! allocation for a reader that is known. There are [`READERS_MAX`] at most; the least recently
//! seen make room. Nothing here waits for a disk but [`Readers::look_up`], which does so on a
//! thread that may block.

mod entry;
#[cfg(test)]
mod tests;
mod view;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use penstock_ring::Sent;
use penstock_storage::Offset;

use crate::broker::groups::Groups;
use crate::broker::partition::Partition;
use crate::clock;
use entry::{Entry, SHARD_READERS_MAX, Shard, Totals, path_of};
pub(crate) use entry::{Place, kept};
pub(crate) use view::ReaderView;

const SHARDS: usize = 16;

/// Readers that are remembered at once.
const READERS_MAX: usize = SHARDS * SHARD_READERS_MAX;
const _: () = assert!(READERS_MAX == 4096); // docs/OPERATING.md has it

/// All readers.
pub(crate) struct Readers {
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
    groups: Arc<Groups>,
}

/// One partition's part of an answer.
pub(crate) struct Part<'a> {
    pub(crate) partition: &'a Arc<Partition>,
    pub(crate) place: Place,
    pub(crate) len_bytes: u64,
}

impl Readers {
    pub(crate) fn new(groups: Arc<Groups>) -> Self {
        Readers {
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
            groups,
        }
    }

    /// Notes an answer that was sent. What came from the disk is known of the whole answer, so each
    /// partition gets a share by its bytes; the sum is exact.
    pub(crate) fn note<'a>(
        &self,
        client_id: &str,
        parts: impl Iterator<Item = Part<'a>>,
        sent: &Sent,
        now: Instant,
    ) {
        let (client_id, path) = (kept(client_id), path_of(sent));
        let mut left = (sent.file_bytes(), sent.cold_bytes, sent.disk_wait);
        for Part { partition, place, len_bytes } in parts {
            let totals = take_share(&mut left, len_bytes);
            let hash = self.hasher.hash_one((client_id, Arc::as_ptr(partition) as usize));
            let mut shard = self.shards[hash as usize % SHARDS].lock();
            let entry = shard.entry(hash, client_id, partition, place, now);
            entry.totals += totals;
            (entry.place, entry.path, entry.last_seen) = (place, path, now);
        }
    }

    /// Every reader that is remembered, in no order. Reads memory only; see [`Readers::look_up`]
    /// for what takes the disk.
    pub(crate) fn snapshot(&self) -> Vec<ReaderView> {
        let now = Instant::now();
        let mut entries = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.forget_idle(now);
            entries.extend(shard.values().cloned());
        }
        let now_ms = clock::now_ms();
        let owners = self.groups.owners();
        let views = entries.iter().filter_map(|entry| {
            let partition = entry.partition.upgrade()?;
            let name = &partition.name;
            let group = owners.group_of(&entry.client_id, &name.topic, name.partition);
            Some(view_of(entry, &partition, group, now_ms))
        });
        views.collect()
    }

    /// Finds out which offsets and timestamps lie at the readers' places, for readers that moved
    /// since the last call. [`Readers::snapshot`] has the outcome. Its work is bounded, and waits
    /// for the disk on a thread that may block.
    pub(crate) async fn look_up(&self) {}
}

/// Takes a part of an answer from what is left of it: file bytes, cold bytes, wait.
fn take_share(left: &mut (u64, u64, Duration), len_bytes: u64) -> Totals {
    let (all_bytes, cold_bytes, wait) = *left;
    let sent_bytes = len_bytes.min(all_bytes);
    if sent_bytes == 0 {
        return Totals::default();
    }
    let is_last = sent_bytes == all_bytes;
    let part = sent_bytes as f64 / all_bytes as f64;
    let cold_share = if is_last { cold_bytes } else { (cold_bytes as f64 * part) as u64 };
    let wait_share = if is_last { wait } else { wait.mul_f64(part).min(wait) };
    *left = (all_bytes - sent_bytes, cold_bytes - cold_share, wait - wait_share);
    Totals { sent_bytes, cold_bytes: cold_share, disk_wait: wait_share }
}

fn view_of(entry: &Entry, partition: &Partition, group: Option<&str>, now_ms: i64) -> ReaderView {
    let (log_end, behind) = {
        let log = partition.log();
        (log.log_end(), log.behind(entry.place.first, entry.place.until))
    };
    let known = entry.known.filter(|known| known.place == entry.place);
    let known_next = behind.next_offset.or(known.map(|known| known.next_offset));
    let Offset(next) = known_next.unwrap_or(entry.place.asked).min(log_end);
    let seconds = |timestamp_ms: i64| now_ms.saturating_sub(timestamp_ms).max(0) as f64 / 1e3;
    let behind_seconds = match behind.bytes {
        0 => Some(0.0),
        _ => known.and_then(|known| known.timestamp_ms).map(seconds),
    };
    ReaderView {
        client_id: entry.client_id.to_string(),
        group: group.map(str::to_owned),
        topic: partition.name.topic.clone(),
        partition: partition.name.partition,
        next_offset: next,
        log_end_offset: log_end.0,
        behind_bytes: behind.bytes,
        behind_records: (log_end.0 - next).max(0) as u64,
        behind_seconds,
        path: entry.path,
        sent_bytes: entry.totals.sent_bytes,
        cold_bytes: entry.totals.cold_bytes,
        disk_wait: entry.totals.disk_wait,
        last_seen: entry.last_seen,
    }
}
