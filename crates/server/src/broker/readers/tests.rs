//! The registry alone: its bounds, whom it forgets, and what a note costs.

use penstock_coordinator::GroupLimits;
use penstock_storage::{Log, LogConfig, PartitionName, Position, TopicId};

use super::entry::{CLIENT_ID_MAX_BYTES, IDLE_MAX};
use super::*;
use crate::broker::groups::OffsetStore;
use crate::broker::partition::Commits;
use crate::config::durability::Durability;
use penstock_storage::Offset;

fn partition(dir: &tempfile::TempDir, index: i32) -> Arc<Partition> {
    let path = dir.path().join(format!("t-{index}"));
    let log = Log::create(path.as_path(), TopicId::random(), LogConfig::default()).unwrap();
    let (appends, writes, syncs) = Default::default();
    let commits = Commits { durability: Durability::Os, appends, writes, syncs };
    let name = PartitionName { topic: "t".to_owned(), partition: index };
    Partition::new(name, log, Arc::new(commits))
}

fn registry(dir: &tempfile::TempDir) -> Readers {
    let offsets = OffsetStore::open(dir.path(), Durability::Os).unwrap();
    Readers::new(Arc::new(Groups::new(GroupLimits::default(), Arc::new(offsets))))
}

const PLACE: Place = Place {
    asked: Offset(0),
    segment: Offset(0),
    first: Offset(0),
    from: Position(0),
    until: Position(0),
};

fn part(partition: &Arc<Partition>, len_bytes: u64) -> Part<'_> {
    Part { partition, place: PLACE, len_bytes }
}

fn cold(bytes: u64) -> Sent {
    let disk_wait = Duration::from_millis(bytes);
    Sent { chain_bytes: bytes, cold_bytes: bytes, disk_wait, ..Sent::default() }
}

impl Readers {
    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    fn unreported(&self) -> Totals {
        let mut all = Totals::default();
        self.shards.iter().for_each(|shard| all += shard.lock().unreported);
        all
    }
}

#[test]
fn ten_thousand_clients_stay_within_the_bound_and_lose_no_byte() {
    const CLIENTS: u64 = 10_000;
    let dir = tempfile::tempdir().unwrap();
    let (readers, partition) = (registry(&dir), partition(&dir, 0));
    let begin = Instant::now();
    for n in 0..CLIENTS {
        let now = begin + Duration::from_millis(n);
        readers.note(&format!("client-{n}"), [part(&partition, 7)].into_iter(), &cold(7), now);
    }
    assert!(readers.len() <= READERS_MAX && readers.len() > READERS_MAX / 2);
    let here: u64 = readers.snapshot().iter().map(|reader| reader.cold_bytes).sum();
    assert_eq!(here + readers.unreported().cold_bytes, 7 * CLIENTS);
}

#[test]
fn the_reader_that_was_seen_least_recently_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    let (readers, partition) = (registry(&dir), partition(&dir, 0));
    let begin = Instant::now();
    for n in 0..10_000_u64 {
        let now = begin + Duration::from_millis(n);
        readers.note("steady", [part(&partition, 1)].into_iter(), &cold(1), now);
        readers.note(&format!("passing-{n}"), [part(&partition, 1)].into_iter(), &cold(1), now);
    }
    let snapshot = readers.snapshot();
    let of = |name: &str| snapshot.iter().find(|reader| reader.client_id == name);
    assert_eq!(of("steady").map(|reader| reader.cold_bytes), Some(10_000));
    assert!(of("passing-9999").is_some() && of("passing-0").is_none());
}

#[test]
fn an_idle_reader_and_one_of_a_deleted_partition_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (readers, stays, goes) = (registry(&dir), partition(&dir, 0), partition(&dir, 1));
    let now = Instant::now();
    let Some(long_ago) = now.checked_sub(IDLE_MAX + Duration::from_secs(1)) else { return };
    readers.note("idle", [part(&stays, 1)].into_iter(), &cold(1), long_ago);
    for client_id in ["waits", "idle-too"] {
        readers.note(client_id, [part(&stays, 0)].into_iter(), &cold(0), long_ago);
    }
    readers.note_waiting("waits", &stays, now);
    readers.note("here", [part(&stays, 2), part(&goes, 4)].into_iter(), &cold(6), now);
    drop(goes);
    let snapshot = readers.snapshot();
    let mut names: Vec<_> = snapshot.iter().map(|r| (&*r.client_id, r.partition)).collect();
    names.sort_unstable();
    assert_eq!((names, readers.len()), (vec![("here", 0), ("waits", 0)], 2));
    assert_eq!(readers.unreported().cold_bytes, 5);
}

