//! Consumer groups: FindCoordinator (10), JoinGroup (11), SyncGroup (14), Heartbeat (12),
//! LeaveGroup (13), OffsetCommit (8), OffsetFetch (9).

use bytes::Bytes;

use crate::schema::schema;
use crate::{ErrorCode, Label, Str};

schema! {
    /// The keys whose coordinator to find.
    FindCoordinatorRequest {
        key: Str [0..=3],
        /// 0 group, 1 transaction.
        key_type: i8 [1..],
        coordinator_keys: Vec<Str> [4..],
    }

    /// The coordinator; from version 4 on in `coordinators`.
    FindCoordinatorResponse {
        throttle_time_ms: i32 [1..],
        error_code: ErrorCode [0..=3],
        error_message: Option<Str> [1..=3],
        node_id: i32 [0..=3],
        host: Str [0..=3],
        port: i32 [0..=3],
        coordinators: Vec<Coordinator> [4..],
    }

    /// One key's.
    Coordinator {
        key: Str [4..],
        node_id: i32 [4..],
        host: Str [4..],
        port: i32 [4..],
        error_code: ErrorCode [4..],
        error_message: Option<Str> [4..],
    }

    /// A member joins, or joins again.
    JoinGroupRequest {
        group_id: Str [0..],
        session_timeout_ms: i32 [0..],
        rebalance_timeout_ms: i32 [1..] = -1,
        member_id: Str [0..],
        group_instance_id: Option<Str> [5..],
        protocol_type: Str [0..],
        protocols: Vec<JoinGroupRequestProtocol> [0..],
        reason: Option<Label> [8..],
    }

    /// One protocol of a member, with its metadata.
    JoinGroupRequestProtocol {
        name: Str [0..],
        metadata: Bytes [0..],
    }

    /// The new generation; the leader's answer has all members.
    JoinGroupResponse {
        throttle_time_ms: i32 [2..],
        error_code: ErrorCode [0..],
        generation_id: i32 [0..] = -1,
        protocol_type: Option<Str> [7..],
        protocol_name: Option<Str> [0.., null 7..],
        leader: Str [0..],
        skip_assignment: bool [9..],
        member_id: Str [0..],
        members: Vec<JoinGroupResponseMember> [0..],
    }

    /// One member.
    JoinGroupResponseMember {
        member_id: Str [0..],
        group_instance_id: Option<Str> [5..],
        metadata: Bytes [0..],
    }

    /// The leader brings the assignments; other members ask for theirs.
    SyncGroupRequest {
        group_id: Str [0..],
        generation_id: i32 [0..],
        member_id: Str [0..],
        group_instance_id: Option<Str> [3..],
        protocol_type: Option<Str> [5..],
        protocol_name: Option<Str> [5..],
        assignments: Vec<SyncGroupRequestAssignment> [0..],
    }

    /// One member's.
    SyncGroupRequestAssignment {
        member_id: Str [0..],
        assignment: Bytes [0..],
    }

    /// The member's assignment.
    SyncGroupResponse {
        throttle_time_ms: i32 [1..],
        error_code: ErrorCode [0..],
        protocol_type: Option<Str> [5..],
        protocol_name: Option<Str> [5..],
        assignment: Bytes [0..],
    }

    /// A member is alive.
    HeartbeatRequest {
        group_id: Str [0..],
        generation_id: i32 [0..],
        member_id: Str [0..],
        group_instance_id: Option<Str> [3..],
    }

    /// Whether the generation still holds.
    HeartbeatResponse {
        throttle_time_ms: i32 [1..],
        error_code: ErrorCode [0..],
    }

    /// A member leaves; from version 3 on, several `members` do.
    LeaveGroupRequest {
        group_id: Str [0..],
        member_id: Str [0..=2],
        members: Vec<MemberIdentity> [3..],
    }

    /// One member.
    MemberIdentity {
        member_id: Str [3..],
        group_instance_id: Option<Str> [3..],
        reason: Option<Label> [5..],
    }

    /// The outcomes.
    LeaveGroupResponse {
        throttle_time_ms: i32 [1..],
        error_code: ErrorCode [0..],
        members: Vec<MemberResponse> [3..],
    }

    /// One member.
    MemberResponse {
        member_id: Str [3..],
        group_instance_id: Option<Str> [3..],
        error_code: ErrorCode [3..],
    }

    /// Offsets that a group commits.
    OffsetCommitRequest {
        group_id: Str [0..],
        generation_id_or_member_epoch: i32 [1..] = -1,
        member_id: Str [1..],
        group_instance_id: Option<Str> [7..],
        retention_time_ms: i64 [2..=4] = -1,
        topics: Vec<OffsetCommitRequestTopic> [0..],
    }

    /// One topic's.
    OffsetCommitRequestTopic {
        name: Str [0..],
        partitions: Vec<OffsetCommitRequestPartition> [0..],
    }

    /// One partition's.
    OffsetCommitRequestPartition {
        partition_index: i32 [0..],
        committed_offset: i64 [0..],
        committed_leader_epoch: i32 [6..] = -1,
        committed_metadata: Option<Label> [0..],
    }

    /// The outcomes.
    OffsetCommitResponse {
        throttle_time_ms: i32 [3..],
        topics: Vec<OffsetCommitResponseTopic> [0..],
    }

    /// One topic's.
    OffsetCommitResponseTopic {
        name: Str [0..],
        partitions: Vec<OffsetCommitResponsePartition> [0..],
    }

    /// One partition's.
    OffsetCommitResponsePartition {
        partition_index: i32 [0..],
        error_code: ErrorCode [0..],
    }

    /// Asks for a group's committed offsets; from version 8 on, for those of `groups`.
    OffsetFetchRequest {
        group_id: Str [0..=7],
        /// Null means all topics with commits of the group.
        topics: Option<Vec<OffsetFetchRequestTopic>> [0..=7, null 2..],
        groups: Vec<OffsetFetchRequestGroup> [8..],
        require_stable: bool [7..],
    }

    /// One group.
    OffsetFetchRequestGroup {
        group_id: Str [8..],
        /// Null means all topics with commits of the group.
        topics: Option<Vec<OffsetFetchRequestTopic>> [8..],
    }

    /// One topic.
    OffsetFetchRequestTopic {
        name: Str [0..],
        partition_indexes: Vec<i32> [0..],
    }

    /// The committed offsets; from version 8 on in `groups`.
    OffsetFetchResponse {
        throttle_time_ms: i32 [3..],
        topics: Vec<OffsetFetchResponseTopic> [0..=7],
        error_code: ErrorCode [2..=7],
        groups: Vec<OffsetFetchResponseGroup> [8..],
    }

    /// One group.
    OffsetFetchResponseGroup {
        group_id: Str [8..],
        topics: Vec<OffsetFetchResponseTopic> [8..],
        error_code: ErrorCode [8..],
    }

    /// One topic.
    OffsetFetchResponseTopic {
        name: Str [0..],
        partitions: Vec<OffsetFetchResponsePartition> [0..],
    }

    /// One partition; offset -1 when nothing was committed.
    OffsetFetchResponsePartition {
        partition_index: i32 [0..],
        committed_offset: i64 [0..],
        committed_leader_epoch: i32 [5..] = -1,
        metadata: Option<Str> [0..],
        error_code: ErrorCode [0..],
    }
}
