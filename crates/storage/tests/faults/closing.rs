//! The syncs of a close: on a slow disk each one makes a stop longer.

use penstock_storage::FlushError;

use crate::{
    simulated_disk::Kind,
    world::{Durability, End, World},
};

/// Syncs of files and directories that a close takes.
fn syncs_of_close(world: &mut World) -> u64 {
    let before = world.disk.calls(Kind::Sync);
    world.log().close().unwrap();
    world.disk.calls(Kind::Sync) - before
}

fn world() -> World {
    World::new(0, Durability::Os)
}

#[test]
fn a_log_with_nothing_new_is_closed_without_a_sync() {
    assert_eq!(syncs_of_close(&mut world()), 0, "just made");
    let mut closed = world();
    closed.produce();
    closed.restart(End::Closed);
    assert_eq!(syncs_of_close(&mut closed), 0, "just opened");
}

#[test]
fn each_new_file_of_a_log_and_its_directory_are_synced_once_by_a_close() {
    let mut world = world();
    world.produce();
    // Log, two indexes, epochs, producers, directory.
    assert_eq!(syncs_of_close(&mut world), 6);
}

#[test]
fn after_a_checkpoint_only_the_last_entry_of_the_time_index_is_new() {
    let mut world = world();
    (0..20).for_each(|_| world.produce());
    let flush = world.log().begin_flush().unwrap();
    flush.run().unwrap();
    world.log().finish_flush(flush);
    assert!(syncs_of_close(&mut world) <= 1);
}

#[test]
fn what_a_killed_server_left_is_synced_once_more() {
    let mut world = world();
    world.produce();
    world.flush();
    world.restart(End::Killed);
    assert!(syncs_of_close(&mut world) >= 4);
}

/// Otherwise a power cut after the marker of a clean stop could bring it back, in part or whole.
#[test]
fn that_something_was_cut_off_is_synced_by_a_close() {
    for (seed, is_cut_at_once) in (0..20).flat_map(|seed| [(seed, true), (seed, false)]) {
        let mut world = World::new(seed, Durability::Os);
        world.produce();
        let flush = world.log().begin_flush().unwrap();
        flush.run().unwrap();
        world.log().finish_flush(flush);
        let end = world.log().log_end();
        world.refuse(is_cut_at_once);
        world.close();
        world.lose_power();
        assert_eq!(world.log().log_end(), end, "seed {seed}, cut at once: {is_cut_at_once}");
    }
}

#[test]
fn a_close_that_is_given_up_syncs_nothing_and_leaves_the_recovery_point() {
    let mut world = world();
    world.produce();
    let (point, syncs) = (world.log().recovery_point(), world.disk.calls(Kind::Sync));
    let flush = world.log().begin_close().unwrap().unwrap();
    assert!(matches!(flush.run_while(&|| false), Err(FlushError::GivenUp)));
    assert_eq!(world.log().recovery_point(), point);
    assert_eq!(world.disk.calls(Kind::Sync), syncs);
    world.restart(End::PowerCut);
}
