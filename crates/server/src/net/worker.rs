//! A worker: one thread, one runtime, one ring, the connections it accepted.
//!
//! Begun by crew at start. Every worker listens on the same address (SO_REUSEPORT), so the kernel
//! spreads connections over the workers, and no connection ever changes its thread.

use std::cell::Cell;
use std::future::Future;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use penstock_ring::{PeerWatch, Ring, RingConfig, Socket};
use tokio::sync::{oneshot, watch};

use crate::api::context::{ApiLines, OfConnection, RequestContext};
use crate::api::long_requests::LongRequests;
use crate::broker::Broker;
use crate::broker::give_way::Shortage;
use crate::broker::send_memory::SMALL_BYTES;
use crate::log_budget::LogBudget;
use crate::net::connection;
use crate::net::loop_lag;
use crate::net::sweep::{Connections, PhaseLimits, Vitals};
use crate::stop::{Stop, wait_for};

/// How often the sweep looks for connections that take too long.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How often the sweep looks while requests wait for memory.
const SHORTAGE_INTERVAL: Duration = Duration::from_millis(100);

/// How long the listener rests after a failed accept, with no descriptor left for example.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// What the connections of one thread share.
pub(crate) struct Worker {
    pub(crate) broker: Arc<Broker>,
    pub(crate) ring: Ring,
    long: LongRequests,
    pub(crate) stop: watch::Receiver<Stop>,
    connections: Connections,
    /// Connections refused since the last sweep for lack of a place.
    refused: Cell<u64>,
    /// Log budget for connections that give way.
    shortage_lines: LogBudget,
    /// Log budget for peers that do not speak the protocol.
    pub(crate) stranger_lines: LogBudget,
    pub(crate) lines: ApiLines,
}

/// What a worker begins with.
pub(crate) struct Orders {
    pub(crate) ring: RingConfig,
    pub(crate) listener: TcpListener,
    /// Where requests go that would keep other connections waiting.
    pub(crate) long: LongRequests,
    pub(crate) stop: watch::Receiver<Stop>,
    /// Sent once the worker has all that it needs.
    pub(crate) begun: oneshot::Sender<()>,
    /// The broker to serve. Fails if the start is given up.
    pub(crate) broker: oneshot::Receiver<Arc<Broker>>,
}

/// Runs a worker on the calling thread until a stop is complete.
///
/// # Errors
/// The runtime or the ring is not to be had.
pub(crate) fn run(orders: Orders) -> anyhow::Result<()> {
    let Orders { ring, listener, long, stop, begun, broker } = orders;
    block_on(async move {
        let ring = Ring::new(ring).context("cannot make a ring")?;
        report_missing(&ring);
        let _ = begun.send(());
        let Ok(broker) = broker.await else { return Ok(()) };
        broker.metrics.watch_ring(ring.counters());
        let mut driver = tokio::task::spawn_local(ring.clone().drive());
        let connections = Connections::default();
        let lines = || LogBudget::new(Instant::now());
        let worker = Rc::new(Worker {
            broker,
            ring,
            long,
            stop,
            connections,
            refused: Cell::new(0),
            shortage_lines: lines(),
            stranger_lines: lines(),
            lines: ApiLines { append: lines(), fetch: lines() },
        });
        tokio::select! {
            () = worker.serve(listener) => {}
            // Without its driver the ring is dead, and so is everything that waits on it.
            ended = &mut driver => bail!("the ring failed: {ended:?}"),
        }
        worker.ring.stop().await;
        Ok(())
    })?
}