#[test]
fn a_long_client_id_is_cut_between_characters() {
    let long = "\u{e9}".repeat(100);
    let dir = tempfile::tempdir().unwrap();
    let (readers, partition) = (registry(&dir), partition(&dir, 0));
    for id in [&*long, &long[..90], &format!("x{long}")] {
        readers.note(id, [part(&partition, 1)].into_iter(), &cold(1), Instant::now());
    }
    let mut kept: Vec<_> = readers.snapshot().into_iter().map(|r| r.client_id).collect();
    kept.sort();
    assert_eq!(kept, [format!("x{}", &long[..CLIENT_ID_MAX_BYTES - 2]), long[..64].to_owned()]);
}

#[test]
fn the_parts_of_an_answer_share_what_came_from_the_disk_without_losing_any() {
    let dir = tempfile::tempdir().unwrap();
    let readers = registry(&dir);
    let partitions: Vec<_> = (0..3).map(|index| partition(&dir, index)).collect();
    let sent = Sent {
        chain_bytes: 60,
        copy_bytes: 40,
        cold_bytes: 61,
        disk_wait: Duration::from_millis(77),
        ..Sent::default()
    };
    let lens = [10, 33, 57];
    let parts = partitions.iter().zip(lens).map(|(partition, len)| part(partition, len));
    readers.note("c", parts, &sent, Instant::now());
    let mut all = readers.snapshot();
    all.sort_by_key(|reader| reader.partition);
    assert_eq!(all.iter().map(|r| r.sent_bytes).collect::<Vec<_>>(), lens);
    assert_eq!(all.iter().map(|r| r.cold_bytes).sum::<u64>(), 61);
    assert_eq!(all.iter().map(|r| r.disk_wait).sum::<Duration>(), sent.disk_wait);
    assert!(all.iter().all(|reader| reader.path == "chain"));
}

#[test]
fn a_note_of_a_known_reader_allocates_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (readers, partition) = (registry(&dir), partition(&dir, 0));
    let note = || {
        readers.note("known", [part(&partition, 1)].into_iter(), &cold(1), clock::coarse_now());
    };
    note();
    let counted = allocation_counter::measure(|| (0..100).for_each(|_| note()));
    assert_eq!(counted.count_total, 0);
}

#[test]
fn a_long_name_of_a_group_is_shown_short_and_as_no_other() {
    assert_eq!(short_name("orders"), "orders");
    let long = |end: &str| "ä".repeat(16_000) + end;
    let (one, other) = (short_name(&long("1")), short_name(&long("2")));
    assert!(one.len() < 160 && one != other, "{one} {other}");
    assert_eq!(one, short_name(&long("1")));
}

#[tokio::test]
async fn a_reader_that_has_moved_is_looked_at_before_newer_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (mut readers, partition) = (registry(&dir), partition(&dir, 0));
    let note = |readers: &Readers, client_id: &str, asked: i64| {
        let place = Place { asked: Offset(asked), ..PLACE };
        let part = Part { partition: &partition, place, len_bytes: 1 };
        readers.note(client_id, [part].into_iter(), &cold(1), Instant::now());
    };
    note(&readers, "steady", 0);
    for round in 1..4 {
        readers.looked = Mutex::default();
        readers.look_up().await;
        note(&readers, "steady", round);
        for n in 0..2 * batch_times::PLACES_MAX {
            note(&readers, &format!("new-{round}-{n}"), 0);
        }
    }
    readers.looked = Mutex::default();
    readers.look_up().await;
    let is_known = |shard: &Mutex<Shard>| {
        let shard = shard.lock();
        let mut steady = shard.iter().filter(|(_, entry)| &*entry.client_id == "steady");
        steady.any(|(_, entry)| entry.is_known())
    };
    assert!(readers.shards.iter().any(is_known));
}

#[test]
fn what_an_answer_had_cut_counts_as_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let (readers, partition) = (registry(&dir), partition(&dir, 0));
    let sent = Sent { copy_bytes: 1000, ..Sent::default() };
    let send = |segment: i64, first: i64, from: u64| {
        let place = Place {
            asked: Offset(first),
            segment: Offset(segment),
            first: Offset(first),
            from: Position(from),
            until: Position(from + 1000),
        };
        let part = Part { partition: &partition, place, len_bytes: 1000 };
        readers.note("client", [part].into_iter(), &sent, Instant::now());
        readers.report().0[0].1.again_bytes
    };
    assert_eq!(send(0, 0, 0), 0);
    assert_eq!(send(0, 9, 900), 100, "the last batch had been cut");
    assert_eq!(send(0, 20, 1900), 0, "none had been cut");
    assert_eq!(send(0, 0, 0), 0, "it reads again, by its own will");
    assert_eq!(send(50, 60, 700), 0, "another segment");
}
