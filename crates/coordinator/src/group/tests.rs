//! The state machine alone, without runtime or clock. Waiting joins and syncs are numbers here.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use penstock_wire::{ErrorCode, Str};
use proptest::prelude::*;

use super::*;

const SESSION_MS: u64 = 1_000;
const REBALANCE_MS: u64 = 5_000;
const DELAY_MS: u64 = 100;

type TestGroup = Group<u32, u32>;

fn group() -> TestGroup {
    Group::new(GroupLimits {
        initial_delay_ms: DELAY_MS,
        min_session_ms: 100,
        max_session_ms: 10_000,
        max_members: 4,
    })
}

/// A member of a version that needs no id first: it is a member at its first join.
fn newcomer(id: &str) -> Join {
    Join {
        member_id: Str::new(),
        new_member_id: id.into(),
        client_id: "client".into(),
        instance_id: None,
        session_timeout_ms: SESSION_MS,
        rebalance_timeout_ms: REBALANCE_MS,
        protocol_type: "consumer".into(),
        protocols: protocols(&["range", "roundrobin"]),
        must_know_id: false,
        may_skip_assignment: true,
    }
}

fn protocols(names: &[&str]) -> Vec<Protocol> {
    let protocol =
        |name: &&str| Protocol { name: (*name).into(), metadata: Bytes::from_static(b"m") };
    names.iter().map(protocol).collect()
}

fn again(id: &str) -> Join {
    Join { member_id: id.into(), ..newcomer("unused") }
}

fn instance(id: &str, instance_id: &str) -> Join {
    Join { instance_id: Some(instance_id.into()), ..newcomer(id) }
}

fn caller(id: &str, generation: i32) -> Caller {
    Caller { member_id: id.into(), instance_id: None, generation }
}

