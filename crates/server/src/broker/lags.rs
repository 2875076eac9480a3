//! How far groups are behind: committed offsets against the log end, in records and in seconds.
//!
//! Both are exact, as the broker alone can say: the log end and the committed offset are read
//! together, and the seconds are those of the batch that the committed offset points at. That batch
//! is looked up when /metrics is asked for, on a thread that may block, and kept until the group
//! commits another offset.
//!
//! ```text
//!   all commits, by group, topic, partition      more than one view has:
//!   ├──────────┼────────────┼──────────┤         the farthest behind of the last view, again,
//!          last view ends ──► next view          and those behind where it ended
//! ```

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use penstock_coordinator::Offsets;
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

/// Committed offsets that are looked at for one view.
const COMMITS_MAX: usize = 10_000;

/// Of these, at most so many were in the last view, too: those farthest behind.
const FARTHEST_MAX: usize = 1000;

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

/// What one view has.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    /// In the order of their names.
    pub(crate) lags: Vec<Lag>,
    /// Committed offsets that this view has not looked at. Later ones do.
    pub(crate) left_out: usize,
}

type Name = (Str, Str, i32);

/// What is known of a commit between two views.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// When its batch was last looked up; before that, when it was first in a view.
    waits_since: Instant,
    /// The committed offset, and the time that was found there.
    found: Option<(i64, Option<i64>)>,
}

/// What is known between two views.
#[derive(Debug, Default)]
pub(crate) struct Lags {
    /// Held by the one view that looks batches up. The next one finds them known.
    looking: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<Name, Known>,
    next: NextView,
}

/// Which commits the next view has, if there are more than it may have.
#[derive(Debug, Default)]
struct NextView {
    farthest: Vec<Name>,
    /// It goes on behind this one.
    last: Option<Name>,
}

struct Commit {
    name: Name,
    committed: i64,
    log_end: i64,
    partition: Arc<Partition>,
}

impl Lags {
    /// The lag of groups in the partitions that they have committed an offset of.
    pub(crate) async fn look(&self, topics: &Topics, offsets: &OffsetStore) -> Looked {
        let (commits, left_out) = self.commits(topics, offsets);
        self.look_up(&commits).await;
        let now_ms = clock::now_ms();
        let mut state = self.state.lock();
        let mut still_known = HashMap::with_capacity(commits.len());
        let lags = commits.iter().map(|commit| {
            let known = state.known.get(&commit.name).copied();
            still_known.extend(known.map(|known| (commit.name.clone(), known)));
            lag_of(commit, known, now_ms)
        });
        let lags: Vec<Lag> = lags.collect();
        state.known = still_known;
        state.next.farthest = match left_out {
            0 => Vec::new(),
            _ => farthest(&commits),
        };
        Looked { lags, left_out }
    }

    /// Looks up the batches that are not known, those first that have waited longest.
    async fn look_up(&self, commits: &[Commit]) {
        let _one_at_a_time = self.looking.lock().await;
        let mut unknown: Vec<_> = {
            let (mut state, now) = (self.state.lock(), Instant::now());
            let behind = commits.iter().filter(|commit| commit.committed < commit.log_end);
            let unknown = behind.filter_map(|commit| {
                let new = Known { waits_since: now, found: None };
                let known = state.known.entry(commit.name.clone()).or_insert(new);
                let is_known = known.found.is_some_and(|(at, _)| at == commit.committed);
                (!is_known).then_some((known.waits_since, commit))
            });
            unknown.collect()
        };
        unknown.sort_by_key(|(waits_since, _)| *waits_since);
        let places = unknown.into_iter().take(batch_times::PLACES_MAX);
        let places: Vec<_> =
            places.map(|(_, c)| (c.name.clone(), c.committed, Arc::clone(&c.partition))).collect();
        let look = move || {
            batch_times::within_time(places, |(_, committed, partition)| {
                batch_times::at(partition, Offset(*committed)).map(|next| next.timestamp_ms)
            })
        };
        let looked = blocking::run(look).await.unwrap_or_default();
        let (mut state, now) = (self.state.lock(), Instant::now());
        for ((name, committed, _), timestamp_ms) in looked {
            let found = Some((committed, timestamp_ms));
            state.known.insert(name, Known { waits_since: now, found });
        }
    }

