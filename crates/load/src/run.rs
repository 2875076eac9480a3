//! Runs a workload: connects, starts all connections at one moment, paces them, times them and
//! stops them.
//!
//! Called by `main` with the work (a `Workload`) and its intensity (a `Plan`). Knows no Kafka.
//!
//! ```text
//! main thread      signals, progress ───────────────────────────────► Outcome
//! load threads     connect ─┤gate├─ wait until due ─ turn ─ record ─┘    (one runtime a thread)
//!                                   └────── on and on ──────┘
//! ```

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Barrier, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;

use crate::cli::{CommonArgs, Span};
use crate::measure::{Measurement, Turn};
use crate::pace::Pacer;
use crate::progress::{Done, Progress};
use crate::schedule::Schedule;

/// Added to the nice value of threads in the background. They hardly run while another thread wants
/// to.
const BACKGROUND_NICE: i32 = 19;

/// Time between two updates of the progress bar.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Work for many connections.
pub(crate) trait Workload: Send + Sync + 'static {
    type Worker: Worker + 'static;

    /// Makes the worker of connection number `connection`, ready for its first turn.
    fn connect(&self, connection: u32) -> impl Future<Output = Result<Self::Worker>>;

    /// The share of the work that is done, from 0 to 1. `None`: only time ends the work.
    fn share_done(&self) -> Option<f64>;
}

/// One connection's part of a workload.
pub(crate) trait Worker {
    /// Makes one request and waits for its answer. `None`: no work is left.
    fn turn(&mut self) -> impl Future<Output = Result<Option<Turn>>>;
}

/// The intensity and the duration of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    connections: u32,
    threads: u32,
    rate: f64,
    span: Span,
    timeout: Duration,
    /// The run beside this one is the one that counts.
    in_background: bool,
}

/// The result of a run, however it ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) measurement: Measurement,
    /// From the start to the end, warm-up included.
    pub(crate) wall: Duration,
    /// Processor time of this process during the run.
    pub(crate) cpu: Duration,
    /// Whether the plan had a rate.
    pub(crate) open_loop: bool,
    pub(crate) interrupted: bool,
    /// The error that ended the run early.
    pub(crate) error: Option<anyhow::Error>,
}

impl Plan {
    pub(crate) fn new(common: &CommonArgs, span: Span) -> Plan {
        let CommonArgs { connections, rate, .. } = *common;
        let timeout = common.target.timeout;
        // A thread without a connection would be idle.
        let threads = common.run.threads.min(connections);
        Plan { connections, threads, rate, span, timeout, in_background: false }
    }

    /// Leaves the progress bar to a run beside this one, and the processor when both want it.
    /// Otherwise answers that wait for that run's readers would count against the server.
    pub(crate) fn in_background(self) -> Plan {
        Plan { in_background: true, ..self }
    }
}

/// The state that the threads of a run share.
struct Shared<W> {
    workload: W,
    plan: Plan,
    /// Holds the threads back until all have connected.
    gate: Barrier,
    start: OnceLock<Instant>,
    stop: watch::Sender<bool>,
    done: Done,
}

/// Runs `workload` until the work is done, the plan's time is over, or SIGINT or SIGTERM comes.
pub(crate) async fn run<W: Workload>(workload: W, plan: Plan) -> Outcome {
    let shared = Arc::new(Shared {
        workload,
        plan,
        gate: Barrier::new(plan.threads as usize),
        start: OnceLock::new(),
        stop: watch::Sender::new(false),
        done: Done::default(),
    });
    raise_file_limit();
    let cpu_before = cpu_time();
    let mut threads = JoinSet::new();
    for thread in 0..plan.threads {
        let shared = Arc::clone(&shared);
        threads.spawn(on_own_thread(move || work(&shared, thread)));
    }
    let (interrupted, results) = attend(&shared, threads).await;

    let start = *shared.start.get().expect("the threads have been through the gate");
    let mut measurement = Measurement::new(start + plan.span.warm_up);
    let mut error = None;
    for (part, result) in results {
        measurement.merge(part);
        error = error.or(result.err());
    }
    let cpu = cpu_time().saturating_sub(cpu_before);
    let (wall, open_loop) = (start.elapsed(), plan.rate > 0.0);
    Outcome { measurement, wall, cpu, open_loop, interrupted, error }
}

type ThreadResult = (Measurement, Result<()>);

