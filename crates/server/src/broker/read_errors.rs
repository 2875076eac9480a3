//! Places of the disk that could not be read, kept until they can be read again.
//!
//! A task that meets such a place reports it here: it is logged within a budget, counted, and kept.
//! A fetch of a partition with such a place reads records before it promises them, so its answer
//! ends before the place or is an error. [`run`] reads the places again once a second, on the
//! blocking pool, never on a worker.
//!
//! ```text
//!   fetch, ListOffsets ── report ──► places ──┬── is_suspect ──► prove: read, then promise ──► less, or an error
//!                                       ▲     └── /readyz, /metrics
//!                      read again: gone └──── run
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use penstock_ring::{Ring, blocking};
use penstock_storage::{Extent, FindError, PartitionName};
use tokio::sync::watch;

use crate::broker::Broker;
use crate::broker::read::ReadError;
use crate::log_budget::LogBudget;
use crate::stop::{Stop, wait_for};

/// How often the places are read again.
const INTERVAL: Duration = Duration::from_secs(1);

/// The most places kept of one partition, each with a descriptor; the oldest makes room.
const PLACES_MAX: usize = 8;

/// The size of one read, of a place again or of records to be promised.
const STEP_BYTES: usize = 256 * 1024;

/// The most of a place that is read again.
const PLACE_MAX_BYTES: u64 = 1 << 20;

/// How exactly the first unreadable byte is found among records to be promised.
const NEAR_BYTES: usize = 4096;

/// The purpose of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// Bytes of an answer that was promised.
    Records,
    /// Where an offset lies: batch headers and index pages.
    Offset,
    /// The offset of a time.
    Time,
    /// A sealed segment, for damage.
    Scrub,
    /// The age of a segment.
    Age,
    /// Opening a log.
    Start,
}

impl What {
    /// The label of its metric.
    pub(crate) fn name(self) -> &'static str {
        match self {
            What::Records => "records",
            What::Offset => "offset",
            What::Time => "time",
            What::Scrub => "scrub",
            What::Age => "age",
            What::Start => "start",
        }
    }
}

/// A range of a file with bytes that cannot be read.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) file: Arc<File>,
    pub(crate) position: u64,
    pub(crate) len_bytes: u64,
}

/// All known places.
#[derive(Debug, Default)]
pub(crate) struct ReadErrors {
    /// Every fetch asks for its partition's while there are any. None is empty.
    places: Mutex<HashMap<PartitionName, Vec<Place>>>,
    /// The number of partitions with such places, which every fetch checks.
    count: AtomicUsize,
}

impl ReadErrors {
    /// Whether the partition has a place that cannot be read.
    pub(crate) fn is_suspect(&self, partition: &PartitionName) -> bool {
        self.count.load(Ordering::Relaxed) > 0 && self.places.lock().contains_key(partition)
    }

    /// The partitions with such a place, in order.
    pub(crate) fn partitions(&self) -> Vec<PartitionName> {
        let mut names: Vec<_> = self.places.lock().keys().cloned().collect();
        names.sort_unstable();
        names
    }

    /// Keeps a place, unless it is known already.
    pub(crate) fn keep(&self, partition: &PartitionName, place: Place) {
        let mut all = self.places.lock();
        let places = all.entry(partition.clone()).or_default();
        if places.iter().any(|known| known.is_same(&place)) {
            return;
        }
        if places.len() == PLACES_MAX {
            places.remove(0);
        }
        places.push(place);
        self.count.store(all.len(), Ordering::Relaxed);
    }

    fn forget(&self, partition: &PartitionName, place: &Place) {
        let mut all = self.places.lock();
        if let Some(places) = all.get_mut(partition) {
            places.retain(|known| !known.is_same(place));
            if places.is_empty() {
                all.remove(partition);
            }
        }
        self.count.store(all.len(), Ordering::Relaxed);
    }

    /// Forgets places that can be read again or are gone. Blocks.
    fn read_again(&self) {
        let places = self.places.lock().clone();
        let of_one = |(partition, places): (PartitionName, Vec<Place>)| {
            places.into_iter().map(move |place| (partition.clone(), place))
        };
        for (partition, place) in places.into_iter().flat_map(of_one) {
            if place.read().is_err() && !place.is_unlinked() {
                continue;
            }
            self.forget(&partition, &place);
            let (file, position) = (path_of(&place.file), place.position);
            tracing::info!(%partition, file = %file.display(), position, "can be read again, or is gone");
        }
    }
}

impl Place {
    fn is_same(&self, other: &Place) -> bool {
        let inode = |place: &Place| place.file.metadata().map(|file| (file.dev(), file.ino()));
        let is_same_file = || match (inode(self), inode(other)) {
            (Ok(one), Ok(other)) => one == other,
            _ => Arc::ptr_eq(&self.file, &other.file),
        };
        self.position == other.position && is_same_file()
    }

    fn read(&self) -> io::Result<()> {
        let mut piece = vec![0; STEP_BYTES];
        let end = self.position + self.len_bytes.min(PLACE_MAX_BYTES);
        for from in (self.position..end).step_by(STEP_BYTES) {
            let len_bytes = (end - from).min(STEP_BYTES as u64) as usize;
            self.file.read_exact_at(&mut piece[..len_bytes], from)?;
        }
        Ok(())
    }

    /// Whether its segment has expired, or its topic is deleted.
    fn is_unlinked(&self) -> bool {
        self.file.metadata().is_ok_and(|file| file.nlink() == 0)
    }
}

