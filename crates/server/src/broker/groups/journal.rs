//! `penstock-offsets.journal`: every change of committed offsets in the order of acknowledgement.
//!
//! ```text
//! record:  length u32 · crc32c u32 · body                       length and crc are the body's
//! body:    kind u8 (1, a commit) · group str · count u32 · count × entry
//!          kind u8 (2, a topic is forgotten) · topic str
//! entry:   topic str · partition i32 · offset i64 · leader_epoch i32 · metadata str
//! str:     length u16 · UTF-8                                       integers are big-endian
//! ```
//!
//! A record is in the page cache before its commit is acknowledged; with `--durability fsync` it is
//! on the disk. A failed sync takes the journal offline until the next start. A later record
//! overrides an earlier one. When most of the file is overridden, a new file is written beside it
//! and renamed over it. record.rs has one record, reading.rs the whole file. Plain blocking I/O:
//! called by the offset store's thread only.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use penstock_storage::is_no_room;

use crate::config::durability::Durability;
use penstock_coordinator::{Commit, Offsets};

mod reading;
mod record;

use reading::{Record, Records};
pub(super) use record::encode;
use record::{decode, encode_commit};

/// Smaller files are not compacted.
const COMPACT_MIN_BYTES: u64 = 4 * 1024 * 1024;

#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    len_bytes: u64,
    /// After a failed compaction, the size at which the next one is tried.
    compact_from_bytes: u64,
    /// Whether refused records lie behind that: they are cut before the next append.
    is_torn: bool,
    /// Whether a sync failed, so that the content of the disk is unknown.
    is_offline: bool,
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error("cannot read or write the journal: {0}")]
    Io(#[from] io::Error),
    #[error("the record at byte {position} is sound but not understood: kind {kind}")]
    Record { position: u64, kind: u8 },
}

impl Journal {
    /// Reads the journal, or begins an empty one. A torn tail was never acknowledged, or its disk
    /// lied: it is cut off. Damage before sound records is skipped and stays until the next
    /// compaction. Both are logged.
    ///
    /// With [`Durability::Fsync`], a start syncs the journal before it serves offsets from it: a
    /// killed server may have left them in the page cache. If that sync fails, which is logged,
    /// offsets are served and none are appended.
    ///
    /// # Errors
    /// The disk fails, or a newer program wrote the file.
    pub(crate) fn open(
        path: PathBuf,
        durability: Durability,
    ) -> Result<(Journal, Offsets), JournalError> {
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
        let file_bytes = file.metadata()?.len();
        // A server may have died between the rename and the sync of the directory.
        directory_of(&path)?.sync_all()?;
        let mut records = Records::of(&file, file_bytes);
        let mut offsets = Offsets::default();
        while let Some(Record { body, position, skipped_bytes }) = records.next()? {
            let kind = body[0];
            offsets.apply(decode(&body).ok_or(JournalError::Record { position, kind })?);
            if skipped_bytes > 0 {
                tracing::error!(path = %path.display(), position = position - skipped_bytes, skipped_bytes,
                    "committed offsets are damaged; groups may find older ones");
            }
        }
        let len_bytes = records.position();
        let (is_torn, is_offline) = (len_bytes < file_bytes, false);
        let mut journal =
            Journal { path, file, len_bytes, compact_from_bytes: 0, is_torn, is_offline };
        if is_torn {
            let cut_bytes = file_bytes - len_bytes;
            tracing::warn!(path = %journal.path.display(), cut_bytes, kept_bytes = len_bytes,
                "cutting a torn tail off the committed offsets");
        }
        match journal.cut() {
            Err(error) if is_no_room(&error) => {
                tracing::warn!(path = %journal.path.display(), %error, "the tail is cut when there is room");
            }
            cut => cut?,
        }
        if durability == Durability::Fsync
            && let Err(error) = journal.sync()
        {
            tracing::error!(path = %journal.path.display(), %error,
                "cannot sync the committed offsets; none are taken until a restart");
        }
        Ok((journal, offsets))
    }