/// Waits for the threads. Meanwhile shows progress and passes a signal on.
async fn attend<W: Workload>(
    shared: &Shared<W>,
    mut threads: JoinSet<ThreadResult>,
) -> (bool, Vec<ThreadResult>) {
    let progress = Progress::new(!shared.plan.in_background);
    let mut interval = tokio::time::interval(PROGRESS_INTERVAL);
    let mut interrupted = false;
    let mut results = Vec::new();
    // One listener for all rounds: a new one for each would miss signals between two rounds.
    let signal = signal();
    tokio::pin!(signal);
    loop {
        tokio::select! {
            finished = threads.join_next() => match finished {
                Some(result) => results.push(result.expect("a load thread does not panic")),
                None => return (interrupted, results),
            },
            _ = interval.tick() => {
                let elapsed = shared.start.get().map_or(Duration::ZERO, Instant::elapsed);
                let of_time = shared.plan.span.duration.map(|d| elapsed.as_secs_f64() / d.as_secs_f64());
                let share = shared.workload.share_done().or(of_time).unwrap_or(0.0);
                progress.show(&shared.done, elapsed, share);
            }
            () = &mut signal, if !interrupted => {
                interrupted = true;
                shared.stop.send_replace(true);
            }
        }
    }
}

/// Runs `work` on a thread that ends with it, because a thread with a lowered priority is of no use
/// to others.
pub(crate) async fn on_own_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (done, result) = oneshot::channel();
    std::thread::spawn(move || done.send(work()));
    result.await.expect("a load thread does not panic")
}

/// Works off one thread's share of the connections, from connecting to the last answer.
fn work<W: Workload>(shared: &Arc<Shared<W>>, thread: u32) -> ThreadResult {
    if shared.plan.in_background {
        // Linux has a priority for every thread, and never refuses to lower it.
        let _ = rustix::process::nice(BACKGROUND_NICE);
    }
    let ready = connect(shared, thread);
    if ready.is_err() {
        shared.stop.send_replace(true);
    }
    shared.gate.wait();
    let start = *shared.start.get_or_init(Instant::now);
    let measurement = Rc::new(RefCell::new(Measurement::new(start + shared.plan.span.warm_up)));
    let result = ready.and_then(|(runtime, workers)| {
        let lanes = workers.into_iter().map(|(connection, worker)| Lane {
            shared: Arc::clone(shared),
            schedule: Schedule::new(shared.plan.rate, connection, shared.plan.connections),
            worker,
            start,
            measurement: Rc::clone(&measurement),
        });
        LocalSet::new().block_on(&runtime, drive_all(lanes, &shared.stop))
    });
    let measurement = Rc::into_inner(measurement).expect("every lane has ended");
    (measurement.into_inner(), result)
}

type Connected<T> = (Runtime, Vec<(u32, T)>);

fn connect<W: Workload>(shared: &Shared<W>, thread: u32) -> Result<Connected<W::Worker>> {
    let Plan { connections, threads, timeout: limit, .. } = shared.plan;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let workers = runtime.block_on(async {
        let mut stop = shared.stop.subscribe();
        let mut workers = Vec::new();
        for connection in (thread..connections).step_by(threads as usize) {
            let worker = tokio::select! {
                worker = timeout(limit, shared.workload.connect(connection)) => worker
                    .unwrap_or_else(|_| Err(anyhow!("not ready within {limit:?}")))
                    .with_context(|| format!("connection {connection}"))?,
                _ = stop.wait_for(|stop| *stop) => bail!("stopped while connecting"),
            };
            workers.push((connection, worker));
        }
        Ok(workers)
    })?;
    Ok((runtime, workers))
}

/// Drives all lanes of a thread. The first that fails stops the run.
async fn drive_all<W: Workload>(
    lanes: impl Iterator<Item = Lane<W>>,
    stop: &watch::Sender<bool>,
) -> Result<()> {
    let mut tasks = JoinSet::new();
    for lane in lanes {
        tasks.spawn_local(lane.drive());
    }
    let mut result = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let ended = ended.expect("a lane does not panic");
        if ended.is_err() {
            stop.send_replace(true);
        }
        result = result.and(ended);
    }
    result
}

/// One connection at work.
struct Lane<W: Workload> {
    shared: Arc<Shared<W>>,
    schedule: Schedule,
    worker: W::Worker,
    start: Instant,
    measurement: Rc<RefCell<Measurement>>,
}

