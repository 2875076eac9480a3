//! OffsetCommit and OffsetFetch: the committed offsets of consumer groups.
//!
//! | key | API | versions | KIPs |
//! |---|---|---|---|
//! | 8 | OffsetCommit | 2-8 | 5: no retention time (KIP-211), 6: leader epoch (KIP-320), 7: static members (KIP-345) |
//! | 9 | OffsetFetch | 1-8 | 2: all topics (KIP-88), 5: leader epoch (KIP-320), 7: stable offsets (KIP-447), 8: several groups (KIP-709) |
//!
//! What outlives a request is copied out of its frame. Not done: expiry of offsets, transactional
//! commits, the new consumer protocol (9, KIP-848).

use penstock_wire::ErrorCode;
use penstock_wire::messages::*;

use crate::api::context::RequestContext;
use crate::api::groups::{caller, code, owned};
use crate::broker::groups::{CommitError, Groups, OnItsWay};
use penstock_coordinator::{Commit, Committed};

/// The largest metadata of a commit: Kafka's `offset.metadata.max.bytes`.
pub(super) const OFFSET_METADATA_MAX_BYTES: usize = 4096;

/// A partition's answer without its metadata, rounded up.
const PARTITION_BYTES: usize = 96;

/// Answers an OffsetCommit request once its offsets are in the journal.
pub(crate) async fn commit(
    context: &RequestContext<'_>,
    request: OffsetCommitRequest,
) -> OffsetCommitResponse {
    let begin =
        |exists: &dyn Fn(&str, i32) -> bool| begin_commit(&context.broker.groups, request, exists);
    context.broker.topics.while_none_goes(begin).answered().await
}

/// Answers an OffsetFetch request.
pub(crate) fn fetch(
    context: &RequestContext<'_>,
    request: OffsetFetchRequest,
) -> OffsetFetchResponse {
    fetch_offsets(&context.broker.groups, request, context.broker.settings.answer_max_bytes)
}

/// Queues the valid part of a commit for the journal. `exists` looks a partition up. No
/// partition may be deleted before this returns, or the commit would outlive its topic.
pub(super) fn begin_commit(
    groups: &Groups,
    request: OffsetCommitRequest,
    exists: &dyn Fn(&str, i32) -> bool,
) -> BegunCommit {
    let caller = caller(
        &request.member_id,
        request.group_instance_id.as_ref(),
        request.generation_id_or_member_epoch,
    );
    let mut commit = Commit { group: owned(&request.group_id), entries: Vec::new() };
    let answers = sorted(&mut commit, request.topics, exists);
    let on_its_way = match commit.group.is_empty() {
        true => Err(ErrorCode::INVALID_GROUP_ID),
        false => groups.commit(&caller, commit),
    };
    BegunCommit { answers, on_its_way }
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
    let offsets = groups.offsets.read();
    let mut fetch = |index: i32, at: Option<&Committed>| {
        let partition_bytes = PARTITION_BYTES + at.map_or(0, |at| at.metadata.len());
        *left_bytes = left_bytes.checked_sub(partition_bytes).ok_or(ErrorCode::INVALID_REQUEST)?;
        Ok(fetched(index, at))
    };
    let Some(asked) = asked else {
        let all = offsets.of_group(group).map(|(name, partitions)| {
            let partitions = partitions.iter().map(|(index, at)| fetch(*index, Some(at)));
            let partitions = partitions.collect::<Result<_, _>>()?;
            Ok(OffsetFetchResponseTopic { name: name.clone(), partitions })
        });
        return all.collect();
    };
    let some = asked.into_iter().map(|OffsetFetchRequestTopic { name, partition_indexes }| {
        let at = |index| offsets.get(group, &name, index);
        let partitions = partition_indexes.iter().map(|index| fetch(*index, at(*index)));
        let partitions = partitions.collect::<Result<_, _>>()?;
        Ok(OffsetFetchResponseTopic { name, partitions })
    });
    some.collect()
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
