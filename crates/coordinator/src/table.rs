//! All groups with members, and when each is due.
//!
//! The server calls it under its lock, for decisions, and sends the answers of
//! [`Table::take_answers`]. A group costs what its members bring. A group without members is not
//! here.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use penstock_wire::{ErrorCode, Str};

use crate::group::Group;
use crate::member::{Answers, GroupLimits};

/// Groups with members at once.
const GROUPS_MAX: usize = 10_000;

/// Metadata and assignments of one group's members: the leader gets all of it in one answer.
/// Kafka's bound is its largest record, 1 MiB.
const GROUP_MAX_BYTES: usize = 8 * 1024 * 1024;

/// Metadata and assignments of all groups' members.
const MEMBERS_MAX_BYTES: usize = 256 * 1024 * 1024;

/// All groups with members. `J` and `S` are a join and a sync that wait.
#[derive(Debug)]
pub struct Table<J, S> {
    limits: GroupLimits,
    groups: HashMap<Str, Entry<J, S>>,
    /// Each group once, by the time it is due.
    due: BTreeSet<(u64, Str)>,
    size_bytes: usize,
    is_closed: bool,
    answers: Answers<J, S>,
}

#[derive(Debug)]
struct Entry<J, S> {
    group: Group<J, S>,
    due_ms: u64,
    size_bytes: usize,
}

impl<J, S> Table<J, S> {
    /// A table without groups.
    pub fn new(limits: GroupLimits) -> Self {
        Table {
            limits,
            groups: HashMap::new(),
            due: BTreeSet::new(),
            size_bytes: 0,
            is_closed: false,
            answers: Answers::default(),
        }
    }

    /// Passes an event to a group. `None`: there is no such group.
    pub fn update<R>(
        &mut self,
        group_id: &str,
        event: impl FnOnce(&mut Group<J, S>) -> R,
    ) -> Option<R> {
        let outcome = event(&mut self.groups.get_mut(group_id)?.group);
        self.settle(group_id);
        Some(outcome)
    }

    /// Like [`Table::update`], for a member that brings `added_bytes`. Creates the group if it is
    /// missing.
    ///
    /// # Errors
    /// There is no room, or the server stops.
    pub fn update_or_create(
        &mut self,
        group_id: &str,
        added_bytes: usize,
        event: impl FnOnce(&mut Group<J, S>),
    ) -> Result<(), ErrorCode> {
        self.check_open()?;
        let is_new = !self.groups.contains_key(group_id);
        if !self.has_room_for(group_id, added_bytes) || is_new && self.groups.len() >= GROUPS_MAX {
            return Err(ErrorCode::GROUP_MAX_SIZE_REACHED);
        }
        if is_new {
            let id = Str::from(group_id);
            self.due.insert((u64::MAX, id.clone()));
            let group = Group::new(self.limits);
            self.groups.insert(id, Entry { group, due_ms: u64::MAX, size_bytes: 0 });
        }
        self.update(group_id, event);
        Ok(())
    }

    /// Whether a group's members may bring so much more metadata or assignments.
    pub fn has_room_for(&self, group_id: &str, added_bytes: usize) -> bool {
        let group_bytes = self.groups.get(group_id).map_or(0, |entry| entry.size_bytes);
        group_bytes.saturating_add(added_bytes) <= GROUP_MAX_BYTES
            && self.size_bytes.saturating_add(added_bytes) <= MEMBERS_MAX_BYTES
    }

    /// Ticks every group that is due.
    pub fn tick(&mut self, now_ms: u64) {
        while let Some((due_ms, group_id)) = self.due.first().cloned()
            && due_ms <= now_ms
        {
            self.update(&group_id, |group| group.tick(now_ms));
            // After a tick a group is due later than now. Otherwise this loop would never end.
            let next = self.groups.get(&group_id).map(|entry| entry.due_ms);
            assert!(
                next.is_none_or(|next_ms| next_ms > now_ms),
                "{group_id} is due again at {next:?}"
            );
        }
    }

    /// When [`Table::tick`] must be called.
    pub fn next_due_ms(&self) -> Option<u64> {
        self.due.first().map(|(due_ms, _)| *due_ms)
    }

    /// Group, client id and assignment of every member that has one.
    pub fn assignments(&self) -> impl Iterator<Item = (&Str, &Str, &Bytes)> {
        self.groups.iter().flat_map(|(id, entry)| {
            entry.group.assignments().map(move |(client_id, bytes)| (id, client_id, bytes))
        })
    }