impl<W: Workload> Lane<W> {
    async fn drive(mut self) -> Result<()> {
        let pacer = match self.schedule {
            Schedule::Open { .. } => Some(Pacer::new().context("no timer")?),
            Schedule::Closed => None,
        };
        let mut stop = self.shared.stop.subscribe();
        let end = self.shared.plan.span.duration.map(|duration| self.start + duration);
        let mut sent = 0;
        loop {
            let due = self.schedule.due(sent).map(|due| self.start + due);
            // No request goes out past the end. Answers to earlier ones are waited for.
            if end.is_some_and(|end| Instant::now().max(due.unwrap_or(self.start)) >= end) {
                break;
            }
            let turn = tokio::select! {
                biased;
                turn = paced(pacer.as_ref().zip(due), &mut self.worker, self.shared.plan.timeout) => turn?,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let Some((begun, turn)) = turn else { return Ok(()) };
            self.shared.done.add(turn.amount.bytes);
            self.measurement.borrow_mut().record(due.unwrap_or(begun), Instant::now(), turn);
            sent += 1;
        }
        let until = end.map_or(Instant::now(), |end| end.min(Instant::now())) - self.start;
        let unsent = self.schedule.due_before(until).saturating_sub(sent);
        self.measurement.borrow_mut().unsent += unsent;
        Ok(())
    }
}

/// Takes one turn, at once or when it is due. Returns it with the moment at which it started.
async fn paced(
    due: Option<(&Pacer, Instant)>,
    worker: &mut impl Worker,
    limit: Duration,
) -> Result<Option<(Instant, Turn)>> {
    if let Some((pacer, moment)) = due {
        pacer.until(moment).await?;
    }
    let begun = Instant::now();
    let turn = timeout(limit, worker.turn()).await;
    let turn = turn.unwrap_or_else(|_| Err(anyhow!("no answer within {limit:?}")))?;
    Ok(turn.map(|turn| (begun, turn)))
}

/// Returns when SIGINT or SIGTERM comes.
pub(crate) async fn signal() {
    let terminate = async {
        match unix::signal(unix::SignalKind::terminate()) {
            Ok(mut signals) => signals.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => (),
        _ = terminate => (),
    }
}

/// Raises the limit of descriptors as far as the system allows. A connection takes one, or two with
/// a timer.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    // If it cannot be raised, and descriptors run out, connecting reports it.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Processor time that all threads of this process have used so far.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Amount;

    /// Answers after a pause. Ends or fails after some turns.
    struct Fake {
        pause: Duration,
        turns: u64,
        fails: bool,
    }

    struct FakeWorker {
        pause: Duration,
        left: u64,
        fails: bool,
    }

    impl Workload for Fake {
        type Worker = FakeWorker;

        async fn connect(&self, _: u32) -> Result<FakeWorker> {
            Ok(FakeWorker { pause: self.pause, left: self.turns, fails: self.fails })
        }

        fn share_done(&self) -> Option<f64> {
            None
        }
    }

    impl Worker for FakeWorker {
        async fn turn(&mut self) -> Result<Option<Turn>> {
            tokio::time::sleep(self.pause).await;
            if self.left == 0 {
                return if self.fails { Err(anyhow!("broken")) } else { Ok(None) };
            }
            self.left -= 1;
            let amount = Amount { batches: 1, records: 1, bytes: 10 };
            Ok(Some(Turn { amount, ..Turn::default() }))
        }
    }

    fn plan(rate: f64, duration: Option<Duration>) -> Plan {
        let span = Span { warm_up: Duration::ZERO, duration };
        let timeout = Duration::from_secs(10);
        Plan { connections: 6, threads: 2, rate, span, timeout, in_background: true }
    }

    #[tokio::test]
    async fn work_that_ends_by_itself_is_done_by_every_connection() {
        let fake = Fake { pause: Duration::ZERO, turns: 50, fails: false };
        let outcome = run(fake, plan(0.0, None)).await;
        assert_eq!((outcome.measurement.requests(), outcome.measurement.amount.bytes), (300, 3000));
        assert!(outcome.error.is_none() && !outcome.interrupted);
    }

    #[tokio::test]
    async fn an_open_loop_sends_what_is_due_or_says_that_it_did_not() {
        let fake = Fake { pause: Duration::ZERO, turns: u64::MAX, fails: false };
        let measurement =
            run(fake, plan(2000.0, Some(Duration::from_millis(300)))).await.measurement;
        assert_eq!(measurement.requests() + measurement.unsent, 600);
        // How many go out depends on the machine.
        assert!(measurement.requests() > 0);
    }

    #[tokio::test]
    async fn a_slow_server_shows_in_latencies_from_the_intended_moment_and_in_unsent_requests() {
        let fake = Fake { pause: Duration::from_millis(20), turns: u64::MAX, fails: false };
        let measurement =
            run(fake, plan(1200.0, Some(Duration::from_millis(400)))).await.measurement;
        assert_eq!(measurement.requests() + measurement.unsent, 480);
        assert!(measurement.unsent > 300, "{} of 480 unsent", measurement.unsent);
        // Each answer takes 20 ms, but the last requests waited for all those before them.
        assert!(measurement.latency.max() > 200_000, "{} us", measurement.latency.max());
    }

    #[tokio::test]
    async fn a_connection_that_fails_ends_the_run_of_all() {
        let fake = Fake { pause: Duration::from_millis(1), turns: 3, fails: true };
        let outcome = run(fake, plan(0.0, None)).await;
        assert_eq!(outcome.error.unwrap().to_string(), "broken");
    }
}