fn sync_up(id: &str, generation: i32, assignments: &[(&str, &'static str)]) -> SyncUp {
    let assignments = assignments.iter().map(|(id, what)| (Str::from(*id), Bytes::from(*what)));
    SyncUp {
        caller: caller(id, generation),
        protocol_type: None,
        protocol: None,
        assignments: assignments.collect(),
    }
}

/// The only answer to a join now.
fn only_join(group: &mut TestGroup) -> JoinAnswer {
    let mut joins = group.take_answers().joins;
    assert_eq!(joins.len(), 1, "{joins:?}");
    joins.remove(0).1
}

fn joined(group: &mut TestGroup) -> BTreeMap<u32, Joined> {
    let joins = group.take_answers().joins.into_iter();
    joins.map(|(waiter, answer)| (waiter, answer.unwrap())).collect()
}

fn error_of(group: &mut TestGroup, join: Join, now_ms: u64) -> ErrorCode {
    group.join(join, 0, now_ms);
    only_join(group).unwrap_err().error
}

/// Members `a` (the leader) and `b` in a stable group of generation 1, at time [`DELAY_MS`].
fn stable() -> TestGroup {
    let mut group = group();
    group.join(newcomer("a"), 1, 0);
    group.join(newcomer("b"), 2, 0);
    group.tick(DELAY_MS);
    group.sync(&mut sync_up("b", 1, &[]), 2, DELAY_MS);
    group.sync(&mut sync_up("a", 1, &[("a", "for a"), ("b", "for b")]), 1, DELAY_MS);
    assert_eq!(group.state(), State::Stable);
    group.take_answers();
    group
}

#[test]
fn members_that_come_together_share_the_first_generation_and_one_leads() {
    let mut group = group();
    group.join(newcomer("a"), 1, 0);
    group.join(newcomer("b"), 2, 60);
    group.tick(DELAY_MS);
    assert!(group.take_answers().joins.is_empty(), "the second one extended the wait");
    group.tick(60 + DELAY_MS);
    let joined = joined(&mut group);
    assert_eq!(joined.len(), 2);
    assert!(joined.values().all(|joined| joined.generation == 1 && joined.leader == "a"));
    assert_eq!((joined[&1].members.len(), joined[&2].members.len()), (2, 0));

    group.sync(&mut sync_up("b", 1, &[]), 2, 200);
    assert!(group.take_answers().syncs.is_empty());
    group.sync(&mut sync_up("a", 1, &[("a", "for a"), ("b", "for b")]), 1, 200);
    let syncs: BTreeMap<_, _> = group.take_answers().syncs.into_iter().collect();
    assert_eq!(syncs[&1].as_ref().unwrap().assignment, "for a");
    assert_eq!(syncs[&2].as_ref().unwrap().assignment, "for b");
}

#[test]
fn a_new_member_must_come_back_with_the_id_it_is_given() {
    let mut group = group();
    let join = Join { must_know_id: true, ..newcomer("a") };
    group.join(join, 1, 0);
    let refused = only_join(&mut group).unwrap_err();
    assert_eq!((refused.error, &*refused.member_id), (ErrorCode::MEMBER_ID_REQUIRED, "a"));
    group.join(Join { must_know_id: true, ..again("a") }, 1, 10);
    group.tick(10 + DELAY_MS);
    assert_eq!(only_join(&mut group).unwrap().member_id, "a");
}

#[test]
fn an_id_nobody_comes_back_with_is_forgotten() {
    let mut group = group();
    let join = Join { must_know_id: true, ..newcomer("a") };
    assert_eq!(error_of(&mut group, join, 0), ErrorCode::MEMBER_ID_REQUIRED);
    assert!(!group.is_vacant());
    group.tick(SESSION_MS);
    assert!(group.is_vacant());
    assert_eq!(error_of(&mut group, again("a"), SESSION_MS), ErrorCode::UNKNOWN_MEMBER_ID);
}

#[test]
fn a_member_that_misses_its_session_leaves_and_the_others_share_its_partitions() {
    let mut group = stable();
    assert_eq!(group.heartbeat(&caller("a", 1), 600), Ok(()));
    group.tick(DELAY_MS + SESSION_MS);
    let heartbeat = group.heartbeat(&caller("a", 1), 1200);
    assert_eq!(heartbeat, Err(ErrorCode::REBALANCE_IN_PROGRESS));
    assert_eq!(group.heartbeat(&caller("b", 1), 1200), Err(ErrorCode::UNKNOWN_MEMBER_ID));
    group.join(again("a"), 3, 1200);
    let joined = only_join(&mut group).unwrap();
    assert_eq!((joined.generation, joined.members.len()), (2, 1));
}

#[test]
fn a_rebalance_ends_at_its_timeout_without_those_who_did_not_come() {
    let mut group = stable();
    group.join(newcomer("c"), 3, 200);
    let mut now_ms = 200;
    while now_ms < 200 + REBALANCE_MS {
        // Both are alive, but only a joins again.
        let _ = group.heartbeat(&caller("b", 1), now_ms);
        if now_ms == 200 {
            group.join(again("a"), 1, now_ms);
        }
        group.tick(now_ms);
        assert!(group.take_answers().joins.is_empty());
        now_ms += 100;
    }
    group.tick(now_ms);
    let joined = joined(&mut group);
    assert_eq!(joined.keys().collect::<Vec<_>>(), [&1, &3]);
    assert_eq!(joined[&1].members.len(), 2);
    assert_eq!(group.heartbeat(&caller("b", 1), now_ms), Err(ErrorCode::UNKNOWN_MEMBER_ID));
}

#[test]
fn a_leader_that_never_assigns_is_replaced() {
    let mut group = group();
    group.join(newcomer("a"), 1, 0);
    group.join(newcomer("b"), 2, 0);
    group.tick(DELAY_MS);
    group.sync(&mut sync_up("b", 1, &[]), 2, DELAY_MS);
    group.take_answers();
    let mut now_ms = DELAY_MS;
    while now_ms < DELAY_MS + REBALANCE_MS {
        assert_eq!(group.heartbeat(&caller("a", 1), now_ms), Ok(()));
        group.tick(now_ms);
        now_ms += 500;
    }
    group.tick(DELAY_MS + REBALANCE_MS);
    let syncs = group.take_answers().syncs;
    assert_eq!(syncs, [(2, Err(ErrorCode::REBALANCE_IN_PROGRESS))]);
    group.join(again("b"), 3, now_ms);
    assert_eq!(only_join(&mut group).unwrap().leader, "b");
}

#[test]
fn the_protocol_with_most_votes_that_all_know_is_elected() {
    let mut group = group();
    let with = |id, names: &[&str]| Join { protocols: protocols(names), ..newcomer(id) };
    group.join(with("a", &["x", "sticky", "range"]), 1, 0);
    group.join(with("b", &["range", "sticky"]), 2, 0);
    group.join(with("c", &["range", "sticky"]), 3, 0);
    group.tick(DELAY_MS);
    assert!(joined(&mut group).values().all(|joined| joined.protocol == "range"));
    let stranger = error_of(&mut group, with("d", &["x"]), 200);
    assert_eq!(stranger, ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
    let connect = Join { protocol_type: "connect".into(), ..newcomer("d") };
    assert_eq!(error_of(&mut group, connect, 200), ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
}

#[test]
fn a_static_member_that_restarts_keeps_its_place_and_its_old_self_is_fenced() {
    let mut group = group();
    group.join(instance("a", "one"), 1, 0);
    group.tick(DELAY_MS);
    group.sync(&mut sync_up("a", 1, &[("a", "for one")]), 1, DELAY_MS);
    group.take_answers();

    group.join(instance("a2", "one"), 2, 300);
    let joined = only_join(&mut group).unwrap();
    assert_eq!((joined.generation, &*joined.leader, joined.skip_assignment), (1, "a2", true));
    group.sync(&mut sync_up("a2", 1, &[]), 3, 300);
    assert_eq!(group.take_answers().syncs[0].1.as_ref().unwrap().assignment, "for one");
    let old = Caller { instance_id: Some("one".into()), ..caller("a", 1) };
    assert_eq!(group.heartbeat(&old, 300), Err(ErrorCode::FENCED_INSTANCE_ID));
    let join = Join { member_id: "a".into(), ..instance("unused", "one") };
    assert_eq!(error_of(&mut group, join, 300), ErrorCode::FENCED_INSTANCE_ID);
}

#[test]
fn a_member_that_missed_an_answer_gets_it_again_without_a_rebalance() {
    let mut group = stable();
    group.join(again("b"), 5, 200);
    assert_eq!(only_join(&mut group).unwrap().generation, 1);
    assert_eq!(group.heartbeat(&caller("a", 1), 200), Ok(()));
}

#[test]
fn a_leader_that_joins_again_gets_a_rebalance() {
    let mut group = stable();
    group.join(again("a"), 5, 200);
    group.join(again("b"), 6, 200);
    assert!(joined(&mut group).values().all(|joined| joined.generation == 2));
}

#[test]
fn offsets_are_taken_from_members_of_this_generation_or_from_outside_of_an_empty_group() {
    let outside = Caller { generation: -1, ..caller("", -1) };
    assert_eq!(group().may_commit(&outside, 0), Ok(()));
    let mut group = stable();
    assert_eq!(group.may_commit(&outside, 200), Err(ErrorCode::UNKNOWN_MEMBER_ID));
    assert_eq!(group.may_commit(&caller("a", 1), 200), Ok(()));
    assert_eq!(group.may_commit(&caller("a", 0), 200), Err(ErrorCode::ILLEGAL_GENERATION));
    assert_eq!(group.may_commit(&caller("x", 1), 200), Err(ErrorCode::UNKNOWN_MEMBER_ID));
}

#[test]
fn joins_out_of_bounds_are_refused() {
    let mut group = group();
    let sleepy = Join { session_timeout_ms: 10_001, ..newcomer("a") };
    assert_eq!(error_of(&mut group, sleepy, 0), ErrorCode::INVALID_SESSION_TIMEOUT);
    let speechless = Join { protocols: Vec::new(), ..newcomer("a") };
    assert_eq!(error_of(&mut group, speechless, 0), ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
    for (waiter, id) in ["a", "b", "c", "d"].into_iter().enumerate() {
        group.join(newcomer(id), waiter as u32, 0);
    }
    assert_eq!(error_of(&mut group, newcomer("e"), 0), ErrorCode::GROUP_MAX_SIZE_REACHED);
}

#[test]
fn the_last_to_leave_leaves_nothing() {
    let mut group = stable();
    assert_eq!(group.leave("b", None, 200), Ok(()));
    assert_eq!(group.leave("b", None, 200), Err(ErrorCode::UNKNOWN_MEMBER_ID));
    assert_eq!(group.leave("a", None, 200), Ok(()));
    assert!(group.is_vacant());
    assert_eq!(group.size_bytes(), 0);
}

/// What clients and time may do, by member number.
#[derive(Debug, Clone)]
enum Event {
    Join { member: u8, is_static: bool, knows: bool, changes: bool },
    Sync { member: u8 },
    Heartbeat { member: u8 },
    Leave { member: u8 },
    Pass { ms: u64 },
}

fn event() -> impl Strategy<Value = Event> {
    let member = || 0u8..5;
    prop_oneof![
        4 => (member(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(member, is_static, knows, changes)| Event::Join { member, is_static, knows, changes }
        ),
        4 => member().prop_map(|member| Event::Sync { member }),
        2 => member().prop_map(|member| Event::Heartbeat { member }),
        1 => member().prop_map(|member| Event::Leave { member }),
        4 => (1u64..2_000).prop_map(|ms| Event::Pass { ms }),
    ]
}

/// Clients that do anything, and what must hold whatever they do.
struct World {
    group: TestGroup,
    now_ms: u64,
    ids: BTreeMap<u8, Str>,
    next: u32,
    generation: i32,
    leaders: BTreeMap<i32, BTreeSet<Str>>,
    waiting: BTreeSet<u32>,
}

impl World {
    fn new() -> Self {
        World {
            group: group(),
            now_ms: 0,
            ids: BTreeMap::new(),
            next: 0,
            generation: 0,
            leaders: BTreeMap::new(),
            waiting: BTreeSet::new(),
        }
    }

    fn apply(&mut self, event: Event) {
        self.next += 1;
        let waiter = self.next;
        let id_of = |member: &u8| self.ids.get(member).cloned().unwrap_or_default();
        match event {
            Event::Join { member, is_static, knows, changes } => {
                let join = Join {
                    member_id: id_of(&member),
                    instance_id: is_static.then(|| format!("instance {member}").into()),
                    must_know_id: knows,
                    protocols: protocols(if changes {
                        &["roundrobin"]
                    } else {
                        &["range", "roundrobin"]
                    }),
                    ..newcomer(&format!("{member}-{waiter}"))
                };
                self.waiting.insert(waiter);
                self.ids.insert(member, join.new_member_id.clone());
                self.group.join(join, waiter, self.now_ms);
            }
            Event::Sync { member } => {
                let mut sync = sync_up(&id_of(&member), self.generation, &[]);
                self.waiting.insert(waiter);
                self.group.sync(&mut sync, waiter, self.now_ms);
            }
            Event::Heartbeat { member } => {
                let _ =
                    self.group.heartbeat(&caller(&id_of(&member), self.generation), self.now_ms);
            }
            Event::Leave { member } => {
                let _ = self.group.leave(&id_of(&member), None, self.now_ms);
            }
            Event::Pass { ms } => self.pass(ms),
        }
        self.check();
    }

    /// The timekeeper comes exactly when the group is due.
    fn pass(&mut self, ms: u64) {
        let until_ms = self.now_ms + ms;
        while let Some(due_ms) = self.group.next_due_ms().filter(|due_ms| *due_ms <= until_ms) {
            self.now_ms = self.now_ms.max(due_ms);
            self.group.tick(self.now_ms);
            self.check();
            assert!(self.group.next_due_ms().is_none_or(|next_ms| next_ms > self.now_ms));
        }
        self.now_ms = until_ms;
    }

    fn check(&mut self) {
        let answers = self.group.take_answers();
        for (waiter, answer) in answers.joins {
            assert!(self.waiting.remove(&waiter), "join {waiter} was answered twice");
            let Ok(joined) = answer else { continue };
            assert!(joined.generation >= self.generation, "the generation went back");
            self.generation = joined.generation;
            if !joined.members.is_empty() && !joined.skip_assignment {
                self.leaders.entry(joined.generation).or_default().insert(joined.member_id);
                assert!(self.leaders[&joined.generation].len() == 1, "two lead one generation");
            }
        }
        for (waiter, _) in answers.syncs {
            assert!(self.waiting.remove(&waiter), "sync {waiter} was answered twice");
        }
        assert!(self.group.members.len() + self.group.pending.len() <= 4);
        assert_eq!(self.group.state == State::Empty, self.group.members.is_empty());
    }
}

proptest! {
    #[test]
    fn whatever_clients_do_every_wait_is_answered_once_and_every_generation_has_one_leader(
        events in proptest::collection::vec(event(), 1..80),
    ) {
        let mut world = World::new();
        for event in events {
            world.apply(event);
        }
        // When all members fall silent, every request is answered and no member is left.
        world.pass(10 * REBALANCE_MS);
        prop_assert!(world.waiting.is_empty(), "never answered: {:?}", world.waiting);
        prop_assert!(world.group.is_vacant());
    }
}
