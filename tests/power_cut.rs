//! Power cuts under load, on a file system of their own. In `fsync`, and where a topic has
//! `flush.messages` of 1, no record that was acknowledged or read is lost. In `os` no record below
//! the last flush is lost.
//!
//! ```text
//!   load ──► freeze ──► cut power ──► kill ──► unmount, mount (ext4 replays its journal) ──► start ──► read all
//! ```

use std::path::{Path, PathBuf};

use penstock_tests::load::{Load, PARTITIONS, TOPIC};
use penstock_tests::rounds::{Dice, rounds, say};
use penstock_tests::volume::Volume;
use penstock_tests::{Client, Penstock, Start};

/// Cuts of one file system before a fresh one, because every round reads the whole log.
const CUTS_OF_ONE_LIFE: usize = 10;
const REQUESTS_MAX: usize = 600;
const DISK_BYTES: u64 = 512 << 20;
const FLUSH_INTERVAL: (&str, &str) = ("flush.checkpoint.interval.ms", "100");

/// A server on a volume whose power is cut, with its load.
struct Victim {
    /// The directory, removed last.
    _dir: tempfile::TempDir,
    volume: Volume,
    data_dir: PathBuf,
    start: Start,
    server: Option<Penstock>,
    load: Load,
}

impl Victim {
    /// `None`: the machine cannot mount a volume, which is logged.
    fn new(settings: &[(&str, &str)], dice: &mut Dice) -> Option<Victim> {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::make(dir.path(), DISK_BYTES, "").unwrap()?;
        let data_dir = volume.path().join("data");
        let start = Start::on(&data_dir).set(settings).set(&[FLUSH_INTERVAL]);

        let server = start.start().unwrap();
        let load = Load::create(&mut server.client().unwrap(), dice);
        Some(Victim { _dir: dir, volume, data_dir, start, server: Some(server), load })
    }

    /// Cuts the power at some moment of the load and mounts the disk again.
    fn cut(&mut self, dice: &mut Dice) {
        let server = self.server.take().unwrap();
        self.load.under(server.address(), |journal| {
            journal.wait_for_more(dice.within(1..REQUESTS_MAX));
            // A server without power sends no answers. The file system goes on for a moment, and
            // may report success for a sync whose transaction it has just given up.
            server.freeze().unwrap();
            self.volume.cut_power().unwrap();
            server.kill().unwrap();
        });
        self.volume.unmount().unwrap();
        self.volume.mount().unwrap();
    }

    fn restart(&mut self) -> Client {
        self.server.insert(self.start.start().unwrap()).client().unwrap()
    }
}

#[test]
fn in_fsync_a_power_cut_takes_nothing_that_was_acknowledged_or_read() {
    cut_and_lose_nothing("fsync", &[("durability", "fsync")]);
}

#[test]
fn with_flush_messages_of_1_a_power_cut_takes_nothing_either() {
    cut_and_lose_nothing("flush.messages", &[("log.flush.interval.messages", "1")]);
}

fn cut_and_lose_nothing(name: &str, settings: &[(&str, &str)]) {
    let mut dice = Dice::of(&format!("power cuts in {name}"));
    let cuts = rounds(3, 50);
    let mut acknowledged = 0;
    for life in 0..cuts.div_ceil(CUTS_OF_ONE_LIFE) {
        let Some(mut victim) = Victim::new(settings, &mut dice) else { return };
        for _ in 0..CUTS_OF_ONE_LIFE.min(cuts - life * CUTS_OF_ONE_LIFE) {
            victim.cut(&mut dice);
            let mut client = victim.restart();
            let load = &victim.load;
            load.witness(&victim.data_dir).check(&mut client, load.journal());
        }
        acknowledged += victim.load.journal().acknowledgements();
    }
    say(format_args!(
        "{cuts} power cuts in {name}, {acknowledged} requests acknowledged, nothing lost"
    ));
}

#[test]
fn in_os_a_power_cut_takes_only_what_is_newer_than_the_last_flush() {
    let mut dice = Dice::of("power cuts in os");
    let cuts = rounds(3, 50);
    let mut losses = Vec::new();
    for life in 0..cuts.div_ceil(CUTS_OF_ONE_LIFE) {
        let Some(mut victim) = Victim::new(&[("durability", "os")], &mut dice) else { return };
        for _ in 0..CUTS_OF_ONE_LIFE.min(cuts - life * CUTS_OF_ONE_LIFE) {
            victim.cut(&mut dice);
            let flushed = flushed_ends(&victim.data_dir);
            let mut client = victim.restart();
            let mut ends = [0; PARTITIONS];
            for (partition, flushed) in flushed.into_iter().enumerate() {
                let (lost, end) = loss(&victim, partition as i32, flushed, &mut client);
                losses.push(lost);
                ends[partition] = end;
            }
            victim.load.renew_clients(&mut dice, &ends);
        }
    }
    let (sum, longest) = (losses.iter().sum::<usize>(), losses.iter().max().unwrap());
    say(format_args!(
        "{cuts} power cuts in os: {sum} records lost, all newer than the last flush, at most {longest} of a partition"
    ));
}

/// Compares a partition with its journal: no record below `flushed` may be lost or damaged. Makes
/// the journal forget records lost beyond that. Returns their count and the log's end.
fn loss(victim: &Victim, partition: i32, flushed: i64, client: &mut Client) -> (usize, i64) {
    let journal = victim.load.journal();
    let (log, damaged) = victim.load.witness(&victim.data_dir).sound(client, partition);
    journal.check_log(partition, &log);
    let lost = journal.missing(partition, &log);
    for offset in lost.iter().chain(&damaged) {
        assert!(*offset >= flushed, "{offset} of {partition} is gone, flushed was {flushed}");
    }
    let end = client.offset_of(TOPIC, partition, -1).unwrap();
    journal.forget(partition, &lost, end);
    (lost.len(), end)
}

/// How far each partition is on the disk, by the server's checkpoint file.
fn flushed_ends(data_dir: &Path) -> [i64; PARTITIONS] {
    let points = std::fs::read_to_string(data_dir.join("penstock-recovery-points"));
    let points = points.unwrap_or_default();
    std::array::from_fn(|partition| {
        let name = format!("{TOPIC} {partition} ");
        let line = points.lines().find(|line| line.starts_with(&name));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    })
}
