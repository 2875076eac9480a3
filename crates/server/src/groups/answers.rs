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
