//! One reader: a client that fetches from a partition, and what it has been sent.
//!
//! Plain data and bounds, for the registry in readers.rs and the views of view.rs. Nothing here
//! locks, reads a clock or touches a file.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hasher};
use std::ops::{AddAssign, SubAssign};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use penstock_ring::Sent;
use penstock_storage::{Offset, Position};

use crate::broker::batch_times::Next;
use crate::broker::partition::Partition;

/// A client id is kept up to here. Longer ones that begin alike count as one reader.
pub(crate) const CLIENT_ID_MAX_BYTES: usize = 64;

/// Readers of one shard: a new one beyond it takes the place of the one that was seen least
/// recently.
pub(crate) const SHARD_READERS_MAX: usize = 256;

/// A reader that has fetched nothing for so long is forgotten.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(10 * 60);

/// How long the time at a place stands for that of the reader, which has moved on.
const KNOWN_LATELY: Duration = Duration::from_secs(5);

/// The place up to which a reader has been sent records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The offset of the last fetch that was answered.
    pub(crate) asked: Offset,
    /// Base offset of the segment.
    pub(crate) segment: Offset,
    /// Base offset of the first batch of the answer.
    pub(crate) first: Offset,
    /// Where the first batch lies in its segment.
    pub(crate) from: Position,
    /// Where the answer ended in the same segment; the last batch may be cut there.
    pub(crate) until: Position,
}

impl Place {
    /// How many bytes of an answer up to here are sent again by one that ends at `next`, because
    /// it begins with the batch that this one cut.
    pub(crate) fn sent_again_bytes(&self, next: &Place) -> u64 {
        let goes_on = self.segment == next.segment && self.first < next.first;
        if goes_on { self.until.0.saturating_sub(next.from.0) } else { 0 }
    }
}

/// What readers have been sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) sent_bytes: u64,
    /// Those sent before, at the end of an answer that had cut their batch.
    pub(crate) again_bytes: u64,
    pub(crate) cold_bytes: u64,
    pub(crate) disk_wait: Duration,
}

impl AddAssign for Totals {
    fn add_assign(&mut self, more: Totals) {
        self.sent_bytes += more.sent_bytes;
        self.again_bytes += more.again_bytes;
        self.cold_bytes += more.cold_bytes;
        self.disk_wait += more.disk_wait;
    }
}

impl SubAssign for Totals {
    fn sub_assign(&mut self, less: Totals) {
        self.sent_bytes -= less.sent_bytes;
        self.again_bytes -= less.again_bytes;
        self.cold_bytes -= less.cold_bytes;
        self.disk_wait -= less.disk_wait;
    }
}

/// What a place turned out to be, once its batches were read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    pub(crate) place: Place,
    /// The batch behind those that were sent whole. `None`: it could not be read.
    pub(crate) next: Option<Next>,
    pub(crate) looked: Instant,
}

/// One reader.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) client_id: Box<str>,
    /// Weak: a deleted partition's files go although readers of it are remembered.
    pub(crate) partition: Weak<Partition>,
    pub(crate) place: Place,
    pub(crate) known: Option<Known>,
    pub(crate) first_seen: Instant,
    pub(crate) totals: Totals,
    /// The part of the totals that the metrics have taken over.
    pub(crate) reported: Totals,
    /// The path of most bytes of the last answer.
    pub(crate) path: &'static str,
    pub(crate) last_seen: Instant,
}

impl Entry {
    /// Whether the batch at its place has been looked for.
    pub(crate) fn is_known(&self) -> bool {
        self.known.is_some_and(|known| known.place == self.place)
    }

    /// Since when it has waited for its place to be looked at.
    pub(crate) fn waits_since(&self) -> Instant {
        self.known.map_or(self.first_seen, |known| known.looked)
    }

    /// Whether that is known of its place, or of one that it left a moment ago.
    pub(crate) fn is_known_lately(&self) -> bool {
        self.is_known() || self.known.is_some_and(|known| known.looked.elapsed() < KNOWN_LATELY)
    }

    fn is(&self, client_id: &str, partition: &Arc<Partition>) -> bool {
        // While a weak reference lives, its address belongs to no other partition.
        std::ptr::eq(self.partition.as_ptr(), Arc::as_ptr(partition))
            && *self.client_id == *client_id
    }
}

/// Entries by the hash of client id and partition. Two readers of one hash would share the place.
#[derive(Debug, Default)]
pub(crate) struct Shard {
    entries: HashMap<u64, Entry, BuildHasherDefault<Hashed>>,
    /// What entries had not reported when they were forgotten.
    pub(crate) unreported: Totals,
}