    /// Appends records that [`encode`] made.
    ///
    /// # Errors
    /// The disk fails. The bytes that got into the file are cut off, at the latest before the next
    /// append: the commit was not made. Records are never written over such a tail, since whole
    /// records in it would be read as later ones.
    pub(crate) fn append(&mut self, records: &[u8]) -> io::Result<()> {
        if self.is_offline {
            return Err(io::Error::other("offline since a sync failed"));
        }
        self.cut()?;
        if let Err(error) = self.file.write_all_at(records, self.len_bytes) {
            self.is_torn = true;
            // The next append tries again.
            let _ = self.cut();
            return Err(error);
        }
        self.len_bytes += records.len() as u64;
        Ok(())
    }

    /// Cuts the file behind its last record.
    fn cut(&mut self) -> io::Result<()> {
        if self.is_torn {
            self.file.set_len(self.len_bytes)?;
            self.is_torn = false;
        }
        Ok(())
    }

    /// Appends records durably: they survive a power cut.
    ///
    /// # Errors
    /// The disk fails. The appended bytes are cut off. After a failed sync it is unknown whether
    /// they are on the disk, so nothing is appended any more. Only a power cut before the cut
    /// reaches the disk can bring the records back.
    pub(crate) fn append_durably(&mut self, records: &[u8]) -> io::Result<()> {
        let before_bytes = self.len_bytes;
        self.append(records)?;
        self.sync().inspect_err(|_| {
            self.len_bytes = before_bytes;
            if let Err(error) = self.file.set_len(before_bytes) {
                tracing::error!(%error, "refused commits of offsets cannot be cut off: the next start makes them");
            }
        })
    }

    /// Whether more than half of the file is overridden. `offsets` is its current content.
    pub(crate) fn needs_compaction(&self, offsets: &Offsets) -> bool {
        !self.is_offline
            && self.len_bytes > COMPACT_MIN_BYTES
            && self.len_bytes >= self.compact_from_bytes
            && self.len_bytes > 2 * offsets.size_bytes() as u64
    }

    /// Writes a new file with `commits` alone, durably, and renames it over the old one.
    ///
    /// # Errors
    /// The disk fails. The old file stays in use, with one exception: if only the new name cannot
    /// be synced, the journal is offline.
    pub(crate) fn compact(&mut self, commits: Vec<Commit>) -> io::Result<()> {
        let beside = self.path.with_extension("journal.new");
        self.replace_by(&beside, commits).inspect_err(|_| {
            // The unfinished file takes room that commits need.
            let _ = std::fs::remove_file(&beside);
            self.compact_from_bytes = self.len_bytes + COMPACT_MIN_BYTES;
        })
    }

    fn replace_by(&mut self, beside: &Path, commits: Vec<Commit>) -> io::Result<()> {
        let file =
            File::options().read(true).write(true).create(true).truncate(true).open(beside)?;
        let mut writer = BufWriter::new(&file);
        let mut len_bytes = 0;
        for commit in commits {
            let record = encode_commit(&commit);
            writer.write_all(&record)?;
            len_bytes += record.len() as u64;
        }
        writer.flush()?;
        drop(writer);
        file.sync_all()?;
        // Opened before the rename: a directory that cannot be opened afterwards would leave the
        // name unsynced.
        let directory = directory_of(&self.path)?;
        std::fs::rename(beside, &self.path)?;
        (self.file, self.len_bytes, self.is_torn) = (file, len_bytes, false);
        let synced = directory.sync_all();
        self.is_offline |= synced.is_err();
        synced
    }

    /// Ends the use of the file: cuts a tail for which there was no room to be cut before. The next
    /// start would read whole records in it as commits, which were refused.
    ///
    /// # Errors
    /// The disk fails, or there is still no room.
    pub(crate) fn close(mut self) -> io::Result<()> {
        self.cut()?;
        self.sync()
    }

    /// Makes appended records survive a power cut.
    ///
    /// # Errors
    /// The disk fails; nothing is appended any more.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        let synced = self.file.sync_data();
        self.is_offline |= synced.is_err();
        synced
    }
}

fn directory_of(path: &Path) -> io::Result<File> {
    File::open(path.parent().unwrap_or(Path::new(".")))
}

