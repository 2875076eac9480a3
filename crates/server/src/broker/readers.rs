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
use penstock_ring::{Sent, blocking};

use crate::broker::batch_times::{self, Next};
use crate::broker::groups::Groups;
use crate::broker::partition::Partition;
use crate::clock;
use entry::{Entry, Known, SHARD_READERS_MAX, Shard, path_of};
pub(crate) use entry::{Place, Totals, kept, short_name};
pub(crate) use view::ReaderView;

const SHARDS: usize = 16;

/// Partitions of one answer that are noted.
const NOTED_MAX: usize = 256;

/// The least time between two look-ups of the readers' places, however many ask.
const LOOK_UP_INTERVAL: Duration = Duration::from_millis(500);

/// Readers that are remembered at once.
const READERS_MAX: usize = SHARDS * SHARD_READERS_MAX;
const _: () = assert!(READERS_MAX == 4096); // docs/OPERATING.md has it

/// All readers.
pub(crate) struct Readers {
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
    groups: Arc<Groups>,
    /// When readers' places were last looked up.
    looked: Mutex<Option<Instant>>,
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
            looked: Mutex::default(),
        }
    }

    /// Notes an answer that was sent. What came from the disk is known of the whole answer, so each
    /// partition gets a share by its bytes. The sum is exact for an answer of up to [`NOTED_MAX`]
    /// partitions; of a wider one those behind are not noted, since it runs on an event loop.
    pub(crate) fn note<'a>(
        &self,
        client_id: &str,
        parts: impl Iterator<Item = Part<'a>>,
        sent: &Sent,
        now: Instant,
    ) {
        let (client_id, path) = (kept(client_id), path_of(sent));
        let mut left = (sent.file_bytes(), sent.cold_bytes, sent.disk_wait);
        for Part { partition, place, len_bytes } in parts.take(NOTED_MAX) {
            let mut totals = take_share(&mut left, len_bytes);
            let (hash, shard) = self.shard_of(client_id, partition);
            let mut shard = shard.lock();
            let entry = shard.entry(hash, client_id, partition, place, now);
            totals.again_bytes = entry.place.sent_again_bytes(&place).min(totals.sent_bytes);
            entry.totals += totals;
            (entry.place, entry.path, entry.last_seen) = (place, path, now);
        }
    }

    /// Notes that a reader asked and there was nothing behind its place.
    pub(crate) fn note_waiting(&self, client_id: &str, partition: &Arc<Partition>, now: Instant) {
        let client_id = kept(client_id);
        let (hash, shard) = self.shard_of(client_id, partition);
        shard.lock().note_waiting(hash, client_id, partition, now);
    }

    fn shard_of(&self, client_id: &str, partition: &Arc<Partition>) -> (u64, &Mutex<Shard>) {
        let hash = self.hasher.hash_one((client_id, Arc::as_ptr(partition) as usize));
        (hash, &self.shards[hash as usize % SHARDS])
    }

    /// Every reader that is remembered, in no order. Reads memory only; see [`Readers::look_up`]
    /// for what takes the disk.
    pub(crate) fn snapshot(&self) -> Vec<ReaderView> {
        let now = Instant::now();
        let mut entries = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.forget_idle(now);
            entries.extend(shard.iter().map(|(_, entry)| (entry.clone(), ())));
        }
        self.views(entries).into_iter().map(|(view, ())| view).collect()
    }

    /// As [`Readers::snapshot`], with what each reader was sent since the last call; and what
    /// readers were sent that are forgotten. For the metrics alone.
    pub(crate) fn report(&self) -> (Vec<(ReaderView, Totals)>, Totals) {
        let now = Instant::now();
        let (mut entries, mut forgotten) = (Vec::new(), Totals::default());
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.forget_idle(now);
            let (here, gone) = shard.report();
            entries.extend(here);
            forgotten += gone;
        }
        (self.views(entries), forgotten)
    }

    /// Finds out which batches lie at the readers' places, for readers that moved since the last
    /// call, those first that have waited longest. [`Readers::snapshot`] has the outcome. Its work
    /// is bounded, and waits for the disk on a thread that may block. Does nothing if the last call
    /// was a moment ago.
    pub(crate) async fn look_up(&self) {
        let now = Instant::now();
        let last = self.looked.lock().replace(now);
        if last.is_some_and(|last| now.saturating_duration_since(last) < LOOK_UP_INTERVAL) {
            *self.looked.lock() = last;
            return;
        }
        let mut moved = Vec::new();
        for (index, shard) in self.shards.iter().enumerate() {
            let shard = shard.lock();
            let here = shard.iter().filter(|(_, entry)| !entry.is_known());
            moved.extend(here.map(|(hash, entry)| {
                (entry.waits_since(), index, *hash, entry.partition.clone(), entry.place)
            }));
        }
        moved.sort_by_key(|(waits_since, ..)| *waits_since);
        let look = move || {
            batch_times::within_time(moved, |(_, _, _, partition, place)| {
                let partition = partition.upgrade()?;
                batch_times::behind(&partition, place.first, place.from, place.until)
            })
        };
        let looked = blocking::run(look).await.unwrap_or_default();
        let now = Instant::now();
        for ((_, index, hash, _, place), next) in looked {
            self.shards[index].lock().know(hash, Known { place, next, looked: now });
        }
    }

    fn views<T>(&self, entries: Vec<(Entry, T)>) -> Vec<(ReaderView, T)> {
        let now_ms = clock::now_ms();
        let owners = self.groups.owners();
        let view = |(entry, with): (Entry, T)| {
            let partition = entry.partition.upgrade()?;
            let name = &partition.name;
            let group = owners.group_of(&entry.client_id, &name.topic, name.partition);
            Some((view_of(&entry, &partition, group, now_ms), with))
        };
        entries.into_iter().filter_map(view).collect()
    }
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
    Totals { sent_bytes, cold_bytes: cold_share, disk_wait: wait_share, ..Totals::default() }
}

fn view_of(entry: &Entry, partition: &Partition, group: Option<&str>, now_ms: i64) -> ReaderView {
    let place = entry.place;
    let next = entry.known.and_then(|known| known.next);
    let next_here = next.filter(|_| entry.is_known());
    let (log_end, behind) = {
        let log = partition.log();
        // The answer may have ended within a batch, which the reader has not got then.
        let (first, position) =
            next_here.map_or((place.first, place.until), |next| (next.offset, next.position));
        (log.log_end(), log.behind(first, position))
    };
    let next_here = next_here.map(|next| next.offset);
    let next_offset = behind.next_offset.or(next_here).unwrap_or(place.asked);
    let next_offset = next_offset.max(place.asked).min(log_end).0;
    let seconds = |next: Next| now_ms.saturating_sub(next.timestamp_ms).max(0) as f64 / 1e3;
    let behind_seconds = match behind.bytes {
        0 => Some(0.0),
        _ => next.filter(|_| entry.is_known_lately()).map(seconds),
    };
    ReaderView {
        client_id: entry.client_id.to_string(),
        group: group.map(short_name),
        topic: partition.name.topic.clone(),
        partition: partition.name.partition,
        next_offset,
        log_end_offset: log_end.0,
        behind_bytes: behind.bytes,
        behind_records: (log_end.0 - next_offset).max(0) as u64,
        behind_seconds,
        path: entry.path,
        sent_bytes: entry.totals.sent_bytes,
        cold_bytes: entry.totals.cold_bytes,
        disk_wait: entry.totals.disk_wait,
        last_seen: entry.last_seen,
    }
}
