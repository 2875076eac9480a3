//! The server as a whole: how it starts, how it stops.
//!
//! Called by main with the settings; [`run`] returns when a stop is complete.
//!
//! - Start: lock the data directory, bind, begin all threads, open every log, serve, print the
//!   address that clients must use.
//! - Stop: answer the requests in flight, flush and close the logs, write the clean-shutdown
//!   marker.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use penstock_ring::{RAISE_THREADS, RingConfig, blocking};
use penstock_storage::DataDir;
use tokio::sync::watch;

use crate::background::checkpoints;
use crate::background::cold_control;
use crate::background::group_clock;
use crate::background::retention;
use crate::background::scrubber;
use crate::broker::Broker;
use crate::broker::file_system::FileSystem;
use crate::broker::memory::Memory;
use crate::broker::read_errors;
use crate::broker::topics::Deadline;
use crate::config::limits;
use crate::config::memory_limit::MemoryLimit;
use crate::config::settings::Settings;
use crate::http;
use crate::net::crew::Crew;
use crate::stop::{Stop, wait_for};

/// A port in use for longer is another server's. The kernel takes down a killed server's ring, and
/// with it the accept that holds the listener, some milliseconds after the process has gone.
const PORT_IN_USE_MAX: Duration = Duration::from_secs(1);

/// Between two attempts.
const PORT_REST: Duration = Duration::from_millis(5);

/// Divides the pipes that a user may have among the workers' rings.
fn ring_config(settings: &Settings, memory: &Memory, lies_on: &FileSystem) -> RingConfig {
    let max_pipes = (limits::PIPES / settings.workers).max(limits::PIPES_PER_RING_MIN);
    let defaults = RingConfig::default();
    RingConfig {
        max_pipes,
        idle_pipes: defaults.idle_pipes.min(max_pipes),
        // Where the file system does not show cold pages, others may read what a scan reads.
        scans: (settings.fetch_drop_behind && lies_on.sight.tells_cold()).then(Arc::default),
        page_budget: memory.pages.clone(),
        sight: lies_on.sight,
        spliced: lies_on.spliced.unwrap_or(defaults.spliced),
        ..defaults
    }
}

/// Serves until `stop` is complete.
///
/// # Errors
/// The data directory, an address or a worker is not available, or the logs cannot be closed
/// cleanly.
pub(crate) async fn run(
    mut settings: Settings,
    stop: watch::Sender<Stop>,
    on_ready: impl FnOnce(&Ready),
) -> anyhow::Result<()> {
    penstock_ring::ignore_sigpipe();
    let memory = Memory::new(fit_memory(&mut settings), &settings);
    blocking::start()
        .with_context(|| format!("cannot start the threads for what blocks: {RAISE_THREADS}"))?;
    let data_dir = DataDir::open(&settings.data_dir)?;
    let listeners = listen(settings.listen, settings.workers).await?;
    let bound = listeners[0].local_addr()?;
    let path = settings.data_dir.clone();
    let lies_on = blocking::run(move || FileSystem::of(&path)).await?;
    lies_on.report(settings.fetch_drop_behind);
    let crew = Crew::muster(listeners, &ring_config(&settings, &memory, &lies_on), &stop).await?;
    let opening = move || Broker::open(settings, memory, data_dir, &lies_on, bound);
    let broker = blocking::run(opening).await??;

    let metrics = http::serve(Arc::clone(&broker), stop.subscribe()).await?;
    let helpers = start_helpers(&broker, &stop);
    let workers = crew.serve(&broker);

    on_ready(&Ready::of(&broker, bound, metrics));
    wait_for(&mut stop.subscribe(), Stop::Drain).await;
    broker.metrics.set_ready(false);
    let time = StopTime::new(Instant::now(), broker.settings.drain_timeout);
    workers.drain(&stop, time.requests_until).await?;
    for helper in helpers {
        helper.await??;
    }
    let deadline = Deadline { until: time.logs_until, stop: stop.subscribe() };
    blocking::run(move || broker.topics.close(&deadline)).await?
}

/// Reads the memory limit and makes the settings fit it.
fn fit_memory(settings: &mut Settings) -> Option<MemoryLimit> {
    let limit = MemoryLimit::read();
    match &limit {
        Some(MemoryLimit { bytes, source }) => {
            settings.fit_memory(*bytes);
            let (requests, connections) =
                (settings.requests_in_flight_max_bytes, settings.connections_max);
            tracing::info!(memory_limit_bytes = bytes, source = %source.display(),
                queued.max.request.bytes = requests, max.connections = connections, "memory");
        }
        None => tracing::warn!(
            "cannot read the memory limit: peers that do not read their answers may use memory without one"
        ),
    }
    limit
}

