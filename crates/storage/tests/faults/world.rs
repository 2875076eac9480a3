//! A server's life in one thread: producers, a log on a simulated disk, the clock, and the batches
//! that consumers have seen.
//!
//! ```text
//!   step step step … (a call fails) … step │ end │ start │ check │ step step …
//!                                            killed, power cut, or closed
//! ```

use std::{io, ops::Range, path::Path, sync::Arc};

use penstock_storage::{
    Append, AppendError, DataDir, Directory, Disk, LastStop, Log, LogConfig, Offset, PartitionName,
    ProducedBatch, RecoveryPoint, Roll, TopicId, WriteAgain,
};
use rustix::io::Errno;

use crate::{
    check::{self, Batches},
    producers::{Number, Producers},
    random::Random,
    simulated_disk::{Kind, SimulatedDisk},
};

pub const DATA_DIR: &str = "/data";
pub const LOG_DIR: &str = "/data/t-0";

/// The promise of an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    Os,
    Fsync,
}

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Closed,
    Killed,
    PowerCut,
}

/// The appends that one write carries, with their producers.
type Commit = Vec<(usize, Number, Append)>;

#[derive(Debug)]
pub struct World {
    pub disk: SimulatedDisk,
    pub random: Random,
    pub producers: Producers,
    durability: Durability,
    running: Option<(DataDir, Log)>,
    now_ms: i64,
    /// Batches that consumers have seen. None may change or vanish.
    shown: Batches,
    /// The log end at the last check. An append that died behind it, torn or with a failed sync,
    /// may leave its last batch sound and an earlier one not: damage that no producer was answered
    /// for.
    shown_end: Offset,
    /// No time index was damaged. Its last entry is believed.
    pub times_are_sound: bool,
    /// Offsets that were lost where losing was allowed.
    missing: Vec<Range<Offset>>,
    /// The log start at its highest.
    log_start: Offset,
    /// The log end when all of it was last flushed. The log never ends before it, whatever happens.
    flushed: Offset,
    /// Offsets that the last start found missing. `None` if the start before it failed, so that its
    /// finds are not known.
    found_missing: Option<u64>,
}

impl World {
    pub fn new(seed: u64, durability: Durability) -> World {
        let mut random = Random::new(seed);
        let disk = SimulatedDisk::new(random.split());
        let data = DataDir::open(directory(&disk, DATA_DIR)).expect("the disk is new");
        let log = data.create_partition(&partition(), TopicId([7; 16]), config());
        World {
            disk,
            random,
            producers: Producers::new(4),
            durability,
            running: Some((data, log.expect("the disk is new"))),
            now_ms: 1_700_000_000_000,
            shown: Batches::new(),
            shown_end: Offset(0),
            times_are_sound: true,
            missing: Vec::new(),
            log_start: Offset(0),
            flushed: Offset(0),
            found_missing: Some(0),
        }
    }

    /// A copy of this world: the server is down, and all that was seen is on the disk.
    pub fn fork(&self, seed: u64) -> World {
        let mut random = Random::new(seed);
        World {
            disk: self.disk.copy(random.split()),
            random,
            producers: self.producers.clone(),
            running: None,
            shown: self.shown.clone(),
            missing: self.missing.clone(),
            ..*self
        }
    }

    /// The files were damaged: these offsets may be gone, although they were shown.
    pub fn forgive(&mut self, lost: Range<Offset>) {
        self.shown.retain(|at, _| !lost.contains(at));
        self.missing.push(lost);
        self.producers.begin_again();
    }

    pub fn lose_recovery_points(&mut self) {
        self.disk.remove_file(&Path::new(DATA_DIR).join("penstock-recovery-points")).unwrap();
        self.flushed = Offset(0);
    }

    pub fn log(&mut self) -> &mut Log {
        &mut self.running.as_mut().expect("the server runs").1
    }

    /// So many random steps of a server.
    pub fn steps(&mut self, count: usize) {
        for _ in 0..count {
            self.now_ms += self.random.below(50) as i64;
            match self.random.below(12) {
                0 => self.flush_indexes(),
                1 => self.expire(),
                2 => self.flush(),
                _ => self.produce(),
            }
        }
    }

    /// Some producers send batches, which one write appends. They may be answered.
    pub fn produce(&mut self) {
        let now_ms = self.now_ms;
        let who = self.random.below(self.producers.all.len());
        let (number, batches) = self.send(who);
        if self.cut_tail().is_err() {
            return;
        }
        if let Some(roll) = self.log().needs_roll(&batches, now_ms)
            && self.roll(roll).is_err()
        {
            return;
        }
        let mut commit = Vec::new();
        self.begin(who, number, batches, &mut commit);
        for joins in (0..self.producers.all.len()).filter(|joins| *joins != who) {
            if !commit.is_empty() && self.random.one_in(4) {
                let (number, batches) = self.send(joins);
                if self.log().may_join(&batches, now_ms) {
                    self.begin(joins, number, batches, &mut commit);
                }
            }
        }
        self.settle(commit);
    }

