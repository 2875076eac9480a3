//! The coordinator by its requests, without connections.

use penstock_wire::ErrorCode;
use penstock_wire::messages::*;

use std::sync::Arc;

use super::{MEMBER_ID_REQUIRED_SINCE, join_group, leave_group, sync_group};
use crate::api::group_offsets::{OFFSET_METADATA_MAX_BYTES, fetch_offsets, sort};
use crate::api::long_requests::ELEMENTS_AT_ONCE;
use crate::broker::groups::{Groups, OffsetStore};
use crate::config::limits::ANSWER_MAX_BYTES;

use crate::config::durability::Durability;
use penstock_coordinator::GroupLimits;

/// An assignment of partition 0 of the topic t.
const ALL_OF_T: &[u8] = b"\0\0\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\0\xff\xff\xff\xff";

fn coordinator() -> (Groups, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let at_once = GroupLimits { initial_delay_ms: 0, ..GroupLimits::default() };
    let offsets = OffsetStore::open(dir.path(), Durability::Os).unwrap();
    (Groups::new(at_once, Arc::new(offsets)), dir)
}

fn join(member_id: &str) -> JoinGroupRequest {
    let range = JoinGroupRequestProtocol { name: "range".into(), metadata: "topics".into() };
    JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        member_id: member_id.into(),
        protocol_type: "consumer".into(),
        protocols: vec![range],
        ..JoinGroupRequest::default()
    }
}

fn commit(generation: i32, member_id: &str, metadata: &str) -> OffsetCommitRequest {
    let partition = |partition_index| OffsetCommitRequestPartition {
        partition_index,
        committed_offset: 42,
        committed_metadata: Some(metadata.into()),
        ..OffsetCommitRequestPartition::default()
    };
    let topic =
        OffsetCommitRequestTopic { name: "t".into(), partitions: vec![partition(0), partition(1)] };
    OffsetCommitRequest {
        group_id: "g".into(),
        generation_id_or_member_epoch: generation,
        member_id: member_id.into(),
        topics: vec![topic],
        ..OffsetCommitRequest::default()
    }
}

/// Commits where the topic has partition 0 alone; gives the error of each partition asked.
async fn commit_errors(groups: &Groups, request: OffsetCommitRequest) -> Vec<ErrorCode> {
    let response = sort(request, &|_, index| index == 0).queue(groups).answered().await;
    response.topics[0].partitions.iter().map(|partition| partition.error_code).collect()
}

fn committed_offsets(groups: &Groups, asked: Option<Vec<i32>>) -> Vec<i64> {
    let topic = |partition_indexes| OffsetFetchRequestTopic { name: "t".into(), partition_indexes };
    let request = OffsetFetchRequest {
        group_id: "g".into(),
        topics: asked.map(|indexes| vec![topic(indexes)]),
        ..OffsetFetchRequest::default()
    };
    let response = fetch_offsets(groups, request, ANSWER_MAX_BYTES);
    let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
    partitions.map(|partition| partition.committed_offset).collect()
}

