//! OffsetCommit and OffsetFetch: the committed offsets of consumer groups.
//!
//! | key | API | versions | KIPs |
//! |---|---|---|---|
//! | 8 | OffsetCommit | 2-8 | 5: no retention time (KIP-211), 6: leader epoch (KIP-320), 7: static members (KIP-345) |
//! | 9 | OffsetFetch | 1-8 | 2: all topics (KIP-88), 5: leader epoch (KIP-320), 7: stable offsets (KIP-447), 8: several groups (KIP-709) |
//!
//! What outlives a request is copied out of its frame. Not done: expiry of offsets, transactional
//! commits, the new consumer protocol (9, KIP-848).

use parking_lot::MutexGuard;
use penstock_wire::messages::*;
use penstock_wire::{ErrorCode, Str};

use crate::api::context::RequestContext;
use crate::api::groups::{caller, code, owned};
use crate::api::long_requests::ELEMENTS_AT_ONCE;
use crate::broker::groups::{CommitError, Groups, OnItsWay};
use penstock_coordinator::{Caller, Commit, Committed, Offsets};

/// The largest metadata of a commit: Kafka's `offset.metadata.max.bytes`.
pub(super) const OFFSET_METADATA_MAX_BYTES: usize = 4096;

/// A partition's answer without its metadata, rounded up.
const PARTITION_BYTES: usize = 96;

/// Answers an OffsetCommit request once its offsets are in the journal.
pub(crate) async fn commit(
    context: &RequestContext<'_>,
    request: OffsetCommitRequest,
) -> OffsetCommitResponse {
    let topics = &context.broker.topics;
    let deletions = topics.deletions();
    let mut sorted = sort(request, &|topic, index| topics.has(topic, index));
    let begun = topics.while_none_goes(|exists| {
        if topics.deletions() != deletions {
            sorted.refuse_missing(exists);
        }
        sorted.queue(&context.broker.groups)
    });
    begun.answered().await
}

/// Answers an OffsetFetch request.
pub(crate) fn fetch(
    context: &RequestContext<'_>,
    request: OffsetFetchRequest,
) -> OffsetFetchResponse {
    fetch_offsets(&context.broker.groups, request, context.broker.settings.answer_max_bytes)
}

/// A commit of which each entry has its answer, and that is not queued yet.
pub(super) struct SortedCommit {
    caller: Caller,
    commit: Commit,
    answers: Vec<OffsetCommitResponseTopic>,
}

/// Sorts a request. A long one takes long, so this needs no lock: `exists` looks one partition up.
pub(super) fn sort(
    request: OffsetCommitRequest,
    exists: &dyn Fn(&str, i32) -> bool,
) -> SortedCommit {
    let caller = caller(
        &request.member_id,
        request.group_instance_id.as_ref(),
        request.generation_id_or_member_epoch,
    );
    let mut commit = Commit { group: owned(&request.group_id), entries: Vec::new() };
    let answers = sorted(&mut commit, request.topics, exists);
    SortedCommit { caller, commit, answers }
}

impl SortedCommit {
    /// Leaves out what has been deleted since it was sorted.
    pub(super) fn refuse_missing(&mut self, exists: &dyn Fn(&str, i32) -> bool) {
        self.commit.entries.retain(|(topic, index, _)| exists(topic, *index));
        for topic in &mut self.answers {
            let good = topic.partitions.iter_mut().filter(|one| one.error_code == ErrorCode::NONE);
            good.filter(|one| !exists(&topic.name, one.partition_index))
                .for_each(|one| one.error_code = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        }
    }

    /// Queues it for the journal. No partition of it may be deleted before this returns, or the
    /// commit would outlive its topic.
    pub(super) fn queue(self, groups: &Groups) -> BegunCommit {
        let SortedCommit { caller, commit, answers } = self;
        let on_its_way = match commit.group.is_empty() {
            true => Err(ErrorCode::INVALID_GROUP_ID),
            false => groups.commit(&caller, commit),
        };
        BegunCommit { answers, on_its_way }
    }
}

pub(super) fn fetch_offsets(
    groups: &Groups,
    request: OffsetFetchRequest,
    mut left_bytes: usize,
) -> OffsetFetchResponse {
    let mut of_group =
        |group: &str, topics| match offsets_of(groups, group, topics, &mut left_bytes) {
            Ok(topics) => (topics, ErrorCode::NONE),
            Err(error_code) => (Vec::new(), error_code),
        };
    let (topics, error_code) = of_group(&request.group_id, request.topics);
    let answers = request.groups.into_iter().map(|OffsetFetchRequestGroup { group_id, topics }| {
        let (topics, error_code) = of_group(&group_id, topics);
        OffsetFetchResponseGroup { group_id, topics, error_code }
    });
    let of_groups = answers.collect();
    OffsetFetchResponse { topics, error_code, groups: of_groups, ..OffsetFetchResponse::default() }
}

/// The offsets of the topics asked for, or of all. A request may repeat names, so `left_bytes`
/// bounds what the answer may still grow by.
fn offsets_of(
    groups: &Groups,
    group: &str,
    asked: Option<Vec<OffsetFetchRequestTopic>>,
    left_bytes: &mut usize,
) -> Result<Vec<OffsetFetchResponseTopic>, ErrorCode> {
    let mut fetch = |index: i32, at: Option<&Committed>| {
        let partition_bytes = PARTITION_BYTES + at.map_or(0, |at| at.metadata.len());
        *left_bytes = left_bytes.checked_sub(partition_bytes).ok_or(ErrorCode::INVALID_REQUEST)?;
        Ok(fetched(index, at))
    };
    let mut turns = Turns { offsets: groups.offsets.read(), left: ELEMENTS_AT_ONCE };
    let Some(asked) = asked else { return all_of(&mut turns, group, fetch) };
    let some = asked.into_iter().map(|OffsetFetchRequestTopic { name, partition_indexes }| {
        let partition = |index: &i32| fetch(*index, turns.next().get(group, &name, *index));
        let partitions = partition_indexes.iter().map(partition).collect::<Result<_, _>>()?;
        Ok(OffsetFetchResponseTopic { name, partitions })
    });
    some.collect()
}

/// All offsets of a group, by topic.
fn all_of(
    turns: &mut Turns<'_>,
    group: &str,
    mut fetch: impl FnMut(i32, Option<&Committed>) -> Result<OffsetFetchResponsePartition, ErrorCode>,
) -> Result<Vec<OffsetFetchResponseTopic>, ErrorCode> {
    let mut topics: Vec<OffsetFetchResponseTopic> = Vec::new();
    let mut last = (Str::new(), -1);
    loop {
        let behind = turns.all().all_behind(group, &last.0, last.1);
        let of_group = behind.take_while(|(of, ..)| **of == *group).take(ELEMENTS_AT_ONCE);
        let mut is_over = true;
        let mut end = last.clone();
        for (_, name, index, at) in of_group {
            if topics.last().is_none_or(|topic| topic.name != *name) {
                topics.push(OffsetFetchResponseTopic { name: name.clone(), ..Default::default() });
            }
            let topic = topics.last_mut().expect("it was there, or pushed");
            topic.partitions.push(fetch(index, Some(at))?);
            (end, is_over) = ((name.clone(), index), false);
        }
        if is_over {
            return Ok(topics);
        }
        last = end;
    }
}

/// The committed offsets, of which a long request reads many. It lets others have the lock in
/// between: it runs at a low priority, and event loops wait for the lock.
struct Turns<'a> {
    offsets: MutexGuard<'a, Offsets>,
    /// Elements until then.
    left: usize,
}

