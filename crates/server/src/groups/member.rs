//! What a group knows of one member, and what passes between a member and its group.
//!
//! Plain data for the state machine in [`super::group`]; nothing here decides.

use bytes::Bytes;
use penstock_wire::{ErrorCode, Str};

/// What a member's names and numbers take beside its metadata, generously.
const MEMBER_OVERHEAD_BYTES: usize = 512;

/// The bounds every group keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroupLimits {
    /// How long the first rebalance of an empty group waits for more members.
    pub(crate) initial_delay_ms: u64,
    /// The shortest session a member may ask for.
    pub(crate) min_session_ms: u64,
    /// The longest one.
    pub(crate) max_session_ms: u64,
    /// Members and given-out member ids of one group.
    pub(crate) max_members: usize,
}

/// A way to assign partitions that a member knows, and what it has to say to the leader about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Protocol {
    pub(crate) name: Str,
    pub(crate) metadata: Bytes,
}

/// A member comes, or comes again.
#[derive(Debug, Clone)]
pub(crate) struct Join {
    /// Empty: it has none yet.
    pub(crate) member_id: Str,
    /// The id it gets if it needs one. Unique among all that were ever given out.
    pub(crate) new_member_id: Str,
    /// Makes the member a static one (KIP-345): it keeps its place when its process restarts.
    pub(crate) instance_id: Option<Str>,
    pub(crate) session_timeout_ms: u64,
    pub(crate) rebalance_timeout_ms: u64,
    pub(crate) protocol_type: Str,
    /// The one it likes best first.
    pub(crate) protocols: Vec<Protocol>,
    /// It must come back with its id before it counts (KIP-394), so that a client that never reads the
    /// answer leaves no member behind.
    pub(crate) must_know_id: bool,
    /// It understands that a leader may be asked not to assign (KIP-814).
    pub(crate) may_skip_assignment: bool,
}

/// Who speaks, and for which generation.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) member_id: Str,
    pub(crate) instance_id: Option<Str>,
    pub(crate) generation: i32,
}

/// A member wants its assignment; the leader brings everyone's.
#[derive(Debug, Clone)]
pub(crate) struct SyncUp {
    pub(crate) caller: Caller,
    pub(crate) protocol_type: Option<Str>,
    pub(crate) protocol: Option<Str>,
    /// By member id; of others than the leader, ignored.
    pub(crate) assignments: Vec<(Str, Bytes)>,
}

/// A member's place in a new generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) generation: i32,
    pub(crate) protocol_type: Str,
    pub(crate) protocol: Str,
    pub(crate) leader: Str,
    pub(crate) member_id: Str,
    pub(crate) skip_assignment: bool,
    /// For the leader: everyone's id, instance id and metadata.
    pub(crate) members: Vec<(Str, Option<Str>, Bytes)>,
}

/// No place, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) error: ErrorCode,
    /// The member's id; with MEMBER_ID_REQUIRED the one to come back with.
    pub(crate) member_id: Str,
}

/// What a member is to do in this generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Synced {
    pub(crate) protocol_type: Str,
    pub(crate) protocol: Str,
    pub(crate) assignment: Bytes,
}

pub(crate) type JoinAnswer = Result<Joined, Refused>;
pub(crate) type SyncAnswer = Result<Synced, ErrorCode>;

/// Which answer goes where.
#[derive(Debug)]
pub(crate) struct Answers<J, S> {
    pub(crate) joins: Vec<(J, JoinAnswer)>,
    pub(crate) syncs: Vec<(S, SyncAnswer)>,
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