    /// The disk takes one whole batch of a commit, and no more. It is cut off, at once or before
    /// the next append.
    pub fn refuse(&mut self, is_cut_at_once: bool) {
        let (_, batches) = self.send(0);
        let now_ms = self.now_ms;
        let append = self.log().begin_append(batches, 0, now_ms).expect("the log takes appends");
        let (file, at) = (append.file.clone(), append.position.0);
        self.disk.write(&file, at, &append.pieces).unwrap();
        if is_cut_at_once {
            self.disk.cut(&file, at).unwrap();
            return self.log().cancel_append(append);
        }
        self.log().leave_append(append);
        self.cut_tail().unwrap();
    }

    /// Ends this life and begins the next, in which everything is checked. The start may fail,
    /// once.
    pub fn restart(&mut self, end: End) {
        let mut bound = self.end(end);
        if self.random.one_in(4) {
            let kind = Kind::ALL[self.random.below(Kind::ALL.len())];
            let nth = self.random.below(12) as u64;
            bound = bound.min(self.start_failing(kind, nth).unwrap_or(bound));
        }
        self.start_and_check(bound);
    }

    /// The process ends, and the power may be cut. Batches shown below the bound that is returned
    /// must come back.
    pub fn end(&mut self, end: End) -> Offset {
        self.check(Offset(i64::MAX));
        match end {
            End::Closed => self.close(),
            _ if self.random.one_in(2) => self.die_writing(),
            _ => {}
        }
        let is_cut = end == End::PowerCut || (end == End::Closed && self.random.one_in(2));
        self.go_down(is_cut)
    }

    /// The power fails behind a stop, and the server is started again.
    pub fn lose_power(&mut self) {
        self.go_down(true);
        self.start().expect("a log can be opened after any end");
    }

    /// A start with one failing call. If the start fails, the process ends. `None` if it had fewer
    /// calls.
    pub fn start_failing(&mut self, kind: Kind, nth: u64) -> Option<Offset> {
        let failed_before = self.disk.failed();
        self.disk.fail(kind, nth, Errno::IO);
        let started = self.start();
        self.disk.stop_failing();
        let failed = self.disk.failed() > failed_before;
        self.found_missing = self.found_missing.filter(|_| !failed);
        if let Err(error) = &started {
            assert!(failed, "no call failed, and yet: {error}");
        }
        let is_cut = self.random.one_in(2);
        failed.then(|| self.go_down(is_cut))
    }

    pub fn start_and_check(&mut self, bound: Offset) {
        if self.running.is_none() {
            self.start().expect("a log can be opened after any end");
        }
        let known = self.missing.clone();
        self.check(bound);
        self.check_files();
        self.check_what_was_reported(&known);
    }

    fn send(&mut self, who: usize) -> (Number, ProducedBatch) {
        let number = self.producers.send(who, self.now_ms, &mut self.random);
        let bytes = self.producers.sent(number).bytes.clone();
        let terms = LogConfig::default().terms(self.now_ms, true);
        (number, ProducedBatch::validate(bytes, &terms).expect("producers are sane"))
    }

    fn begin(&mut self, who: usize, number: Number, batches: ProducedBatch, commit: &mut Commit) {
        let now_ms = self.now_ms;
        match self.log().begin_append(batches, 0, now_ms) {
            Ok(append) => commit.push((who, number, append)),
            Err(AppendError::Duplicate { base_offset, .. }) => {
                self.producers.acknowledge(who, number, base_offset);
            }
            Err(AppendError::Offline) => {}
            Err(error) => panic!("{number:?} of producer {who}: {error}"),
        }
    }

