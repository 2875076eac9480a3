//! Storage's fault harness: the real log, data directory and recovery on a simulated disk.
//!
//! A run follows from its seed, which is printed when it fails. `PENSTOCK_SEED=… cargo test` runs
//! that seed alone, `PENSTOCK_SEEDS=…` runs so many.

#![allow(missing_docs, unreachable_pub)]

mod check;
mod closing;
mod damage;
mod exchanges;
mod power_cut;
mod producers;
mod random;
mod simulated_disk;
mod world;

use std::{
    env,
    num::NonZero,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use rustix::io::Errno;
use simulated_disk::Kind;
use world::{Durability, End, World};

const DEFAULT_SEEDS: u64 = 600;
const DURABILITIES: [Durability; 2] = [Durability::Os, Durability::Fsync];
const ENDS: [End; 3] = [End::Closed, End::Killed, End::PowerCut];

#[test]
fn nothing_shown_is_lost_by_any_faults_in_any_order() {
    let seeds = number("PENSTOCK_SEEDS").unwrap_or(DEFAULT_SEEDS);
    in_parallel(number("PENSTOCK_SEED").map_or(0..seeds, |seed| seed..seed + 1), |seed| {
        let mut world = World::new(seed, DURABILITIES[(seed % 2) as usize]);
        for _ in 0..4 {
            if world.random.one_in(2) {
                let kind = Kind::ALL[world.random.below(Kind::ALL.len())];
                let error = [Errno::IO, Errno::NOSPC][world.random.below(2)];
                world.disk.fail(kind, world.random.below(60) as u64, error);
            }
            let steps = world.random.below(30);
            world.steps(steps);
            let end = ENDS[world.random.below(ENDS.len())];
            world.restart(end);
        }
    });
}

#[test]
fn any_call_may_fail_while_the_server_runs() {
    for (durability, kind) in every(DURABILITIES, Kind::ALL) {
        let calls = {
            let mut world = World::new(0, durability);
            let before = world.disk.calls(kind);
            world.steps(40);
            world.disk.calls(kind) - before
        };
        in_parallel(0..calls, |nth| {
            for error in [Errno::IO, Errno::NOSPC] {
                let mut world = World::new(0, durability);
                world.disk.fail(kind, nth, error);
                world.steps(40);
                assert_eq!(world.disk.failed(), 1);
                world.restart(ENDS[nth as usize % ENDS.len()]);
                world.steps(5);
                world.restart(End::Killed);
            }
        });
    }
}

#[test]
fn any_call_may_fail_while_the_server_starts() {
    for ((durability, kind), end) in every(every(DURABILITIES, Kind::ALL), ENDS) {
        let mut nth = 0;
        loop {
            let mut world = World::new(3, durability);
            world.steps(60);
            let bound = world.end(end);
            let failed = world.start_failing(kind, nth);
            world.start_and_check(bound.min(failed.unwrap_or(bound)));
            world.steps(5);
            world.restart(End::Killed);
            match failed {
                Some(_) => nth += 1,
                None => break,
            }
        }
    }
}

fn every<A: Copy, B: Copy>(
    these: impl IntoIterator<Item = A>,
    with_these: impl IntoIterator<Item = B> + Clone,
) -> impl Iterator<Item = (A, B)> + Clone {
    let pairs =
        these.into_iter().flat_map(move |a| with_these.clone().into_iter().map(move |b| (a, b)));
    pairs.collect::<Vec<_>>().into_iter()
}

/// Runs for each number, on all cores.
fn in_parallel(numbers: Range<u64>, run: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(numbers.start);
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= numbers.end {
                        return;
                    }
                    let _printed = SeedOf(number);
                    run(number);
                }
            });
        }
    });
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Prints the seed of a run that fails.
struct SeedOf(u64);

impl Drop for SeedOf {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("it was PENSTOCK_SEED={}", self.0);
        }
    }
}
