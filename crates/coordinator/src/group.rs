//! One consumer group's membership: a pure state machine. No clock, no waiting, no I/O.
//!
//! ```text
//!            a member joins                      all have joined, or the time is over
//!  ┌───────┐ ─────────────> ┌────────────────────┐ ──────────────> ┌─────────────────────┐
//!  │ Empty │                │ PreparingRebalance │                 │ CompletingRebalance │
//!  └───────┘ <───────────── └────────────────────┘ <────────────── └─────────────────────┘
//!      :     no member left           ^               join, leave,            │ the leader
//!      :                              │ join, leave,  session over,           │ brings the
//!      v                              │ session over, no sync in time         │ assignments
//!    Dead                             │ no sync in time  ┌────────┐           │
//!                                     └───────────────── │ Stable │ <─────────┘
//!                                                        └────────┘
//! ```
//!
//! Every rebalance that completes begins a generation with one leader. Dead is no state here: the
//! table removes a group that [is vacant](Group::is_vacant). The table calls with events and the
//! time (`now_ms`, milliseconds that never go back), and then sends the answers of
//! [`Group::take_answers`]. `J` and `S` are the places where a waiting join or sync gets its
//! answer; the machine only hands them back.

use std::collections::BTreeMap;

use bytes::Bytes;
use penstock_wire::{ErrorCode, Str};

use crate::member::*;

mod rebalance;
#[cfg(test)]
mod tests;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Empty,
    PreparingRebalance {
        until_ms: u64,
        /// The first rebalance of a group waits for more members. Each new one extends the wait, at
        /// most until here.
        gathering_until_ms: Option<u64>,
    },
    CompletingRebalance,
    Stable,
}

/// One group. `J` and `S` are a join and a sync that wait.
#[derive(Debug)]
pub struct Group<J, S> {
    limits: GroupLimits,
    state: State,
    generation: i32,
    protocol_type: Str,
    protocol: Str,
    leader: Option<Str>,
    members: BTreeMap<Str, Member<J, S>>,
    /// Static members: instance id to member id.
    instances: BTreeMap<Str, Str>,
    /// Ids given out to members that have not come back yet, and until when they may.
    pending: BTreeMap<Str, u64>,
    /// Members that have not asked for their assignment by then are removed.
    sync_due_ms: Option<u64>,
    answers: Answers<J, S>,
}

/// How a join is admitted.
enum Entry {
    New {
        member_id: Str,
    },
    Known {
        member_id: Str,
    },
    /// A static member whose process has started again.
    Replaces {
        member_id: Str,
    },
}

impl<J, S> Group<J, S> {
    /// A group without members.
    pub fn new(limits: GroupLimits) -> Self {
        Group {
            limits,
            state: State::Empty,
            generation: 0,
            protocol_type: Str::new(),
            protocol: Str::new(),
            leader: None,
            members: BTreeMap::new(),
            instances: BTreeMap::new(),
            pending: BTreeMap::new(),
            sync_due_ms: None,
            answers: Answers::default(),
        }
    }

    /// A member joins. It is answered now, or when the rebalance completes.
    pub fn join(&mut self, join: Join, waiter: J, now_ms: u64) {
        match self.admit(&join, now_ms) {
            Ok(Entry::New { member_id }) => self.add(member_id, join, waiter, now_ms),
            Ok(Entry::Known { member_id }) => self.rejoin(&member_id, join, waiter, now_ms),
            Ok(Entry::Replaces { member_id }) => self.replace(&member_id, join, waiter, now_ms),
            Err(refused) => self.answers.joins.push((waiter, Err(refused))),
        }
        self.complete_join_if_due(now_ms);
    }

    /// A member asks for its assignment. It is answered now, or when the leader has brought the
    /// assignments.
    ///
    /// What is left of `sync` stays with the caller, who may be slow to drop it.
    pub fn sync(&mut self, sync: &mut SyncUp, waiter: S, now_ms: u64) {
        if let Err(error) = self.check_sync(sync) {
            return self.answers.syncs.push((waiter, Err(error)));
        }
        let id = sync.caller.member_id.clone();
        let member = self.note_alive(&id, now_ms);
        member.has_synced = true;
        if self.state == State::Stable {
            let answer = Ok(self.synced(&id));
            return self.answers.syncs.push((waiter, answer));
        }
        self.hold(&id, Wait::Sync(waiter));
        if self.leader.as_ref() == Some(&id) {
            self.assign(&mut sync.assignments);
        }
    }

