//! The thread of long requests ([`crate::api::long_requests`]): a runtime, and a ring that has no
//! kernel workers of its own.
//!
//! Begun by crew beside the workers, and ends after the last of them. It has no connection: replies
//! go back to the workers, which send them.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use bytes::BytesMut;
use penstock_ring::{BackendChoice, Ring, RingConfig, blocking};
use tokio::sync::{mpsc, oneshot, watch};

use crate::api;
use crate::api::context::{ApiLines, RequestContext};
use crate::api::long_requests::LongRequest;
use crate::broker::Broker;
use crate::log_budget::LogBudget;
use crate::stop::{Stop, wait_for};

/// Above the workers' 0, so that a worker with something to do runs first.
const NICE: i32 = 10;

/// What the thread begins with.
pub(crate) struct LongOrders {
    pub(crate) requests: mpsc::UnboundedReceiver<LongRequest>,
    pub(crate) stop: watch::Receiver<Stop>,
    /// Sent once the thread has all that it needs.
    pub(crate) begun: oneshot::Sender<()>,
    /// What to serve. It fails where the start is given up.
    pub(crate) broker: oneshot::Receiver<Arc<Broker>>,
}

/// Runs on the calling thread until no worker is left.
///
/// # Errors
/// The runtime or the ring cannot be made.
pub(crate) fn run(orders: LongOrders) -> anyhow::Result<()> {
    // Where it is not allowed the kernel divides its time evenly.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
    blocking::make_none_here();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot make a runtime")?;
    tokio::task::LocalSet::new().block_on(&runtime, serve(orders))
}

async fn serve(orders: LongOrders) -> anyhow::Result<()> {
    let LongOrders { mut requests, stop, begun, broker } = orders;
    let config = RingConfig { backend: BackendChoice::Epoll, ..RingConfig::default() };
    let ring = Ring::new(config).context("cannot make a ring")?;
    let _ = begun.send(());
    let Ok(broker) = broker.await else { return Ok(()) };
    broker.metrics.watch_ring(ring.counters());
    let lines = || LogBudget::new(Instant::now());
    let lines = ApiLines { append: lines(), fetch: lines() };
    let shared = Rc::new((broker, ring, stop, lines));
    while let Some(request) = requests.recv().await {
        let shared = Rc::clone(&shared);
        tokio::task::spawn_local(async move {
            let (broker, ring, stop, lines) = &*shared;
            let context = RequestContext { broker, ring, stop, lines, connection: None };
            answer(request, &context).await;
        });
    }
    Ok(())
}

/// Answers a request, unless its connection no longer waits, or the time of a stop is over. The
/// creation of thousands of topics may take minutes, and drain.timeout.ms bounds a stop.
async fn answer(request: LongRequest, context: &RequestContext<'_>) {
    let LongRequest { frame, received, mut answered } = request;
    let (mut buffer, mut stop) = (BytesMut::new(), context.stop.clone());
    let reply = tokio::select! {
        biased;
        () = answered.closed() => return,
        () = wait_for(&mut stop, Stop::Cut) => return,
        reply = api::answer(context, frame, received, &mut buffer) => reply,
    };
    // It may have ended meanwhile.
    let _ = answered.send(reply);
}