#[cfg(test)]
mod tests {
    use penstock_coordinator::{Change, Committed};
    use proptest::prelude::*;

    use super::record::{KINDS, PREFIX_BYTES};
    use super::*;

    fn commit_of(group: &str, partition: i32, offset: i64) -> Commit {
        let at = Committed { offset, leader_epoch: 3, metadata: "m".into() };
        Commit { group: group.into(), entries: vec![("topic".into(), partition, at)] }
    }

    fn commit(group: &str, partition: i32, offset: i64) -> Change {
        Change::Commit(commit_of(group, partition, offset))
    }

    fn open(dir: &tempfile::TempDir) -> (Journal, Offsets) {
        Journal::open(dir.path().join("journal"), Durability::Os).unwrap()
    }

    #[test]
    fn what_was_appended_is_there_when_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(&dir);
        journal.append(&encode(&commit("a", 0, 10))).unwrap();
        journal.append(&encode(&commit("a", 0, 20))).unwrap();
        journal.append(&encode(&commit("b", 7, 30))).unwrap();
        let (_, offsets) = open(&dir);
        assert_eq!(offsets.get("a", "topic", 0), Some(&commit_of("a", 0, 20).entries[0].2));
        assert_eq!(offsets.get("b", "topic", 7).unwrap().offset, 30);
    }

    /// As where a btrfs over its quota refuses to shrink a file while the server runs.
    #[test]
    fn a_refused_commit_that_could_not_be_cut_is_cut_by_a_stop() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(&dir);
        journal.append(&encode(&commit("a", 0, 10))).unwrap();
        journal.file.write_all_at(&encode(&commit("a", 0, 99)), journal.len_bytes).unwrap();
        journal.is_torn = true;
        journal.close().unwrap();
        let (_, offsets) = open(&dir);
        assert_eq!(offsets.get("a", "topic", 0).unwrap().offset, 10);
    }

    #[test]
    fn a_forgotten_topic_stays_forgotten_and_can_be_committed_to_again() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(&dir);
        journal.append(&encode(&commit("a", 0, 10))).unwrap();
        journal.append(&encode(&commit("b", 1, 20))).unwrap();
        journal.append(&encode(&Change::Forget { topic: "topic".into() })).unwrap();
        journal.append(&encode(&commit("b", 0, 1))).unwrap();
        let (_, offsets) = open(&dir);
        assert_eq!(offsets.get("a", "topic", 0), None);
        assert_eq!(offsets.get("b", "topic", 1), None);
        assert_eq!(offsets.get("b", "topic", 0).unwrap().offset, 1);
    }

    #[test]
    fn a_tail_cut_or_damaged_anywhere_loses_no_record_before_it() {
        let whole = [encode(&commit("a", 0, 1)), encode(&commit("a", 0, 2))].concat();
        let half = whole.len() / 2;
        for at in half..whole.len() {
            for damage in [&whole[..at], &[&whole[..at], &[!whole[at]], &whole[at + 1..]].concat()]
            {
                let dir = tempfile::tempdir().unwrap();
                std::fs::write(dir.path().join("journal"), damage).unwrap();
                let (mut journal, offsets) = open(&dir);
                assert_eq!(offsets.get("a", "topic", 0).unwrap().offset, 1);
                journal.append(&encode(&commit("a", 0, 3))).unwrap();
                assert_eq!(open(&dir).1.get("a", "topic", 0).unwrap().offset, 3);
            }
        }
    }

    /// fdatasync(2) of /dev/null fails.
    #[test]
    fn what_a_killed_server_left_is_synced_before_it_is_shown_where_commits_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        for (durability, is_synced) in [(Durability::Fsync, true), (Durability::Os, false)] {
            let (mut journal, _) = Journal::open(path.clone(), durability).unwrap();
            let appended = journal.append(&encode(&commit("a", 0, 1)));
            assert_eq!(appended.is_err(), is_synced, "{durability:?}");
        }
    }

    /// A flipped bit once cut off every commit behind it.
    #[test]
    fn a_record_damaged_anywhere_costs_no_other_one() {
        let records = ["a", "b", "c", "d"].map(|group| encode(&commit(group, 0, 7)));
        let whole = records.concat();
        let hit = records[0].len()..records[0].len() + records[1].len();
        for at in hit.clone() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                let dir = tempfile::tempdir().unwrap();
                std::fs::write(dir.path().join("journal"), &bytes).unwrap();
                let (journal, offsets) = open(&dir);
                let found = ["a", "b", "c", "d"].map(|g| offsets.get(g, "topic", 0).is_some());
                assert_eq!(found, [true, false, true, true], "bit {bit} of byte {at}");
                assert_eq!(journal.len_bytes, whole.len() as u64, "nothing is cut");
            }
        }
    }

    #[test]
    fn zeros_between_records_are_stepped_over() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = [encode(&commit("a", 0, 1)), vec![0; 70_000], encode(&commit("b", 0, 2))];
        std::fs::write(dir.path().join("journal"), bytes.concat()).unwrap();
        let (mut journal, _) = open(&dir);
        journal.append(&encode(&commit("c", 0, 3))).unwrap();
        let (_, offsets) = open(&dir);
        assert!(["a", "b", "c"].iter().all(|g| offsets.get(g, "topic", 0).is_some()));
    }

    #[test]
    fn a_tail_of_zeros_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let record = encode(&commit("a", 0, 1));
        std::fs::write(dir.path().join("journal"), [&record[..], &[0; 100]].concat()).unwrap();
        assert_eq!(open(&dir).0.len_bytes, record.len() as u64);
    }

    #[test]
    fn a_record_of_a_newer_program_is_refused_and_not_cut() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = encode(&commit("a", 0, 1));
        record[PREFIX_BYTES] = 3;
        let crc = crc_fast::crc32_iscsi(&record[PREFIX_BYTES..]);
        record[4..8].copy_from_slice(&crc.to_be_bytes());
        let path = dir.path().join("journal");
        std::fs::write(&path, &record).unwrap();
        let refused = Journal::open(path.clone(), Durability::Os);
        assert!(matches!(refused, Err(JournalError::Record { position: 0, kind: 3 })));
        assert_eq!(std::fs::read(path).unwrap(), record);
    }

    #[test]
    fn compaction_keeps_the_last_commits_only_and_appends_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, mut offsets) = open(&dir);
        let record_bytes = encode(&commit("a", 0, 0)).len() as u64;
        for offset in 0..=COMPACT_MIN_BYTES as i64 / record_bytes as i64 {
            journal.append(&encode(&commit("a", 0, offset))).unwrap();
            offsets.apply(commit("a", 0, offset));
        }
        assert!(journal.needs_compaction(&offsets));
        journal.compact(offsets.snapshot().collect()).unwrap();
        assert!(!journal.needs_compaction(&offsets));
        assert_eq!(journal.len_bytes, record_bytes);
        journal.append(&encode(&commit("b", 0, 5))).unwrap();
        let (_, again) = open(&dir);
        assert_eq!(again.get("a", "topic", 0), offsets.get("a", "topic", 0));
        assert_eq!(again.get("b", "topic", 0).unwrap().offset, 5);
    }

    /// A failed compaction was begun again after every commit, and filled the disk with unfinished
    /// files.
    #[test]
    fn a_compaction_that_fails_leaves_nothing_and_waits_until_the_journal_has_grown() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, offsets) = open(&dir);
        journal.len_bytes = COMPACT_MIN_BYTES + 1;
        assert!(journal.needs_compaction(&offsets));
        let beside = dir.path().join("journal").with_extension("journal.new");
        std::os::unix::fs::symlink("/dev/full", &beside).unwrap();
        journal.compact(vec![commit_of("a", 0, 1)]).unwrap_err();
        assert!(!beside.is_symlink());
        assert!(!journal.needs_compaction(&offsets));
        journal.len_bytes += COMPACT_MIN_BYTES;
        assert!(journal.needs_compaction(&offsets));
    }

    proptest! {
        #[test]
        fn bytes_of_no_journal_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&body);
            for kind in KINDS {
                let _ = decode(&[&[kind], &body[..]].concat());
            }
        }
    }
}