    /// A member is alive. The answer says whether its generation still holds.
    ///
    /// # Errors
    /// Kafka's code for a caller that is not, or no longer, of this generation.
    pub fn heartbeat(&mut self, caller: &Caller, now_ms: u64) -> Result<(), ErrorCode> {
        self.check_caller(caller)?;
        self.note_alive(&caller.member_id, now_ms);
        match self.state {
            State::PreparingRebalance { .. } => Err(ErrorCode::REBALANCE_IN_PROGRESS),
            _ => Ok(()),
        }
    }

    /// A member leaves; with an instance id, the member id may be empty (an operator removes it).
    ///
    /// # Errors
    /// It is no member.
    pub fn leave(
        &mut self,
        member_id: &str,
        instance_id: Option<&str>,
        now_ms: u64,
    ) -> Result<(), ErrorCode> {
        if self.pending.remove(member_id).is_none() {
            let id = match instance_id {
                Some(instance_id) if member_id.is_empty() => {
                    self.instances.get(instance_id).ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?.clone()
                }
                _ => self.identify(member_id, instance_id)?,
            };
            self.lose(&[id], now_ms);
        }
        self.complete_join_if_due(now_ms);
        Ok(())
    }

    /// Whether the caller may commit offsets now. A consumer that assigns itself (generation -1, no
    /// member id) may commit only while the group has no members.
    ///
    /// # Errors
    /// Kafka's code for a caller that may not.
    pub fn may_commit(&mut self, caller: &Caller, now_ms: u64) -> Result<(), ErrorCode> {
        if caller.generation < 0 && self.members.is_empty() {
            return Ok(());
        }
        self.check_caller(caller)?;
        self.note_alive(&caller.member_id, now_ms);
        match self.state {
            State::CompletingRebalance => Err(ErrorCode::REBALANCE_IN_PROGRESS),
            _ => Ok(()),
        }
    }

    /// Ends sessions, rebalances and given-out ids whose time is over.
    pub fn tick(&mut self, now_ms: u64) {
        self.pending.retain(|_, until_ms| *until_ms > now_ms);
        let sync_is_over = self.sync_due_ms.is_some_and(|due_ms| due_ms <= now_ms);
        if sync_is_over {
            self.sync_due_ms = None;
        }
        let is_lost = |member: &Member<J, S>| {
            let silent = member.session_end_ms().is_some_and(|end_ms| end_ms <= now_ms);
            silent || sync_is_over && !member.has_synced
        };
        let lost = self.members.iter().filter(|(_, member)| is_lost(member));
        let lost: Vec<Str> = lost.map(|(id, _)| id.clone()).collect();
        self.lose(&lost, now_ms);
        self.complete_join_if_due(now_ms);
    }

    /// When [`Group::tick`] must be called at the latest.
    pub fn next_due_ms(&self) -> Option<u64> {
        let rebalance = match self.state {
            State::PreparingRebalance { until_ms, .. } => Some(until_ms),
            _ => None,
        };
        let sessions = self.members.values().filter_map(Member::session_end_ms);
        let pending = self.pending.values().copied();
        sessions.chain(pending).chain(rebalance).chain(self.sync_due_ms).min()
    }

    /// Takes the answers to send now.
    pub fn take_answers(&mut self) -> Answers<J, S> {
        std::mem::take(&mut self.answers)
    }

    /// Whether there is no member, and none is expected.
    pub fn is_vacant(&self) -> bool {
        self.state == State::Empty && self.pending.is_empty()
    }

    /// Client id and assignment of each member that has one.
    pub fn assignments(&self) -> impl Iterator<Item = (&Str, &Bytes)> {
        let members = self.members.values().map(|member| (&member.client_id, &member.assignment));
        members.filter(|(_, assignment)| !assignment.is_empty())
    }

    /// Roughly what the group takes in memory.
    pub fn size_bytes(&self) -> usize {
        let pending: usize = self.pending.keys().map(|id| id.len() + 64).sum();
        pending + self.members.values().map(Member::size_bytes).sum::<usize>()
    }

