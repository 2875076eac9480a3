//! JoinGroup, SyncGroup, Heartbeat, LeaveGroup: membership of consumer groups.
//!
//! | key | API | versions | KIPs |
//! |---|---|---|---|
//! | 11 | JoinGroup | 0-9 | 1: rebalance time-out (KIP-62), 4: member ids first (KIP-394), 5: static members (KIP-345), 7: protocol type (KIP-559), 8: reason (KIP-800), 9: leaders that need not assign (KIP-814) |
//! | 12 | Heartbeat | 0-4 | 3: static members (KIP-345) |
//! | 13 | LeaveGroup | 0-5 | 3: several members (KIP-345), 5: reason (KIP-800) |
//! | 14 | SyncGroup | 0-5 | 3: static members (KIP-345), 5: protocol type (KIP-559) |
//!
//! A request becomes an event of [`Groups`], and the coordinator's answer becomes a response. What
//! outlives a request is copied out of its frame. Not done: the new consumer protocol (KIP-848),
//! share groups, listing and describing groups.

#[cfg(test)]
mod tests;

use bytes::Bytes;
use penstock_wire::messages::*;
use penstock_wire::{ErrorCode, Str};

use crate::broker::groups::Groups;
use crate::broker::readers;
use penstock_coordinator::{Caller, Join, Joined, Protocol, SyncUp};

/// Protocols (ways to assign partitions) that one member may name; clients name one to three.
const PROTOCOLS_MAX: usize = 32;

/// From this version on, a member must join again with the id it was given (KIP-394).
pub(super) const MEMBER_ID_REQUIRED_SINCE: i16 = 4;

/// From this version on, a leader can be asked not to assign (KIP-814).
const SKIP_ASSIGNMENT_SINCE: i16 = 9;

/// Answers when the rebalance is complete, at the latest after the longest rebalance time-out
/// of the group's members.
pub(crate) async fn join_group(
    groups: &Groups,
    api_version: i16,
    client_id: &str,
    request: JoinGroupRequest,
) -> JoinGroupResponse {
    let refuse = |error_code, member_id| JoinGroupResponse {
        error_code,
        generation_id: -1,
        protocol_name: Some(Str::new()),
        member_id,
        ..JoinGroupResponse::default()
    };
    let join = match join_of(api_version, client_id, &request) {
        Ok(join) => join,
        Err(error) => return refuse(error, request.member_id),
    };
    match groups.join(&request.group_id, join).await {
        Ok(joined) => join_response(joined),
        Err(refused) => refuse(refused.error, refused.member_id),
    }
}

/// Answers when the leader has brought the assignments.
pub(crate) async fn sync_group(groups: &Groups, request: SyncGroupRequest) -> SyncGroupResponse {
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
    match groups.sync(&request.group_id, sync).await {
        Ok(synced) => SyncGroupResponse {
            protocol_type: Some(synced.protocol_type),
            protocol_name: Some(synced.protocol),
            assignment: synced.assignment,
            ..SyncGroupResponse::default()
        },
        Err(error_code) => SyncGroupResponse { error_code, ..SyncGroupResponse::default() },
    }
}

pub(crate) fn heartbeat_group(groups: &Groups, request: &HeartbeatRequest) -> HeartbeatResponse {
    let caller =
        caller(&request.member_id, request.group_instance_id.as_ref(), request.generation_id);
    let error_code = code(groups.heartbeat(&request.group_id, &caller));
    HeartbeatResponse { error_code, ..HeartbeatResponse::default() }
}

pub(crate) fn leave_group(groups: &Groups, request: LeaveGroupRequest) -> LeaveGroupResponse {
    // Up to version 2 there is one member, and its error is the request's.
    if request.members.is_empty() {
        let error_code = code(groups.leave(&request.group_id, &request.member_id, None));
        return LeaveGroupResponse { error_code, ..LeaveGroupResponse::default() };
    }
    let leave = |member: MemberIdentity| {
        let instance_id = member.group_instance_id.as_deref();
        let left = groups.leave(&request.group_id, &member.member_id, instance_id);
        MemberResponse {
            error_code: code(left),
            member_id: member.member_id,
            group_instance_id: member.group_instance_id,
        }
    };
    let members = request.members.into_iter().map(leave).collect();
    LeaveGroupResponse { members, ..LeaveGroupResponse::default() }
}

fn join_of(
    api_version: i16,
    client_id: &str,
    request: &JoinGroupRequest,
) -> Result<Join, ErrorCode> {
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
        client_id: readers::kept(client_id).into(),
        instance_id: request.group_instance_id.as_ref().map(owned),
        session_timeout_ms,
        // Version 0 has none; the session time-out counts instead.
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

pub(super) fn caller(member_id: &Str, instance_id: Option<&Str>, generation: i32) -> Caller {
    Caller { member_id: owned(member_id), instance_id: instance_id.map(owned), generation }
}

pub(super) fn code(outcome: Result<(), ErrorCode>) -> ErrorCode {
    outcome.err().unwrap_or(ErrorCode::NONE)
}

/// A copy that does not keep the frame it came in.
pub(super) fn owned(text: &Str) -> Str {
    Str::from(&**text)
}
