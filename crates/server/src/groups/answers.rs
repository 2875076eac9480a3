//! The group requests as the protocol has them: checked, told to [`Groups`], and its answers put in words.
//!
//! Called by api, one method an API. What is kept of a request is copied out of its frame.

use bytes::Bytes;
use penstock_wire::messages::*;
use penstock_wire::{ErrorCode, Str};

use super::member::{Caller, Join, Joined, Protocol, SyncUp};
use super::offsets::{Commit, Committed};
use super::{Groups, owned};
use crate::cluster::Cluster;

/// A client's own words with an offset: Kafka's `offset.metadata.max.bytes`.
const OFFSET_METADATA_MAX_BYTES: usize = 4096;

/// Ways to assign partitions that one member may name; clients name one to three.
const PROTOCOLS_MAX: usize = 32;

const KEY_IS_A_GROUP: i8 = 0;

/// From this version on, a member must come back with the id it was given (KIP-394).
const MEMBER_ID_REQUIRED_SINCE: i16 = 4;

/// From this version on, a leader can be told not to assign (KIP-814).
const SKIP_ASSIGNMENT_SINCE: i16 = 9;

/// Who coordinates a group: this server, all of them.
pub(crate) fn find_coordinator(
    cluster: &Cluster,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    if request.key_type != KEY_IS_A_GROUP {
        return nobody(request);
    }
    let (node_id, (host, port)) = (cluster.node_id, &cluster.advertised);
    let (host, port) = (Str::from(host.as_str()), i32::from(*port));
    let coordinator =
        |key| Coordinator { key, node_id, host: host.clone(), port, ..Coordinator::default() };
    FindCoordinatorResponse {
        coordinators: request.coordinator_keys.into_iter().map(coordinator).collect(),
        node_id,
        host: host.clone(),
        port,
        ..FindCoordinatorResponse::default()
    }
}

fn nobody(request: FindCoordinatorRequest) -> FindCoordinatorResponse {
    const NOBODY: i32 = -1;
    let error_code = ErrorCode::COORDINATOR_NOT_AVAILABLE;
    let coordinator = |key| Coordinator {
        key,
        node_id: NOBODY,
        port: NOBODY,
        error_code,
        ..Coordinator::default()
    };
    FindCoordinatorResponse {
        error_code,
        node_id: NOBODY,
        port: NOBODY,
        coordinators: request.coordinator_keys.into_iter().map(coordinator).collect(),
        ..FindCoordinatorResponse::default()
    }
}

impl Groups {
    /// Answers when the rebalance is complete: up to the longest rebalance time-out of the group's members.
    pub(crate) async fn join_group(
        &self,
        api_version: i16,
        request: JoinGroupRequest,
    ) -> JoinGroupResponse {
        let refuse = |error_code, member_id| JoinGroupResponse {
            error_code,
            generation_id: -1,
            protocol_name: Some(Str::new()),
            member_id,
            ..JoinGroupResponse::default()
        };
        let join = match join_of(api_version, &request) {
            Ok(join) => join,
            Err(error) => return refuse(error, request.member_id),
        };
        match self.join(&request.group_id, join).await {
            Ok(joined) => join_response(joined),
            Err(refused) => refuse(refused.error, refused.member_id),
        }
    }

    /// Answers when the leader has assigned.
    pub(crate) async fn sync_group(&self, request: SyncGroupRequest) -> SyncGroupResponse {
        let assignments = request.assignments.iter();
        let sync = SyncUp {
            caller: caller(
                &request.member_id,
                request.group_instance_id.as_ref(),
                request.generation_id,
            ),
            protocol_type: request.protocol_type.clone(),
            protocol: request.protocol_name.clone(),
            assignments: assignments
                .map(|one| (owned(&one.member_id), Bytes::copy_from_slice(&one.assignment)))
                .collect(),
        };
        match self.sync(&request.group_id, sync).await {
            Ok(synced) => SyncGroupResponse {
                protocol_type: Some(synced.protocol_type),
                protocol_name: Some(synced.protocol),
                assignment: synced.assignment,
                ..SyncGroupResponse::default()
            },
            Err(error_code) => SyncGroupResponse { error_code, ..SyncGroupResponse::default() },
        }
    }