    #[cfg(test)]
    pub(super) fn state(&self) -> State {
        self.state
    }

    /// Admits a join, or refuses it. Gives out an id to come back with where one is needed.
    fn admit(&mut self, join: &Join, now_ms: u64) -> Result<Entry, Refused> {
        let refuse = |error| Refused { error, member_id: join.member_id.clone() };
        let session_is_valid = (self.limits.min_session_ms..=self.limits.max_session_ms)
            .contains(&join.session_timeout_ms);
        if !session_is_valid {
            return Err(refuse(ErrorCode::INVALID_SESSION_TIMEOUT));
        }
        let entry = self.entry_of(join).map_err(refuse)?;
        let (Entry::New { member_id } | Entry::Known { member_id } | Entry::Replaces { member_id }) =
            &entry;
        if !self.agrees(join, member_id) {
            return Err(refuse(ErrorCode::INCONSISTENT_GROUP_PROTOCOL));
        }
        if !matches!(entry, Entry::New { .. }) || self.pending.remove(&join.member_id).is_some() {
            return Ok(entry);
        }
        if self.members.len() + self.pending.len() >= self.limits.max_members {
            return Err(refuse(ErrorCode::GROUP_MAX_SIZE_REACHED));
        }
        if join.must_know_id && join.instance_id.is_none() {
            let member_id = join.new_member_id.clone();
            self.pending.insert(member_id.clone(), now_ms + join.session_timeout_ms);
            return Err(Refused { error: ErrorCode::MEMBER_ID_REQUIRED, member_id });
        }
        Ok(entry)
    }

    fn entry_of(&self, join: &Join) -> Result<Entry, ErrorCode> {
        let instance = join.instance_id.as_ref();
        if join.member_id.is_empty() {
            return Ok(match instance.and_then(|instance_id| self.instances.get(instance_id)) {
                Some(member_id) => Entry::Replaces { member_id: member_id.clone() },
                None => Entry::New { member_id: join.new_member_id.clone() },
            });
        }
        if self.pending.contains_key(&join.member_id) {
            return Ok(Entry::New { member_id: join.member_id.clone() });
        }
        let member_id = self.identify(&join.member_id, instance.map(|id| &**id))?;
        Ok(Entry::Known { member_id })
    }

    /// Whether the joining member shares a protocol with all others. So all members always share
    /// one.
    fn agrees(&self, join: &Join, member_id: &str) -> bool {
        let others = || self.members.iter().filter(|(id, _)| **id != member_id);
        let shared = |name: &Str| others().all(|(_, member)| member.metadata(name).is_some());
        let type_fits = others().next().is_none() || join.protocol_type == self.protocol_type;
        !join.protocol_type.is_empty()
            && type_fits
            && join.protocols.iter().any(|protocol| shared(&protocol.name))
    }

    fn add(&mut self, member_id: Str, join: Join, waiter: J, now_ms: u64) {
        if let Some(instance_id) = &join.instance_id {
            self.instances.insert(instance_id.clone(), member_id.clone());
        }
        self.protocol_type = join.protocol_type.clone();
        self.leader.get_or_insert_with(|| member_id.clone());
        let rebalance_timeout_ms = join.rebalance_timeout_ms;
        self.members.insert(member_id.clone(), Member::new(join, now_ms));
        self.hold(&member_id, Wait::Join(waiter));
        self.gather(rebalance_timeout_ms, now_ms);
        self.prepare_rebalance(now_ms);
    }

    /// A leader that joins a stable group again wants a rebalance, for new partitions for example.
    /// Any other member that joins unchanged has only missed its answer.
    fn rejoin(&mut self, member_id: &Str, join: Join, waiter: J, now_ms: u64) {
        let is_leader = self.leader.as_ref() == Some(member_id);
        let member = self.note_alive(member_id, now_ms);
        let says_nothing_new = member.protocols == join.protocols;
        self.protocol_type = join.protocol_type.clone();
        self.member(member_id).update(join, now_ms);
        let has_missed_the_answer = says_nothing_new
            && match self.state {
                State::CompletingRebalance => true,
                State::Stable => !is_leader,
                State::Empty | State::PreparingRebalance { .. } => false,
            };
        if has_missed_the_answer {
            let answer = Ok(self.joined(member_id));
            return self.answers.joins.push((waiter, answer));
        }
        self.hold(member_id, Wait::Join(waiter));
        self.prepare_rebalance(now_ms);
    }

