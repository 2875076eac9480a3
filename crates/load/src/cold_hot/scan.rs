//! The cold readers: a fetch run that counts while it runs, looks ahead now and then, and can be
//! stopped.
//!
//! Run by `cold_hot` beside the hot readers, through `run`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, Result};
use tokio::sync::Notify;

use crate::cli::FetchArgs;
use crate::cold_hot::files::{LogFile, Place, Residency};
use crate::fetch::{Fetch, Fetcher};
use crate::measure::Turn;
use crate::run::{Worker, Workload};
use crate::topic::Topic;

/// Fetches of a reader between two looks. Each look makes the kernel read one page in vain.
const LOOK_EVERY: u32 = 2;

/// The state that the cold readers share with the phase that started them.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    stop: AtomicBool,
    bytes: AtomicU64,
    seen: Mutex<Residency>,
    /// Notified at the first answer, and when there will be none.
    pub(crate) begun: Notify,
}

impl Progress {
    /// Ends the scan after the answers to requests in flight.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// The current moment, and the bytes read so far.
    pub(crate) fn so_far(&self) -> (Instant, u64) {
        (Instant::now(), self.bytes.load(Relaxed))
    }

    /// How many of the pages read were in memory just before.
    pub(crate) fn seen(&self) -> Residency {
        *self.seen.lock().expect("no holder of the lock panics")
    }
}

/// The workload.
#[derive(Debug)]
pub(crate) struct Scan {
    fetch: Fetch,
    topic: Arc<Topic>,
    answer_bytes: u64,
    files: Arc<[LogFile]>,
    progress: Arc<Progress>,
}

impl Scan {
    pub(crate) fn new(
        args: &FetchArgs,
        topic: Topic,
        files: Arc<[LogFile]>,
        progress: Arc<Progress>,
    ) -> Scan {
        let answer_bytes = args.partition_max_bytes as u64;
        let fetch = Fetch::new(args, topic.clone());
        Scan { fetch, topic: Arc::new(topic), answer_bytes, files, progress }
    }
}

impl Workload for Scan {
    type Worker = Scanner;

    async fn connect(&self, connection: u32) -> Result<Scanner> {
        Ok(Scanner {
            fetcher: self.fetch.connect(connection).await?,
            topic: Arc::clone(&self.topic),
            answer_bytes: self.answer_bytes,
            files: Arc::clone(&self.files),
            progress: Arc::clone(&self.progress),
            turns: connection,
        })
    }

    fn share_done(&self) -> Option<f64> {
        None
    }
}

/// One cold reader.
#[derive(Debug)]
pub(crate) struct Scanner {
    fetcher: Fetcher,
    topic: Arc<Topic>,
    answer_bytes: u64,
    files: Arc<[LogFile]>,
    progress: Arc<Progress>,
    turns: u32,
}

impl Worker for Scanner {
    async fn turn(&mut self) -> Result<Option<Turn>> {
        if self.progress.stop.load(Relaxed) {
            return Ok(None);
        }
        self.turns = self.turns.wrapping_add(1);
        if self.turns.is_multiple_of(LOOK_EVERY) {
            self.look_ahead().context("cannot look at a cold file")?;
        }
        let turn = self.fetcher.turn().await?;
        self.progress.bytes.fetch_add(turn.as_ref().map_or(0, |turn| turn.amount.bytes), Relaxed);
        self.progress.begun.notify_one();
        Ok(turn)
    }
}

impl Scanner {
    /// Looks at the middle of the next fetch. Its start may be in memory since the answer before,
    /// which ended within a page.
    fn look_ahead(&self) -> Result<()> {
        let Some((partition, offset)) = self.fetcher.next() else { return Ok(()) };
        let Topic { name, partitions } = &*self.topic;
        let end = partitions.iter().find(|p| p.index == partition).map_or(0, |p| p.end);
        for file in self.files.iter() {
            let here = |place: &&Place| place.partition == partition && *place.topic == **name;
            let Some(place) = file.place.as_ref().filter(here) else { continue };
            if let Some(position) = place.position(offset, end, file.len_bytes()?) {
                let cached = file.is_cached(position + self.answer_bytes / 2)?;
                self.progress.seen.lock().expect("no holder of the lock panics").count(cached);
            }
        }
        Ok(())
    }
}