#[tokio::test]
async fn a_member_joins_syncs_commits_and_leaves() {
    let (groups, _dir) = coordinator();
    let must_return = join_group(&groups, MEMBER_ID_REQUIRED_SINCE, "c", join("")).await;
    assert_eq!(must_return.error_code, ErrorCode::MEMBER_ID_REQUIRED);
    let member_id = must_return.member_id;
    let joined = join_group(&groups, MEMBER_ID_REQUIRED_SINCE, "c", join(&member_id)).await;
    assert_eq!((joined.error_code, &joined.leader), (ErrorCode::NONE, &member_id));
    assert_eq!(joined.members[0].metadata, "topics");

    let assignment =
        SyncGroupRequestAssignment { member_id: member_id.clone(), assignment: "all".into() };
    let synced = sync_group(
        &groups,
        SyncGroupRequest {
            group_id: "g".into(),
            generation_id: joined.generation_id,
            member_id: member_id.clone(),
            assignments: vec![assignment],
            ..SyncGroupRequest::default()
        },
    );
    assert_eq!(synced.await.assignment, "all");

    let errors = commit_errors(&groups, commit(joined.generation_id, &member_id, "m")).await;
    assert_eq!(errors, [ErrorCode::NONE, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION]);
    assert_eq!(committed_offsets(&groups, Some(vec![0, 1])), [42, -1]);
    assert_eq!(committed_offsets(&groups, None), [42]);

    let leave =
        LeaveGroupRequest { group_id: "g".into(), member_id, ..LeaveGroupRequest::default() };
    assert_eq!(leave_group(&groups, leave.clone()).error_code, ErrorCode::NONE);
    assert_eq!(leave_group(&groups, leave).error_code, ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(committed_offsets(&groups, None), [42], "offsets stay without members");
}

#[tokio::test]
async fn a_consumer_outside_of_any_group_commits_with_no_generation() {
    let (groups, _dir) = coordinator();
    let errors = commit_errors(&groups, commit(-1, "", "m")).await;
    assert_eq!(errors[0], ErrorCode::NONE);
    let errors = commit_errors(&groups, commit(3, "unknown", "m")).await;
    assert_eq!(errors, [ErrorCode::ILLEGAL_GENERATION; 2]);
    let long = "m".repeat(OFFSET_METADATA_MAX_BYTES + 1);
    let errors = commit_errors(&groups, commit(-1, "", &long)).await;
    assert_eq!(errors, [ErrorCode::OFFSET_METADATA_TOO_LARGE; 2]);
}

#[tokio::test]
async fn a_member_that_leaves_before_its_answer_stays_a_member() {
    let (groups, _dir) = coordinator();
    let leader = join_group(&groups, 0, "c", join("")).await;
    let mut waiting = Box::pin(join_group(&groups, 0, "c", join("")));
    tokio::select! {
        biased;
        _ = &mut waiting => panic!("the leader has not joined again yet"),
        () = std::future::ready(()) => drop(waiting),
    }
    let again = join_group(&groups, 0, "c", join(&leader.member_id)).await;
    assert_eq!((again.generation_id, again.members.len()), (leader.generation_id + 1, 2));
}

#[tokio::test]
async fn a_join_that_waits_is_let_go_when_the_server_stops() {
    let (groups, _dir) = coordinator();
    join_group(&groups, 0, "c", join("")).await;
    let (waiting, ()) =
        tokio::join!(join_group(&groups, 0, "c", join("")), async { groups.close() });
    assert_eq!(waiting.error_code, ErrorCode::COORDINATOR_NOT_AVAILABLE);
}

#[tokio::test]
async fn asking_for_the_same_offsets_over_and_over_is_refused_before_it_takes_memory() {
    let (groups, _dir) = coordinator();
    let long = "m".repeat(OFFSET_METADATA_MAX_BYTES);
    assert_eq!(commit_errors(&groups, commit(-1, "", &long)).await[0], ErrorCode::NONE);
    let all = OffsetFetchRequestGroup { group_id: "g".into(), topics: None };
    let fetch = |times| {
        let groups_asked = vec![all.clone(); times];
        let request = OffsetFetchRequest { groups: groups_asked, ..Default::default() };
        fetch_offsets(&groups, request, ANSWER_MAX_BYTES)
    };
    assert!(fetch(1000).groups.iter().all(|group| group.error_code.is_none()));
    let refused = fetch(100_000).groups.pop().unwrap();
    assert_eq!((refused.error_code, refused.topics.len()), (ErrorCode::INVALID_REQUEST, 0));
}

/// Of a client id the first 64 bytes count, for its reads and for its membership.
#[tokio::test]
async fn a_client_with_a_long_id_reads_for_its_group() {
    let (groups, _dir) = coordinator();
    let client_id = "\u{e9}".repeat(100);
    let joined = join_group(&groups, 0, &client_id, join("")).await;
    let assignment = SyncGroupRequestAssignment {
        member_id: joined.member_id.clone(),
        assignment: ALL_OF_T.into(),
    };
    let request = SyncGroupRequest {
        group_id: "g".into(),
        generation_id: joined.generation_id,
        member_id: joined.member_id,
        assignments: vec![assignment],
        ..SyncGroupRequest::default()
    };
    assert_eq!(sync_group(&groups, request).await.error_code, ErrorCode::NONE);
    let kept = crate::broker::readers::kept(&client_id);
    assert_eq!(groups.owners().group_of(kept, "t", 0), Some("g"));
}

#[tokio::test]
async fn a_long_list_of_offsets_is_answered_like_a_short_one() {
    const PARTITIONS: i32 = 3 * ELEMENTS_AT_ONCE as i32 + 1;
    let (groups, _dir) = coordinator();
    for (group, topic) in [("f", "t"), ("g", "s"), ("g", "t"), ("h", "t")] {
        let partition = |partition_index| OffsetCommitRequestPartition {
            partition_index,
            committed_offset: i64::from(partition_index) + 1,
            ..OffsetCommitRequestPartition::default()
        };
        let partitions = (0..PARTITIONS).map(partition).collect();
        let request = OffsetCommitRequest {
            group_id: group.into(),
            generation_id_or_member_epoch: -1,
            topics: vec![OffsetCommitRequestTopic { name: topic.into(), partitions }],
            ..OffsetCommitRequest::default()
        };
        let response = sort(request, &|_, _| true).queue(&groups).answered().await;
        assert!(response.topics[0].partitions.iter().all(|p| p.error_code == ErrorCode::NONE));
    }
    let expected: Vec<i64> = (1..=i64::from(PARTITIONS)).collect();
    assert_eq!(committed_offsets(&groups, Some((0..PARTITIONS).collect())), expected);
    assert_eq!(committed_offsets(&groups, None), [&expected[..], &expected].concat());
}

#[tokio::test]
async fn a_partition_that_is_deleted_while_a_commit_is_sorted_is_not_committed() {
    let (groups, _dir) = coordinator();
    let mut sorted = sort(commit(-1, "", "m"), &|_, _| true);
    sorted.refuse_missing(&|_, index| index == 1);
    let response = sorted.queue(&groups).answered().await;
    let codes: Vec<_> = response.topics[0].partitions.iter().map(|p| p.error_code).collect();
    assert_eq!(codes, [ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, ErrorCode::NONE]);
    assert_eq!(committed_offsets(&groups, Some(vec![0, 1])), [-1, 42]);
}
