//! How far groups are behind: committed offsets against the log end, in records and in seconds.
//!
//! Both are exact, as the broker alone can say: the log end and the committed offset are read
//! together, and the seconds are those of the batch that the committed offset points at. That batch
//! is looked up when /metrics is asked for, on a thread that may block, and kept until the group
//! commits another offset.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use penstock_ring::blocking;
use penstock_storage::Offset;
use penstock_wire::Str;
use serde::Serialize;

use crate::broker::batch_times;
use crate::broker::groups::OffsetStore;
use crate::broker::partition::Partition;
use crate::broker::readers::short_name;
use crate::broker::topics::Topics;
use crate::clock;

/// Committed offsets that are looked at for one view: the first ones by group and topic.
const COMMITS_MAX: usize = 10_000;

/// How far a group is behind in one partition.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Lag {
    pub(crate) group: String,
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) committed_offset: i64,
    pub(crate) log_end_offset: i64,
    /// `log_end_offset` − `committed_offset`.
    pub(crate) lag_records: u64,
    /// Now − the timestamp of the batch at the committed offset; 0 without lag. `None` where that
    /// batch has not been read or cannot be.
    pub(crate) lag_seconds: Option<f64>,
}

type Name = (Str, Str, i32);

/// A committed offset, with the time that was found there.
#[derive(Debug, Clone, Copy)]
struct Known {
    committed: i64,
    timestamp_ms: Option<i64>,
}

/// The times that are known.
#[derive(Debug, Default)]
pub(crate) struct Lags {
    known: Mutex<HashMap<Name, Known>>,
}

struct Commit {
    name: Name,
    committed: i64,
    log_end: i64,
    partition: Arc<Partition>,
}

impl Lags {
    /// The lag of every group in every partition that it has committed an offset of, in the order
    /// of their names.
    pub(crate) async fn look(&self, topics: &Topics, offsets: &OffsetStore) -> Vec<Lag> {
        let commits = commits(topics, offsets);
        let unknown: Vec<_> = {
            let known = self.known.lock();
            let is_known = |commit: &Commit| {
                known.get(&commit.name).is_some_and(|known| known.committed == commit.committed)
            };
            let unknown = commits.iter().filter(|c| c.committed < c.log_end && !is_known(c));
            let places = unknown.take(batch_times::PLACES_MAX);
            places.map(|c| (c.name.clone(), c.committed, Arc::clone(&c.partition))).collect()
        };
        let look = move || {
            batch_times::within_time(unknown, |(_, committed, partition)| {
                batch_times::at(partition, Offset(*committed)).map(|next| next.timestamp_ms)
            })
        };
        let looked = blocking::run(look).await.unwrap_or_default();
        let mut known = self.known.lock();
        let mut still_known = HashMap::with_capacity(commits.len());
        for ((name, committed, _), timestamp_ms) in looked {
            still_known.insert(name, Known { committed, timestamp_ms });
        }
        let now_ms = clock::now_ms();
        let lags = commits.into_iter().map(|commit| {
            if let Some(kept) = known.get(&commit.name)
                && kept.committed == commit.committed
            {
                still_known.insert(commit.name.clone(), *kept);
            }
            lag_of(&commit, still_known.get(&commit.name), now_ms)
        });
        let lags = lags.collect();
        *known = still_known;
        lags
    }
}

fn commits(topics: &Topics, offsets: &OffsetStore) -> Vec<Commit> {
    let commits: Vec<_> = {
        let offsets = offsets.read();
        let all = offsets.all().take(COMMITS_MAX);
        all.map(|(group, topic, partition, at)| {
            (group.clone(), topic.clone(), partition, at.offset)
        })
        .collect()
    };
    let of_partition = |(group, topic, index, committed): (Str, Str, i32, i64)| {
        let partition = topics.partition(&topic, index).ok()?;
        let log_end = partition.log().log_end().0;
        Some(Commit { name: (group, topic, index), committed, log_end, partition })
    };
    commits.into_iter().filter_map(of_partition).collect()
}

fn lag_of(commit: &Commit, known: Option<&Known>, now_ms: i64) -> Lag {
    let lag_records = u64::try_from(commit.log_end.saturating_sub(commit.committed)).unwrap_or(0);
    let timestamp_ms = known.and_then(|known| known.timestamp_ms);
    let (group, topic, partition) = &commit.name;
    Lag {
        group: short_name(group),
        topic: topic.to_string(),
        partition: *partition,
        committed_offset: commit.committed,
        log_end_offset: commit.log_end,
        lag_records,
        lag_seconds: match lag_records {
            0 => Some(0.0),
            _ => timestamp_ms.map(|then_ms| now_ms.saturating_sub(then_ms).max(0) as f64 / 1e3),
        },
    }
}