impl Turns<'_> {
    /// For one element.
    fn next(&mut self) -> &Offsets {
        if self.left == 0 {
            return self.all();
        }
        self.left -= 1;
        &self.offsets
    }

    /// For [`ELEMENTS_AT_ONCE`] elements.
    fn all(&mut self) -> &Offsets {
        MutexGuard::bump(&mut self.offsets);
        self.left = ELEMENTS_AT_ONCE;
        &self.offsets
    }
}

/// A commit that is queued for the journal.
pub(super) struct BegunCommit {
    answers: Vec<OffsetCommitResponseTopic>,
    on_its_way: Result<Option<OnItsWay>, ErrorCode>,
}

impl BegunCommit {
    /// Answers once the commit is visible and, in `fsync` mode, on the disk. Dropped, the commit
    /// may still be made.
    pub(super) async fn answered(self) -> OffsetCommitResponse {
        let BegunCommit { answers: mut topics, on_its_way } = self;
        let made = match on_its_way {
            Ok(Some(on_its_way)) => on_its_way.done().await.map_err(CommitError::code),
            Ok(None) => Ok(()),
            Err(error_code) => Err(error_code),
        };
        if let Err(error_code) = made {
            let partitions = topics.iter_mut().flat_map(|topic| &mut topic.partitions);
            partitions.for_each(|partition| partition.error_code = error_code);
        }
        OffsetCommitResponse { topics, ..OffsetCommitResponse::default() }
    }
}

/// Sorts valid entries into `commit`, and answers each entry.
fn sorted(
    commit: &mut Commit,
    asked: Vec<OffsetCommitRequestTopic>,
    exists: &dyn Fn(&str, i32) -> bool,
) -> Vec<OffsetCommitResponseTopic> {
    let answers = asked.into_iter().map(|topic| {
        let name = owned(&topic.name);
        let partitions = topic.partitions.into_iter().map(|asked| {
            let partition_index = asked.partition_index;
            let checked = committed(&name, asked, exists);
            let error_code = code(checked.map(|committed| {
                commit.entries.push((name.clone(), partition_index, committed));
            }));
            OffsetCommitResponsePartition { partition_index, error_code }
        });
        let partitions = partitions.collect();
        OffsetCommitResponseTopic { name, partitions }
    });
    answers.collect()
}

fn committed(
    topic: &str,
    asked: OffsetCommitRequestPartition,
    exists: &dyn Fn(&str, i32) -> bool,
) -> Result<Committed, ErrorCode> {
    let metadata = asked.committed_metadata.unwrap_or_default();
    if metadata.len() > OFFSET_METADATA_MAX_BYTES {
        return Err(ErrorCode::OFFSET_METADATA_TOO_LARGE);
    }
    if !exists(topic, asked.partition_index) {
        return Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    }
    Ok(Committed {
        offset: asked.committed_offset,
        leader_epoch: asked.committed_leader_epoch,
        metadata: owned(&metadata),
    })
}

/// Offset -1 means that nothing is committed: the client starts by its `auto.offset.reset`.
fn fetched(partition_index: i32, at: Option<&Committed>) -> OffsetFetchResponsePartition {
    OffsetFetchResponsePartition {
        partition_index,
        committed_offset: at.map_or(-1, |at| at.offset),
        committed_leader_epoch: at.map_or(-1, |at| at.leader_epoch),
        metadata: Some(at.map(|at| at.metadata.clone()).unwrap_or_default()),
        ..OffsetFetchResponsePartition::default()
    }
}
