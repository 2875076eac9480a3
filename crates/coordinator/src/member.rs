//! What a group knows of one member, and what passes between a member and its group.
//!
//! Plain data for the state machine in [`crate::Group`]; nothing here decides.

use bytes::Bytes;
use penstock_wire::{ErrorCode, Str};

/// What a member's names and numbers take beside its metadata, generously.
const MEMBER_OVERHEAD_BYTES: usize = 512;

/// The bounds every group keeps.
#[derive(Debug, Clone, Copy)]
pub struct GroupLimits {
    /// How long the first rebalance of an empty group waits for more members.
    pub initial_delay_ms: u64,
    /// The shortest session a member may ask for.
    pub min_session_ms: u64,
    /// The longest one.
    pub max_session_ms: u64,
    /// Members and given-out member ids of one group.
    pub max_members: usize,
}

impl Default for GroupLimits {
    /// Kafka's, but for two. Kafka waits 3 s for more members before it first assigns partitions;
    /// members that are started together come within some milliseconds, and who starts one should
    /// not wait. And Kafka sets no bound to a group's size.
    fn default() -> Self {
        GroupLimits {
            initial_delay_ms: 100,
            min_session_ms: 6_000,
            max_session_ms: 1_800_000,
            max_members: 1_000,
        }
    }
}

/// A way to assign partitions that a member knows, and what it has to say to the leader about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protocol {
    /// Of the assignor.
    pub name: Str,
    /// What the leader is given.
    pub metadata: Bytes,
}

/// A member comes, or comes again.
#[derive(Debug, Clone)]
pub struct Join {
    /// Empty: it has none yet.
    pub member_id: Str,
    /// The id it gets if it needs one. Unique among all that were ever given out.
    pub new_member_id: Str,
    /// Makes the member a static one (KIP-345): it keeps its place when its process restarts.
    pub instance_id: Option<Str>,
    /// How long it may be silent, in milliseconds.
    pub session_timeout_ms: u64,
    /// How long it takes to join again, in milliseconds.
    pub rebalance_timeout_ms: u64,
    /// "consumer" for consumers.
    pub protocol_type: Str,
    /// The one it likes best first.
    pub protocols: Vec<Protocol>,
    /// It must come back with its id before it counts (KIP-394), so that a client that never reads
    /// the answer leaves no member behind.
    pub must_know_id: bool,
    /// It understands that a leader may be asked not to assign (KIP-814).
    pub may_skip_assignment: bool,
}

/// Who speaks, and for which generation.
#[derive(Debug, Clone)]
pub struct Caller {
    /// As it was given out.
    pub member_id: Str,
    /// Of a static member.
    pub instance_id: Option<Str>,
    /// -1 outside of a generation.
    pub generation: i32,
}

/// A member wants its assignment; the leader brings everyone's.
#[derive(Debug, Clone)]
pub struct SyncUp {
    /// Who asks.
    pub caller: Caller,
    /// What it takes the group's to be.
    pub protocol_type: Option<Str>,
    /// What it takes the elected one to be.
    pub protocol: Option<Str>,
    /// By member id; of others than the leader, ignored.
    pub assignments: Vec<(Str, Bytes)>,
}

/// A member's place in a new generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// Counts rebalances.
    pub generation: i32,
    /// The group's.
    pub protocol_type: Str,
    /// The elected one.
    pub protocol: Str,
    /// The member id of the leader.
    pub leader: Str,
    /// Its own.
    pub member_id: Str,
    /// It leads, and the assignment there is still holds (KIP-814).
    pub skip_assignment: bool,
    /// For the leader: everyone's id, instance id and metadata.
    pub members: Vec<(Str, Option<Str>, Bytes)>,
}

/// No place, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Kafka's.
    pub error: ErrorCode,
    /// The member's id; with MEMBER_ID_REQUIRED the one to come back with.
    pub member_id: Str,
}

/// What a member is to do in this generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synced {
    /// The group's.
    pub protocol_type: Str,
    /// The elected one.
    pub protocol: Str,
    /// What the leader made for it.
    pub assignment: Bytes,
}

/// What a join comes to.
pub type JoinAnswer = Result<Joined, Refused>;
/// What a sync comes to.
pub type SyncAnswer = Result<Synced, ErrorCode>;

/// Which answer goes where.
#[derive(Debug)]
pub struct Answers<J, S> {
    /// Of joins.
    pub joins: Vec<(J, JoinAnswer)>,
    /// Of syncs.
    pub syncs: Vec<(S, SyncAnswer)>,
}

impl<J, S> Default for Answers<J, S> {
    fn default() -> Self {
        Answers { joins: Vec::new(), syncs: Vec::new() }
    }
}

/// What a member waits for, and where its answer goes.
#[derive(Debug)]
pub(crate) enum Wait<J, S> {
    Nothing,
    Join(J),
    Sync(S),
}

#[derive(Debug)]
pub(crate) struct Member<J, S> {
    pub(crate) instance_id: Option<Str>,
    session_timeout_ms: u64,
    pub(crate) rebalance_timeout_ms: u64,
    pub(crate) protocols: Vec<Protocol>,
    pub(crate) assignment: Bytes,
    /// Whether it has asked for its assignment in this generation.
    pub(crate) has_synced: bool,
    /// When it was last heard of.
    pub(crate) heard_ms: u64,
    pub(crate) wait: Wait<J, S>,
}

impl<J, S> Member<J, S> {
    pub(crate) fn new(join: Join, now_ms: u64) -> Self {
        Member {
            instance_id: join.instance_id,
            session_timeout_ms: join.session_timeout_ms,
            rebalance_timeout_ms: join.rebalance_timeout_ms,
            protocols: join.protocols,
            assignment: Bytes::new(),
            has_synced: false,
            heard_ms: now_ms,
            wait: Wait::Nothing,
        }
    }

    /// Takes over what the member says of itself now.
    pub(crate) fn update(&mut self, join: Join, now_ms: u64) {
        self.session_timeout_ms = join.session_timeout_ms;
        self.rebalance_timeout_ms = join.rebalance_timeout_ms;
        self.protocols = join.protocols;
        self.heard_ms = now_ms;
    }

    /// When its session ends; a member that waits for us does not owe us a word.
    pub(crate) fn session_end_ms(&self) -> Option<u64> {
        matches!(self.wait, Wait::Nothing).then(|| self.heard_ms + self.session_timeout_ms)
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
        MEMBER_OVERHEAD_BYTES + protocols + self.assignment.len()
    }
}
