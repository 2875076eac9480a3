//! Damage done to the files of a server that is down, and its next start.

use std::path::{Path, PathBuf};

use penstock_batch::Batches;
use penstock_storage::{Disk, Offset};

use crate::{
    in_parallel,
    random::Random,
    world::{DATA_DIR, Durability, End, LOG_DIR, World},
};

/// A batch and its place.
#[derive(Clone, Copy, Debug)]
struct Place {
    first: Offset,
    end: Offset,
    from: usize,
    until: usize,
}

#[test]
fn the_last_segment_may_be_cut_at_any_byte_of_its_last_three_batches() {
    let world = lived(4, 50);
    let (path, content, places) = segments(&world).pop().expect("there is an active segment");
    let third_last = places[places.len() - 3].from;
    in_parallel(third_last as u64..content.len() as u64, |len| {
        let mut world = world.fork(len);
        world.disk.put(&path, &content[..len as usize]);
        for cut in places.iter().filter(|place| place.until as u64 > len) {
            world.forgive(cut.first..cut.end);
        }
        world.start_and_check(Offset(i64::MAX));
        if len.is_multiple_of(8) {
            live_on(world);
        }
    });
}

#[test]
fn what_stands_behind_the_last_batch_is_cut_whatever_it_is() {
    let world = lived(5, 50);
    let (path, content, places) = segments(&world).pop().expect("there is an active segment");
    let mut random = Random::new(5);
    let mut tails: Vec<Vec<u8>> = Vec::new();
    for len in [1, 15, 16, 60, 61, 511, 4096, 5000, 1 << 20] {
        tails.extend([vec![0; len], vec![0xff; len], random.bytes(len)]);
    }
    tails.push(content[..places[0].until].to_vec());
    tails.push(content[places[1].from..].to_vec());
    in_parallel(0..tails.len() as u64, |n| {
        let world = world.fork(n);
        world.disk.put(&path, &[&content[..], &tails[n as usize]].concat());
        live_on(world);
    });
}

#[test]
fn a_flipped_bit_costs_its_batch_alone() {
    let world = lived(6, 80);
    let segments = segments(&world);
    in_parallel(0..500, |seed| {
        let mut world = world.fork(seed);
        let (path, content, places) = &segments[world.random.below(segments.len())];
        let place = places[world.random.below(places.len())];
        // The batch's checksum does not cover its offset; only the neighbours' offsets hold it.
        let byte = place.from + 8 + world.random.below(place.until - place.from - 8);
        let mut flipped = content.clone();
        flipped[byte] ^= 1 << world.random.below(8);
        world.disk.put(path, &flipped);
        world.forgive(place.first..place.end);
        // Nothing is known to have been flushed, so all is proved.
        world.lose_recovery_points();
        live_on(world);
    });
}

/// All was flushed. Then the end rots, or the file loses it. Used offsets are not used again.
#[test]
fn a_log_never_ends_before_its_recovery_point_whatever_rots_there() {
    for rolled in [false, true] {
        let mut world = lived(8, 60);
        if rolled {
            let batches = |world: &World| segments(world).pop().unwrap().2.len();
            while batches(&world) != 1 {
                world.produce();
            }
        }
        world.flush();
        let (path, content, places) = segments(&world).pop().expect("there is an active segment");
        in_parallel(0..400, |seed| {
            let mut world = world.fork(seed);
            let from = places.len().saturating_sub(1 + world.random.below(3));
            let mut rotten = content.clone();
            for place in &places[from..] {
                // The magic byte: below the point, damage that only the CRC shows is not looked
                // for.
                rotten[place.from + 16] ^= 1 << world.random.below(8);
                world.forgive(place.first..place.end);
            }
            if world.random.one_in(3) {
                rotten.truncate(places[from].from + world.random.below(200));
            }
            world.disk.put(&path, &rotten);
            live_on(world);
        });
    }
}

#[test]
fn no_other_file_is_believed_against_the_batches() {
    for is_clean in [false, true] {
        let mut world = lived(7, 60);
        let older = world.fork(0);
        world.steps(30);
        if is_clean {
            world.close();
        }
        let files: Vec<PathBuf> = [DATA_DIR, LOG_DIR]
            .iter()
            .flat_map(|dir| world.disk.list(Path::new(dir)).unwrap())
            .filter(|entry| !entry.is_dir && is_derived(&entry.path))
            .map(|entry| entry.path)
            .collect();
        assert!(files.len() > 5, "{files:?}");
        in_parallel(0..files.len() as u64 * 8, |n| {
            let mut world = world.fork(n);
            let path = &files[n as usize / 8];
            world.times_are_sound = path.extension().is_none_or(|suffix| suffix != "timeindex");
            let content = world.disk.content(path).unwrap();
            let (len, random) = (content.len(), &mut world.random);
            let changed = match n % 8 {
                0 => None,
                1 => Some(Vec::new()),
                2 => Some(content[..len - len.min(1)].to_vec()),
                3 => Some(content[..random.below(len + 1)].to_vec()),
                4 => Some(random.bytes(len)),
                5 => Some(random.bytes(4096)),
                6 => Some([content, vec![0; 4096]].concat()),
                _ => older.disk.content(path),
            };
            match changed {
                Some(changed) => world.disk.put(path, &changed),
                None => world.disk.remove_file(path).unwrap(),
            }
            live_on(world);
        });
    }
}

fn lived(seed: u64, steps: usize) -> World {
    let mut world = World::new(seed, Durability::Os);
    world.steps(steps);
    world
}

/// The start finds everything that was not forgiven, and the server goes on as usual.
fn live_on(mut world: World) {
    world.start_and_check(Offset(i64::MAX));
    world.steps(10);
    world.restart(End::Killed);
}

/// Every `.log`, its content, and its batches.
fn segments(world: &World) -> Vec<(PathBuf, Vec<u8>, Vec<Place>)> {
    let entries = world.disk.list(Path::new(LOG_DIR)).unwrap().into_iter();
    let logs =
        entries.map(|entry| entry.path).filter(|path| path.extension().is_some_and(|e| e == "log"));
    logs.map(|path| {
        let content = world.disk.content(&path).unwrap();
        let mut from = 0;
        let mut places = Vec::new();
        for (header, batch) in Batches::new(&content).map(Result::unwrap) {
            let (first, end) = (Offset(header.base_offset), Offset(header.last_offset() + 1));
            places.push(Place { first, end, from, until: from + batch.len() });
            from += batch.len();
        }
        (path, content, places)
    })
    .collect()
}

/// Whether a start can do without the file.
fn is_derived(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_str().unwrap();
    !name.ends_with(".log") && ![".lock", "partition.metadata"].contains(&name)
}
