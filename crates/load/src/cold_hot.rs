//! The cold-hot workload: measures readers of cached records, alone and while others scan uncached
//! ones. One run has both kinds of phase in turn, so that they can be compared.
//!
//! ```text
//! start     every hot record read once; cold files written back and evicted
//! round 1   quiet       hot   ░░▓▓▓▓▓▓▓▓▓▓▓▓        ░ warm-up   ▓ measured
//!           disturbed   hot   ░░▓▓▓▓▓▓▓▓▓▓▓▓
//!                       cold  ██████████████        closed loop, or a rate of their own
//!                       evict │││││││││││││││       each some milliseconds
//! round 2   ...
//! ```
//!
//! Called by `main`. `args` has the parameters, `part` divides the offsets, `files` evicts pages
//! and looks at the page cache, `scan` has the cold readers, `report` and `chart` show the result.
//! The hot readers are those of `fetch`.

mod args;
mod chart;
mod files;
mod part;
mod report;
mod scan;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Result, anyhow};

pub(crate) use args::ColdHotArgs;
use files::{Evictor, LogFile, Residency};
use part::Parts;
use report::{Cold, Kind, Phase, Report, Watched};
use scan::{Progress, Scan};

use crate::cli::{FetchArgs, Span};
use crate::fetch::Fetch;
use crate::run::{self, Outcome, Plan};
use crate::topic::Topic;

/// Runs all phases. A failed phase or a signal ends the run early, which the report shows.
///
/// # Errors
/// No phase could start, because of the topics, the files or the warming of the hot part.
pub(crate) async fn run(args: &ColdHotArgs) -> Result<Report> {
    let bench = Bench::prepare(args).await?;
    let interrupted = watch_signals();
    let mut phases = Vec::new();
    for (round, kind) in (1..=args.rounds).flat_map(|round| Kind::BOTH.map(|kind| (round, kind))) {
        let phase = bench.phase(round, kind).await?;
        let failed = phase.failure().is_some();
        phases.push(phase);
        if failed || interrupted.load(Relaxed) {
            break;
        }
    }
    Report::new(args, phases, interrupted.load(Relaxed))
}

/// Watches for SIGINT and SIGTERM, also between the phases. A phase ends at a signal by itself.
fn watch_signals() -> Arc<AtomicBool> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    tokio::spawn(async move {
        run::signal().await;
        flag.store(true, Relaxed);
    });
    interrupted
}

/// The state that the phases share.
struct Bench<'a> {
    args: &'a ColdHotArgs,
    parts: Parts,
    hot_files: Vec<LogFile>,
    cold_files: Arc<[LogFile]>,
}

impl<'a> Bench<'a> {
    async fn prepare(args: &'a ColdHotArgs) -> Result<Bench<'a>> {
        let cold_files = files::open(&args.cold_files)?;
        let hot_files = match args.hot_files.is_empty() {
            true => Vec::new(),
            false => files::open(&args.hot_files)?,
        };
        let topic = Topic::find(&args.target, None).await?;
        let parts = match &args.cold_topic {
            None => Parts::of_one(&topic, &cold_files)?,
            Some(name) => {
                let mut target = args.target.clone();
                target.topic.clone_from(name);
                Parts::of_two(topic, &Topic::find(&target, None).await?, &cold_files)?
            }
        };
        let bench = Bench { args, parts, hot_files, cold_files: cold_files.into() };
        bench.warm().await?;
        files::make_cold(&bench.cold_files)?;
        Ok(bench)
    }

    /// Reads and checks the whole hot part once.
    async fn warm(&self) -> Result<()> {
        let outcome = self.read_hot(&self.args.warming(), None).await;
        match outcome.error {
            Some(error) => Err(error.context("warming the hot part")),
            None if outcome.interrupted => Err(anyhow!("ended early by a signal while warming")),
            None => match outcome.measurement.faults.first {
                Some(fault) => Err(anyhow!("verification failed while warming: {fault}")),
                None => Ok(()),
            },
        }
    }

    async fn phase(&self, round: u32, kind: Kind) -> Result<Phase> {
        if !files::residency(&self.hot_files)?.is_whole() {
            self.warm().await?;
        }
        let before = self.hot_residency()?;
        let (outcome, cold) = match kind {
            Kind::Quiet => (self.measure(|| ()).await.0, None),
            Kind::Disturbed => {
                let (outcome, cold) = self.disturbed().await?;
                (outcome, Some(cold))
            }
        };
        let watched = before.zip(self.hot_residency()?);
        let watched = watched.map(|(before, after)| Watched { before, after });
        let threads = self.args.threads.min(self.args.hot_connections);
        Ok(Phase::new((round, kind), outcome, threads, self.args.verify, watched, cold))
    }

    fn hot_residency(&self) -> Result<Option<Residency>> {
        let watched = !self.hot_files.is_empty();
        Ok(watched.then(|| files::residency(&self.hot_files)).transpose()?)
    }

    /// Measures the hot readers beside the cold ones.
    async fn disturbed(&self) -> Result<(Outcome, Cold)> {
        let progress = Arc::new(Progress::default());
        let (args, files) = (self.args.cold(), &self.cold_files);
        let scan =
            Scan::new(&args, self.parts.cold.clone(), Arc::clone(files), Arc::clone(&progress));
        let interval = Duration::from_millis(self.args.evict_interval_ms);
        let evictor = Evictor::start(Arc::clone(files), interval);
        let span = Span { warm_up: self.args.warm_up, duration: None };
        let cold = async {
            let outcome = run::run(scan, Plan::new(&args.common, span).in_background()).await;
            progress.begun.notify_one();
            outcome
        };
        let hot = async {
            progress.begun.notified().await;
            let measured = self.measure(|| progress.so_far()).await;
            progress.stop();
            measured
        };
        let (cold, (hot, scanned)) = tokio::join!(cold, hot);
        evictor.stop()?;
        Ok((hot, Cold::new(cold, scanned, progress.seen())))
    }

    /// Runs the hot readers: the warm-up, then the measured part. Returns the results of `look`
    /// before and after that.
    ///
    /// They are two runs, so that requests that a slow server still owes from the warm-up do not
    /// delay the measured part, which could otherwise be over before its first request went out.
    async fn measure<T>(&self, look: impl Fn() -> T) -> (Outcome, [T; 2]) {
        let args = self.args.hot();
        let begun = look();
        if !self.args.warm_up.is_zero() {
            let outcome = self.read_hot(&args, Some(self.args.warm_up)).await;
            if outcome.error.is_some() || outcome.interrupted {
                return (outcome, [begun, look()]);
            }
        }
        let begun = look();
        let outcome = self.read_hot(&args, Some(self.args.duration)).await;
        (outcome, [begun, look()])
    }

    async fn read_hot(&self, args: &FetchArgs, duration: Option<Duration>) -> Outcome {
        let plan = Plan::new(&args.common, Span { warm_up: Duration::ZERO, duration });
        run::run(Fetch::new(args, self.parts.hot.clone()), plan).await
    }
}
