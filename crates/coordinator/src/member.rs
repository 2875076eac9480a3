//! A member's state, and the requests and answers between a member and its group.
//!
//! Plain data for the state machine in [`crate::Group`]; nothing here decides.

use std::collections::HashMap;

use bytes::Bytes;
use penstock_wire::{ErrorCode, Str};

/// A member's names and numbers beside its metadata, rounded up.
const MEMBER_OVERHEAD_BYTES: usize = 512;

/// The bounds of every group.
#[derive(Debug, Clone, Copy)]
pub struct GroupLimits {
    /// How long the first rebalance of an empty group waits for more members.
    pub initial_delay_ms: u64,
    /// The shortest session time-out of a member.
    pub min_session_ms: u64,
    /// The longest session time-out of a member.
    pub max_session_ms: u64,
    /// Members and given-out member ids of one group.
    pub max_members: usize,
}

impl Default for GroupLimits {
    /// Kafka's values, with two exceptions. Kafka waits 3 s for more members before it first
    /// assigns partitions; members that start together come within milliseconds, and a member that
    /// starts alone should not wait. Kafka does not bound a group's size.
    fn default() -> Self {
        GroupLimits {
            initial_delay_ms: 100,
            min_session_ms: 6_000,
            max_session_ms: 1_800_000,
            max_members: 1_000,
        }
    }
}

/// A protocol (a way to assign partitions) that a member knows, with its metadata for the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protocol {
    /// The name of the assignor.
    pub name: Str,
    /// The data for the leader.
    pub metadata: Bytes,
}

/// A member joins, or joins again.
#[derive(Debug, Clone)]
pub struct Join {
    /// Empty if it has none yet.
    pub member_id: Str,
    /// The id it gets if it needs one. Unique among all ids ever given out.
    pub new_member_id: Str,
    /// The client's name for itself.
    pub client_id: Str,
    /// Makes the member a static one (KIP-345): it keeps its place when its process restarts.
    pub instance_id: Option<Str>,
    /// How long it may be silent.
    pub session_timeout_ms: u64,
    /// How long it may take to join again.
    pub rebalance_timeout_ms: u64,
    /// "consumer" for consumers.
    pub protocol_type: Str,
    /// In the order of its preference.
    pub protocols: Vec<Protocol>,
    /// Whether it must join again with its id before it counts (KIP-394), so that a client that
    /// never reads the answer leaves no member behind.
    pub must_know_id: bool,
    /// Whether it understands that a leader may be asked not to assign (KIP-814).
    pub may_skip_assignment: bool,
}

/// The caller of a request, and its generation.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The id it was given.
    pub member_id: Str,
    /// Its instance id, if it is static.
    pub instance_id: Option<Str>,
    /// -1 outside of a generation.
    pub generation: i32,
}

/// A member asks for its assignment. The leader brings all assignments.
#[derive(Debug, Clone)]
pub struct SyncUp {
    /// The member.
    pub caller: Caller,
    /// The group's protocol type, as the member knows it.
    pub protocol_type: Option<Str>,
    /// The elected protocol, as the member knows it.
    pub protocol: Option<Str>,
    /// By member id; ignored unless the member leads.
    pub assignments: HashMap<Str, Bytes>,
}

/// The answer to a join: a place in a new generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The number of the generation.
    pub generation: i32,
    /// The group's protocol type.
    pub protocol_type: Str,
    /// The elected protocol.
    pub protocol: Str,
    /// The member id of the leader.
    pub leader: Str,
    /// The member's own id.
    pub member_id: Str,
    /// Whether the member leads and the current assignment still holds (KIP-814).
    pub skip_assignment: bool,
    /// For the leader: id, instance id and metadata of each member.
    pub members: Vec<(Str, Option<Str>, Bytes)>,
}

/// Why a join was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Kafka's code.
    pub error: ErrorCode,
    /// The member's id; with MEMBER_ID_REQUIRED the id to come back with.
    pub member_id: Str,
}

/// The answer to a sync: the member's part of this generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synced {
    /// The group's protocol type.
    pub protocol_type: Str,
    /// The elected protocol.
    pub protocol: Str,
    /// The leader's assignment for the member.
    pub assignment: Bytes,
}

/// The answer to a join.
pub type JoinAnswer = Result<Joined, Refused>;
/// The answer to a sync.
pub type SyncAnswer = Result<Synced, ErrorCode>;

/// Answers with their places.
#[derive(Debug)]
pub struct Answers<J, S> {
    /// Answers to joins.
    pub joins: Vec<(J, JoinAnswer)>,
    /// Answers to syncs.
    pub syncs: Vec<(S, SyncAnswer)>,
}

impl<J, S> Default for Answers<J, S> {
    fn default() -> Self {
        Answers { joins: Vec::new(), syncs: Vec::new() }
    }
}

/// A member's waiting request, if any.
#[derive(Debug)]
pub(crate) enum Wait<J, S> {
    Nothing,
    Join(J),
    Sync(S),
}

#[derive(Debug)]
pub(crate) struct Member<J, S> {
    pub(crate) client_id: Str,
    pub(crate) instance_id: Option<Str>,
    session_timeout_ms: u64,
    pub(crate) rebalance_timeout_ms: u64,
    pub(crate) protocols: Vec<Protocol>,
    pub(crate) assignment: Bytes,
    /// Whether it has asked for its assignment in this generation.
    pub(crate) has_synced: bool,
    /// When it was last heard of.
    pub(crate) last_heard_ms: u64,
    pub(crate) wait: Wait<J, S>,
}

impl<J, S> Member<J, S> {
    pub(crate) fn new(join: Join, now_ms: u64) -> Self {
        Member {
            client_id: join.client_id,
            instance_id: join.instance_id,
            session_timeout_ms: join.session_timeout_ms,
            rebalance_timeout_ms: join.rebalance_timeout_ms,
            protocols: join.protocols,
            assignment: Bytes::new(),
            has_synced: false,
            last_heard_ms: now_ms,
            wait: Wait::Nothing,
        }
    }

    /// Takes over the values of a new join.
    pub(crate) fn update(&mut self, join: Join, now_ms: u64) {
        self.client_id = join.client_id;
        self.session_timeout_ms = join.session_timeout_ms;
        self.rebalance_timeout_ms = join.rebalance_timeout_ms;
        self.protocols = join.protocols;
        self.last_heard_ms = now_ms;
    }

    /// When its session ends. A member that waits for an answer owes no heartbeat.
    pub(crate) fn session_end_ms(&self) -> Option<u64> {
        matches!(self.wait, Wait::Nothing).then(|| self.last_heard_ms + self.session_timeout_ms)
    }

    pub(crate) fn waits_for_join(&self) -> bool {
        matches!(self.wait, Wait::Join(_))
    }

    pub(crate) fn metadata(&self, protocol: &str) -> Option<&Bytes> {
        self.protocols.iter().find(|known| known.name == protocol).map(|known| &known.metadata)
    }

    pub(crate) fn size_bytes(&self) -> usize {
        let protocol = |protocol: &Protocol| protocol.name.len() + protocol.metadata.len();
        let protocols: usize = self.protocols.iter().map(protocol).sum();
        MEMBER_OVERHEAD_BYTES + self.client_id.len() + protocols + self.assignment.len()
    }
}