    pub(crate) fn heartbeat_group(&self, request: &HeartbeatRequest) -> HeartbeatResponse {
        let caller =
            caller(&request.member_id, request.group_instance_id.as_ref(), request.generation_id);
        let error_code = code(self.heartbeat(&request.group_id, &caller));
        HeartbeatResponse { error_code, ..HeartbeatResponse::default() }
    }

    pub(crate) fn leave_group(&self, request: LeaveGroupRequest) -> LeaveGroupResponse {
        // Up to version 2 there is one member and its error is the request's.
        if request.members.is_empty() {
            let error_code = code(self.leave(&request.group_id, &request.member_id, None));
            return LeaveGroupResponse { error_code, ..LeaveGroupResponse::default() };
        }
        let leave = |member: MemberIdentity| {
            let instance_id = member.group_instance_id.as_deref();
            let left = self.leave(&request.group_id, &member.member_id, instance_id);
            MemberResponse {
                error_code: code(left),
                member_id: member.member_id,
                group_instance_id: member.group_instance_id,
            }
        };
        let members = request.members.into_iter().map(leave).collect();
        LeaveGroupResponse { members, ..LeaveGroupResponse::default() }
    }

    /// Answers when what can be committed is in the page cache. `exists` tells topics' partitions.
    pub(crate) async fn commit_offsets(
        &self,
        request: OffsetCommitRequest,
        exists: impl Fn(&str, i32) -> bool,
    ) -> OffsetCommitResponse {
        let caller = caller(
            &request.member_id,
            request.group_instance_id.as_ref(),
            request.generation_id_or_member_epoch,
        );
        let mut commit = Commit { group: owned(&request.group_id), entries: Vec::new() };
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in request.topics {
            let name = owned(&topic.name);
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for asked in topic.partitions {
                let partition_index = asked.partition_index;
                let checked = committed(&name, asked, &exists);
                let error_code = code(checked.map(|committed| {
                    commit.entries.push((name.clone(), partition_index, committed));
                }));
                partitions.push(OffsetCommitResponsePartition { partition_index, error_code });
            }
            topics.push(OffsetCommitResponseTopic { name, partitions });
        }
        let made = match commit.group.is_empty() {
            true => Err(ErrorCode::INVALID_GROUP_ID),
            false => self.commit(&caller, commit).await,
        };
        if let Err(error_code) = made {
            let partitions = topics.iter_mut().flat_map(|topic| &mut topic.partitions);
            partitions.for_each(|partition| partition.error_code = error_code);
        }
        OffsetCommitResponse { topics, ..OffsetCommitResponse::default() }
    }

    pub(crate) fn fetch_offsets(&self, request: OffsetFetchRequest) -> OffsetFetchResponse {
        let groups = request.groups.into_iter().map(|group| OffsetFetchResponseGroup {
            topics: self.offsets_of(&group.group_id, group.topics),
            group_id: group.group_id,
            ..OffsetFetchResponseGroup::default()
        });
        OffsetFetchResponse {
            groups: groups.collect(),
            topics: self.offsets_of(&request.group_id, request.topics),
            ..OffsetFetchResponse::default()
        }
    }

    /// The offsets asked for, or all.
    fn offsets_of(
        &self,
        group: &str,
        asked: Option<Vec<OffsetFetchRequestTopic>>,
    ) -> Vec<OffsetFetchResponseTopic> {
        let offsets = self.offsets.read();
        let topic_of = |topic: OffsetFetchRequestTopic| OffsetFetchResponseTopic {
            partitions: topic
                .partition_indexes
                .iter()
                .map(|index| fetched(*index, offsets.get(group, &topic.name, *index)))
                .collect(),
            name: topic.name,
        };
        match asked {
            Some(topics) => topics.into_iter().map(topic_of).collect(),
            None => offsets
                .of_group(group)
                .map(|(name, partitions)| OffsetFetchResponseTopic {
                    name: name.clone(),
                    partitions: partitions.iter().map(|(i, at)| fetched(*i, Some(at))).collect(),
                })
                .collect(),
        }
    }
}

