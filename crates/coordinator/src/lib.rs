//! Consumer groups as machines: events and the time go in, answers come out.
//!
//! ```text
//!   table.rs     all groups with members, and when each is due
//!    └─ group.rs     one group: who is a member, which generation
//!        ├─ group/rebalance.rs   how a rebalance proceeds
//!        └─ member.rs            what passes between a member and its group
//!   assignment.rs   which partitions an assignment holds
//!   offsets.rs   the committed offsets of all groups
//! ```
//!
//! Nothing here reads a clock, waits, locks or touches a file: the server does, and sends the
//! answers. The limits of groups are here, too ([`GroupLimits`] and the constants of table.rs and
//! offsets.rs). This crate may know the wire's error codes and strings, and must never know storage
//! or sockets.

mod assignment;
mod group;
mod member;
mod offsets;
mod table;

pub use assignment::assigned;
pub use group::Group;
pub use member::{
    Answers, Caller, GroupLimits, Join, JoinAnswer, Joined, Protocol, Refused, SyncAnswer, SyncUp,
    Synced,
};
pub use offsets::{Change, Commit, Committed, Entry, OFFSETS_MAX_BYTES, Offsets};
pub use table::Table;