impl Worker {
    /// The context of a request that came on this socket.
    pub(crate) fn context<'a>(
        &'a self,
        socket: &'a Rc<Socket>,
        peer: &'a PeerWatch,
    ) -> RequestContext<'a> {
        let Worker { broker, ring, long, stop, lines, .. } = self;
        let connection = Some(OfConnection { socket, peer, long });
        RequestContext { broker, ring, connection, stop, lines }
    }

    async fn serve(self: &Rc<Self>, listener: TcpListener) {
        let mut stop = self.stop.clone();
        let accepting = tokio::task::spawn_local(Rc::clone(self).accept(listener));
        let sweeping = tokio::task::spawn_local(Rc::clone(self).sweep());
        let measuring = tokio::task::spawn_local(loop_lag::measure(Arc::clone(&self.broker)));
        wait_for(&mut stop, Stop::Drain).await;
        accepting.abort();
        measuring.abort();
        self.connections.stop_receiving();
        tokio::select! {
            () = self.until_no_connection() => {}
            () = wait_for(&mut stop, Stop::Cut) => {
                self.connections.shut_down();
                self.until_no_connection().await;
            }
        }
        sweeping.abort();
    }

    async fn accept(self: Rc<Self>, listener: TcpListener) {
        let listener = Rc::new(listener);
        loop {
            match self.ring.accept(&listener).await {
                Ok(stream) => self.admit(stream),
                Err(error) => {
                    if let Some(held_back) = self.stranger_lines.take(Instant::now()) {
                        tracing::warn!(%error, held_back, "cannot accept a connection");
                    }
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        }
    }

    /// Takes a new connection, or closes it at once when there are too many.
    fn admit(self: &Rc<Self>, stream: TcpStream) {
        // A peer that has already left has no address; its connection ends with the first receive.
        let peer = stream.peer_addr().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
        let settings = &self.broker.settings;
        let Some(place) = Place::take(&self.broker) else {
            self.refused.set(self.refused.get() + 1);
            if let Some(held_back) = self.stranger_lines.take(Instant::now()) {
                let limit = settings.connections_max;
                tracing::warn!(%peer, limit, held_back, "refused: max.connections");
            }
            return;
        };
        let send_memory = self.broker.memory.send.clone();
        let send_buffer_bytes = match send_memory {
            Some(_) => Some(SMALL_BYTES as usize / 2),
            None => settings.send_buffer_bytes,
        };
        let socket = match Socket::new(stream, send_buffer_bytes) {
            Ok(socket) => Rc::new(socket),
            Err(error) => return tracing::warn!(%peer, %error, "cannot set a connection up"),
        };
        let vitals = Vitals::new(socket, send_memory);
        self.connections.add(Rc::clone(&vitals));
        let listed = Listed { worker: Rc::clone(self), vitals, _place: place };
        tokio::task::spawn_local(async move {
            connection::serve(&listed.worker, &listed.vitals, peer).await;
        });
    }

    async fn sweep(self: Rc<Self>) {
        let limits = PhaseLimits::of(&self.broker.settings);
        let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
        let memory = &self.broker.memory;
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    self.connections.sweep(limits, Instant::now());
                    self.ring.sweep();
                    self.give_way(Shortage::Place, self.refused.take());
                    let missing_bytes = memory.send.as_ref().map_or(0, |m| m.take_missing_bytes());
                    self.give_way(Shortage::SendBuffer, missing_bytes);
                    self.give_way(Shortage::Answer, memory.answers.missing_bytes());
                }
                () = memory.uploads.shortage.notified() => {}
                () = tokio::time::sleep(SHORTAGE_INTERVAL), if memory.uploads.missing_bytes() > 0 => {}
            }
            self.give_way(Shortage::Upload, memory.uploads.missing_bytes());
        }
    }

    /// Ends the slowest connections of this worker until its part of `wanted` comes free.
    fn give_way(&self, shortage: Shortage, wanted: u64) {
        let Broker { memory, settings, metrics, .. } = &*self.broker;
        let idle_min = shortage.idle_min(wanted, memory.uploads.all_bytes());
        let wanted = match shortage {
            Shortage::Upload | Shortage::Answer => wanted.div_ceil(settings.workers as u64),
            // Each worker knows its own part.
            Shortage::Place | Shortage::SendBuffer => wanted,
        };
        let ended = self.connections.give_way(shortage, idle_min, wanted, Instant::now());
        if ended == 0 {
            return;
        }
        metrics.note_gave_way(shortage, ended as u64);
        if let Some(held_back) = self.shortage_lines.take(Instant::now()) {
            tracing::warn!(
                ended,
                short = shortage.name(),
                held_back,
                "closed the slowest connections: others wait"
            );
        }
    }

    async fn until_no_connection(&self) {
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        while !self.connections.is_empty() {
            ticks.tick().await;
        }
    }
}

/// A connection in the worker's list. It leaves the list when dropped, however its task ends: a
/// stop waits until the list is empty.
struct Listed {
    worker: Rc<Worker>,
    vitals: Rc<Vitals>,
    _place: Place,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.worker.connections.remove(&self.vitals);
    }
}

/// A connection's place among `max.connections`, given back when dropped.
struct Place(Arc<Broker>);

impl Place {
    fn take(broker: &Arc<Broker>) -> Option<Self> {
        let taken = &broker.connections;
        let limit = broker.settings.connections_max;
        taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < limit).then_some(n + 1))
            .ok()?;
        broker.metrics.connections.inc();
        Some(Place(Arc::clone(broker)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let taken: &AtomicUsize = &self.0.connections;
        taken.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.connections.dec();
    }
}

/// Logs once why io_uring is not there. The server runs without it.
fn report_missing(ring: &Ring) {
    static SAID: Once = Once::new();
    if let Some(error) = ring.unavailable() {
        SAID.call_once(|| {
            tracing::warn!(
                "no io_uring: {error}. Fetches go by sendfile, which waits for the disk \
                on the worker's thread"
            );
        });
    }
}

/// Runs `future` on tokio-uring's runtime, or on tokio's own where there is no io_uring.
fn block_on<F: Future>(future: F) -> anyhow::Result<F::Output> {
    if let Ok(runtime) = tokio_uring::Runtime::new(&tokio_uring::builder()) {
        return Ok(runtime.block_on(future));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot make a runtime")?;
    Ok(tokio::task::LocalSet::new().block_on(&runtime, future))
}