    /// Takes the answers since the last call, for the caller to send.
    pub fn take_answers(&mut self) -> Answers<J, S> {
        std::mem::take(&mut self.answers)
    }

    /// Drops every waiting join and sync, and admits none any more.
    pub fn close(&mut self) {
        self.groups.clear();
        self.due.clear();
        self.size_bytes = 0;
        self.is_closed = true;
    }

    /// Refuses use after [`Table::close`].
    ///
    /// # Errors
    /// COORDINATOR_NOT_AVAILABLE: the server stops.
    pub fn check_open(&self) -> Result<(), ErrorCode> {
        if self.is_closed { Err(ErrorCode::COORDINATOR_NOT_AVAILABLE) } else { Ok(()) }
    }

    /// Takes a group's answers, updates its due time and size, and removes it when it is vacant.
    fn settle(&mut self, group_id: &str) {
        let Some((id, mut entry)) = self.groups.remove_entry(group_id) else { return };
        let Answers { joins, syncs } = entry.group.take_answers();
        self.answers.joins.extend(joins);
        self.answers.syncs.extend(syncs);
        self.due.remove(&(entry.due_ms, id.clone()));
        self.size_bytes -= entry.size_bytes;
        if entry.group.is_vacant() {
            return;
        }
        entry.size_bytes = entry.group.size_bytes();
        entry.due_ms = entry.group.next_due_ms().unwrap_or(u64::MAX);
        self.size_bytes += entry.size_bytes;
        self.due.insert((entry.due_ms, id.clone()));
        self.groups.insert(id, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::member::{Caller, Join, Protocol};

    const LIMITS: GroupLimits = GroupLimits {
        initial_delay_ms: 50,
        min_session_ms: 1,
        max_session_ms: 10_000,
        max_members: 9,
    };

    fn join(new_member_id: &str) -> Join {
        Join {
            member_id: "".into(),
            new_member_id: new_member_id.into(),
            client_id: "c".into(),
            instance_id: None,
            session_timeout_ms: 1000,
            rebalance_timeout_ms: 1000,
            protocol_type: "consumer".into(),
            protocols: vec![Protocol { name: "range".into(), metadata: vec![0; 64].into() }],
            must_know_id: false,
            may_skip_assignment: false,
        }
    }

    #[test]
    fn a_group_goes_with_its_last_member_and_leaves_nothing() {
        let mut table = Table::<&str, &str>::new(LIMITS);
        table.update_or_create("g", 100, |group| group.join(join("m"), "waits", 0)).unwrap();
        assert_eq!(table.next_due_ms(), Some(50));
        assert!(table.take_answers().joins.is_empty());
        table.tick(50);
        let ("waits", Ok(joined)) = table.take_answers().joins.remove(0) else { panic!("refused") };
        assert!(table.size_bytes > 64);
        let caller = Caller {
            member_id: joined.member_id,
            instance_id: None,
            generation: joined.generation,
        };
        assert_eq!(table.update("g", |group| group.heartbeat(&caller, 60)), Some(Ok(())));
        table.tick(5000);
        assert_eq!(table.update("g", |group| group.heartbeat(&caller, 5000)), None);
        assert_eq!((table.size_bytes, table.next_due_ms()), (0, None));
    }

    #[test]
    fn a_member_that_brings_more_than_a_group_may_hold_is_refused() {
        let mut table = Table::<(), ()>::new(LIMITS);
        let refused =
            table.update_or_create("g", GROUP_MAX_BYTES + 1, |_| panic!("it was admitted"));
        assert_eq!(refused, Err(ErrorCode::GROUP_MAX_SIZE_REACHED));
        assert!(table.groups.is_empty());
    }

    #[test]
    fn closing_answers_joins_that_wait() {
        let mut table = Table::<Arc<()>, ()>::new(LIMITS);
        let waiter = Arc::new(());
        let waits = Arc::clone(&waiter);
        table.update_or_create("g", 0, |group| group.join(join("m"), waits, 0)).unwrap();
        table.close();
        assert_eq!(Arc::strong_count(&waiter), 1);
        let refused = table.update_or_create("g", 0, |_| panic!("it was admitted"));
        assert_eq!(refused, Err(ErrorCode::COORDINATOR_NOT_AVAILABLE));
    }
}
