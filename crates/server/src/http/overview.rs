//! The numbers of the live page, and their JSON.
//!
//! Called by sampler.rs on a thread that may block. `Overview` is plain data: what is shown and
//! how much of it, is decided here and tested without a server. Every list has a bound, and the
//! bounds together keep an event within `EVENT_BYTES_MAX`. What clients sent is shortened; the
//! browser shows it as text.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use penstock_ring::Counters;
use serde::Serialize;

use crate::broker::Broker;
use crate::broker::last_minutes::{SLOT_SECONDS, Seconds};
use crate::broker::partition::Partition;
use crate::broker::readers::ReaderView;
use crate::broker::residency_map::PARTITIONS_MAX;

/// The most bytes of an event.
pub(super) const EVENT_BYTES_MAX: usize = 1024 * 1024;

/// Readers shown at once.
const READERS_MAX: usize = 300;

/// The most bytes of a client's or a group's name. JSON may need six times as many.
const NAME_BYTES_MAX: usize = 64;

/// What the page shows beside the map of memory.
#[derive(Debug, Default, Serialize)]
pub(super) struct Overview {
    server: Server,
    counts: Counts,
    totals: Totals,
    minutes: Minutes,
    partitions: Vec<PartitionRow>,
    readers: Vec<ReaderView>,
}

/// Whose page it is.
#[derive(Debug, Default, Serialize)]
struct Server {
    node_id: i32,
    address: String,
    version: &'static str,
    file_system: String,
    residency: &'static str,
    ready: bool,
}

/// Numbers that rise and fall.
#[derive(Debug, Default, Serialize)]
struct Counts {
    connections: usize,
    connections_max: usize,
    fetches_waiting: i64,
    partitions: usize,
    partitions_offline: usize,
    partitions_unreadable: usize,
    damaged_ranges: u64,
    readers: usize,
}

/// Bytes since the start; the page shows how fast they rise.
#[derive(Debug, Default, Serialize)]
struct Totals {
    produced_bytes: u64,
    inline_bytes: u64,
    chain_bytes: u64,
    copy_bytes: u64,
}

/// The last ten minutes, oldest first.
#[derive(Debug, Default, Serialize)]
struct Minutes {
    slot_seconds: u64,
    disk_bytes: Vec<u64>,
    /// Bytes a second.
    permitted: Vec<Option<u64>>,
    hot_p99_us: Vec<Option<u64>>,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct PartitionRow {
    topic: String,
    partition: i32,
    log_start: i64,
    log_end: i64,
    bytes: u64,
    state: State,
}

/// Whether it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Online,
    /// It takes no appends until a restart.
    Offline,
    /// It could not be opened, or has no directory here.
    Absent,
}

impl Overview {
    /// Reads everything once. `shown` are the partitions of the map. Takes each log's lock.
    pub(super) fn of(broker: &Broker, shown: &[Arc<Partition>], now: Instant) -> Overview {
        let readers = broker.readers.snapshot();
        let absent = broker.topics.all().into_iter().flat_map(|topic| {
            let rows = topic.absent().map(|index| PartitionRow::absent(&topic.name, index));
            rows.collect::<Vec<_>>()
        });
        let served = shown.iter().map(|partition| PartitionRow::of(partition));
        Overview {
            server: Server::of(broker),
            counts: Counts { readers: readers.len(), ..Counts::of(broker) },
            totals: Totals::of(broker),
            minutes: Minutes::of(&broker.last_minutes.read(now)),
            partitions: absent.chain(served).take(PARTITIONS_MAX).collect(),
            readers: farthest(readers),
        }
    }

    pub(super) fn json(&self) -> String {
        json(self)
    }
}

/// Values without maps or foreign types have a JSON, always.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

/// The readers to show: those farthest behind, with names of a bounded length.
fn farthest(mut readers: Vec<ReaderView>) -> Vec<ReaderView> {
    readers.sort_by_key(|reader| Reverse(reader.behind_bytes));
    readers.truncate(READERS_MAX);
    for reader in &mut readers {
        shorten(&mut reader.client_id);
        reader.group.iter_mut().for_each(shorten);
    }
    readers
}

fn shorten(name: &mut String) {
    if name.len() > NAME_BYTES_MAX {
        name.truncate(name.floor_char_boundary(NAME_BYTES_MAX));
        name.push('…');
    }
}

impl Server {
    fn of(broker: &Broker) -> Server {
        let (host, port) = &broker.cluster.advertised;
        Server {
            node_id: broker.cluster.node_id,
            address: format!("{host}:{port}"),
            version: env!("CARGO_PKG_VERSION"),
            file_system: broker.lies_on.name.clone(),
            residency: broker.lies_on.residency(),
            ready: broker.metrics.is_ready(),
        }
    }
}