    /// Ends a commit as the server does: writes, syncs, and takes back unseen bytes if that fails.
    fn settle(&mut self, commit: Commit) {
        let Some((_, _, first)) = commit.first() else { return };
        let (file, at) = (first.file.clone(), first.position.0);
        let pieces: Vec<_> = commit.iter().flat_map(|(.., append)| append.pieces.clone()).collect();
        let written = self.disk.write(&file, at, &pieces);
        let is_full =
            written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::StorageFull);
        let outcome = written.and_then(|()| match self.durability {
            Durability::Os => Ok(()),
            Durability::Fsync => self.disk.sync(&file),
        });
        // Btrfs over its quota refuses a cut, too.
        let cannot_cut = is_full && self.random.one_in(2);
        let cut = outcome.is_err().then(|| match cannot_cut {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => self.disk.cut(&file, at),
        });
        for (who, number, append) in commit {
            let at = match &outcome {
                Ok(()) => self.log().finish_append(append).base_offset,
                Err(_) if is_full && matches!(cut, Some(Ok(()))) => {
                    return self.log().cancel_append(append);
                }
                Err(_) if cannot_cut => return self.log().leave_append(append),
                Err(error) => return self.log().fail_append(append, error.kind().into()),
            };
            self.shown.insert(at, number);
            self.producers.acknowledge(who, number, at);
        }
    }

    fn cut_tail(&mut self) -> io::Result<()> {
        let Some(cut) = self.log().needs_cut() else { return Ok(()) };
        let outcome = cut.run();
        self.log().finish_cut(&outcome);
        outcome
    }

    fn roll(&mut self, roll: Roll) -> io::Result<()> {
        let synced = if self.durability == Durability::Fsync { roll.sync_sealed() } else { Ok(()) };
        let created = synced.and_then(|()| roll.create());
        match created {
            Ok(new) => {
                self.log().install_roll(new);
                Ok(())
            }
            Err(error) => {
                self.log().fail_roll(&error);
                Err(error)
            }
        }
    }

    fn flush_indexes(&mut self) {
        for flush in self.log().unflushed_indexes() {
            // The next call returns a failed one again.
            let _ = flush.write();
        }
    }

    /// Moves the recovery point, as a checkpoint does, while producers go on.
    pub fn flush(&mut self) {
        let Some(flush) = self.log().begin_flush() else { return };
        (0..self.random.below(3)).for_each(|_| self.produce());
        let end = self.log().log_end();
        match flush.run() {
            Ok(()) => self.log().finish_flush(flush),
            Err(error) => {
                let again = self.log().fail_flush(flush, error);
                return again.map_or(Ok(()), WriteAgain::run).expect("one call fails at a time");
            }
        }
        let (data, log) = self.running.as_ref().expect("the server runs");
        self.flushed = log.recovery_point().offset;
        assert!(self.flushed <= end);
        // A point that is not written costs time at the next start.
        let _ = data.write_recovery_points(&[(partition(), log.recovery_point())].into());
    }

    fn expire(&mut self) {
        let now_ms = self.now_ms;
        loop {
            let reads = self.disk.calls(Kind::Read);
            let expired = self.log().expire(now_ms);
            let is_free = self.disk.calls(Kind::Read) == reads;
            assert!(is_free, "the log is locked, so nothing may wait for the disk");
            self.log_start = self.log().log_start();
            self.shown = self.shown.split_off(&self.log_start);
            let unlinked = expired.into_iter().try_for_each(|segment| segment.unlink());
            let Some(Ok(age)) = self.log().unread_age(now_ms).map(|age| age.run()) else { return };
            self.log().note_age(age);
            if unlinked.is_err() {
                return;
            }
        }
    }

    pub fn close(&mut self) {
        let (data, log) = self.running.as_mut().expect("the server runs");
        if log.close().is_err() {
            return;
        }
        self.flushed = log.log_end();
        let points = [(partition(), log.recovery_point())].into();
        if data.write_recovery_points(&points).is_ok() {
            // Without the marker the next start reads more.
            let _ = data.write_clean_shutdown();
        }
    }

    /// Begins an append that is never finished.
    fn die_writing(&mut self) {
        let (_, batches) = self.send(0);
        let now_ms = self.now_ms;
        if self.cut_tail().is_err() || self.log().needs_roll(&batches, now_ms).is_some() {
            return;
        }
        let Ok(append) = self.log().begin_append(batches, 0, now_ms) else { return };
        let bytes = append.pieces.concat();
        let a_part = self.random.below(bytes.len() + 1);
        let written = if self.random.one_in(2) { bytes.len() } else { a_part };
        let _ = self.disk.write(&append.file, append.position.0, &[&bytes[..written]]);
    }

    fn go_down(&mut self, is_cut: bool) -> Offset {
        self.running = None;
        self.disk.stop_failing();
        if !is_cut {
            return Offset(i64::MAX);
        }
        self.disk = self.disk.after_power_cut(&mut self.random);
        match self.durability {
            Durability::Os => self.flushed,
            Durability::Fsync => Offset(i64::MAX),
        }
    }

    fn start(&mut self) -> Result<(), Box<dyn std::error::Error>> {
        let data = DataDir::open(directory(&self.disk, DATA_DIR))?;
        let stop: LastStop = data.take_last_stop()?;
        assert_eq!(data.partitions()?, [partition()]);
        let point = data.recovery_points()?.remove(&partition()).unwrap_or(RecoveryPoint::NONE);
        let (mut log, recovery) =
            Log::open_from(directory(&self.disk, LOG_DIR), config(), stop, point)?;
        if self.durability == Durability::Fsync
            && let Some(flush) = log.begin_flush()
        {
            // No consumer may see records that are not on the disk.
            if let Err(error) = flush.run() {
                let reported = error.to_string();
                log.fail_flush(flush, error).map_or(Ok(()), WriteAgain::run)?;
                return Err(reported.into());
            }
            log.finish_flush(flush);
        }
        // Segments whose unlinking a power cut has undone must go again.
        log.raise_log_start(self.log_start);
        match data.write_recovery_points(&[(partition(), log.recovery_point())].into()) {
            Err(_) if point.holds(&log.recovery_point()) => {}
            written => written?,
        }
        self.found_missing = self.found_missing.map(|_| recovery.missing_offsets);
        self.running = Some((data, log));
        Ok(())
    }

    /// Batches shown below the bound are in their places. Others may be gone from here on.
    fn check(&mut self, bound: Offset) {
        let log = &self.running.as_ref().expect("the server runs").1;
        let content = check::content(log, self.log_start, &self.producers, &mut self.random);
        check::look_ups(log, &content.batches, &self.producers, &mut self.random);
        if self.times_are_sound {
            check::time_look_ups(log, &content.batches, &self.producers, &mut self.random);
        }
        for gap in &content.gaps {
            let is_old = |old: &Range<Offset>| old.start <= gap.start && gap.end <= old.end;
            let may_be = gap.start >= bound.min(self.shown_end);
            assert!(may_be || self.missing.iter().any(is_old), "{gap:?} is missing");
        }
        let free = self.shown.split_off(&bound);
        for (at, number) in self.shown.range(self.log_start..) {
            assert_eq!(content.batches.get(at), Some(number), "what was shown at {at} is gone");
        }
        if free.iter().any(|(at, number)| content.batches.get(at) != Some(number)) {
            self.producers.begin_again();
        }
        self.shown_end = log.log_end();
        (self.shown, self.missing) = (content.batches, content.gaps);
    }

    /// Checks a log that was just opened. Offsets newly gone are damaged, or were counted. No
    /// flushed offset, and none below an existing segment, is used again.
    fn check_what_was_reported(&mut self, known: &[Range<Offset>]) {
        let log = &self.running.as_ref().expect("the server runs").1;
        let is_reported = |offset: &i64| {
            let holds = |range: Range<Offset>| range.contains(&Offset(*offset));
            log.damage().any(|range| holds(range.first..range.end))
                || known.iter().any(|old| holds(old.clone()))
        };
        let missing = self.missing.iter().flat_map(|gap| gap.start.0..gap.end.0);
        let unreported = missing.filter(|offset| !is_reported(offset)).count() as u64;
        let found = self.found_missing.unwrap_or(u64::MAX);
        assert!(
            unreported <= found,
            "{unreported} offsets are gone, {found} reported: {:?}",
            self.missing
        );
        assert!(log.log_end() >= self.flushed, "the log ends before what was flushed");
        self.found_missing = Some(0);
    }

    /// Checks a log that was just opened. No file reaches past the committed bytes. Where all was
    /// synced and nothing is missing, nothing counts as damaged.
    fn check_files(&self) {
        let log = &self.running.as_ref().expect("the server runs").1;
        for segment in log.segments() {
            let path = format!("{LOG_DIR}/{:020}.log", segment.base_offset.0);
            let len_bytes = self.disk.content(Path::new(&path)).map(|content| content.len() as u64);
            assert_eq!(len_bytes, Some(segment.size_bytes), "{path}");
        }
        let damage: Vec<_> = log.damage().collect();
        let is_sound = self.durability == Durability::Fsync && self.missing.is_empty();
        assert!(!is_sound || damage.is_empty(), "{damage:?}");
    }
}

fn directory(disk: &SimulatedDisk, path: &str) -> Directory {
    Directory::on(Arc::new(disk.clone()), path)
}

fn partition() -> PartitionName {
    PartitionName { topic: "t".to_owned(), partition: 0 }
}

/// Small, so that much happens.
fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 16_000,
        retention_ms: Some(1000),
        retention_bytes: Some(60_000),
        index_interval_bytes: 1000,
        ..LogConfig::default()
    }
}