/// Reads the places again until a stop begins.
pub(crate) async fn run(broker: Arc<Broker>, mut stop: watch::Receiver<Stop>) {
    let read_again = async {
        loop {
            tokio::time::sleep(INTERVAL).await;
            if broker.read_errors.count.load(Ordering::Relaxed) > 0 {
                let broker = Arc::clone(&broker);
                let read = blocking::run(move || broker.read_errors.read_again());
                if read.await.is_err() {
                    tracing::error!(
                        "reading bad places again panicked; the next round runs as usual"
                    );
                }
            }
        }
    };
    tokio::select! {
        () = read_again => {}
        () = wait_for(&mut stop, Stop::Drain) => {}
    }
}

/// Counts a place that could not be read, keeps it, and logs it within the budget.
pub(crate) fn report(
    broker: &Broker,
    lines: &LogBudget,
    what: What,
    partition: &PartitionName,
    place: Place,
    error: &dyn std::fmt::Display,
) {
    broker.metrics.note_read_error(what);
    if let Some(held_back) = lines.take(Instant::now()) {
        let (file, position) = (path_of(&place.file), place.position);
        tracing::error!(%partition, file = %file.display(), position, held_back, %error, "cannot read {}", what.name());
    }
    broker.read_errors.keep(partition, place);
}

/// Reports a failed look-up. Damage is logged within the budget, too. An offset out of range is
/// routine: debug.
pub(crate) fn report_lookup(
    broker: &Broker,
    lines: &LogBudget,
    what: What,
    partition: &PartitionName,
    sought: i64,
    error: &ReadError,
) {
    match error {
        ReadError::Disk { file, position, len_bytes, source } => {
            let (file, position, len_bytes) = (Arc::clone(file), *position, *len_bytes as u64);
            return report(
                broker,
                lines,
                what,
                partition,
                Place { file, position, len_bytes },
                source,
            );
        }
        ReadError::Find(FindError::OutOfRange { .. }) => {
            return tracing::debug!(%partition, sought, %error, "cannot look up");
        }
        ReadError::Find(FindError::Io { source, .. }) if is_of_the_disk(source) => {
            broker.metrics.note_read_error(what);
        }
        ReadError::Find(FindError::Short { .. }) => broker.metrics.note_read_error(what),
        ReadError::Find(_) => {}
    }
    if let Some(held_back) = lines.take(Instant::now()) {
        tracing::error!(%partition, sought, held_back, %error, "cannot look up {}", what.name());
    }
}

/// Reads an extent before it is promised. Returns as much of it as can be read, and the place that
/// cannot.
pub(crate) async fn prove(ring: &Ring, extent: Extent) -> (Extent, Option<(Place, io::Error)>) {
    let (file, from) = (&extent.file, extent.position.0);
    let mut proven = 0;
    let mut step_bytes = STEP_BYTES;
    while proven < extent.len_bytes {
        let len_bytes = (extent.len_bytes - proven).min(step_bytes as u64);
        let read = ring.read_at(Arc::clone(file), from + proven, len_bytes as usize).await;
        let error = match read {
            Ok(bytes) if bytes.len() as u64 == len_bytes => {
                proven += len_bytes;
                continue;
            }
            Ok(_) => io::ErrorKind::UnexpectedEof.into(),
            Err(error) => error,
        };
        if step_bytes > NEAR_BYTES {
            step_bytes = NEAR_BYTES;
            continue;
        }
        let place = Place { file: Arc::clone(file), position: from + proven, len_bytes };
        return (Extent { len_bytes: proven, ..extent }, Some((place, error)));
    }
    (extent, None)
}

/// Whether a read failed in the disk, and not for lack of a file, a right or a descriptor.
pub(crate) fn is_of_the_disk(error: &io::Error) -> bool {
    use rustix::io::Errno;
    const OF_DISKS: [Errno; 8] = [
        Errno::IO,
        Errno::UCLEAN,
        Errno::BADMSG,
        Errno::NODATA,
        Errno::NXIO,
        Errno::NODEV,
        Errno::STALE,
        Errno::NOTCONN,
    ];
    OF_DISKS.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// A file's path for a log line, from the kernel: a reader has a descriptor only.
fn path_of(file: &File) -> PathBuf {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::fs::read_link(link).unwrap_or_else(|_| PathBuf::from("?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(position: u64) -> (tempfile::NamedTempFile, Place) {
        let named = tempfile::NamedTempFile::new().unwrap();
        let file = Arc::new(named.reopen().unwrap());
        (named, Place { file, position, len_bytes: 10 })
    }

    fn partition(index: i32) -> PartitionName {
        PartitionName { topic: "t".into(), partition: index }
    }

    #[test]
    fn a_place_is_known_until_it_can_be_read_or_is_gone() {
        let errors = ReadErrors::default();
        let ((longer, first), (unlinked, second)) = (place(0), place(0));
        errors.keep(&partition(1), first);
        errors.keep(&partition(0), second);
        errors.read_again();
        assert_eq!(errors.partitions(), [partition(0), partition(1)]);
        longer.as_file().set_len(10).unwrap();
        errors.read_again();
        assert_eq!(errors.partitions(), [partition(0)]);
        assert!(errors.is_suspect(&partition(0)) && !errors.is_suspect(&partition(1)));
        unlinked.close().unwrap();
        errors.read_again();
        assert!(errors.partitions().is_empty() && !errors.is_suspect(&partition(0)));
    }

    #[test]
    fn a_disk_that_reads_nothing_costs_few_descriptors_and_no_place_counts_twice() {
        let errors = ReadErrors::default();
        let (_named, place) = place(0);
        for position in (0..100).chain(0..100) {
            errors.keep(&partition(0), Place { position, ..place.clone() });
        }
        errors.keep(&partition(1), Place { position: 100, ..place });
        let kept: Vec<usize> =
            [0, 1].map(|index| errors.places.lock()[&partition(index)].len()).into();
        assert_eq!(kept, [PLACES_MAX, 1]);
    }
}