fn join_of(api_version: i16, request: &JoinGroupRequest) -> Result<Join, ErrorCode> {
    if request.group_id.is_empty() {
        return Err(ErrorCode::INVALID_GROUP_ID);
    }
    if request.protocols.len() > PROTOCOLS_MAX {
        return Err(ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
    }
    let session_timeout_ms = u64::try_from(request.session_timeout_ms)
        .map_err(|_| ErrorCode::INVALID_SESSION_TIMEOUT)?;
    let protocols = request.protocols.iter().map(|protocol| Protocol {
        name: owned(&protocol.name),
        metadata: Bytes::copy_from_slice(&protocol.metadata),
    });
    Ok(Join {
        member_id: owned(&request.member_id),
        new_member_id: format!("member-{}", uuid::Uuid::new_v4()).into(),
        instance_id: request.group_instance_id.as_ref().map(owned),
        session_timeout_ms,
        // Version 0 has none: the session's stands for it.
        rebalance_timeout_ms: u64::try_from(request.rebalance_timeout_ms)
            .unwrap_or(session_timeout_ms),
        protocol_type: owned(&request.protocol_type),
        protocols: protocols.collect(),
        must_know_id: api_version >= MEMBER_ID_REQUIRED_SINCE,
        may_skip_assignment: api_version >= SKIP_ASSIGNMENT_SINCE,
    })
}

fn join_response(joined: Joined) -> JoinGroupResponse {
    let member = |(member_id, group_instance_id, metadata)| JoinGroupResponseMember {
        member_id,
        group_instance_id,
        metadata,
    };
    JoinGroupResponse {
        generation_id: joined.generation,
        protocol_type: Some(joined.protocol_type),
        protocol_name: Some(joined.protocol),
        leader: joined.leader,
        skip_assignment: joined.skip_assignment,
        member_id: joined.member_id,
        members: joined.members.into_iter().map(member).collect(),
        ..JoinGroupResponse::default()
    }
}

fn caller(member_id: &Str, instance_id: Option<&Str>, generation: i32) -> Caller {
    Caller { member_id: owned(member_id), instance_id: instance_id.map(owned), generation }
}

fn committed(
    topic: &str,
    asked: OffsetCommitRequestPartition,
    exists: impl Fn(&str, i32) -> bool,
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

/// Offset -1 stands for "nothing committed": the client starts where `auto.offset.reset` says.
fn fetched(partition_index: i32, at: Option<&Committed>) -> OffsetFetchResponsePartition {
    OffsetFetchResponsePartition {
        partition_index,
        committed_offset: at.map_or(-1, |at| at.offset),
        committed_leader_epoch: at.map_or(-1, |at| at.leader_epoch),
        metadata: Some(at.map(|at| at.metadata.clone()).unwrap_or_default()),
        ..OffsetFetchResponsePartition::default()
    }
}

fn code(outcome: Result<(), ErrorCode>) -> ErrorCode {
    outcome.err().unwrap_or(ErrorCode::NONE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::GroupLimits;

    fn coordinator() -> (Groups, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let at_once = GroupLimits { initial_delay_ms: 0, ..GroupLimits::default() };
        (Groups::open(dir.path(), at_once).unwrap(), dir)
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
        let topic = OffsetCommitRequestTopic {
            name: "t".into(),
            partitions: vec![partition(0), partition(1)],
        };
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
        let response = groups.commit_offsets(request, |_, index| index == 0).await;
        response.topics[0].partitions.iter().map(|partition| partition.error_code).collect()
    }

    fn committed_offsets(groups: &Groups, asked: Option<Vec<i32>>) -> Vec<i64> {
        let topic =
            |partition_indexes| OffsetFetchRequestTopic { name: "t".into(), partition_indexes };
        let response = groups.fetch_offsets(OffsetFetchRequest {
            group_id: "g".into(),
            topics: asked.map(|indexes| vec![topic(indexes)]),
            ..OffsetFetchRequest::default()
        });
        let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
        partitions.map(|partition| partition.committed_offset).collect()
    }

    #[tokio::test]
    async fn a_member_joins_syncs_commits_and_leaves() {
        let (groups, _dir) = coordinator();
        let must_return = groups.join_group(MEMBER_ID_REQUIRED_SINCE, join("")).await;
        assert_eq!(must_return.error_code, ErrorCode::MEMBER_ID_REQUIRED);
        let member_id = must_return.member_id;
        let joined = groups.join_group(MEMBER_ID_REQUIRED_SINCE, join(&member_id)).await;
        assert_eq!((joined.error_code, &joined.leader), (ErrorCode::NONE, &member_id));
        assert_eq!(joined.members[0].metadata, "topics");

        let assignment =
            SyncGroupRequestAssignment { member_id: member_id.clone(), assignment: "all".into() };
        let synced = groups.sync_group(SyncGroupRequest {
            group_id: "g".into(),
            generation_id: joined.generation_id,
            member_id: member_id.clone(),
            assignments: vec![assignment],
            ..SyncGroupRequest::default()
        });
        assert_eq!(synced.await.assignment, "all");

        let errors = commit_errors(&groups, commit(joined.generation_id, &member_id, "m")).await;
        assert_eq!(errors, [ErrorCode::NONE, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION]);
        assert_eq!(committed_offsets(&groups, Some(vec![0, 1])), [42, -1]);
        assert_eq!(committed_offsets(&groups, None), [42]);

        let leave =
            LeaveGroupRequest { group_id: "g".into(), member_id, ..LeaveGroupRequest::default() };
        assert_eq!(groups.leave_group(leave.clone()).error_code, ErrorCode::NONE);
        assert_eq!(groups.leave_group(leave).error_code, ErrorCode::UNKNOWN_MEMBER_ID);
        assert_eq!(committed_offsets(&groups, None), [42], "offsets stay without members");
    }

    #[tokio::test]
    async fn a_consumer_outside_of_any_group_commits_with_no_generation() {
        let (groups, _dir) = coordinator();
        let errors = commit_errors(&groups, commit(-1, "", "m")).await;
        assert_eq!(errors[0], ErrorCode::NONE);
        let errors = commit_errors(&groups, commit(3, "somebody", "m")).await;
        assert_eq!(errors, [ErrorCode::ILLEGAL_GENERATION; 2]);
        let long = "m".repeat(OFFSET_METADATA_MAX_BYTES + 1);
        let errors = commit_errors(&groups, commit(-1, "", &long)).await;
        assert_eq!(errors, [ErrorCode::OFFSET_METADATA_TOO_LARGE; 2]);
    }

    #[tokio::test]
    async fn a_member_whose_answer_nobody_waits_for_stays_a_member() {
        let (groups, _dir) = coordinator();
        let leader = groups.join_group(0, join("")).await;
        let mut waiting = Box::pin(groups.join_group(0, join("")));
        tokio::select! {
            biased;
            _ = &mut waiting => panic!("the leader has not joined again yet"),
            () = std::future::ready(()) => drop(waiting),
        }
        let again = groups.join_group(0, join(&leader.member_id)).await;
        assert_eq!((again.generation_id, again.members.len()), (leader.generation_id + 1, 2));
    }

    #[tokio::test]
    async fn a_join_that_waits_is_let_go_when_the_server_stops() {
        let (groups, _dir) = coordinator();
        groups.join_group(0, join("")).await;
        let (waiting, ()) = tokio::join!(groups.join_group(0, join("")), async { groups.close() });
        assert_eq!(waiting.error_code, ErrorCode::COORDINATOR_NOT_AVAILABLE);
    }
}
