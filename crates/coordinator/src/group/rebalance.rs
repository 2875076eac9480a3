//! How a rebalance proceeds: gathering, joining, electing, assigning, losing members.
//!
//! These are the transitions of the state machine in [`super`], which decides when each is taken.

use std::collections::HashMap;

use bytes::Bytes;
use penstock_wire::{ErrorCode, Str};

use super::{Group, State};
use crate::member::{Member, Refused, Wait};

/// No member can keep up with a shorter rebalance. It also bounds how often a group is due.
const REBALANCE_MIN_MS: u64 = 100;

impl<J, S> Group<J, S> {
    /// Begins the first rebalance of a group, or extends it for one more new member.
    pub(super) fn gather(&mut self, rebalance_timeout_ms: u64, now_ms: u64) {
        let at_most_ms = match self.state {
            State::Empty => now_ms + rebalance_timeout_ms.max(REBALANCE_MIN_MS),
            State::PreparingRebalance { gathering_until_ms: Some(until_ms), .. } => until_ms,
            _ => return,
        };
        self.state = State::PreparingRebalance {
            until_ms: at_most_ms.min(now_ms + self.limits.initial_delay_ms),
            gathering_until_ms: Some(at_most_ms),
        };
    }

    /// Makes all members join again, unless they already must.
    pub(super) fn prepare_rebalance(&mut self, now_ms: u64) {
        if matches!(self.state, State::Empty | State::PreparingRebalance { .. }) {
            return;
        }
        self.sync_due_ms = None;
        self.await_joins(now_ms);
        let waiting = self.members.iter_mut().filter(|(_, m)| matches!(m.wait, Wait::Sync(_)));
        for (_, member) in waiting {
            if let Wait::Sync(waiter) = std::mem::replace(&mut member.wait, Wait::Nothing) {
                member.last_heard_ms = now_ms;
                self.answers.syncs.push((waiter, Err(ErrorCode::REBALANCE_IN_PROGRESS)));
            }
        }
    }

    fn await_joins(&mut self, now_ms: u64) {
        let until_ms = now_ms + self.rebalance_timeout_ms();
        self.state = State::PreparingRebalance { until_ms, gathering_until_ms: None };
    }

    pub(super) fn complete_join_if_due(&mut self, now_ms: u64) {
        let State::PreparingRebalance { until_ms, gathering_until_ms } = self.state else { return };
        let is_empty = self.members.is_empty();
        let all_are_here = gathering_until_ms.is_none()
            && self.pending.is_empty()
            && self.members.values().all(Member::waits_for_join);
        if is_empty || all_are_here || now_ms >= until_ms {
            self.complete_join(now_ms);
        }
    }

    /// Begins a generation of the members that have joined. Static members may stay away until
    /// their session ends.
    fn complete_join(&mut self, now_ms: u64) {
        let away = |member: &Member<J, S>| !member.waits_for_join();
        let lost = self.members.iter().filter(|(_, m)| away(m) && m.instance_id.is_none());
        for id in lost.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.forget(&id);
        }
        if self.members.is_empty() {
            self.state = State::Empty;
            return;
        }
        let Some(first) = self.members.iter().find(|(_, m)| m.waits_for_join()) else {
            return self.await_joins(now_ms);
        };
        let leader = self.leader.as_ref().filter(|id| self.members[*id].waits_for_join());
        self.leader = Some(leader.unwrap_or(first.0).clone());
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.protocol = self.elect_protocol();
        self.state = State::CompletingRebalance;
        self.sync_due_ms = Some(now_ms + self.rebalance_timeout_ms());
        for id in self.members.keys().cloned().collect::<Vec<_>>() {
            let member = self.member(&id);
            member.has_synced = false;
            if let Wait::Join(waiter) = std::mem::replace(&mut member.wait, Wait::Nothing) {
                member.last_heard_ms = now_ms;
                let answer = Ok(self.joined(&id));
                self.answers.joins.push((waiter, answer));
            }
        }
    }

    /// Each member votes for the first of its protocols that all members know. The leader's order
    /// decides a tie.
    fn elect_protocol(&self) -> Str {
        let leader = &self.members[self.leader.as_ref().expect("it was just chosen")];
        let known_to_all = |name: &str| self.members.values().all(|m| m.metadata(name).is_some());
        let candidates: Vec<&Str> = leader
            .protocols
            .iter()
            .map(|protocol| &protocol.name)
            .filter(|name| known_to_all(name))
            .collect();
        let mut votes: HashMap<&Str, usize> = HashMap::new();
        for member in self.members.values() {
            let mut liked = member.protocols.iter().map(|protocol| &protocol.name);
            let vote = liked.find(|name| candidates.contains(name));
            *votes
                .entry(vote.expect("a join without a common protocol was refused"))
                .or_default() += 1;
        }
        // max_by_key returns the last maximum. From back to front, that is the leader's first.
        let elected = candidates.into_iter().rev().max_by_key(|name| votes.get(name));
        elected.expect("a join without a common protocol was refused").clone()
    }

    /// The leader has brought the assignments: each waiting member gets its own, and the group is
    /// stable.
    pub(super) fn assign(&mut self, assignments: &mut HashMap<Str, Bytes>) {
        self.state = State::Stable;
        for id in self.members.keys().cloned().collect::<Vec<_>>() {
            let member = self.member(&id);
            member.assignment = assignments.remove(&id).unwrap_or_default();
            if let Wait::Sync(waiter) = std::mem::replace(&mut member.wait, Wait::Nothing) {
                let answer = Ok(self.synced(&id));
                self.answers.syncs.push((waiter, answer));
            }
        }
    }

    /// Removes members. The others share their partitions.
    pub(super) fn lose(&mut self, member_ids: &[Str], now_ms: u64) {
        for member_id in member_ids {
            self.forget(member_id);
        }
        if !member_ids.is_empty() {
            self.prepare_rebalance(now_ms);
        }
    }

    fn forget(&mut self, member_id: &Str) {
        let Some(member) = self.members.remove(member_id) else { return };
        self.refuse(member_id, member.wait, ErrorCode::UNKNOWN_MEMBER_ID);
        if let Some(instance_id) = member.instance_id
            && self.instances.get(&instance_id) == Some(member_id)
        {
            self.instances.remove(&instance_id);
        }
        if self.leader.as_ref() == Some(member_id) {
            self.leader = None;
        }
    }

    /// Lets a member wait. An earlier request of the member (on another connection) is answered
    /// with an error that makes it try again.
    pub(super) fn hold(&mut self, member_id: &Str, wait: Wait<J, S>) {
        let before = std::mem::replace(&mut self.member(member_id).wait, wait);
        self.refuse(member_id, before, ErrorCode::REBALANCE_IN_PROGRESS);
    }

    pub(super) fn refuse(&mut self, member_id: &Str, wait: Wait<J, S>, error: ErrorCode) {
        match wait {
            Wait::Nothing => {}
            Wait::Sync(waiter) => self.answers.syncs.push((waiter, Err(error))),
            Wait::Join(waiter) => {
                let refused = Refused { error, member_id: member_id.clone() };
                self.answers.joins.push((waiter, Err(refused)));
            }
        }
    }

    fn rebalance_timeout_ms(&self) -> u64 {
        let timeouts = self.members.values().map(|member| member.rebalance_timeout_ms);
        timeouts.max().unwrap_or_default().max(REBALANCE_MIN_MS)
    }
}