/// How `drain.timeout.ms` is divided.
struct StopTime {
    /// When requests in flight are given up, so that time is left for the logs.
    requests_until: Instant,
    /// When syncing the logs ends. The rest is for writing down what was reached.
    logs_until: Instant,
}

impl StopTime {
    fn new(now: Instant, all: Duration) -> Self {
        StopTime { requests_until: now + all * 3 / 4, logs_until: now + all * 15 / 16 }
    }
}

/// The outcome of a start, for people and scripts.
#[derive(Debug)]
pub(crate) struct Ready {
    /// Where the server listens.
    pub(crate) listen: SocketAddr,
    /// What clients must use, as HOST:PORT.
    pub(crate) advertised: String,
    /// Where metrics answer.
    pub(crate) metrics: Option<SocketAddr>,
}

impl Ready {
    fn of(broker: &Broker, listen: SocketAddr, metrics: Option<SocketAddr>) -> Self {
        broker.metrics.set_ready(true);
        let (host, port) = &broker.cluster.advertised;
        let advertised = match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        tracing::info!(%listen, %advertised, workers = broker.settings.workers,
            partitions = broker.topics.partition_count(), path = %broker.settings.fetch_path, "serving");
        Ready { listen, advertised, metrics }
    }
}

/// What runs beside the workers, on the main thread's runtime, until a stop begins.
fn start_helpers(broker: &Arc<Broker>, stop: &watch::Sender<Stop>) -> Vec<Helper> {
    let (broker, watching) = (|| Arc::clone(broker), || stop.subscribe());
    vec![
        beside("housekeeping", stop, retention::run(broker(), watching())),
        beside("retention", stop, retention::retention(broker(), watching())),
        beside("checkpoints", stop, checkpoints::run(broker(), watching())),
        beside("reading bad places again", stop, read_errors::run(broker(), watching())),
        beside("the control of cold reads", stop, cold_control::run(broker(), watching())),
        beside("the scrubber", stop, scrubber::run(broker(), watching())),
        beside(
            "the groups' coordinator",
            stop,
            group_clock::run(Arc::clone(&broker().groups), watching()),
        ),
    ]
}

type Helper = tokio::task::JoinHandle<anyhow::Result<()>>;

/// Runs a task that should end by a stop only. One that ends by itself stops the server.
fn beside(
    name: &'static str,
    stop: &watch::Sender<Stop>,
    work: impl Future<Output = ()> + Send + 'static,
) -> Helper {
    let (stop, work) = (stop.clone(), tokio::spawn(work));
    tokio::spawn(async move {
        let outcome = work.await;
        if outcome.is_ok() && *stop.borrow() >= Stop::Drain {
            return Ok(());
        }
        tracing::error!("{name} failed: the server stops");
        stop.send_modify(|stop| *stop = (*stop).max(Stop::Drain));
        Err(anyhow::anyhow!("{name} failed"))
    })
}

/// Binds one listening socket a worker, all on the same address. Tries an address in use again for
/// a moment.
async fn listen(address: SocketAddr, workers: usize) -> anyhow::Result<Vec<TcpListener>> {
    let began = Instant::now();
    loop {
        match listen_now(address, workers) {
            Err(error)
                if error.kind() == ErrorKind::AddrInUse && began.elapsed() < PORT_IN_USE_MAX =>
            {
                tokio::time::sleep(PORT_REST).await;
            }
            listeners => return listeners.with_context(|| format!("cannot listen on {address}")),
        }
    }
}

fn listen_now(address: SocketAddr, workers: usize) -> std::io::Result<Vec<TcpListener>> {
    // With SO_REUSEPORT alone a second server would silently share the port. Bind once without it.
    drop(TcpListener::bind(address)?);
    let first = listen_one(address)?;
    let bound = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..workers {
        listeners.push(listen_one(bound)?);
    }
    Ok(listeners)
}

fn listen_one(address: SocketAddr) -> std::io::Result<TcpListener> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
    const BACKLOG: i32 = 1024;
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use super::*;

    #[tokio::test]
    async fn what_ends_by_itself_stops_the_server_and_what_ends_by_a_stop_is_well() {
        let ends: [Pin<Box<dyn Future<Output = ()> + Send>>; 2] =
            [Box::pin(async {}), Box::pin(async { panic!("half a server helps no client") })];
        for end in ends {
            let (stop, _) = watch::channel(Stop::No);
            let other = beside("other", &stop, {
                let mut stop = stop.subscribe();
                async move { wait_for(&mut stop, Stop::Drain).await }
            });
            let ending = beside("ending", &stop, end);
            assert!(other.await.unwrap().is_ok());
            assert_eq!(ending.await.unwrap().unwrap_err().to_string(), "ending failed");
        }
    }
}