    /// A static member's new process replaces the old one, which is fenced off. If it joins
    /// unchanged, the group goes on without a rebalance.
    fn replace(&mut self, old_id: &Str, join: Join, waiter: J, now_ms: u64) {
        let mut member = self.members.remove(old_id).expect("an instance is a member");
        let wait = std::mem::replace(&mut member.wait, Wait::Nothing);
        self.refuse(old_id, wait, ErrorCode::FENCED_INSTANCE_ID);
        let (id, instance_id) = (join.new_member_id.clone(), join.instance_id.clone());
        self.instances.insert(instance_id.expect("it is static"), id.clone());
        let leads = self.leader.as_ref() == Some(old_id);
        if leads {
            self.leader = Some(id.clone());
        }
        let says_nothing_new = member.protocols == join.protocols;
        let may_skip_assignment = join.may_skip_assignment;
        self.protocol_type = join.protocol_type.clone();
        member.update(join, now_ms);
        self.members.insert(id.clone(), member);

        if self.state == State::Stable && says_nothing_new {
            let mut joined = self.joined(&id);
            joined.skip_assignment = leads && may_skip_assignment;
            if leads && !may_skip_assignment {
                // A client that does not understand "skip the assignment" is answered with another
                // leader.
                (joined.leader, joined.members) = (old_id.clone(), Vec::new());
            }
            return self.answers.joins.push((waiter, Ok(joined)));
        }
        self.hold(&id, Wait::Join(waiter));
        self.prepare_rebalance(now_ms);
    }

    /// The member id of the caller.
    fn identify(&self, member_id: &str, instance_id: Option<&str>) -> Result<Str, ErrorCode> {
        if let Some(instance_id) = instance_id {
            let current = self.instances.get(instance_id).ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?;
            if *current != member_id {
                return Err(ErrorCode::FENCED_INSTANCE_ID);
            }
        }
        let known = self.members.get_key_value(member_id);
        known.map(|(id, _)| id.clone()).ok_or(ErrorCode::UNKNOWN_MEMBER_ID)
    }

    fn check_caller(&self, caller: &Caller) -> Result<(), ErrorCode> {
        self.identify(&caller.member_id, caller.instance_id.as_deref())?;
        if caller.generation != self.generation {
            return Err(ErrorCode::ILLEGAL_GENERATION);
        }
        Ok(())
    }

    fn check_sync(&self, sync: &SyncUp) -> Result<(), ErrorCode> {
        self.check_caller(&sync.caller)?;
        let fits =
            |named: &Option<Str>, ours: &Str| named.as_ref().is_none_or(|named| named == ours);
        if !fits(&sync.protocol_type, &self.protocol_type) || !fits(&sync.protocol, &self.protocol)
        {
            return Err(ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
        }
        match self.state {
            State::PreparingRebalance { .. } => Err(ErrorCode::REBALANCE_IN_PROGRESS),
            _ => Ok(()),
        }
    }

    /// The answer to a join. The leader's has all members.
    fn joined(&self, member_id: &Str) -> Joined {
        let leader = self.leader.clone().expect("a group with members has a leader");
        let describe = |(id, member): (&Str, &Member<J, S>)| {
            let metadata = member.metadata(&self.protocol).cloned().unwrap_or_default();
            (id.clone(), member.instance_id.clone(), metadata)
        };
        let leads = leader == *member_id;
        let members = self.members.iter().filter(|_| leads).map(describe).collect();
        Joined {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader,
            member_id: member_id.clone(),
            skip_assignment: false,
            members,
        }
    }

    /// The answer to a sync.
    fn synced(&self, member_id: &Str) -> Synced {
        Synced {
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment: self.members[member_id].assignment.clone(),
        }
    }

    fn note_alive(&mut self, member_id: &Str, now_ms: u64) -> &mut Member<J, S> {
        let member = self.member(member_id);
        member.last_heard_ms = now_ms;
        member
    }

    fn member(&mut self, member_id: &Str) -> &mut Member<J, S> {
        self.members.get_mut(member_id).expect("a member that was looked up before")
    }
}