impl Counts {
    fn of(broker: &Broker) -> Counts {
        Counts {
            connections: broker.connections.load(Ordering::Relaxed),
            connections_max: broker.settings.connections_max,
            fetches_waiting: broker.metrics.fetches_waiting.get(),
            partitions: broker.topics.partition_count(),
            partitions_offline: broker.topics.offline_count(),
            partitions_unreadable: broker.read_errors.partitions().len(),
            damaged_ranges: broker.topics.damage().0,
            readers: 0,
        }
    }
}

impl Totals {
    fn of(broker: &Broker) -> Totals {
        let sum = |of: fn(&Counters) -> u64| broker.metrics.ring_sum(of);
        Totals {
            produced_bytes: broker.metrics.produced_bytes.get(),
            inline_bytes: sum(|ring| ring.sendfile_bytes.get()),
            chain_bytes: sum(|ring| ring.chain_bytes.get()),
            copy_bytes: sum(|ring| ring.copy_bytes.get()),
        }
    }
}

impl Minutes {
    fn of(slots: &[Seconds]) -> Minutes {
        Minutes {
            slot_seconds: SLOT_SECONDS,
            disk_bytes: slots.iter().map(|slot| slot.disk_bytes).collect(),
            permitted: slots.iter().map(|slot| slot.permitted).collect(),
            hot_p99_us: slots.iter().map(|slot| slot.hot_p99_us).collect(),
        }
    }
}

impl PartitionRow {
    fn of(partition: &Partition) -> PartitionRow {
        let log = partition.log();
        PartitionRow {
            topic: partition.name.topic.clone(),
            partition: partition.name.partition,
            log_start: log.log_start().0,
            log_end: log.log_end().0,
            bytes: log.size_bytes(),
            state: if log.is_offline() { State::Offline } else { State::Online },
        }
    }

    fn absent(topic: &str, partition: i32) -> PartitionRow {
        let (topic, state) = (topic.to_owned(), State::Absent);
        PartitionRow { topic, partition, log_start: 0, log_end: 0, bytes: 0, state }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_largest_event_stays_within_its_bound() {
        let row = PartitionRow {
            topic: "t".repeat(249),
            partition: i32::MAX,
            log_start: i64::MAX,
            log_end: i64::MAX,
            bytes: u64::MAX,
            state: State::Offline,
        };
        let readers = farthest(vec![reader(&"\u{1}".repeat(10_000), u64::MAX); 2 * READERS_MAX]);
        let partitions = vec![row; PARTITIONS_MAX];
        let overview = Overview { partitions, readers, ..Overview::default() };
        let bytes = overview.json().len();
        assert!(bytes < EVENT_BYTES_MAX, "{bytes}");
    }

    fn reader(client_id: &str, behind_bytes: u64) -> ReaderView {
        ReaderView {
            client_id: client_id.to_owned(),
            group: Some(client_id.to_owned()),
            topic: "t".repeat(249),
            partition: i32::MAX,
            next_offset: i64::MAX,
            log_end_offset: i64::MAX,
            behind_bytes,
            behind_records: u64::MAX,
            behind_seconds: Some(f64::MAX),
            path: "inline",
            sent_bytes: u64::MAX,
            cold_bytes: u64::MAX,
            disk_wait: Duration::MAX,
            last_seen: Instant::now(),
        }
    }

    #[test]
    fn the_readers_farthest_behind_are_shown_and_long_names_are_cut_within_no_character() {
        let shown = farthest((0..1000).map(|behind| reader(&"é".repeat(33), behind)).collect());
        let expected = Some((READERS_MAX, 999, 1000 - READERS_MAX as u64));
        let (first, last) = (shown.first().unwrap(), shown.last().unwrap());
        assert_eq!(Some((shown.len(), first.behind_bytes, last.behind_bytes)), expected);
        assert_eq!(first.client_id, "é".repeat(32) + "…");
        assert_eq!(first.group.as_deref(), Some(&*first.client_id));
    }

    #[test]
    fn the_json_has_the_names_that_the_page_reads() {
        let rows = [State::Online, State::Offline, State::Absent]
            .map(|state| PartitionRow { state, ..PartitionRow::absent("orders", 3) });
        let seconds =
            [Seconds { disk_bytes: 5, permitted: Some(9), hot_fetches: 1, hot_p99_us: Some(250) }];
        let overview = Overview {
            minutes: Minutes::of(&seconds),
            partitions: rows.to_vec(),
            ..Overview::default()
        };
        let read: serde_json::Value = serde_json::from_str(&overview.json()).unwrap();
        assert_eq!(read["minutes"]["hot_p99_us"][0], 250);
        assert_eq!(read["partitions"][1]["state"], "offline");
        assert_eq!(read["partitions"][2]["topic"], "orders");
    }
}