    /// The commits of one view, and how many it leaves out.
    fn commits(&self, topics: &Topics, offsets: &OffsetStore) -> (Vec<Commit>, usize) {
        let (chosen, left_out) = {
            let mut state = self.state.lock();
            state.next.choose(&offsets.read(), COMMITS_MAX)
        };
        let of_partition = |((group, topic, index), committed): (Name, i64)| {
            let partition = topics.partition(&topic, index).ok()?;
            let log_end = partition.log().log_end().0;
            Some(Commit { name: (group, topic, index), committed, log_end, partition })
        };
        (chosen.into_iter().filter_map(of_partition).collect(), left_out)
    }
}

impl NextView {
    /// Chooses commits for one view, in the order of their names; returns how many are left out.
    fn choose(&mut self, offsets: &Offsets, most: usize) -> (Vec<(Name, i64)>, usize) {
        let owned = |(group, topic, index, at): penstock_coordinator::Entry<'_>| {
            ((group.clone(), topic.clone(), index), at.offset)
        };
        if offsets.count() <= most {
            return (offsets.all().map(owned).collect(), 0);
        }
        let again = self.farthest.drain(..).take(FARTHEST_MAX.min(most / 2));
        let again: HashSet<Name> = again.collect();
        let (group, topic, index) = self.last.take().unwrap_or_default();
        let behind = offsets.all_behind(&group, &topic, index).chain(offsets.all()).map(owned);
        let mut chosen: Vec<_> = behind.take(most - again.len()).collect();
        self.last = chosen.last().map(|(name, _)| name.clone());
        chosen.retain(|(name, _)| !again.contains(name));
        let again = again.into_iter().filter_map(|(group, topic, index)| {
            let offset = offsets.get(&group, &topic, index)?.offset;
            Some(((group, topic, index), offset))
        });
        chosen.extend(again);
        chosen.sort_unstable();
        let left_out = offsets.count() - chosen.len();
        (chosen, left_out)
    }
}

fn farthest(commits: &[Commit]) -> Vec<Name> {
    let mut all: Vec<&Commit> = commits.iter().collect();
    all.sort_by_key(|commit| commit.committed.saturating_sub(commit.log_end));
    all.into_iter().take(FARTHEST_MAX).map(|commit| commit.name.clone()).collect()
}

fn lag_of(commit: &Commit, known: Option<Known>, now_ms: i64) -> Lag {
    let lag_records = u64::try_from(commit.log_end.saturating_sub(commit.committed)).unwrap_or(0);
    let found = known.and_then(|known| known.found).filter(|(at, _)| *at == commit.committed);
    let timestamp_ms = found.and_then(|(_, timestamp_ms)| timestamp_ms);
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use penstock_coordinator::{Change, Committed};

    use super::*;

    const MOST: usize = 100;

    /// Ten partitions of each group.
    fn offsets(groups: usize) -> Offsets {
        let at = |n: i64| Committed { offset: n, leader_epoch: -1, metadata: Str::new() };
        let mut offsets = Offsets::default();
        for group in 0..groups {
            let entries = (0..10).map(|index| ("t".into(), index, at(i64::from(index))));
            let entries = entries.collect();
            let group = format!("{group:04}").as_str().into();
            offsets.apply(Change::Commit(penstock_coordinator::Commit { group, entries }));
        }
        offsets
    }

    #[test]
    fn few_commits_are_all_in_every_view_in_their_order() {
        let (offsets, mut next) = (offsets(10), NextView::default());
        for _ in 0..3 {
            let (chosen, left_out) = next.choose(&offsets, MOST);
            let names: Vec<_> =
                offsets.all().map(|(g, t, i, _)| (g.clone(), t.clone(), i)).collect();
            assert_eq!(chosen.into_iter().map(|(name, _)| name).collect::<Vec<_>>(), names);
            assert_eq!(left_out, 0);
        }
    }

    #[test]
    fn of_many_commits_each_has_its_turn_and_the_farthest_behind_stay() {
        const GROUPS: usize = 73;
        let (offsets, mut next) = (offsets(GROUPS), NextView::default());
        let farthest: Vec<Name> =
            [3, 40, 72].map(|group| (format!("{group:04}").as_str().into(), "t".into(), 9)).into();
        let mut seen = BTreeSet::new();
        for view in 0..8 {
            let (chosen, left_out) = next.choose(&offsets, MOST);
            let names: BTreeSet<Name> = chosen.iter().map(|(name, _)| name.clone()).collect();
            assert_eq!(names.len(), chosen.len(), "one is there twice");
            assert!(chosen.len() <= MOST && chosen.len() + left_out == GROUPS * 10);
            assert!(view == 0 || farthest.iter().all(|name| names.contains(name)));
            seen.extend(names);
            next.farthest = farthest.clone();
        }
        assert_eq!(seen.len(), GROUPS * 10, "eight views have room for all");
    }
}