impl Shard {
    /// The entry of a reader, made if it is missing.
    pub(crate) fn entry(
        &mut self,
        hash: u64,
        client_id: &str,
        partition: &Arc<Partition>,
        place: Place,
        now: Instant,
    ) -> &mut Entry {
        let is_here = self.entries.get(&hash).is_some_and(|entry| entry.is(client_id, partition));
        if !is_here {
            self.make_room(hash, now);
            let entry = Entry {
                client_id: client_id.into(),
                partition: Arc::downgrade(partition),
                place,
                known: None,
                first_seen: now,
                totals: Totals::default(),
                reported: Totals::default(),
                path: "",
                last_seen: now,
            };
            self.entries.insert(hash, entry);
        }
        self.entries.get_mut(&hash).expect("it was found, or inserted")
    }

    /// A reader that is known has asked again.
    pub(crate) fn note_waiting(
        &mut self,
        hash: u64,
        client_id: &str,
        partition: &Arc<Partition>,
        now: Instant,
    ) {
        if let Some(entry) = self.entries.get_mut(&hash).filter(|e| e.is(client_id, partition)) {
            entry.last_seen = now;
        }
    }

    /// Forgets readers that are idle or whose partition is gone.
    pub(crate) fn forget_idle(&mut self, now: Instant) {
        let is_over = |entry: &Entry| {
            now.saturating_duration_since(entry.last_seen) > IDLE_MAX
                || entry.partition.strong_count() == 0
        };
        let unreported = &mut self.unreported;
        self.entries.retain(|_, entry| {
            let stays = !is_over(entry);
            if !stays {
                *unreported += rest_of(entry);
            }
            stays
        });
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&u64, &Entry)> {
        self.entries.iter()
    }

    /// Takes what was found at a place, if the reader is still there.
    pub(crate) fn know(&mut self, hash: u64, known: Known) {
        if let Some(entry) = self.entries.get_mut(&hash) {
            entry.known = Some(known);
        }
    }

    /// Takes over what was not reported.
    pub(crate) fn report(&mut self) -> (Vec<(Entry, Totals)>, Totals) {
        let entries = self.entries.values_mut().map(|entry| {
            let rest = rest_of(entry);
            entry.reported = entry.totals;
            (entry.clone(), rest)
        });
        (entries.collect(), std::mem::take(&mut self.unreported))
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn make_room(&mut self, hash: u64, now: Instant) {
        if self.entries.len() >= SHARD_READERS_MAX && !self.entries.contains_key(&hash) {
            self.forget_idle(now);
        }
        let least_recent = || self.entries.iter().min_by_key(|(_, entry)| entry.last_seen);
        let leaves = match self.entries.contains_key(&hash) {
            true => Some(hash),
            false if self.entries.len() < SHARD_READERS_MAX => None,
            false => least_recent().map(|(hash, _)| *hash),
        };
        if let Some(entry) = leaves.and_then(|hash| self.entries.remove(&hash)) {
            self.unreported += rest_of(&entry);
        }
    }
}

/// What an entry has not reported.
fn rest_of(entry: &Entry) -> Totals {
    let mut rest = entry.totals;
    rest -= entry.reported;
    rest
}

/// The path that most bytes of an answer took.
pub(crate) fn path_of(sent: &Sent) -> &'static str {
    let paths =
        [("chain", sent.chain_bytes), ("inline", sent.sendfile_bytes), ("copy", sent.copy_bytes)];
    paths.into_iter().rev().max_by_key(|(_, bytes)| *bytes).map_or("", |(path, _)| path)
}

/// A part of a client id that is kept.
pub(crate) fn kept(client_id: &str) -> &str {
    &client_id[..client_id.floor_char_boundary(CLIENT_ID_MAX_BYTES)]
}

/// A group's name as it is shown: what is longer than most names ends with a hash, so that no two
/// are shown as one. A name may have 32 767 bytes, and is shown for each of thousands of
/// partitions.
pub(crate) fn short_name(name: &str) -> String {
    const SHOWN_BYTES: usize = 128;
    if name.len() <= SHOWN_BYTES {
        return name.to_owned();
    }
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(name);
    format!("{}…{hash:016x}", &name[..name.floor_char_boundary(SHOWN_BYTES)])
}

/// Hands on a key that is a hash already.
#[derive(Debug, Default)]
pub(crate) struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("the keys are numbers");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
