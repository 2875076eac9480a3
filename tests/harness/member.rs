//! A classic consumer group's member, as far as the tests need one.
//!
//! The version of JoinGroup is one in which a newcomer needs no id first (before 4).

use penstock_wire::messages::{
    JoinGroupRequest, JoinGroupRequestProtocol, SyncGroupRequest, SyncGroupRequestAssignment,
};
use penstock_wire::{ErrorCode, Request, Response};

use crate::Client;

/// The version in which [`join_request`] is sent.
pub const JOIN_VERSION: i16 = 3;

/// A newcomer's request, with Kafka's usual protocol. The answer comes with the rebalance.
pub fn join_request(group: &str) -> Request {
    Request::JoinGroup(JoinGroupRequest {
        group_id: group.into(),
        session_timeout_ms: 60_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol { name: "range".into(), ..Default::default() }],
        ..Default::default()
    })
}

/// Makes the client the one member of a group, with the topic's partition 0 assigned to it.
///
/// # Panics
/// The server refuses.
pub fn join(client: &mut Client, group: &str, topic: &str) {
    let Response::JoinGroup(joined) = client.ask_in(JOIN_VERSION, &join_request(group)).unwrap()
    else {
        panic!("not an answer to JoinGroup")
    };
    assert_eq!(joined.error_code, ErrorCode::NONE);
    let mut assignment = b"\0\0\0\0\0\x01".to_vec();
    assignment.extend((topic.len() as i16).to_be_bytes());
    assignment.extend(topic.as_bytes());
    assignment.extend(b"\0\0\0\x01\0\0\0\0\xff\xff\xff\xff");
    let of_member = SyncGroupRequestAssignment {
        member_id: joined.member_id.clone(),
        assignment: assignment.into(),
    };
    let request = SyncGroupRequest {
        group_id: group.into(),
        generation_id: joined.generation_id,
        member_id: joined.member_id,
        assignments: vec![of_member],
        ..Default::default()
    };
    let Response::SyncGroup(synced) = client.ask_in(1, &Request::SyncGroup(request)).unwrap()
    else {
        panic!("not an answer to SyncGroup")
    };
    assert_eq!(synced.error_code, ErrorCode::NONE);
}
